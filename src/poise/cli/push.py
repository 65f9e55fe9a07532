"""poise push"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.shared import Imports, import_files
from poise.cli.subjects import Checkpoint


def push(
    run: Annotated[Path, typer.Argument(help="Run folder, or zoo:NAME.")],
    to: Annotated[str, typer.Argument(help="owner/name on the Hugging Face hub, or folder:PATH.")],
    good_for: Annotated[str, typer.Option(help="What the card says it is good for.")] = "",
    not_for: Annotated[str, typer.Option(help="What the card says it is not for.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Make a repository that others do not see.")] = False,
    checkpoint: Checkpoint = None,
    imports: Imports = None,
) -> None:
    """Hand an evaluated network to others: weights, what builds it, a card made of its record.

    Examples:

      poise push runs/generalist me/generalist-digits

      poise push zoo:at_mnist_slim folder:at_mnist
    """
    from poise.verbs.push import push as hand_over

    import_files(imports)
    address = hand_over(run, to, good_for=good_for, not_for=not_for, private=private, checkpoint=checkpoint)
    typer.echo(f'pushed; elsewhere: poise.load("{address}"), or poise evaluate {address}')
