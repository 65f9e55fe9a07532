"""The names of the `autoattack` package over Poise's AutoAttack.

    from poise.interop.autoattack import AutoAttack
    adversary = AutoAttack(model, norm="Linf", eps=8 / 255, version="standard")
    x_adv = adversary.run_standard_evaluation(x, y, bs=250)

Order, budgets and log lines are those of the package. What differs: `seed=None` is 0 and not the clock, `bs` is an
upper bound of the batch, and `state_path` keeps the adversarial examples too, so a resumed run ends like an unbroken
one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from poise.attacks.autoattack import PUBLISHED, Result, Status
from poise.attacks.autoattack import AutoAttack as NativeAutoAttack
from poise.attacks.autoattack.compact import CompactAttack
from poise.attacks.autoattack.lanes import find_batch_size
from poise.attacks.checks import check_images
from poise.core.errors import InputError, SettingsError
from poise.interop.asking import check_size, check_tensor, logits_of, own_names, predicted
from poise.interop.autoattack_flags import flags
from poise.interop.autoattack_parts import (
    PART_NAMES,
    APGDAttack,
    APGDTargeted,
    FABAttack,
    Function,
    Model,
    Named,
    SquareAttack,
    as_network,
    device_of,
    threat_of,
)

Version = Literal["standard", "plus", "rand", "custom"]
ORDER: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
PARTS = ("apgd", "apgd_targeted", "fab", "square")
SHARED = {"model": "model", "norm": "norm", "epsilon": "eps", "seed": "seed", "device": "device"}
"""What the sub-attacks are told of the whole, and under which name they have it."""
NAMES = {"epsilon": "epsilon", "x": "x_orig", "y": "y_orig"}


@dataclass
class Logger:
    """Lines on the screen, and at the end of a file if one is named."""

    log_path: str | Path | None = None

    def log(self, str_to_log: str) -> None:
        """Print the line and keep it."""
        print(str_to_log, flush=True)
        self.keep(str_to_log)

    def keep(self, line: str) -> None:
        """Write it into the file only."""
        if self.log_path is not None:
            with Path(self.log_path).open("a") as file:
                file.write(line + "\n")


class AutoAttack(Named):
    """`autoattack.AutoAttack`: constructor, sub-attacks (`apgd`, `apgd_targeted`, `fab`, `square`) and evaluation
    methods.

    model: a network, or any function from images to logits, such as `lambda z: net(z)` (see `Function`). Its attributes
    may be assigned afterwards; the sub-attacks are told. Those have their own budgets, and the whole's norm and
    epsilon.
    Raises: SettingsError for an unknown norm, version or attack, or for attacks chosen without version='custom';
    UnknownNameError, an AttributeError too, where an attribute that there is not is read or assigned.
    """

    apgd: APGDAttack
    apgd_targeted: APGDTargeted
    fab: FABAttack
    square: SquareAttack
    logger: Any
    """Whatever has `log(text)`; every line that is printed goes there."""

    def __init__(
        self,
        model: Model,
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
        self.version, self.device, self.logger = version, device, Logger(log_path)
        self.attacks_to_run = list(attacks_to_run)
        threat_of(norm, eps)
        as_network(model)
        if attacks_to_run:
            NativeAutoAttack(version=version, attacks_to_run=tuple(attacks_to_run))  # refuses what cannot be
        shared = (model, norm, eps, seed, device)
        self.apgd, self.apgd_targeted = APGDAttack(*shared), APGDTargeted(*shared)
        self.fab, self.square = FABAttack(*shared), SquareAttack(*shared)
        if version != "custom":
            self.set_version(version)

    @classmethod
    def names(cls) -> list[str]:
        return [*SHARED, "verbose", "version", "logger", "attacks_to_run", *PARTS]

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        for part in PARTS if name in SHARED else ():
            if part in vars(self):
                setattr(vars(self)[part], SHARED[name], value)

    def get_logits(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images x [B, C, H, W], in the mode the network is in."""
        return self.model(x)

    def get_seed(self) -> int:
        """The seed in use: 0 where the package takes the clock."""
        return self.seed or 0

    def set_version(self, version: Literal["standard", "plus", "rand"]) -> None:
        """Order and budgets of a published version."""
        if version not in ORDER:
            raise SettingsError(f"version = {version!r}, must be 'standard', 'plus', 'rand' or 'custom'")
        self.version, self.attacks_to_run = version, list(ORDER[version])
        sparse = version == "standard" and self.norm == "L1"
        self.apgd.use_largereps = self.apgd_targeted.use_largereps = sparse
        self.fab.n_restarts = 5 if version == "plus" else 1
        self.apgd.n_restarts = 5 if sparse else self.fab.n_restarts
        self.apgd_targeted.n_restarts, self.square.n_queries = 1, 5000
        self.apgd_targeted.n_target_classes, self.fab.n_target_classes = 5 if sparse else 9, 9
        self.apgd.eot_iter = 20 if version == "rand" else 1

    @overload
    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: Literal[False] = False,
        state_path: str | Path | None = None,
    ) -> Tensor: ...
    @overload
    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        *,
        return_labels: Literal[True],
        state_path: str | Path | None = None,
    ) -> tuple[Tensor, Tensor]: ...
    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: str | Path | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Adversarial images like x_orig [N, C, H, W], and with `return_labels` the labels predicted on them [N].

        Raises: InputError and RunError as `poise.attacks.AutoAttack.run`.
        """
        self._checked(x_orig, y_orig, bs)
        self._say(f"using {self.version} version including {', '.join(self.attacks_to_run)}.")
        with own_names(self, NAMES):
            self._warn(x_orig[:bs], y_orig[:bs])
        result = self._run(self.attacks_to_run, x_orig, y_orig, bs, state_path, self._reporter(len(x_orig)))
        x_adv = result.x_adv.to(x_orig.device)
        return (x_adv, result.predicted.to(y_orig.device)) if return_labels else x_adv

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Tensor] | dict[str, tuple[Tensor, Tensor]]:
        """Each attack alone on all images: adversarial images by attack, with `return_labels` beside the labels
        predicted on them.
        """
        images: dict[str, Tensor] = {}
        labels: dict[str, Tensor] = {}
        for name in self.attacks_to_run:
            start = time.perf_counter()
            result = self._run([name], x_orig, y_orig, bs, None, None)
            images[name], labels[name] = result.x_adv.to(x_orig.device), result.predicted.to(y_orig.device)
            seconds = time.perf_counter() - start
            self._say(
                f"robust accuracy by {name.upper()} \t {result.robust_accuracy:.2%} \t (time attack: {seconds:.1f} s)"
            )
        return {name: (images[name], labels[name]) for name in images} if return_labels else images

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """Share of images classified correctly, in [0, 1]."""
        network, device = self._checked(x_orig, y_orig, bs)
        with own_names(self, NAMES):
            guess = torch.cat([predicted(network, x.to(device)).cpu() for x in x_orig.split(bs)])
        accuracy = int((guess == y_orig.cpu()).sum()) / len(x_orig)
        self._say(f"clean accuracy: {accuracy:.2%}")
        return accuracy

    def _run(
        self,
        names: Sequence[str],
        x: Tensor,
        y: Tensor,
        bs: int,
        state_path: str | Path | None,
        progress: Callable[[Status], None] | None,
    ) -> Result:
        network, device = self._checked(x, y, bs)
        parts = tuple(self._native(name) for name in names)
        native = NativeAutoAttack(threat=threat_of(self.norm, self.epsilon), version="custom", attacks=parts)
        # of a function nobody else knows where it computes
        images = x.to(device) if isinstance(network, Function) else x
        with own_names(self, NAMES):
            logits_of(network, x[:1].to(device))
            size = min(bs, find_batch_size(network, x[:1].to(device)))
            result = native.run(
                network, images, y, batch_size=size, seed=self.get_seed(), state_path=state_path, progress=progress
            )
        if progress is not None:
            self._conclude(result, x)
        return result

    def _native(self, name: str) -> CompactAttack:
        if name not in PUBLISHED:
            raise SettingsError(f"attacks_to_run has no attack {name!r}; known: {', '.join(PUBLISHED)}")
        kind = "apgd_targeted" if name == "apgd-t" else name.partition("-")[0]
        part = vars(self)[kind]
        if (part.norm, part.eps) != (self.norm, self.epsilon):
            raise SettingsError(
                f"{kind} has norm {part.norm!r} and eps {part.eps}, must be the whole's, {self.norm!r} and"
                f" {self.epsilon}; set norm and epsilon of the AutoAttack, which tells its sub-attacks"
            )
        if kind == "apgd":
            part = replace(self.apgd, loss="ce" if name == "apgd-ce" else "dlr")
        if kind == "fab":  # fab-t: one restart whatever is set, as in the package
            part = (
                replace(self.fab, targeted=True, n_restarts=1) if name == "fab-t" else replace(self.fab, targeted=False)
            )
        with own_names(part, PART_NAMES):
            return part.native()

    def _checked(self, x: Tensor, y: Tensor, bs: object) -> tuple[nn.Module, torch.device]:
        """What `_network` gives, for a batch that it can be asked about."""
        check_size(bs, "bs")
        check_images(x, "x_orig")
        check_tensor(y, "y_orig", "a tensor [N], one class per image")
        if y.shape != x.shape[:1]:
            raise InputError(f"y_orig has shape {list(y.shape)}, must be [{len(x)}], one label per image")
        return self._network(x)

    def _warn(self, x: Tensor, y: Tensor) -> None:
        network, device = self._network(x)
        for sentence in flags(network, x.to(device), y.to(device), self.version):
            self._say(f"Warning: {sentence}.")

    def _network(self, x: Tensor) -> tuple[nn.Module, torch.device]:
        """The model as a network, on the device that was asked for, and which that is."""
        network = as_network(self.model)
        if self.device is not None:
            network.to(self.device)
        return network, device_of(network, self.device, x)

    def _reporter(self, count: int) -> Callable[[Status], None]:
        """Says the package's line whenever an attack is over."""
        self._said = -1

        def report(progress: Status) -> None:
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
            self._say(
                "Warning: Square Attack has decreased the robust accuracy. This might indicate that gradients are"
                " masked."
            )
        change = threat_of(self.norm, self.epsilon).norm(result.x_adv - x.cpu()).max()
        nan, high, low = int(result.x_adv.isnan().sum()), float(result.x_adv.max()), float(result.x_adv.min())
        self._say(f"max {self.norm} perturbation: {change:.5f}, nan in tensor: {nan}, max: {high:.5f}, min: {low:.5f}")
        self._say(f"robust accuracy: {result.robust_accuracy:.2%}")

    def _say(self, line: str) -> None:
        if self.verbose:
            self.logger.log(line)
        elif isinstance(self.logger, Logger):
            self.logger.keep(line)


__all__ = ["AutoAttack"]
