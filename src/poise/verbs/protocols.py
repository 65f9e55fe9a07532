"""The protocol that is asked for: by name, under a threat, on the first so many images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from poise.core.errors import SettingsError
from poise.core.settings import read_file
from poise.evaluation import PROTOCOLS, Protocol, at_each, named
from poise.evaluation.soe_protocols import TRANSFER
from poise.threats import Threat
from poise.verbs.subject import Subject

UNION, OTHERS = "union", "--threat Linf,L2,L1 --epsilon 8/255,0.5,12"


def protocol_asked(
    subject: Subject,
    protocol: str | Protocol | None = None,
    *,
    threat: str | Threat | Sequence[str | Threat] | None = None,
    epsilon: Any = None,
    step_size: Any = None,
    first: int | None = None,
) -> Protocol:
    """The protocol, by name, by a .json file of its settings or as it is; by default the subject's own, else standard.

    threat: "Linf", "L2", "L1" or a threat; epsilon, step_size: numbers or texts such as "8/255"; of a list every attack
    runs at each. With several threats, epsilon has one for each, in their order, or is left open; the worst case is
    then over their union. All three belong to a protocol that is named. first: only so many images. Raises:
    SettingsError.
    """
    options = {
        name: value
        for name, value in (("threat", threat), ("epsilon", epsilon), ("step_size", step_size))
        if value is not None
    }
    if protocol is None and subject.protocol is None:
        protocol = "standard"
    if isinstance(protocol, str) and protocol.endswith(".json"):
        protocol = read_file(Protocol, Path(protocol))
    if not isinstance(protocol, str) and options:
        option = f"--{next(iter(options)).replace('_', '-')}"
        raise SettingsError(
            f"{option} belongs to a protocol named here, and a run's own has its own; add --protocol standard"
        )
    if protocol is None:
        protocol_used = subject.protocol
        assert protocol_used is not None
    elif isinstance(protocol, Protocol):
        protocol_used = protocol
    else:
        if protocol not in (*PROTOCOLS, *TRANSFER):
            raise SettingsError(f"--protocol {protocol!r} is unknown; must be one of {', '.join(PROTOCOLS)}")
        threats = _threats(threat, epsilon)
        if options and protocol == UNION:
            raise SettingsError(
                f"protocol {UNION!r} has threats of its own; for others: --protocol autoattack {OTHERS}"
            )
        if step_size is not None and len({norm for norm, _ in threats}) > 1:
            raise SettingsError(f"--step-size {step_size}: each of several norms has its own; leave it out")
        protocol_used = at_each(
            protocol, [subject.within(named(protocol), *threat_each, step_size) for threat_each in threats]
        )
    return (
        protocol_used
        if first is None
        else dataclasses.replace(protocol_used, first=first, name=f"{protocol_used.name}-first{first}")
    )


def _threats(threat: Any, epsilon: Any) -> list[tuple[str | None, Any]]:
    """(norm, epsilon) of each threat that is asked for; None leaves it open. Raises: SettingsError for lists of other
    lengths.
    """
    norms = list(threat) if isinstance(threat, list | tuple) else [threat]
    sizes = list(epsilon) if isinstance(epsilon, list | tuple) else [epsilon]
    if len(norms) > 1 and epsilon is None:
        sizes = sizes * len(norms)
    if len(norms) == 1:
        norms = norms * len(sizes)
    if len(norms) != len(sizes):
        norms_text = ", ".join(
            norm_each if isinstance(norm_each, str) else type(norm_each).__name__ for norm_each in norms
        )
        raise SettingsError(
            f"--threat {norms_text}: give as many --epsilon, in its order, or none; there are {len(sizes)}"
        )
    return [
        (type(norm).__name__, norm.epsilon if size is None else size) if isinstance(norm, Threat) else (norm, size)
        for norm, size in zip(norms, sizes, strict=True)
    ]
