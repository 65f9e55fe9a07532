"""MNIST at Linf 0.3, with 40 steps of 0.01 to evaluate. The settings are ours: Zipper's MNIST row (Table 2) is a ResNet-18."""

from __future__ import annotations

import dataclasses

from poise.attacks import PGD, Ascent
from poise.data import MNIST
from poise.engine.experiment import Experiment, Monitor
from poise.evaluation import Protocol
from poise.learners import EMA, SGD, PiecewiseLinear, Policy
from poise.methods import Generalist, Joint, Method
from poise.models import Network, SlimCNN, SmallCNN
from poise.objectives import AT, NT, TRADES, Objective
from poise.recipes.registry import recipe
from poise.threats import Linf

THREAT = Linf(epsilon=0.3)
PGD_40 = PGD(threat=THREAT, step_size=0.01, steps=40)


def inner(steps: int, start: str = "uniform") -> Ascent:
    """Training attack: step 2.5 epsilon / K, epsilon growing over the first 30 % of training."""
    return Ascent(threat=THREAT, step_size=2.5 * 0.3 / steps, steps=steps, start=start, ramp=0.3)  # type: ignore[arg-type]


def policy(objective: Objective, decay: float) -> Policy:
    schedule = PiecewiseLinear(values=(1, 1, 0.3, 0.05))
    return Policy(objective=objective, optimizer=SGD(learning_rate=0.05), schedule=schedule, average=EMA(decay=decay))


def mnist(name: str, model: Network, method: Method, epochs: int, quick: bool) -> Experiment:
    """10,000 training images, evaluated on the first 1,000 test images (all in the record's count)."""
    made = Experiment(
        name=name,
        data=MNIST(train_images=10_000),
        model=model,
        method=method,
        epochs=epochs,
        selection="test",
        criterion="last",
        monitors=(Monitor(first=1000), Monitor(name="pgd-40", attack=PGD_40, first=200)),
        monitor_every=epochs,
        protocol=Protocol(name="mnist-pgd40", attacks=(PGD_40,), first=1000),
    )
    if quick:
        small = MNIST(train_images=1000, test_images=200)
        return dataclasses.replace(
            made, name=f"{name}_quick", data=small, epochs=1, monitor_every=1, protocol=dataclasses.replace(made.protocol, first=100)
        )
    return made


def _generalist(steps: int, decay: float) -> Generalist:
    def learner(objective: Objective) -> Policy:
        return dataclasses.replace(policy(objective, decay), average=None)

    return Generalist(natural=learner(NT()), robust=learner(AT(inner=inner(steps))), decay=decay, redistribute_every=1)


@recipe
def nt_mnist_slim(quick: bool) -> Experiment:
    """Natural training, slim stride-2 net, 10,000 MNIST images, 5 epochs.

    Command: poise train nt_mnist_slim --out runs/nt_mnist_slim
    """
    return mnist("nt_mnist_slim", SlimCNN(), Joint(policy=policy(NT(), 0.98)), 5, quick)


@recipe
def at_mnist_slim(quick: bool) -> Experiment:
    """Adversarial training (K = 7), slim stride-2 net, 10,000 MNIST images, 5 epochs.

    Command: poise train at_mnist_slim --out runs/at_mnist_slim
    """
    return mnist("at_mnist_slim", SlimCNN(), Joint(policy=policy(AT(inner=inner(7)), 0.98)), 5, quick)


@recipe
def trades_mnist_slim(quick: bool) -> Experiment:
    """TRADES (beta 6, K = 7), slim stride-2 net, 10,000 MNIST images, 5 epochs.

    Command: poise train trades_mnist_slim --out runs/trades_mnist_slim
    """
    return mnist("trades_mnist_slim", SlimCNN(), Joint(policy=policy(TRADES(inner=inner(7, "gaussian")), 0.98)), 5, quick)


@recipe
def generalist_mnist_slim(quick: bool) -> Experiment:
    """Generalist (K = 7, c = 1), slim stride-2 net, 10,000 MNIST images, 5 epochs.

    Command: poise train generalist_mnist_slim --out runs/generalist_mnist_slim
    """
    return mnist("generalist_mnist_slim", SlimCNN(), _generalist(7, 0.98), 5, quick)


@recipe
def nt_mnist_smallcnn(quick: bool) -> Experiment:
    """Natural training, SmallCNN (4 convolutions, no BatchNorm), 10,000 MNIST images, 10 epochs.

    Command: poise train nt_mnist_smallcnn --out runs/nt_mnist_smallcnn
    """
    return mnist("nt_mnist_smallcnn", SmallCNN(), Joint(policy=policy(NT(), 0.98)), 10, quick)


@recipe
def at_mnist_smallcnn(quick: bool) -> Experiment:
    """Adversarial training (K = 10), SmallCNN, 10,000 MNIST images, 10 epochs.

    Command: poise train at_mnist_smallcnn --out runs/at_mnist_smallcnn
    """
    return mnist("at_mnist_smallcnn", SmallCNN(), Joint(policy=policy(AT(inner=inner(10)), 0.98)), 10, quick)


@recipe
def trades_mnist_smallcnn(quick: bool) -> Experiment:
    """TRADES (beta 6, K = 10), SmallCNN, 10,000 MNIST images, 10 epochs.

    Command: poise train trades_mnist_smallcnn --out runs/trades_mnist_smallcnn
    """
    return mnist("trades_mnist_smallcnn", SmallCNN(), Joint(policy=policy(TRADES(inner=inner(10, "gaussian")), 0.98)), 10, quick)


@recipe
def generalist_mnist_smallcnn(quick: bool) -> Experiment:
    """Generalist (K = 10, c = 1), SmallCNN, 10,000 MNIST images, 10 epochs.

    Command: poise train generalist_mnist_smallcnn --out runs/generalist_mnist_smallcnn
    """
    return mnist("generalist_mnist_smallcnn", SmallCNN(), _generalist(10, 0.98), 10, quick)
