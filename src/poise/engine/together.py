"""Finished runs judged as one ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from poise.core.distributed import join
from poise.core.errors import DataError, SettingsError
from poise.core.files import check_writable
from poise.data import Data
from poise.engine.devices import choose_device
from poise.engine.evaluations import KEPT, Measurement, journal_of, shown
from poise.engine.progress import Progress
from poise.engine.runs import Run
from poise.evaluation import Protocol, evaluate
from poise.evaluation.columns import Searching
from poise.evaluation.digests import digest_of_images
from poise.models import EnsembleModule
from poise.models.ensemble import Output


def evaluate_together(
    runs: Sequence[Run],
    output: Output,
    out: Path,
    protocol: Protocol,
    *,
    checkpoint: str = "selected",
    device: str = "auto",
    data_dir: Path | None = None,
    progress: Progress | None = None,
    again: bool = False,
    search: Searching = Searching(),
) -> Path:
    """Evaluate the runs' networks, of any architectures, as members of one ensemble; returns the path of the record, `out`.

    A record of the same weights, images and attacks at `out` is kept unless `again`. Under torchrun all ranks call this and share the work.
    Raises: SettingsError for fewer than two runs, or where `out` is a record of something else and not `again`; DataError for runs of
    different data.
    """
    form = output.replace("_", "-")  # as the command spells it
    if len(runs) < 2:
        raise SettingsError(f"--ensemble {form}: an ensemble has at least two members; name at least two run folders")
    world = join()
    progress = progress if progress is not None and world.leads else Progress()
    check_writable(out)
    data = world.in_turn(lambda: common_data(runs, data_dir))
    network = EnsembleModule([run.network(checkpoint) for run in runs], output).to(choose_device(device)).eval()
    names = [run.name for run in runs]
    members = [
        {"run": run.name, "group": run.group, "seed": run.experiment.seed, "sha256": run.facts(checkpoint)["sha256"]} for run in runs
    ]
    wanted = Measurement.of(network, protocol.images(data.test), protocol.attacks, search)
    wanted.check_free(out, again)
    command = f"poise evaluate --ensemble {form} {' '.join(str(run.path) for run in runs)} --out {out}"
    with shown(progress, f"{form} of {', '.join(names)}", command) as watch:
        kept = None if again else wanted.done(out)
        if world.decided(kept is not None and kept.notes.get("ensemble", {}).get("output") == form):  # all forms have the same weights
            progress.say(KEPT.format(out))
            return out
        evaluate(
            network,
            data,
            protocol,
            journal=journal_of(out.with_stem(f"{out.stem}-{form}"), wanted),
            out=out,
            watch=watch,
            world=world,
            search=search,
            named=f"{form} of {', '.join(names)}",
            checkpoint=checkpoint,
            group=f"{form} of {' '.join(run.group for run in runs)}",
            notes={"ensemble": {"output": form, "members": members}, "data": list(data.notes)},
        )
    return out


def common_data(runs: Sequence[Run], data_dir: Path | None = None) -> Data:
    """The data of all runs. Raises: DataError where their names, classes or test images differ."""
    first = runs[0]
    data = first.experiment.data.load(data_dir)
    for run in runs[1:]:
        if run.experiment.data == first.experiment.data:
            continue
        other = run.experiment.data.load(data_dir)
        for what, ours, theirs in (
            ("data set", data.name, other.name),
            ("classes", data.classes, other.classes),
            ("test images", digest_of_images(data.test), digest_of_images(other.test)),
        ):
            if ours != theirs:
                raise DataError(f"{run.path} and {first.path} have different {what}; an ensemble's members must have the same")
    return data
