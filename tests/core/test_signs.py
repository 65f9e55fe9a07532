"""Signs of numbers, among them those that are none."""

from __future__ import annotations

import pytest
import torch

from poise.core.lengths import signs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_nan_has_no_sign_and_everything_else_has_its_own(dtype: torch.dtype) -> None:
    finite = torch.tensor([[-2.0, 0.0, 1e-30, 5.0]], dtype=dtype)
    assert signs(finite).tolist() == [[-1, 0, 1, 1]]
    endless = torch.tensor([[-torch.inf, torch.inf, -3.0]], dtype=dtype)  # whose sum is NaN
    assert signs(endless).tolist() == [[-1, 1, -1]]
    mixed = torch.tensor([[torch.nan, -1.0], [2.0, 0.0]], dtype=dtype)
    assert signs(mixed).isnan().tolist() == [[True, False], [False, False]]
    assert signs(mixed).nan_to_num(9).tolist() == [[9, -1], [1, 0]]
