import copy
import io
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from normviz import norms
from normviz.norms import (
    NORM_NAMES,
    BatchNorm,
    ChannelsLast,
    GroupNorm,
    RMSNorm,
    baselines,
    factory,
    make_norm,
)

compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int, **kwargs: object) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, **kwargs)


def randomise(layer: nn.Module) -> nn.Module:
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


# ---------------------------------------------------------------------------------------------------- batch norm


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(9, 4), (3, 5, 4), (2, 3, 2, 4)])
def test_batch_norm_equals_torch_over_the_rows(shape: tuple[int, ...], affine: bool) -> None:
    ours = randomise(BatchNorm(4, eps=1e-3, momentum=0.3, affine=affine))
    theirs = nn.BatchNorm1d(4, 1e-3, 0.3, affine).double()
    theirs.load_state_dict(ours.state_dict())  # the same names
    for _ in range(3):
        x, dy = (3 + 2 * randn(*shape)).requires_grad_(), randn(*shape)
        y, wanted = ours(x), theirs(x.reshape(-1, 4)).reshape(shape)
        torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)
        grads, expected = (
            torch.autograd.grad(out, (x, *layer.parameters()), dy)
            for out, layer in ((y, ours), (wanted, theirs))
        )
        for a, b in zip(grads, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        for name, buffer in theirs.named_buffers():
            torch.testing.assert_close(ours.get_buffer(name), buffer, rtol=0, atol=1e-12)
    ours.eval()
    torch.testing.assert_close(ours(x), theirs.eval()(x.reshape(-1, 4)).reshape(shape), rtol=0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), batch_first=st.booleans(), value=st.sampled_from([-3.0, 1e8, float("nan")]))
def test_masked_batch_norm_is_batch_norm_of_the_real_rows(seed: int, batch_first: bool, value: float) -> None:
    torch.manual_seed(seed)
    ours = randomise(BatchNorm(4, batch_first=batch_first))
    theirs = nn.BatchNorm1d(4).double()
    theirs.load_state_dict(ours.state_dict())
    x = 2 + randn(3, 5, 4)
    pad = torch.rand(3, 5) < 0.5
    pad[0, :2] = False
    x[pad] = value
    y = ours(x, pad) if batch_first else ours(x.transpose(0, 1), pad).transpose(0, 1)
    torch.testing.assert_close(y[~pad], theirs(x[~pad]), rtol=1e-11, atol=1e-11)
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)


def test_masked_batch_norm_gradcheck() -> None:
    layer = randomise(BatchNorm(3))
    pad = torch.tensor([[False, True, False, False], [False, False, True, True]])
    assert torch.autograd.gradcheck(lambda x: layer(x, pad), (randn(2, 4, 3, requires_grad=True),))


def test_batch_norm_eval_ignores_the_mask_and_scale_shift_is_the_layer() -> None:
    layer = randomise(BatchNorm(4))
    x = randn(3, 5, 4)
    layer(x)
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    y = layer(x)
    assert torch.equal(layer(x, torch.ones(3, 5, dtype=torch.bool)), y)
    assert all(torch.equal(v, layer.state_dict()[k]) for k, v in before.items())
    scale, shift = layer.eval_scale_shift()
    torch.testing.assert_close(x * scale + shift, y)
    assert layer(x[:0]).shape == (0, 5, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_batch_norm_half_types(dtype: torch.dtype) -> None:
    x = (300 * torch.randn(64, 4)).to(dtype)
    layer, reference = BatchNorm(4), nn.BatchNorm1d(4)
    y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, reference(x.float()).to(dtype))
    torch.testing.assert_close(layer.running_var, reference.running_var)


def test_update_bn_averages_over_all_batches() -> None:
    model = nn.Sequential(nn.Linear(3, 4), BatchNorm(4))
    batches = [torch.randn(6, 3) for _ in range(3)]
    torch.optim.swa_utils.update_bn(batches, model)
    outputs = [model[0](x).detach() for x in batches]
    torch.testing.assert_close(model[1].running_mean, torch.stack([y.mean(0) for y in outputs]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([y.var(0) for y in outputs]).mean(0))


def test_batch_norm_errors() -> None:
    layer = BatchNorm(4)
    x = torch.ones(3, 5, 4)
    for bad in (torch.zeros(4), torch.zeros(3, 5)):
        with pytest.raises(ValueError, match="x must"):
            layer(bad)
    for bad in (torch.zeros(1, 4), torch.zeros(0, 4)):
        with pytest.raises(ValueError, match="at least 2 rows"):
            layer(bad)
    for real in (0, 1):
        mask = torch.ones(3, 5, dtype=torch.bool)
        mask[0, :real] = False
        with pytest.raises(ValueError, match="at least 2 rows"):
            layer(x, mask)
    with pytest.raises(ValueError, match=r"pad_mask must have shape \(3, 5\)"):
        layer(x, torch.zeros(5, 3, dtype=torch.bool))
    with pytest.raises(TypeError, match="pad_mask"):
        layer(x, torch.zeros(3, 5))
    with pytest.raises(TypeError, match="floating"):
        layer(torch.zeros(3, 4, dtype=torch.long))
    assert layer.num_batches_tracked == 0
    for options in ({"momentum": 1.5}, {"momentum": None}, {"eps": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            BatchNorm(4, **options)
    with pytest.raises(ValueError, match="num_features"):
        BatchNorm(0)


# --------------------------------------------------------------------------------------------------- rms and group


@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm_in_numpy(affine: bool) -> None:
    layer = randomise(RMSNorm(6, eps=1e-3, affine=affine))
    x = randn(2, 3, 6)
    X = x.numpy()
    expected = X / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(
        layer(x).detach(), expected * (layer.weight.detach().numpy() if affine else 1), rtol=1e-12
    )


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_group_norm_in_numpy(groups: int, affine: bool) -> None:
    layer = randomise(GroupNorm(6, groups, eps=1e-3, affine=affine))
    x = randn(2, 3, 6)
    expected = np.zeros((2, 3, 6))
    for index in np.ndindex(2, 3):
        for part in np.split(np.arange(6), groups):
            token = x[index].numpy()[part]
            expected[(*index, part)] = (token - token.mean()) / np.sqrt(token.var() + 1e-3)
    if affine:
        expected = layer.weight.detach().numpy() * expected + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach(), expected, rtol=1e-11, atol=1e-12)


def test_group_norm_equals_torch_on_tokens() -> None:
    ours, theirs = randomise(GroupNorm(6, 2)), nn.GroupNorm(2, 6).double()
    theirs.load_state_dict(ours.state_dict())
    x = randn(5, 6)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("cls", [RMSNorm, GroupNorm])
def test_per_token_norm_errors_and_half(cls: type[nn.Module]) -> None:
    layer = cls(4) if cls is RMSNorm else cls(4, 2)
    for bad in (torch.zeros(3, 5), torch.zeros(())):
        with pytest.raises(ValueError, match="x must"):
            layer(bad)
    with pytest.raises(TypeError, match="floating"):
        layer(torch.zeros(3, 4, dtype=torch.long))
    for options in ({"num_features": 0}, {"num_features": 4, "eps": -1.0}):
        with pytest.raises(ValueError, match=list(options)[-1]):
            cls(**options)
    half = torch.tensor([[300.0, -300.0, 300.0, -300.0]], dtype=torch.float16)
    assert torch.equal(layer(half), half.sign())
    assert layer(torch.zeros(0, 4)).shape == (0, 4)


def test_group_norm_groups() -> None:
    with pytest.raises(ValueError, match="groups must divide num_features = 6, got 4"):
        GroupNorm(6)
    with pytest.warns(UserWarning, match="single channel"):
        layer = randomise(GroupNorm(3, 3))
    torch.testing.assert_close(layer(randn(2, 3)), layer.bias.expand(2, 3))


# ---------------------------------------------------------------------------------------------------- channels last


def test_channels_last_batch_norm_is_batch_norm_2d() -> None:
    ours, theirs = ChannelsLast(BatchNorm(3)).double(), nn.BatchNorm2d(3).double()
    x = randn(2, 3, 4, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.norm.running_var, theirs.running_var)
    flat = nn.BatchNorm1d(3).double()
    for small in (randn(6, 3), randn(2, 3, 7)):
        torch.testing.assert_close(ChannelsLast(BatchNorm(3).double())(small), flat(small))
    with pytest.raises(ValueError, match="x must"):
        ours(torch.zeros(3))


@pytest.mark.parametrize("name", NORM_NAMES)
def test_channels_last_takes_every_norm_pixel_by_pixel(name: str) -> None:
    layer = ChannelsLast(randomise(make_norm(name, 4, **({"groups": 2} if name == "group" else {}))))
    x = randn(2, 4, 3, 5)
    tokens = copy.deepcopy(layer.norm)(x.permute(0, 2, 3, 1).reshape(30, 4))
    torch.testing.assert_close(layer(x), tokens.reshape(2, 3, 5, 4).permute(0, 3, 1, 2))


# -------------------------------------------------------------------------------------------------------- factory

OPTIONS = {
    "none": {},
    "batch": {"eps": 1e-3, "momentum": 0.2, "affine": False, "batch_first": False},
    "layer": {"eps": 1e-3, "bias": False, "backend": "manual"},
    "rms": {"eps": 1e-3, "affine": False},
    "group": {"groups": 2, "eps": 1e-3, "affine": False},
    "power_v": {"momentum": 0.2, "group_scaling": True, "groups": 2, "check_finite": True},
    "power": {"warmup_iters": 50, "alpha_fwd": 0.8, "alpha_bkw": 0.7, "groups": 2, "mode": "paper"},
}


@pytest.mark.parametrize("name", NORM_NAMES)
def test_make_norm_builds_an_interchangeable_layer(name: str) -> None:
    for options in ({}, OPTIONS.get(name, {})):
        layer = partial(make_norm, name, **options)(8)
        for shape in ((6, 8), (2, 3, 8)):
            x = torch.randn(shape)
            for train in (True, False):
                assert layer.train(train)(x).shape == shape
        for key, value in options.items():
            if key not in {"bias", "affine"}:
                assert getattr(layer, key) == value
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        other = make_norm(name, 8, **options)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(other.eval()(x), layer(x))


def test_make_norm_types_and_defaults() -> None:
    assert set(NORM_NAMES) >= {"none", "batch", "layer", "rms", "group", "power_v", "power"}
    assert isinstance(make_norm("none", 8), nn.Identity)
    types = {
        "batch": BatchNorm,
        "layer": norms.LayerNorm,
        "rms": RMSNorm,
        "group": GroupNorm,
        "power_v": norms.PowerNormV,
        "power": norms.PowerNorm,
    }
    for name, kind in types.items():
        assert type(make_norm(name, 8)) is kind
    assert make_norm("layer", 8).backend == "torch"
    assert make_norm("layer", 8, affine=False).weight is None
    assert all(make_norm(name, 8).batch_first for name in ("batch", "power_v", "power"))
    assert not make_norm("power", 8, batch_first=False).batch_first


def test_make_norm_errors() -> None:
    for name, hit in (
        ("powr", "power"),
        ("Layer", "layer"),
        ("batchnorm", "batch"),
        ("", "'rms'"),
        (None, "'none'"),
    ):
        with pytest.raises(ValueError, match=hit):
            make_norm(name, 8)
    for name, option in (("none", "eps"), ("layer", "groups"), ("rms", "bias"), ("power", "momentum")):
        with pytest.raises(TypeError, match=f"'{name}' has no option '{option}'"):
            make_norm(name, 8, **{option: 1})
    with pytest.raises(TypeError, match=r"'warmup'.*warmup_iters"):
        make_norm("power", 8, warmup=3)
    with pytest.raises(ValueError, match="alpha_fwd"):
        make_norm("power", 8, alpha_fwd=2.0)
    with pytest.raises(ValueError, match="groups"):
        make_norm("group", 6)
    for size in (0, 2.0, "8"):
        with pytest.raises(ValueError, match="num_features"):
            make_norm("none", size)


# ------------------------------------------------------------------------------------------------ vmap and compile


@compiles
@pytest.mark.parametrize("name", ["batch", "rms", "group"])
def test_vmap_and_compile(name: str) -> None:
    members = [randomise(make_norm(name, 4, **({"groups": 2} if name == "group" else {}))) for _ in range(3)]
    singles = copy.deepcopy(members)
    parameters, buffers = stack_module_state(members)
    parameters = {k: v.detach() for k, v in parameters.items()}
    pad = torch.tensor([[False, False, True], [False, False, False]])
    extra = (pad,) if name == "batch" else ()

    def loss(
        parameters: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor], x: torch.Tensor
    ) -> torch.Tensor:
        return functional_call(members[0], (parameters, buffers), (x, *extra)).pow(3).sum()

    eager = copy.deepcopy(singles[0])
    layer = copy.deepcopy(singles[0])
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = randn(3, 2, 3, 4)
        gradients = vmap(grad(loss), in_dims=(0, 0 if buffers else None, 0))(parameters, buffers, x)
        for i, member in enumerate(singles):
            member.zero_grad()
            member(x[i], *extra).pow(3).sum().backward()
            for key, parameter in member.named_parameters():
                torch.testing.assert_close(gradients[key][i], parameter.grad)
            for key, buffer in member.named_buffers():
                torch.testing.assert_close(buffers[key][i], buffer)
        torch.testing.assert_close(compiled(x[0], *extra), eager(x[0], *extra))
        for key, buffer in eager.named_buffers():
            torch.testing.assert_close(layer.get_buffer(key), buffer)


def test_every_name_is_exported() -> None:
    for module in (baselines, factory):
        assert all(getattr(norms, name) is getattr(module, name) for name in module.__all__)
        assert set(module.__all__) <= set(norms.__all__)
