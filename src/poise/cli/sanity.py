"""poise sanity"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from poise.cli.shared import DataDir, Device, Imports, drawn, import_files, run_only, threat_typed
from poise.core.errors import SettingsError


def sanity(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Of a run: selected (the default), last, or 'epoch N'.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Your own checkpoint (.safetensors, or .pt read without executing code).")] = None,
    model: Annotated[
        str | None, typer.Option(help="With --weights: a network such as ResNet18, or module:function that builds yours.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="With --weights: a data set, folder or archive; by default CIFAR10.")] = None,
    threat: Annotated[Literal["Linf", "L2"] | None, typer.Option(help="By default that of the run's own protocol, else Linf.")] = None,
    epsilon: Annotated[
        str | None, typer.Option(help="By default that of the run's own protocol if it is in this norm, else 8/255 (L2: 128/255).")
    ] = None,
    surrogate: Annotated[list[Path] | None, typer.Option(help="Run folder of a network to transfer from; may be repeated.")] = None,
    first: Annotated[int, typer.Option(min=16, help="Only the first n test images.")] = 200,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A budget, such as queries=1000; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="With --weights: the verdict to write.")] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Say whether a classifier's accuracies under attack can be believed, check by check. Exit status 1 if a check finds a flaw.

    Examples:

      poise sanity runs/generalist

      poise sanity runs/soe --surrogate runs/at --first 500 --set queries=1000

      poise sanity --weights mine.pt --model mynets:build --data CIFAR10 --epsilon 8/255 --out mine.sanity.json
    """
    from rich.console import Console

    from poise.core.overrides import override
    from poise.core.verdicts import Verdict
    from poise.engine import Run
    from poise.engine.inspections import inspect_run, inspect_weights
    from poise.evaluation.sanity import Effort
    from poise.reports.sanity import verdict_terminal

    import_files(imports)
    if (weights is None) == (not runs):
        raise SettingsError("name run folders, or --weights FILE with --model")
    run_only(checkpoint, weights)
    if weights is None and (model is not None or data is not None or out is not None):
        raise SettingsError("--model, --data and --out go with --weights; a run knows its network and data and keeps its verdict")
    common: dict[str, Any] = {
        "first": first,
        "seed": seed,
        "effort": override(Effort(), settings or []),
        "surrogates": [Run.open(folder) for folder in surrogate or []],
        "device": device,
        "data_dir": data_dir,
        "progress": drawn(),
    }
    if weights is not None:
        if model is None:
            raise SettingsError("--weights needs --model: a network such as ResNet18, or module:function")
        made = out or weights.with_suffix(".sanity.json")
        paths = [inspect_weights(weights, model, data or "CIFAR10", made, threat=_threat(threat, epsilon, None), **common)]
    else:
        opened = [Run.open(folder) for folder in runs or []]
        paths = [inspect_run(run, checkpoint or "selected", threat=_threat(threat, epsilon, run), **common) for run in opened]
    verdicts = [Verdict.read(path) for path in paths]
    for verdict, path in zip(verdicts, paths, strict=True):
        Console().print(verdict_terminal(verdict))
        typer.echo(f"verdict: {path}", err=True)
    if any(verdict.judgement == "flaw" for verdict in verdicts):
        raise typer.Exit(1)


def _threat(name: str | None, epsilon: str | None, run: Any) -> Any:
    """The threat typed, completed from the run's own; None where nothing was typed."""
    from poise.engine.inspections import threat_of
    from poise.threats import Linf

    if name is None and epsilon is None:
        return None
    return threat_typed(name, epsilon, [threat_of(run.experiment) if run is not None else Linf()])
