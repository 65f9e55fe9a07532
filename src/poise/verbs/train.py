"""Training: a recipe's name, an experiment, a settings file, a run to go on with, or a network, data and an objective
of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from poise.attacks import PGD
from poise.core.bars import default_progress
from poise.core.callers import computed_plainly
from poise.core.errors import Interrupted, NumericalError, SettingsError
from poise.core.overrides import override
from poise.core.progress import Progress
from poise.core.settings import from_json, read_file, registered
from poise.data import DataSource, Folder, Npz, data_directory
from poise.engine import Callback, Experiment, Monitor, Run, finished, resume, train_or_resume
from poise.engine.callbacks import Callbacks
from poise.engine.given import GivenLoss, arrays_given, loss_given, network_given
from poise.evaluation import Protocol
from poise.learners import Policy
from poise.methods import Joint
from poise.models import Network
from poise.objectives import AT, Objective
from poise.recipes import experiment as of_recipe
from poise.verbs.images import split_of

Begun = str | Path | Experiment | Run
"""A recipe's name, a settings file (*.json), an experiment, or a run to go on with: its folder, or itself."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits [B, classes] and labels [B] to one value for each image [B]."""


@computed_plainly
def train(
    what: Begun | None = None,
    out: str | Path | None = None,
    *,
    network: Network | nn.Module | Callable[..., nn.Module] | str | None = None,
    data: DataSource | str | Path | tuple[Any, Any] | None = None,
    objective: Objective[Any] | type | str | Loss | None = None,
    score: Loss | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    imports: dict[str, str] | None = None,
    progress: Progress | None = None,
    until: int | None = None,
    callbacks: Sequence[Callback] = (),
    **changes: Any,
) -> Run:
    """The run in the folder `out`, by default runs/NAME: begun, gone on with, or as it is where it is finished.

    what: see `Begun`; without it the experiment is adversarial training on `data`. network: settings or their name, a
    module, whose first weights are kept beside the run, or a function or class that builds one with weights by the
    seed, given the number of classes
    if it takes it. data: settings or their name, a folder, an .npz archive, or arrays: (x, y), of which a fifth is held
    out as test images, or ((x, y), (x_test, y_test)), as `poise.evaluate` takes them. objective: settings, a class or
    its name, or a loss as a function (see `Loss`), which the inner maximisation climbs too unless `score`, such a
    function, is given. settings: what `override` takes; changes: the same for names without a dot, such as epochs=30,
    epsilon=8/255. until: pause once this epoch is trained; the run goes on from there to the bits of an unbroken one.

    Functions and classes are recorded by the digest of their source; going on needs them again, by the same call or
    --import.
    Raises: RunError naming the first difference where `out` holds a run of other settings, data or code; SettingsError,
    InputError, DataError before any work; Interrupted after SIGINT or SIGTERM, with everything saved.
    """
    progress = default_progress(progress)
    listeners = Callbacks.of_all(callbacks, progress)
    how: dict[str, Any] = {
        "device": device,
        "data_dir": data_dir,
        "imports": imports,
        "progress": progress,
        "until": until,
        "callbacks": [listeners],
    }
    arguments = {"network": network, "data": data, "objective": objective, "score": score}
    settings_own = {**(settings or {}), **changes}
    if (run := _run(what)) is not None:
        if out is not None or settings_own or any(part is not None for part in arguments.values()):
            raise SettingsError(f"{run.path} is a run, which goes on as it was begun; leave out and all settings out")
        run_begun = run
        return _with_end(
            lambda: run_begun if finished(run_begun) else resume(run_begun.path, **how), run.path, listeners
        )
    experiment = experiment_of(what, settings=settings_own, data_dir=data_dir, **arguments)
    place = Path(out) if out is not None else Path("runs") / experiment.name
    return _with_end(lambda: train_or_resume(experiment, place, **how), place, listeners)


def experiment_of(
    what: Begun | None = None,
    *,
    network: Any = None,
    data: Any = None,
    objective: Any = None,
    score: Loss | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    data_dir: str | Path | None = None,
) -> Experiment:
    """The experiment that `train` is asked for. Raises: SettingsError, InputError."""
    base = _base(what, data)
    settings_named = {"model": _network(network), "data": _data(data, data_dir), **_objective(base, objective, score)}
    parts = override(base, {path: part for path, part in settings_named.items() if part is not None})
    return override(parts, settings)  # afterwards, so that an epsilon is the objective's too


def _with_end(work: Callable[[], Run], out: Path, told: Callbacks) -> Run:
    """The trained run, of whose end the callbacks are told, also where it was stopped or diverged."""
    try:
        run = work()
    except (Interrupted, NumericalError):
        if (out / "experiment.json").is_file():
            told.end(Run.open(out))
        raise
    told.end(run)
    return run


def _run(what: Begun | None) -> Run | None:
    if isinstance(what, Run):
        return what
    return Run.open(what) if isinstance(what, str | Path) and (Path(what) / "experiment.json").is_file() else None


def _base(what: Begun | None, data: object) -> Experiment:
    if isinstance(what, Experiment):
        return what
    if isinstance(what, str | Path):
        return read_file(Experiment, Path(what)) if str(what).endswith(".json") else of_recipe(str(what))
    if what is not None:
        raise SettingsError(f"what = {what!r}: must be a recipe's name, an Experiment, a settings file or a run")
    if data is None:
        raise SettingsError("name what to train: a recipe (poise list recipes), or at least data=")
    monitors = (Monitor(), Monitor(name="pgd-10", attack=PGD(steps=10)))
    protocol = Protocol.named["standard"]()
    return Experiment(name="own", method=Joint(policy=Policy(objective=AT())), monitors=monitors, protocol=protocol)


def _network(network: Any) -> Any:
    if isinstance(network, type) and issubclass(network, Network):
        return network
    return network_given(network) if isinstance(network, nn.Module) or callable(network) else network


def _data(data: object, data_dir: str | Path | None) -> Any:
    if isinstance(data, tuple | list) and len(data) == 2:
        pairs = all(isinstance(part, tuple | list) and len(part) == 2 for part in data)
        return arrays_given(data[0], data[1], split_of) if pairs else arrays_given((data[0], data[1]), None, split_of)
    if not isinstance(data, str | Path):
        return data
    sources = registered(DataSource)  # type: ignore[type-abstract]
    if str(data) in sources:
        return from_json(DataSource, str(data))  # type: ignore[type-abstract]
    path = next((path for path in (Path(data).expanduser(), data_directory(data_dir) / data) if path.exists()), None)
    if path is None:
        raise SettingsError(
            f"data = {str(data)!r}: must be a data set (poise list data), a folder of images or an .npz archive"
        )
    return Folder(path=str(data)) if path.is_dir() else Npz(path=str(data))


def _objective(base: Experiment, objective: Any, score: Loss | None) -> dict[str, Any]:
    """The objective by the path where it stands; a function searches as the objective did in whose place it comes."""
    if score is not None and (objective is None or isinstance(objective, Objective | type | str)):
        raise SettingsError("score goes with a loss as a function; an objective that is a class has its own score")
    if isinstance(objective, Objective | type | str | None):
        return {} if objective is None else {"method.objective": objective}
    if not callable(objective):
        raise SettingsError(
            f"objective = {objective!r}: must be an objective, its class or name, or a function of logits and labels"
        )
    policies = list(base.method.policies().values())
    loss: GivenLoss = loss_given(objective, score)
    if len(policies) == 1:
        loss = policies[0].objective.hand_on(loss)
    title = {"title": loss.code.name} if base.title in ("", "AT") else {}
    return {"method.objective": loss, **title}
