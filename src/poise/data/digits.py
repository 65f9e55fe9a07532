"""The 8x8 digits that come with scikit-learn: real data without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from poise.core import papers
from poise.core.papers import Paper
from poise.core.settings import settings
from poise.data.dataset import Data, DataSource, Split, folds_of

FOLDS = 5


@settings
class Digits(DataSource):
    """1,797 handwritten digits, 8x8, one channel, installed with scikit-learn.

    Values 0 .. 16 become round(255 v / 16). There is no official split: five stratified folds, fixed once for all, take
    turns as the test split, so that five runs test every image. Ids are numbers in scikit-learn's order.
    """

    paper: ClassVar[Paper | None] = papers.DIGITS
    classes: ClassVar[int | None] = 10
    shape: ClassVar[tuple[int, int, int] | None] = (1, 8, 8)

    fold: Annotated[int, Field(ge=0, lt=FOLDS)] = 0
    """Which fold is the test split."""

    def read(self, data_dir: Path) -> Data:
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        values = np.asarray(bunch["images"])
        labels = np.asarray(bunch["target"]).astype(np.int64)
        images = np.rint(values * (255 / 16)).astype(np.uint8)[:, None]
        whole = Split.of(torch.from_numpy(images), torch.from_numpy(labels))
        in_test = torch.from_numpy(folds_of(labels, FOLDS, "digits") == self.fold)
        rows = torch.arange(len(whole))
        return Data("Digits", whole.subset(rows[~in_test]), whole.subset(rows[in_test]), tuple("0123456789"))
