"""Pictures that need no runs: what a proof says in numbers, problems in the plane, diagrams."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from poise.reports.figures.series import Panel, Point, Series
from poise.reproduce import diagrams, plane

TAUS = tuple(10 ** (-4 + place / 4) for place in range(13))
"""Step sizes from 1e-4 to .1."""


def meta_gradients(tau: float, c: int = 3, size: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """The gradient [size] of l_{t+c}(theta^{t+c}) by theta^t through c steps of SGD on quadratics of random Hessians:
    "exact"; "Eq. 12", its expansion to first order in tau; and "gradient alone", to order zero.
    """
    generator = torch.Generator().manual_seed(seed)
    roots = torch.randn(c + 1, size, size, generator=generator, dtype=torch.float64)
    hessians, centres = roots @ roots.mT, torch.randn(c + 1, size, generator=generator, dtype=torch.float64)
    start = torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
    theta = start
    for j in range(c):
        theta = theta - tau * hessians[j] @ (theta - centres[j])
    loss = 0.5 * (theta - centres[c]) @ hessians[c] @ (theta - centres[c])
    (exact,) = torch.autograd.grad(loss, start)
    bars = torch.einsum("jab,jb->ja", hessians, start.detach() - centres)
    terms = tau * sum(hessians[j] @ bars[c] for j in range(c)) + tau * hessians[c] @ bars[:c].sum(0)
    return {"exact": exact, "Eq. 12": bars[c] - terms, "gradient alone": bars[c]}


def meta_gradient() -> list[Panel]:
    """Relative errors of both expansions over tau, as powers of ten: of slope 2 and 1."""
    curves: dict[str, list[Point]] = {"Eq. 12": [], "gradient alone": []}
    for tau in TAUS:
        gradients = meta_gradients(tau)
        exact = gradients["exact"]
        for name, points in curves.items():
            error = float((gradients[name] - exact).norm() / exact.norm())
            points.append(Point(math.log10(tau), math.log10(error)))
    series = tuple(Series(name, tuple(points)) for name, points in curves.items())
    return [Panel("", "log10 of the step size tau", "log10 of the relative error", series)]


ALONE: dict[str, Callable[[], list[Panel]]] = {
    "theory/meta-gradient": meta_gradient,
    "zipper/fig1": diagrams.pipeline,
    "soe/fig1": plane.vulnerability,
    "soe/fig2a": plane.assignment,
    "soe/fig2b": diagrams.dual_head,
    "soe/fig3": diagrams.optimisation,
    "soe/fig4": diagrams.phases,
}
"""By item."""
