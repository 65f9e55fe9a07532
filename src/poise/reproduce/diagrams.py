"""The papers' diagrams, as boxes and arrows."""

from __future__ import annotations

from poise.reports.figures.series import Box, Diagram, Panel

MIXED = "$\\gamma\\theta_r + (1-\\gamma)\\theta_n$"


def pipeline() -> list[Panel]:
    """Generalist: two base learners, each with its task and settings, and the global learner that mixes them."""
    boxes = (
        Box("x", 0.1, 0.78, 0.15, 0.14, "natural\nimages x"),
        Box("x_adv", 0.1, 0.22, 0.15, 0.14, "adversarial\nimages x'"),
        Box("natural", 0.42, 0.78, 0.26, 0.18, "natural learner $\\theta_n$\nits loss, optimizer,\nschedule, average"),
        Box("robust", 0.42, 0.22, 0.26, 0.18, "robust learner $\\theta_r$\nits loss, optimizer,\nschedule, average"),
        Box(
            "global",
            0.84,
            0.5,
            0.24,
            0.2,
            "global learner\n$\\theta_g$, EMA of\n$\\gamma\\theta_r + (1-\\gamma)\\theta_n$",
        ),
    )
    arrows = (
        ("x", "natural", ""),
        ("x_adv", "robust", ""),
        ("robust", "x_adv", ""),
        ("natural", "global", "every step"),
        ("robust", "global", "every step"),
        ("global", "natural", ""),
        ("global", "robust", "every c epochs"),
    )
    return [Panel("", "", "", diagram=Diagram(boxes, arrows))]


def dual_head() -> list[Panel]:
    """Synergy-of-Experts: one backbone, a head that predicts and one that says how far to trust it."""
    boxes = (
        Box("x", 0.1, 0.5, 0.12, 0.16, "input x"),
        Box("backbone", 0.37, 0.5, 0.2, 0.2, "backbone"),
        Box("p", 0.75, 0.75, 0.3, 0.18, "P head $f_\\theta$\nprobability of each label"),
        Box("e", 0.75, 0.25, 0.3, 0.18, "E head $g_\\phi$\nconfidence, towards $p_y(x)$"),
    )
    arrows = (("x", "backbone", ""), ("backbone", "p", "features"), ("backbone", "e", "features"))
    return [Panel("", "", "", diagram=Diagram(boxes, arrows))]


def optimisation(members: int = 3) -> list[Panel]:
    """Synergy-of-Experts: every sub-model's losses on one datum, and the surrogate that trains the best of them."""
    boxes = [Box("x", 0.08, 0.5, 0.12, 0.16, "x, y")]
    arrows = []
    for place in range(1, members + 1):
        y = 1 - (place - 0.5) / members
        boxes.append(Box(f"f{place}", 0.32, y, 0.18, 0.16, f"sub-model {place}"))
        boxes.append(Box(f"l{place}", 0.58, y, 0.16, 0.16, f"CE loss $\\ell_{place}$"))
        arrows += [("x", f"f{place}", ""), (f"f{place}", f"l{place}", ""), (f"l{place}", "s", "")]
    boxes.append(Box("s", 0.86, 0.5, 0.22, 0.2, "smooth minimum\n$-\\sigma\\ln\\sum e^{-\\ell/\\sigma}$"))
    return [Panel("", "", "", diagram=Diagram(tuple(boxes), tuple(arrows)))]


def phases() -> list[Panel]:
    """Synergy-of-Experts: attacks on each sub-model alone, then on the collaboration."""
    boxes = (
        Box("one", 0.15, 0.75, 0.24, 0.18, "phase I: PGD on\neach sub-model alone"),
        Box("fit", 0.5, 0.75, 0.26, 0.18, "the best sub-model\nlearns each example"),
        Box("trust", 0.85, 0.75, 0.24, 0.18, "E heads learn how\nfar to trust each"),
        Box("two", 0.15, 0.25, 0.24, 0.18, "phase II: PGD on\nthe collaboration"),
        Box("choose", 0.5, 0.25, 0.26, 0.18, "the most confident\nsub-model answers"),
        Box("again", 0.85, 0.25, 0.24, 0.18, "all heads learn from\nwhat fools the choice"),
    )
    arrows = (
        ("one", "fit", ""),
        ("fit", "trust", ""),
        ("trust", "two", ""),
        ("two", "choose", ""),
        ("choose", "again", ""),
    )
    return [Panel("", "", "", diagram=Diagram(boxes, arrows))]
