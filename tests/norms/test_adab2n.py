"""AdaB²N against a NumPy float64 loop over steps, its special cases, its conversion of whole models."""

from __future__ import annotations

import copy
import doctest
import io
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normviz import norms
from normviz.norms import adab2n, continual_norm
from normviz.norms.adab2n import (
    AdaB2N,
    AdaptiveBalanceBatchNorm1d,
    AdaptiveBalanceBatchNorm2d,
    ContinualNorm2d,
    balance_loss,
    convert_batchnorm,
    end_task,
    modified_momentum,
    set_task_ids,
)

C, T = 3, 4


def make(cls=AdaptiveBalanceBatchNorm2d, cur=0, psi=None, **options):
    """A float64 layer in task ``cur`` with random gain, bias and psi (or the given one)."""
    layer = cls(C, T, **{"dtype": torch.float64, **options})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
        if psi is not None:
            layer.task_weight.copy_(torch.as_tensor(psi))
    for _ in range(cur):
        layer.end_task()
    return layer


def images(n, seed=0, h=3, w=2, dtype=torch.float64):
    return 1.5 * torch.randn(n, C, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 0.7


def ids_of(*counts):
    """Task ids with so many samples of tasks 0, 1, ..."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def buffers(layer):
    return {name: value.clone() for name, value in layer.named_buffers()}


class Reference:
    """The method's card, with a loop per sample and per channel."""

    def __init__(self, psi, gamma, beta, m, kappa, eps=1e-5, renormalize=False):
        self.psi, self.gamma, self.beta = psi, gamma, beta
        self.m, self.kappa, self.eps, self.renormalize = m, kappa, eps, renormalize
        self.rm, self.rv, self.eta = np.zeros(C), np.ones(C), None

    def posterior(self, ids, cur):
        n_t = [sum(1 for i in ids if i == t) for t in range(cur + 1)]
        c = [math.exp(self.psi[t]) + n_t[t] for t in range(cur + 1)]
        if self.renormalize:
            c = [c_t if n else 0.0 for c_t, n in zip(c, n_t, strict=True)]
        return [c_t / sum(c) for c_t in c], n_t

    def step(self, x, ids=None, cur=0):
        n = len(x)
        w = [1 / n] * n
        if ids is not None:
            pi, n_t = self.posterior(ids, cur)
            w = [pi[t] / n_t[t] for t in ids]
        y, mus, vs = np.empty_like(x), np.zeros(C), np.zeros(C)
        for c in range(C):
            for i in range(n):
                mus[c] += w[i] * x[i, c].mean()
            for i in range(n):
                vs[c] += w[i] * ((x[i, c] - mus[c]) ** 2).mean()
            y[:, c] = self.gamma[c] * (x[:, c] - mus[c]) / np.sqrt(vs[c] + self.eps) + self.beta[c]
        a = (1 - self.m) ** self.kappa
        self.eta = self.m**self.kappa if self.eta is None else self.eta / (self.eta + a)
        self.rm += self.eta * (mus - self.rm)
        self.rv = (1 - self.eta) * self.rv + self.eta * vs
        return y, np.mean((mus - self.rm) ** 2) + np.mean((vs - self.rv) ** 2)

    def test(self, x):
        shape = (1, C) + (1,) * (x.ndim - 2)
        z = (x - self.rm.reshape(shape)) / np.sqrt(self.rv.reshape(shape) + self.eps)
        return self.gamma.reshape(shape) * z + self.beta.reshape(shape)


@pytest.mark.parametrize("absent", ["official", "renormalize"])
@pytest.mark.parametrize("kappa", [0.0, 0.4, 1.0])
def test_agrees_with_a_numpy_loop_over_a_task_sequence(kappa, absent):
    layer = make(kappa=kappa, momentum=0.2, absent_tasks=absent)
    reference = Reference(
        *(p.detach().numpy().copy() for p in (layer.task_weight, layer.weight, layer.bias)),
        0.2,
        kappa,
        renormalize=absent == "renormalize",
    )
    rng = np.random.default_rng(0)
    for step in range(24):
        cur = step // 6
        ids = rng.integers(0, cur + 1, size=5) if step % 6 else None  # each task starts without ids
        x = rng.normal(size=(5, C, 2, 3)) * 2 + cur
        y = layer(torch.tensor(x), None if ids is None else torch.tensor(ids))
        expected, penalty = reference.step(x, ids, cur)
        np.testing.assert_allclose(y.detach(), expected, atol=1e-11)
        np.testing.assert_allclose(layer.balance_loss.item(), penalty, atol=1e-12, rtol=1e-11)
        np.testing.assert_allclose(layer.running_mean, reference.rm, atol=1e-12)
        np.testing.assert_allclose(layer.running_var, reference.rv, atol=1e-12)
        assert layer.eta.item() == pytest.approx(reference.eta, rel=1e-12)
        if ids is not None:
            pi, _ = reference.posterior(ids, cur)
            np.testing.assert_allclose(layer.task_posterior(), pi, atol=1e-14)
        if step % 6 == 5:
            layer.end_task()
    layer.eval()
    x = rng.normal(size=(2, C, 2, 3))
    np.testing.assert_allclose(layer(torch.tensor(x)).detach(), reference.test(x), atol=1e-12)
    assert layer.num_batches_tracked == 24


@pytest.mark.parametrize("shape", [(6, C), (6, C, 5)])
def test_1d_layer_agrees_with_the_numpy_loop(shape):
    layer = make(AdaptiveBalanceBatchNorm1d, cur=2, kappa=0.7)
    reference = Reference(
        *(p.detach().numpy().copy() for p in (layer.task_weight, layer.weight, layer.bias)), 0.1, 0.7
    )
    rng = np.random.default_rng(3)
    for _ in range(3):
        x, ids = rng.normal(size=shape), rng.integers(0, 3, size=6)
        expected, penalty = reference.step(x, ids, 2)
        np.testing.assert_allclose(layer(torch.tensor(x), torch.tensor(ids)).detach(), expected, atol=1e-12)
        assert layer.balance_loss.item() == pytest.approx(penalty, rel=1e-11)


# ------------------------------------------------------------------------------------------- the checks


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
@pytest.mark.parametrize("ids", [None, torch.zeros(7, dtype=torch.long)])
def test_check_1_plain_batches_equal_batch_norm_but_for_the_biased_running_variance(dtype, atol, ids):
    layer = make(dtype=dtype)
    x = images(7, dtype=dtype)
    mean, var = torch.zeros(C, dtype=dtype), torch.ones(C, dtype=dtype)
    expected = F.batch_norm(x, mean, var, layer.weight, layer.bias, training=True, momentum=0.1)
    torch.testing.assert_close(layer(x, ids), expected, atol=2 * atol, rtol=1e-6)
    torch.testing.assert_close(layer.running_mean, mean, atol=atol, rtol=1e-6)
    n = x.numel() / C
    torch.testing.assert_close(layer.running_var - 0.9, (var - 0.9) * (n - 1) / n, atol=10 * atol, rtol=1e-5)


def test_check_2_kappa_0_is_the_mean_of_batch_means():
    layer = make(kappa=0.0)
    batches = [images(5, seed) for seed in range(9)]
    for x in batches:
        layer(x)
    expected = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(layer.running_mean, expected, atol=1e-12, rtol=0)
    assert layer.eta.item() == pytest.approx(1 / 9, rel=1e-12)


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
def test_check_2_kappa_1_is_batch_norms_running_mean(momentum):
    layer = make(kappa=1.0, momentum=momentum)
    bn = nn.BatchNorm2d(C, momentum=momentum, dtype=torch.float64)
    for seed in range(9):
        layer(images(5, seed))
        bn(images(5, seed))
    torch.testing.assert_close(layer.running_mean, bn.running_mean, atol=1e-12, rtol=0)


def test_check_3_eta_falls_to_its_limit_by_the_closed_form():
    m, kappa = 0.1, 0.4
    a = (1 - m) ** kappa
    etas = [modified_momentum(None, m, kappa)]
    for _ in range(400):
        etas.append(modified_momentum(etas[-1], m, kappa))
    assert all(later <= earlier + 1e-15 for earlier, later in pairwise(etas))
    assert etas[-1] == pytest.approx(0.04127, abs=5e-6)
    assert etas[-1] == pytest.approx(1 - 0.9**0.4, rel=1e-6)
    for t in (0, 1, 2, 7, 40, 400):
        closed = 1 / (sum(a**j for j in range(t)) + a**t / m**kappa)
        assert etas[t] == pytest.approx(closed, rel=1e-12)


@pytest.mark.parametrize("kappa", [0.0, 0.1, 1.0])
def test_check_3_the_layers_eta_is_modified_momentum(kappa):
    layer, eta = make(kappa=kappa), None
    assert layer.eta == 0
    for seed in range(6):
        layer(images(4, seed))
        eta = modified_momentum(eta, 0.1, kappa)
        assert layer.eta.dtype == torch.float64
        assert layer.eta.item() == pytest.approx(eta, rel=1e-14)


@pytest.mark.parametrize("kappa", [0.0, 0.4, 1.0])
def test_check_4_weights_of_past_batches_sum_to_one_and_give_the_running_mean(kappa):
    m, batches = 0.1, [images(4, seed) for seed in range(12)]
    layer = make(kappa=kappa)
    layer.running_mean.fill_(5.0)
    for x in batches:
        layer(x)
    a, last, first = (1 - m) ** kappa, layer.eta.item(), m**kappa
    count = len(batches)
    weights = [a ** (count - 1 - s) * last for s in range(count)]
    initial = (1 - first) * a ** (count - 1) * last / first
    assert sum(weights) + initial == pytest.approx(1, abs=1e-12)
    expected = 5 * initial + sum(w * x.mean((0, 2, 3)) for w, x in zip(weights, batches, strict=True))
    torch.testing.assert_close(layer.running_mean, expected, atol=1e-12, rtol=0)


def test_check_5_equal_tasks_with_equal_psi_are_batch_norm():
    layer = make(cur=2, psi=[0.3] * T)
    x = images(6)
    expected = F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)
    torch.testing.assert_close(layer(x, ids_of(2, 2, 2)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("psi", [-50.0, -1000.0])
def test_check_5_without_pseudo_counts_any_mixture_is_batch_norm(psi):
    layer = make(cur=2, psi=[psi] * T)
    x = images(8)
    expected = F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)
    torch.testing.assert_close(layer(x, ids_of(5, 1, 2)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("psi", [50.0, 1000.0])
def test_check_5_huge_equal_pseudo_counts_weight_tasks_equally(psi):
    layer = make(cur=2, psi=[psi] * T)
    x = images(8)
    y = layer(x, ids_of(5, 1, 2))
    torch.testing.assert_close(layer.task_posterior(), torch.full((3,), 1 / 3, dtype=torch.float64))
    means = torch.stack([x[:5].mean((0, 2, 3)), x[5:6].mean((0, 2, 3)), x[6:].mean((0, 2, 3))]).mean(0)
    torch.testing.assert_close(layer.running_mean, 0.1 * means, atol=1e-12, rtol=0)
    y.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def weights_sum(layer, ids):
    """sum of w_n, read off the running mean of an all-ones batch."""
    layer(torch.ones(len(ids), C, 2, 2, dtype=torch.float64), ids)
    return layer.running_mean / layer.eta


def test_check_6_the_weights_sum_to_one_without_absent_tasks():
    total = weights_sum(make(cur=2), ids_of(4, 1, 3))
    torch.testing.assert_close(total, torch.ones(C, dtype=torch.float64), atol=1e-12, rtol=0)


def test_check_6_the_absent_tasks_mass_is_missing():
    total = weights_sum(make(cur=2, psi=[0.0] * T), ids_of(6, 0, 6))
    torch.testing.assert_close(total, torch.full_like(total, 1 - 1 / 15), atol=1e-12, rtol=0)
    whole = weights_sum(make(cur=2, psi=[0.0] * T, absent_tasks="renormalize"), ids_of(6, 0, 6))
    torch.testing.assert_close(whole, torch.ones_like(whole), atol=1e-12, rtol=0)


def test_all_samples_of_one_task_carry_its_share_only():
    layer = make(cur=1, psi=[0.0] * T)
    total = weights_sum(layer, ids_of(0, 4))
    torch.testing.assert_close(total, torch.full_like(total, 5 / 6), atol=1e-12, rtol=0)
    torch.testing.assert_close(layer.task_posterior(), torch.tensor([1 / 6, 5 / 6], dtype=torch.float64))
    renormalized = make(cur=1, absent_tasks="renormalize")
    weights_sum(renormalized, ids_of(0, 4))
    torch.testing.assert_close(renormalized.task_posterior(), torch.tensor([0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("absent", ["official", "renormalize"])
@pytest.mark.parametrize("ids", [ids_of(2, 1, 2), ids_of(3, 0, 2)])
def test_check_7_gradients(ids, absent):
    layer = make(cur=2, absent_tasks=absent)
    x = images(5).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def forward(x, *parameters):
        y = torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x, ids))
        return y, layer.balance_loss

    def fresh(x, *parameters):
        layer.reset_running_stats()
        return forward(x, *parameters)

    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def output(*inputs):
        return fresh(*inputs)[0]

    assert torch.autograd.gradcheck(output, (x, *parameters))
    y, _ = fresh(x, *parameters)
    (y * images(5, seed=9)).sum().backward()
    psi = parameters[names.index("task_weight")].grad
    assert psi[3] == 0, "task 3 has not begun"
    assert (psi[:1].abs() > 1e-6).all()


def test_check_7_the_penalty_reaches_psi_and_treats_the_running_statistics_as_constants():
    layer = make(cur=2, kappa=0.4)
    for seed in range(3):
        layer(images(6, seed), ids_of(3, 2, 1))
    before = layer.running_mean.clone(), layer.running_var.clone()
    ids, x = ids_of(1, 1, 4), images(6, 7)
    layer(x, ids)
    (gradient,) = torch.autograd.grad(layer.balance_loss, layer.task_weight)
    eta = layer.eta.item()

    def penalty(psi, running):
        reference = Reference(psi, np.ones(C), np.zeros(C), 0.1, 0.4)
        w = np.array(reference.posterior(ids.tolist(), 2)[0])[ids.numpy()] / np.array([1, 1, 4])[ids.numpy()]
        per_sample = x.numpy().reshape(6, C, -1)
        mu = w @ per_sample.mean(2)
        v = w @ ((per_sample - mu[:, None]) ** 2).mean(2)
        rm, rv = running or (
            (1 - eta) * before[0].numpy() + eta * mu,
            (1 - eta) * before[1].numpy() + eta * v,
        )
        return np.mean((mu - rm) ** 2) + np.mean((v - rv) ** 2), (rm, rv)

    psi = layer.task_weight.detach().numpy()
    value, running = penalty(psi, None)
    assert layer.balance_loss.item() == pytest.approx(value, rel=1e-12)
    for t in range(T):
        step = 1e-6 * np.eye(T)[t]
        slope = (penalty(psi + step, running)[0] - penalty(psi - step, running)[0]) / 2e-6
        assert gradient[t].item() == pytest.approx(slope, abs=1e-8)
    assert gradient[3] == 0
    assert gradient[:3].abs().min() > 1e-8


def test_check_8_the_penalty_is_taken_after_the_running_update():
    layer = make(kappa=0.0)
    layer.running_mean.fill_(3.0)
    layer(images(5))
    assert layer.balance_loss == 0
    layer(images(5, seed=1))
    assert layer.balance_loss > 1e-4


@pytest.mark.parametrize("kappa", [0.0, 0.4])
def test_check_9_a_saved_layer_resumes_bit_for_bit(kappa):
    layer = make(kappa=kappa, cur=1)
    for seed in range(3):
        layer(images(5, seed), ids_of(2, 3))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    resumed = AdaptiveBalanceBatchNorm2d(C, T, kappa=kappa, dtype=torch.float64)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    x, ids = images(5, 9), ids_of(4, 1)
    assert torch.equal(resumed(x, ids), layer(x, ids))
    assert resumed.eta == layer.eta
    assert resumed.cur_task == 1
    assert resumed.balance_loss == layer.balance_loss


# -------------------------------------------------------------------------------- task ids and task ends


def test_ids_set_beforehand_are_used_once_and_not_by_eval():
    layer, other = make(cur=1), make(cur=1)
    x, ids = images(4), ids_of(3, 1)
    layer.set_task_ids(ids)
    layer.eval()(x)
    layer.train()
    balanced = layer(x)
    torch.testing.assert_close(balanced, other(x, ids), atol=0, rtol=0)
    plain = layer(x)
    assert not torch.allclose(plain, balanced)
    torch.testing.assert_close(plain, F.batch_norm(x, None, None, layer.weight, layer.bias, training=True))


def test_ids_given_to_the_forward_win_and_clear_those_set():
    layer, other = make(cur=1), make(cur=1)
    x, ids = images(4), ids_of(3, 1)
    layer.set_task_ids(ids_of(1, 3))
    torch.testing.assert_close(layer(x, ids), other(x, ids), atol=0, rtol=0)
    torch.testing.assert_close(layer(x), other(x), atol=0, rtol=0)
    layer.set_task_ids(ids)
    layer.set_task_ids(None)
    torch.testing.assert_close(layer(x), other(x), atol=0, rtol=0)


def test_eval_ignores_ids_without_looking_at_them():
    layer = make(cur=1).eval()
    x = images(4)
    for ids in (torch.tensor([9]), torch.zeros(4), "ids"):
        assert torch.equal(layer(x, ids), layer(x))
    assert layer.balance_loss is None


@pytest.mark.parametrize(
    ("ids", "error", "match"),
    [
        (torch.zeros(3, dtype=torch.long), ValueError, r"task_ids .*\(5,\).*\(3,\)"),
        (torch.zeros(5, 1, dtype=torch.long), ValueError, "task_ids"),
        (torch.tensor([0, 0, 2, 1, 0]), ValueError, r"task_ids .*\[0, 1\], got 2"),
        (torch.tensor([0, 0, -1, 1, 0]), ValueError, "task_ids .* got -1"),
        (torch.zeros(5), TypeError, "task_ids .*float32"),
        (torch.zeros(5, dtype=torch.bool), TypeError, "task_ids .*bool"),
        ([0, 0, 0, 0, 0], TypeError, "task_ids .*list"),
    ],
)
def test_wrong_ids_are_refused_and_change_nothing(ids, error, match):
    layer = make(cur=1)
    layer(images(5), ids_of(2, 3))
    before, penalty = buffers(layer), layer.balance_loss
    with pytest.raises(error, match=match):
        layer(images(5, 1), ids)
    layer.set_task_ids(ids)
    with pytest.raises(error, match=match):
        layer(images(5, 1))
    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())
    assert layer.balance_loss is penalty
    layer(images(5))


def test_in_the_first_task_only_its_own_id_is_legal():
    with pytest.raises(ValueError, match=r"task_ids .*\[0, 0\], got 1"):
        make()(images(5), ids_of(4, 1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_ids_of_any_integer_dtype(dtype):
    ids = ids_of(1, 4)
    torch.testing.assert_close(make(cur=1)(images(5), ids.to(dtype)), make(cur=1)(images(5), ids))


def test_the_last_task_is_closed_once():
    layer = make(cur=T)
    assert layer.cur_task == T
    layer(images(4), ids_of(1, 1, 1, 1))
    assert layer.task_posterior().shape == (T,)
    with pytest.raises(ValueError, match=r"\[0, 3\], got 4"):
        layer(images(5), ids_of(1, 1, 1, 1, 1))
    with pytest.raises(RuntimeError, match="end_task"):
        layer.end_task()
    assert layer.cur_task == T


def test_task_posterior_is_that_of_the_last_balanced_batch():
    layer = make(psi=[0.0] * T)
    with pytest.raises(RuntimeError, match="task_posterior"):
        layer.task_posterior()
    layer.end_task()
    layer(images(6), ids_of(5, 1))
    layer.end_task()
    layer(images(6))
    torch.testing.assert_close(layer.task_posterior(), torch.tensor([6 / 8, 2 / 8], dtype=torch.float64))
    assert not layer.task_posterior().requires_grad


# ---------------------------------------------------------------------------------------- shapes and arguments


@pytest.mark.parametrize(
    ("cls", "shape"),
    [
        (AdaptiveBalanceBatchNorm2d, (4, C)),
        (AdaptiveBalanceBatchNorm2d, (4, C, 5)),
        (AdaptiveBalanceBatchNorm2d, (4, C + 1, 2, 2)),
        (AdaptiveBalanceBatchNorm1d, (4, C, 2, 2)),
        (AdaptiveBalanceBatchNorm1d, (4, C + 1)),
        (AdaptiveBalanceBatchNorm1d, (C,)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_other_shapes_are_refused(cls, shape, training):
    with pytest.raises(ValueError, match="x must have shape"):
        cls(C, T).train(training)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, C, 1, 1), (0, C, 2, 2)])
def test_a_single_value_per_channel_is_refused_in_training_only(shape):
    layer = make()
    before = buffers(layer)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.zeros(shape, dtype=torch.float64))
    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())
    assert layer.eval()(torch.zeros(shape, dtype=torch.float64)).shape == shape


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"kappa": -0.1}, "kappa"),
        ({"kappa": 1.1}, "kappa"),
        ({"num_tasks": 0}, "num_tasks"),
        ({"momentum": None}, "momentum"),
        ({"momentum": 0.0}, "momentum"),
        ({"momentum": 1.1}, "momentum"),
        ({"absent_tasks": "none"}, "absent_tasks"),
        ({"init_weight": math.inf}, "init_weight"),
    ],
)
def test_arguments_out_of_range(options, name):
    with pytest.raises(ValueError, match=name):
        AdaptiveBalanceBatchNorm2d(C, **{"num_tasks": T, **options})


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((None, 0.0, 0.5), "momentum"),
        ((None, None, 0.5), "momentum"),
        ((None, 0.1, 2.0), "kappa"),
        ((0.0, 0.1, 0.5), "prev_eta"),
        ((1.5, 0.1, 0.5), "prev_eta"),
    ],
)
def test_modified_momentum_refuses(arguments, name):
    with pytest.raises(ValueError, match=name):
        modified_momentum(*arguments)


def test_without_gain_and_bias():
    layer = make(affine=False, cur=1)
    assert [name for name, _ in layer.named_parameters()] == ["task_weight"]
    y = layer(images(8), ids_of(4, 4))
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(C, dtype=torch.float64), atol=0.5, rtol=0)
    assert "affine=False" in repr(layer)


def test_repr_alias_and_base():
    assert AdaB2N is AdaptiveBalanceBatchNorm2d is norms.AdaB2N
    layer = AdaB2N(C, T, kappa=0.4, absent_tasks="renormalize")
    for part in ("num_tasks=4", "kappa=0.4", "absent_tasks='renormalize'"):
        assert part in repr(layer)
    assert isinstance(layer, _BatchNorm)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_after_training_continue_alike(copied):
    layer = make(cur=1)
    layer(images(5), ids_of(2, 3))
    other = copied(layer)
    assert other.balance_loss == layer.balance_loss.detach()
    assert other.balance_loss.grad_fn is None
    assert layer.balance_loss.grad_fn is not None
    assert torch.equal(other(images(5, 1), ids_of(1, 4)), layer(images(5, 1), ids_of(1, 4)))
    assert torch.equal(other.eta, layer.eta)


def test_resetting_forgets_batches_and_keeps_the_task():
    layer = make(cur=2, init_weight=0.5)
    layer(images(5))
    layer.reset_parameters()
    assert layer.eta == 0
    assert layer.num_batches_tracked == 0
    assert layer.cur_task == 2
    assert torch.equal(layer.task_weight, torch.full((T,), 0.5, dtype=torch.float64))


def test_update_bn_takes_the_plain_average():
    model = nn.Sequential(make(kappa=1.0))
    batches = [images(5, seed) for seed in range(3)]
    torch.optim.swa_utils.update_bn(batches, model)
    expected = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(model[0].running_mean, expected, atol=1e-12, rtol=0)
    assert model[0].momentum == 0.1


def test_compiled_penalty_has_the_eager_gradient():
    eager, ids = make(cur=1, kappa=0.4), ids_of(3, 2)
    layer = copy.deepcopy(eager)
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=False)
    for seed in range(3):
        for module, call in ((eager, eager), (layer, compiled)):
            module.zero_grad()
            y = call(images(5, seed), ids)
            ((y**3).mean() + module.balance_loss).backward()
        for mine, theirs in zip(layer.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(layer.eta, eager.eta, atol=0, rtol=1e-14)


def test_psi_of_an_under_represented_task_grows_under_the_penalty():
    layer = AdaptiveBalanceBatchNorm2d(C, 2, kappa=0.0)
    layer.end_task()
    optimizer = torch.optim.SGD([layer.task_weight], lr=0.1)
    ids, shift = ids_of(9, 1), torch.tensor([0.0, 6.0])
    generator = torch.Generator().manual_seed(0)
    layer.running_mean.fill_(3.0)  # both tasks alike
    layer.running_var.fill_(10.0)
    layer.eta.fill_(0.02)
    for _ in range(60):
        x = torch.randn(10, C, 4, 4, generator=generator) + shift[ids][:, None, None, None]
        layer(x, ids)
        optimizer.zero_grad()
        layer.balance_loss.backward()
        optimizer.step()
    assert layer.task_weight[1] > layer.task_weight[0] + 1
    assert 0.35 < layer.task_posterior()[1] < 0.65, "naive share: 0.1"


# ---------------------------------------------------------------------------------------- whole models


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4, eps=1e-3, momentum=0.3),
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4, affine=False)),
        nn.Flatten(),
        nn.BatchNorm1d(16),
    )


def test_conversion_takes_over_settings_and_state():
    model = network().double()
    x = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    model(x)
    model[1].weight.requires_grad_(False)
    model[2].eval()
    old = [model[1], model[2][1]]
    expected = copy.deepcopy(model).eval()(x)
    assert convert_batchnorm(model, 5, kappa=0.7) is model
    assert type(model[4]) is nn.BatchNorm1d
    for new, bn in zip((model[1], model[2][1]), old, strict=True):
        assert type(new) is AdaptiveBalanceBatchNorm2d
        assert (new.eps, new.momentum, new.affine, new.training) == (
            bn.eps,
            bn.momentum,
            bn.affine,
            bn.training,
        )
        assert (new.kappa, new.num_tasks, new.task_weight.dtype) == (0.7, 5, torch.float64)
        assert torch.equal(new.running_var, bn.running_var)
        assert new.num_batches_tracked == bn.num_batches_tracked
        assert new.eta == 0
    assert not model[1].weight.requires_grad
    assert model[1].bias.requires_grad
    assert model[1].task_weight is not model[2][1].task_weight
    torch.testing.assert_close(model.eval()(x), expected, atol=1e-12, rtol=0)


def test_conversion_keywords_win():
    model = convert_batchnorm(network(), 3, eps=0.1, affine=False, momentum=0.5, init_weight=2.0)
    assert (model[1].eps, model[1].affine, model[1].momentum) == (0.1, False, 0.5)
    assert model[1].task_weight.tolist() == [2.0, 2.0, 2.0]


def test_conversion_of_a_root_of_a_shared_layer_and_of_a_layer_without_bias():
    root = convert_batchnorm(nn.BatchNorm2d(4), 2)
    assert type(root) is AdaptiveBalanceBatchNorm2d
    shared = nn.BatchNorm2d(4)
    model = convert_batchnorm(nn.Sequential(shared, nn.ReLU(), shared), 2)
    assert model[0] is model[2]
    scale_only = nn.BatchNorm2d(4, bias=False)
    converted = convert_batchnorm(scale_only, 2)
    x = torch.randn(5, 4, 2, 2)
    torch.testing.assert_close(converted(x), scale_only(x), atol=1e-6, rtol=1e-5)
    assert converted.bias is None


def test_conversion_refuses():
    with pytest.raises(ValueError, match="momentum"):
        convert_batchnorm(nn.Sequential(nn.BatchNorm2d(4, momentum=None)), 2)
    assert convert_batchnorm(nn.BatchNorm2d(4, momentum=None), 2, momentum=0.2).momentum == 0.2
    with pytest.raises(ValueError, match="num_tasks"):
        convert_batchnorm(nn.ReLU(), 0)
    untouched = network()
    with pytest.raises(ValueError, match="kappa"):
        convert_batchnorm(untouched, 2, kappa=2.0)
    assert type(untouched[1]) is nn.BatchNorm2d


def test_model_functions_reach_every_layer():
    model = convert_batchnorm(network(), 2)
    layers = [model[1], model[2][1]]
    assert balance_loss(model) == 0
    end_task(model)
    assert [int(layer.cur_task) for layer in layers] == [1, 1]
    set_task_ids(model, ids_of(2, 4))
    model(torch.randn(6, 1, 4, 4))
    assert all(layer.task_posterior()[1] == pytest.approx(5 / 8) for layer in layers)
    torch.testing.assert_close(balance_loss(model), layers[0].balance_loss + layers[1].balance_loss)
    balance_loss(model).backward()
    assert model[1].task_weight.grad is not None
    end_task(model)
    model[1].cur_task.fill_(1)
    with pytest.raises(RuntimeError, match="end_task"):
        end_task(model)
    assert model[1].cur_task == 1, "no layer is changed if one refuses"


def test_models_without_the_layer_pass_through():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()
    assert convert_batchnorm(model, 3) is model
    set_task_ids(model, ids_of(1, 1))
    end_task(model)
    loss = balance_loss(model)
    assert (loss.item(), loss.ndim, loss.dtype) == (0, 0, torch.float64)
    assert balance_loss(nn.ReLU()) == 0


# --------------------------------------------------------------------------------- continual normalization


def test_continual_norm_is_group_norm_then_batch_norm():
    layer = ContinualNorm2d(6, num_groups=3, eps=1e-3, momentum=0.2).double()
    rng = np.random.default_rng(0)
    rm, rv = np.zeros(6), np.ones(6)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rng.normal(size=6)))
        layer.bias.copy_(torch.tensor(rng.normal(size=6)))
    gamma, beta = layer.weight.detach().numpy()[:, None, None], layer.bias.detach().numpy()[:, None, None]

    def grouped(x):
        z = x.copy().reshape(len(x), 3, -1)
        for i in range(len(x)):
            for g in range(3):
                z[i, g] = (z[i, g] - z[i, g].mean()) / np.sqrt(z[i, g].var() + 1e-3)
        return z.reshape(x.shape)

    for _ in range(20):
        x = rng.normal(size=(4, 6, 2, 3)) + 1
        z = grouped(x)
        mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3))
        rm, rv = 0.8 * rm + 0.2 * mean, 0.8 * rv + 0.2 * var * 24 / 23
        y = gamma * (z - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-3) + beta
        np.testing.assert_allclose(layer(torch.tensor(x)).detach(), y, atol=1e-11)
    y = gamma * (grouped(x) - rm[:, None, None]) / np.sqrt(rv[:, None, None] + 1e-3) + beta
    np.testing.assert_allclose(layer.eval()(torch.tensor(x)).detach(), y, atol=1e-11)


def test_continual_norm_arguments():
    assert ContinualNorm2d(64).num_groups == 32
    with pytest.raises(ValueError, match="num_groups"):
        ContinualNorm2d(6)
    with pytest.raises(ValueError, match="input"):
        ContinualNorm2d(6, 2)(torch.zeros(2, 6))
    with pytest.raises(ValueError, match="more than 1 value"):
        ContinualNorm2d(6, 2)(torch.ones(1, 6, 1, 1))
    assert not list(ContinualNorm2d(6, 2, affine=False).parameters())
    assert "num_groups=2" in repr(ContinualNorm2d(6, 2))


@pytest.mark.parametrize("module", [adab2n, continual_norm])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
