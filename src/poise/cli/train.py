"""poise train"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poise.cli.names import check_recipe
from poise.cli.shared import NO_SMALL_VARIANT, DataDir, Device, Imports, import_files, print_table
from poise.core.bars import drawn
from poise.core.errors import RunError, SettingsError

if TYPE_CHECKING:
    from poise.engine import Experiment, Run

SEEDS = ".seeds.json"
"""In the folder of several seeds: how many were asked for, and of what, so that --resume begins those that are not
there yet.
"""


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name, or a settings file such as runs/x/experiment.json.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Argument(help="Settings to change, as dotted.path=value.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make; by default runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Run (or go on with) this many seeds, in OUT/seed-0, OUT/seed-1, ...")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The recipe's small variant, which finishes on two cores.")
    ] = False,
    until: Annotated[
        int | None, typer.Option(min=1, help="Pause once this epoch is trained; --resume goes on exactly from there.")
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="Evaluate on the test set at the end.")] = True,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Train a classifier.

    Examples:

      poise train generalist_digits --out runs/generalist

      poise train generalist_digits method.robust=TRADES method.robust.beta=6 epochs=30

      poise train generalist_digits --seeds 3 --out runs/generalist

      poise train --resume runs/generalist

      poise train at_digits --import my_objective.py method.objective=MyObjective

      poise train generalist_digits 'method.others=[{"name": "l2", "policy": "AT"}]' method.others.0.inner.threat=L2
    """
    if recipe is not None:
        check_recipe(recipe, imports)
    from poise import engine
    from poise.core.distributed import join, leave
    from poise.core.overrides import override
    from poise.core.settings import read_file
    from poise.recipes import experiment as of_recipe
    from poise.verbs.evaluate import evaluate as judge

    digests = import_files(imports)
    where: dict[str, Any] = {"device": device, "data_dir": data_dir}
    world = join()
    if resume is not None and (recipe is not None or settings or seeds or quick or out is not None):
        raise SettingsError(
            "--resume takes settings, seeds and place from the folder; give no recipe, settings, --seeds, --quick or"
            " --out"
        )
    if resume is not None:
        planned = world.in_turn(lambda: _plan(resume))
        experiment, seeds, out = (*planned, resume) if planned is not None else (None, None, resume)
    elif recipe is None:
        raise SettingsError("name a recipe (poise list recipes), a settings file, or --resume RUN")
    elif seeds is not None and any(setting.partition("=")[0].strip() == "seed" for setting in settings or []):
        raise SettingsError("seed=... and --seeds: one of the two; --seeds counts from 0")
    else:
        if quick and recipe.endswith(".json"):
            raise SettingsError(NO_SMALL_VARIANT)
        made = read_file(engine.Experiment, Path(recipe)) if recipe.endswith(".json") else of_recipe(recipe, quick)
        experiment = override(made, settings or [])
        out = out or Path("runs") / experiment.name
    alike = [f"{experiment.name}, seed {number}" for number in range(seeds or 0)] if experiment is not None else []
    where["progress"] = drawn(("selected", "last") if evaluate else (), alike)
    training: dict[str, Any] = {**where, "imports": digests, "until": until}
    if experiment is None:
        seeded = sorted(
            (path.parent for path in out.glob("seed-*/experiment.json")), key=lambda path: (len(path.name), path.name)
        )
        runs = [engine.resume(path, **training) for path in seeded or [out]]
    elif seeds is None:
        runs = [engine.train(experiment, out, **training)]
    else:
        runs = _seeds(experiment, out, seeds, **training)
    paused = [run for run in runs if not engine.finished(run)]
    for run in paused:
        if world.leads:
            typer.echo(f"paused after epoch {until}; to go on: poise train --resume {run.path}", err=True)
    runs = [run for run in runs if run not in paused]
    for run in runs:
        if evaluate:
            for which in ("selected", "last"):
                judge(run, checkpoint=which, **where)
        if world.leads:
            typer.echo(f"run folder: {run.path}", err=True)
    leave()
    if evaluate and world.leads and runs:
        print_table([run.path for run in runs])


def _seeds(experiment: Experiment, out: Path, seeds: int, **how: Any) -> list[Run]:
    """The experiment with each seed, begun or gone on with. Raises: RunError where one was begun with other
    settings.
    """
    from poise import engine
    from poise.core.distributed import join
    from poise.core.overrides import override

    join().led(lambda: _write_plan(out, experiment, seeds, list(how["imports"])))
    seeded = [(out / f"seed-{number}", override(experiment, {"seed": str(number)})) for number in range(seeds)]
    return [engine.train_or_resume(each, path, **how) for path, each in seeded]


def _write_plan(folder: Path, experiment: Experiment, seeds: int, imports: list[str]) -> None:
    """Raises: RunError where a seed of another experiment was begun in the folder."""
    from poise.core.files import write_text
    from poise.core.settings import to_json

    planned = _plan(folder) if any(folder.glob("seed-*/experiment.json")) else None
    if planned is not None and planned[0] != experiment:
        raise RunError(
            f"{folder} was started with other settings; give another --out, or go on with it: poise train --resume"
            f" {folder}"
        )
    most = max(seeds, planned[1] if planned is not None else 0)
    write_text(
        folder / SEEDS, json.dumps({"seeds": most, "imports": imports, "experiment": to_json(experiment)}, indent=1)
    )


def _plan(folder: Path) -> tuple[Experiment, int] | None:
    """The experiment and the number of seeds that a folder of several was made for; None for a run's own folder.

    Raises: RunError for a damaged file.
    """
    from poise.core.documents import parse
    from poise.core.files import read_text
    from poise.core.settings import from_json
    from poise.engine import Experiment
    from poise.engine.runs import own_code

    if not (folder / SEEDS).is_file():
        return None
    try:
        told = parse(read_text(folder / SEEDS))
        settings, seeds, imports = told["experiment"], int(told["seeds"]), list(told["imports"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / SEEDS} is damaged: {error}") from None
    with own_code(imports):
        return from_json(Experiment, settings), seeds
