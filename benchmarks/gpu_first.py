"""The first quarter of an hour on any GPU: is everything right there, how fast is it, and what does a trained network
come to?

    python -m benchmarks.gpu_first numbers --out DIR              # right? how fast? at most 300 s
    python -m benchmarks.gpu_first row     --out DIR --data DATA  # Generalist, 30 epochs; AutoAttack on 1,000; 430 s
    python -m benchmarks.gpu_first table   --out DIR              # all that is known, also kept in benchmarks/results

Right means: the same draws and batches as on the CPU; in float64 the weights of the CPU after some steps of every
objective and the images of every attack; recorded as a graph the bits of the unrecorded step; verdicts without TF32.
What is found is kept after every line, and a call that is made again goes on. `--toy` shows at toy size, on any machine
and on the pretended GPU, that all of it runs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from torch import Tensor, nn

from benchmarks import gpu_cases, gpu_speed
from benchmarks.gpu_cases import ATTACKS, AUTOATTACK, COUNTS, OBJECTIVES, UNRECORDED
from benchmarks.gpu_row import attack_row, train_row
from benchmarks.measuring import Kept, machine, page, table, write
from poise.core import seeds
from poise.core.exact import exact
from poise.data import CropFlip, Feed, Split, Stream
from poise.engine.devices import choose_device
from poise.learners.compiled import compilation
from poise.learners.precision import precision

CPU = torch.device("cpu")
Line = tuple[str, bool, str]
"""What was asked, whether it is as it must be, and the numbers."""
SECONDS = {"numbers": 300.0, "row": 430.0}


def draws(device: torch.device) -> Iterator[Line]:
    """The same numbers and batches as on the CPU."""
    found: list[dict[str, Tensor]] = []
    for place in (CPU, device):
        draw = seeds.everyone(7, "first", count=1000, device=place)
        order = seeds.permutation(50_000, 3, device=place)
        values = {"bits": draw.bits(64), "uniform": draw.uniform(64), "integers": draw.integers(9, 5), "order": order}
        found.append({name: value.cpu() for name, value in values.items()} | {"normal": draw.normal(64).cpu()})
    yield from (
        (f"draws: {name}", torch.equal(found[0][name], found[1][name]), "") for name in found[0] if name != "normal"
    )
    apart = float((found[0]["normal"] - found[1]["normal"]).abs().max())
    yield "draws: normal", apart < 1e-5, f"{apart:.1e}"
    generator = torch.Generator().manual_seed(0)
    split = Split.of(
        torch.randint(256, (100, 3, 8, 8), generator=generator, dtype=torch.uint8),
        torch.randint(10, (100,), generator=generator),
    )
    shown = [
        Feed(Stream(batch_size=32, augmentation=CropFlip()), split, 1, place).batch(gpu_cases.moment(1))
        for place in (CPU, device)
    ]
    yield (
        "feed",
        all(torch.equal(getattr(shown[0], name), getattr(shown[1], name).cpu()) for name in ("x", "y", "ids")),
        "",
    )


def strictness(device: torch.device) -> Iterator[Line]:
    """Verdicts keep 24 bits, whatever is allowed elsewhere."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((16, 64, 16, 16), (64, 64, 3, 3)))
    true = nn.functional.conv2d(x, w)
    with torch.autocast(device.type, torch.bfloat16), exact(device):
        found = nn.functional.conv2d(x.float().to(device), w.float().to(device)).cpu().double()
    error = float((found - true).norm() / true.norm())
    yield "verdicts are float32", error < 2e-6, f"{error:.1e}"


def objective(name: str, device: torch.device) -> Iterator[Line]:
    """A few steps in float64: on the CPU, here, and here recorded."""
    states: list[dict[str, Tensor]] = []
    said: list[str] = []
    torch.use_deterministic_algorithms(device.type == "cuda", warn_only=True)
    for place, recorded in ((CPU, False), (device, False), (device, True)):
        ours = gpu_cases.learner(
            OBJECTIVES[name], precision("float64", place), compilation("on", place, said.append) if recorded else None
        )
        if ours._fixed is not None:
            ours._fixed._ways, ours._fixed._compiles_loss = [(False, True)], False
        for step, count in enumerate(COUNTS):
            ours.descend(
                ours.policy.objective, gpu_cases.batch(step, count, place, torch.float64), gpu_cases.moment(step)
            )
        states.append({key: value.detach().cpu().double() for key, value in ours.state().items()})
    torch.use_deterministic_algorithms(False)
    plain, here, again = states
    apart = max(
        float((here[key] - value).abs().max() / (1 + value.abs().max()))
        for key, value in plain.items()
        if value.numel()
    )
    yield f"{name}: the CPU's weights", apart < 1e-7, f"{apart:.1e}"
    cannot = [sentence for sentence in said if "cannot" in sentence and name not in UNRECORDED]
    yield (
        f"{name}: recorded, the same bits",
        all(torch.equal(again[key], value) for key, value in here.items()) and not cannot,
        " ".join(cannot),
    )


def attack(name: str, device: torch.device) -> Iterator[Line]:
    """In float64 the images that are found on the CPU."""
    model, tried = ATTACKS[name]
    network, x, y = gpu_cases.examples(model)
    network, x = network.double(), x.double()
    plain = tried(network, x, y)
    found = tried(network.to(device), x.to(device), y.to(device)).cpu()
    apart = float((found - plain).abs().max())
    yield f"{name}: the CPU's images", apart < 1e-9, f"{apart:.1e}"


def autoattack(device: torch.device) -> Iterator[Line]:
    """The CPU's verdicts, and with a search in bfloat16 nearly so."""
    network, x, y = gpu_cases.examples(gpu_cases.CNN, 16)
    plain = AUTOATTACK.run(network, x, y)
    for search in ("float32", "bfloat16") if precision("auto", device).autocast else ("float32",):
        found = AUTOATTACK.run(network.to(device), x, y, precision=search)  # type: ignore[arg-type]
        differ = int((found.robust != plain.robust).sum())
        inside = float((found.x_adv - x).abs().max()) <= AUTOATTACK.threat.epsilon * (1 + 1e-5)
        good = inside and not found.notes and differ <= (1 if search == "float32" else 4)
        yield f"AutoAttack, search in {search}", good, f"{differ} verdicts differ"


def parts(device: torch.device) -> dict[str, Callable[[], Iterator[Line]]]:
    """Everything that must be right, cheap things first."""
    made: dict[str, Callable[[], Iterator[Line]]] = {
        "draws": partial(draws, device),
        "strictness": partial(strictness, device),
    }
    made |= {f"objective {name}": partial(objective, name, device) for name in OBJECTIVES}
    made |= {f"attack {name}": partial(attack, name, device) for name in ATTACKS}
    return made | {"AutoAttack": partial(autoattack, device)}


def numbers(args: argparse.Namespace, found: Kept) -> None:
    """What is right, then how fast a step is; both as far as the time goes."""
    device, begun = choose_device(args.device), time.perf_counter()
    found.keep("machine", machine())
    for name, ask in parts(device).items():
        if name in found.known or time.perf_counter() - begun > 0.6 * args.seconds:
            continue
        try:
            lines = [list(line) for line in ask()]
        except Exception as error:  # what fails must not hide the rest
            lines = [[name, False, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"]]
        found.keep(name, lines)
        for what, good, told in lines:
            print(f"{'right' if good else 'WRONG'}  {what}  {told}", flush=True)
    for name, measure in gpu_speed.first(device, args.toy).items():
        if f"speed {name}" not in found.known and time.perf_counter() - begun < 0.7 * args.seconds:
            found.keep(f"speed {name}", measure())


def summary(known: dict[str, Any], device: str) -> str:
    """The table."""
    lines = [line for name, lines in known.items() if isinstance(lines, list) for line in lines]
    wrong = [[f"WRONG: {what}", told] for what, good, told in lines if not good]
    rows = [["right", f"{sum(good for _, good, _ in lines)} of {len(lines)}"], *wrong]
    missing = [name for name in parts(torch.device(device)) if name not in known]
    rows += [["not reached yet", ", ".join(missing)]] if missing else []
    rows += gpu_speed.rows(
        {name.removeprefix("speed "): value for name, value in known.items() if name.startswith("speed ")}
    )
    rows += [[f"row: {name}", str(value)] for name, value in known.get("row", {}).items()]
    return f"{known.get('machine', machine())}\n\n" + table(["what", "found"], rows)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["numbers", "row", "table"])
    parser.add_argument("--out", type=Path, required=True, help="folder of what is kept between calls")
    parser.add_argument("--data", type=Path, help="folder of the data sets; by default $POISE_DATA")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, help="the call ends by itself after about so many")
    parser.add_argument("--toy", action="store_true")
    args = parser.parse_args(given)
    args.seconds = args.seconds or SECONDS.get(args.part, 0.0)
    args.out.mkdir(parents=True, exist_ok=True)
    found = Kept(args.out / "first.json")
    if args.part == "numbers":
        numbers(args, found)
    if args.part == "row":
        begun = time.perf_counter()
        run = train_row(args.out, args.data, args.device, 0.75 * args.seconds, args.toy)
        left = args.seconds - (time.perf_counter() - begun)
        found.keep("row", attack_row(run, args.out, args.data, args.device, left, args.toy))
    shown = summary(found.known, str(choose_device(args.device)))
    print(shown)
    if args.part == "table" and not args.toy:
        text = page("First contact with a GPU", "python -m benchmarks.gpu_first", {"Found": shown})
        print(f"written: {write('gpu_first', text)}")


if __name__ == "__main__":
    main()
