"""What `poise.interop.autoattack` is made of: the model as a network, and the sub-attacks under the package's names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from poise.attacks.autoattack.apgd import APGD
from poise.attacks.autoattack.compact import CompactAttack
from poise.attacks.autoattack.fab import FAB
from poise.attacks.autoattack.square import Square
from poise.core.errors import SettingsError, UnknownNameError, did_you_mean
from poise.core.seeds import everyone
from poise.interop.asking import check_tensor, own_names, predicted
from poise.threats import L1, L2, Linf, Threat

PART_NAMES = {
    "epsilon": "eps",
    "steps": "n_iter",
    "restarts": "n_restarts",
    "queries": "n_queries",
    "eot_iterations": "eot_iter",
    "targets": "n_target_classes",
    "rescale": "resc_schedule",
    "x": "x",
    "y": "y",
}
"""What the sub-attacks call Poise's settings and arguments."""
Model = Callable[[Tensor], Tensor]
"""A network, or any function: images [B, C, H, W] in [0, 1] -> logits [B, C]."""


def threat_of(norm: str, eps: float) -> Threat:
    """Raises: SettingsError for another norm than Linf, L2 and L1, or an eps out of range."""
    norms: dict[str, type[Linf] | type[L2] | type[L1]] = {"Linf": Linf, "L2": L2, "L1": L1}
    if norm not in norms:
        raise SettingsError(f"norm = {norm!r}, must be 'Linf', 'L2' or 'L1'")
    return norms[norm](epsilon=eps)


def refused(kind: str, *, eps: bool = False, **others: object) -> None:
    """Raises: SettingsError where eps was not given, or for a setting of the package's that is not had here."""
    if eps:
        raise SettingsError(f"{kind}.eps = None: must be a number")
    for name, value in others.items():
        if value:
            raise SettingsError(f"{kind}.{name} = {value!r}: is not had here; leave it out")


def radii_of(norm: str, use_largereps: bool) -> dict[str, Any]:
    """APGD's radii, where a norm has them and they are asked for: first within 3 and 2 epsilons."""
    return {"radii": (3.0, 2.0, 1.0)} if norm == "L1" and use_largereps else {}


class Function(nn.Module):
    """A function as a network. It is asked as it is: networks behind it keep their modes, and a state file does not
    know their weights.
    """

    def __init__(self, function: Model) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Function:
        return self  # a copy of what lies behind it would not follow its weights


def as_network(model: Model) -> nn.Module:
    """Raises: SettingsError for what cannot be called."""
    if isinstance(model, nn.Module):
        return model
    if not callable(model):
        raise SettingsError(f"model is {type(model).__name__}, must be a network or a function from images to logits")
    return Function(model)


def device_of(network: nn.Module, device: torch.device | str | None, x: Tensor) -> torch.device:
    """Where the network is asked: where its parameters are, else where the user says, else where the images are."""
    here = next((parameter.device for parameter in network.parameters()), None)
    return here if here is not None else torch.device(device) if device is not None else x.device


class Named(ABC):
    """Objects whose attributes have the package's names; an unknown one is refused, as assigning it would change
    nothing.
    """

    other_names: ClassVar[Mapping[str, str]] = {}
    """Further names that the package has for an attribute."""

    @classmethod
    @abstractmethod
    def names(cls) -> list[str]:
        """The attributes that may be assigned."""

    def __getattr__(self, name: str) -> Any:  # asked only for what is not there
        if name in type(self).other_names:
            return getattr(self, type(self).other_names[name])
        raise self._unknown(name)

    def __setattr__(self, name: str, value: object) -> None:
        name = type(self).other_names.get(name, name)
        if name not in self.names() and not name.startswith("_"):
            raise self._unknown(name)
        super().__setattr__(name, value)

    def _unknown(self, name: str) -> AttributeError:
        if name.startswith("__"):  # asked by Python itself
            return AttributeError(name)
        all_names = [*self.names(), *type(self).other_names]
        return UnknownNameError(f"{type(self).__name__} has no attribute {name!r}{did_you_mean(name, all_names)}")


@dataclass
class Part(Named):
    """What a sub-attack needs besides its own settings. verbose: whether `perturb` prints the accuracy before and after
    it.
    """

    model: Model
    norm: str
    eps: float
    seed: int | None
    device: torch.device | str | None = None
    verbose: bool = False

    @classmethod
    def names(cls) -> list[str]:
        return [field.name for field in fields(cls)]

    @abstractmethod
    def native(self) -> CompactAttack:
        """The attack of ours with these settings."""

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial images [B, C, H, W]; where none was found, the image itself."""
        network = as_network(self.model)
        check_tensor(x, f"{type(self).__name__}: x", "a tensor [B, C, H, W]")
        check_tensor(y, f"{type(self).__name__}: y", "a tensor [B], one class per image")
        device = device_of(network, self.device, x)
        x, y = x.to(device), y.to(device)
        with own_names(self, PART_NAMES):
            x_adv = self.native()(network, x, y, draw=everyone(self.seed or 0, "perturb", count=len(x), device=device))
        if self.verbose:
            before, after = (float((predicted(network, z) == y).double().mean()) for z in (x, x_adv))
            print(f"initial accuracy: {before:.2%}, robust accuracy: {after:.2%}", flush=True)
        return x_adv


@dataclass
class APGDAttack(Part):
    """APGD under the package's names."""

    other_names = {"thr_decr": "rho"}
    n_restarts: int = 5
    n_iter: int = 100
    loss: Literal["ce", "dlr"] = "ce"
    eot_iter: int = 1
    rho: float = 0.75
    use_largereps: bool = False

    def native(self) -> APGD:
        loss = "cross_entropy" if self.loss == "ce" else "dlr"
        rest = {"steps": self.n_iter, "restarts": self.n_restarts, "eot_iterations": self.eot_iter, "rho": self.rho}
        radii = radii_of(self.norm, self.use_largereps)
        return APGD(threat=threat_of(self.norm, self.eps), loss=loss, **rest, **radii)


@dataclass
class APGDTargeted(Part):
    """APGD-T under the package's names."""

    other_names = {"thr_decr": "rho"}
    n_restarts: int = 1
    n_iter: int = 100
    n_target_classes: int = 9
    eot_iter: int = 1
    rho: float = 0.75
    use_largereps: bool = False

    def native(self) -> APGD:
        rest = {"steps": self.n_iter, "restarts": self.n_restarts, "eot_iterations": self.eot_iter, "rho": self.rho}
        radii, threat = radii_of(self.norm, self.use_largereps), threat_of(self.norm, self.eps)
        return APGD(threat=threat, loss="targeted_dlr", targets=self.n_target_classes, **rest, **radii)


@dataclass
class FABAttack(Part):
    """FAB and FAB-T under the package's names."""

    other_names = {"predict": "model"}
    n_restarts: int = 5
    n_iter: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    targeted: bool = False
    n_target_classes: int = 9

    def native(self) -> FAB:
        shape = {"alpha_max": self.alpha_max, "eta": self.eta, "beta": self.beta}
        budget = {"steps": self.n_iter, "restarts": self.n_restarts, "targets": self.n_target_classes}
        return FAB(threat=threat_of(self.norm, self.eps), targeted=self.targeted, **shape, **budget)


@dataclass
class SquareAttack(Part):
    """Square under the package's names."""

    other_names = {"predict": "model", "rescale_schedule": "resc_schedule"}
    n_restarts: int = 1
    n_queries: int = 5000
    p_init: float = 0.8
    resc_schedule: bool = False

    def native(self) -> Square:
        budget = {"queries": self.n_queries, "restarts": self.n_restarts}
        return Square(threat=threat_of(self.norm, self.eps), p_init=self.p_init, rescale=self.resc_schedule, **budget)
