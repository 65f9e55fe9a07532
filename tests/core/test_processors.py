"""Whether bfloat16 is taken for native: read off the processor's flags and confirmed by measurement."""

from __future__ import annotations

import pytest
import torch

from poise.core import processors
from poise.core.errors import SettingsError
from poise.core.processors import (
    SWITCH,
    Processor,
    bfloat16_gain,
    check_bfloat16,
    native_bfloat16,
    of_cpuinfo,
    processor,
)

pytestmark = pytest.mark.usefixtures("unswitched")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")

MILAN = (
    "model name\t: AMD EPYC\ncpu family\t: 25\nmodel\t\t: 1\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t:"
    " amx_bf16\n"
)
RAPIDS = (
    "model name\t: Intel(R) Xeon(R)\ncpu family\t: 6\nmodel\t\t: 143\nflags\t\t: avx2 avx512_bf16 amx_tile amx_bf16"
    " amx_int8\n"
)
GRAVITON = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd i8mm bf16 svebf16 dgh\nCPU part\t: 0xd40\n"
XEON = Processor("Xeon", ("amx_bf16", "avx512_bf16"))


@pytest.fixture
def unswitched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nobody has set what the suite sets."""
    monkeypatch.delenv(SWITCH)


@pytest.mark.parametrize(
    ("text", "name", "flags"),
    [
        (MILAN, "AMD EPYC, family 25 model 1", ()),
        (RAPIDS, "Intel(R) Xeon(R), family 6 model 143", ("amx_bf16", "avx512_bf16")),
        (GRAVITON, "", ("bf16", "svebf16")),
    ],
)
def test_flags_and_name_are_those_of_the_first_processor(text: str, name: str, flags: tuple[str, ...]) -> None:
    found = of_cpuinfo(text)
    assert found.bfloat16 == flags
    assert found.name == (name or found.name) and found.name


@pytest.mark.parametrize(
    ("flags", "gain", "native"),
    [(("amx_bf16",), 1.8, True), (("amx_bf16",), 1.05, False), ((), 1.8, False), ((), 0.2, False)],
)
def test_bfloat16_is_native_where_flags_promise_it_and_the_measurement_confirms(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], gain: float, native: bool
) -> None:
    monkeypatch.setattr(processors, "processor", lambda: Processor("x", flags))
    monkeypatch.setattr(processors, "bfloat16_gain", lambda: gain)
    assert native_bfloat16(CPU) is native


def test_auto_can_be_kept_from_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "processor", lambda: XEON)
    monkeypatch.setattr(processors, "bfloat16_gain", lambda: 1.7)
    assert native_bfloat16(CPU)
    monkeypatch.setenv(SWITCH, "0")
    assert not native_bfloat16(CPU)


def test_a_gpu_is_asked_without_its_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting it, a T4 would train in bfloat16 at a fraction of float32's speed."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not native_bfloat16(CUDA)
    with pytest.raises(
        SettingsError, match="this GPU emulates it; must be 'auto' or 'float32', unless forced by POISE_BFLOAT16=1"
    ):
        check_bfloat16(CUDA)
    monkeypatch.setenv(SWITCH, "1")
    check_bfloat16(CUDA)


def test_the_refusal_names_processor_and_measured_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "processor", lambda: Processor("AMD EPYC, family 25 model 1", ()))
    monkeypatch.setattr(processors, "bfloat16_gain", lambda: 0.125)
    sentence = (
        r"this processor \(AMD EPYC, family 25 model 1\) emulates it, and a step takes 8.0 times as long as float32's;"
        r" must be"
    )
    with pytest.raises(SettingsError, match=sentence):
        check_bfloat16(CPU)
    for forced in ("0", ""):
        monkeypatch.setenv(SWITCH, forced)
        with pytest.raises(SettingsError):
            check_bfloat16(CPU)


def test_the_measurement_is_a_ratio_and_leaves_the_callers_draws_alone() -> None:
    processors._gain.cache_clear()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    gain = bfloat16_gain()
    assert torch.equal(torch.rand(3), wanted)
    assert 0.005 < gain < 20
    assert processor().name
