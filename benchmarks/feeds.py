"""Feeds of image files beside a plain DataLoader: images a second, memory, and how long a start takes.

    OMP_NUM_THREADS=1 python -m benchmarks feeds [--quick] [--rounds N]

25,000 JPEG files of 224 pixels in 100 classes are generated in a temporary folder. Both sides decode with as many
workers; they take turns, so their ratio holds on a busy machine too. Memory is the anonymous memory of all processes
after an epoch's first batches, shared pages counted once; a start is from the start of the interpreter to the first
batch (processor time: of the main process).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.measuring import Figure, interleaved, page, ratio, table

WORKERS = 2
BATCH = 128
MODES = ("resident", "cache", "workers")


def generate(folder: Path, count: int, size: int, classes: int) -> None:
    """Smooth random images, as JPEG files, of every class in turn."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class-{label:03}").mkdir(parents=True)
    for number in range(count):
        rough = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8))
        path = folder / f"class-{number % classes:03}" / f"{number // classes:05}.jpg"
        rough.resize((size, size), Image.Resampling.BICUBIC).save(path, quality=85)


class Plain(Dataset[tuple[Tensor, int]]):
    """What a user writes without Poise: one image file at a time, as a uint8 tensor."""

    def __init__(self, folder: Path) -> None:
        classes = sorted(path.name for path in folder.iterdir())
        self.files = [
            (str(path), label) for label, name in enumerate(classes) for path in sorted((folder / name).iterdir())
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        from PIL import Image

        path, label = self.files[number]
        with Image.open(path) as image:
            values = np.array(image.convert("RGB"))
        return torch.from_numpy(values).permute(2, 0, 1).contiguous(), label


def plain_batches(folder: Path, workers: int) -> Iterator[Tensor]:
    """Float batches in [0, 1], epoch after epoch."""
    loader = DataLoader(Plain(folder), BATCH, shuffle=True, num_workers=workers)
    while True:
        for images, _ in loader:
            yield images.float().div_(255)


def fed_batches(folder: Path, mode: Any) -> Iterator[Tensor]:
    """The same of a feed of the part of the images that is not held out, as in a run."""
    from poise.core.batches import Now
    from poise.data import Feed, Folder, Stream, held_out

    data = Folder(path=str(folder), decode=mode, test_fraction=0.02).load()
    feed = Feed(Stream(batch_size=BATCH), held_out(data.train, 0.1, 0)[0], seed=0)
    step = 0
    while True:
        yield feed.batch(Now(step // feed.steps_per_epoch + 1, step, 100, feed.steps_per_epoch, 0)).x
        step += 1


def anonymous() -> int:
    """Bytes of anonymous memory of this process and its children, pages that several have counted once."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    total = 0
    for process in ("self", *children):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon")) * 1024
    return total


def measured(folder: Path, mode: str, begun: float) -> dict[str, float]:
    """Of a process that starts anew: seconds to the first batch, and memory after as many as fill every queue."""
    batches = fed_batches(folder, mode)
    next(batches)
    seconds, processor = time.time() - begun, time.process_time()
    for _ in range(8):
        next(batches)
    return {"seconds": seconds, "processor": processor, "bytes": anonymous()}


def started(folder: Path, mode: str) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.feeds",
        "--measure",
        mode,
        "--folder",
        str(folder),
        "--begun",
        str(time.time()),
    ]
    spoken = subprocess.run(
        command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return json.loads(spoken.splitlines()[-1])


def main(quick: bool, rounds: int) -> str:
    """Run it and return the page."""
    count, size, classes, taken = (400, 64, 10, 2) if quick else (25_000, 224, 100, 20)
    os.environ["POISE_WORKERS"] = str(WORKERS)
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"
        folder = Path(place) / "images"
        generate(folder, count, size, classes)
        stored = sum(path.stat().st_size for path in folder.glob("*/*"))
        rows = []
        for mode in MODES:
            first, again = started(folder, mode), started(folder, mode)
            rows.append(
                [
                    mode,
                    f"{first['seconds']:.1f}",
                    f"{again['seconds']:.1f}",
                    f"{again['processor']:.1f}",
                    f"{again['bytes'] / 2**30:.2f}",
                ]
            )
        feeds = {
            "plain DataLoader": plain_batches(folder, WORKERS),
            **{mode: fed_batches(folder, mode) for mode in MODES[1:]},
        }
        contenders = {name: lambda feed=feed: [next(feed) for _ in range(taken)] for name, feed in feeds.items()}
        seconds = interleaved(contenders, rounds, clock=time.perf_counter)
    plain = seconds["plain DataLoader"]
    speeds = [
        [name, Figure.of([taken * BATCH / value for value in values]).text(0), ratio(plain, values).text()]
        for name, values in seconds.items()
    ]
    shown = (
        f"{count:,} JPEG files of {size} pixels in {classes} classes, {stored / 1e6:.0f} MB; batches of {BATCH},"
        f" {WORKERS} workers."
    )
    sections = {
        "Starts and memory": (
            table(
                ["decode", "first start, s", "second start, s", "of processor time, s", "anonymous memory, GiB"], rows
            )
            + f"\n\n{shown}"
        ),
        "Images a second": table(["feed", "images a second", "times the plain DataLoader"], speeds),
    }
    return page("Feeds of image files", "python -m benchmarks feeds", sections)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=MODES, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--begun", type=float, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(measured(given.folder, given.measure, given.begun)))
