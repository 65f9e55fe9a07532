"""The crafted step at one fixed shape: the network compiled by torch, and on GPUs all steps of the ascent in one CUDA
graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from poise.attacks.ascent import MOVE, moved_by
from poise.core.batches import Batch, Now
from poise.core.errors import NetworkError
from poise.learners.precision import Precision
from poise.learners.recording import Recording
from poise.learners.times import Uncapturable
from poise.models.dual_head import DualHeadModule
from poise.models.ensemble import CollaborationModule, EnsembleModule
from poise.objectives import Examples, Objective
from poise.threats import Threat

CompileName = Literal["auto", "on", "off"]
Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Compilation:
    """That learners compile, and to whom they say what it cost and where it could not be done."""

    say: Say


def compilation(name: CompileName, device: torch.device, say: Say = lambda sentence: None) -> Compilation | None:
    """ "auto" compiles on GPUs only; None: nothing is compiled. On CPUs "on" compiles the network and records no
    graph.
    """
    return Compilation(say) if name == "on" or (name == "auto" and device.type == "cuda") else None


class FixedShape:
    """One learner's compiled step. The first step of a shape is taken as it is; when the shape comes again, it is
    prepared.

    So an epoch's smaller last batch is never compiled. What cannot be compiled or recorded is said once, and done
    without.
    """

    def __init__(self, name: str, arithmetic: Precision, compilation: Compilation) -> None:
        self.name, self.arithmetic, self.compilation = name, arithmetic, compilation
        self.recording: Recording | None = None
        on_gpu = arithmetic.device.type == "cuda"
        self._ways = [(True, True), (False, True), (True, False)] if on_gpu else [(True, False)]
        """(compiled, recorded), the best first; empty: examples are crafted as they are."""
        self._compiles_loss = True
        self._loss_compiled = False
        self._calls: dict[str, tuple[nn.Module, list[Call]]] = {}
        """By purpose, of the one network that it now asks: another one's are let go."""
        self._calls_made = 0
        self._last: dict[str, object] = {}
        self._said: object = None

    def __deepcopy__(self, memo: dict[int, Any]) -> FixedShape:
        """A copied learner has another network, for which everything is prepared anew."""
        return FixedShape(self.name, self.arithmetic, self.compilation)

    def craft(self, objective: Objective, model: nn.Module, part: Batch, now: Now) -> Examples:
        """What `objective.craft` returns."""
        # a folded copy may be made anew
        again = self._comes_again("crafting", (objective, part.x.shape, part.total, model))
        if self.recording is not None and self.recording.serves(objective, model, part, now):
            return self.recording.replay(part, now)
        if not again or not self._ways:
            return objective.craft(model, part, now)
        self.recording = None  # its memory is needed for the next one
        while self._ways:
            compiled_craft, recorded_craft = self._ways[0]
            start = time.perf_counter()
            try:
                if recorded_craft:
                    recording = Recording.of(
                        objective, model, part, now, partial(self._around, model, compiled_craft, cache=False)
                    )
                    examples = recording.replay(part, now)
                    self.recording = recording
                else:
                    with self._around(model, compiled_craft):
                        examples = objective.craft(model, part, now)
                self._tell_cost(compiled_craft, recorded_craft, time.perf_counter() - start)
                return examples
            except Exception as error:  # compilers and drivers raise what they like; the step must go on
                self._ways.pop(0)
                self._tell(
                    f"crafting cannot be {_way(compiled_craft, recorded_craft)} ({_reason(error)}); {self._instead()}"
                )
        return objective.craft(model, part, now)

    def differentiated(self, network: nn.Module, parts: list[Batch], run: Callable[[], T]) -> T:
        """`run()`, a loss with its backward pass, in which the network is compiled where all parts are of the same
        known shape.
        """
        shapes = {part.x.shape for part in parts}
        if not self._comes_again("loss", tuple(shapes)) or len(shapes) > 1 or not self._compiles_loss:
            return run()
        if self._loss_compiled:
            with self._compiled("loss", network):
                return run()
        self._calls_made = 0
        start, buffers = time.perf_counter(), {name: buffer.clone() for name, buffer in network.named_buffers()}
        try:
            with self._compiled("loss", network):
                gradients = run()
        except Exception as error:
            self._compiles_loss = False
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
            network.zero_grad(set_to_none=True)
            self._tell(f"the loss cannot be compiled ({_reason(error)}); it is computed as it is")
            return run()
        self._loss_compiled = True
        if self._calls_made:
            self.compilation.say(f"{self.name}: the loss was compiled in {time.perf_counter() - start:.0f} s")
        else:
            self._compiles_loss = False
            self._tell("the loss calls the network's parts one by one; it is computed as it is")
        return gradients

    def _comes_again(self, what: str, shape: object) -> bool:
        again = self._last.get(what) == shape
        self._last[what] = shape
        return again

    @contextmanager
    def _around(self, model: nn.Module, compiled: bool, cache: bool = True) -> Iterator[None]:
        """Autocast without its cache of weights, which a graph would take for constants; the network and the steps
        compiled.
        """
        kind, narrow = self.arithmetic.device.type, self.arithmetic.autocast
        with torch.autocast(kind, torch.bfloat16, cache_enabled=cache) if narrow else nullcontext():
            if not compiled:
                yield
                return
            token = MOVE.set(_fused_move)
            try:
                with self._compiled("crafting", model):
                    yield
            finally:
                MOVE.reset(token)

    @contextmanager
    def _compiled(self, purpose: str, model: nn.Module) -> Iterator[None]:
        """Calls of the network, or of a collective's members, go through their compiled form; of other modules inside
        they do not.
        """
        if purpose not in self._calls or self._calls[purpose][0] is not model:
            self._calls[purpose] = (
                model,
                [(place, name, compiled_call(getattr(place, method))) for place, name, method in asked(model)],
            )
        calls = [
            (vars(place), name, call) for place, name, call in self._calls[purpose][1] if vars(place).get(name) is None
        ]
        for place, name, call in calls:
            place[name] = partial(self._counted, call)
        try:
            yield
        finally:
            for place, name, _ in calls:
                del place[name]

    def _counted(self, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        self._calls_made += 1
        return call(*given, **named)

    def _tell_cost(self, compiled: bool, recorded: bool, seconds: float) -> None:
        if self._said != (compiled, recorded):
            self._said = compiled, recorded
            self.compilation.say(f"{self.name}: crafting was {_way(compiled, recorded)} in {seconds:.0f} s")

    def _tell(self, sentence: str) -> None:
        self.compilation.say(f"{self.name}: {sentence}")

    def _instead(self) -> str:
        return f"next it is {_way(*self._ways[0])}" if self._ways else "it is done step by step"


Call = tuple[nn.Module, str, Callable[..., Any]]
"""A module, the name under which it finds its compiled form, and that form."""


def asked(model: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """What objectives call of a network: itself; of a collective each member, of an expert with two heads also both
    heads at once.

    Each is a module, the name under which it finds a compiled form, and the method that is compiled.
    """
    if isinstance(model, EnsembleModule | CollaborationModule):
        return [call for member in model.members for call in asked(member)]
    return [
        (model, "_compiled_call_impl", "_call_impl"),
        *([(model, "heads", "heads")] if isinstance(model, DualHeadModule) else []),
    ]


def _way(compiled: bool, recorded: bool) -> str:
    return " and ".join([*(["compiled"] if compiled else []), *(["recorded as one CUDA graph"] if recorded else [])])


def _reason(error: Exception) -> str:
    # not the network's
    error = error.__cause__ if isinstance(error, NetworkError) and isinstance(error.__cause__, Exception) else error
    first = (str(error).strip().splitlines() or [""])[0]
    return first[:160] if isinstance(error, Uncapturable) else f"{type(error).__name__}: {first[:160]}"


def compiled_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` for fixed shapes: one network in several modes and layouts, gradients that may be taken twice."""
    import torch._dynamo.config as dynamo
    import torch._functorch.config as functorch

    name = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"
    setattr(dynamo, name, max(64, getattr(dynamo, name)))
    if hasattr(functorch, "donated_buffer"):
        functorch.donated_buffer = False  # Squeeze Training keeps a graph for several backward passes
    return torch.compile(function, dynamic=False)


_MOVES: dict[tuple[Threat, float], Callable[[Tensor, Tensor, Tensor], Tensor]] = {}


def _fused_move(threat: Threat, step_size: float, z: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
    """The projected step as one kernel, for a few threats and sizes; a ramp has another size at every step and is not
    worth it.
    """
    if not isinstance(step_size, float):  # the ramp of a recording
        return moved_by(threat, step_size, z, gradient, x)
    if (threat, step_size) not in _MOVES:
        if len(_MOVES) >= 16:
            return moved_by(threat, step_size, z, gradient, x)
        _MOVES[threat, step_size] = compiled_call(lambda *images: moved_by(threat, step_size, *images))
    return _MOVES[threat, step_size](z, gradient, x)
