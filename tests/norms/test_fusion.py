import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normviz import norms
from normviz.norms import BatchNorm, FoldableNorm, PowerNorm, PowerNormV, fuse_into_linear, fusion, power_norm

FOLDABLE = (
    lambda C, affine: PowerNorm(C, group_scaling=False, affine=affine, warmup_iters=2),
    lambda C, affine: PowerNormV(C, affine=affine),
    lambda C, affine: BatchNorm(C, affine=affine),
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def trained(norm: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Random parameters and running statistics far from their initial values."""
    norm = norm.to(dtype)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    for scale in (0.3, 2.0, 5.0):
        norm(scale * torch.randn(9, norm.num_features, dtype=dtype) + 1)
    return norm


@settings(max_examples=20, deadline=None)
@given(
    make=st.sampled_from(FOLDABLE),
    features=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    bias=st.booleans(),
    affine=st.booleans(),
    norm_first=st.booleans(),
)
def test_fused_is_second_of_first(make, features, bias, affine, norm_first) -> None:
    linear = nn.Linear(*features, bias=bias).double()
    norm = trained(make(features[0 if norm_first else 1], affine))
    first, second = (norm, linear) if norm_first else (linear, norm)
    fused = fuse_into_linear(first, second)
    assert type(fused) is nn.Linear
    assert fused.bias is not None
    assert (fused.in_features, fused.out_features) == features
    x = torch.randn(5, 3, features[0], dtype=torch.float64)
    norm.eval()
    torch.testing.assert_close(fused(x), second(first(x)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm_first", [True, False])
def test_closed_form_of_the_weights(norm_first: bool) -> None:
    norm, linear = trained(PowerNormV(4)), nn.Linear(4, 4).double()
    fused = fuse_into_linear(*((norm, linear) if norm_first else (linear, norm)))
    for o in range(4):
        shift = linear.bias[o] if norm_first else norm.bias[o]
        for i in range(4):
            c = i if norm_first else o
            scale = norm.weight[c] / (norm.running_phi[c] + 1e-5) ** 0.5
            torch.testing.assert_close(fused.weight[o, i], linear.weight[o, i] * scale)
            if norm_first:
                shift = shift + linear.weight[o, i] * norm.bias[i]
        if not norm_first:
            shift = shift + linear.bias[o] * norm.weight[o] / (norm.running_phi[o] + 1e-5) ** 0.5
        torch.testing.assert_close(fused.bias[o], shift)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_arguments_and_random_state_stay_untouched(train: bool, norm_first: bool) -> None:
    norm, linear = (
        trained(PowerNorm(4, group_scaling=False)).train(train),
        nn.Linear(4, 4, bias=False).double().train(train),
    )
    before = copy.deepcopy((norm.state_dict(), linear.state_dict()))
    generator = torch.get_rng_state()
    fused = fuse_into_linear(*((norm, linear) if norm_first else (linear, norm)))
    assert torch.equal(torch.get_rng_state(), generator)
    assert norm.training is train
    assert linear.training is train
    assert linear.bias is None
    with torch.no_grad():
        fused.weight.fill_(7.0)
        fused.bias.fill_(7.0)
    for was, now in zip(before, (norm.state_dict(), linear.state_dict()), strict=True):
        assert all(torch.equal(was[k], now[k]) for k in was)
    assert all(p.requires_grad and p.is_leaf for p in fused.parameters())


@pytest.mark.parametrize("norm_dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("norm_first", [True, False])
def test_dtype_is_the_linears(dtype: torch.dtype, norm_dtype: torch.dtype, norm_first: bool) -> None:
    norm, linear = trained(PowerNormV(4), norm_dtype), nn.Linear(4, 4).to(dtype)
    fused = fuse_into_linear(*((norm, linear) if norm_first else (linear, norm)))
    assert {p.dtype for p in fused.parameters()} == {dtype}
    assert {p.device for p in fused.parameters()} == {linear.weight.device}
    norm64, linear64 = copy.deepcopy(norm).double().eval(), copy.deepcopy(linear).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    wanted = linear64(norm64(x)) if norm_first else norm64(linear64(x))
    loose = torch.bfloat16 in (dtype, norm_dtype)
    tolerance = 0.05 if loose else 1e-5 if torch.float32 in (dtype, norm_dtype) else 1e-10
    torch.testing.assert_close(copy.deepcopy(fused).double()(x), wanted, rtol=tolerance, atol=tolerance)


def test_fused_linear_saves_and_trains() -> None:
    fused = fuse_into_linear(PowerNormV(4), nn.Linear(4, 3))
    file = io.BytesIO()
    torch.save(fused.state_dict(), file)
    file.seek(0)
    nn.Linear(4, 3).load_state_dict(torch.load(file, weights_only=True))
    fused(torch.randn(2, 4)).sum().backward()
    assert fused.weight.grad is not None
    assert repr(fused) == "Linear(in_features=4, out_features=3, bias=True)"


@pytest.mark.parametrize("cls", [PowerNorm, PowerNormV])
def test_group_scaling_cannot_be_folded(cls: type[nn.Module]) -> None:
    norm = cls(4, group_scaling=True)
    for pair in ((norm, nn.Linear(4, 2)), (nn.Linear(2, 4), norm)):
        with pytest.raises(ValueError, match="group_scaling"):
            fuse_into_linear(*pair)


@pytest.mark.parametrize("cls", [lambda C: PowerNorm(C, group_scaling=False), PowerNormV, BatchNorm])
def test_sizes_must_fit(cls) -> None:
    with pytest.raises(ValueError, match="in_features = 5"):
        fuse_into_linear(cls(4), nn.Linear(5, 4))
    with pytest.raises(ValueError, match="out_features = 5"):
        fuse_into_linear(nn.Linear(4, 5), cls(4))
    with pytest.raises(ValueError, match="in_features = 4"):
        fuse_into_linear(cls(1), nn.Linear(4, 4))


def test_other_types() -> None:
    norm, linear = PowerNormV(4), nn.Linear(4, 4)
    others = (
        nn.LayerNorm(4),
        nn.BatchNorm1d(4),
        nn.Identity(),
        nn.Conv1d(4, 4, 1),
        norms.LayerNorm(4),
        None,
        "norm",
    )
    pairs = [(linear, linear), (norm, norm), (norm, PowerNorm(4, group_scaling=False))]
    pairs += [
        pair for other in others for pair in ((other, linear), (linear, other), (norm, other), (other, norm))
    ]
    for first, second in pairs:
        with pytest.raises(TypeError, match=r"nn\.Linear"):
            fuse_into_linear(first, second)


def test_protocol_and_exports() -> None:
    assert isinstance(PowerNorm(4), FoldableNorm)
    assert isinstance(BatchNorm(4), FoldableNorm)
    assert not isinstance(nn.LayerNorm(4), FoldableNorm)
    assert norms.fuse_into_linear is fusion.fuse_into_linear is power_norm.fuse_into_linear
    assert set(fusion.__all__) <= set(norms.__all__)


def test_a_custom_norm_joins_by_the_protocol() -> None:
    class Halve(nn.Module):
        def eval_scale_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full((4,), 0.5), torch.ones(4)

    linear = nn.Linear(4, 3)
    x = torch.randn(2, 4)
    torch.testing.assert_close(fuse_into_linear(Halve(), linear)(x), linear(0.5 * x + 1))
