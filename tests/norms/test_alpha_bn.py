"""alpha-BN against NumPy and ordinary batch norm; the conversion of whole models and the way back."""

from __future__ import annotations

import copy
import doctest
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from normviz.norms import alpha_bn
from normviz.norms.alpha_bn import (
    AlphaBatchNorm1d,
    AlphaBatchNorm2d,
    AlphaBatchNorm3d,
    calibrate_batchnorm,
    mix_stats,
    prior_alpha,
    restore_batchnorm,
    set_alpha,
)

C = 3
F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def trained(kind=nn.BatchNorm2d, **options):
    """A float64 batch norm in eval mode with random parameters and statistics."""
    bn = kind(C, dtype=F64, **options)
    with torch.no_grad():
        for i, p in enumerate(bn.parameters()):
            p.copy_(randn(C, seed=5 + i))
    bn.running_mean.copy_(randn(C, seed=7))
    bn.running_var.copy_(0.5 + randn(C, seed=8) ** 2)
    bn.num_batches_tracked.fill_(3)
    return bn.eval()


def reference(bn, x, alpha, unbiased=False, mixture=False):
    """The card's formulas with a loop per channel."""
    y = np.empty_like(x)
    for c in range(C):
        values = x[:, c].ravel()
        mu_t = values.sum() / len(values)
        var_t = ((values - mu_t) ** 2).sum() / (len(values) - unbiased)
        mu_s, var_s = float(bn.running_mean[c]), float(bn.running_var[c])
        mu = alpha * mu_s + (1 - alpha) * mu_t
        var = alpha * var_s + (1 - alpha) * var_t + mixture * alpha * (1 - alpha) * (mu_s - mu_t) ** 2
        gamma, beta = (1.0, 0.0) if bn.weight is None else (bn.weight[c].item(), bn.bias[c].item())
        y[:, c] = gamma * (x[:, c] - mu) / np.sqrt(var + bn.eps) + beta
    return y


LAYERS = [
    (AlphaBatchNorm1d, nn.BatchNorm1d, (5, C)),
    (AlphaBatchNorm1d, nn.BatchNorm1d, (5, C, 4)),
    (AlphaBatchNorm2d, nn.BatchNorm2d, (5, C, 2, 3)),
    (AlphaBatchNorm3d, nn.BatchNorm3d, (4, C, 2, 1, 3)),
]


@pytest.mark.parametrize(("kind", "plain", "shape"), LAYERS)
@pytest.mark.parametrize("options", [{}, {"unbiased": True}, {"variance": "mixture"}])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_agrees_with_a_numpy_loop(kind, plain, shape, options, alpha):
    bn = trained(plain, eps=1e-3)
    layer = kind(bn, alpha, **options)
    for seed in range(3):
        x = 2 * randn(*shape, seed=seed) + 1
        expected = reference(bn, x.numpy(), alpha, options.get("unbiased", False), "variance" in options)
        np.testing.assert_allclose(layer(x).detach(), expected, atol=1e-12)


def test_without_gain_and_bias_and_with_gain_only():
    x = randn(4, C, 2, 2)
    bn = trained(affine=False)
    np.testing.assert_allclose(AlphaBatchNorm2d(bn, 0.4)(x), reference(bn, x.numpy(), 0.4), atol=1e-12)
    bn = trained(bias=False)
    torch.testing.assert_close(AlphaBatchNorm2d(bn, 1.0)(x), bn(x), atol=1e-12, rtol=0)


# ------------------------------------------------------------------------------------------- the checks


@pytest.mark.parametrize(("kind", "plain", "shape"), LAYERS)
def test_check_1_both_ends_are_batch_norm(kind, plain, shape):
    bn, x = trained(plain), randn(*shape)
    torch.testing.assert_close(kind(bn, 1.0)(x), bn(x), atol=1e-12, rtol=0)
    expected = F.batch_norm(x, None, None, bn.weight, bn.bias, training=True)
    torch.testing.assert_close(kind(bn, 0.0)(x), expected, atol=1e-12, rtol=0)
    bn, x = copy.deepcopy(bn).float(), x.float()
    torch.testing.assert_close(kind(bn, 1.0)(x), bn(x), atol=1e-6, rtol=1e-6)


def test_check_1_linear_in_the_statistics_not_in_the_output():
    bn, x = trained(affine=False), randn(6, C, 2, 2) + 2
    ends = [AlphaBatchNorm2d(bn, alpha)(x) for alpha in (0.0, 1.0)]
    middle = AlphaBatchNorm2d(bn, 0.5)(x)
    assert (middle - (ends[0] + ends[1]) / 2).abs().max() > 0.01
    mu_t, var_t = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    mu, var = mix_stats(bn.running_mean, bn.running_var, mu_t, var_t, 0.5)
    torch.testing.assert_close(mu, (bn.running_mean + mu_t) / 2)
    torch.testing.assert_close(var, (bn.running_var + var_t) / 2)
    shape = (1, C, 1, 1)
    expected = (x - mu.view(shape)) / (var.view(shape) + bn.eps).sqrt()
    torch.testing.assert_close(middle, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_check_2_nothing_is_kept_and_everything_comes_back(training):
    model = network().eval()
    keys, x = list(model.state_dict()), randn(6, 1, 4, 4)
    before, source = copy.deepcopy(model.state_dict()), model(x)
    calibrate_batchnorm(model, 0.3).train(training)
    assert list(model.state_dict()) == keys
    for seed in range(10):
        model(randn(6, 1, 4, 4, seed=seed))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    restore_batchnorm(model).eval()
    assert list(model.state_dict()) == keys
    assert torch.equal(model(x), source)


def test_check_3_all_alphas_agree_on_data_with_the_sources_statistics():
    bn, x = trained(), randn(8, C, 2, 2)
    bn.running_mean.copy_(x.mean((0, 2, 3)))
    bn.running_var.copy_(x.var((0, 2, 3), correction=0))
    for variance in ("linear", "mixture"):
        outputs = [AlphaBatchNorm2d(bn, alpha, variance=variance)(x) for alpha in (0, 0.25, 0.6, 1)]
        for output in outputs[1:]:
            torch.testing.assert_close(output, outputs[0], atol=1e-12, rtol=0)


def test_check_4_the_test_batchs_statistics_undo_gain_and_offset():
    bn, x = trained(eps=1e-12), randn(8, C, 2, 2)
    a, b = torch.tensor([0.5, 3.0, 1.7], dtype=F64), torch.tensor([4.0, -2.0, 0.1], dtype=F64)
    shifted = a.view(1, C, 1, 1) * x + b.view(1, C, 1, 1)
    tbn, source = AlphaBatchNorm2d(bn, 0.0), AlphaBatchNorm2d(bn, 1.0)
    torch.testing.assert_close(tbn(shifted), tbn(x), atol=1e-9, rtol=0)
    assert (source(shifted) - source(x)).abs().amax((0, 2, 3)).min() > 0.05


@pytest.mark.parametrize("options", [{}, {"unbiased": True}, {"variance": "mixture"}])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_check_5_gradients_through_the_statistics(alpha, options):
    layer = AlphaBatchNorm2d(trained(), alpha, detach_stats=False, **options)
    names = [name for name, _ in layer.named_parameters()]

    def forward(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(forward, (randn(3, C, 2, 1).requires_grad_(), *parameters))


@pytest.mark.parametrize("variance", ["linear", "mixture"])
def test_check_5_detached_statistics_are_constants(variance):
    bn = trained()
    layer = AlphaBatchNorm2d(bn, 0.4, variance=variance)
    x, dy = randn(5, C, 2, 2).requires_grad_(), randn(5, C, 2, 2, seed=1)
    layer(x).backward(dy)
    mu_t, var_t = x.detach().mean((0, 2, 3)), x.detach().var((0, 2, 3), correction=0)
    mu, var = mix_stats(bn.running_mean, bn.running_var, mu_t, var_t, 0.4, variance)
    slope = bn.weight.detach() / (var + bn.eps).sqrt()
    torch.testing.assert_close(x.grad, slope.view(1, C, 1, 1) * dy, atol=1e-14, rtol=1e-12)
    z = (x.detach() - mu.view(1, C, 1, 1)) / (var + bn.eps).sqrt().view(1, C, 1, 1)
    torch.testing.assert_close(bn.weight.grad, (z * dy).sum((0, 2, 3)), atol=1e-12, rtol=0)


def test_mixture_is_the_variance_of_the_pooled_values():
    a, b = randn(40, C), 2 * randn(60, C, seed=1) + 1
    pooled = torch.cat([a, b])
    mu, var = mix_stats(
        a.mean(0), a.var(0, correction=0), b.mean(0), b.var(0, correction=0), 0.4, variance="mixture"
    )
    torch.testing.assert_close(mu, pooled.mean(0), atol=1e-12, rtol=0)
    torch.testing.assert_close(var, pooled.var(0, correction=0), atol=1e-12, rtol=0)


def test_prior_alpha():
    assert prior_alpha(16, 64) == 0.2
    assert prior_alpha(0, 8) == 0.0
    for arguments, name in (((-1, 8), "prior_n"), ((4, 0), "batch_n")):
        with pytest.raises(ValueError, match=name):
            prior_alpha(*arguments)


# ------------------------------------------------------------------------------------- edges and errors


def test_one_value_per_channel():
    bn, x = trained(), randn(1, C, 1, 1)
    np.testing.assert_allclose(
        AlphaBatchNorm2d(bn, 0.5)(x).detach(), reference(bn, x.numpy(), 0.5), atol=1e-12
    )
    with pytest.raises(ValueError, match="more than 1 value per channel with alpha = 0"):
        AlphaBatchNorm2d(bn, 0.0)(x)
    with pytest.raises(ValueError, match="more than 1 value per channel with unbiased"):
        AlphaBatchNorm2d(bn, 0.5, unbiased=True)(x)
    torch.testing.assert_close(AlphaBatchNorm2d(bn, 1.0, unbiased=True)(x), bn(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize(("kind", "plain", "shape"), LAYERS)
def test_wrong_inputs(kind, plain, shape, alpha):
    layer = kind(trained(plain), alpha)
    for bad in ((C,), (*shape, 2, 2), (shape[0], C + 1, *shape[2:])):
        with pytest.raises(ValueError, match="x must have shape"):
            layer(torch.zeros(bad, dtype=F64))
    with pytest.raises(ValueError, match="x must not be empty"):
        layer(torch.zeros(0, *shape[1:], dtype=F64))
    with pytest.raises(TypeError, match="x must be a floating point"):
        layer(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), None, "source"])
def test_alpha_out_of_range_everywhere(alpha):
    bn = trained()
    layer = AlphaBatchNorm2d(bn, 0.4)
    model = nn.Sequential(trained())
    stats = (bn.running_mean, bn.running_var) * 2
    for call in (
        lambda: AlphaBatchNorm2d(bn, alpha),
        lambda: setattr(layer, "alpha", alpha),
        lambda: set_alpha(layer, alpha),
        lambda: calibrate_batchnorm(model, alpha),
        lambda: calibrate_batchnorm(model, [alpha]),
        lambda: mix_stats(*stats, alpha),
    ):
        with pytest.raises(ValueError, match="alpha"):
            call()
    assert layer.alpha == 0.4
    assert type(model[0]) is nn.BatchNorm2d


def test_other_constructor_errors_and_the_warning():
    with pytest.raises(ValueError, match="variance"):
        AlphaBatchNorm2d(trained(), variance="std")
    with pytest.raises(ValueError, match="variance"):
        mix_stats(*[torch.ones(C)] * 4, 0.5, variance="std")
    with pytest.raises(ValueError, match="running statistics"):
        AlphaBatchNorm2d(nn.BatchNorm2d(C, track_running_stats=False))
    with pytest.raises(TypeError, match="bn"):
        AlphaBatchNorm2d(nn.LayerNorm(C))
    with pytest.warns(UserWarning, match="never trained"):
        AlphaBatchNorm2d(nn.BatchNorm2d(C))
    with pytest.warns(UserWarning, match="never trained"):
        calibrate_batchnorm(nn.BatchNorm1d(C))


def test_alpha_can_be_set_and_is_shown():
    layer = AlphaBatchNorm2d(trained())
    assert layer.alpha == 0.9
    layer.alpha = 0.25
    assert "alpha=0.25" in repr(layer)
    x = randn(4, C, 2, 2)
    torch.testing.assert_close(layer(x), AlphaBatchNorm2d(trained(), 0.25)(x), atol=0, rtol=0)


# ------------------------------------------------------------------------------------------ whole models


def network():
    """Conv, three batch norms of two kinds, one of them twice in the network; float64, trained a little."""
    torch.manual_seed(0)
    shared = nn.BatchNorm2d(4, momentum=0.3)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1),
        shared,
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4, affine=False, eps=1e-2)),
        shared,
        nn.Flatten(),
        nn.BatchNorm1d(64, momentum=None),
    ).double()
    for seed in range(3):
        model(randn(8, 1, 4, 4, seed=seed))
    return model


def test_conversion_shares_parameters_and_buffers():
    model = network()
    saved, old = copy.deepcopy(model.state_dict()), [model[1], model[2][1], model[5]]
    assert calibrate_batchnorm(model, 0.6, unbiased=True, variance="mixture") is model
    new = [model[1], model[2][1], model[5]]
    assert [type(layer) for layer in new] == [AlphaBatchNorm2d, AlphaBatchNorm2d, AlphaBatchNorm1d]
    assert model[3] is model[1]
    for layer, bn in zip(new, old, strict=True):
        assert (layer.alpha, layer.unbiased, layer.variance, layer.eps) == (0.6, True, "mixture", bn.eps)
        assert layer.weight is bn.weight
        assert layer.bias is bn.bias
        assert layer.running_mean is bn.running_mean
        assert layer.running_var is bn.running_var
    model.load_state_dict(saved, strict=True)
    restore_batchnorm(model)
    back = [model[1], model[2][1], model[5]]
    assert [type(layer) for layer in back] == [nn.BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm1d]
    assert [layer.momentum for layer in back] == [0.3, 0.1, None]
    assert model[3] is model[1]
    for layer, bn in zip(back, old, strict=True):
        assert layer.weight is bn.weight
        assert layer.running_var is bn.running_var
        assert (layer.training, layer.affine, layer.eps) == (bn.training, bn.affine, bn.eps)
        assert repr(layer) == repr(bn)
    model.load_state_dict(saved, strict=True)


def test_restored_layers_train_on():
    model, other = network(), network()
    restore_batchnorm(calibrate_batchnorm(model, 0.5))
    x = randn(8, 1, 4, 4, seed=9)
    assert torch.equal(model(x), other(x))
    assert torch.equal(model[5].running_mean, other[5].running_mean)


def test_roots():
    bn = trained(nn.BatchNorm1d)
    layer = calibrate_batchnorm(bn, 0.2)
    assert type(layer) is AlphaBatchNorm1d
    assert not layer.training
    assert set_alpha(layer, [0.3]) is None
    assert layer.alpha == 0.3
    restored = restore_batchnorm(layer)
    assert type(restored) is nn.BatchNorm1d
    assert not restored.training
    assert restore_batchnorm(restored) is restored


def test_one_alpha_per_layer_in_module_order():
    model = calibrate_batchnorm(network(), [0.1, 0.2, 0.3])
    assert [model[1].alpha, model[2][1].alpha, model[5].alpha] == [0.1, 0.2, 0.3]
    set_alpha(model, (0.4, 0.5, 0.6))
    assert [model[1].alpha, model[2][1].alpha, model[5].alpha] == [0.4, 0.5, 0.6]
    set_alpha(model, 0.7)
    assert [model[1].alpha, model[2][1].alpha, model[5].alpha] == [0.7] * 3
    for bad in ([0.1], [0.1] * 4, [0.1, 0.2, 1.3]):
        with pytest.raises(ValueError, match="alpha"):
            set_alpha(model, bad)
        with pytest.raises(ValueError, match="alpha"):
            calibrate_batchnorm(model, bad)
    assert model[1].alpha == 0.7


def test_a_second_conversion_only_updates():
    model = calibrate_batchnorm(network(), 0.3, unbiased=True)
    layer = model[1]
    calibrate_batchnorm(model, 0.8, detach_stats=False)
    assert model[1] is layer
    assert (layer.alpha, layer.unbiased, layer.detach_stats) == (0.8, True, False)
    with pytest.raises(ValueError, match="variance"):
        calibrate_batchnorm(model, 0.1, variance="std")
    assert layer.alpha == 0.8
    restore_batchnorm(model)
    assert type(model[1]) is nn.BatchNorm2d


def test_models_without_batch_norm():
    plain = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    for call in (calibrate_batchnorm, lambda m: set_alpha(m, 0.5)):
        with pytest.raises(ValueError, match="model must have a batch norm"):
            call(plain)
    with pytest.raises(ValueError, match="model must have a batch norm"):
        set_alpha(network(), 0.5)
    assert restore_batchnorm(plain) is plain


def test_a_refused_conversion_leaves_the_model():
    model = nn.Sequential(trained(), nn.BatchNorm2d(C, track_running_stats=False))
    with pytest.raises(ValueError, match="running statistics"):
        calibrate_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm2d


def test_moves_and_copies_keep_the_way_back():
    model = calibrate_batchnorm(network(), 0.5)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        x = randn(6, 1, 4, 4)
        assert torch.equal(other(x), model(x))
        assert other[1].running_mean is not model[1].running_mean
    narrow = restore_batchnorm(copy.deepcopy(model).float())
    assert narrow[1].running_mean.dtype == torch.float32


def test_doctests():
    result = doctest.testmod(alpha_bn)
    assert result.attempted > 0
    assert result.failed == 0
