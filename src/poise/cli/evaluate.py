"""poise evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from poise.cli.names import check_protocol, completed
from poise.cli.shared import (
    Cpus,
    DataDir,
    Device,
    Gpus,
    Imports,
    On,
    Ranks,
    Together,
    bytes_of,
    import_files,
    listed,
    print_table,
)
from poise.cli.subjects import asked_by_path, subjects
from poise.core.bars import drawn
from poise.core.errors import SettingsError

if TYPE_CHECKING:
    from poise.core.records import EvaluationRecord
    from poise.verbs.subject import Subject


def evaluate(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders, or folders of run folders.")] = None,
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
        str | None,
        typer.Option(
            help=(
                "A data set such as CIFAR10, a folder of images, or an .npz archive; by default the run's own, else"
                " CIFAR10."
            )
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            autocompletion=completed("protocols"),
            help="Protocol by name (poise list protocols) or a .json file of its settings; by default the run's own,"
            " 'standard' for --weights.",
        ),
    ] = None,
    threat: Annotated[
        str | None,
        typer.Option(
            help=(
                "Linf, L2 or L1, of a protocol named here, or several with commas, whose union the worst case is over;"
                " by default as for --epsilon."
            )
        ),
    ] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(
            help=(
                "Of a protocol named here, or several with commas, one for each of several threats; by default a run's"
                " for standard, gradient, strict, autoattack, soe-*, else its own."
            )
        ),
    ] = None,
    step_size: Annotated[
        str | None, typer.Option(help="Step size of a protocol named here; by default scaled with epsilon.")
    ] = None,
    first: Annotated[
        int | None,
        typer.Option(min=1, help="Only the first n test images; of soe-* that take 1,000 out of 10,000, of these."),
    ] = None,
    ensemble: Annotated[
        Together | None,
        typer.Option(help="Judge the runs together, as one ensemble with this output; goes with --out."),
    ] = None,
    corruptions: Annotated[
        Path | None,
        typer.Option(help="Instead of attacks: an unpacked CIFAR-10-C, CIFAR-100-C or Tiny-ImageNet-C folder."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the attacks' draws; by default that of a run's training, else 0.")
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help=(
                "An estimate with its interval instead, of every class too, in about two minutes: APGD-T on as many"
                " images as it needs. Its record lies apart."
            ),
        ),
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Evaluate anew what has a record already.")] = False,
    search_precision: Annotated[
        Literal["auto", "float32", "bfloat16", "fp32", "bf16"] | None,
        typer.Option(
            help=(
                "Of AutoAttack's search, by default float32; auto: bfloat16 where it is native. Verdicts are float32's."
            )
        ),
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Of AutoAttack's search, such as 4GiB; by default 70 % of a GPU's free.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The record of --weights, by default beside them, or of --ensemble.")
    ] = None,
    on: On = None,
    ranks: Ranks = 1,
    cpus: Cpus = 1,
    gpus: Gpus = 0.0,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Attack a trained classifier and write the record. What was stopped goes on when the same is typed again.

    Examples:

      poise evaluate runs/generalist

      poise evaluate runs/generalist --protocol zipper-linf

      poise evaluate runs/generalist --protocol standard --threat L2 --epsilon 128/255

      poise evaluate runs/generalist --protocol autoattack --search-precision auto --memory-limit 16GiB

      poise evaluate runs/seeds --protocol standard --epsilon 2/255,4/255,8/255

      poise evaluate runs/generalist --protocol autoattack --threat Linf,L2,L1 --epsilon 8/255,0.5,12

      poise evaluate runs/generalist --protocol autoattack --on ray --ranks 8 --gpus 1

      poise evaluate runs/generalist --fast

      poise evaluate runs/generalist --corruptions CIFAR-10-C

      poise evaluate --ensemble vote runs/a runs/b runs/c --out vote.json

      poise evaluate --ensemble vote runs/a runs/b --data my_photos --protocol autoattack --out photos.json

      poise evaluate --weights mine.pt --model mynets:build --data CIFAR10 --out mine.json

      poise evaluate --weights mine.pt --model ResNet18 --data my_photos --protocol autoattack
    """
    check_protocol(protocol)  # before anything heavy is imported
    from poise.core.distributed import join
    from poise.evaluation.columns import Searching
    from poise.verbs.corruptions import corruptions as corrupt
    from poise.verbs.evaluate import evaluate as judge

    import_files(imports)
    if (weights is None) == (not runs):
        raise SettingsError("name run folders, or --weights FILE with --model")
    if fast:
        given = {"protocol": protocol, "step-size": step_size, "first": first, "corruptions": corruptions, "on": on}
        given |= {"search-precision": search_precision, "memory-limit": memory_limit, "again": again or None}
        if superfluous := next((name for name, value in given.items() if value is not None), None):
            raise SettingsError(f"--fast chooses attack and images itself; leave --{superfluous} out")
        asked_about = subjects(runs, checkpoint, weights, model, data, ensemble, device, data_dir)
        _estimate(asked_about, threat=threat, epsilon=epsilon, seed=seed or 0, out=out)
        return
    epsilons = [
        name
        for name, value in (("threat", threat), ("epsilon", epsilon), ("step-size", step_size))
        if value is not None
    ]
    if epsilons and protocol is None and weights is None and corruptions is None:
        raise SettingsError(
            f"--{epsilons[0]} belongs to a protocol named here, and a run's own has its own; add --protocol standard"
        )
    search: dict[str, Any] = {} if search_precision is None else {"precision": search_precision}
    search |= {} if memory_limit is None else {"memory_limit": bytes_of(memory_limit, "--memory-limit")}
    if corruptions is not None and (protocol is not None or epsilons or search or seed is not None):
        raise SettingsError(
            "--corruptions is an evaluation of its own; leave --protocol and its settings out, and run it beside"
        )
    if corruptions is not None and data is not None and weights is None:
        raise SettingsError("--corruptions are those of the run's own test images; leave --data out")
    if ensemble is not None and (runs is None or out is None or model is not None):
        raise SettingsError("--ensemble takes run folders and --out FILE for the record; leave --model out")
    if weights is None and ensemble is None and (model is not None or out is not None):
        raise SettingsError(
            "--model goes with --weights, --out too or with --ensemble; a run knows its network and keeps its records"
        )
    if on is not None or ranks > 1:
        spread = {"on": on, "ranks": ranks, "cpus": cpus, "gpus": gpus, "imports": imports or []}
        if corruptions is not None:
            raise SettingsError("--corruptions are measured by one process; leave --on and --ranks out")
        scale = {"threat": listed(threat), "epsilon": listed(epsilon), "step_size": step_size}
        options_named = {"protocol": protocol, "first": first, "seed": seed, "again": again, "search": search, **scale}
        about = asked_by_path(runs, checkpoint, weights, model, data, ensemble)
        where = {"out": out, "device": device, "data_dir": data_dir}
        _spread([{**subject_options, **options_named, **where} for subject_options in about], **spread)
        return
    if (cpus, gpus) != (1, 0.0):
        raise SettingsError("--cpus and --gpus are of workers; add --on or --ranks")
    evaluations = []
    asked_about = subjects(runs, checkpoint, weights, model, data, ensemble, device, data_dir)
    progress = drawn(alike=[subject.title for subject in asked_about])
    for subject in asked_about:
        if corruptions is not None:
            evaluations.append(corrupt(subject, corruptions, first=first, out=out, again=again, progress=progress))
            continue
        options: dict[str, Any] = {
            "threat": listed(threat),
            "epsilon": listed(epsilon),
            "step_size": step_size,
        }
        how: dict[str, Any] = {"first": first, "seed": seed, "out": out, "again": again, "search": Searching(**search)}
        evaluations.append(judge(subject, protocol=protocol, **options, **how, progress=progress))
    if not join().leads:  # under torchrun the first rank speaks
        return
    print_table([evaluation.path for evaluation in evaluations])
    for evaluation in evaluations:
        _print_corruptions(evaluation)
        typer.echo(f"record: {evaluation.path}", err=True)


def _estimate(subjects: list[Subject], **how: Any) -> None:
    """Estimates, and where they were written."""
    from rich.console import Console
    from rich.table import Table

    from poise.core.printing import printable
    from poise.verbs.fast import estimate

    progress = drawn(alike=[subject.title for subject in subjects])
    for subject in subjects:
        result = estimate(subject, **how, progress=progress)
        heads, rows, notes = result.sheet()
        table = Table(title=printable(subject.title), title_justify="left", box=None, padding=(0, 2, 0, 0))
        for place, head in enumerate(heads):
            table.add_column(head, justify="left" if place == 0 else "right")
        for row in rows:
            table.add_row(*map(printable, row))
        Console().print(table)
        typer.echo("\n".join(notes))
        if result.written is not None:
            typer.echo(f"estimate: {result.written}", err=True)


def _spread(
    asked: list[dict[str, Any]], on: str | None, ranks: int, cpus: int, gpus: float, imports: list[Path]
) -> None:
    """Have workers evaluate, and print what they wrote."""
    from poise.sweeps.engines import engine_of
    from poise.sweeps.evaluating import evaluated
    from poise.sweeps.ledger import Needs

    how: dict[str, Any] = {"needs": Needs(ranks, cpus, gpus), "imports": [str(file) for file in imports]}
    records = evaluated(asked, engine_of(on), **how, progress=drawn())
    print_table(records)
    for record in records:
        typer.echo(f"record: {record}", err=True)


def _print_corruptions(record: EvaluationRecord) -> None:
    """The 15 x 5 accuracies of a record that has them."""
    from rich.console import Console
    from rich.table import Table

    corruptions = record.notes.get("corruptions")
    if corruptions is None:
        return
    table = Table(
        title=f"accuracy in percent by severity; mean {100 * corruptions['mean']:.2f}", box=None, padding=(0, 2, 0, 0)
    )
    table.add_column("corruption", style="cyan")
    for severity in range(1, 6):
        table.add_column(str(severity), justify="right")
    for name, row in corruptions["accuracies"].items():
        table.add_row(name, *(f"{100 * value:.2f}" for value in row))
    Console().print(table)
