"""Teachers: a second, frozen network that an objective asks while it crafts (see `Objective.craft`)."""

from __future__ import annotations

from poise.core.settings import Settings, settings


class Teacher(Settings, family="teacher"):
    """Whom the objective asks. What a teacher says goes into the examples, so nothing of it is part of a learner's
    state.
    """


@settings
class OwnAverage(Teacher):
    """The learner's own average, as it is before the step; the policy must keep one."""


@settings
class Trained(Teacher):
    """A network that was trained before, of the same images and classes. The digest of its weights is recorded and
    checked on resume.
    """

    path: str
    """A run folder, or a file of weights of the run's own kind of network."""
    checkpoint: str = "selected"
    """Of a run folder: "selected", "last" or "epoch N"."""
