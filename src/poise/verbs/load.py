"""The network of whatever can be asked about."""

from __future__ import annotations

from typing import Any

from torch import nn

from poise.core.callers import computed_plainly
from poise.verbs.images import Images
from poise.verbs.kinds import Asked, subject_of


@computed_plainly
def load(
    asked: Asked,
    checkpoint: str | None = None,
    data: Images | None = None,
    *,
    device: str = "cpu",
    which: str | None = None,
    **kind: Any,
) -> nn.Module:
    """A run's network in evaluating mode: images [B, C, H, W] in [0, 1] to logits [B, classes].

    checkpoint, once called which: "selected" (by the run's criterion), "last" or "epoch N". Other kinds, by `kind`: see
    `subject_of`.
    Raises: RunError where the run was changed since it was started, CheckpointError, SettingsError.
    """
    return subject_of(asked, data, checkpoint=checkpoint or which, device=device, **kind).network
