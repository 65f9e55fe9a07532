"""The check of operations that have a derivative of zero by construction: what the identity in their place shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from poise.attacks import APGD
from poise.core.modes import crafting
from poise.core.verdicts import Finding
from poise.evaluation.sanity.significance import Paired
from poise.evaluation.sanity.strength_checks import NO_GRADIENT
from poise.evaluation.sanity.subject import Subject, percent, share

_FLAT = {
    *("where", "mul", "__mul__", "__rmul__", "multiply", "masked_fill"),
    *("hardshrink", "softshrink", "threshold", "clamp", "clip", "hardtanh"),
}
_IN_PLACE = {"__setitem__", "masked_fill_", "mul_", "__imul__", "clamp_", "threshold_"}


def _elsewhere(func: Callable[..., Any], z: Tensor, args: Any, kwargs: Any, changes: bool = False) -> Tensor | None:
    """z minus itself detached, 0 with the gradient of the identity, where func's derivative by z is 0 (elsewhere a
    constant); None where it is nowhere, or where func is the ReLU, which every network has.

    changes: whether func changes its first argument.
    """
    with torch.enable_grad():
        leaf = z.detach().clone().requires_grad_(True)
        target = leaf.clone() if changes else leaf
        arguments = [target if arg is z else arg.detach() if isinstance(arg, Tensor) else arg for arg in args]
        out = func(*arguments, **kwargs)
        out = target if changes else out
        if not out.requires_grad or torch.equal(out, z.clamp(min=0)):
            return None if out.requires_grad else z - z.detach()
        (slope,) = torch.autograd.grad(out.sum(), leaf, allow_unused=True)
    flat = torch.ones_like(z, dtype=torch.bool) if slope is None else slope == 0
    return torch.where(flat, z - z.detach(), 0.0) if bool(flat.any()) else None


class IdentityBackward(TorchFunctionMode):
    """The forward pass is unchanged; elementwise operations whose local derivative is zero have that of the identity.

    replaced: names of the operations that were given one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.replaced: set[str] = set()

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if not torch.is_grad_enabled() or name not in _FLAT | _IN_PLACE:
            return func(*args, **kwargs)
        changes = name in _IN_PLACE
        tensors = [arg for arg in args if isinstance(arg, Tensor) and arg.requires_grad and arg.is_floating_point()]
        z = tensors[0] if len(tensors) == 1 and (not changes or tensors[0] is args[0]) else None
        before = z.clone() if z is not None and changes else z
        out = func(*args, **kwargs)
        result = args[0] if changes else out
        if z is None or before is None or not isinstance(result, Tensor) or result.shape != before.shape:
            return out
        increment = _elsewhere(func, before, [before if arg is z else arg for arg in args], kwargs, changes)
        if increment is None:
            return out
        self.replaced.add(name.strip("_"))
        return (out, args[0].add_(increment))[0] if changes else out + increment


class Straight(nn.Module):
    """The network with the identity behind whatever is flat: operations, and layers of somebody's own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.replaced = network, set[str]()

    def forward(self, x: Tensor) -> Tensor:
        layers = [layer for layer in self.network.modules() if not list(layer.children())]
        own_layers = [layer for layer in layers if not type(layer).__module__.startswith("torch.nn.")]
        hooks = [layer.register_forward_hook(self._behind) for layer in own_layers]
        try:
            with IdentityBackward() as mode:
                logits = self.network(x)
        finally:
            for hook in hooks:
                hook.remove()
        self.replaced |= mode.replaced
        return logits

    def _behind(self, layer: nn.Module, args: tuple[Any, ...], out: Any) -> Tensor | None:
        z = args[0] if len(args) == 1 else None
        if not torch.is_grad_enabled() or not isinstance(z, Tensor) or not z.requires_grad:
            return None
        if not isinstance(out, Tensor) or out.shape != z.shape or not out.is_floating_point():
            return None
        increment = _elsewhere(layer.forward, z, (z,), {})
        if increment is not None:
            self.replaced.add(type(layer).__name__)
        return None if increment is None else out + increment


def flat_operations(subject: Subject) -> Finding:
    """Whether APGD breaks more when operations of zero derivative, such as those that put a mean in many values'
    place, pass the gradient on as the identity would.
    """
    check, straight = "flat_operations", Straight(subject.model)
    with crafting(straight, "evaluating"), torch.enable_grad():
        answers = straight(subject.x[:2].detach().requires_grad_(True)).requires_grad
    if not straight.replaced or not answers:
        line = "No operation has a derivative of zero where the identity could stand." if answers else NO_GRADIENT
        return Finding(check, "pass" if answers else "not applicable", line, numbers={"replaced": []})
    attack = APGD(threat=subject.threat, steps=subject.effort.autoattack_steps)
    standing = subject.stands(attack) if subject.differentiable else subject.right
    rows = subject.right.nonzero()[:, 0]
    with crafting(straight, "evaluating"):
        z = attack.perturb(straight, subject.x[rows], subject.y[rows], subject.draw(attack.name)[rows]).detach()
    stands = subject.logits(z).argmax(1) == subject.y[rows]
    pair, names = Paired.of(stands, standing[rows]), ", ".join(sorted(straight.replaced))
    numbers = {"replaced": sorted(straight.replaced), "test": pair.numbers(), "APGD-CE": share(standing)}
    if not pair.proven(subject.effort.level):
        return Finding(check, "pass", f"The identity in the backward pass of {names} breaks no more.", numbers=numbers)
    return Finding(
        check,
        "flaw",
        f"APGD with the identity in the backward pass of {names} breaks {pair.more} of {pair.count} images that APGD"
        f" leaves right, and misses {pair.less} that it breaks (p = {pair.p:.1e}); APGD alone leaves"
        f" {percent(share(standing))}.",
        "Those operations stop the gradient where they are flat, and the attack with it: what it leaves is no"
        " robustness.",
        "Run AutoAttack with these operations' backward pass replaced by the identity, and report the worst case.",
        numbers,
    )
