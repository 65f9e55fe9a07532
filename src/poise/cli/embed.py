"""poise embed"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from poise.cli.shared import DataDir, Device, Imports, import_files
from poise.core.bars import console, drawn


def embed(
    run: Annotated[Path, typer.Argument(help="Run folder whose training kept complete checkpoints (keep_epochs).")],
    of: Annotated[
        Literal["adversarial", "features"],
        typer.Option(
            help=(
                "Adversarial images that each learner makes (Zipper, Fig. 6), or each learner's features of natural"
                " images."
            )
        ),
    ] = "adversarial",
    images: Annotated[int, typer.Option(min=3, help="Test images to embed.")] = 200,
    perplexity: Annotated[float, typer.Option(help="About how many neighbours each point has.")] = 30.0,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Embed the base learners' adversarial images in the plane (t-SNE), at every epoch kept; `poise report` then draws
    them.

    The images are made by the run's diagnosis' attack, else by PGD-20 within the threat that it is judged under.

    Examples:

      poise train generalist_digits 'keep_epochs=[29,30,31,32]' --out runs/generalist

      poise embed runs/generalist

      poise report runs/generalist
    """
    from poise.verbs.embed import embed as make

    import_files(imports)
    files = make(run, of=of, images=images, perplexity=perplexity, progress=drawn(), device=device, data_dir=data_dir)
    console.print(
        f"embedded {'features' if of == 'features' else 'adversarial images'}: {files}", markup=False, highlight=False
    )
