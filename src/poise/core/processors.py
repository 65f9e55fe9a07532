"""Whether bfloat16 pays here: asked of the processor or GPU, and on processors confirmed by a measurement of
milliseconds.

Many processors and GPUs without bfloat16 units compute in it by emulation: right, and several times slower than
float32.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from poise.core.errors import SettingsError

SWITCH = "POISE_BFLOAT16"
"""In the environment: 1 lets bfloat16 be computed also where it is emulated, 0 keeps "auto" from taking it on
processors.
"""
PAYS = 1.2
"""Times as fast as float32 that bfloat16 must be for "auto" to take it."""
_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})  # as Linux names them, on x86 and on ARM


@dataclass(frozen=True)
class Processor:
    """name: what it calls itself; bfloat16: those of its flags that promise native bfloat16."""

    name: str
    bfloat16: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}, {' and '.join(self.bfloat16)}" if self.bfloat16 else self.name


@lru_cache(maxsize=1)
def processor() -> Processor:
    """The one that this process runs on, as the operating system tells."""
    try:
        return of_cpuinfo(Path("/proc/cpuinfo").read_text(errors="replace"))
    except OSError:
        arm = platform.system() == "Darwin" and _asked("sysctl", "-n", "hw.optional.arm.FEAT_BF16") == "1"
        return Processor(platform.processor() or platform.machine(), ("bf16",) if arm else ())


def of_cpuinfo(text: str) -> Processor:
    """The first processor of a Linux cpuinfo file."""
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    facts = {name.strip(): value.strip() for name, _, value in lines}
    kind = f"family {facts['cpu family']} model {facts['model']}" if {"cpu family", "model"} <= facts.keys() else ""
    names = (facts.get("model name") or platform.machine(), kind)
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return Processor(", ".join(filter(None, names)), tuple(sorted(flags & _FLAGS)))


def _asked(*command: str) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    return ""


def bfloat16_gain() -> float:
    """How many times as fast as float32 this processor computes under bfloat16 autocast, with as many threads as torch
    has now.
    """
    return _gain(torch.get_num_threads())


@lru_cache
def _gain(threads: int) -> float:
    """Two convolutions with batch normalisation, forward and backward; the fastest of several rounds, taken in turn."""
    with _own_draws():
        block = [nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        network = nn.Sequential(*block, nn.Conv2d(32, 32, 3, padding=1, bias=False))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.rand(16, 32, 16, 16).contiguous(memory_format=torch.channels_last)

    def seconds(autocast: bool) -> float:
        clock = time.perf_counter()
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            network(x).sum().backward()
        return time.perf_counter() - clock

    rounds = [(seconds(False), seconds(True)) for _ in range(12)][1:]  # in the first one kernels are made
    plain, short = (min(times) for times in zip(*rounds, strict=True))
    return plain / short


@contextlib.contextmanager
def _own_draws() -> Iterator[None]:
    """Weights and images of a measurement leave the caller's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def native_bfloat16(device: torch.device) -> bool:
    """Whether "auto" takes bfloat16: a GPU that has it, or a processor whose flags promise it and which is as fast as
    they promise.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not kept_off() and bool(processor().bfloat16) and bfloat16_gain() >= PAYS


def kept_off() -> bool:
    """Whether the environment says that "auto" takes no bfloat16 on processors."""
    return os.environ.get(SWITCH) == "0"


def check_bfloat16(
    device: torch.device, where: str = "precision = 'bfloat16'", instead: str = "must be 'auto' or 'float32'"
) -> None:
    """Raises: SettingsError where bfloat16 is emulated and nobody forces it, with the measured ratio on a processor.

    where, instead: how the sentence begins, and what it says may be done, besides forcing it.
    """
    if os.environ.get(SWITCH) != "1" and (slow := emulation(device)):
        raise SettingsError(f"{where}: {slow}; {instead}, unless forced by {SWITCH}=1 in the environment")


def emulation(device: torch.device) -> str:
    """That bfloat16 is emulated on the device, in words, with the measured ratio on a processor; empty where it is
    native.
    """
    if native_bfloat16(device):
        return ""
    if device.type != "cpu":
        return "this GPU emulates it"
    gain = bfloat16_gain()
    ratio = f"{1 / gain:.1f} times as long as" if gain < 1 else f"{1 / gain:.2f} of the time of"
    return f"this processor ({processor()}) emulates it, and a step takes {ratio} float32's"
