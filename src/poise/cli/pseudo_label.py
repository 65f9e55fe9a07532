"""poise pseudo-label"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.shared import DataDir, Device, Imports, console, drawn, import_files


def pseudo_label(
    run: Annotated[Path, typer.Argument(help="Run folder of the model that labels.")],
    out: Annotated[Path, typer.Option(help="The .npz to write: image, label, confidence.")],
    images: Annotated[
        Path | None,
        typer.Option(help="An .npz, .npy or pickle of uint8 images, or a folder of image files; by default the run's training images."),
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="selected, last, or 'epoch N'.")] = "selected",
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Label images by a trained model, for training on them as extra data.

    Examples:

      poise pseudo-label runs/nt --images unlabelled.npz --out pool.npz

      poise pseudo-label runs/nt --out pool.npz

      poise train at_digits 'method.extra={"type": "NpzPool", "path": "pool.npz"}'
    """
    from poise.engine import Run
    from poise.engine.pseudo_labels import pseudo_label as label

    import_files(imports)
    done = label(Run.open(run), images, out, which=checkpoint, device=device, data_dir=data_dir, progress=drawn())
    counts = ", ".join(f"{name} {count}" for name, count in list(done.per_class.items())[:20])
    typer.echo(f"{done.count} images, mean confidence {100 * done.confidence:.2f} %: {counts}")
    console.print(f"pseudo-labelled images: {out}", markup=False, highlight=False)
