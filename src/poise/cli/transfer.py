"""poise transfer"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from poise.cli.shared import DataDir, Device, Imports, import_files
from poise.cli.subjects import run_folders
from poise.core.bars import drawn


def transfer(
    targets: Annotated[list[Path], typer.Argument(help="Run folders of the networks to be judged.")],
    surrogate: Annotated[
        list[Path], typer.Option(help="Run folder of a network the attacks are made on; may be repeated.")
    ],
    protocol: Annotated[
        str, typer.Option(help="soe-transfer-3 or soe-transfer-30: the attacks made on each surrogate.")
    ] = "soe-transfer-3",
    epsilon: Annotated[
        str | None, typer.Option(help="Linf epsilon, by default the targets' own; the step size is a fifth of it.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the adversarial images, which are found again, and for the matrix.")
    ] = Path("transfer"),
    compat: Annotated[
        bool, typer.Option("--compat-cw", help="The CW loss as in the code behind the published tables.")
    ] = False,
    subset: Annotated[
        bool, typer.Option(help="Of 10,000 test images, only the 1,000 of the published evaluations.")
    ] = True,
    first: Annotated[int | None, typer.Option(min=1, help="Only the first n of these.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of every attack in place of 100.")] = None,
    sgm: Annotated[bool, typer.Option(help="SGM too; it needs surrogates of residual blocks.")] = True,
    every_attack: Annotated[
        bool, typer.Option("--every-attack", help="A column for each attack, not for each surrogate.")
    ] = False,
    checkpoint: Annotated[
        str, typer.Option(help="selected, last, or 'epoch N', of surrogates and targets.")
    ] = "selected",
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Make adversarial images on surrogates, or take those made before, show them to targets, and print who is right.

    A target's record goes into its run folder; an image counts only if the target is right under every attack.

    Examples:

      poise transfer runs/soe runs/adp --surrogate runs/baseline3

      poise transfer runs/soe runs/adp --surrogate runs/baseline3 --epsilon 0.03

      poise transfer runs/soe runs/adp --surrogate runs/s3 --surrogate runs/s5 --surrogate runs/s8 --protocol
      soe-transfer-30
    """
    from poise.reports.heatmap import matrix_terminal
    from poise.reports.terminal import show
    from poise.verbs.transfer import transfer as shown_to

    import_files(imports)
    how: dict[str, Any] = {
        "protocol": protocol,
        "epsilon": epsilon,
        "out": out,
        "compat": compat,
        "subset": subset,
        "first": first,
    }
    how |= {
        "steps": steps,
        "sgm": sgm,
        "every_attack": every_attack,
        "progress": drawn(),
        "checkpoint": checkpoint,
        "device": device,
    }
    result = shown_to(run_folders(targets), surrogate, data_dir=data_dir, **how)
    for record in result.records.values():
        typer.echo(f"record: {record.path}", err=True)
    for line in result.gain:
        typer.echo(line)
    show(matrix_terminal(result.matrix))
    typer.echo(f"matrix: {result.path}", err=True)
    typer.echo(f"heat map: {result.path.with_suffix('.svg')}", err=True)
