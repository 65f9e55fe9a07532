"""AutoAttack, standard version: Poise's verdicts and seconds beside those of `pyautoattack`, on published networks.

    OMP_NUM_THREADS=1 python benchmarks/autoattack_vs_reference.py --models MODELS --data DATA \
        --reference REF/bin/python --cases lenet5-adversarial resnet20-8 \
        --images 500 --seeds 0 1 2 --out runs/autoattack --run runs/at_mnist_slim

MODELS holds mnist_lenet5_advtrained.pt, mnist_lenet5_clntrained.pt and resnet20-12fca82f.th; DATA holds MNIST/ and
cifar-10-batches-py/; REF is an environment with torch and pyautoattack; a run of Poise's is attacked on its own test
images, within its own Linf threat, the reference asking an exported copy. Both sides run one after the other on one
thread, on the same images, and seconds are those of the processor, so that other work on the machine counts little;
Poise's seed 0 is timed against the median of the reference's seeds. Every side's result is kept in --out, where a run
that was stopped goes on. Prints a table in Markdown, and each example that is judged differently with its margin and
what other seeds of Poise's do to it alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CUT = {"steps": 10, "targets": 2, "queries": 50}
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
CASES: dict[str, tuple[str, str, float]] = {
    "lenet5-adversarial": ("mnist", "mnist_lenet5_advtrained.pt", 0.3),
    "lenet5-clean": ("mnist", "mnist_lenet5_clntrained.pt", 0.3),
    "resnet20-8": ("cifar10", "resnet20-12fca82f.th", 8 / 255),
    "resnet20-1": ("cifar10", "resnet20-12fca82f.th", 1 / 255),
}


class LeNet5(nn.Sequential):
    def __init__(self) -> None:
        first = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*first, *second, nn.Flatten(), nn.Linear(3136, 200), nn.ReLU(), nn.Linear(200, 10))


class Block(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.stride, self.pad = outside // inside, (outside - inside) // 2
        self.conv1 = nn.Conv2d(inside, outside, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)

    def forward(self, z: Tensor) -> Tensor:
        shortcut = (
            F.pad(z[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad)) if self.stride > 1 else z
        )
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(z))))) + shortcut)


class ResNet20(nn.Module):
    """The CIFAR ResNet-20 of He et al. 2016 with zero-padded shortcuts; standardises its input."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        layers = [
            nn.Sequential(Block(inside, outside), Block(outside, outside), Block(outside, outside))
            for inside, outside in pairwise(widths)
        ]
        self.layer1, self.layer2, self.layer3 = layers
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.linear(self.layer3(self.layer2(self.layer1(z))).mean((2, 3)))


@dataclass(frozen=True)
class Problem:
    """What both sides attack."""

    title: str
    network: nn.Module
    x: Tensor
    y: Tensor
    epsilon: float
    options: list[str]
    """How the reference's process finds the same network."""


def published(args: argparse.Namespace, case: str) -> Problem:
    from poise.data import CIFAR10, MNIST

    test = (MNIST() if CASES[case][0] == "mnist" else CIFAR10()).load(args.data).test.first(args.images)
    options = ["--models", str(args.models), "--case", case]
    return Problem(case, network(args.models, case), test.pixels(), test.labels, CASES[case][2], options)


def trained(args: argparse.Namespace) -> Problem:
    """A run of Poise's, its network exported for an environment without Poise."""
    from poise.engine.runs import Run
    from poise.threats import Linf
    from poise.verbs.of_run import threat_of

    run = Run.open(args.run)
    net, threat = run.network("last").eval(), threat_of(run.experiment)
    if not isinstance(threat, Linf):
        raise SystemExit(f"{args.run} was trained against {threat}; the comparison is in Linf")
    test = run.experiment.data.load(args.data).test.first(args.images)
    return exported(args, run.name, net, test, threat.epsilon)


def of_the_zoo(args: argparse.Namespace, name: str) -> Problem:
    """A network of Poise's zoo, within the epsilon that it was trained for on MNIST."""
    from poise import load
    from poise.data import MNIST

    test = MNIST().load(args.data).test.first(args.images)
    return exported(args, name, load(f"zoo:{name}").eval(), test, 0.3)


def exported(args: argparse.Namespace, name: str, net: nn.Module, test: Any, epsilon: float) -> Problem:
    """Images and network, the latter also in a file for an environment without Poise."""
    x, y = test.pixels(), test.labels
    path = args.out / f"{name}.pt2"
    torch.export.save(torch.export.export(net, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)), path)
    return Problem(name, net, x, y, epsilon, ["--exported", str(path), "--epsilon", str(epsilon)])


def network(models: Path, case: str) -> nn.Module:
    data, name, _ = CASES[case]
    saved = torch.load(models / name, map_location="cpu", weights_only=True)
    if data == "mnist":
        net: nn.Module = LeNet5()
        net.load_state_dict(dict(zip(net.state_dict(), saved.values(), strict=True)))
    else:
        net = ResNet20()
        net.load_state_dict({key.removeprefix("module."): value for key, value in saved["state_dict"].items()})
    return net.eval()


def reference(args: argparse.Namespace) -> dict[str, Any]:
    """One run of the reference, timing each component."""
    from pyautoattack import AutoAttack  # pyright: ignore[reportMissingImports]  # of the reference's environment

    batch = torch.load(args.batch, weights_only=True)
    net = torch.export.load(args.exported).module() if args.exported else network(args.models, args.case)
    epsilon = args.epsilon if args.exported else CASES[args.case][2]
    attack = AutoAttack(net, eps=epsilon, norm="Linf", seed=args.seed, version="standard")
    if args.cut:
        attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = CUT["steps"]
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = CUT["targets"]
        attack.square.n_queries = CUT["queries"]
        for part in (attack.apgd, attack.apgd_targeted):  # its constructor has fixed the checkpoints for 100 steps
            shares = ((0.22, "n_iter_2"), (0.06, "n_iter_min"), (0.03, "size_decr"))
            for share, name in shares:
                setattr(part, name, max(int(share * CUT["steps"]), 1))
    seconds: dict[str, float] = {}
    for name, part in zip(ATTACKS, (attack.apgd, attack.apgd_targeted, attack.fab, attack.square), strict=True):
        part.perturb = timed(part.perturb, seconds, name)
    start = time.process_time()
    x_adv, _ = attack.run_standard_evaluation(batch["x"], batch["y"], batch_size=250)
    total = time.process_time() - start
    with torch.no_grad():
        robust = torch.cat([attack.model(part).argmax(1) for part in x_adv.split(100)]) == batch["y"]
    parts = (attack.apgd, attack.apgd_targeted, attack.fab)  # read back after the run: what was really spent
    budgets = [
        *(part.n_iter for part in parts),
        *(part.n_target_classes for part in parts[1:]),
        attack.square.n_queries,
    ]
    return {"seconds": seconds, "total": total, "robust": robust.tolist(), "budgets": budgets}


def timed(call: Any, seconds: dict[str, float], name: str) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return call(*args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - start

    return wrapped


def ours(
    net: nn.Module, x: Tensor, y: Tensor, epsilon: float, seed: int, cut: bool, precision: Any = "float32"
) -> dict[str, Any]:
    from poise.attacks.autoattack import AutoAttack, Status
    from poise.attacks.autoattack.apgd import APGD
    from poise.attacks.autoattack.fab import FAB
    from poise.attacks.autoattack.square import Square
    from poise.threats import Linf

    attack = AutoAttack(threat=Linf(epsilon=epsilon))
    if cut:
        steps, targets = CUT["steps"], CUT["targets"]
        gradient = (APGD(steps=steps), APGD(loss="targeted_dlr", steps=steps, targets=targets))
        rest = (FAB(targeted=True, steps=steps, targets=targets), Square(queries=CUT["queries"], rescale=False))
        attack = AutoAttack(threat=Linf(epsilon=epsilon), version="custom", attacks=(*gradient, *rest))
    start = mark = time.process_time()
    seconds = [0.0] * len(ATTACKS)

    def progress(report: Status) -> None:
        nonlocal mark
        now = time.process_time()
        seconds[report.number - 1] += now - mark
        mark = now

    result = attack.run(net, x, y, seed=seed, progress=progress, precision=precision)
    total = time.process_time() - start
    first, targeted, fab, square = cast(Any, attack.components())
    budgets = [first.steps, targeted.steps, fab.steps, targeted.targets, fab.targets, square.queries]
    floor = floors(net, x[: max(result.shapes)], y[: max(result.shapes)])
    useful = [steps[1] for steps in result.steps]
    return {
        "seconds": dict(zip(ATTACKS, seconds, strict=True)),
        "total": total,
        "robust": result.robust.tolist(),
        "budgets": budgets,
        "survivors": result.survivors,
        "floor": dict(zip(ATTACKS, (count * cost for count, cost in zip(useful, floor, strict=True)), strict=True)),
    }


def floors(net: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float, float, float]:
    """Seconds per example of the passes that one step of each component cannot do without, measured at this batch."""

    def gradient() -> None:
        leaf = x.clone().requires_grad_(True)
        torch.autograd.grad(F.cross_entropy(net(leaf), y, reduction="sum"), leaf)

    def forward() -> None:
        with torch.no_grad():
            net(x)

    cost = {}
    for name, call in (("gradient", gradient), ("forward", forward)):
        times = []
        for _ in range(15):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        cost[name] = statistics.median(times) / len(x)
    return cost["gradient"], cost["gradient"], cost["gradient"] + cost["forward"], cost["forward"]


def compare(args: argparse.Namespace, problem: Problem) -> dict[str, Any]:
    """Both sides, each result kept as soon as it is there."""
    arithmetic = "" if args.precision == "float32" else f"-{args.precision}"
    path = args.out / f"{problem.title}-{args.images}{arithmetic}{'-cut' if args.cut else ''}.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"reference": {}}
    if "ours" not in results:
        results["ours"] = ours(problem.network, problem.x, problem.y, problem.epsilon, 0, args.cut, args.precision)
        path.write_text(json.dumps(results))
    with tempfile.TemporaryDirectory() as folder:
        batch = Path(folder) / "batch.pt"
        torch.save({"x": problem.x, "y": problem.y}, batch)
        for seed in map(str, args.seeds):
            if seed in results["reference"]:
                continue
            command = [
                args.reference,
                __file__,
                "--side",
                "reference",
                "--batch",
                batch,
                "--seed",
                seed,
                *problem.options,
            ]
            command += ["--cut"] if args.cut else []
            out = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
            run = json.loads(out.stdout.splitlines()[-1])
            if run["budgets"] != results["ours"]["budgets"]:
                raise SystemExit(
                    f"budgets differ, nothing to compare: {results['ours']['budgets']} here, {run['budgets']} there"
                )
            results["reference"][seed] = run
            path.write_text(json.dumps(results))
    return {
        "case": problem.title,
        "images": args.images,
        "ours": results["ours"],
        "reference": [results["reference"][str(seed)] for seed in args.seeds],
    }


def apart(results: dict[str, Any], problem: Problem, cut: bool) -> list[str]:
    """A line for each example that some seed of the reference judges differently: who broke it, its margin, and what
    other seeds leave.
    """
    verdicts = [run["robust"] for run in results["reference"]]
    with torch.no_grad():
        logits = torch.cat([problem.network(part) for part in problem.x.split(100)])
    own = logits.gather(1, problem.y[:, None])[:, 0]
    margins = own - logits.scatter(1, problem.y[:, None], -torch.inf).amax(1)
    lines = []
    for place, mine in enumerate(results["ours"]["robust"]):
        theirs = [verdict[place] for verdict in verdicts]
        if any(verdict != mine for verdict in theirs):
            said = "robust" if mine else "broken"
            broken = sum(not verdict for verdict in theirs)
            lines.append(
                f"- image {place}: {said} here, broken by {broken} of {len(theirs)} seeds; its margin unattacked"
                f" {margins[place]:.3f}"
            )
            lines += (
                [] if cut else [f"  - alone, Poise's seed {seed}: {alone(problem, place, seed)}" for seed in range(4)]
            )
    return lines


def alone(problem: Problem, place: int, seed: int) -> str:
    """What full AutoAttack does to this example with the draws of its place; all others are labelled wrong and leave at
    once.
    """
    from poise.attacks.autoattack import AutoAttack
    from poise.threats import Linf

    with torch.no_grad():
        logits = torch.cat([problem.network(part) for part in problem.x.split(100)])
        wrong = logits.argmin(1)
        wrong[place] = problem.y[place]
        attack = AutoAttack(threat=Linf(epsilon=problem.epsilon))
        result = attack.run(problem.network, problem.x, wrong, seed=seed)
        after = problem.network(result.x_adv[place : place + 1])[0]
    own = float(after[problem.y[place]])
    after[problem.y[place]] = -torch.inf
    margin = own - float(after.max())
    names = [name for name, left in zip(ATTACKS, result.survivors, strict=True) if not left]
    return f"broken by {names[0]}, margin {margin:.3f}" if names else "robust"


def table(results: dict[str, Any]) -> str:
    mine, theirs = results["ours"], results["reference"]
    counts = [sum(run["robust"]) for run in theirs]
    differing = [sum(a != b for a, b in zip(mine["robust"], run["robust"], strict=True)) for run in theirs]
    lines = [f"**{results['case']}**, {results['images']} images: robust {sum(mine['robust'])} (reference {counts}, "]
    lines[0] += f"examples judged differently {differing}); left after each attack: {list(mine['survivors'])}"
    lines += ["", "| | Poise s | reference s | ratio | floor s |", "|---|---|---|---|---|"]
    for name in ATTACKS:
        other = statistics.median(run["seconds"].get(name, 0.0) for run in theirs)
        lines.append(row(name, mine["seconds"][name], other, mine["floor"][name]))
    lines.append(
        row("total", mine["total"], statistics.median(run["total"] for run in theirs), sum(mine["floor"].values()))
    )
    return "\n".join(lines)


def row(name: str, mine: float, other: float, floor: float) -> str:
    return (
        f"| {name} | {mine:.1f} | {other:.1f} | {mine / other:.2f} | {floor:.1f} |"
        if other
        else f"| {name} | {mine:.1f} | – | – | {floor:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--reference", help="python of the environment with pyautoattack")
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--run", type=Path, help="a run of Poise's own, attacked besides")
    parser.add_argument("--zoo", nargs="*", default=[], help="MNIST networks of the zoo, attacked besides")
    parser.add_argument(
        "--precision", default="float32", choices=["float32", "bfloat16", "auto"], help="of Poise's search"
    )
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/autoattack"), help="folder of the results")
    parser.add_argument(
        "--cut", action="store_true", help="10 steps, 2 targets, 50 queries on both sides: ratios, not verdicts"
    )
    parser.add_argument("--side", choices=["both", "reference"], default="both", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--exported", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--epsilon", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.side == "reference":
        print(json.dumps(reference(args)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    problems = [published(args, case) for case in args.cases] + [of_the_zoo(args, name) for name in args.zoo]
    for problem in problems + ([trained(args)] if args.run else []):
        results = compare(args, problem)
        print("\n".join([table(results), "", *apart(results, problem, args.cut)]), end="\n\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
