"""poise evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.shared import DataDir, Device, Imports, drawn, import_files, print_table
from poise.core.errors import SettingsError


def evaluate(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders.")] = None,
    checkpoint: Annotated[str, typer.Option(help="selected, last, or 'epoch N'.")] = "selected",
    weights: Annotated[Path | None, typer.Option(help="Your own checkpoint (.safetensors, or .pt read without executing code).")] = None,
    model: Annotated[
        str | None, typer.Option(help="With --weights: a network such as ResNet18, or module:function that builds yours.")
    ] = None,
    data: Annotated[str, typer.Option(help="With --weights: the data set, such as CIFAR10.")] = "CIFAR10",
    protocol: Annotated[str | None, typer.Option(help="Protocol by name; by default the run's own, 'standard' for --weights.")] = None,
    epsilon: Annotated[str | None, typer.Option(help="Linf epsilon of a protocol named here; by default 8/255.")] = None,
    step_size: Annotated[str | None, typer.Option(help="Step size of a protocol named here; by default 2/255.")] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Only the first n test images.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --weights: the record to write.")] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Attack a trained classifier and write the record.

    Examples:

      poise evaluate runs/generalist

      poise evaluate runs/generalist --protocol standard --epsilon 8/255

      poise evaluate --weights mine.pt --model mynets:build --data CIFAR10 --out mine.json
    """
    import dataclasses

    from poise.core.settings import from_json
    from poise.engine import Run
    from poise.engine.evaluations import evaluate_run, evaluate_weights
    from poise.evaluation import Protocol, standard, strict
    from poise.threats import Linf

    import_files(imports)
    if (weights is None) == (not runs):
        raise SettingsError("name run folders, or --weights FILE with --model")
    named = {"standard": standard, "strict": strict}
    if protocol is not None and protocol not in named:
        raise SettingsError(f"--protocol {protocol!r} is unknown; must be one of {', '.join(named)}")
    chosen: Protocol | None = None
    if protocol is not None or weights is not None:
        threat, size = Linf(epsilon=epsilon or "8/255"), step_size or "2/255"  # type: ignore[arg-type]  # checked by the settings
        chosen = named[protocol or "standard"](threat, size)  # type: ignore[arg-type]
    elif epsilon is not None or step_size is not None:
        raise SettingsError(
            "--epsilon and --step-size belong to a protocol named here, and a run's own has its own; add --protocol standard"
        )
    if weights is None and (model is not None or out is not None):
        raise SettingsError("--model and --out go with --weights; a run knows its network and keeps its records")
    progress = drawn()
    if weights is not None:
        if model is None:
            raise SettingsError("--weights needs --model: a network such as ResNet18, or module:function")
        assert chosen is not None
        if first is not None:
            chosen = dataclasses.replace(chosen, first=first)
        path = evaluate_weights(
            weights, model, data, chosen, out or weights.with_suffix(".record.json"), device=device, data_dir=data_dir, progress=progress
        )
        print_table([path])
        typer.echo(f"record: {path}", err=True)
        return
    paths = []
    for folder in runs or []:
        run = Run.open(folder)
        use = chosen or run.experiment.protocol
        if first is not None:
            use = from_json(Protocol, {**_plain(use), "first": first, "name": f"{use.name}-first{first}"})
        paths.append(evaluate_run(run, checkpoint, device=device, data_dir=data_dir, protocol=use, progress=progress))
    print_table(paths)
    for path in paths:
        typer.echo(f"record: {path}", err=True)


def _plain(protocol: object) -> dict[str, object]:
    from poise.core.settings import to_json

    return to_json(protocol)
