"""Baselines for noisy labels: small-loss filter, GCE, L2RW, Meta-Weight-Net."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from normviz.weighting.meta_weight_training import MetaWeightTrainer, sample_losses
from normviz.weighting.storm import GCELoss, MetaWeightNet, SmallLossFilter, l2rw_weights
from tests.weighting.storm_reference import (
    NV,
    C,
    D,
    N,
    Reference,
    arrays,
    batch_of,
    close,
    generator,
    linear_model,
    noisy_model,
    np_softmax,
    same,
    snapshot,
)


def test_small_loss_filter() -> None:
    losses = torch.tensor([3.0, 1.0, 4.0, 1.5, 5.0])
    assert SmallLossFilter(0.5)(losses).tolist() == pytest.approx([5 / 3, 5 / 3, 0, 5 / 3, 0])
    assert SmallLossFilter(0.0)(losses).tolist() == [1.0] * 5
    assert int((SmallLossFilter(0.4)(torch.ones(5)) == 0).sum()) == 2, "equal losses: still exactly two"
    assert not SmallLossFilter(0.4)(losses.requires_grad_()).requires_grad
    for rho in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="rho"):
            SmallLossFilter(rho)
    with pytest.raises(ValueError, match="shape"):
        SmallLossFilter(0.1)(torch.ones(2, 2))


def test_gce_matches_the_formula_and_its_limits() -> None:
    logits = torch.randn(6, C, generator=generator(0), dtype=torch.float64, requires_grad=True)
    y = torch.randint(C, (6,), generator=generator(1))
    p = np_softmax(logits.detach().numpy())[np.arange(6), y.numpy()]
    want = (1 - p**0.7) / 0.7
    for reduction, expected in (("none", want), ("mean", want.mean()), ("sum", want.sum())):
        got = GCELoss(reduction=reduction)(logits, y)
        np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(GCELoss(1e-9, "none")(logits, y).detach().numpy(), -np.log(p), rtol=1e-7)
    np.testing.assert_allclose(GCELoss(1.0, "none")(logits, y).detach().numpy(), 1 - p, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda z: GCELoss()(z, y), (logits,))
    far = torch.tensor([[500.0, 0.0]], requires_grad=True)
    loss = GCELoss()(far, torch.tensor([1]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1 / 0.7)
    assert far.grad is not None
    assert far.grad.isfinite().all()
    for options in ({"q": 0.0}, {"q": 1.1}, {"reduction": "max"}):
        with pytest.raises(ValueError, match=r"q|reduction"):
            GCELoss(**options)


def test_l2rw_matches_numpy_and_leaves_no_trace() -> None:
    model = linear_model()
    batch, clean = batch_of(N, 1), batch_of(NV, 2)
    ref = Reference(model, batch, clean)
    g = np.mean(ref.gradients(ref.W, ref.b, ref.xv, ref.yv), axis=0)
    u = np.maximum(0, [gi @ g for gi in ref.gradients(ref.W, ref.b, ref.x, ref.y)])
    np.testing.assert_allclose(l2rw_weights(model, batch, clean).numpy(), u / u.sum(), rtol=1e-9)
    assert (u == 0).any()
    assert (u > 0).any()
    noisy = noisy_model().train()
    before, rng = snapshot(noisy), torch.get_rng_state()
    with torch.no_grad():
        w = l2rw_weights(noisy, batch, clean)
    assert float(w.sum()) == pytest.approx(1)
    assert same(before, snapshot(noisy))
    assert torch.equal(rng, torch.get_rng_state())
    x, y = batch_of(1, 3)
    probabilities = model(x).softmax(1).detach()
    wrong = (y + 1) % C
    assert float(probabilities[0, wrong]) < 1
    opposed = nn.Linear(D, 2).double()
    with torch.no_grad():
        opposed.weight.zero_()
        opposed.bias.zero_()
    pair = l2rw_weights(opposed, (x, torch.tensor([0])), (x, torch.tensor([1])))
    assert pair.tolist() == [0.0], "no sample agrees: all zero"


def test_meta_weight_net_and_its_trainer() -> None:
    net = MetaWeightNet(3).double()
    losses = torch.tensor([0.1, 2.0], dtype=torch.float64, requires_grad=True)
    w = net(losses)
    W1, b1, W2, b2 = arrays(net)
    want = [
        1 / (1 + math.exp(-float((W2 @ np.maximum(W1[:, 0] * v + b1, 0))[0] + b2[0]))) for v in (0.1, 2.0)
    ]
    np.testing.assert_allclose(w.detach().numpy(), want, rtol=1e-12)
    assert torch.autograd.grad(w.sum(), losses, allow_unused=True) == (None,)
    with pytest.raises(ValueError, match="shape"):
        net(torch.ones(2, 1).double())
    with pytest.raises(ValueError, match="hidden"):
        MetaWeightNet(0)


def test_meta_weight_trainer_is_the_meta_part_with_trusted_validation() -> None:
    model, lr = noisy_model().train(), 0.5
    torch.manual_seed(1)
    net = MetaWeightNet(3).double()
    start = copy.deepcopy(net)
    batch, clean = batch_of(N, 1), batch_of(NV, 2)
    trainer = MetaWeightTrainer(model, net, SGD(model.parameters(), lr), SGD(net.parameters(), 1.0))
    losses = sample_losses(model, *batch)
    rng = torch.get_rng_state()
    torch.testing.assert_close(losses, cross_entropy(model(batch[0]), batch[1], reduction="none").detach())
    after = torch.get_rng_state()
    torch.set_rng_state(rng)
    theta = {k: p.detach().clone().requires_grad_() for k, p in model.named_parameters()}
    inner = (start(losses) * losses_of(model, theta, batch)).mean()
    grads = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
    moved = {k: p - lr * g for (k, p), g in zip(theta.items(), grads, strict=True)}
    torch.set_rng_state(after)
    want = torch.autograd.grad(losses_of(model, moved, clean).mean(), list(start.parameters()))
    torch.set_rng_state(rng)
    before = [p.detach().clone() for p in net.parameters()]
    step = trainer.step(batch, clean)
    close([b - p.detach() for b, p in zip(before, net.parameters(), strict=True)], list(want))
    assert step.val_weights is not None
    assert torch.equal(step.val_weights, torch.ones(NV).double())
    assert float(step.outer_grad_norm) == 0
    with pytest.raises(ValueError, match="outer_scale"):
        MetaWeightTrainer(model, net, SGD(model.parameters(), lr), SGD(net.parameters(), 1.0), outer_scale=1)


def losses_of(model: nn.Module, theta: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
    state = {**theta, **{k: b.clone() for k, b in model.named_buffers()}}
    return cross_entropy(torch.func.functional_call(model, state, (pair[0],)), pair[1], reduction="none")
