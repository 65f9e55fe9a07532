"""Opening the trained networks that objectives ask as teachers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from poise.core.errors import SettingsError
from poise.data import Data
from poise.engine.checkpoints import fitting, foreign_weights, load_into
from poise.engine.experiment import Experiment
from poise.engine.runs import Run
from poise.evaluation.digests import digest_of
from poise.learners.teachers import Trained


@dataclass(frozen=True)
class OpenedTeacher:
    """A teacher's network on the CPU, the digest of its weights and where they lie."""

    network: nn.Module
    digest: str
    origin: str


def open_teachers(experiment: Experiment, data: Data) -> Mapping[str, OpenedTeacher]:
    """The `Trained` teachers by learner. Raises: SettingsError for one of other images or classes, RunError,
    CheckpointError.
    """
    policies = experiment.method.policies().items()
    teachers_trained = {name: policy.teacher for name, policy in policies if isinstance(policy.teacher, Trained)}
    return {name: _opened(teacher, experiment, data) for name, teacher in teachers_trained.items()}


def _opened(teacher: Trained, experiment: Experiment, data: Data) -> OpenedTeacher:
    path = Path(teacher.path).expanduser()
    if path.is_dir():
        run = Run.open(path)
        network, facts = run.network(teacher.checkpoint), run.facts(teacher.checkpoint)
        if tuple(facts["shape"]) != data.shape or list(facts["classes"]) != list(data.classes):
            shape_text = f"images {list(facts['shape'])} of {len(facts['classes'])} classes"
            raise SettingsError(
                f"Trained.path = {teacher.path!r}: it was trained on {shape_text}, must be {list(data.shape)} and the "
                f"{len(data.classes)} classes of {data.name}, in their order"
            )
    else:
        network = experiment.model.build(data.shape, len(data.classes), experiment.seed)
        load_into(network, fitting(foreign_weights(path), network), teacher.path)
    return OpenedTeacher(network, digest_of(network), teacher.path)
