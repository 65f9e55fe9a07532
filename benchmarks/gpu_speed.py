"""How fast a GPU trains and attacks, item by item, in a longer sitting than `gpu_first`.

    python -m benchmarks.gpu_speed --out DIR   # again until nothing is left; each call ends by itself after --seconds

Each item is a function of no arguments that returns plain numbers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu_beside
from benchmarks.gpu_setting import NOW, Numbers, Setting, Step, learner, no_tf32
from benchmarks.measuring import Figure, Kept, machine, ratio, table
from benchmarks.reference import GeneralistTrainer, at_step, mart_step, nt_step, trades_step
from benchmarks.reference.attacks import gaussian, uniform
from benchmarks.reference.squeeze import squeeze_step
from poise.core.batches import Batch, Now
from poise.data import CropFlip, Feed
from poise.data.stream import Stream
from poise.engine.devices import choose_device
from poise.learners import Learner
from poise.learners.compiled import compilation
from poise.learners.precision import precision
from poise.methods import Generalist
from poise.models import Network, ResNet18, ResNet20, WideResNet
from poise.objectives import AT, MART, NT, TRADES, Objective, SqueezeTraining

OBJECTIVES: dict[str, tuple[Objective, Callable[..., object]]] = {
    "AT": (AT(), partial(at_step, noise=uniform())),
    "NT": (NT(), nt_step),
    "TRADES": (TRADES(), partial(trades_step, noise=gaussian)),
    "MART": (MART(), partial(mart_step, noise=gaussian)),
    "SqueezeTraining": (SqueezeTraining(), partial(squeeze_step, noise=(gaussian, gaussian))),
}


def step_ratio(setting: Setting, name: str) -> Numbers:
    """One step: ours, and the straightforward one as torch comes (fp32, with TF32 in convolutions) and in strict fp32.

    All with cudnn.benchmark, which torch leaves off: the straightforward steps gain by it too.
    """
    objective, reference = OBJECTIVES[name]
    batch, said, theirs = setting.whole(), [], setting.model()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    ours = learner(setting, objective, said)

    def strict() -> None:
        with no_tf32():
            reference(theirs, optimizer, batch.x, batch.y)

    contenders: dict[str, Step] = {
        "ours": lambda: ours.descend(objective, batch, NOW),
        "straightforward": lambda: reference(theirs, optimizer, batch.x, batch.y),
        "strict": strict,
    }
    seconds = setting.timed(contenders)
    return {
        "ours_ms": 1000 * statistics.median(seconds["ours"]),
        "times": vars(ratio(seconds["straightforward"], seconds["ours"])),
        "times_strict_fp32": vars(ratio(seconds["strict"], seconds["ours"])),
        "images_per_second": setting.batch / statistics.median(seconds["ours"]),
        "said": said,
    }


def generalist_ratio(setting: Setting) -> Numbers:
    """A step of Generalist with all averages, and a step of AT beside it."""
    method, batch, said = Generalist(), setting.whole(), []
    arithmetic = precision("auto", setting.device)
    learners = method.learners(
        lambda name, policy: Learner(
            name,
            policy,
            setting.model(),
            arithmetic=arithmetic,
            compilation=compilation("auto", setting.device, said.append),
        )
    )
    trainer, gamma = GeneralistTrainer(setting.model()), method.gamma.value(NOW)
    alone = learner(setting, AT(), said)
    batches = dict.fromkeys(learners, batch)
    contenders: dict[str, Step] = {
        "ours": lambda: method.step(learners, batches, NOW),
        "straightforward": lambda: trainer.step(batch.x, batch.y, uniform(), gamma, redistribute=False),
        "AT": lambda: alone.descend(AT(), batch, NOW),
    }
    seconds = setting.timed(contenders)
    return {
        "ours_ms": 1000 * statistics.median(seconds["ours"]),
        "times": vars(ratio(seconds["straightforward"], seconds["ours"])),
        "over_AT": vars(ratio(seconds["ours"], seconds["AT"])),
        "said": said,
    }


def matrix_rate(device: torch.device, toy: bool) -> float:
    """The largest rate of a large bf16 matrix product seen in five rounds, FLOP/s, on random numbers."""
    side = 128 if toy else 8192
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    setting, best = Setting(ResNet20(), 1, device), 0.0
    for _ in range(6):
        begun = setting.clock()
        for _ in range(10):
            torch.mm(left, right)
        best = max(best, 10 * 2 * side**3 / (setting.clock() - begun))
    return best


def forward_flops(setting: Setting) -> float:
    """Floating-point operations of one forward of one image; a product and its sum count as two."""
    model = setting.model().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(1, 3, setting.size, setting.size, device=setting.device))
    return float(counter.get_total_flops())


def crafting_share(setting: Setting, toy: bool) -> Numbers:
    """Crafting alone (PGD-10): K x (1 + 1) forwards over its seconds, as a share of the matrix rate measured in the
    same item.
    """
    objective, said, batch = AT(), [], setting.whole()
    ours = learner(setting, objective, said)
    now = NOW.within("joint")
    seconds = setting.timed({"crafting": lambda: ours.craft(objective, batch, now)})["crafting"]
    rate = matrix_rate(setting.device, toy)
    work = 2 * objective.inner.steps * setting.batch * forward_flops(setting)
    return {
        "crafting_ms": 1000 * statistics.median(seconds),
        "tflops": work / statistics.median(seconds) / 1e12,
        "matrix_tflops": rate / 1e12,
        "share": vars(Figure.of([work / each / rate for each in seconds])),
        "said": said,
    }


def epoch_seconds(setting: Setting) -> Numbers:
    """An AT epoch of 50,000 images: steps with their batches made and augmented on the device, times the steps of an
    epoch.
    """
    objective, said = AT(), []
    ours = learner(setting, objective, said)
    feed = Feed(Stream(batch_size=setting.batch, augmentation=CropFlip()), setting.split(), 0, setting.device)
    steps = iter(range(10**9))

    def step() -> None:
        at = next(steps) % max(1, feed.steps_per_epoch - 1)
        now = Now(1, at, 1, feed.steps_per_epoch, 0)
        ours.descend(objective, feed.batch(now), now)

    seconds = statistics.median(setting.timed({"ours": step})["ours"])
    return {
        "step_ms": 1000 * seconds,
        "images_per_second": setting.batch / seconds,
        "epoch_s": 50_000 / setting.batch * seconds,
        "said": said,
    }


def deterministic_cost(setting: Setting) -> Numbers:
    """An AT step with deterministic kernels over one without."""
    batch, said = setting.whole(), []
    contenders: dict[str, Step] = {}
    for name, wanted in (("deterministic", True), ("fastest", False)):
        contenders[name] = partial(_under, wanted, learner(setting, AT(), said), batch)
    try:
        seconds = setting.timed(contenders)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = setting.device.type == "cuda"
    return {"times_slower": vars(ratio(seconds["deterministic"], seconds["fastest"])), "said": said}


def _under(deterministic: bool, ours: Learner, batch: Batch) -> None:
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = ours.arithmetic.device.type == "cuda" and not deterministic
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    ours.descend(AT(), batch, NOW)


def same_points(setting: Setting) -> Numbers:
    """Crafting as it is trained with, and in plain fp32 on the network itself: losses at the points, and the share of
    equal pixels.
    """
    batch, now = setting.whole(), NOW.within("joint")
    found: dict[str, Tensor] = {}
    for name in ("auto", "float32"):
        ours = learner(setting, AT(), [], "auto" if name == "auto" else "float32")
        for _ in range(3):
            found[name] = ours.craft(AT(), batch, now)[1][0].x_adv  # type: ignore[attr-defined]
    network = setting.model().eval()
    plain = learner(setting, AT(), [], "float32").network.eval()
    with no_tf32(), torch.no_grad():
        found["plain"] = AT().craft(plain, batch, now).x_adv
        losses = {name: float(nn.functional.cross_entropy(network(x_adv), batch.y)) for name, x_adv in found.items()}
    return {
        "loss": losses,
        "relative": {name: abs(losses[name] / losses["plain"] - 1) for name in ("auto", "float32")},
        "equal_pixels": {name: float((found[name] == found["plain"]).float().mean()) for name in ("auto", "float32")},
    }


def items(device: torch.device, toy: bool) -> dict[str, Callable[[], Numbers]]:
    """Name and measurement, the most wanted first."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    small: Network = ResNet20(width=4) if toy else ResNet18()
    wide: Network = WideResNet(depth=10, width=1) if toy else WideResNet()
    base = Setting(small, 4 if toy else 128, device, 8 if toy else 32, rounds=1 if toy else 5, repeats=1 if toy else 3)
    large = replace(base, batch=8 if toy else 512)
    made: dict[str, Callable[[], Numbers]] = {
        "AT ResNet-18": partial(step_ratio, base, "AT"),
        "crafting WRN-34-10": partial(crafting_share, replace(base, network=wide), toy),
        "Generalist ResNet-18": partial(generalist_ratio, base),
        "same points": partial(same_points, base),
        "epoch ResNet-18, 128": partial(epoch_seconds, base),
        "epoch WRN-34-10, 128": partial(epoch_seconds, replace(base, network=wide)),
        "crafting ResNet-18": partial(crafting_share, base, toy),
    }
    for name in list(OBJECTIVES)[1:]:
        made[f"{name} ResNet-18"] = partial(step_ratio, base, name)
    made["epoch ResNet-18, 512"] = partial(epoch_seconds, large)
    made["epoch WRN-34-10, 512"] = partial(epoch_seconds, replace(large, network=wide))
    made["deterministic"] = partial(deterministic_cost, base)
    made["PGD-10 ResNet-18"] = partial(gpu_beside.attack_ratio, base)
    made["memory ResNet-18"] = partial(gpu_beside.memory, base)
    members = replace(base, network=ResNet20(width=4) if toy else ResNet20())
    for phase in (1, 2):
        made[f"SoE 3 x ResNet-20, phase {phase}"] = partial(gpu_beside.synergy_ratio, members, phase)
    return made


def first(device: torch.device, toy: bool) -> dict[str, Callable[[], Numbers]]:
    """What is measured in the first minutes."""
    return {name: measure for name, measure in items(device, toy).items() if name == "AT ResNet-18"}


def rows(found: dict[str, Any]) -> list[list[str]]:
    """Lines of the short table."""
    lines = []
    for name, numbers in found.items():
        if not isinstance(numbers, dict):
            continue
        if "failed" in numbers:
            lines.append([name, f"failed: {numbers['failed']}"])
        if "times" in numbers:
            lines.append([f"{name}: times faster than fp32 as torch comes", Figure(**numbers["times"]).text()])
        if "times_strict_fp32" in numbers:
            lines.append([f"{name}: times faster than strict fp32", Figure(**numbers["times_strict_fp32"]).text()])
        for peer in numbers.get("attack_times", {}):
            lines.append([f"{name}: times faster than {peer}", Figure(**numbers["attack_times"][peer]).text()])
        if "peak_mib" in numbers:
            shown = ", ".join(f"{each} {value:.1f}" for each, value in numbers["peak_mib"].items())
            lines.append([f"{name}: peak of an AT step, MiB", shown])
        if "over_AT" in numbers:
            lines.append([f"{name}: over an AT step", Figure(**numbers["over_AT"]).text(3)])
        if "share" in numbers:
            text = f"{Figure(**numbers['share']).text(1, 100)} of {numbers['matrix_tflops']:.0f} TFLOP/s"
            lines.append([f"{name}: share of the bf16 matrix rate, %", text])
        if "epoch_s" in numbers:
            lines.append(
                [f"{name}: AT epoch, s; images/s", f"{numbers['epoch_s']:.1f}; {numbers['images_per_second']:.0f}"]
            )
        if "times_slower" in numbers:
            lines.append(["deterministic kernels: times slower", Figure(**numbers["times_slower"]).text()])
        if "equal_pixels" in numbers:
            relative, equal = numbers["relative"], numbers["equal_pixels"]
            shown = ", ".join(f"{each} {relative[each]:.1e} / {100 * equal[each]:.1f} %" for each in relative)
            lines.append(["crafted points against plain fp32: loss off by / equal pixels", shown])
    return lines


def measure(
    known: dict[str, Any], device: torch.device, toy: bool, seconds: float, keep: Callable[[str, Numbers], None]
) -> None:
    """What has not been measured yet, until half of the time is over, so that the longest item has the other half."""
    begun = time.perf_counter()
    wanted = items(device, toy)
    for name in sorted(wanted, key=lambda name: name in known):  # what failed comes again, last
        if name in known and "failed" not in known[name]:
            continue
        if time.perf_counter() - begun > 0.5 * seconds:
            print(f"stopped before {name!r}: run the same command again")
            break
        try:
            numbers = wanted[name]()
        except Exception as error:  # one item that fails must not cost the others their time on the machine
            numbers = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"}
        keep(name, numbers)
        print(f"{name}: {json.dumps(numbers)}", flush=True)
        if device.type == "cuda":
            torch.cuda.synchronize()  # after an illegal access nothing works here: the others wait for the next process
            torch.cuda.empty_cache()


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of what is kept between calls")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=500.0)
    parser.add_argument("--toy", action="store_true")
    args = parser.parse_args(given)
    args.out.mkdir(parents=True, exist_ok=True)
    found = Kept(args.out / "speed.json")
    found.keep("machine", machine())
    measure(found.known, choose_device(args.device), args.toy, args.seconds, found.keep)
    print(f"{machine()}\n\n" + table(["what", "measured"], rows(found.known)))


if __name__ == "__main__":
    main()
