"""`foolbox.samples`: images to try attacks on."""

from __future__ import annotations

from torch import Tensor

from poise.core.errors import InputError, SettingsError, did_you_mean
from poise.core.settings import registered, whole
from poise.data import DataSource
from poise.interop.foolbox.models import PyTorchModel


def samples(fmodel: PyTorchModel, dataset: str = "digits", index: int = 0, batchsize: int = 1) -> tuple[Tensor, Tensor]:
    """Test images `index` to `index + batchsize` of one of Poise's data sets within the model's bounds, and their
    labels, where the model is. The package's own pictures do not come with Poise.

    Raises: SettingsError for another data set; InputError for images that there are not; DataError.
    """
    sources = {name.lower(): kind for name, kind in registered(DataSource).items()}  # type: ignore[type-abstract]
    if not isinstance(dataset, str) or dataset.lower() not in sources:
        raise SettingsError(
            f"dataset = {dataset!r}, must be a data set of Poise's{did_you_mean(str(dataset), sources)}"
        )
    test = sources[dataset.lower()]().load().test
    if not whole(index) or not whole(batchsize) or index < 0 or batchsize < 1 or index + batchsize > len(test):
        raise InputError(
            f"index = {index!r}, batchsize = {batchsize!r}, must be within the {len(test):,} test images of {dataset}"
        )
    part = test.subset(slice(index, index + batchsize))
    return fmodel.from_unit(part.pixels().to(fmodel.device)), part.labels.to(fmodel.device)


__all__ = ["samples"]
