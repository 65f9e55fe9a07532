"""One attack for every network of a comparison: it takes the forms that fit the network and keeps the worst of them per
example.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from poise.attacks.adaptive import Aim, adaptive_form, chooses, entropy_form, softened, untargeted
from poise.attacks.ascent import Start
from poise.attacks.attack import Attack
from poise.attacks.pgd import Form, run_of, worst_of
from poise.core import papers
from poise.core.errors import InputError
from poise.core.seeds import Draw
from poise.core.settings import NonNegative, Positive, PositiveCount, settings
from poise.models.ensemble import CollaborationModule, EnsembleModule, log_mean_probabilities, mean_logits, unwrapped
from poise.models.folding import surrogate
from poise.models.mixture import MixtureModule
from poise.threats import Linf, Threat

_AIMS: tuple[Aim, ...] = ("confidence", "mismatch")
_SEVERAL = (CollaborationModule, EnsembleModule, MixtureModule)


@settings
class AimedPGD(Attack):
    """PGD in every form that fits the network, so that a choice, a vote or a gate cannot hide behind its missing
    gradient.

    Any network: CE of its output. A collaboration: both adaptive losses for every lambda, and the mixture that its
    choice is the
    limit of. An ensemble: CE of its members' mean probabilities (a vote's own CE has the same direction) and of their
    mean logits, and where its members choose, with mixtures in place of their choices. Whatever has experts: every form
    of each of them. The notes of its record say how many forms and runs it took.
    """

    paper = papers.SYNERGY
    threat: Threat = Linf()
    step_size: Positive = 8 / 255 / 5
    steps: PositiveCount = 50
    start: Start = "uniform"
    restarts: PositiveCount = 1
    """Of each form."""
    runs: PositiveCount | None = None
    """At least so many runs on every network, so that those of few forms are not attacked less than those of many:
    after all of its own, further starts of the forms in turn."""
    lambdas: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """Weights of the adaptive losses' second part."""
    temperature: Positive = 0.1
    """Of the mixture over confidences."""

    @property
    def name(self) -> str:
        runs_text = "" if self.runs is None else f"-{self.runs}runs"
        return f"AimedPGD-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "") + runs_text

    def check(self, model: nn.Module) -> None:
        """A network of several that is hidden in another would be attacked as one network, under the same name."""
        whole, members_reached = unwrapped(model), set(map(id, _several_in(model)))
        inner = next(
            (part for part in whole.modules() if isinstance(part, _SEVERAL) and id(part) not in members_reached), None
        )
        if inner is not None:
            inner_name, where = (type(each).__name__.removesuffix("Module") for each in (inner, whole))
            raise InputError(
                f"AimedPGD cannot reach the {inner_name} inside {where}; attack it itself, with what goes before it in"
                " its members"
            )

    def facts(self, model: nn.Module) -> dict[str, Any]:
        forms = len(self.forms(unwrapped(model)))
        return {"forms": forms, "runs": len(self._plan(forms))}

    def forwards(self) -> float:
        """Of a plain network; one of several has more forms, and with `runs` as many runs as are said."""
        return 2.0 * self.steps * (self.runs or self.restarts) + 1

    def _plan(self, forms: int) -> list[tuple[int, int]]:
        """(form, restart) of every run."""
        pairs = [(form, restart) for form in range(forms) for restart in range(self.restarts)]
        return pairs + [(more % forms, self.restarts + more // forms) for more in range((self.runs or 0) - len(pairs))]

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        untargeted(target, "AimedPGD")
        forms = self.forms(surrogate(unwrapped(model)))
        runs = [run_of(self, forms[form], "restart", restart) for form, restart in self._plan(len(forms))]
        return worst_of(runs, model, x, y, draw)

    def forms(self, model: nn.Module) -> list[Form]:
        """Every form that fits the network."""
        found = [entropy_form(model)]
        if isinstance(model, CollaborationModule):
            found.append(entropy_form(lambda z: softened(model, z, self.temperature)))
            found += [adaptive_form(model, aim, weight) for weight in self.lambdas if weight > 0 for aim in _AIMS]
        if isinstance(model, EnsembleModule):
            mean_of_members = log_mean_probabilities if model.output == "mean_logits" else mean_logits
            found.append(entropy_form(lambda z: mean_of_members(model.all_logits(z))))
            if any(map(chooses, model.members)):
                found.append(entropy_form(lambda z: softened(model, z, self.temperature)))
        if isinstance(model, _SEVERAL):
            found += [form for member in model.members for form in self.forms(unwrapped(member))]
        return found


def _several_in(model: nn.Module) -> Iterator[nn.Module]:
    """The networks of several that the forms reach: the whole, and among the members of one."""
    whole = unwrapped(model)
    if isinstance(whole, _SEVERAL):
        yield whole
        for member in whole.members:
            yield from _several_in(member)
