"""Which epochs a base learner may sit out, because nothing it would do in them reaches the global learner."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from poise.core.batches import Now


def moments(now: Now) -> Iterator[Now]:
    """Every step of the run that `now` belongs to, in order."""
    for step in range(now.steps):
        yield Now(step // now.steps_per_epoch + 1, step, now.epochs, now.steps_per_epoch, now.seed)


def idle_epochs(
    now: Now, weight: Callable[[Now], float], before: Callable[[Now], bool], after: Callable[[Now], bool]
) -> frozenset[int]:
    """The 1-based epochs of the run of `now` none of whose steps is needed.

    weight: the learner's share in the mix at a step; before, after: whether the learner is overwritten, with no trace
    of its past, before or after the step. A step is needed when its own share counts or when a needed one comes before
    the next overwriting.
    """
    is_needed, epochs, later = False, set(), None
    for moment in reversed(list(moments(now))):
        overwritten = after(moment) or (later is not None and before(later))
        is_needed = weight(moment) > 0 or (is_needed and not overwritten)
        if is_needed:
            epochs.add(moment.epoch)
        later = moment
    return frozenset(range(1, now.epochs + 1)) - epochs
