"""The run's threat: one question, whose answer an experiment writes out in every place that attacks.

JSON keeps every threat where it stands. `threat` and `epsilon` of an experiment are views: reading them finds the
threat that the run is about, assigning them rewrites all places that equal it, with their step sizes.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from poise.attacks import Attack
from poise.core.errors import SettingsError
from poise.core.overrides import override
from poise.core.settings import Settings, from_json, spelled, tag_of
from poise.engine.diagnostics import Diagnosis, searching
from poise.evaluation import Protocol
from poise.learners import Policy
from poise.threats import Threat

S = TypeVar("S", bound=Settings)
VIEWS = ("threat", "epsilon")
LOG = logging.getLogger("poise")


def threat_of(policies: Mapping[str, Policy], judges: Sequence[Attack]) -> Threat:
    """The run's threat: what its learners train within, where they all train within one; else that of the first attack
    that judges it, where a learner trains within that one, or none trains within any.

    judges: the attacks of monitors, then those of the protocol.
    Raises: SettingsError where no threat, or more than one, could be meant.
    """
    threats_trained = {name: search.threat for name, search in searching(policies).items()}
    if len(set(threats_trained.values())) == 1:
        return next(iter(threats_trained.values()))
    if judges and (not threats_trained or judges[0].threat in threats_trained.values()):
        return judges[0].threat
    if not threats_trained:
        raise SettingsError(
            "the experiment has no threat: nothing attacks in it; name an attack, as in method.objective=AT"
        )
    raise SettingsError(
        f"none of the threats is the run's: it trains {listed(threats_trained)}; set them where they stand, as"
        " inner.threat"
    )


def assigned(threat: Threat, views: Mapping[str, Any]) -> Threat:
    """The threat after `threat=...` and then `epsilon=...`. Raises: SettingsError for no such threat, or epsilon 0."""
    if "threat" in views:
        threat = from_json(Threat, views["threat"])  # type: ignore[type-abstract]
    result = override(
        threat, {path.removeprefix("threat."): value for path, value in views.items() if path != "threat"}
    )
    if result.epsilon == 0:
        raise SettingsError("epsilon = 0: must be positive; to train without an attack: method.objective=NT")
    return result


def within(part: S, old: Threat, new: Threat) -> S:
    """The settings with `new` in every place of `old`.

    A step size beside it keeps its share of epsilon; where the norm is another, it becomes 2.5 epsilon / steps, at most
    epsilon, which crosses the ball from everywhere inside (Madry et al. 2018). A named protocol becomes itself under
    the new threat, where it is defined there; another gets the new epsilon into its name, by which records are kept
    apart.
    """
    if isinstance(part, Protocol) and (protocol := _named(part, old, new)) is not None:
        return protocol  # type: ignore[return-value]
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        if (replacement := _replaced(value, old, new)) is not value:
            changes[field.name] = replacement
    if not changes:
        return part
    if "threat" in changes and isinstance(step_size := getattr(part, "step_size", None), float):
        changes["step_size"] = _step_size(step_size, getattr(part, "steps", 1), old, new)
    if isinstance(part, Protocol):
        norm = f"-{tag_of(new).lower()}" if type(new) is not type(old) else ""
        changes["name"] = f"{re.sub(r'-eps[0-9.e-]+$', '', part.name)}{norm}-eps{new.epsilon:.4g}"
    return dataclasses.replace(part, **changes)  # type: ignore[type-var]


def _replaced(value: Any, old: Threat, new: Threat) -> Any:
    if value == old:
        return new
    if isinstance(value, Settings):
        return within(value, old, new)
    if isinstance(value, tuple):
        items = tuple(_replaced(item, old, new) for item in value)
        return value if all(item is before for item, before in zip(items, value, strict=True)) else items
    return value


def _step_size(step_size: float, steps: int, old: Threat, new: Threat) -> float:
    if type(new) is type(old) and old.epsilon:
        return step_size * (new.epsilon / old.epsilon)
    return min(2.5 * new.epsilon / max(steps, 1), new.epsilon)


def _named(protocol: Protocol, old: Threat, new: Threat) -> Protocol | None:
    for at in Protocol.named.values():
        try:
            if at(old) == protocol:
                return at(new)
        except SettingsError:  # not defined for the norm
            continue
    return None


def places(part: Any, path: str = "") -> Iterator[tuple[str, Settings]]:
    """Every object in settings that has a threat, with its path."""
    if isinstance(part, Settings):
        if isinstance(getattr(part, "threat", None), Threat) and path:
            yield path, part
        inner = [(field.name, getattr(part, field.name)) for field in dataclasses.fields(part)]  # type: ignore[arg-type]
    else:
        inner = [(str(at), item) for at, item in enumerate(part)] if isinstance(part, tuple) else []
    for name, value in inner:
        yield from places(value, f"{path}.{name}" if path else name)


def say_change(experiment: Settings, old: Threat, new: Threat) -> None:
    """Log where the threat is another still, and what no longer reaches the ball."""
    differing: dict[str, list[str]] = {}
    for path, part in places(experiment):
        if part.threat != new:  # type: ignore[attr-defined]
            differing.setdefault(shown(part.threat), []).append(f"{path}.threat")  # type: ignore[attr-defined]
    if differing:
        listing = "; ".join(f"{threat} at {', '.join(paths)}" for threat, paths in differing.items())
        LOG.warning(
            "the threat is %s now where it was %s, and stays as it was elsewhere: %s", shown(new), shown(old), listing
        )
    for sentence in short_of(dict(places(experiment))):
        LOG.warning(sentence)


def short_of(searches: Mapping[str, Any]) -> list[str]:
    """A sentence for each search by name whose steps together are shorter than its epsilon."""
    lines = []
    for name, search in searches.items():
        steps, step_size, epsilon = (
            getattr(search, "steps", None),
            getattr(search, "step_size", None),
            search.threat.epsilon,
        )
        if steps is not None and step_size is not None and steps * step_size < epsilon * (1 - 1e-6):
            reach = (
                f"{steps} step{'s' * (steps != 1)} of {spelled(step_size)} never go as far as epsilon ="
                f" {spelled(epsilon)}"
            )
            lines.append(f"{name}: {reach}; take more steps, or a larger step_size")
    return lines


def threats_apart(policies: Mapping[str, Policy], judges: Sequence[Attack], diagnosis: Diagnosis | None) -> list[str]:
    """Sentences where no judge is within the threat of a learner, or a diagnosis is within that of none."""
    threats_trained = {name: search.threat for name, search in searching(policies).items()}
    threats_judged, lines = {attack.threat for attack in judges}, []
    threats_missed = {
        name: threat
        for name, threat in threats_trained.items()
        if not any(_close(threat, theirs) for theirs in threats_judged)
    }
    if threats_missed and threats_judged:
        there = ", ".join(sorted(map(shown, threats_judged)))
        lines.append(
            f"trained {listed(threats_missed)}, but judged within {there}: set inner.threat or the attacks of protocol"
            " and monitors"
        )
    attack = diagnosis.attack if diagnosis is not None else None
    if (
        threats_trained
        and attack is not None
        and not any(_close(ours, attack.threat) for ours in threats_trained.values())
    ):
        instead = "set diagnosis.attack=none to attack as the robust learner searches"
        lines.append(f"trained {listed(threats_trained)}, but diagnosed within {shown(attack.threat)}: {instead}")
    return lines


def listed(threats: Mapping[str, Threat]) -> str:
    return ", ".join(f"{name} within {shown(threat)}" for name, threat in threats.items())


def shown(threat: Threat) -> str:
    """A threat in a sentence, such as Linf 8/255."""
    return f"{type(threat).__name__} {spelled(threat.epsilon)}"


def _close(a: Threat, b: Threat) -> bool:
    """.031, which some papers take, is 8/255."""
    return type(a) is type(b) and abs(a.epsilon - b.epsilon) <= 0.02 * b.epsilon
