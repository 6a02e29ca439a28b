"""Core's loss against its matrix form and NumPy; the online adapter, the methods around it, the corruptions."""

from __future__ import annotations

import copy
import doctest
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from normviz import adaptive
from normviz.adaptive import core_loss, online_adapter, tta
from normviz.adaptive.tta import (
    CoreLoss,
    EntropyLoss,
    OnlineAdapter,
    class_correlation,
    corruptions,
)
from normviz.norms import AlphaBatchNorm2d, calibrate_batchnorm

F64 = torch.float64


def randn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def softmax(z, temperature=1.0):
    e = np.exp(z / temperature - (z / temperature).max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def matrix_form(z, temperature=1.0, weighting="none", normalize="row", eps=1e-8):
    """The card's loss with the explicit matrix A, and A."""
    p = softmax(z, temperature)
    b, c = p.shape
    w = np.ones(b)
    if weighting == "entropy":
        h = -(p * np.log(p)).sum(1)
        w = 1 + np.exp(-h)
        w = w * b / w.sum()
    a = np.zeros((c, c))
    for n in range(b):
        a += w[n] * np.outer(p[n], p[n])
    off = a - np.diag(np.diag(a))
    if normalize == "row":
        return (off / (a.sum(1, keepdims=True) + eps)).sum() / c, a
    return off.sum() / ((a.sum() + eps) if normalize == "global" else b), a


# ------------------------------------------------------------------------------------------------- losses


def test_check_6_one_hot_uniform_and_collapsed_predictions():
    loss, entropy = CoreLoss(), EntropyLoss()
    assert loss(60 * torch.eye(5, dtype=F64)) < 1e-12
    assert loss(torch.zeros(7, 5, dtype=F64)).item() == pytest.approx(0.8, abs=1e-7)
    collapsed = torch.zeros(7, 5, dtype=F64)
    collapsed[:, 0] = 12
    assert loss(collapsed) > 0.79
    assert entropy(collapsed) < 1e-3
    assert CoreLoss(normalize="none")(collapsed) < 1e-3, "without the row normalisation collapse is cheap"


@pytest.mark.parametrize("weighting", ["none", "entropy"])
@pytest.mark.parametrize("normalize", ["row", "global", "none"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_check_7_the_closed_form_is_the_matrix_form(weighting, normalize, temperature):
    z = randn(9, 4, scale=2)
    value, a = matrix_form(z.numpy(), temperature, weighting, normalize)
    loss = CoreLoss(temperature, weighting, normalize)
    assert loss(z).item() == pytest.approx(value, abs=1e-12)
    ours = class_correlation(z, temperature, weighting)
    np.testing.assert_allclose(ours, a, atol=1e-12)
    assert ours.shape == (4, 4)
    np.testing.assert_allclose(ours, ours.T, atol=1e-14)
    assert ours.sum().item() == pytest.approx(9, abs=1e-12)
    assert np.linalg.eigvalsh(ours.numpy()).min() > -1e-12
    if weighting == "none":
        np.testing.assert_allclose(ours.sum(1), softmax(z.numpy(), temperature).sum(0), atol=1e-12)


@pytest.mark.parametrize("weighting", ["none", "entropy"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_check_7_the_gradient_is_the_cards_with_constant_weights(weighting, temperature):
    z = randn(6, 4, scale=2).requires_grad_()
    CoreLoss(temperature, weighting)(z).backward()
    p = softmax(z.detach().numpy(), temperature)
    w = np.ones(6)
    if weighting == "entropy":
        w = 1 + np.exp((p * np.log(p)).sum(1))
        w *= 6 / w.sum()
    r, q = (w[:, None] * p).sum(0), (w[:, None] * p**2).sum(0)
    dp = w[:, None] / 4 * ((1 - 2 * p) / (r + 1e-8) - (r - q) / (r + 1e-8) ** 2)
    dz = p * (dp - (p * dp).sum(1, keepdims=True)) / temperature
    np.testing.assert_allclose(z.grad, dz, atol=1e-13)


@pytest.mark.parametrize(
    "options", [{}, {"weighting": "entropy"}, {"normalize": "global"}, {"normalize": "none"}]
)
def test_check_7_rows_and_classes_may_be_permuted(options):
    loss, z = CoreLoss(**options), randn(8, 5, scale=2)
    rows, classes = (torch.randperm(n, generator=torch.Generator().manual_seed(3)) for n in (8, 5))
    torch.testing.assert_close(loss(z[rows][:, classes]), loss(z), atol=1e-13, rtol=0)


def test_check_8_without_normalisation_it_is_the_gini_impurity():
    z = randn(9, 4, scale=2)
    p = softmax(z.numpy())
    expected = np.mean(1 - (p**2).sum(1))
    assert CoreLoss(normalize="none")(z).item() == pytest.approx(expected, abs=1e-13)
    assert CoreLoss(normalize="global")(z).item() == pytest.approx(expected, abs=1e-7)


def test_check_9_entropy_weights_at_temperature_2_5_are_minimum_class_confusion():
    """The published order of steps: weights, correlation, division by the row sums, mean off the diagonal."""
    z = randn(12, 5, scale=3).numpy()
    p = softmax(z, 2.5)
    uncertainty = -(p * np.log(p + 1e-5)).sum(1)
    weight = 1 + np.exp(-uncertainty)
    weight = 12 * weight / weight.sum()
    confusion = (weight[:, None] * p).T @ p
    confusion = confusion / confusion.sum(1, keepdims=True)
    expected = (confusion.sum() - np.trace(confusion)) / 5
    assert CoreLoss(2.5, "entropy")(torch.tensor(z)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", [CoreLoss(), CoreLoss(2.0, "entropy"), EntropyLoss()])
def test_check_11_positions_of_a_map_are_rows(loss):
    z = randn(2, 4, 3, 2, scale=2)
    flat = torch.stack([z[b, :, i, j] for b in range(2) for i in range(3) for j in range(2)])
    torch.testing.assert_close(loss(z), loss(flat), atol=1e-14, rtol=0)
    torch.testing.assert_close(class_correlation(z), class_correlation(flat), atol=1e-13, rtol=0)


def test_entropy_loss_by_numpy_and_gradcheck():
    z = randn(6, 4, scale=2)
    p = softmax(z.numpy())
    assert EntropyLoss()(z).item() == pytest.approx(np.mean(-(p * np.log(p)).sum(1)), abs=1e-13)
    assert torch.autograd.gradcheck(EntropyLoss(), (z.requires_grad_(),))
    assert torch.autograd.gradcheck(CoreLoss(), (z,))


@pytest.mark.parametrize(
    "loss",
    [*(CoreLoss(1.0, w, n) for w in ("none", "entropy") for n in ("row", "global", "none")), EntropyLoss()],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_saturated_logits_stay_finite(loss, dtype):
    z = torch.full((6, 5), -200.0)
    z[:, 0] = 200.0  # every other class has no mass left
    z[3] = 0.0
    for rows in (z, z[:3]):
        given = rows.to(dtype).requires_grad_()
        value = loss(given)
        value.backward()
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(given.grad).all()


@pytest.mark.parametrize("loss", [CoreLoss(), EntropyLoss(), class_correlation])
def test_what_losses_refuse(loss):
    for shape in ((4,), (4, 1), (0, 3), (2, 3, 0, 4)):
        with pytest.raises(ValueError, match="logits must"):
            loss(torch.zeros(shape))
    with pytest.raises(TypeError, match="logits"):
        loss(torch.zeros(4, 3, dtype=torch.long))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"weighting": "margin"},
        {"normalize": "column"},
        {"eps": 0.0},
    ],
)
def test_arguments_of_core(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        CoreLoss(**options)
    if name in ("temperature", "weighting"):
        with pytest.raises(ValueError, match=name):
            class_correlation(torch.zeros(4, 3), **options)
    assert "temperature=1.0" in repr(CoreLoss())


def test_core_spreads_a_collapsed_head_where_entropy_does_not():
    """Logits of four clusters plus a large offset for class 0; only the offset learns."""
    for seed in range(3):
        labels = torch.arange(40) % 4
        z = 4 * F.one_hot(labels, 4).double() + 0.5 * randn(40, 4, seed=seed)
        accuracy = {}
        for name, loss in (("core", CoreLoss()), ("entropy", EntropyLoss())):
            offset = torch.tensor([6.0, 0, 0, 0], dtype=F64, requires_grad=True)
            optimizer = torch.optim.Adam([offset], lr=0.1)
            for _ in range(100):
                optimizer.zero_grad()
                loss(z + offset).backward()
                optimizer.step()
            accuracy[name] = float(((z + offset).argmax(1) == labels).double().mean())
        assert accuracy["core"] > 0.9
        assert accuracy["entropy"] < 0.4


# ------------------------------------------------------------------------------------------------ adapter


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(4, 4, 2),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).double()
    for seed in range(4):
        model(randn(16, 1, 4, 4, seed=100 + seed))
    return model


def batches(count, n=8):
    return [2 * randn(n, 1, 4, 4, seed=seed) + 1 for seed in range(count)]


def state(model):
    return copy.deepcopy(model.state_dict())


def changed(before, model):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


AFFINE = {"1.weight", "1.bias", "5.weight", "5.bias"}


def test_check_10_a_prediction_does_not_depend_on_its_own_update():
    stream = batches(4)
    small, large = (
        OnlineAdapter(network(), CoreLoss(), lambda p, lr=lr: torch.optim.SGD(p, lr)) for lr in (1e-3, 1.0)
    )
    plain = calibrate_batchnorm(network(), 0.9).eval()
    torch.testing.assert_close(small(stream[0]), plain(stream[0]), atol=0, rtol=0)
    torch.testing.assert_close(large(stream[0]), plain(stream[0]), atol=0, rtol=0)
    assert not torch.allclose(small(stream[1]), large(stream[1]))


def test_check_10_one_step_is_the_loops_of_the_card():
    adapter = OnlineAdapter(
        network(), EntropyLoss(), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), 0.7, detach_stats=False
    )
    model = calibrate_batchnorm(network(), 0.7, detach_stats=False).eval()
    learning = [model[1].weight, model[1].bias, model[5].weight, model[5].bias]
    velocity = [torch.zeros_like(p) for p in learning]
    for x in batches(20):
        logits = model(x)
        torch.testing.assert_close(adapter(x), logits, atol=1e-12, rtol=0)
        p = logits.softmax(1)
        gradients = torch.autograd.grad(-(p * p.log()).sum(1).mean(), learning)
        with torch.no_grad():
            for q, v, g in zip(learning, velocity, gradients, strict=True):
                v.mul_(0.9).add_(g)
                q.sub_(0.1 * v)
    for name, value in adapter.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], atol=1e-12, rtol=0)


def test_several_steps_return_the_last_forward():
    x = batches(1)[0]
    thrice = OnlineAdapter(network(), CoreLoss(), steps=3)
    once = OnlineAdapter(network(), CoreLoss())
    outputs = [once(x) for _ in range(3)]
    torch.testing.assert_close(thrice(x), outputs[-1], atol=0, rtol=0)
    assert not torch.equal(outputs[0], outputs[-1])


def test_check_10_only_gain_and_bias_change_unless_all_is_asked_for():
    model = network()
    model[1].bias.requires_grad_(False)
    before, flags = state(model), [p.requires_grad for p in model.parameters()]
    adapter = OnlineAdapter(model, CoreLoss())
    for x in batches(3):
        logits = adapter(x)
        assert not logits.requires_grad
    assert changed(before, adapter.model) == AFFINE
    assert all(p.grad is None for p in adapter.model.parameters())
    full = OnlineAdapter(model, CoreLoss(), params="all")
    for x in batches(2):
        full(x)
    assert changed(before, full.model) == {name for name, _ in model.named_parameters()}
    assert changed(before, model) == set()
    assert [p.requires_grad for p in model.parameters()] == flags
    assert model.training
    assert type(model[1]) is nn.BatchNorm2d


def test_default_optimizer():
    adapter = OnlineAdapter(network(), CoreLoss())
    assert type(adapter.optimizer) is torch.optim.Adam
    assert adapter.optimizer.defaults["lr"] == 1e-3
    assert adapter.optimizer.defaults["weight_decay"] == 0
    assert OnlineAdapter(network(), None).optimizer is None


def test_check_10_reset_restores_model_and_optimizer():
    adapter, fresh = OnlineAdapter(network(), CoreLoss()), OnlineAdapter(network(), CoreLoss())
    stream = batches(3)
    first = [adapter(x) for x in stream]
    adapter.reset()
    assert not adapter.optimizer.state_dict()["state"]
    again = [adapter(x) for x in stream]
    expected = [fresh(x) for x in stream]
    for a, b, c in zip(first, again, expected, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_check_10_episodic_runs_do_not_depend_on_the_order():
    adapter, stream = OnlineAdapter(network(), CoreLoss(), steps=2, episodic=True), batches(3)
    forward = [adapter(x) for x in stream]
    backward = [adapter(x) for x in reversed(stream)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    single = OnlineAdapter(network(), CoreLoss(), episodic=True)
    plain = tta.alpha_bn(network())
    assert all(torch.equal(single(x), plain(x)) for x in stream)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_learns_where_the_caller_has_no_gradients(context):
    stream = batches(2)
    adapter, expected = OnlineAdapter(network(), CoreLoss()), OnlineAdapter(network(), CoreLoss())
    with context():
        outputs = [adapter(x + 0) for x in stream]
    assert all(torch.equal(a, expected(x)) for a, x in zip(outputs, stream, strict=True))
    assert changed(state(network()), adapter.model) == AFFINE


class SometimesNan(nn.Module):
    """Core's loss; NaN or infinite for batches whose first logit asks for it."""

    def __init__(self):
        super().__init__()
        self.value = None

    def forward(self, logits):
        loss = CoreLoss()(logits)
        return loss if self.value is None else loss * self.value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_skipped(value):
    loss = SometimesNan()
    adapter = OnlineAdapter(network(), loss)
    x = batches(2)
    adapter(x[0])
    before = adapter.state_dict()
    loss.value = value
    adapter(x[1])
    after = adapter.state_dict()
    assert adapter.skipped == 1
    assert changed(before["model"], adapter.model) == set()
    for index, entries in before["optimizer"]["state"].items():
        for name, entry in entries.items():
            assert torch.equal(entry, after["optimizer"]["state"][index][name])
    loss.value = None
    adapter(x[1])
    assert adapter.skipped == 1
    adapter.reset()
    assert adapter.skipped == 1
    assert OnlineAdapter(network(), CoreLoss())(torch.full((4, 1, 4, 4), math.nan, dtype=F64)).isnan().all()


def test_state_dict_is_a_copy_and_resumes_bit_for_bit():
    loss = SometimesNan()
    adapter, resumed = OnlineAdapter(network(), loss), OnlineAdapter(network(), loss)
    stream = batches(5)
    loss.value = math.nan
    adapter(stream[0])
    loss.value = None
    adapter(stream[1])
    saved = adapter.state_dict()
    kept = copy.deepcopy(saved)
    expected = [adapter(x) for x in stream[2:]]
    assert all(torch.equal(value, kept["model"][name]) for name, value in saved["model"].items())
    for _ in range(2):
        resumed(stream[4])
        resumed.load_state_dict(saved)
        assert resumed.skipped == 1
        assert all(torch.equal(resumed(x), y) for x, y in zip(stream[2:], expected, strict=True))


def test_what_the_adapter_refuses():
    model = network()
    for options, name in (
        ({"steps": 0}, "steps"),
        ({"alpha": 1.2}, "alpha"),
        ({"alpha": [0.5]}, "alpha"),
        ({"params": "bias"}, "params"),
        ({"variance": "std"}, "variance"),
    ):
        with pytest.raises(ValueError, match=name):
            OnlineAdapter(model, CoreLoss(), **options)
    with pytest.raises(ValueError, match="batch norm"):
        OnlineAdapter(nn.Linear(2, 2), CoreLoss())
    for loss in (None, CoreLoss()):
        with pytest.raises(ValueError, match="x must not be empty"):
            OnlineAdapter(model, loss)(torch.zeros(0, 1, 4, 4, dtype=F64))
    frozen = nn.BatchNorm1d(3, affine=False)
    frozen(torch.randn(4, 3))
    with pytest.raises(ValueError, match="parameters to learn"):
        OnlineAdapter(frozen, CoreLoss())
    assert OnlineAdapter(frozen, None)(torch.randn(4, 3)).shape == (4, 3)
    with pytest.raises(ValueError, match="running statistics"):
        OnlineAdapter(nn.BatchNorm1d(3, track_running_stats=False), None)


def test_a_converted_model_and_layer_options_are_taken():
    model = calibrate_batchnorm(network(), 0.2)
    adapter = OnlineAdapter(model, None, alpha=[0.5, 0.6], unbiased=True, variance="mixture")
    layers = [m for m in adapter.model.modules() if isinstance(m, AlphaBatchNorm2d)]
    assert [layer.alpha for layer in layers] == [0.5, 0.6]
    assert all(layer.unbiased and layer.variance == "mixture" for layer in layers)
    assert model[1].alpha == 0.2


# ------------------------------------------------------------------------------------------------ methods


def manual(model, x, statistics):
    """The network with given (mean, var) per batch norm, or those of the batch if None."""
    for i, layer in enumerate(model):
        if isinstance(layer, nn.BatchNorm2d):
            mean, var = statistics[i] if statistics else (None, None)
            x = F.batch_norm(
                x,
                None if mean is None else mean.clone(),
                None if var is None else var.clone(),
                layer.weight,
                layer.bias,
                training=mean is None,
                eps=layer.eps,
            )
        elif not isinstance(layer, nn.Dropout):
            x = layer(x)
    return x


def test_source_tbn_and_alpha_bn():
    model, x = network(), batches(1)[0]
    torch.testing.assert_close(tta.source(model)(x), copy.deepcopy(model).eval()(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(tta.tbn(model)(x), manual(model, x, None), atol=1e-12, rtol=0)
    expected = calibrate_batchnorm(copy.deepcopy(model), [0.3, 0.8]).eval()(x)
    torch.testing.assert_close(tta.alpha_bn(model, [0.3, 0.8])(x), expected, atol=0, rtol=0)
    assert tta.alpha_bn(model).model[1].alpha == 0.9


def test_core_and_tent_are_adapters_with_adam():
    model = network()
    core, tent = tta.core(model, alpha=0.6, lr=0.01), tta.tent(model, lr=0.02)
    assert (core.model[1].alpha, core.model[1].detach_stats, type(core.loss)) == (0.6, True, CoreLoss)
    assert (tent.model[1].alpha, tent.model[1].detach_stats, type(tent.loss)) == (0.0, False, EntropyLoss)
    for method, lr in ((core, 0.01), (tent, 0.02)):
        assert type(method.optimizer) is torch.optim.Adam
        assert method.optimizer.param_groups[0]["lr"] == lr
    assert tta.core(model).optimizer.param_groups[0]["lr"] == 1e-3
    for factory in (tta.core, tta.tent):
        with pytest.raises(ValueError, match="lr"):
            factory(model, lr=0.0)


def test_tent_lowers_the_entropy_of_a_repeated_batch():
    method, x = tta.tent(network(), lr=0.01), batches(1)[0]
    entropies = [EntropyLoss()(method(x)).item() for _ in range(20)]
    assert entropies[-1] < entropies[0] - 0.05


@pytest.mark.parametrize("labelled", [True, False])
def test_adabn_averages_the_statistics_of_all_batches(labelled):
    model, stream = network(), batches(4)
    before = state(model)
    method = tta.adabn(model, [(x, torch.zeros(len(x))) if labelled else x for x in stream])
    adapted = method.model
    first = [model[0](x) for x in stream]
    mean = torch.stack([h.mean((0, 2, 3)) for h in first]).mean(0)
    var = torch.stack([h.var((0, 2, 3), correction=1) for h in first]).mean(0)
    torch.testing.assert_close(adapted[1].running_mean, mean, atol=1e-12, rtol=0)
    torch.testing.assert_close(adapted[1].running_var, var, atol=1e-12, rtol=0)
    # behind the first norm the first pass has normalised each batch by itself
    second = [
        model[4](F.relu(F.batch_norm(h, None, None, model[1].weight, model[1].bias, training=True)))
        for h in first
    ]
    mean = torch.stack([h.mean((0, 2, 3)) for h in second]).mean(0)
    torch.testing.assert_close(adapted[5].running_mean, mean, atol=1e-12, rtol=0)
    assert adapted[1].momentum == 0.1
    assert not any(module.training for module in adapted.modules())
    expected = manual(
        adapted, stream[0], {i: (adapted[i].running_mean, adapted[i].running_var) for i in (1, 5)}
    )
    torch.testing.assert_close(method(stream[0]), expected, atol=1e-12, rtol=0)
    kept = state(adapted)
    method(stream[1])
    method.reset()
    assert changed(kept, adapted) == set()
    assert changed(before, model) == set()
    assert model.training


def test_tbn_ema_moves_the_statistics_then_normalises_with_them():
    model, m = network(), 0.3
    method = tta.tbn_ema(model, momentum=m)
    running = {i: (model[i].running_mean.clone(), model[i].running_var.clone()) for i in (1, 5)}
    start = state(method.model)
    for x in batches(20):
        h = x
        for i, layer in enumerate(model):
            if i in running:
                new = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
                running[i] = tuple((1 - m) * r + m * n for r, n in zip(running[i], new, strict=True))
                mean, var = (v.view(1, -1, 1, 1) for v in running[i])
                h = (h - mean) / (var + layer.eps).sqrt() * layer.weight.view(1, -1, 1, 1)
                h = h + layer.bias.view(1, -1, 1, 1)
            elif not isinstance(layer, nn.Dropout):
                h = layer(h)
        logits = method(x)
        torch.testing.assert_close(logits, h, atol=1e-11, rtol=0)
        assert not logits.requires_grad
    torch.testing.assert_close(method.model[5].running_var, running[5][1], atol=1e-12, rtol=0)
    assert changed(start, method.model) == {
        f"{i}.{name}" for i in (1, 5) for name in ("running_mean", "running_var")
    }
    method.reset()
    assert changed(start, method.model) == set()
    copied = copy.deepcopy(method)
    assert torch.equal(copied(x), method(x))


def test_reestimating_methods_undo_a_conversion():
    model = calibrate_batchnorm(network(), 0.5)
    assert type(tta.tbn_ema(model).model[1]) is nn.BatchNorm2d
    assert type(tta.adabn(model, batches(1)).model[1]) is nn.BatchNorm2d
    assert type(model[1]) is AlphaBatchNorm2d


def test_what_reestimating_methods_refuse():
    model = network()
    with pytest.raises(ValueError, match="loader"):
        tta.adabn(model, [])
    with pytest.raises(ValueError, match="momentum"):
        tta.tbn_ema(model, 1.5)
    for factory in (tta.tbn_ema, lambda m: tta.adabn(m, batches(1))):
        with pytest.raises(ValueError, match="batch norm"):
            factory(nn.Linear(2, 2))
        with pytest.raises(ValueError, match="running statistics"):
            factory(nn.BatchNorm2d(1, track_running_stats=False))
    with pytest.raises(ValueError, match="x must not be empty"):
        tta.tbn_ema(model)(torch.zeros(0, 1, 4, 4, dtype=F64))


def test_every_method_has_the_same_face():
    model, stream = network(), batches(2)
    methods = [
        tta.source(model),
        tta.tbn(model),
        tta.alpha_bn(model),
        tta.core(model),
        tta.tent(model),
        tta.adabn(model, stream),
        tta.tbn_ema(model),
    ]
    for method in methods:
        logits = method(stream[0])
        assert logits.shape == (8, 3)
        assert not logits.requires_grad
        assert isinstance(method.model, nn.Module)
        method(stream[1])
        method.reset()
        torch.testing.assert_close(method(stream[0]), logits, atol=0, rtol=0)


def test_batch_statistics_undo_a_contrast_shift():
    """Two classes told apart by a pattern; the test images have a tenth of the contrast and an offset."""
    pattern = randn(1, 1, 4, 4, seed=50)

    def labelled(n, seed):
        y = torch.arange(n) % 2
        return (2 * y - 1).view(-1, 1, 1, 1) * pattern + 0.7 * randn(n, 1, 4, 4, seed=seed), y

    for seed in range(2):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)
        ).double()
        adam = torch.optim.Adam(model.parameters(), 0.02)
        for step in range(60):
            x, y = labelled(32, 1000 + step)
            adam.zero_grad()
            F.cross_entropy(model(x), y).backward()
            adam.step()
        accuracy = {}
        for name, method in (
            ("source", tta.source(model)),
            ("tbn", tta.tbn(model)),
            ("core", OnlineAdapter(model, CoreLoss(), alpha=0.0)),
        ):
            hits = []
            for step in range(6):
                x, y = labelled(40, 5000 + step)
                hits.append((method(0.1 * x + 3).argmax(1) == y).double().mean())
            accuracy[name] = float(torch.stack(hits).mean())
        assert accuracy["source"] < 0.8
        assert accuracy["tbn"] > 0.85
        assert accuracy["core"] > 0.85


# -------------------------------------------------------------------------------------------- corruptions

CORRUPTIONS = ["gaussian_noise", "contrast", "brightness", "blur", "invert", "shift", "pixelate"]


def pictures(n=6, size=8, channels=1):
    """Smooth blobs in [0, 1] with a dark border, like digits."""
    axis = torch.linspace(-1, 1, size)
    centre = 0.3 * torch.randn(n, channels, 2, generator=torch.Generator().manual_seed(0))
    dy = axis.view(1, 1, -1, 1) - centre[..., 0].view(n, channels, 1, 1)
    dx = axis.view(1, 1, 1, -1) - centre[..., 1].view(n, channels, 1, 1)
    return torch.exp(-4 * (dx**2 + dy**2))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_keep_shape_dtype_and_range_and_grow(name):
    corrupt = getattr(corruptions, name)
    noisy = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for x in (pictures(), pictures(channels=3, size=11), noisy, noisy.double()):
        untouched, changes = x.clone(), []
        for severity in range(1, 6):
            y = corrupt(x, severity, torch.Generator().manual_seed(0))
            assert y.shape == x.shape
            assert y.dtype == x.dtype
            assert y is not x
            assert y.min() >= 0
            assert y.max() <= 1
            changes.append(float((y - x).abs().mean()))
        assert changes[0] > 1e-3
        assert changes[4] > changes[0] + 1e-3
        assert torch.equal(x, untouched)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_repeat_with_the_same_seed(name):
    corrupt = getattr(corruptions, name)
    first, again = (corrupt(pictures(), 3, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
    other = corrupt(pictures(), 3, torch.Generator().manual_seed(8))
    assert torch.equal(first, other) == (name != "gaussian_noise")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_corruptions_refuse(name):
    corrupt = getattr(corruptions, name)
    for severity in (0, 6, 2.5, True):
        with pytest.raises(ValueError, match="severity"):
            corrupt(pictures(), severity)
    with pytest.raises(ValueError, match="x must have shape"):
        corrupt(torch.zeros(3, 8, 8), 1)
    with pytest.raises(TypeError, match="x must be"):
        corrupt(torch.zeros(1, 1, 8, 8, dtype=torch.long), 1)
    assert corrupt(torch.rand(2, 1, 8, 8).half(), 2).dtype == torch.float16


def test_corruptions_by_hand():
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = 1.0
    moved = corruptions.shift(x, 5)
    assert moved[0, 0, 2, 2] == 1
    assert moved.sum() == 1
    torch.testing.assert_close(corruptions.invert(x, 5), 1 - x)
    torch.testing.assert_close(corruptions.brightness(x, 1), (x + 0.1).clamp(max=1))
    torch.testing.assert_close(corruptions.contrast(x, 5), 1 / 16 + 0.1 * (x - 1 / 16))
    torch.testing.assert_close(corruptions.pixelate(x, 4)[0, 0, :2, :2], torch.full((2, 2), 0.25))
    centre = torch.zeros(1, 1, 15, 15)
    centre[0, 0, 7, 7] = 1
    blurred = corruptions.blur(centre, 4)[0, 0]
    density = np.exp(-0.5 * (np.arange(-4, 5) / 1.2) ** 2)
    density /= density.sum()
    np.testing.assert_allclose(blurred[3:12, 3:12], np.outer(density, density), atol=1e-7)


def test_public_names():
    for name in (
        *("CoreLoss", "EntropyLoss", "OnlineAdapter", "class_correlation", "corruptions", "source", "tbn"),
        *("alpha_bn", "core", "tent", "adabn", "tbn_ema"),
    ):
        assert name in adaptive.__all__
        assert getattr(adaptive, name) is getattr(tta, name)


@pytest.mark.parametrize("module", [core_loss, online_adapter])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
