"""poise sweep"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from poise.cli.names import check_recipe
from poise.cli.shared import Cpus, DataDir, Device, Gpus, Imports, On, Ranks, import_files, print_table
from poise.core.bars import drawn
from poise.core.errors import SettingsError


def sweep(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="Recipes or settings files, and the grid: path=a,b,c or path=log:1e-3..1e-1:5."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this sweep.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each point, with seeds 0, 1, ...")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The recipes' small variants.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Runs that are made side by side on this machine.")] = 1,
    on: On = None,
    ranks: Ranks = 1,
    cpus: Cpus = 1,
    gpus: Gpus = 0.0,
    rungs: Annotated[
        str | None, typer.Option(help="Successive halving: epochs at which only the best configurations go on: 5,15")
    ] = None,
    keep: Annotated[str, typer.Option(help="Share of the configurations that goes on at each rung.")] = "1/3",
    by: Annotated[str, typer.Option(help="Monitor that configurations are judged by.")] = "pgd-10",
    evaluate: Annotated[bool, typer.Option(help="Evaluate each run on the test set at its end.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which runs there would be.")] = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    imports: Imports = None,
) -> None:
    """Train and evaluate recipes at every point of a grid, on this machine or on those of a cluster.

    Each point is an ordinary run folder. A run that is killed goes on from its checkpoint and ends with the same bits.
    The exit status is 1 where a run failed; the others are made.

    Examples:

      poise sweep at_digits epsilon=.1,.2 epochs=3 --seeds 2 --jobs 2 --out swept

      poise sweep trades_digits 'method.objective.beta=log:1..10:5' --rungs 5,15 --by pgd-10 --out beta

      poise sweep at_digits trades_digits --seeds 5 --on ray --gpus .25 --out /shared/table

      poise sweep --resume swept
    """
    if resume is not None and (words or out is not None or seeds or quick or rungs is not None or imports or dry_run):
        raise SettingsError("--resume takes recipes, grid, seeds and rungs from the folder; give --jobs or --on only")
    if resume is None and not words:
        raise SettingsError("name a recipe (poise list recipes) and a grid such as epsilon=.1,.2, or --resume SWEEP")
    if resume is None and out is None and not dry_run:
        raise SettingsError("name the folder of the sweep: --out FOLDER")
    if rungs is None and (keep, by) != ("1/3", "pgd-10"):
        raise SettingsError("--keep and --by are of successive halving; name its epochs by --rungs, such as 5,15")
    from poise.sweeps.grids import parsed

    recipes, grid = parsed(words or [])
    for recipe in recipes:
        check_recipe(recipe, imports)
    from poise.sweeps.planning import halving_of, planned
    from poise.sweeps.sweep import sweep as carried_out

    halving: dict[str, Any] = {} if rungs is None else {"rungs": rungs, "keep": keep, "by": by}
    if dry_run:
        import_files(imports)
        rungs_halving = halving_of(rungs, keep, by) if rungs is not None else None
        points = planned(recipes, grid, seeds, quick=quick, halving=rungs_halving).points
        for point in points:
            typer.echo(f"{point.name}  {point.epochs} epochs")
        typer.echo(f"{len(points)} runs")
        return
    outcome = carried_out(
        recipes if resume is None else None,
        grid,
        out=out or resume or Path(),
        seeds=seeds,
        quick=quick,
        jobs=jobs,
        on=on,
        ranks=ranks,
        cpus=cpus,
        gpus=gpus,
        evaluate=evaluate,
        device=device,
        data_dir=data_dir,
        imports=imports or [],
        progress=drawn(),
        **halving,
    )
    evaluated_runs = [run for run in outcome.runs if any((run / "records").glob("*.json"))]
    if evaluated_runs:
        print_table(evaluated_runs)
    for name, reason in outcome.failed.items():
        typer.echo(f"failed: {name}: {reason}", err=True)
    if outcome.failed:
        typer.echo(
            f"{len(outcome.failed)} of {len(outcome.plan.points)} runs failed; to try them again: poise sweep --resume"
            f" {outcome.path}",
            err=True,
        )
        raise typer.Exit(1)
