"""STORM's meta gradient against finite differences and differentiation through the update."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.weighting.storm import LossRescaler, meta_gradient, sample_features
from tests.weighting.storm_reference import (
    NV,
    N,
    Reference,
    arrays,
    batch_of,
    finite_differences,
    generator,
    linear_model,
    noisy_model,
    rescaler_of,
    same,
    snapshot,
)


@pytest.mark.parametrize("method", ["jvp", "unroll"])
def test_both_parts_match_finite_differences(method: str) -> None:
    """Check 1: the meta part with the validation weights held, the outer part with theta' held."""
    model, omega, lr = linear_model(), rescaler_of(features=3), 0.7
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    F, Fv = (
        torch.rand(N, 3, generator=generator(3)).double(),
        torch.rand(NV, 3, generator=generator(4)).double(),
    )
    meta, outer = meta_gradient(model, omega, batch, val, lr, F, Fv, outer_scale=0.5, method=method)
    ref = Reference(model, batch, val)
    now = arrays(omega)
    w_val = ref.weights(now, Fv.numpy())
    theta_now = ref.theta - lr * ref.inner_gradient(ref.theta, ref.weights(now, F.numpy()))

    def through_theta(o: list[np.ndarray]) -> float:
        moved = ref.theta - lr * ref.inner_gradient(ref.theta, ref.weights(o, F.numpy()))
        return float(np.mean(w_val * ref.losses(moved, ref.xv, ref.yv)))

    def through_weights(o: list[np.ndarray]) -> float:
        return float(np.mean(ref.weights(o, Fv.numpy()) * ref.losses(theta_now, ref.xv, ref.yv)))

    expected_meta = finite_differences(through_theta, now)
    expected_outer = finite_differences(through_weights, now)
    assert list(meta) == list(outer) == [name for name, _ in omega.named_parameters()]
    for got, want in zip(meta.values(), expected_meta, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-9)
    for got, want in zip(outer.values(), expected_outer, strict=True):
        np.testing.assert_allclose(got.numpy(), 0.5 * want, rtol=1e-5, atol=1e-9)
    assert max(np.abs(g).max() for g in expected_meta) > 1e-3
    assert max(np.abs(g).max() for g in expected_outer) > 1e-3


@pytest.mark.parametrize("normalize", ["mean", "none", "softmax"])
@pytest.mark.parametrize("train", [True, False])
def test_jvp_equals_unroll_with_dropout_and_batch_norm(normalize: str, train: bool) -> None:
    """Check 2, with the same masks, and without a trace."""
    model = noisy_model().train(train)
    model(batch_of(20, 9)[0])  # running statistics off their start
    omega = rescaler_of(normalize=normalize)
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    F, Fv = (sample_features(model, *b) for b in (batch, val))
    before, rng = snapshot(model), torch.get_rng_state()
    results = [
        meta_gradient(model, omega, batch, val, 0.5, F, Fv, method=method) for method in ("jvp", "unroll")
    ]
    assert same(before, snapshot(model))
    assert torch.equal(rng, torch.get_rng_state())
    assert all(p.grad is None for p in (*model.parameters(), *omega.parameters()))
    for a, b in zip(results[0], results[1], strict=True):
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-8, atol=1e-12)
    assert max(float(g.abs().max()) for g in results[0][0].values()) > 1e-4
    if train:  # the masks matter: from another random state the gradient is another
        torch.manual_seed(77)
        again, _ = meta_gradient(model, omega, batch, val, 0.5, F, Fv)
        assert not torch.allclose(again["layer1.weight"], results[0][0]["layer1.weight"])


class FreeWeights(nn.Module):
    """A "rescaler" whose parameters are the weights of the training batch themselves."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, features: Tensor) -> Tensor:
        return self.w if len(features) == len(self.w) else torch.ones(len(features), dtype=self.w.dtype)


def test_weight_rises_where_gradients_agree() -> None:
    """Check 4: dL_out/dw_i = -(lr/n) <grad l_i, grad of the validation loss at theta'>."""
    model, lr = linear_model(), 0.3
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    w = torch.rand(N, generator=generator(5)).double()
    meta, outer = meta_gradient(
        model, FreeWeights(w), batch, val, lr, torch.zeros(N, 1), torch.zeros(NV, 1), outer_scale=1.0
    )
    ref = Reference(model, batch, val)
    moved = ref.theta - lr * ref.inner_gradient(ref.theta, w.numpy())
    W, b = moved[: ref.W.size].reshape(ref.W.shape), moved[ref.W.size :]
    v = np.mean(ref.gradients(W, b, ref.xv, ref.yv), axis=0)
    products = np.array([g @ v for g in ref.gradients(ref.W, ref.b, ref.x, ref.y)])
    np.testing.assert_allclose(meta["w"].numpy(), -lr / N * products, rtol=1e-9)
    assert (np.sign(meta["w"].numpy()) == -np.sign(products)).all()
    assert {-1.0, 1.0} == set(np.sign(products))
    assert not outer["w"].any()


def test_outer_scale_zero_leaves_the_meta_gradient() -> None:
    """Check 6."""
    model, omega = linear_model(), rescaler_of()
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    F, Fv = (sample_features(model, *b) for b in (batch, val))
    meta, outer = meta_gradient(model, omega, batch, val, 0.5, F, Fv, outer_scale=0.0)
    full, whole = meta_gradient(model, omega, batch, val, 0.5, F, Fv, outer_scale=1.0)
    assert not any(g.any() for g in outer.values())
    assert all(torch.equal(meta[name], full[name]) for name in meta)
    assert any(g.any() for g in whole.values())


def test_single_sample_has_weight_one_and_no_gradient() -> None:
    model, omega = linear_model(), rescaler_of()
    batch = batch_of(1, 1)
    F = sample_features(model, *batch)
    assert float(omega(F).detach()) == pytest.approx(1, abs=1e-6)
    meta, outer = meta_gradient(model, omega, batch, batch, 0.5, F, F, outer_scale=1.0)
    assert max(float(g.abs().max()) for g in (*meta.values(), *outer.values())) < 1e-6


def test_w1_has_no_gradient_at_the_start() -> None:
    model, omega = linear_model(), LossRescaler().double()
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    F, Fv = (sample_features(model, *b) for b in (batch, val))
    meta, outer = meta_gradient(model, omega, batch, val, 0.5, F, Fv)
    for part in (meta, outer):
        assert not part["layer1.weight"].any()
        assert part["layer2.weight"].any()
