"""poise pseudo-label"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.shared import DataDir, Device, Imports, import_files
from poise.cli.subjects import Asked, Checkpoint, Images, Model, subject_typed
from poise.core.bars import console, drawn


def pseudo_label(
    run: Asked,
    out: Annotated[Path, typer.Option(help="The .npz to write: image, label, confidence.")],
    images: Annotated[
        Path | None,
        typer.Option(
            help=(
                "An .npz, .npy or pickle of uint8 images, or a folder of image files; by default the run's training"
                " images."
            )
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    model: Model = None,
    data: Images = None,
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
    from poise.verbs.pseudo_label import pseudo_label as label

    import_files(imports)
    result = label(subject_typed(run, checkpoint, model, data, device, data_dir), images, out, progress=drawn())
    counts = ", ".join(f"{name} {count}" for name, count in list(result.per_class.items())[:20])
    typer.echo(f"{result.count} images, mean confidence {100 * result.confidence:.2f} %: {counts}")
    console.print(f"pseudo-labelled images: {out}", markup=False, highlight=False)
