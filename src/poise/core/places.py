"""Places in settings that are written as JSON: which class stands where, and what is near a path that leads nowhere.

A name is resolved among the classes that may stand in its place and in no others, so that classes of one name in
different families (a network `Step` and the schedule `Step`) don't hide each other.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from poise.core.errors import did_you_mean
from poise.core.settings import Settings, called, field_names, parts_of, registered

Classes = Sequence[type[Settings]]
"""What may stand in a place: one of these classes, or of their families."""
ELSEWHERE = {
    **dict.fromkeys(("lr", "rate"), "learning_rate"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("eps", "radius"), "epsilon"),
    **dict.fromkeys(("alpha", "stepsize"), "step_size"),
    **dict.fromkeys(("batch", "bs", "batchsize"), "batch_size"),
    **dict.fromkeys(("iters", "iterations", "num_steps", "nb_iter"), "steps"),
    **dict.fromkeys(("norm", "ball"), "threat"),
    **dict.fromkeys(("arch", "architecture", "net", "network"), "model"),
    "dataset": "data",
    "loss": "objective",
    "optim": "optimizer",
    "scheduler": "schedule",
    "ema": "average",
}
"""What other people's code calls settings of ours."""
SUGGESTED = 5


def class_named(word: object, classes: Classes) -> type[Settings] | None:
    """The class that a word names in a place; where a transparent one may stand, such as a policy, also what it
    shows.
    """
    if not isinstance(word, str):
        return None
    direct = (called(cls, word) for cls in classes)
    through = (called(part, word) for cls in classes if cls.transparent for part in parts_of(cls)[cls.transparent])
    return next((cls for cls in (*direct, *through) if cls is not None), None)


def class_of(data: Any, classes: Classes) -> type[Settings] | None:
    """The class of a piece of JSON in a place: that of its "type", without one the only class that may stand there."""
    if not isinstance(data, Mapping):
        return None
    if "type" in data:
        return class_named(data["type"], classes)
    members = [member for cls in classes for member in registered(cls).values()]
    return members[0] if len(members) == 1 else None


def opened(data: Any, classes: Classes) -> Any:
    """A class's bare name as JSON of its defaults; all else as it is."""
    return {"type": data} if class_named(data, classes) is not None else data


def seen_through(owner: type[Settings] | None, key: str) -> str | None:
    """The setting of a transparent owner in which a key is looked up that is none of its own."""
    return owner.transparent if owner is not None and owner.transparent and key not in words_of(owner) else None


def words_of(owner: type[Settings] | None) -> dict[str, str]:
    """The words in JSON for an owner's settings, by the name and by that word itself."""
    words = {name: owner.written.get(name, name) for name in field_names(owner)} if owner is not None else {}
    return {**{word: word for word in words.values()}, **words}


def parts_at(owner: type[Settings], word: str) -> Classes:
    """What may stand in an owner's setting, by its word in JSON."""
    names = {written: name for name, written in owner.written.items()}
    return parts_of(owner).get(names.get(word, word), ())


def inside(data: Any, classes: Classes, key: str) -> tuple[Any, Classes] | None:
    """Where a key leads in a place: the index or word, and what may stand behind it. None where it leads nowhere."""
    if isinstance(data, list):
        return (int(key), classes) if key.isdigit() and int(key) < len(data) else None
    if isinstance(data, Mapping) and not classes:  # arguments by name
        return key, ()
    owner = class_of(data, classes)
    word = words_of(owner).get(key)
    return (word, parts_at(owner, word)) if owner is not None and word is not None else None


def depth(data: Any, classes: Classes, keys: Sequence[str]) -> int:
    """How many steps a path takes, those among them that lead through transparent settings without being named."""
    if not keys:
        return 0
    data = opened(data, classes)
    owner = class_of(data, classes)
    through = seen_through(owner, keys[0])
    if owner is not None and through is not None and through in data:
        return 1 + depth(data[through], parts_at(owner, through), keys)
    step = inside(data, classes, keys[0])
    if step is None:
        return len(keys)
    at, behind = step
    return 1 + depth(data[at] if isinstance(data, list) else data.get(at), behind, keys[1:])


def leads(data: Any, classes: Classes, keys: Sequence[str]) -> bool:
    """Whether a path leads to a setting."""
    if not keys:
        return True
    data = opened(data, classes)
    owner = class_of(data, classes)
    through = seen_through(owner, keys[0])
    if owner is not None and through is not None:
        return through in data and leads(data[through], parts_at(owner, through), keys)
    step = inside(data, classes, keys[0])
    return step is not None and leads(data[step[0]] if isinstance(data, list) else data.get(step[0]), step[1], keys[1:])


def paths(data: Any, classes: Classes) -> Iterator[tuple[str, ...]]:
    """Every path to a setting, as it is written out in full; shorter ones before what lies behind them."""
    if isinstance(data, list):
        for at, item in enumerate(data):
            yield from ((str(at), *path) for path in paths(item, classes))
    elif (owner := class_of(data, classes)) is not None:
        for name in field_names(owner):
            word = words_of(owner)[name]
            yield (name,)
            yield from ((name, *path) for path in paths(data.get(word), parts_at(owner, word)))


def hint(data: Any, root: type[Settings], keys: Sequence[str], at: int, near: Sequence[str]) -> str:
    """Which settings a path may have meant whose key number `at` leads nowhere: the nearest at any depth, at most five.

    near: names that would have been right there.
    """
    paths_known = [(view,) for view in root.views] + list(paths(data, (root,)))
    key, before, after = keys[at], tuple(keys[:at]), tuple(keys[at + 1 :])
    here = ELSEWHERE.get(key, key)
    if here in near:
        return did_you_mean(here, near)
    same = [path for path in paths_known if path[-1] in (key, here)]
    if not same and difflib.get_close_matches(key.lower(), [name.lower() for name in near], n=1, cutoff=0.6):
        return did_you_mean(key, near)
    if not same:
        close = difflib.get_close_matches(key.lower(), {path[-1].lower() for path in paths_known}, n=1, cutoff=0.6)
        same = [path for name in close for path in paths_known if path[-1].lower() == name]
    whole = [(*path, *after) if leads(data, (root,), (*path, *after)) else path for path in same]
    whole.sort(key=lambda path: path[: len(before)] != before)
    words = [repr(".".join(path)) for path in dict.fromkeys(whole)][:SUGGESTED]
    return (
        f"; did you mean {' or '.join(filter(None, [', '.join(words[:-1]), words[-1]]))}?"
        if words
        else did_you_mean(key, near)
    )
