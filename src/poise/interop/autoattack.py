"""The names of the `autoattack` package over Poise's AutoAttack.

    from poise.interop.autoattack import AutoAttack
    adversary = AutoAttack(model, norm="Linf", eps=8 / 255, version="standard")
    x_adv = adversary.run_standard_evaluation(x, y, bs=250)

Order, budgets and log lines are those of the package. What differs: `seed=None` is 0 and not the clock, `bs` is an upper bound of
the batch, and `state_path` keeps the adversarial examples too, so a resumed run ends like an unbroken one.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor, nn

from poise.attacks.apgd import APGD
from poise.attacks.attack import check_images
from poise.attacks.autoattack import PUBLISHED, Progress, Result, Version
from poise.attacks.autoattack import AutoAttack as NativeAutoAttack
from poise.attacks.compact import CompactAttack
from poise.attacks.fab import FAB
from poise.attacks.lanes import find_batch_size
from poise.attacks.square import Square
from poise.core.errors import SettingsError
from poise.core.modes import evaluating
from poise.core.seeds import everyone
from poise.interop.autoattack_flags import flags
from poise.threats import L2, Linf, Threat

ORDER: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}


def threat_of(norm: str, eps: float) -> Threat:
    """Raises: SettingsError for another norm than Linf and L2, or an eps out of range."""
    if norm not in ("Linf", "L2"):
        raise SettingsError(f"norm = {norm!r}, must be 'Linf' or 'L2'")
    return Linf(epsilon=eps) if norm == "Linf" else L2(epsilon=eps)


@dataclass
class _Part(ABC):
    """What a sub-attack needs besides its own settings."""

    model: nn.Module
    norm: str
    eps: float
    seed: int | None

    @abstractmethod
    def native(self) -> CompactAttack:
        """The attack of ours with these settings."""

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial images [B, C, H, W]; where none was found, the image itself."""
        return self.native()(self.model, x, y, draw=everyone(self.seed or 0, "perturb", count=len(x), device=x.device))


@dataclass
class APGDAttack(_Part):
    """APGD under the package's names."""

    n_restarts: int = 5
    n_iter: int = 100
    loss: Literal["ce", "dlr"] = "ce"
    eot_iter: int = 1
    rho: float = 0.75

    def native(self) -> APGD:
        loss = "cross_entropy" if self.loss == "ce" else "dlr"
        rest = {"steps": self.n_iter, "restarts": self.n_restarts, "eot_iterations": self.eot_iter, "rho": self.rho}
        return APGD(threat=threat_of(self.norm, self.eps), loss=loss, **rest)


@dataclass
class APGDTargeted(_Part):
    """APGD-T under the package's names."""

    n_restarts: int = 1
    n_iter: int = 100
    n_target_classes: int = 9
    eot_iter: int = 1
    rho: float = 0.75

    def native(self) -> APGD:
        rest = {"steps": self.n_iter, "restarts": self.n_restarts, "eot_iterations": self.eot_iter, "rho": self.rho}
        return APGD(threat=threat_of(self.norm, self.eps), loss="targeted_dlr", targets=self.n_target_classes, **rest)


@dataclass
class FABAttack(_Part):
    """FAB and FAB-T under the package's names."""

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
class SquareAttack(_Part):
    """Square under the package's names."""

    n_restarts: int = 1
    n_queries: int = 5000
    p_init: float = 0.8
    resc_schedule: bool = False

    def native(self) -> Square:
        budget = {"queries": self.n_queries, "restarts": self.n_restarts}
        return Square(threat=threat_of(self.norm, self.eps), p_init=self.p_init, rescale=self.resc_schedule, **budget)


class AutoAttack:
    """`autoattack.AutoAttack`: constructor, sub-attacks (`apgd`, `apgd_targeted`, `fab`, `square`) and evaluation methods.

    Raises: SettingsError for an unknown norm, version or attack, or for attacks chosen without version='custom'.
    """

    def __init__(
        self,
        model: nn.Module,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: Version = "standard",
        device: torch.device | str | None = None,
        log_path: str | Path | None = None,
    ) -> None:
        self.model, self.norm, self.epsilon, self.seed, self.verbose = model, norm, eps, seed, verbose
        self.version, self.device, self.log_path = version, device, log_path
        self.attacks_to_run = list(attacks_to_run)
        threat_of(norm, eps)
        if attacks_to_run:
            NativeAutoAttack(version=version, attacks_to_run=tuple(attacks_to_run))  # refuses what cannot be
        shared = (model, norm, eps, seed)
        self.apgd, self.apgd_targeted = APGDAttack(*shared), APGDTargeted(*shared)
        self.fab, self.square = FABAttack(*shared), SquareAttack(*shared)
        if version != "custom":
            self.set_version(version)

    def set_version(self, version: Literal["standard", "plus", "rand"]) -> None:
        """Order and budgets of a published version."""
        if version not in ORDER:
            raise SettingsError(f"version = {version!r}, must be 'standard', 'plus', 'rand' or 'custom'")
        self.version, self.attacks_to_run = version, list(ORDER[version])
        self.apgd.n_restarts = self.fab.n_restarts = 5 if version == "plus" else 1
        self.apgd_targeted.n_restarts, self.square.n_queries = 1, 5000
        self.apgd_targeted.n_target_classes = self.fab.n_target_classes = 9
        self.apgd.eot_iter = 20 if version == "rand" else 1

    @overload
    def run_standard_evaluation(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: Literal[False] = False, state_path: str | Path | None = None
    ) -> Tensor: ...
    @overload
    def run_standard_evaluation(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, *, return_labels: Literal[True], state_path: str | Path | None = None
    ) -> tuple[Tensor, Tensor]: ...
    def run_standard_evaluation(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False, state_path: str | Path | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Adversarial images like x_orig [N, C, H, W], and with `return_labels` the labels predicted on them [N].

        Raises: InputError and RunError as `poise.attacks.AutoAttack.run`.
        """
        self._say(f"using {self.version} version including {', '.join(self.attacks_to_run)}.")
        self._warn(x_orig[:bs], y_orig[:bs])
        result = self._run(self.attacks_to_run, x_orig, y_orig, bs, state_path, self._reporter(len(x_orig)))
        x_adv = result.x_adv.to(x_orig.device)
        return (x_adv, result.predicted.to(y_orig.device)) if return_labels else x_adv

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Tensor] | dict[str, tuple[Tensor, Tensor]]:
        """Each attack alone on all images: adversarial images by attack, with `return_labels` beside the labels predicted on them."""
        images: dict[str, Tensor] = {}
        labels: dict[str, Tensor] = {}
        for name in self.attacks_to_run:
            start = time.perf_counter()
            result = self._run([name], x_orig, y_orig, bs, None, None)
            images[name], labels[name] = result.x_adv.to(x_orig.device), result.predicted.to(y_orig.device)
            seconds = time.perf_counter() - start
            self._say(f"robust accuracy by {name.upper()} \t {result.robust_accuracy:.2%} \t (time attack: {seconds:.1f} s)")
        return {name: (images[name], labels[name]) for name in images} if return_labels else images

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """Share of images classified correctly, in [0, 1]."""
        device = self._device(x_orig)
        with evaluating(self.model), torch.no_grad():
            parts = zip(x_orig.split(bs), y_orig.split(bs), strict=True)
            right = sum(int((self.model(x.to(device)).argmax(1) == y.to(device)).sum()) for x, y in parts)
        accuracy = right / len(x_orig)
        self._say(f"clean accuracy: {accuracy:.2%}")
        return accuracy

    def _run(
        self,
        names: Sequence[str],
        x: Tensor,
        y: Tensor,
        bs: int,
        state_path: str | Path | None,
        progress: Callable[[Progress], None] | None,
    ) -> Result:
        parts = tuple(self._native(name) for name in names)
        native = NativeAutoAttack(threat=threat_of(self.norm, self.epsilon), version="custom", attacks=parts)
        if self.device is not None:
            self.model.to(self.device)
        size = min(bs, find_batch_size(self.model, x[:1].to(self._device(x))))
        result = native.run(self.model, x, y, batch_size=size, seed=self.seed or 0, state_path=state_path, progress=progress)
        if progress is not None:
            self._conclude(result, x)
        return result

    def _native(self, name: str) -> CompactAttack:
        if name not in PUBLISHED:
            raise SettingsError(f"attacks_to_run has no attack {name!r}; known: {', '.join(PUBLISHED)}")
        if name in ("apgd-ce", "apgd-dlr"):
            return replace(self.apgd, loss="ce" if name == "apgd-ce" else "dlr").native()
        if name == "fab":
            return replace(self.fab, targeted=False).native()
        if name == "fab-t":
            return replace(self.fab, targeted=True, n_restarts=1).native()  # one restart whatever is set, as in the package
        return self.apgd_targeted.native() if name == "apgd-t" else self.square.native()

    def _warn(self, x: Tensor, y: Tensor) -> None:
        if self.device is not None:
            self.model.to(self.device)
        device = self._device(x)
        check_images(x, "x_orig")
        for sentence in flags(self.model, x.to(device), y.to(device), self.version):
            self._say(f"Warning: {sentence}.")

    def _device(self, x: Tensor) -> torch.device:
        return next((parameter.device for parameter in self.model.parameters()), x.device)

    def _reporter(self, count: int) -> Callable[[Progress], None]:
        """Says the package's line whenever an attack is over."""
        self._said = -1

        def report(progress: Progress) -> None:
            if self._said < 0 and progress.number == 1:
                self._say(f"initial accuracy: {progress.entered / count:.2%}")
            self._said = max(self._said, 0)
            self._say_over(progress.over, count)

        return report

    def _say_over(self, over: Sequence[tuple[str, int, float]], count: int) -> None:
        for place in range(max(self._said, 0), len(over)):
            total = sum(seconds for _, _, seconds in over[: place + 1])
            name = self.attacks_to_run[place].upper()
            self._say(f"robust accuracy after {name}: {over[place][1] / count:.2%} (total time {total:.1f} s)")
        self._said = max(self._said, len(over))

    def _conclude(self, result: Result, x: Tensor) -> None:
        if self._said < 0:
            self._say(f"initial accuracy: {result.natural_accuracy:.2%}")
        self._say_over(list(zip(result.attacks, result.survivors, result.seconds, strict=True)), len(x))
        for note in result.notes:
            self._say(f"Warning: {note}")
        if (
            "square" in self.attacks_to_run[1:]
            and result.survivors[place := self.attacks_to_run.index("square")] < result.survivors[place - 1]
        ):
            self._say("Warning: Square Attack has decreased the robust accuracy. This might indicate that gradients are masked.")
        change = threat_of(self.norm, self.epsilon).norm(result.x_adv - x.cpu()).max()
        nan, high, low = int(result.x_adv.isnan().sum()), float(result.x_adv.max()), float(result.x_adv.min())
        self._say(f"max {self.norm} perturbation: {change:.5f}, nan in tensor: {nan}, max: {high:.5f}, min: {low:.5f}")
        self._say(f"robust accuracy: {result.robust_accuracy:.2%}")

    def _say(self, line: str) -> None:
        if self.verbose:
            print(line, flush=True)
        if self.log_path is not None:
            with Path(self.log_path).open("a") as file:
                file.write(line + "\n")


__all__ = ["AutoAttack"]
