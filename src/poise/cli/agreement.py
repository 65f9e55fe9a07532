"""poise agreement"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from poise.cli.names import check_protocol
from poise.cli.shared import DataDir, Device, Imports, import_files, listed
from poise.cli.subjects import Asked, Checkpoint, Images, Model, subject_typed
from poise.core.bars import drawn
from poise.core.errors import SettingsError


def agreement(
    a: Asked,
    b: Asked,
    checkpoint: Checkpoint = None,
    model: Model = None,
    data: Images = None,
    protocol: Annotated[
        str | None, typer.Option(help="By default that of both runs, if it is one; of weights 'standard'.")
    ] = None,
    threat: Annotated[str | None, typer.Option(help="Linf, L2 or L1, of a protocol named here.")] = None,
    epsilon: Annotated[str | None, typer.Option(help="Of a protocol named here.")] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Only the first n test images.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the attacks' draws; by default that of each run's training.")
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="Name the images on which they differ, too.")] = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Say on how many images two classifiers differ, natural and under each attack, and which of them is right there.

    Each is attacked by itself; evaluations that are there already are used.

    Examples:

      poise agreement runs/at runs/trades

      poise agreement runs/at mine.pt --model ResNet18 --protocol gradient --epsilon 8/255 --first 500
    """
    from rich.console import Console
    from rich.table import Table

    from poise.verbs.agreement import agreement as compare

    check_protocol(protocol)
    import_files(imports)
    if model is not None and not (a.is_file() or b.is_file()):
        raise SettingsError("--model goes with weights in a file; a run knows its network")
    pair = [
        subject_typed(path, checkpoint, model if path.is_file() else None, data, device, data_dir) for path in (a, b)
    ]
    options: dict[str, Any] = {
        "protocol": protocol,
        "threat": listed(threat),
        "epsilon": listed(epsilon),
        "first": first,
        "seed": seed,
    }
    comparison = compare(pair[0], pair[1], **options, progress=drawn())
    names, rows, notes = comparison.sheet()
    table = Table(*names, box=None, padding=(0, 2, 0, 0), caption="\n".join(notes), caption_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    for column in comparison.columns if images else []:
        typer.echo(f"{column}: {', '.join(map(str, comparison.differing(column))) or 'none'}")
