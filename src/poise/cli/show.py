"""poise show"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poise.cli.names import check_recipe, completed
from poise.cli.shared import NO_SMALL_VARIANT, DataDir, Device, Imports, import_files
from poise.core.errors import SettingsError

if TYPE_CHECKING:
    from poise.engine import Experiment


def show(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe's name, a settings file, a run folder, or a network such as zoo:NAME.",
            autocompletion=completed("recipes"),
        ),
    ],
    settings: Annotated[list[str] | None, typer.Argument(help="Settings to change, as dotted.path=value.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The recipe's small variant.")] = False,
    estimate: Annotated[
        bool, typer.Option(help="Measure one small step here and say what the whole run would take.")
    ] = True,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Print an experiment's resolved settings, and what it would cost on this machine.

    Examples:

      poise show generalist_cifar10_resnet18

      poise show generalist_digits method.robust=TRADES --no-estimate

      poise show zoo:at_mnist_slim
    """
    if recipe.startswith(("zoo:", "hf:/", "folder:")):
        typer.echo(_card(recipe, imports))
        return
    check_recipe(recipe, imports)
    from poise.core.overrides import override
    from poise.core.settings import in_pixels, read_file, to_json
    from poise.engine import Experiment, Run
    from poise.recipes import experiment as of_recipe
    from poise.recipes import recipes

    import_files(imports)
    if quick and (Path(recipe).is_dir() or recipe.endswith(".json")):
        raise SettingsError(NO_SMALL_VARIANT)
    if Path(recipe).is_dir():
        experiment = Run.open(recipe).experiment
    elif recipe.endswith(".json"):
        experiment = read_file(Experiment, Path(recipe))
    else:
        experiment = of_recipe(recipe, quick)
        typer.echo(recipes()[recipe].text + "\n")
    experiment = override(experiment, settings or [])
    typer.echo(json.dumps(in_pixels(to_json(experiment)), indent=2))
    if estimate:
        typer.echo("\n" + _cost(experiment, device, data_dir))


def _card(name: str, imports: list[Path] | None) -> str:
    """The card of a trained network: its accuracies, its sanity, what it is good for and what not."""
    from poise.verbs.push import card_of

    import_files(imports)
    return card_of(name)


def _cost(experiment: Experiment, device: str, data_dir: Path | None) -> str:
    """The estimate, or why there is none: showing settings fetches no data."""
    from poise.core.errors import DataError
    from poise.data.downloads import PublishedSource
    from poise.engine.estimate import estimate_cost

    if isinstance(experiment.data, PublishedSource):
        experiment = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, download=False))
    try:
        return str(estimate_cost(experiment, device=device, data_dir=data_dir))
    except DataError as error:
        return f"no estimate of time and memory, as the data are not here: {error}"
