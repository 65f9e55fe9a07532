"""What is more than noise: exact one-sided tests on examples, of two attacks on the same images and of a share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


def tail(successes: int, trials: int, share: float) -> float:
    """P(at least so many successes in `trials` of probability `share`): the exact binomial test's one-sided p value."""
    from scipy.special import bdtrc

    return 1.0 if successes <= 0 else float(bdtrc(successes - 1, trials, share))


@dataclass(frozen=True)
class Paired:
    """Two attacks on the same examples. more: fallen under the first only; less: fallen under the second only; count:
    examples.
    """

    more: int
    less: int
    count: int

    @classmethod
    def of(cls, first: Tensor, second: Tensor) -> Paired:
        """From which examples stand under each attack, bool [N]."""
        return cls(int((~first & second).sum()), int((first & ~second).sum()), len(first))

    @property
    def p(self) -> float:
        """Of "the first breaks no more than the second" (McNemar 1947, the exact one-sided form on the discordant
        examples).
        """
        return tail(self.more, self.more + self.less, 0.5)

    @property
    def gain(self) -> float:
        """By how much the first lowers the accuracy below the second, as a share of all examples."""
        return (self.more - self.less) / self.count

    def proven(self, level: float, least: float = 0.01) -> bool:
        """Whether the first is stronger: significant at `level`, and by at least `least` of the examples."""
        return self.p < level and self.gain >= least

    def numbers(self) -> dict[str, Any]:
        return {"only_first": self.more, "only_second": self.less, "of": self.count, "p": self.p}


def exceeds(count: int, total: int, share: float, level: float) -> bool:
    """Whether `count` of `total` is significantly more than `share` of them (exact binomial)."""
    return total > 0 and tail(count, total, share) < level
