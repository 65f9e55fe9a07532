"""poise evaluate"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from poise.cli.names import check_protocol
from poise.cli.shared import DataDir, Device, Imports, bytes_of, drawn, import_files, print_table, run_only, threat_typed
from poise.core.errors import SettingsError

if TYPE_CHECKING:
    from poise.engine import Experiment
    from poise.evaluation import Protocol
    from poise.evaluation.columns import Searching


Together = Literal["mean-probabilities", "mean-logits", "vote"]


@dataclass(frozen=True)
class _Asked:
    """What was typed, but for what is evaluated."""

    protocol: str | None
    threat: str | None
    epsilon: str | None
    step_size: str | None
    first: int | None
    corruptions: Path | None
    again: bool
    search: dict[str, Any]
    """Settings of `Searching`."""

    def __post_init__(self) -> None:
        if self.corruptions is not None and (self.protocol is not None or self.scaled or self.search):
            raise SettingsError("--corruptions is an evaluation of its own; leave --protocol and its settings out, and run it beside")

    @property
    def scaled(self) -> list[str]:
        """The settings of a protocol that were given."""
        return [name for name in ("threat", "epsilon", "step_size") if getattr(self, name) is not None]

    def check_named(self) -> None:
        """Raises: SettingsError for settings of a protocol where none is named."""
        if self.protocol is None and self.scaled:
            option = f"--{self.scaled[0].replace('_', '-')}"
            raise SettingsError(f"{option} belongs to a protocol named here, and a run's own has its own; add --protocol standard")


def evaluate(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Of a run: selected (the default), last, or 'epoch N'.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Your own checkpoint (.safetensors, or .pt read without executing code).")] = None,
    model: Annotated[
        str | None, typer.Option(help="With --weights: a network such as ResNet18, or module:function that builds yours.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A data set such as CIFAR10, a folder of images, or an .npz archive; by default the run's own, else CIFAR10."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Protocol by name (poise list protocols); by default the run's own, 'standard' for --weights.")
    ] = None,
    threat: Annotated[str | None, typer.Option(help="Linf or L2, of a protocol named here; by default as for --epsilon.")] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(help="Of a protocol named here; by default a run's for standard, gradient, strict, autoattack, soe-*, else its own."),
    ] = None,
    step_size: Annotated[str | None, typer.Option(help="Step size of a protocol named here; by default scaled with epsilon.")] = None,
    first: Annotated[
        int | None, typer.Option(min=1, help="Only the first n test images; of soe-* that take 1,000 out of 10,000, of these.")
    ] = None,
    ensemble: Annotated[
        Together | None, typer.Option(help="Judge the runs together, as one ensemble with this output; goes with --out.")
    ] = None,
    corruptions: Annotated[
        Path | None, typer.Option(help="Instead of attacks: an unpacked CIFAR-10-C, CIFAR-100-C or Tiny-ImageNet-C folder.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Evaluate anew what has a record already.")] = False,
    search_precision: Annotated[
        Literal["auto", "float32", "bfloat16", "fp32", "bf16"] | None,
        typer.Option(help="Of AutoAttack's search, by default float32; auto: bfloat16 where a GPU has it. Verdicts are float32's."),
    ] = None,
    memory_limit: Annotated[str | None, typer.Option(help="Of AutoAttack's search, such as 4GiB; by default 70 % of a GPU's free.")] = None,
    out: Annotated[Path | None, typer.Option(help="The record of --weights, by default beside them, or of --ensemble.")] = None,
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

      poise evaluate runs/generalist --corruptions CIFAR-10-C

      poise evaluate --ensemble vote runs/a runs/b runs/c --out vote.json

      poise evaluate --weights mine.pt --model mynets:build --data CIFAR10 --out mine.json

      poise evaluate --weights mine.pt --model ResNet18 --data my_photos --protocol autoattack
    """
    check_protocol(protocol)
    import_files(imports)
    if (weights is None) == (not runs):
        raise SettingsError("name run folders, or --weights FILE with --model")
    if ensemble is not None and (runs is None or out is None or model is not None or data is not None or corruptions is not None):
        raise SettingsError("--ensemble takes run folders and --out FILE for the record; leave --model, --data and --corruptions out")
    search: dict[str, Any] = {} if search_precision is None else {"precision": search_precision}
    search |= {} if memory_limit is None else {"memory_limit": bytes_of(memory_limit, "--memory-limit")}
    asked = _Asked(protocol, threat, epsilon, step_size, first, corruptions, again, search)
    where: dict[str, Any] = {"device": device, "data_dir": data_dir}
    run_only(checkpoint, weights)
    if ensemble is not None:
        assert runs is not None and out is not None
        paths = [_together(ensemble, runs, checkpoint or "selected", out, asked, where)]
    elif weights is not None:
        paths = [_weights(weights, model, data or "CIFAR10", out, asked, where)]
    elif model is not None or out is not None:
        raise SettingsError("--model goes with --weights, --out too or with --ensemble; a run knows its network and keeps its records")
    else:
        paths = _runs(runs or [], checkpoint or "selected", data, asked, where)
    from poise.core.distributed import join

    if not join().leads:  # under torchrun the first rank speaks
        return
    print_table(paths)
    for path in paths:
        _print_corruptions(path)
        typer.echo(f"record: {path}", err=True)


def _weights(weights: Path, model: str | None, data: str, out: Path | None, asked: _Asked, where: dict[str, Any]) -> Path:
    from poise.engine.own_weights import corrupt_weights, evaluate_weights

    chosen = _chosen(asked, "standard")
    if model is None:
        raise SettingsError("--weights needs --model: a network such as ResNet18, or module:function")
    if asked.corruptions is not None:
        out = out or weights.with_suffix(".corruptions.json")
        how: dict[str, Any] = {"first": asked.first, "again": asked.again, "progress": drawn(), **where}
        return corrupt_weights(weights, model, data, asked.corruptions, out, **how)
    assert chosen is not None
    use, search = _cut(chosen, asked.first), _searching(chosen, asked)
    return evaluate_weights(weights, model, data, use, out, again=asked.again, search=search, progress=drawn(), **where)


def _together(form: Together, runs: list[Path], checkpoint: str, out: Path, asked: _Asked, where: dict[str, Any]) -> Path:
    from poise.engine import Run
    from poise.engine.together import evaluate_together

    asked.check_named()
    opened = [Run.open(folder) for folder in runs]
    found = [(run.name, _chosen(asked, None, run.experiment) or run.experiment.protocol) for run in opened]
    if any(protocol != found[0][1] for _, protocol in found):
        each = ", ".join(f"{name} by {protocol.name}" for name, protocol in found)
        raise SettingsError(f"the runs are not evaluated by the same protocol ({each}); name one with --protocol, or its --epsilon too")
    use = _cut(found[0][1], asked.first)
    how: dict[str, Any] = {"again": asked.again, "search": _searching(use, asked), "progress": drawn(), **where}
    return evaluate_together(opened, form.replace("-", "_"), out, use, checkpoint=checkpoint, **how)  # type: ignore[arg-type]


def _runs(runs: list[Path], checkpoint: str, data: str | None, asked: _Asked, where: dict[str, Any]) -> list[Path]:
    from poise.core.distributed import join
    from poise.engine import Run
    from poise.engine.evaluations import corrupt_run, evaluate_run
    from poise.engine.own_weights import data_named

    progress = drawn()
    asked.check_named()
    if asked.corruptions is not None and data is not None:
        raise SettingsError("--corruptions are those of the run's own test images; leave --data out")
    other = join().in_turn(lambda: data_named(data, where["data_dir"])) if data is not None else None
    paths = []
    for run in [Run.open(folder) for folder in runs]:
        if asked.corruptions is not None:
            paths.append(corrupt_run(run, asked.corruptions, checkpoint, first=asked.first, progress=progress, **where))
            continue
        use = _cut(_chosen(asked, None, run.experiment) or run.experiment.protocol, asked.first)
        how: dict[str, Any] = {"again": asked.again, "search": _searching(use, asked), **where}
        paths.append(evaluate_run(run, checkpoint, protocol=use, other=other, progress=progress, **how))
    return paths


def _chosen(asked: _Asked, default: str | None, experiment: Experiment | None = None) -> Protocol | None:
    """The protocol that was named, scaled as asked; the default where none was.

    One that is meant for a network's own threat is scaled to that which the experiment is evaluated under.
    """
    from poise.engine.inspections import threat_of
    from poise.evaluation import PROTOCOLS, named
    from poise.evaluation.soe_protocols import TRANSFER

    name = asked.protocol or default
    if name is None:
        return None
    if name not in (*PROTOCOLS, *TRANSFER):
        raise SettingsError(f"--protocol {name!r} is unknown; must be one of {', '.join(PROTOCOLS)}")
    chosen = named(name)
    of_run = [threat_of(experiment)] if chosen.general and experiment is not None else []
    made = threat_typed(asked.threat, asked.epsilon, [*of_run, *(threat for threat, _ in chosen.scales)])
    return chosen.at(made, asked.step_size)


def _searching(protocol: Protocol, asked: _Asked) -> Searching:
    """Raises: SettingsError for settings of a search that the protocol has not."""
    from poise.attacks import AutoAttack
    from poise.attacks.autoattack.compact import CompactAttack
    from poise.evaluation.columns import Searching

    if asked.search and not any(isinstance(attack, AutoAttack | CompactAttack) for attack in protocol.attacks):
        option = "--search-precision" if "precision" in asked.search else "--memory-limit"
        raise SettingsError(f"{option} is of AutoAttack and its components, of which protocol {protocol.name!r} has none")
    return Searching(**asked.search)


def _cut(protocol: Protocol, first: int | None) -> Protocol:
    return protocol if first is None else dataclasses.replace(protocol, first=first, name=f"{protocol.name}-first{first}")


def _print_corruptions(path: Path) -> None:
    """The 15 x 5 accuracies of a record that has them."""
    from rich.console import Console
    from rich.table import Table

    from poise.core.records import EvaluationRecord

    found = EvaluationRecord.read(path).notes.get("corruptions")
    if found is None:
        return
    table = Table(title=f"accuracy in percent by severity; mean {100 * found['mean']:.2f}", box=None, padding=(0, 2, 0, 0))
    table.add_column("corruption", style="cyan")
    for severity in range(1, 6):
        table.add_column(str(severity), justify="right")
    for name, row in found["accuracies"].items():
        table.add_row(name, *(f"{100 * value:.2f}" for value in row))
    Console().print(table)
