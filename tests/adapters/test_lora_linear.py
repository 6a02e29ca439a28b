"""The layer: its starts, its steps, merging, exporting, saving."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.adapters import LoRALinear, corda_init, lora_init, pissa_init

INITS = ("lora", "pissa", "corda_kpm", "corda_ipm")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def base_of(dtype: torch.dtype = torch.float64, bias: bool = True) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(7, 5, bias=bias, dtype=torch.float64).to(dtype)


def layer_of(init: str, base: nn.Linear, **options) -> LoRALinear:
    x = randn(30, 7, seed=2) * torch.linspace(0.2, 3, 7)
    covariance = x.mT @ x if init.startswith("corda") else None
    return LoRALinear(base, 3, **{"alpha": 2.0, "init": init, "covariance": covariance, **options})


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("alpha", [None, 0.5, 16.0])
@pytest.mark.parametrize("sigma_fuse", ["UV", "U", "V"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_check_1_output_at_the_start(
    init: str, alpha: float | None, sigma_fuse: str, dtype, atol: float
) -> None:
    base = base_of(dtype)
    before = copy.deepcopy(base.state_dict())
    layer = layer_of(init, base, alpha=alpha, sigma_fuse=sigma_fuse)
    x = randn(4, 2, 7).to(dtype)
    assert layer.scaling == (1.0 if alpha is None else alpha / 3)
    assert float((layer(x) - base(x)).detach().abs().max()) < atol
    assert all(torch.equal(base.state_dict()[name], value) for name, value in before.items())
    assert (layer.lora_A.shape, layer.lora_B.shape) == ((3, 7), (5, 3))
    assert {t.dtype for t in layer.state_dict().values() if isinstance(t, Tensor)} == {dtype}


def test_factors_are_those_of_the_functions() -> None:
    base, x = base_of(), randn(30, 7, seed=2)
    C = x.mT @ x
    generator = torch.Generator
    cases = {
        "lora": (
            LoRALinear(base, 3, 2.0, generator=generator().manual_seed(5)),
            lora_init(base.weight, 3, generator().manual_seed(5)),
        ),
        "pissa": (LoRALinear(base, 3, 2.0, "pissa"), pissa_init(base.weight, 3, 2.0)),
        "corda_kpm": (
            LoRALinear(base, 3, 2.0, "corda_kpm", covariance=C, sigma_fuse="V", damp=0.1),
            corda_init(base.weight, C, 3, "kpm", 2.0, "V", 0.1),
        ),
    }
    for layer, (A, B, W_res) in cases.values():
        for mine, wanted in (
            (layer.lora_A, A),
            (layer.lora_A0, A),
            (layer.lora_B, B),
            (layer.lora_B0, B),
            (layer.weight, W_res),
        ):
            assert torch.equal(mine, wanted)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("bias", [False, True])
def test_twenty_steps_of_gradient_descent_equal_numpy(init: str, bias: bool) -> None:
    layer = layer_of(init, base_of(bias=bias))
    x, y, s, lr = randn(6, 7, seed=3), randn(6, 5, seed=4), 2 / 3, 0.001
    A, B, W = (t.detach().numpy().copy() for t in (layer.lora_A, layer.lora_B, layer.weight))
    b = layer.bias.numpy().copy() if bias else np.zeros(5)
    frozen = layer.weight.clone()
    optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=lr)
    for _ in range(20):
        optimizer.zero_grad()
        ((layer(x) - y).square().sum() / 2).backward()
        optimizer.step()
        dA, dB = np.zeros_like(A), np.zeros_like(B)
        for token, target in zip(x.numpy(), y.numpy(), strict=True):
            residual = W @ token + s * B @ (A @ token) + b - target
            dB += s * np.outer(residual, A @ token)
            dA += s * np.outer(B.T @ residual, token)
        A, B = A - lr * dA, B - lr * dB
    np.testing.assert_allclose(layer.lora_A.detach(), A, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.lora_B.detach(), B, rtol=1e-10, atol=1e-12)
    assert torch.equal(layer.weight, frozen), "check 8: W_res stays bit for bit"
    assert float((layer.lora_B - layer.lora_B0).detach().abs().max()) > 1e-3

    merged = layer.merge()
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged(x), layer(x), rtol=0, atol=1e-12)
    np.testing.assert_allclose(layer.delta_weight().detach(), s * B @ A, rtol=1e-9, atol=1e-12)
    exported_A, exported_B = layer.export_lora()
    assert (exported_A.shape, exported_B.shape) == ((6, 7), (5, 6))
    original = base_of(bias=bias).weight
    torch.testing.assert_close(original + exported_B @ exported_A, merged.weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("init", INITS)
def test_check_10_gradients_at_the_start(init: str) -> None:
    layer = layer_of(init, base_of())
    (layer(randn(6, 7)) - randn(6, 5, seed=9)).square().sum().backward()
    assert float(layer.lora_B.grad.abs().max()) > 1e-4
    if init == "lora":
        assert not layer.lora_A.grad.any()
    else:
        assert float(layer.lora_A.grad.abs().max()) > 1e-4


def test_gradcheck() -> None:
    layer = layer_of("pissa", base_of())
    names = [name for name, _ in layer.named_parameters()]

    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(forward, (randn(2, 7).requires_grad_(), *layer.parameters()))


@pytest.mark.parametrize("loaded_init", INITS)
def test_state_round_trips_into_any_init_and_alpha(loaded_init: str) -> None:
    layer = layer_of("corda_kpm", base_of(), alpha=7.0)
    with torch.no_grad():
        layer.lora_B.add_(randn(5, 3))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = layer_of(loaded_init, nn.Linear(7, 5, dtype=torch.float64), alpha=0.3)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.scaling == layer.scaling == 7 / 3
    x = randn(4, 7)
    torch.testing.assert_close(other(x), layer(x), rtol=1e-12, atol=1e-14)
    for mine, wanted in zip(other.export_lora(), layer.export_lora(), strict=True):
        assert torch.equal(mine, wanted)
    assert {name for name in layer.state_dict() if name != "_extra_state"} == {
        "lora_A",
        "lora_B",
        "weight",
        "bias",
        "lora_A0",
        "lora_B0",
    }


def test_dropout_is_on_the_adapters_path_in_training_only() -> None:
    layer = layer_of("pissa", base_of(), dropout=0.5)
    x = randn(2000, 7)
    clean = layer.eval()(x)
    torch.manual_seed(0)
    noisy = layer.train()(x)
    frozen = nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(
        clean, nn.functional.linear(x, layer.weight + layer.delta_weight(), layer.bias)
    )
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(noisy - frozen, dropped @ layer.delta_weight().mT)
    assert float((noisy - clean).detach().abs().max()) > 0.1


def test_half_types_are_computed_in_float32() -> None:
    base = base_of(torch.bfloat16)
    for init in INITS:
        layer = layer_of(init, base)
        assert layer.lora_A.dtype == layer.weight.dtype == torch.bfloat16
        rebuilt = layer.weight.double() + layer.scaling * layer.lora_B.double() @ layer.lora_A.double()
        error = (rebuilt - base.weight.double()).detach().abs().max()
        assert float(error) <= 2**-8 * float(layer.weight.double().abs().max())
        merged = layer.merge()
        assert merged.weight.dtype == torch.bfloat16
        torch.testing.assert_close(merged.weight, base.weight, rtol=2**-6, atol=2**-7)


def test_mode_and_randomness_and_repr() -> None:
    base = base_of().eval()
    layer = LoRALinear(base, 2, alpha=3, dropout=0.1)
    assert not layer.training
    assert not layer.merge().training
    assert repr(layer) == "LoRALinear(7, 5, r=2, scaling=1.5, bias=True, dropout=0.1)"
    state = torch.get_rng_state()
    LoRALinear(base, 2, init="pissa").merge()
    assert torch.equal(torch.get_rng_state(), state), "neither PiSSA nor merging draws"
    assert LoRALinear(base_of(bias=False), 2).bias is None
    assert LoRALinear(base_of(bias=False), 2).merge().bias is None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"r": 0}, "r"),
        ({"r": 6}, "r"),
        ({"r": 2.0}, "r"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"init": "kpm"}, "init"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"sigma_fuse": "W"}, "sigma_fuse"),
        ({"damp": 0.0}, "damp"),
        ({"init": "corda_kpm"}, "covariance"),
        ({"init": "corda_ipm", "covariance": torch.eye(5)}, "covariance"),
        ({"init": "corda_ipm", "covariance": torch.full((7, 7), torch.inf)}, "covariance"),
        ({"init": "corda_ipm", "covariance": torch.zeros(7, 7)}, "covariance"),
    ],
)
def test_refusals(options: dict, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must"):
        LoRALinear(base_of(), **{"r": 2, **options})


def test_other_bases_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^base must be an nn.Linear, got Conv1d"):
        LoRALinear(nn.Conv1d(3, 3, 1), 2)
    integer = nn.Linear(7, 5)
    integer.weight = nn.Parameter(torch.ones(5, 7, dtype=torch.int64), requires_grad=False)
    with pytest.raises(TypeError, match=r"^base.weight must"):
        LoRALinear(integer, 2)
