"""poise train"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.shared import DataDir, Device, Imports, console, drawn, import_files, print_table
from poise.core.errors import SettingsError


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
    from poise.core.settings import override, read_json
    from poise.engine.evaluations import evaluate_run
    from poise.recipes import experiment as of_recipe

    digests = import_files(imports)
    progress = drawn()
    runs = []
    if resume is not None:
        if recipe is not None or settings:
            raise SettingsError("--resume takes its settings from the run folder; give no recipe and no settings with it")
        seeded = sorted(resume.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
        runs = [engine.resume(path, device=device, data_dir=data_dir, progress=progress) for path in seeded or [resume]]
    else:
        if recipe is None:
            raise SettingsError("name a recipe (poise list recipes), a settings file, or --resume RUN")
        if recipe.endswith(".json"):
            if not Path(recipe).is_file():
                raise SettingsError(f"there is no settings file {recipe}")
            experiment = read_json(engine.Experiment, Path(recipe).read_text(), recipe)
        else:
            experiment = of_recipe(recipe, quick)
        experiment = override(experiment, settings or [])
        out = out or Path("runs") / experiment.name
        for number in range(seeds or 1):
            path = out / f"seed-{number}" if seeds else out
            each = override(experiment, {"seed": str(number)}) if seeds else experiment
            if seeds and (path / "experiment.json").exists():
                runs.append(engine.resume(path, device=device, data_dir=data_dir, progress=progress))
            else:
                runs.append(engine.train(each, path, device=device, data_dir=data_dir, imports=digests, progress=progress))
    for run in runs:
        if evaluate:
            for which in ("selected", "last"):
                evaluate_run(run, which, device=device, data_dir=data_dir, progress=progress)
        console.print(f"run folder: {run.path}", highlight=False)
    if evaluate:
        print_table([run.path for run in runs])
