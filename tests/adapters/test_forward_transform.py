"""The MLP comparator: its forward in NumPy, that it fits what no affine map fits, its uncertainty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from normviz.adapters import ForwardTransform, fit_forward_transform


def curved(n: int = 300, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """New features are absolute values of the old ones; the noise is only where the first old one is positive."""
    g = torch.Generator().manual_seed(0)
    h_old = torch.randn(n, 3, generator=g, dtype=torch.float64)
    jitter = torch.randn(n, 3, generator=g, dtype=torch.float64) * (h_old[:, :1] > 0)
    return h_old, h_old.abs() + noise * jitter


def test_forward_equals_numpy() -> None:
    torch.manual_seed(0)
    transform = ForwardTransform(3, 2, hidden=5).double()
    transform.in_scale.fill_(2.0)
    w = {name: p.detach().numpy() for name, p in transform.named_parameters()}
    h = torch.randn(4, 3, dtype=torch.float64)
    for row, mean, spread in zip(
        h.numpy(), transform(h).detach(), transform.log_variance(h).detach(), strict=True
    ):
        hidden = np.maximum(w["hidden.weight"] @ row / 2 + w["hidden.bias"], 0)
        np.testing.assert_allclose(mean, w["mean.weight"] @ hidden + w["mean.bias"], atol=1e-12)
        np.testing.assert_allclose(spread, (w["spread.weight"] @ hidden + w["spread.bias"])[0], atol=1e-12)


def test_it_fits_what_no_affine_map_fits() -> None:
    h_old, h_new = curved()
    transform, history = fit_forward_transform(h_old, h_new, hidden=32, epochs=100, lr=1e-2, batch_size=100)
    scale = h_new.norm(dim=1).mean()
    error = float((transform(h_old).detach() - h_new / scale).square().mean())
    design = torch.cat((h_old, torch.ones(len(h_old), 1, dtype=torch.float64)), 1)
    affine = design @ torch.linalg.lstsq(design, h_new / scale).solution
    assert error < 0.2 * float((affine - h_new / scale).square().mean())
    assert history[-1]["loss"] < 0.2 * history[0]["loss"]
    assert not transform.training


def test_uncertainty_is_high_where_the_noise_is() -> None:
    h_old, h_new = curved(noise=1.0)
    transform, _ = fit_forward_transform(
        h_old, h_new, hidden=32, uncertainty=True, epochs=60, lr=1e-2, batch_size=100
    )
    s = transform.log_variance(h_old).detach()
    noisy = h_old[:, 0] > 0
    assert float(s[noisy].mean()) > float(s[~noisy].mean()) + 1


def test_records_seeds_and_stops() -> None:
    h_old, h_new = curved(50)
    options = {"epochs": 3, "batch_size": 20, "every": 4, "hidden": 4}
    state = torch.get_rng_state()
    first, history = fit_forward_transform(h_old, h_new.float(), **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert [record["step"] for record in history] == [4, 8, 9]
    assert first.mean.weight.dtype == torch.float32
    again, _ = fit_forward_transform(h_old, h_new.float(), **options)
    assert torch.equal(first.mean.weight, again.mean.weight)
    _, history = fit_forward_transform(
        h_old, h_new, **options, callback=lambda record, _: record["step"] == 4
    )
    assert [record["step"] for record in history] == [4]


def test_refusals() -> None:
    h_old, h_new = curved(20)
    for name, value in (("epochs", 0), ("lr", 0.0), ("batch_size", 0), ("every", 0), ("hidden", 0)):
        with pytest.raises(ValueError, match=name):
            fit_forward_transform(h_old, h_new, **{name: value})
    with pytest.raises(ValueError, match="h_old"):
        fit_forward_transform(h_old[:3], h_new)
    for name in ("in_features", "out_features", "hidden"):
        with pytest.raises(ValueError, match=name):
            ForwardTransform(**{"in_features": 2, "out_features": 2, "hidden": 2, name: 0})
