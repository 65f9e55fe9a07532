"""PGD-10 beside torchattacks and foolbox: seconds of the same attack on the same networks and images, in turn.

    OMP_NUM_THREADS=1 python -m benchmarks.peers --peers PEERS/bin/python [--quick] [--rounds N]

PEERS is an environment with torch, torchattacks and foolbox (`pip install torch torchattacks foolbox`); by default
.venv-bench. There a worker waits; in every round each of the three attacks is made once, on one thread, and takes its
own processor time. torchattacks imports torchvision, of which PGD uses nothing and which need not fit the torch that is
there, so the worker puts an empty module in its place. All three take 10 steps of 2/255 within 8/255 from a uniform
start; ours checks its arguments too, foolbox's attack is its `run`, without the check of success that a call adds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 10
PEERS = ("torchattacks", "foolbox")
CASES = {
    "ResNet-20, batch 32": (16, (1, 2, 4), 3, 32, 32),
    "ResNet-18, batch 16": (64, (1, 2, 4, 8), 2, 32, 16),
    "ResNet-18, batch 128": (64, (1, 2, 4, 8), 2, 32, 128),
}
QUICK = {"ResNet-20 of width 4, 8x8, batch 4": (4, (1, 2, 4), 3, 8, 4)}
"""Width, its factors by stage, blocks a stage, image size, batch."""


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride > 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, z: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(z))))) + self.shortcut(z))


class ResNet(nn.Module):
    """As such networks are usually written; both environments can build it."""

    def __init__(self, width: int, factors: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        layers, inside = [], width
        for stage, factor in enumerate(factors):
            for number in range(blocks):
                layers.append(Block(inside, factor * width, 2 if stage and not number else 1))
                inside = factor * width
        self.layers, self.linear = nn.Sequential(*layers), nn.Linear(inside, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.layers(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


def made(case: tuple[int, tuple[int, ...], int, int, int]) -> tuple[nn.Module, Tensor, Tensor]:
    """The network with some statistics of its own, images and labels, the same in every process."""
    width, factors, blocks, size, batch = case
    torch.manual_seed(0)
    model = ResNet(width, factors, blocks)
    x, y = torch.rand(batch, 3, size, size), torch.randint(10, (batch,))
    model(x)
    return model.eval(), x, y


def peer(name: str, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """The peer's PGD-10."""
    if name == "torchattacks":
        import types

        for module in ("torchvision", "torchvision.transforms", "torchvision.models"):
            sys.modules.setdefault(module, types.ModuleType(module))
        for part in ("transforms", "models"):
            setattr(sys.modules["torchvision"], part, sys.modules[f"torchvision.{part}"])
        import torchattacks  # pyright: ignore[reportMissingImports]  # of the peers' environment

        attack = torchattacks.PGD(model, eps=EPSILON, alpha=STEP_SIZE, steps=STEPS, random_start=True)
        return lambda: attack(x, y)
    import foolbox  # pyright: ignore[reportMissingImports]

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    found = foolbox.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=STEP_SIZE, steps=STEPS, random_start=True)
    return lambda: found.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=EPSILON)


def measured(attack: Callable[[], Tensor], model: nn.Module, x: Tensor, y: Tensor) -> str:
    """One line: processor seconds, loss at what was found, largest change of a pixel."""
    begun = time.process_time()
    x_adv = attack().detach()
    seconds = time.process_time() - begun
    with torch.no_grad():
        loss = float(F.cross_entropy(model(x_adv), y))
    return f"{seconds} {loss} {float((x_adv - x).abs().max())}"


def worker(case: str) -> None:
    """Make the attack that each line of the input names; answer with a line."""
    model, x, y = made({**CASES, **QUICK}[case])
    attacks: dict[str, Callable[[], Tensor]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in attacks:
            attacks[name] = peer(name, model, x, y)
        print(f"measured {measured(attacks[name], model, x, y)}", flush=True)


def compare(case: str, python: str, rounds: int) -> list[list[str]]:
    from benchmarks.measuring import Figure, ratio
    from poise.attacks import PGD

    model, x, y = made({**CASES, **QUICK}[case])
    attack = PGD(step_size=STEP_SIZE, steps=STEPS)
    found: dict[str, list[list[float]]] = {name: [] for name in ("Poise", *PEERS)}
    command = [python, str(Path(__file__).resolve()), "--worker", case]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            for number in range(rounds + 1):
                for name in list(found)[:: 1 if number % 2 == 0 else -1]:
                    if name == "Poise":
                        answer = measured(lambda: attack(model, x, y), model, x, y)
                    else:
                        process.stdin.write(f"{name}\n")
                        process.stdin.flush()
                        answer = answered(process.stdout)
                    if number and answer:  # the first round warms up
                        found[name].append([float(word) for word in answer.split()])
            process.stdin.close()
        if any(len(lines) < rounds for lines in found.values()):
            errors.seek(0)
            raise SystemExit(f"{python} could not run the peers:\n{errors.read()[-2000:]}")
    seconds = {name: [line[0] for line in lines] for name, lines in found.items()}
    rows = []
    for name, lines in found.items():
        times = ratio(seconds[name], seconds["Poise"]).text() if name != "Poise" else "1"
        shown = [f"{lines[-1][1]:.3f}", f"{lines[-1][2] / EPSILON:.3f}"]
        rows.append([f"{name}, {case}", Figure.of(seconds[name]).text(0, 1000), times, *shown])
    return rows


def answered(lines: Any) -> str:
    """What the worker has measured; empty where it ended instead. Other lines are the peers' own talk."""
    for line in lines:
        if line.startswith("measured "):
            return line.removeprefix("measured ")
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=".venv-bench/bin/python", help="python of the environment with the peers")
    parser.add_argument("--quick", action="store_true", help="toy size, one round, nothing written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.worker:
        worker(args.worker)
        return
    from benchmarks.measuring import page, table, write

    rows = [
        row
        for case in (QUICK if args.quick else CASES)
        for row in compare(case, args.peers, 1 if args.quick else args.rounds)
    ]
    body = table(["attack", "processor, ms", "times ours", "cross-entropy found", "largest change / epsilon"], rows)
    body += "\n\nMust hold on a CPU: torchattacks at least 1.25 times ours, foolbox at least 1.8 times."
    text = page("PGD-10 beside torchattacks and foolbox", "python -m benchmarks.peers", {"Seconds": body})
    print(text)
    if not args.quick:
        print(f"written: {write('peers', text)}")


if __name__ == "__main__":
    main()
