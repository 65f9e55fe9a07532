"""Your own images (arrays here; a folder by class or an .npz archive as well) and your own network, any torch
module.
"""

import tempfile

import numpy as np
from torch import Tensor, nn

import poise


class TwoLayers(nn.Module):
    """A perceptron with one hidden layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(108, 32), nn.ReLU(), nn.Linear(32, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


pixels = np.random.default_rng(0).integers(0, 256, (120, 3, 6, 6), dtype=np.uint8)
labels = (pixels[:, 0].mean((1, 2)) > 127).astype(np.int64)
data = (pixels[:80], labels[:80]), (pixels[80:], labels[80:])

folder = tempfile.mkdtemp()
objective = poise.objectives.TRADES(beta=3)
run = poise.train(network=TwoLayers, data=data, objective=objective, epsilon=4 / 255, epochs=2, out=f"{folder}/run")
print(run.facts("last")["monitors"])
