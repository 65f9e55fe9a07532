"""poise attack"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.shared import DataDir, Device, Imports, drawn, import_files


def attack(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    name: Annotated[str, typer.Argument(help="The attack, such as PGD (poise list attacks).")] = "PGD",
    settings: Annotated[list[str] | None, typer.Argument(help="Its settings, such as steps=50 threat.epsilon=4/255.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the adversarial images go; by default a file in RUN/adversarial.")] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Only the first n test images.")] = None,
    checkpoint: Annotated[str, typer.Option(help="selected, last, or 'epoch N'.")] = "selected",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Make adversarial images of the test set with one attack and save them.

    Examples:

      poise attack runs/at PGD steps=50 threat.epsilon=0.2 step_size=0.02

      poise attack runs/at CW --first 100
    """
    from poise.attacks import Attack
    from poise.core.overrides import override
    from poise.core.settings import from_json
    from poise.engine import Run
    from poise.engine.adversarial import adversarial_path, save_adversarial

    import_files(imports)
    opened = Run.open(run)
    made = override(from_json(Attack, {"type": name}), settings or [])  # type: ignore[type-abstract]
    path = out or adversarial_path(opened, made, checkpoint, first, seed)
    natural, robust, count = save_adversarial(
        opened, made, path, which=checkpoint, first=first, seed=seed, device=device, data_dir=data_dir, progress=drawn()
    )
    typer.echo(f"{made.name} on {count} images: natural {100 * natural:.2f} %, robust {100 * robust:.2f} %")
    typer.echo(f"adversarial images: {path}", err=True)
