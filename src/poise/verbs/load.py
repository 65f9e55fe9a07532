"""The network of whatever can be asked about."""

from __future__ import annotations

from typing import Any

from torch import nn

from poise.verbs.images import Images
from poise.verbs.kinds import Asked, subject_of


def load(asked: Asked, which: str | None = None, data: Images | None = None, *, device: str = "cpu", **kind: Any) -> nn.Module:
    """A run's network in evaluating mode: images [B, C, H, W] in [0, 1] to logits [B, classes].

    which: "selected" (by the run's criterion), "last" or "epoch N". Of other kinds, by `kind` (see `subject_of`), too.
    Raises: RunError where the run was changed since it was started, CheckpointError, SettingsError.
    """
    return subject_of(asked, data, checkpoint=which, device=device, **kind).network
