from __future__ import annotations

import pytest
import torch
from torch import nn

from normviz.training import seeded


def test_same_seed_same_weights() -> None:
    first, second = [], []
    for found in (first, second):
        with seeded(7):
            found += [nn.Linear(3, 2).weight, torch.rand(4)]
        torch.rand(5)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    torch.manual_seed(7)
    assert torch.equal(nn.Linear(3, 2).weight, first[0])


@pytest.mark.parametrize("fails", [False, True])
def test_state_outside_is_left_as_it_was(fails: bool) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    try:
        with seeded(1):
            torch.rand(10)
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert torch.equal(torch.rand(3), expected)
