"""The protocol that is asked for: by name, under a threat, on the first so many images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from poise.core.errors import SettingsError
from poise.evaluation import PROTOCOLS, Protocol, named
from poise.evaluation.soe_protocols import TRANSFER
from poise.threats import Threat
from poise.verbs.subject import Subject


def protocol_asked(
    subject: Subject,
    protocol: str | Protocol | None = None,
    *,
    threat: str | Threat | None = None,
    epsilon: Any = None,
    step_size: Any = None,
    first: int | None = None,
) -> Protocol:
    """The protocol, by name or as it is; by default the subject's own, else standard.

    threat: "Linf", "L2", "L1" or a threat; epsilon, step_size: numbers or texts such as "8/255"; of a list every attack
    runs at each. All three belong to a protocol that is named. first: only so many images. Raises: SettingsError.
    """
    asked = {
        name: value
        for name, value in (("threat", threat), ("epsilon", epsilon), ("step_size", step_size))
        if value is not None
    }
    if protocol is None and subject.protocol is None:
        protocol = "standard"
    if not isinstance(protocol, str) and asked:
        option = f"--{next(iter(asked)).replace('_', '-')}"
        raise SettingsError(
            f"{option} belongs to a protocol named here, and a run's own has its own; add --protocol standard"
        )
    if protocol is None:
        chosen = subject.protocol
        assert chosen is not None
    elif isinstance(protocol, Protocol):
        chosen = protocol
    else:
        if protocol not in (*PROTOCOLS, *TRANSFER):
            raise SettingsError(f"--protocol {protocol!r} is unknown; must be one of {', '.join(PROTOCOLS)}")
        if isinstance(threat, Threat):
            threat, epsilon = type(threat).__name__, threat.epsilon if epsilon is None else epsilon
        several = epsilon if isinstance(epsilon, list | tuple) else [epsilon]
        chosen = at_each([subject.within(named(protocol), threat, one, step_size) for one in several])
    return chosen if first is None else dataclasses.replace(chosen, first=first, name=f"{chosen.name}-first{first}")


def at_each(protocols: Sequence[Protocol]) -> Protocol:
    """One protocol of all attacks of several, which differ by their epsilon. Raises: SettingsError for two of one
    epsilon.
    """
    if len(protocols) == 1:
        return protocols[0]
    if not protocols:
        raise SettingsError("--epsilon: the list is empty, must hold at least one number")
    sizes = [f"{protocol.attacks[0].threat.epsilon:.4g}" for protocol in protocols]
    if len(set(sizes)) < len(sizes):
        raise SettingsError(f"--epsilon {', '.join(sizes)}: every one of a list must be another")
    name = f"{protocols[0].name.partition('-eps')[0]}-eps{'-'.join(sizes)}"
    attacks = tuple(attack for protocol in protocols for attack in protocol.attacks)
    return dataclasses.replace(protocols[0], name=name, attacks=attacks)
