"""A published CIFAR-10 ResNet-20 runs in our module and reaches its published accuracy."""

import os
from pathlib import Path

import pytest
import torch

from poise.data import CIFAR10
from poise.models import Normalisation, ResNet20, ResNetModule

NAME = "resnet20-12fca82f.th"


@pytest.fixture(scope="module")
def published() -> ResNetModule:
    folder = os.environ.get("POISE_MODELS")
    if folder is None:
        pytest.skip(f"POISE_MODELS does not name the folder that holds {NAME}")
    saved = torch.load(Path(folder) / NAME, map_location="cpu", weights_only=True)["state_dict"]
    renamed = {name.removeprefix("module.").replace("linear.", "head."): value for name, value in saved.items()}
    normalise = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    model = ResNet20(shortcut="pad", normalise=normalise).build((3, 32, 32), 10, 0)
    assert isinstance(model, ResNetModule)
    model.load_state_dict(renamed)
    return model.eval()


def test_published_resnet20_reaches_its_accuracy_on_the_first_test_images(published):
    if "POISE_DATA" not in os.environ:
        pytest.skip("POISE_DATA does not name the folder that holds CIFAR-10")
    test = CIFAR10().load(os.environ["POISE_DATA"]).test.first(500)
    with torch.no_grad():
        correct = int((published(test.pixels()).argmax(1) == test.labels).sum())
    assert abs(correct - 455) <= 2  # 91.0 % of these; 91.73 % of all 10,000 images, as published


def test_layer_outputs_of_the_published_weights_end_in_its_logits(published):
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    outputs = list(published.block_outputs(x))
    assert len(outputs) == 20
    torch.testing.assert_close(outputs[-1], published(x))
