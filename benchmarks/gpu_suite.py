"""Everything that needs a GPU, in pieces of a few minutes that follow each other on one machine and are started again to go on.

    python -m benchmarks.gpu_suite speed   --out DIR              # ratios, images/s, share of the matrix rate, seconds per epoch
    python -m benchmarks.gpu_suite train   --out DIR --data DATA  # a table row; repeat until it says that all steps are done
    python -m benchmarks.gpu_suite archive --out DIR              # the deployed weights as fp16, in parts under 16 MiB
    python -m benchmarks.gpu_suite attack  --out DIR --data DATA  # AutoAttack on all test images, from the archive; repeat
    python -m benchmarks.gpu_suite table   --out DIR              # one short table

Every piece stops by itself after --seconds (500) with its work on disk; `attack` needs only the archive, so it may be another
day's sitting on another machine: copy DIR/archive there. The number that counts is that of the archived weights, with verdicts in
float32 without TF32. --toy runs all of it at toy size on any machine: does it run?
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_archive, gpu_speed
from benchmarks.measuring import machine, table
from poise import recipes
from poise.attacks import APGD, AutoAttack, Square
from poise.core.errors import Interrupted
from poise.core.exact import exact
from poise.core.files import write_text
from poise.data import Data
from poise.engine import Experiment, resume, train
from poise.engine.devices import choose_device
from poise.engine.loop import finished
from poise.engine.progress import Progress
from poise.engine.runs import Run
from poise.evaluation import Protocol
from poise.evaluation.predictions import accuracy, predict
from poise.threats import Linf

WHICH = ("selected", "last")


class Said(Progress):
    """Sentences and epochs as lines of text."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()

    def say(self, sentence: str) -> None:
        print(f"  {time.perf_counter() - self.begun:6.1f} s  {sentence}", flush=True)

    def epoch(self, epoch: int, epochs: int, numbers: Mapping[str, float]) -> None:
        shown = {name: numbers[name] for name in numbers if name.startswith("monitor/") or name == "images_per_second"}
        self.say(f"epoch {epoch}/{epochs}  " + "  ".join(f"{name} {value:.4g}" for name, value in shown.items()))


def row(args: argparse.Namespace) -> Experiment:
    """The experiment of the row: monitored every five epochs (the redistribution's own rhythm), fastest kernels."""
    if not args.toy:
        made = recipes.experiment(args.recipe)
        every = args.monitor_every
        return dataclasses.replace(
            made, monitor_every=every, save_every=4 * every, deterministic=args.deterministic, protocol=Protocol(), seed=args.seed
        )
    made = recipes.experiment("generalist_digits", quick=True)
    data = dataclasses.replace(made.data, train_images=60, test_images=40)
    return dataclasses.replace(made, data=data, epochs=2, monitor_every=2, protocol=Protocol())


def kept(out: Path, name: str) -> dict[str, Any]:
    """What a piece has found so far."""
    path = out / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def keep(out: Path, name: str, found: dict[str, Any]) -> None:
    write_text(out / f"{name}.json", json.dumps(found, indent=1))


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Training is asked to stop, as by SIGTERM, when the time is over; it then saves and raises Interrupted.

    Before its first step and after its last one there is nothing to save: Interrupted is raised at once.
    """

    def outside(number: int, frame: object) -> None:
        raise Interrupted(f"stopped after {seconds:g} s, outside of training's steps")

    before = signal.signal(signal.SIGTERM, outside)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


def speed(args: argparse.Namespace) -> None:
    """Measure what has not been measured yet, until the time is over."""
    found, begun = kept(args.out, "speed"), time.perf_counter()
    found["machine"] = machine()
    items = gpu_speed.items(choose_device(args.device), args.toy)
    for name, measure in sorted(items.items(), key=lambda item: item[0] in found):  # what failed comes again, last
        if name in found and "failed" not in found[name]:
            continue
        if time.perf_counter() - begun > 0.5 * args.seconds:  # so that the longest item, WRN-34-10, has half a piece
            print(f"stopped before {name!r}: run the same command again")
            break
        clock = time.perf_counter()
        try:
            found[name] = measure()
        except Exception as error:  # one item that fails must not cost the others their time on the machine
            found[name] = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"}
        found[name]["seconds_to_measure"] = time.perf_counter() - clock
        keep(args.out, "speed", found)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # after an illegal access nothing works in this process: the others wait for the next one
            torch.cuda.empty_cache()


def train_row(args: argparse.Namespace) -> None:
    """Train, or go on."""
    path, clock, said = args.out / "run", time.perf_counter(), Said()
    common: dict[str, Any] = {"device": args.device, "data_dir": args.data, "progress": said}
    try:
        with stopped_after(args.seconds):
            if not (path / "experiment.json").exists():
                train(row(args), path, **common)
            elif not finished(Run.open(path)):
                resume(path, **common)
        print("all steps are done")
    except Interrupted as stop:
        print(f"{stop}\nrun the same command again")
    spent = kept(args.out, "train")
    pieces = [*spent.get("pieces", []), time.perf_counter() - clock]
    keep(args.out, "train", {"pieces": pieces, "seconds": sum(pieces), "command": " ".join(sys.argv), "machine": machine()})


def archive(args: argparse.Namespace) -> None:
    """Both deployed sets of weights as fp16."""
    run = Run.open(args.out / "run")
    for which in WHICH:
        files = gpu_archive.write(run, which, args.out / "archive")
        print(f"{which}: " + ", ".join(f"{file.name} {file.stat().st_size / 2**20:.1f} MiB" for file in files))


def budget(toy: bool, threat: Linf) -> AutoAttack:
    if not toy:
        return AutoAttack(threat=threat)
    return AutoAttack(threat=threat, version="custom", attacks=(APGD(steps=3), Square(queries=5)))


def attack(args: argparse.Namespace) -> None:
    """Natural accuracy and AutoAttack of the archived weights on the whole test set."""
    device, found, begun = choose_device(args.device), kept(args.out, "attack"), time.perf_counter()
    experiment, network, facts = gpu_archive.read(args.out / "archive", args.which)
    data: Data = experiment.data.load(args.data)
    network, test = network.to(device), data.test
    x, y = test.pixels().to(device), test.labels.to(device)
    threat = Linf(epsilon=args.epsilon)

    def progress(report: Any) -> None:
        if time.perf_counter() - begun > args.seconds:
            raise Interrupted(f"stopped in {report.attack}, {report.survivors} images left; run the same command again")

    spent = found.get(args.which, {}).get("seconds", 0.0)
    state = args.out / f"autoattack-{args.which}.safetensors"
    arithmetic: Any = {"precision": args.search, "state_path": state, "save_seconds": 30.0, "ids": test.ids}
    try:
        result = budget(args.toy, threat).run(network, x, y, progress=progress, **arithmetic)
    except Interrupted as stop:
        keep(args.out, "attack", found | {args.which: {"seconds": spent + time.perf_counter() - begun}})
        print(stop)
        return
    with torch.no_grad(), exact(device):
        again = torch.cat([network(part.to(device)).argmax(1).cpu() for part in result.x_adv.split(500)])
    largest = float((result.x_adv.double() - test.pixels().double().cpu()).abs().amax())
    found[args.which] = {
        "natural": accuracy(predict(network, test, 500), test),
        "robust": accuracy(again, test),
        "images": len(test),
        "verdicts_that_changed_when_asked_again": int((again != result.predicted).sum()),
        "largest_change_of_a_pixel_over_epsilon": largest / args.epsilon,
        "survivors": dict(zip(result.attacks, result.survivors, strict=True)),
        "search": args.search,
        "epsilon": args.epsilon,
        "seconds": spent + time.perf_counter() - begun,
        "weights": facts["digests"],
        "epoch": facts["epoch"],
        "machine": machine(),
    }
    gpu_archive.record(args.out / "archive", args.which, again, test.ids)
    keep(args.out, "attack", found)
    print(json.dumps(found[args.which], indent=1))


def summary(out: Path) -> str:
    """The short table of all that is there."""
    speed_found, trained, attacked = kept(out, "speed"), kept(out, "train"), kept(out, "attack")
    rows = gpu_speed.rows(speed_found)
    if trained:
        rows.append(["row trained, s", f"{trained['seconds']:.0f} in {len(trained['pieces'])} piece(s)"])
    for which in WHICH:
        if "robust" in attacked.get(which, {}):
            found = attacked[which]
            numbers = f"{100 * found['natural']:.2f} / {100 * found['robust']:.2f}"
            rows.append([f"fp16 weights, {which} (epoch {found['epoch']}): natural / AutoAttack, %", numbers])
    run = out / "run"
    if (run / "experiment.json").exists() and (published := Run.open(run).experiment.published) is not None and published.columns:
        known = dict(zip(published.columns, published.values, strict=True))
        rows.append(["published: natural / AA, %", f"{known.get('natural', '-')} / {known.get('AA', '-')}"])
    place = speed_found.get("machine") or trained.get("machine") or machine()
    return f"{place}\n\n" + table(["what", "measured"], rows)


PIECES: dict[str, Callable[[argparse.Namespace], None]] = {"speed": speed, "train": train_row, "archive": archive, "attack": attack}


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=[*PIECES, "table"])
    parser.add_argument("--out", type=Path, required=True, help="folder of everything that is kept between pieces")
    parser.add_argument("--data", type=Path, help="folder of the data sets; by default $POISE_DATA")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=500.0, help="a piece stops by itself after so many seconds")
    parser.add_argument("--recipe", default="generalist_cifar10_resnet18")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--monitor-every", type=int, default=5, help="epochs between two looks at the test set")
    parser.add_argument("--deterministic", action="store_true", help="the same bits from the same seed, at a cost that `speed` measures")
    parser.add_argument("--which", choices=WHICH, default="selected", help="which archived weights are attacked")
    parser.add_argument("--epsilon", type=float, default=8 / 255)
    parser.add_argument("--search", choices=["float32", "bfloat16"], default="float32", help="arithmetic of AutoAttack's search")
    parser.add_argument("--toy", action="store_true")
    args = parser.parse_args(given)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.piece in PIECES:
        PIECES[args.piece](args)
    print(summary(args.out))


if __name__ == "__main__":
    main()
