"""poise sanity"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from poise.cli.shared import DataDir, Device, Imports, Together, import_files
from poise.cli.subjects import subjects
from poise.core.bars import drawn
from poise.core.errors import SettingsError


def sanity(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Of a run: selected (the default), last, or 'epoch N'.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Your own checkpoint (.safetensors, or .pt read without executing code).")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="With --weights: a network such as ResNet18, or module:function that builds yours."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="With --weights: a data set, folder or archive; by default CIFAR10.")
    ] = None,
    threat: Annotated[
        Literal["Linf", "L2", "L1"] | None, typer.Option(help="By default that of the run's own protocol, else Linf.")
    ] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(
            help="By default that of the run's own protocol if it is in this norm, else 8/255 (L2: 128/255, L1: 12)."
        ),
    ] = None,
    ensemble: Annotated[
        Together | None, typer.Option(help="Inspect the runs together, as one ensemble with this output.")
    ] = None,
    surrogate: Annotated[
        list[Path] | None, typer.Option(help="Run folder of a network to transfer from; may be repeated.")
    ] = None,
    first: Annotated[int, typer.Option(min=16, help="Only the first n test images.")] = 200,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A budget, such as queries=1000; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The verdict to write, of --weights by default beside them, or of --ensemble.")
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Say whether a classifier's accuracies under attack can be believed, check by check. Exit status 1 if a check
    finds a flaw.

    Examples:

      poise sanity runs/generalist

      poise sanity runs/soe --surrogate runs/at --first 500 --set queries=1000

      poise sanity --weights mine.pt --model mynets:build --data CIFAR10 --epsilon 8/255 --out mine.sanity.json
    """
    from rich.console import Console

    from poise.core.overrides import override
    from poise.evaluation.sanity import Effort
    from poise.reports.sanity import verdict_terminal
    from poise.verbs.sanity import sanity as inspect

    import_files(imports)
    if (weights is None) == (not runs):
        raise SettingsError("name run folders, or --weights FILE with --model")
    if weights is None and ensemble is None and (model is not None or data is not None or out is not None):
        raise SettingsError(
            "--model, --data and --out go with --weights; a run knows its network and data and keeps its verdict"
        )
    options: dict[str, Any] = {"threat": threat, "epsilon": epsilon, "first": first, "seed": seed, "out": out}
    options |= {"effort": override(Effort(), settings or []), "surrogates": surrogate or [], "progress": drawn()}
    answers = [
        inspect(subject, **options)
        for subject in subjects(runs, checkpoint, weights, model, data, ensemble, device, data_dir)
    ]
    for findings in answers:
        Console().print(verdict_terminal(findings))
        if findings.written is not None:
            typer.echo(f"verdict: {findings.path}", err=True)
    if any(findings.judgement == "flaw" for findings in answers):
        raise typer.Exit(1)
