"""poise attack"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.shared import DataDir, Device, Imports, import_files
from poise.cli.subjects import Asked, Checkpoint, Images, Model, subject_typed
from poise.core.bars import drawn


def attack(
    run: Asked,
    name: Annotated[str, typer.Argument(help="The attack, such as PGD (poise list attacks).")] = "PGD",
    settings: Annotated[
        list[str] | None, typer.Argument(help="Its settings, such as steps=50 threat.epsilon=4/255.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the adversarial images go; by default a file in RUN/adversarial.")
    ] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Only the first n test images.")] = None,
    checkpoint: Checkpoint = None,
    model: Model = None,
    data: Images = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Make adversarial images of the test set with one attack and save them.

    Examples:

      poise attack runs/at PGD steps=50 threat.epsilon=0.2 step_size=0.02

      poise attack runs/at CW --first 100

      poise attack runs/at Collaborative threat.epsilon=16/255

      poise attack mine.pt PGD --model ResNet18 --data CIFAR10
    """
    from poise.attacks import Attack
    from poise.core.overrides import override
    from poise.core.settings import from_json
    from poise.verbs.attack import attack as make

    import_files(imports)
    by = override(from_json(Attack, {"type": name}), settings or [])  # type: ignore[type-abstract]
    subject = subject_typed(run, checkpoint, model, data, device, data_dir)
    result = make(subject, by, first=first, seed=seed, out=out, progress=drawn())
    numbers = f"natural {100 * result.natural_accuracy:.2f} %, {result.kind} {100 * result.accuracy:.2f} %"
    losses = "; ".join(f"{name} {mean:.4f} ± {std:.4f}" for name, (mean, std) in result.cross_entropy.items())
    typer.echo(f"{by.name} on {len(result.split)} images: {numbers}")
    typer.echo(f"cross-entropy, mean ± standard deviation over images: {losses}")
    typer.echo(f"adversarial images: {result.path}", err=True)
