import copy
import doctest
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import normviz.norms
from normviz.norms import evonorm
from normviz.norms.evonorm import (
    EvoNorm2dB0,
    EvoNorm2dB1,
    EvoNorm2dB2,
    EvoNorm2dS0,
    EvoNorm2dS1,
    EvoNorm2dS2,
    make_evonorm,
)

KINDS = ["B0", "B1", "B2", "S0", "S1", "S2"]
B_KINDS = KINDS[:3]
S_KINDS = KINDS[3:]
C, G = 6, 3


def layer(kind, dtype=torch.float64, **kw):
    """A layer with parameters away from their neutral values."""
    if kind in S_KINDS:
        kw = {"groups": G} | kw
    module = make_evonorm(kind, C, **kw).to(dtype)
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.rand(C, generator=g) + 0.5)
    return module


def images(n=4, h=3, w=2, scale=1.7, shift=0.4, dtype=torch.float64):
    g = torch.Generator().manual_seed(3)
    return (torch.randn(n, C, h, w, generator=g, dtype=torch.float64) * scale + shift).to(dtype)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def by_loops(kind, x, weight, bias, v, eps):
    """The paper's table, one output element at a time."""
    n, c, h, w = x.shape
    y = np.empty_like(x)
    size = c // G
    for i in range(n):
        for j in range(c):
            batch = x[:, j].ravel()
            own = x[i, j].ravel()
            first = j // size * size
            group = x[i, first : first + size].ravel()
            s2_batch = ((batch - batch.mean()) ** 2).sum() / batch.size
            s2_own = ((own - own.mean()) ** 2).sum() / own.size
            s2_group = ((group - group.mean()) ** 2).sum() / group.size
            for r in range(h):
                for s in range(w):
                    a = x[i, j, r, s]
                    left = np.sqrt(s2_batch + eps)
                    value = {
                        "B0": a / max(left, v[j] * a + np.sqrt(s2_own + eps)),
                        "B1": a / max(left, (a + 1) * np.sqrt((own**2).mean() + eps)),
                        "B2": a / max(left, np.sqrt((own**2).mean() + eps) - a),
                        "S0": a * sigmoid(v[j] * a) / np.sqrt(s2_group + eps),
                        "S1": a * sigmoid(a) / np.sqrt(s2_group + eps),
                        "S2": a * sigmoid(a) / np.sqrt((group**2).mean() + eps),
                    }[kind]
                    y[i, j, r, s] = weight[j] * value + bias[j]
    return y


# ---- the card's checks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_equals_the_formula_element_by_element(kind, eps):
    module = layer(kind, eps=eps)
    x = images()
    v = np.ones(C) if module.v is None else module.v.detach().numpy()
    expected = by_loops(kind, x.numpy(), module.weight.detach().numpy(), module.bias.detach().numpy(), v, eps)
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", B_KINDS)
def test_both_sides_of_the_maximum_occur_in_that_test(kind):
    module = layer(kind)
    x = images()
    left = (x.var((0, 2, 3), correction=0, keepdim=True) + module.eps).sqrt()
    share = (module.instance_term(x, module.v) > left).double().mean()
    assert 0.1 < share < 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_gradients(kind, training):
    module = layer(kind).train(training)
    x = images(n=2).requires_grad_()
    names = [n for n, _ in module.named_parameters()]
    buffers = {n: b.clone() for n, b in module.named_buffers()}

    def f(x, *p):
        state = dict(zip(names, p, strict=True)) | {n: b.clone() for n, b in buffers.items()}
        return torch.func.functional_call(module, state, (x,))

    parameters = tuple(p.detach().clone().requires_grad_() for p in module.parameters())
    assert torch.autograd.gradcheck(f, (x, *parameters))


@pytest.mark.parametrize("kind", S_KINDS)
def test_s_series_sees_one_sample_at_a_time(kind):
    module = layer(kind)
    x = images()
    y = module(x)
    torch.testing.assert_close(torch.cat([module(one) for one in x.split(1)]), y, rtol=0, atol=1e-12)
    assert torch.equal(module.eval()(x), y)
    assert dict(module.named_buffers()) == {}


@pytest.mark.parametrize("kind", B_KINDS)
def test_b_series_depends_on_the_batch_in_training_only(kind):
    module = layer(kind)
    x = images()
    assert not torch.allclose(module(x)[:2], module(x[:2]))
    module.eval()
    torch.testing.assert_close(module(x)[:2], module(x[:2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", B_KINDS)
def test_eval_with_the_batch_variance_equals_training(kind):
    module = layer(kind)
    x = images()
    trained = module(x)
    module.running_var.copy_(x.var((0, 2, 3), correction=0))
    torch.testing.assert_close(module.eval()(x), trained, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", B_KINDS)
def test_running_variance_after_steps(kind):
    module = layer(kind)
    x = images()
    n = x.numel() // C
    unbiased = torch.from_numpy(x.numpy().var(axis=(0, 2, 3))) * n / (n - 1)
    module(x)
    torch.testing.assert_close(module.running_var, 0.9 + 0.1 * unbiased, rtol=1e-13, atol=0)
    module(2 * x)
    torch.testing.assert_close(
        module.running_var, 0.9 * (0.9 + 0.1 * unbiased) + 0.1 * 4 * unbiased, rtol=1e-13, atol=0
    )
    assert module.num_batches_tracked == 2
    module.eval()(x)
    assert module.num_batches_tracked == 2
    module.reset_running_stats()
    assert module.num_batches_tracked == 0
    assert torch.equal(module.running_var, torch.ones(C, dtype=torch.float64))


def test_s1_of_a_large_input_is_relu_over_group_std():
    x = images()
    limit = x.relu() / x.view(4, G, -1).std(2, correction=0).repeat_interleave(C // G, 1)[..., None, None]
    module = EvoNorm2dS1(C, groups=G).double()
    torch.testing.assert_close(module(1e3 * x), limit, rtol=0, atol=2e-3)
    torch.testing.assert_close(module(1e4 * x), module(2e4 * x), rtol=0, atol=2e-4)
    assert not torch.allclose(module(x), limit, rtol=0, atol=2e-2)


def test_b0_without_v1_divides_by_the_larger_variance():
    x = images()
    module = EvoNorm2dB0(C).double()
    nn.init.zeros_(module.v)
    batch = torch.from_numpy(x.numpy().var(axis=(0, 2, 3), keepdims=True))
    own = torch.from_numpy(x.numpy().var(axis=(2, 3), keepdims=True))
    torch.testing.assert_close(module(x), x / (torch.maximum(batch, own) + 1e-5).sqrt())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_centred(kind):
    module = layer(kind)
    x = images()
    assert (module(x + 1) - module(x)).abs().max() > 0.05


def test_equals_timm():
    try:
        from timm.layers import evo_norm as timm_layers
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported here: {type(error).__name__}")
    x = images(dtype=torch.float32)
    for kind in KINDS:
        kw = {"groups": G} if kind in S_KINDS else {}
        ours = layer(kind, torch.float32)
        theirs = getattr(timm_layers, f"EvoNorm2d{kind}")(C, eps=1e-5, **kw)
        theirs.load_state_dict(ours.state_dict(), strict=False)
        for training in (True, False):
            torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x))
        if kind in B_KINDS:
            torch.testing.assert_close(ours.running_var, theirs.running_var)
        if kind in ("S0", "S1"):
            plain = getattr(timm_layers, f"EvoNorm2d{kind}a")(C, groups=G, eps=1e-5, apply_act=False)
            torch.testing.assert_close(EvoNorm2dS0(C, G, apply_act=False, keep_norm=True)(x), plain(x))


# ---- arguments


def test_parameters_and_buffers():
    for kind in KINDS:
        module = make_evonorm(kind, 32)
        learned = {"weight", "bias", "v"} if kind in ("B0", "S0") else {"weight", "bias"}
        assert dict(module.named_parameters()).keys() == learned
        assert (module.v is None) == (kind not in ("B0", "S0"))
        buffers = {"running_var", "num_batches_tracked"} if kind in B_KINDS else set()
        assert dict(module.named_buffers()).keys() == buffers
        assert torch.equal(module.weight, torch.ones(32))
        assert torch.equal(module.bias, torch.zeros(32))
        if module.v is not None:
            assert torch.equal(module.v, torch.ones(32))


@pytest.mark.parametrize("kind", KINDS)
def test_without_activation_only_the_affine_map_is_left(kind):
    module = layer(kind, apply_act=False)
    x = images()
    expected = module.weight.view(1, C, 1, 1) * x + module.bias.view(1, C, 1, 1)
    # A kernel may fuse product and sum.
    torch.testing.assert_close(module(x), expected, rtol=1e-14, atol=1e-14)
    if kind in B_KINDS:
        assert torch.equal(module.running_var, torch.ones(C, dtype=torch.float64))
        assert module.num_batches_tracked == 0
        module(x[:1, :, :1, :1])


@pytest.mark.parametrize("kind", S_KINDS)
def test_keep_norm(kind):
    x = images()
    groups = x.numpy().reshape(4, G, -1)
    moment = (groups**2).mean(2) if kind == "S2" else groups.var(2)
    root = torch.from_numpy(np.sqrt(moment + 1e-5).repeat(C // G, 1))[..., None, None]
    module = layer(kind, apply_act=False, keep_norm=True)
    expected = module.weight.view(1, C, 1, 1) * x / root + module.bias.view(1, C, 1, 1)
    torch.testing.assert_close(module(x), expected)
    assert torch.equal(layer(kind, keep_norm=True)(x), layer(kind)(x))


def test_groups():
    assert EvoNorm2dS0(64).groups == 32
    assert EvoNorm2dS0(64, group_size=16).groups == 4
    x = images()
    assert torch.equal(EvoNorm2dS1(C, group_size=2)(x.float()), EvoNorm2dS1(C, groups=3)(x.float()))
    with pytest.raises(ValueError, match=r"groups must divide num_features = 16, got 32"):
        EvoNorm2dS0(16)
    with pytest.raises(ValueError, match=r"group_size must divide num_features = 16, got 5"):
        EvoNorm2dS1(16, group_size=5)
    with pytest.raises(ValueError, match=r"groups or group_size, not both"):
        EvoNorm2dS2(16, groups=4, group_size=4)


@pytest.mark.parametrize(
    ("cls", "kw", "message"),
    [
        (EvoNorm2dB0, {"num_features": 0}, "num_features must be an integer >= 1"),
        (EvoNorm2dB1, {"num_features": 4, "eps": -1e-5}, "eps must be a number >= 0"),
        (EvoNorm2dB2, {"num_features": 4, "momentum": 1.5}, r"momentum must be a number in \[0, 1\]"),
        (EvoNorm2dS0, {"num_features": 4, "groups": 0}, "groups must be an integer >= 1"),
        (EvoNorm2dS1, {"num_features": 4, "group_size": 0}, "group_size must be an integer >= 1"),
        (EvoNorm2dS2, {"num_features": 4.0}, "num_features must be an integer"),
    ],
)
def test_bad_arguments(cls, kw, message):
    with pytest.raises(ValueError, match=message):
        cls(**kw)


def test_make_evonorm():
    assert isinstance(make_evonorm("S2", 8, groups=2), EvoNorm2dS2)
    with pytest.raises(ValueError, match=r"kind must be one of 'B0', .*got 'b0'. Did you mean 'B0'"):
        make_evonorm("b0", 8)
    with pytest.raises(TypeError):
        make_evonorm("B0", 8, groups=2)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_inputs(kind):
    module = layer(kind, torch.float32)
    with pytest.raises(ValueError, match=r"\(N, 6, H, W\), got \(4, 6, 3\)"):
        module(torch.zeros(4, 6, 3))
    with pytest.raises(ValueError, match=r"\(N, 6, H, W\), got \(4, 5, 3, 3\)"):
        module(torch.zeros(4, 5, 3, 3))
    with pytest.raises(TypeError, match=r"floating tensor, got torch.int64"):
        module(torch.zeros(4, 6, 3, 3, dtype=torch.long))


# ---- edges


@pytest.mark.parametrize("kind", B_KINDS)
def test_a_single_value_per_channel_cannot_be_trained_on(kind):
    module = layer(kind)
    with pytest.raises(ValueError, match=r"N\*H\*W > 1 in training"):
        module(images(n=1, h=1, w=1))
    assert module.num_batches_tracked == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert module.eval()(images(n=1, h=1, w=1)).isfinite().all()


@pytest.mark.parametrize(("kind", "kw"), [("B0", {}), ("S0", {"groups": C}), ("S1", {"groups": C})])
def test_a_variance_of_one_element_warns_once_per_instance(kind, kw):
    for _ in range(2):
        module = layer(kind, **kw)
        with pytest.warns(UserWarning, match="single element"):
            assert module(images(h=1, w=1)).isfinite().all()
        module(images(h=1, w=1))


@pytest.mark.parametrize(("kind", "kw"), [("B1", {}), ("B2", {}), ("S2", {"groups": C}), ("S0", {})])
def test_no_warning_where_nothing_degenerates(kind, kw):
    layer(kind, **kw)(images(h=1, w=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_constant_input_is_finite_with_its_gradient(kind, value):
    module = layer(kind)
    x = torch.full((4, C, 3, 2), value, dtype=torch.float64, requires_grad=True)
    y = module(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_constant_input_is_amplified_by_s0():
    module = EvoNorm2dS0(C, groups=G).double()
    y = module(torch.full((2, C, 3, 2), 3.0, dtype=torch.float64))
    expected = 3 / (1 + np.exp(-3)) / np.sqrt(1e-5)
    torch.testing.assert_close(y, torch.full_like(y, expected))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(B_KINDS), st.integers(0, 10_000), st.floats(-30, 30), st.floats(0.01, 100))
def test_b_series_is_bounded_by_the_batch_std(kind, seed, shift, scale):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, 2, 2, generator=g, dtype=torch.float64) * scale + shift
    y = make_evonorm(kind, 2).double()(x)
    left = np.sqrt(x.numpy().var(axis=(0, 2, 3), keepdims=True) + 1e-5)
    assert (y.detach().abs().numpy() <= np.abs(x.numpy() / left) * (1 + 1e-9)).all()  # shift >> scale cancels


# ---- torch


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_use_float32_statistics(kind, dtype):
    module = layer(kind, torch.float32)
    x = images(scale=300, shift=200, dtype=dtype)  # squares overflow float16
    reference = layer(kind, torch.float32)(x.float())
    y = module(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, reference.to(dtype))
    half = copy.deepcopy(module).to(dtype)
    assert half(x).dtype == dtype
    assert half(x).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind):
    net = nn.Sequential(nn.Conv2d(2, C, 3), layer(kind, torch.float32))
    x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), copy.deepcopy(net)(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_stacked_modules_equals_the_loop(kind):
    modules = [layer(kind) for _ in range(3)]
    for i, module in enumerate(modules):
        with torch.no_grad():
            module.weight.mul_(i + 1)
    x = torch.stack([images() + i for i in range(3)])
    parameters, buffers = torch.func.stack_module_state(modules)

    def call(p, b, x):
        return torch.func.functional_call(modules[0], (p, b), (x,))

    stacked = torch.vmap(call)(parameters, buffers, x)
    torch.testing.assert_close(stacked, torch.stack([m(xi) for m, xi in zip(modules, x, strict=True)]))
    if kind in B_KINDS:
        torch.testing.assert_close(buffers["running_var"], torch.stack([m.running_var for m in modules]))


@pytest.mark.parametrize("kind", ["B0", "B1", "S0", "S2"])
def test_compiled_equals_eager(kind):
    module = layer(kind)
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")
    x = images().requires_grad_()
    z = images().requires_grad_()
    y = module(x)
    torch.testing.assert_close(compiled(z), y)
    if kind in B_KINDS:
        torch.testing.assert_close(compiled.running_var, module.running_var)
    y.square().sum().backward()
    compiled(z).square().sum().backward()
    torch.testing.assert_close(z.grad, x.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trip(kind):
    module, other = layer(kind), layer(kind)
    for _ in range(3):
        module(images() * 3)
    with torch.no_grad():
        module.weight.mul_(2)
    other.load_state_dict(module.state_dict())
    assert torch.equal(module.eval()(images()), other.eval()(images()))


def test_repr_names_what_differs():
    assert repr(EvoNorm2dB1(8, momentum=0.2)) == "EvoNorm2dB1(8, eps=1e-05, apply_act=True, momentum=0.2)"
    text = repr(EvoNorm2dS1(8, groups=4, keep_norm=True))
    assert text == "EvoNorm2dS1(8, eps=1e-05, apply_act=True, groups=4, keep_norm=True)"


def test_device_and_dtype():
    module = EvoNorm2dB2(4, dtype=torch.float64)
    assert module.weight.dtype == module.running_var.dtype == torch.float64
    assert EvoNorm2dS0(4, groups=2, device="meta").v.device.type == "meta"


def test_examples_and_exports():
    assert doctest.testmod(evonorm).failed == 0
    for name in evonorm.__all__:
        assert getattr(normviz.norms, name) is getattr(evonorm, name)
