"""MNIST at Linf 0.3, with 40 steps of 0.01 to evaluate. The settings are ours: Zipper's MNIST row (Table 2) is a
ResNet-18.

`{row}_mnist_slim` for every row of `compared` (slim net with stride 2, PGD-7, 10,000 images, 5 epochs), and four with
SmallCNN (four convolutions, no BatchNorm, PGD-10, 10 epochs).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from poise.attacks import PGD, Ascent
from poise.data import MNIST
from poise.engine.experiment import Experiment, Monitor
from poise.evaluation import Protocol
from poise.learners import EMA, SGD, PiecewiseLinear, Policy
from poise.methods import Generalist
from poise.models import Network, SlimCNN, SmallCNN
from poise.objectives import NT
from poise.recipes.compared import Row, compared
from poise.recipes.rows import register
from poise.threats import Linf

THREAT = Linf(epsilon=0.3)
PGD_40 = PGD(threat=THREAT, step_size=0.01, steps=40)
RATE, DECAY = 0.05, 0.98


@dataclass(frozen=True)
class Bench:
    """A network with the length of its training and of its training attack."""

    name: str
    title: str
    model: Network
    steps: int
    epochs: int

    def rows(self, epochs: int | None = None) -> dict[str, Row]:
        """Steps of 2.5 epsilon / K; epsilon grows over the first 30 % of training. RWP takes four steps, so that a run
        stays short.

        epochs: other than the bench's own, in the quick variant.
        """
        inner = Ascent(threat=THREAT, step_size=2.5 * THREAT.epsilon / self.steps, steps=self.steps, ramp=0.3)
        return compared(inner, epochs or self.epochs, RATE, rwp_steps=4)


SLIM = Bench("mnist_slim", "slim stride-2 net", SlimCNN(), 7, 5)
SMALL = Bench("mnist_smallcnn", "SmallCNN", SmallCNN(), 10, 10)
POLICY = Policy(
    objective=NT(),
    optimizer=SGD(learning_rate=RATE),
    schedule=PiecewiseLinear(values=(1, 1, 0.3, 0.05)),
    average=EMA(decay=DECAY),
)
AROUND = Generalist(decay=DECAY, redistribute_every=1)


def mnist(bench: Bench, row: str, quick: bool = False) -> Experiment:
    """10,000 training images, evaluated on the first 1,000 test images (all in the record's count)."""
    epochs = 1 if quick else bench.epochs
    row_of_bench = bench.rows(epochs)[row]
    experiment = Experiment(
        name=f"{row}_{bench.name}",
        title=row_of_bench.title,
        data=MNIST(train_images=10_000),
        model=bench.model,
        method=row_of_bench.method(POLICY, AROUND),
        epochs=epochs,
        selection="test",
        criterion="last",
        monitors=(Monitor(first=1000), Monitor(name="pgd-40", attack=PGD_40, first=200)),
        monitor_every=epochs,
        protocol=Protocol(name="mnist-pgd40", attacks=(PGD_40,), first=1000),
    )
    if not quick:
        return experiment
    return dataclasses.replace(
        experiment,
        name=f"{experiment.name}_quick",
        data=MNIST(train_images=1000, test_images=200),
        protocol=dataclasses.replace(experiment.protocol, first=100),
    )


def _register(bench: Bench, name: str, row: Row) -> None:
    line = f"{row.line}, {bench.title}, 10,000 images of MNIST (Linf .3)"
    register(f"{name}_{bench.name}", line, lambda quick: mnist(bench, name, quick))


for _name, _row in SLIM.rows().items():
    _register(SLIM, _name, _row)
for _name in ("nt", "at", "trades", "generalist"):
    _register(SMALL, _name, SMALL.rows()[_name])
