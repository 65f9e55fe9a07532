"""Attacks of other libraries as Poise's: in any protocol, on the command, by keyed seeds, within a checked threat."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import random
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from poise.attacks.attack import Attack
from poise.core import papers
from poise.core.answers import answer
from poise.core.arguments import NONE, Arguments
from poise.core.errors import InputError, MissingExtraError, PoiseError, SettingsError, did_you_mean
from poise.core.seeds import Draw, key_of, seeded
from poise.core.settings import settings
from poise.threats import Linf, Threat, spread

_NORMS = {"inf": "Linf", "2": "L2", "1": "L1"}


@dataclass(frozen=True, kw_only=True)
class ThirdParty(Attack):
    """An attack of another library by its name there, with that library's defaults.

    Its random numbers are those of torch, NumPy and Python, seeded by the draw of the images that it is shown together,
    so that they depend on the batch unless images are shown alone. What it gives back is held against the threat.
    """

    transparent = "arguments"
    package: ClassVar[str]
    """What is imported; its attacks lie in `module`."""
    module: ClassVar[str]
    distribution: ClassVar[str]
    install: ClassVar[str]

    threat: Threat = Linf()  # noqa: RUF009  settings are frozen
    """Epsilon, and where the attack takes it the norm, are given to the attack."""
    name: Annotated[str, Field(min_length=1)] = ""  # pyright: ignore[reportIncompatibleMethodOverride]
    """The attack's class in its library."""
    arguments: Arguments = NONE
    """Further arguments of that class; what is no setting here goes there: `Torchattacks(name="PGD", steps=20)`."""
    alone: bool = False
    """Show images one by one, so that what is found of one does not depend on the others; slow."""
    outside: Literal["refuse", "natural", "project"] = "refuse"
    """What becomes of images outside the threat, as attacks of least distance find them: they end the attack, count as
    not found, or are projected back.
    """

    def forwards(self) -> float:
        steps = next((value for word in ("steps", "max_iter") if (value := self.arguments.get(word))), 10)
        return 2.0 * steps + 1 if isinstance(steps, int) else 21.0

    def check(self, model: nn.Module) -> None:
        """Raises: MissingExtraError without the library; SettingsError where it has no such attack."""
        self.kind()

    def facts(self, model: nn.Module) -> dict[str, Any]:
        return {"third_party": f"{self.distribution} {metadata.version(self.distribution)}"}

    def kind(self) -> type:
        """The attack's class. Raises: as `check`."""
        with _quiet():
            try:
                module = importlib.import_module(self.module)
            except ImportError as error:
                if (error.name or "").partition(".")[0] == self.package:
                    raise MissingExtraError(self.package, "", self.install) from None
                raise SettingsError(f"{self.package} cannot be imported: {str(error).partition(chr(10))[0]}") from None
        names_there = [name for name, value in vars(module).items() if inspect.isclass(value) and self.is_attack(value)]
        if self.name not in names_there:
            raise SettingsError(
                f"{type(self).__name__}.name = {self.name!r} is no attack of {self.package}"
                f"{did_you_mean(self.name, names_there)}"
            )
        return getattr(module, self.name)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        make, maker_model = self.kind(), _Asked(model)
        pieces = torch.arange(len(x), device=x.device).split(1 if self.alone else len(x))
        results = []
        for rows in pieces:
            key = key_of(draw.key, *draw.index[rows].tolist())
            part, labels = x[rows], y[rows]
            towards = None if target is None else target[rows]
            with _drawing(key, x.device), _quiet(), torch.enable_grad(), self._named():
                z = self.run(make, maker_model, part.clone(), labels.clone(), towards)
            results.append(self._within(z, part))
        return torch.cat(results)

    @abstractmethod
    def is_attack(self, kind: type) -> bool:
        """Whether a class of the library's module is one of its attacks."""

    @abstractmethod
    def run(self, make: Callable[..., Any], model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None) -> object:
        """The library's images for x [B, C, H, W] in [0, 1], as it returns them."""

    def made(self, make: Callable[..., Any], *first: object, **own: object) -> Any:
        """The attack's object. own: arguments that follow from the threat and the network, given where it takes them.

        Raises: SettingsError for arguments that it does not take, or that contradict the threat.
        """
        words = _words(make)
        options = {word: value for word, value in own.items() if word in words}
        for word, value in self.arguments.items():
            if word not in words:
                raise SettingsError(
                    f"{type(self).__name__}.arguments: {self.name} takes no {word!r}{did_you_mean(word, words)}"
                )
            if word in ("eps", "max_epsilon", "norm") and word in options and options[word] != value:
                raise SettingsError(
                    f"{type(self).__name__}.arguments: {word} = {value!r}, but the threat is {self.threat}; leave it"
                    " out, or change the threat"
                )
            options[word] = list(value) if isinstance(value, tuple) else value
        try:
            return make(*first, **options)
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"{type(self).__name__}.arguments: {self.name} cannot be made: {str(error).partition(chr(10))[0]}"
            ) from None

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Raises: InputError for whatever the library raises."""
        try:
            yield
        except (PoiseError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or "without a word"
            raise InputError(
                f"{self.name} of {self.package} does not work here, it raised {type(error).__name__}: {reason}"
            ) from error

    def _within(self, found: object, x: Tensor) -> Tensor:
        """The images that were found, all in the threat. Raises: InputError for others, unless `outside` says what
        becomes of them.
        """
        if not isinstance(found, Tensor) or found.shape != x.shape:
            description = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"{self.name} of {self.package} returned {description}, must return images {list(x.shape)}"
            )
        z = found.detach().to(x)
        slack = _SLACK * (1 + self.threat.epsilon)
        inside_box = z.clamp(0, 1)
        out_of_box = (z - inside_box).flatten(1).abs().amax(1) > slack
        size = self.threat.norm(inside_box - x)
        out_of_ball = size > self.threat.epsilon + slack
        outside = out_of_box | out_of_ball
        if self.outside == "refuse" and bool(outside.any()):
            counts = {"[0, 1]": int(out_of_box.sum()), str(self.threat): int(out_of_ball.sum())}
            places_text = " and ".join(
                f"{place} on {count} of {len(x)} images" for place, count in counts.items() if count
            )
            raise InputError(
                f"{self.name} of {self.package} left {places_text} (up to {float(size.max()):.4g}); set outside to"
                " 'natural' (they count as not found) or 'project'"
            )
        # rounding too is taken back, so that no image is outside
        inside = torch.where(spread(size > self.threat.epsilon, x), self.threat.project(inside_box, x), inside_box)
        return torch.where(spread(outside, x), x, inside) if self.outside == "natural" else inside


_SLACK = 2e-6
"""Rounding of other people's arithmetic: pixels, and lengths as a share of 1 + epsilon."""


@settings
class Torchattacks(ThirdParty):
    """An attack of the torchattacks library (Kim 2020), such as `Torchattacks(name="DIFGSM")`.

    It is installed by `pip install --no-deps torchattacks`: it asks for a torchvision that it does not need.
    """

    paper = papers.TORCHATTACKS
    package = "torchattacks"
    module = "torchattacks"
    distribution = "torchattacks"
    install = "pip install --no-deps torchattacks"
    name: Annotated[str, Field(min_length=1)] = "DIFGSM"  # pyright: ignore[reportIncompatibleMethodOverride]

    if TYPE_CHECKING:  # arguments may stand beside the settings

        def __init__(self, **settings: Any) -> None: ...

    def is_attack(self, kind: type) -> bool:
        return hasattr(kind, "set_mode_targeted_by_label")

    def run(self, make: Callable[..., Any], model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None) -> object:
        with torch.no_grad():
            classes = answer(model, x[:1]).shape[1]
        bounds = {"eps": self.threat.epsilon, "max_epsilon": self.threat.epsilon, "norm": _norm(self.threat)}
        # some seed themselves, by the time of day
        attack = self.made(make, model, **bounds, n_classes=classes, seed=torch.initial_seed() % 2**31)
        attack.set_device(x.device)
        if target is not None:
            attack.set_mode_targeted_by_label(quiet=True)
        return attack(x, y if target is None else target)


@settings
class Foolbox(ThirdParty):
    """An attack of the foolbox library (Rauber et al. 2020), such as `Foolbox(name="LinfDeepFoolAttack")`: its images
    at epsilon, which for attacks of least distance are clipped to it.
    """

    paper = papers.FOOLBOX
    package = "foolbox"
    module = "foolbox.attacks"
    distribution = "foolbox"
    install = "pip install 'poise[foolbox]'"
    name: Annotated[str, Field(min_length=1)] = "LinfDeepFoolAttack"  # pyright: ignore[reportIncompatibleMethodOverride]

    if TYPE_CHECKING:  # arguments may stand beside the settings

        def __init__(self, **settings: Any) -> None: ...

    def is_attack(self, kind: type) -> bool:
        return hasattr(kind, "repeat") and not inspect.isabstract(kind)

    def run(self, make: Callable[..., Any], model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None) -> object:
        foolbox = importlib.import_module("foolbox")
        network = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        goal = foolbox.Misclassification(y) if target is None else foolbox.TargetedMisclassification(target)
        distance = getattr(foolbox.distances, (_norm(self.threat) or "").lower(), None)
        return self.made(make, distance=distance)(network, x, goal, epsilons=self.threat.epsilon)[1]


@settings
class ART(ThirdParty):
    """An attack of the Adversarial Robustness Toolbox (Nicolae et al. 2018), such as `ART(name="SquareAttack")`."""

    paper = papers.ART
    package = "art"
    module = "art.attacks.evasion"
    distribution = "adversarial-robustness-toolbox"
    install = "pip install 'poise[art]'"
    name: Annotated[str, Field(min_length=1)] = "AutoProjectedGradientDescent"  # pyright: ignore[reportIncompatibleMethodOverride]

    if TYPE_CHECKING:  # arguments may stand beside the settings

        def __init__(self, **settings: Any) -> None: ...

    def is_attack(self, kind: type) -> bool:
        return hasattr(kind, "generate") and hasattr(kind, "attack_params")

    def run(self, make: Callable[..., Any], model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None) -> object:
        with torch.no_grad():
            classes = answer(model, x[:1]).shape[1]
        wrapper = importlib.import_module("art.estimators.classification").PyTorchClassifier
        network = wrapper(
            model=model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if x.is_cuda else "cpu",
        )
        norm = {"Linf": np.inf, "L2": 2, "L1": 1}.get(_norm(self.threat) or "")
        attack = self.made(
            make, network, eps=self.threat.epsilon, norm=norm, verbose=False, targeted=target is not None
        )
        if target is not None and not attack.targeted:
            raise InputError(f"{self.name} of {self.package} cannot be targeted; leave target out")
        labels = np.eye(classes, dtype=np.float32)[(y if target is None else target).cpu().numpy()]
        return torch.from_numpy(np.asarray(attack.generate(x.float().cpu().numpy(), labels)))


class _Asked(nn.Module):
    """The network as other libraries get it: in evaluation mode, every answer checked."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return answer(self.network, x)

    def train(self, mode: bool = True) -> _Asked:
        """It stays as the attack was begun: in evaluation mode."""
        return self


def _norm(threat: Threat) -> str | None:
    return _NORMS.get(f"{threat.order:g}")


def _words(make: Callable[..., Any]) -> list[str]:
    """The arguments that a class takes, those of the classes that it hands them on to included."""
    words: dict[str, None] = {}
    for kind in inspect.getmro(make) if inspect.isclass(make) else (make,):
        parameters = inspect.signature(kind.__init__).parameters.values()
        words |= {
            parameter.name: None
            for parameter in parameters
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        }
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return [word for word in words if word not in ("self", "model", "estimator", "classifier")]


@contextlib.contextmanager
def _drawing(key: int, device: torch.device) -> Iterator[None]:
    """torch's, NumPy's and Python's generators at the key, as they were before afterwards."""
    numpy_state = np.random.get_state()  # noqa: NPY002  the one that other libraries draw from
    python_state = random.getstate()
    try:
        np.random.seed(key % 2**32)  # noqa: NPY002
        random.seed(key)
        with seeded(key, device=device):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What a library prints and warns of its own code is none of the user's business."""
    away = io.StringIO()
    with contextlib.redirect_stdout(away), contextlib.redirect_stderr(away), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
