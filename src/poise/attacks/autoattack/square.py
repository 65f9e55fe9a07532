"""Square: random search with square-shaped changes; it asks for logits only."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from poise.attacks.autoattack.compact import CompactAttack
from poise.attacks.autoattack.search import Examples, Network, Search, State, at, queued, succeeds
from poise.core import papers
from poise.core.errors import InputError
from poise.core.lengths import above_zero
from poise.core.seeds import Draw
from poise.core.settings import PositiveCount, UnitInterval, settings
from poise.losses import margin, targeted_margin
from poise.threats import Linf, Threat, spread

_SMALL = 0.1
"""Share of an image below which its windows' pixels are looked up one by one."""
_AHEAD = 16
"""Queries whose windows are drawn at once on CPUs, where each operation on a few numbers has its price."""


@settings
class Square(CompactAttack):
    """Square attack (Andriushchenko et al. 2020, Algorithms 1 to 3), black-box, on the margin loss."""

    paper = papers.SQUARE
    lanes = 128
    threat: Threat = Linf()
    queries: PositiveCount = 5000
    """Forward passes per example and restart, that of the first proposal included."""
    p_init: UnitInterval = 0.8
    """Share of the pixels changed at first; it falls with the queries, see `share_changed`."""
    rescale: bool = True
    """Whether the schedule of `share_changed`, made for 10,000 queries, is stretched to the budget (AutoAttack does
    not).
    """
    restarts: PositiveCount = 1

    @property
    def name(self) -> str:
        return "Square" + (f"x{self.restarts}" if self.restarts > 1 else "")

    def forwards(self) -> float:
        return float(self.queries * self.restarts)

    def search(self, model: Network, classes: int, targeted: bool = False) -> Search:
        return (SquareLinf if self.threat.order == inf else SquareBall)(self, model, targeted)


def share_changed(query: int, queries: int, p_init: float) -> float:
    """p: halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries, rescaled to the budget
    (Section 5).
    """
    at_10000 = int(query / queries * 10000)
    return p_init / 2 ** sum(at_10000 > mark for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))


def square_side(p: float, height: int, width: int) -> int:
    """The side of a square with a share p of the pixels, at least 1 and fitting the image."""
    return max(min(round((p * height * width) ** 0.5), height, width), 1)


class _SquareSearch(Search):
    """One query per step: ask for the proposal `z`, keep it if it lowers the true class's lead, propose the next."""

    def __init__(self, attack: Square, model: Network, reach: bool) -> None:
        self.attack, self.model, self.reach = attack, model, reach
        self.runs, self.steps = attack.restarts, attack.queries
        self._key = 0
        self._sides: Tensor | None = None

    def begin(self, examples: Examples, run: Tensor) -> State:
        x = examples.x
        if x.dim() != 4:
            raise InputError(f"x has shape {list(x.shape)}, Square needs images [B, C, H, W]")
        self._key = examples.draw.key
        if self._sides is None:
            self._sides = self._table(*x.shape[2:]).to(x.device)
        first = self.first(x, at(examples.draw, run).within("first")).contiguous()
        return {
            "x": x,
            "y": examples.y,
            "target": examples.y if examples.target is None else examples.target,
            "index": examples.draw.index,
            "run": run,
            "k": torch.zeros_like(run),
            "z": first,
            "best": first.clone(),
            "best_margin": x.new_full((len(x),), -torch.inf),
            "fooled": torch.zeros(len(x), dtype=torch.bool, device=x.device),
            "found": x,
        }

    @torch.no_grad()
    def step(self, state: State) -> State:
        """Changes z and best of the state that it is given, which are its own."""
        s = dict(state)
        logits = self.model(s["z"])
        lead = targeted_margin(logits, s["target"]) if self.reach else margin(logits, s["y"])
        if queued(lead.device) or not bool((lead < 0).all()):  # with a lead below 0 nobody has reached anything
            success = succeeds(logits, s["y"], s["target"] if self.reach else None)
            s["found"] = torch.where(spread(success & ~s["fooled"], s["z"]), s["z"], s["found"])
            s["fooled"] = s["fooled"] | success
        better = lead > s["best_margin"]
        s["best_margin"] = torch.where(better, lead, s["best_margin"])
        self.propose(s, better)
        s["k"] = s["k"] + 1
        return s

    def query(self, s: State, k: Tensor) -> tuple[Tensor, Draw]:
        """The window's side and the draw of queries number k [..., W], in one row."""
        assert self._sides is not None  # made by `begin`
        index, run = (s[name].expand_as(k).reshape(-1) for name in ("index", "run"))
        draw = at(Draw(self._key, index), run, k.reshape(-1)).within("query")
        return self._sides[k.reshape(-1).clamp(max=self.steps - 1)], draw

    def propose(self, s: State, better: Tensor) -> None:
        """Make z the best point where it is `better` [W], and then the next proposal: best with a random window
        changed.
        """
        s["best"] = torch.where(spread(better, s["z"]), s["z"], s["best"])
        s["z"] = self.change(s["best"], s["x"], *self.query(s, s["k"] + 1)).contiguous()

    @abstractmethod
    def first(self, x: Tensor, draw: Draw) -> Tensor:
        """The first proposal: an image on the threat's surface."""

    @abstractmethod
    def change(self, best: Tensor, x: Tensor, side: Tensor, draw: Draw) -> Tensor:
        """An allowed image that differs from `best` in a random window of this side [B]."""

    def _table(self, height: int, width: int) -> Tensor:
        """The side for each query [queries]."""
        attack = self.attack
        budget = attack.queries if attack.rescale else 10_000
        shares = [share_changed(query, budget, attack.p_init) for query in range(attack.queries)]
        return torch.tensor([self._rounded(square_side(p, height, width), min(height, width)) for p in shares])

    def _rounded(self, side: int, longest: int) -> int:
        return side


@dataclass
class _Ahead:
    """What lanes of these indices and runs propose in the queries from one on: see `SquareLinf`."""

    lanes: tuple[Tensor, Tensor]
    natural: Tensor
    places: Tensor | None
    """Pixels of the windows [queries, W, C, largest^2]; None where windows are large."""
    signs: Tensor
    """[queries, W, C, 1]."""
    step: int = 0

    def follows(self, s: State) -> bool:
        """Whether the lanes are the same: where one has another example or run, the tensors are others."""
        return self.lanes[0] is s["index"] and self.lanes[1] is s["run"]


class SquareLinf(_SquareSearch):
    """Every channel of the window moves to one of its two extremes (Algorithm 2); the first proposal has vertical
    stripes.
    """

    _ahead: _Ahead | None = None

    def first(self, x: Tensor, draw: Draw) -> Tensor:
        stripes = _signs(draw.uniform(x.shape[1], 1, x.shape[3], dtype=x.dtype))
        return self.attack.threat.project(x + self.attack.threat.epsilon * stripes, x)

    def change(self, best: Tensor, x: Tensor, side: Tensor, draw: Draw) -> Tensor:
        corner, signs = self._drawn(x, side, draw)
        extreme = (x + signs[..., None] * self.attack.threat.epsilon).clamp_(0, 1)
        return torch.where(_window(x, corner, side)[:, None], extreme, best)

    def _drawn(self, x: Tensor, side: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Where the window is [B, 2], and to which extreme each channel goes [B, C, 1]."""
        numbers = draw.uniform(2 + x.shape[1], dtype=x.dtype)
        return _corner(numbers, x, side), _signs(numbers[:, 2:, None])

    def propose(self, s: State, better: Tensor) -> None:
        """The same by the pixels of the windows alone, where these are small and one may look at their sizes."""
        x, epsilon = s["x"], self.attack.threat.epsilon
        ahead = None if queued(x.device) else self._looked_ahead(s)
        if ahead is None or ahead.places is None:
            return super().propose(s, better)
        z, best, natural = (values.view(*x.shape[:2], -1) for values in (s["z"], s["best"], ahead.natural))
        before, places = ahead.places[ahead.step], ahead.places[ahead.step + 1]
        # z differed from best in the window before only
        values = torch.where(better[:, None, None], z.gather(2, before), best.gather(2, before))
        best.scatter_(2, before, values)
        z.scatter_(2, before, values)
        signs = ahead.signs[ahead.step + 1]
        z.scatter_(2, places, (natural.gather(2, places) + signs * epsilon).clamp_(0, 1))
        return None

    def _looked_ahead(self, s: State) -> _Ahead:
        """The windows before and after this step, among those of some steps that are drawn at once."""
        ahead = self._ahead
        if ahead is not None and ahead.step + 2 < len(ahead.signs) and ahead.follows(s):
            ahead.step += 1
            return ahead
        x = s["x"]
        k = s["k"] + torch.arange(_AHEAD + 1)[:, None]
        side, draw = self.query(s, k)
        corner, signs = self._drawn(x, side, draw)
        largest = int(side.max())
        places = None
        if largest**2 <= _SMALL * x.shape[2] * x.shape[3]:
            places = _pixels(x, corner, side, largest).view(*k.shape, -1)[:, :, None].expand(-1, -1, x.shape[1], -1)
        self._ahead = _Ahead((s["index"], s["run"]), x.contiguous(), places, signs.view(*k.shape, *signs.shape[1:]))
        return self._ahead


class SquareBall(_SquareSearch):
    """In L2 and L1: moves the norm of one window into another, shaped as two bumps of opposite sign (Algorithm 3; Croce
    & Hein 2021).
    """

    def _rounded(self, side: int, longest: int) -> int:
        side = max(side, 3)
        return min(side + (side % 2 == 0), longest)

    def first(self, x: Tensor, draw: Draw) -> Tensor:
        """A grid of bumps, 5 by 5 for square images, each with random signs."""
        height, width = x.shape[2:]
        side = max(min(height, width) // 5, 1)
        down, across = height // side, width // side
        signs = _signs(draw.uniform(x.shape[1], down, across, dtype=x.dtype))
        orientation = draw.within("turned").uniform(down, across, dtype=x.dtype) < 0.5
        bump = bumps(side, self.attack.threat.order).to(x)
        tiles = torch.where(orientation[..., None, None], bump.T, bump)[:, None] * signs[..., None, None]
        grid = tiles.transpose(-3, -2).reshape(*x.shape[:2], down * side, across * side)
        top, leftmost = (height - down * side) // 2, (width - across * side) // 2
        delta = torch.zeros_like(x)
        delta[:, :, top : top + down * side, leftmost : leftmost + across * side] = grid
        return self._on_sphere(delta, x)

    def change(self, best: Tensor, x: Tensor, side: Tensor, draw: Draw) -> Tensor:
        numbers = draw.uniform(5 + x.shape[1], dtype=x.dtype)
        corner, other = _corner(numbers, x, side), _corner(numbers[:, 2:], x, side)
        first, second = _window(x, corner, side)[:, None], _window(x, other, side)[:, None]
        delta, order = best - x, self.attack.threat.order
        used = delta.abs().pow(order).sum((1, 2, 3), keepdim=True)
        budget = (self.attack.threat.epsilon**order - used).clamp(min=0)
        available = ((delta * (first | second)).abs().pow(order).sum((2, 3), keepdim=True) + budget / x.shape[1]).pow(
            1 / order
        )
        inside = delta * first
        bump = self._bump(x, corner, side, numbers[:, 4] < 0.5)[:, None] * _signs(numbers[:, 5:, None, None])
        shape = bump + inside / above_zero(self._size(inside))
        fresh = shape * (available / above_zero(self._size(shape)))
        return self.attack.threat.project(self._on_sphere(torch.where(first, fresh, delta * ~second), x), x)

    def _size(self, values: Tensor) -> Tensor:
        """Norm of each channel [B, C, 1, 1]."""
        order = self.attack.threat.order
        return values.abs().pow(order).sum((2, 3), keepdim=True).pow(1 / order)

    def _on_sphere(self, delta: Tensor, x: Tensor) -> Tensor:
        return (x + delta * spread(self.attack.threat.epsilon / above_zero(self.attack.threat.norm(delta)), x)).clamp(
            0, 1
        )

    def _bump(self, x: Tensor, corner: Tensor, side: Tensor, turned: Tensor) -> Tensor:
        """The unit bumps of this side at this corner, zero elsewhere [B, H, W]."""
        longest = max(x.shape[2:])
        if self._bumps is None:
            order = self.attack.threat.order
            tables = [
                torch.nn.functional.pad(bumps(h, order), (0, longest - h, 0, longest - h))
                for h in range(1, longest + 1)
            ]
            self._bumps = torch.stack([torch.zeros(longest, longest, dtype=torch.float64), *tables]).to(x)
        down = (torch.arange(x.shape[2], device=x.device) - corner[:, :1]).clamp(min=0)[:, :, None]
        across = (torch.arange(x.shape[3], device=x.device) - corner[:, 1:]).clamp(min=0)[:, None, :]
        turned = turned[:, None, None]
        values = self._bumps[side[:, None, None], torch.where(turned, across, down), torch.where(turned, down, across)]
        return values * _window(x, corner, side)

    _bumps: Tensor | None = None


def bumps(side: int, order: float = 2) -> Tensor:
    """Two pyramids of opposite sign side by side, together [side, side] of norm 1 of this order, float64 (Eq. 2)."""
    if side == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    half = side // 2
    halves = torch.cat([_pyramid(side, half), -_pyramid(side, side - half)], 1)
    return halves / halves.norm(order)


def _pyramid(height: int, width: int) -> Tensor:
    """eta_rs = sum over k = 0 .. M_rs of 1 / (n + 1 - k)^2, n = height // 2, M_rs = n - max(|r - n|, |s - width // 2|),
    0-based.
    """
    n = height // 2
    r, s = torch.arange(height)[:, None], torch.arange(width)[None]
    reach = n - torch.maximum((r - n).abs(), (s - width // 2).abs())
    levels = torch.cumsum(1 / torch.arange(n + 1, 0, -1, dtype=torch.float64).square(), 0)
    return levels[reach]


def _signs(numbers: Tensor) -> Tensor:
    """+1 or -1 of uniform numbers."""
    return torch.where(numbers < 0.5, -1.0, 1.0).to(numbers.dtype)


def _corner(numbers: Tensor, x: Tensor, side: Tensor) -> Tensor:
    """Top and left of a uniformly placed window [B, 2], from two uniform numbers per example."""
    room = torch.stack([x.shape[2] - side, x.shape[3] - side], 1)
    return torch.minimum((numbers[:, :2] * (room + 1)).long(), room)


def _pixels(x: Tensor, corner: Tensor, side: Tensor, largest: int) -> Tensor:
    """The places in an image of the pixels of each window, all of its last row and column again where it is not the
    largest [B, largest^2].
    """
    along = torch.arange(largest, device=x.device).expand(len(side), -1)
    along = torch.minimum(along, side[:, None] - 1)
    down, across = (corner[:, :1] + along) * x.shape[3], corner[:, 1:] + along
    return (down[:, :, None] + across[:, None, :]).flatten(1)


def _window(x: Tensor, corner: Tensor, side: Tensor) -> Tensor:
    """Which pixels lie in the window [B, H, W]."""
    down = torch.arange(x.shape[2], device=x.device) - corner[:, :1]
    across = torch.arange(x.shape[3], device=x.device) - corner[:, 1:]
    side = side[:, None]
    return ((down >= 0) & (down < side))[:, :, None] & ((across >= 0) & (across < side))[:, None, :]
