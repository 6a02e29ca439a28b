"""The features that STORM's weights are computed from."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from normviz.weighting.storm import sample_features
from tests.weighting.storm_reference import (
    C,
    D,
    N,
    batch_of,
    generator,
    linear_model,
    noisy_model,
    np_softmax,
    same,
    snapshot,
)


def features_in_numpy(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """f1..f7 from the passes' probabilities p [G, n, C], one sample at a time."""
    rows = []
    for i, label in enumerate(y):
        own = p[:, i, label]
        mean = p[:, i].mean(0)
        rows.append(
            [
                1 - math.exp(np.log(own).mean()),
                mean[label],
                mean.max(),
                -sum(q * math.log(q) for q in mean) / math.log(len(mean)),
                (1 + mean[label] - max(q for c, q in enumerate(mean) if c != label)) / 2,
                math.sqrt(((own - own.mean()) ** 2).mean()),
                float(mean.argmax() == label),
            ]
        )
    return np.array(rows)


def test_features_match_numpy_with_the_same_masks() -> None:
    model = noisy_model().train()
    model(batch_of(20, 9)[0])
    x, y = batch_of(12, 3)
    got = sample_features(model, x, y, num_passes=5)
    model.eval()
    model[3].train()
    with torch.no_grad():
        logits = torch.stack([model(x) for _ in range(5)])
    want = features_in_numpy(np_softmax(logits.numpy()), y.numpy())
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-12)
    assert want[:, 5].min() > 1e-3


def test_features_leave_no_trace() -> None:
    model = noisy_model().train()
    model[1].eval()
    modes = [m.training for m in model.modules()]
    before, rng = snapshot(model), torch.get_rng_state()
    f = sample_features(model, *batch_of(N, 1))
    assert not f.requires_grad
    assert same(before, snapshot(model))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(rng, torch.get_rng_state())
    with pytest.raises(ValueError, match="labels in 0"):
        sample_features(model, torch.randn(2, D).double(), torch.tensor([0, 9]))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(rng, torch.get_rng_state()) is False  # randn above is the caller's


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1e-3, 300.0), seed=st.integers(0, 1000), passes=st.integers(1, 3))
def test_features_lie_in_the_unit_interval(scale: float, seed: int, passes: int) -> None:
    """Check 5."""
    model = noisy_model(seed).train()
    x, y = batch_of(N, seed)
    f = sample_features(model, x * scale, y, num_passes=passes)
    assert f.shape == (N, 7)
    assert bool(((f >= 0) & (f <= 1)).all())
    if passes == 1:
        assert not f[:, 5].any()


def test_features_do_not_depend_on_the_order_of_the_batch() -> None:
    """Check 5: without dropout."""
    model = noisy_model().train()
    x, y = batch_of(N, 1)
    order = torch.randperm(N, generator=generator(2))
    f = sample_features(model, x, y, dropout=False)
    torch.testing.assert_close(sample_features(model, x[order], y[order], dropout=False), f[order])
    assert not f[:, 5].any()
    assert sample_features(model, x, y)[:, 5].any()
    assert not sample_features(linear_model(), x, y)[:, 5].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_features_keep_the_logits_dtype(dtype: torch.dtype) -> None:
    model = nn.Linear(D, C).to(dtype)
    x, y = batch_of(N, 1)
    f = sample_features(model, x.to(dtype), y)
    assert f.dtype == dtype
    want = sample_features(copy.deepcopy(model).double(), x.to(dtype).double(), y)
    torch.testing.assert_close(f.double(), want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("model", "y", "options", "message"),
    [
        (nn.Linear(D, 1), torch.zeros(2, dtype=torch.long), {}, "C >= 2"),
        (nn.Linear(D, 3), torch.tensor([0, 3]), {}, r"0\.\.2"),
        (nn.Linear(D, 3), torch.tensor([-1, 0]), {}, r"0\.\.2"),
        (nn.Linear(D, 3), torch.tensor([0.0, 1.0]), {}, "integer class labels"),
        (nn.Linear(D, 3), torch.zeros(3, dtype=torch.long), {}, "shape"),
        (nn.Linear(D, 3), torch.zeros(2, dtype=torch.long), {"num_passes": 0}, "num_passes"),
    ],
)
def test_features_refuse(model: nn.Module, y: Tensor, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_features(model, torch.zeros(2, D), y, **options)
