"""Your own images (an .npz here; `poise.data.Folder` takes a folder by class) and your own network."""

import tempfile

import numpy as np
from torch import nn

import poise
from poise.core.papers import Paper
from poise.engine import Experiment
from poise.learners import Policy
from poise.methods import Joint
from poise.models import Network
from poise.objectives import TRADES


@poise.settings
class TwoLayers(Network):
    """A perceptron with one hidden layer."""

    paper = Paper("ours", "An example", "here")
    hidden: int = 32

    def module(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), self.hidden), nn.ReLU(), nn.Linear(self.hidden, classes))


folder = tempfile.mkdtemp()
pixels = np.random.default_rng(0).integers(0, 256, (120, 6, 6, 3), dtype=np.uint8)
labels = (pixels[..., 0].mean((1, 2)) > 127).astype(np.int64)
np.savez(f"{folder}/mine.npz", x_train=pixels[:80], y_train=labels[:80], x_test=pixels[80:], y_test=labels[80:])

data, method = poise.data.Npz(path=f"{folder}/mine.npz"), Joint(policy=Policy(objective=TRADES(beta=3)))
experiment = Experiment(name="mine", data=data, model=TwoLayers(), method=method, epochs=2)
run = poise.train(experiment, out=f"{folder}/run")
print(run.facts("last")["monitors"])
