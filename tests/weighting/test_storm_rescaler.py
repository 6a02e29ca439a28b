"""STORM's network of weights: values, dtypes, vmap, functional calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from normviz.weighting.storm import GCELoss, LossRescaler, MetaWeightNet, SmallLossFilter
from tests.weighting.storm_reference import arrays, generator, rescaler_of


def test_weights_are_one_at_the_start_and_have_mean_one() -> None:
    """Check 3."""
    F = torch.rand(50, 7, generator=generator(0))
    assert torch.equal(LossRescaler()(F), torch.ones(50))
    for normalize in ("mean", "softmax"):
        w = rescaler_of(normalize=normalize)(F.double())
        assert float(w.mean().detach()) == pytest.approx(1, abs=1e-7)
        assert float(w.std().detach()) > 0.05
    omega = rescaler_of(normalize="none")
    assert torch.equal(omega(F.double()), omega.raw(F.double()))


def test_rescaler_matches_numpy() -> None:
    omega = rescaler_of()
    F = torch.rand(9, 7, generator=generator(1)).double()
    W1, b1, W2, b2 = arrays(omega)
    z = np.array([float((W2 @ np.tanh(W1 @ f + b1))[0] + b2[0]) for f in F.numpy()])
    s = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(omega.raw(F).detach().numpy(), s, rtol=1e-12)
    np.testing.assert_allclose(omega(F).detach().numpy(), 9 * s / (s.sum() + 1e-8), rtol=1e-12)
    omega.normalize = "softmax"
    np.testing.assert_allclose(omega(F).detach().numpy(), 9 * np.exp(z) / np.exp(z).sum(), rtol=1e-12)


def test_rescaler_survives_vanishing_scores() -> None:
    omega = LossRescaler()
    with torch.no_grad():
        omega.layer2.bias.fill_(-200.0)
    w = omega(torch.rand(4, 7))
    w.sum().backward()
    assert w.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in omega.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rescaler_keeps_dtype(dtype: torch.dtype) -> None:
    w = LossRescaler().to(dtype)(torch.rand(300, 7).to(dtype))
    assert w.dtype == dtype
    torch.testing.assert_close(w, torch.ones(300, dtype=dtype))


def test_modules_under_autocast_vmap_and_compile() -> None:
    F, losses = torch.rand(3, 8, 7, generator=generator(0)), torch.rand(3, 8, generator=generator(1))
    omega, net, drop = rescaler_of().float(), MetaWeightNet(5), SmallLossFilter(0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert omega(F[0]).isfinite().all()
    cases: list[tuple[Any, Tensor]] = [(omega, F), (net, losses), (drop, losses)]
    for module, x in cases:
        loop = torch.stack([module(row) for row in x])
        torch.testing.assert_close(torch.vmap(module)(x), loop)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x[0]), loop[0])
    gce, logits, y = GCELoss(reduction="none"), torch.randn(3, 8, 4), torch.randint(4, (3, 8))
    loop = torch.stack([gce(a, b) for a, b in zip(logits, y, strict=True)])
    torch.testing.assert_close(torch.vmap(gce)(logits, y), loop)
    torch.testing.assert_close(
        torch.compile(gce, fullgraph=True, backend="aot_eager")(logits[0], y[0]), loop[0]
    )


def test_rescalers_stacked_by_functional_call() -> None:
    F = torch.rand(8, 7, generator=generator(0)).double()
    omegas = [rescaler_of(seed) for seed in range(3)]
    params, buffers = torch.func.stack_module_state(omegas)
    together = torch.vmap(lambda p: torch.func.functional_call(omegas[0], (p, buffers), (F,)))(params)
    torch.testing.assert_close(together, torch.stack([omega(F) for omega in omegas]))
