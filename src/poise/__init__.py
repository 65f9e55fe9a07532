"""Poise trains image classifiers that keep their accuracy under attack, and measures both numbers honestly.

    import poise
    run = poise.train("generalist_digits", out="runs/first")
    model = poise.load(run.path)                 # images in [0, 1] -> logits
    x_adv = poise.attacks.PGD()(model, x, y)

Everything with a paper's name is a frozen, stateless dataclass: its fields are the paper's hyperparameters, its methods
the paper's algorithm. Everything that changes during training lives in a Learner, or in the Run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from poise.core.errors import PoiseError
from poise.core.version import __version__

if TYPE_CHECKING:
    from poise import (
        attacks,
        data,
        evaluation,
        learners,
        losses,
        methods,
        models,
        objectives,
        recipes,
        reports,
        threats,
        verbs,
    )
    from poise.core.overrides import override
    from poise.core.settings import configurable, from_json, settings, to_json
    from poise.engine import Callback, Experiment, Run, resume, train_or_resume
    from poise.learners import Policy
    from poise.methods import Generalist, Joint
    from poise.recipes import experiment as recipe
    from poise.sweeps.sweep import sweep
    from poise.threats import L2, Linf
    from poise.verbs.advise import advise
    from poise.verbs.agreement import agreement
    from poise.verbs.attack import attack
    from poise.verbs.bundle import bundle
    from poise.verbs.corruptions import corruptions
    from poise.verbs.embed import embed
    from poise.verbs.evaluate import evaluate
    from poise.verbs.export import export
    from poise.verbs.load import load
    from poise.verbs.pseudo_label import pseudo_label
    from poise.verbs.push import push
    from poise.verbs.report import report
    from poise.verbs.sanity import sanity
    from poise.verbs.subject import Subject
    from poise.verbs.train import train
    from poise.verbs.transfer import transfer

_VERBS = (
    "advise",
    "agreement",
    "attack",
    "bundle",
    "corruptions",
    "embed",
    "evaluate",
    "export",
    "load",
    "pseudo_label",
    "push",
    "report",
    "sanity",
    "train",
    "transfer",
)
_HOME = {
    **{name: ("poise.engine", name) for name in ("Callback", "Experiment", "Run", "resume", "train_or_resume")},
    **{verb: (f"poise.verbs.{verb}", verb) for verb in _VERBS},
    **{name: ("poise.core.settings", name) for name in ("configurable", "from_json", "settings", "to_json")},
    **{name: ("poise.methods", name) for name in ("Generalist", "Joint")},
    **{name: ("poise.threats", name) for name in ("L2", "Linf")},
    "Policy": ("poise.learners", "Policy"),
    "override": ("poise.core.overrides", "override"),
    "sweep": ("poise.sweeps.sweep", "sweep"),
    "Subject": ("poise.verbs.subject", "Subject"),
    "recipe": ("poise.recipes", "experiment"),
}
_MODULES = (
    "attacks",
    "data",
    "evaluation",
    "learners",
    "losses",
    "methods",
    "models",
    "objectives",
    "recipes",
    "reports",
    "threats",
    "verbs",
)

__all__ = [
    "L2",
    "Callback",
    "Experiment",
    "Generalist",
    "Joint",
    "Linf",
    "PoiseError",
    "Policy",
    "Run",
    "Subject",
    "__version__",
    "advise",
    "agreement",
    "attack",
    "attacks",
    "bundle",
    "configurable",
    "corruptions",
    "data",
    "embed",
    "evaluate",
    "evaluation",
    "export",
    "from_json",
    "learners",
    "load",
    "losses",
    "methods",
    "models",
    "objectives",
    "override",
    "pseudo_label",
    "push",
    "recipe",
    "recipes",
    "report",
    "reports",
    "resume",
    "sanity",
    "settings",
    "sweep",
    "threats",
    "to_json",
    "train",
    "train_or_resume",
    "transfer",
    "verbs",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that the front page costs nothing (PEP 562)."""
    if name in _HOME:
        module, attribute = _HOME[name]
        return getattr(importlib.import_module(module), attribute)
    if name in _MODULES:
        return importlib.import_module(f"poise.{name}")
    raise AttributeError(f"module 'poise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
