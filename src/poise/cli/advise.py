"""poise advise"""

from __future__ import annotations

from typing import Annotated

import typer

from poise.cli.shared import DataDir, Device, Imports, import_files


def advise(
    data: Annotated[str, typer.Argument(help="A data set such as CIFAR10, a folder of images, or an .npz archive.")],
    network: Annotated[str | None, typer.Option(help="A network such as ResNet18 (poise list networks).")] = None,
    hours: Annotated[float | None, typer.Option(help="At most so many hours of training on this device.")] = None,
    threat: Annotated[str | None, typer.Option(help="Linf, L2 or L1; by default what most recipes train for.")] = None,
    epsilon: Annotated[str | None, typer.Option(help="The largest change, such as 8/255.")] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Say which recipe to train, what it is known to reach, from where one knows it, and what it costs here.

    Examples:

      poise advise Digits --hours 0.1

      poise advise CIFAR10 --network ResNet18 --hours 12

      poise advise my_photos --hours 2
    """
    from rich.console import Console
    from rich.table import Table

    from poise.core.printing import printable
    from poise.verbs.advise import advise as ask

    import_files(imports)
    how = {"hours": hours, "threat": threat, "epsilon": epsilon, "device": device, "data_dir": data_dir}
    heads, rows, notes = ask(data, network, **how).sheet()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    Console().print(table)
    typer.echo("\n".join(map(printable, notes)))
