"""poise train"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from poise.cli.shared import DataDir, Device, Imports, drawn, import_files, print_table
from poise.core.errors import RunError, SettingsError


def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name, or a settings file such as runs/x/experiment.json.")] = None,
    settings: Annotated[list[str] | None, typer.Argument(help="Settings to change, as dotted.path=value.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make; by default runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Run (or go on with) this many seeds, in OUT/seed-0, OUT/seed-1, ...")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The recipe's small variant, which finishes on two cores.")] = False,
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
    """
    from poise import engine
    from poise.core.distributed import join, leave
    from poise.core.overrides import override
    from poise.core.settings import read_file
    from poise.engine.evaluations import evaluate_run
    from poise.recipes import experiment as of_recipe

    digests = import_files(imports)
    progress, world = drawn(), join()
    where: dict[str, Any] = {"device": device, "data_dir": data_dir, "progress": progress}
    runs = []
    if resume is not None:
        if recipe is not None or settings:
            raise SettingsError("--resume takes its settings from the run folder; give no recipe and no settings with it")
        seeded = sorted((path.parent for path in resume.glob("seed-*/experiment.json")), key=lambda path: (len(path.name), path.name))
        runs = [engine.resume(path, imports=digests, **where) for path in seeded or [resume]]
    else:
        if recipe is None:
            raise SettingsError("name a recipe (poise list recipes), a settings file, or --resume RUN")
        if recipe.endswith(".json"):
            experiment = read_file(engine.Experiment, Path(recipe))
        else:
            experiment = of_recipe(recipe, quick)
        experiment = override(experiment, settings or [])
        out = out or Path("runs") / experiment.name
        for number in range(seeds or 1):
            path = out / f"seed-{number}" if seeds else out
            each = override(experiment, {"seed": str(number)}) if seeds else experiment
            begun = bool(seeds) and world.decided((path / "experiment.json").exists())
            if not begun:
                runs.append(engine.train(each, path, imports=digests, **where))
            elif engine.Run.open(path).experiment == each:
                runs.append(engine.resume(path, imports=digests, **where))
            else:
                raise RunError(f"{path} was started with other settings; give another --out, or go on with it: poise train --resume {out}")
    for run in runs:
        if evaluate:
            for which in ("selected", "last"):
                evaluate_run(run, which, **where)
        if world.leads:
            typer.echo(f"run folder: {run.path}", err=True)
    leave()
    if evaluate and world.leads:
        print_table([run.path for run in runs])
