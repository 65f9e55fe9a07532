"""The threat that is asked for, completed from those that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poise.core.errors import SettingsError
from poise.core.settings import from_json
from poise.evaluation import NamedProtocol, Protocol
from poise.threats import Threat


def scaled(chosen: NamedProtocol, own: Threat | None, kind: str | None, epsilon: Any, step_size: Any) -> Protocol:
    """The protocol under the threat typed; one that is general, where something is left open, under the subject's
    `own`.
    """
    scales = [own] if chosen.general and own is not None else []
    return chosen.at(threat_typed(kind, epsilon, [*scales, *(threat for threat, _ in chosen.scales)]), step_size)


def positive(threat: Threat, typed: object) -> Threat:
    """The threat made of `--epsilon typed`. Raises: SettingsError for an epsilon of 0, with which an attack has no
    steps.
    """
    if threat.epsilon == 0:
        raise SettingsError(f"--epsilon {typed}: must be positive")
    return threat


def threat_typed(kind: str | None, epsilon: Any, known: Sequence[Threat]) -> Threat:
    """The threat of `--threat kind --epsilon epsilon`: what was not typed is that of the first known threat, of this
    norm if one is.
    """
    kind = kind or type(known[0]).__name__
    if epsilon is not None:
        return positive(from_json(Threat, {"type": kind, "epsilon": epsilon}), epsilon)  # type: ignore[type-abstract]
    return next((scale_threat for scale_threat in known if type(scale_threat).__name__ == kind), None) or from_json(
        Threat, {"type": kind}
    )  # type: ignore[type-abstract]
