"""poise train"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poise.cli.names import check_recipe, completed
from poise.cli.shared import NO_SMALL_VARIANT, DataDir, Device, Imports, code_of, import_files, print_table
from poise.core.bars import drawn
from poise.core.errors import Interrupted, NumericalError, RunError, SettingsError

if TYPE_CHECKING:
    from poise.engine import Experiment, Run

SEEDS = ".seeds.json"
"""In the folder of several seeds: how many were asked for, and of what, so that --resume begins those that are not
there yet.
"""


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A recipe's name, or a settings file such as runs/x/experiment.json.",
            autocompletion=completed("recipes"),
        ),
    ] = None,
    settings: Annotated[list[str] | None, typer.Argument(help="Settings to change, as dotted.path=value.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Your images: a folder with one folder per class, an .npz archive, a data set.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Your network: file.py:NAME, module:NAME, or a name of poise list networks.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="Your objective, or a loss of logits and labels: file.py:NAME or a name.")
    ] = None,
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
    track: Annotated[
        list[str] | None,
        typer.Option(help="Show the run in tensorboard, mlflow or wandb, with a place as in mlflow:URI; repeatable."),
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Train a classifier: by a recipe, or on your own images with your own network.

    Examples:

      poise train --data my_photos --model mynet.py:MyNet epsilon=4/255 data.image_size=64 --out runs/mine

      poise train generalist_digits --out runs/generalist

      poise train generalist_digits method.robust=TRADES method.robust.beta=6 epochs=30

      poise train generalist_digits --seeds 3 --out runs/generalist

      poise train --resume runs/generalist

      poise train generalist_digits --track tensorboard

      poise train at_digits --import my_objective.py method.objective=MyObjective

      poise train generalist_digits 'method.others=[{"name": "l2", "policy": "AT"}]' method.others.0.inner.threat=L2
    """
    if recipe is not None and "=" in recipe and not Path(recipe).exists():  # the first setting
        recipe, settings = None, [recipe, *(settings or [])]
    if recipe is not None:
        check_recipe(recipe, imports)
    from poise import engine
    from poise.core.distributed import join, leave
    from poise.engine.callbacks import Callbacks
    from poise.recipes import experiment as of_recipe
    from poise.verbs.evaluate import evaluate as judge
    from poise.verbs.track import Tracking
    from poise.verbs.train import experiment_of

    tracking = [Tracking(to) for to in track or []]  # what is missing is said before anything begins
    digests = import_files(imports)
    where: dict[str, Any] = {"device": device, "data_dir": data_dir}
    world = join()
    own_parts = (data, model, objective)
    if resume is not None and any((recipe, settings, seeds, quick, out, *own_parts)):
        raise SettingsError(
            "--resume takes settings, seeds and place from the folder; give no recipe, settings, --seeds, --quick,"
            " --out, --data, --model or --objective"
        )
    if resume is not None:
        plan = world.in_turn(lambda: _plan(resume))
        experiment, seeds, out = (*plan, resume) if plan is not None else (None, None, resume)
    elif recipe is None and data is None:
        raise SettingsError("name a recipe (poise list recipes), a settings file, --resume RUN, or your own --data")
    elif seeds is not None and any(setting.partition("=")[0].strip() == "seed" for setting in settings or []):
        raise SettingsError("seed=... and --seeds: one of the two; --seeds counts from 0")
    else:
        if quick and (recipe is None or recipe.endswith(".json")):
            raise SettingsError(NO_SMALL_VARIANT)
        experiment = experiment_of(
            of_recipe(recipe, True) if quick and recipe is not None else recipe,
            data=data,
            network=code_of(model, "--model", digests),
            objective=code_of(objective, "--objective", digests),
            settings=settings or [],
            data_dir=data_dir,
        )
        out = out or Path("runs") / experiment.name
    alike = [f"{experiment.name}, seed {number}" for number in range(seeds or 0)] if experiment is not None else []
    where["progress"] = drawn(("selected", "last") if evaluate else (), alike)
    listeners = Callbacks.of_all(tracking, where["progress"])
    training: dict[str, Any] = {**where, "imports": digests, "until": until, "callbacks": [listeners]}
    try:
        if experiment is None:
            seed_runs = sorted(out.glob("seed-*/experiment.json"), key=lambda path: (len(path.parent.name), path))
            runs = [engine.resume(path, **training) for path in [path.parent for path in seed_runs] or [out]]
        elif seeds is None:
            runs = [engine.train(experiment, out, **training)]
        else:
            runs = _seeds(experiment, out, seeds, **training)
    except (Interrupted, NumericalError):
        if (broken_off := next(filter(None, (tracker.run for tracker in tracking)), None)) is not None:
            listeners.end(broken_off)
        raise
    unfinished = [run for run in runs if not engine.finished(run)]
    for run in unfinished:
        listeners.end(run)
        if world.leads:
            typer.echo(f"paused after epoch {until}; to go on: poise train --resume {run.path}", err=True)
    runs = [run for run in runs if run not in unfinished]
    for run in runs:
        if evaluate:
            for checkpoint in ("selected", "last"):
                listeners.evaluation(run, judge(run, checkpoint=checkpoint, **where))
        listeners.end(run)
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
    seed_experiments = [
        (out / f"seed-{number}", override(experiment, {"seed": str(number)})) for number in range(seeds)
    ]
    return [engine.train_or_resume(experiment_of_seed, path, **how) for path, experiment_of_seed in seed_experiments]


def _write_plan(folder: Path, experiment: Experiment, seeds: int, imports: list[str]) -> None:
    """Raises: RunError where a seed of another experiment was begun in the folder."""
    from poise.core.files import write_text
    from poise.core.settings import to_json

    plan = _plan(folder) if any(folder.glob("seed-*/experiment.json")) else None
    if plan is not None and plan[0] != experiment:
        raise RunError(
            f"{folder} was started with other settings; give another --out, or go on with it: poise train --resume"
            f" {folder}"
        )
    most = max(seeds, plan[1] if plan is not None else 0)
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
        plan = parse(read_text(folder / SEEDS))
        settings, seeds, imports = plan["experiment"], int(plan["seeds"]), list(plan["imports"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / SEEDS} is damaged: {error}") from None
    with own_code(imports):
        return from_json(Experiment, settings), seeds
