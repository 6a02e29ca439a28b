"""Attention with adapters, as a function with its own backward and as a layer that trains."""

from __future__ import annotations

import copy
import math
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from normviz.adapters import (
    LoRAAttention,
    LoRALinear,
    LowRankAttentionFunction,
    exp_polynomial,
    feature_rank,
    polynomial_relative_error,
    required_degree,
)
from normviz.adapters.lowrank_attention import CausalLowRankAttentionFunction
from tests.adapters.reference import adapter_gradients, attention_step


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def apply(causal: bool) -> Any:
    return (CausalLowRankAttentionFunction if causal else LowRankAttentionFunction).apply


def exact_attention(q: Tensor, k: Tensor, v: Tensor, tau: float, causal: bool) -> Tensor:
    return nn.functional.scaled_dot_product_attention(q, k, v, scale=tau, is_causal=causal)


# ------------------------------------------------------------------------------------------------ the function


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 2, 17, 90])
@pytest.mark.parametrize("degree", [0, 5, 8])
def test_function_equals_numpy_with_the_polynomials_matrix(causal: bool, length: int, degree: int) -> None:
    q, k, v = (0.4 * randn(length, 3, seed=i) for i in range(3))
    y, coeffs = randn(length, 3, seed=3), exp_polynomial("taylor", degree, 0.0)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    out = apply(causal)(q, k, v, 0.7, coeffs)
    ((out - y).square().sum() / 2).backward()
    step = attention_step(*(t.detach().numpy() for t in (q, k, v, y)), 0.7, coeffs.numpy(), causal)
    np.testing.assert_allclose(out.detach(), step["output"], rtol=1e-11, atol=1e-12)
    for leaf, name in zip(leaves, ("dQ", "dK", "dV"), strict=True):
        np.testing.assert_allclose(leaf.grad, step[name], rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("causal", [False, True])
def test_function_tends_to_exact_attention_for_any_upstream_gradient(causal: bool) -> None:
    q, k, v = (0.5 * randn(2, 3, 40, 2, seed=i).requires_grad_() for i in range(3))
    upstream = randn(2, 3, 40, 2, seed=4)
    wanted = exact_attention(q, k, v, 0.6, causal)
    exact = torch.autograd.grad(wanted, (q, k, v), upstream)
    errors = []
    for degree in (2, 4, 6, 8, 10):
        out = apply(causal)(q, k, v, 0.6, exp_polynomial("taylor", degree, 0.0))
        found = torch.autograd.grad(out, (q, k, v), upstream)
        errors.append(
            max(
                float((a - b).detach().norm() / b.detach().norm())
                for a, b in zip((out, *found), (wanted, *exact), strict=True)
            )
        )
    assert all(b < 0.5 * a for a, b in pairwise(errors)), errors
    assert errors[-1] < 1e-5


def test_second_differentiation_is_of_the_written_backward() -> None:
    q, k, v = (0.4 * randn(6, 2, seed=i) for i in range(3))
    upstream, coeffs, direction = randn(6, 2, seed=3), exp_polynomial("taylor", 6, 0.0), randn(6, 2, seed=4)

    def written_backward(q: Tensor) -> Tensor:
        out = LowRankAttentionFunction.apply(q, k, v, 0.5, coeffs)
        (dq,) = torch.autograd.grad(out, q, upstream, create_graph=True)
        return dq

    (found,) = torch.autograd.grad(written_backward(q.requires_grad_()), q, direction)
    h = 1e-5
    step = [
        (written_backward((q + h * e.reshape(6, 2)).detach().requires_grad_()) * direction).sum()
        - (written_backward((q - h * e.reshape(6, 2)).detach().requires_grad_()) * direction).sum()
        for e in torch.eye(12, dtype=torch.float64)
    ]
    torch.testing.assert_close(
        found, torch.stack(step).reshape(6, 2).detach() / (2 * h), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("causal", [False, True])
def test_function_under_vmap_and_grad(causal: bool) -> None:
    q, k, v = (0.4 * randn(4, 9, 2, seed=i) for i in range(3))
    coeffs = exp_polynomial("chebyshev", 4, 1.0)

    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return apply(causal)(q, k, v, 0.5, coeffs).square().sum()

    together = vmap(grad(loss, argnums=(0, 1, 2)))(q, k, v)
    for i in range(4):
        alone = grad(loss, argnums=(0, 1, 2))(q[i], k[i], v[i])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-11, atol=1e-13)


def test_values_may_have_other_columns_and_half_types() -> None:
    q, k, v = 0.4 * randn(9, 2), 0.4 * randn(9, 2, seed=1), randn(9, 5, seed=2)
    coeffs = exp_polynomial("taylor", 10, 1.0)
    wanted = exact_attention(q, k, v, 0.5, False)
    torch.testing.assert_close(
        LowRankAttentionFunction.apply(q, k, v, 0.5, coeffs), wanted, rtol=1e-8, atol=1e-8
    )
    low = [t.bfloat16().requires_grad_() for t in (q, k, v)]
    out = LowRankAttentionFunction.apply(*low, 0.5, coeffs)
    out.sum().backward()
    assert {out.dtype, *(t.grad.dtype for t in low)} == {torch.bfloat16}
    torch.testing.assert_close(out.double(), wanted, rtol=0.03, atol=0.03)


# ------------------------------------------------------------------------------------------------ the layer


def layer_of(seed: int = 0, size: float = 1.0, **options: Any) -> LoRAAttention:
    torch.manual_seed(seed)
    layer = LoRAAttention(4, **{"num_heads": 2, "r": 2, "alpha": 3.0, **options}).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(size * torch.randn_like(p) / 2)
        for module in layer.modules():
            if isinstance(module, LoRALinear):
                module.weight.copy_(size * torch.randn_like(module.weight) / 2)
    return layer


def weight_of(projection: nn.Module) -> np.ndarray:
    delta = projection.delta_weight() if isinstance(projection, LoRALinear) else 0.0
    return (projection.weight + delta).detach().numpy()


def numpy_layer(
    layer: LoRAAttention, x: np.ndarray, c: np.ndarray, coeffs: np.ndarray | None = None
) -> dict[str, Any]:
    """Output, and gradients of adapters for the upstream gradient c, head by head."""
    projections = {name: getattr(layer, f"{name}_proj") for name in "qkv"}
    grads: dict[str, Any] = {name: [] for name in layer.adapt}
    out = np.zeros_like(x)
    width = layer.embed_dim // layer.num_heads
    to_heads = c @ weight_of(layer.out_proj)
    for n in range(len(x)):
        projected = {name: x[n] @ weight_of(p).T for name, p in projections.items()}
        upstream = {name: np.zeros_like(x[n]) for name in "qkv"}
        joined = np.zeros_like(x[n])
        for h in range(layer.num_heads):
            cut = slice(h * width, (h + 1) * width)
            q, k, v = (projected[name][:, cut] for name in "qkv")
            plain = attention_step(q, k, v, np.zeros_like(v), layer.scale, coeffs, layer.causal)["output"]
            step = attention_step(q, k, v, plain - to_heads[n][:, cut], layer.scale, coeffs, layer.causal)
            joined[:, cut] = step["output"]
            for name in "qkv":
                upstream[name][:, cut] = step[f"d{name.upper()}"]
        out[n] = joined @ weight_of(layer.out_proj).T
        for name in layer.adapt:
            p = projections[name]
            A, B = (t.detach().numpy() for t in (p.lora_A, p.lora_B))
            grads[name].append(adapter_gradients(upstream[name], x[n], A, B, p.scaling))
    return {
        "output": out,
        **{name: [sum(parts) for parts in zip(*g, strict=True)] for name, g in grads.items()},
    }


@pytest.mark.parametrize("method", ["exact", "lowrank"])
@pytest.mark.parametrize("adapt", [("q", "v"), ("q", "k", "v"), ("k",)])
@pytest.mark.parametrize("causal", [False, True])
def test_layer_equals_numpy(method: str, adapt: tuple[str, ...], causal: bool) -> None:
    layer = layer_of(method=method, degree=4, adapt=adapt, causal=causal)
    x, c = randn(2, 18, 4) / 2, randn(2, 18, 4, seed=1)
    out = layer(x)
    out.backward(c)
    coeffs = exp_polynomial("taylor", 4, 0.0).numpy() if method == "lowrank" else None
    expected = numpy_layer(layer, x.numpy(), c.numpy(), coeffs)
    np.testing.assert_allclose(out.detach(), expected["output"], rtol=1e-10, atol=1e-11)
    for name in adapt:
        projection = getattr(layer, f"{name}_proj")
        for p, wanted in zip((projection.lora_A, projection.lora_B), expected[name], strict=True):
            np.testing.assert_allclose(p.grad, wanted, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("method", ["exact", "lowrank"])
def test_twenty_steps_of_gradient_descent_equal_numpy(method: str) -> None:
    layer = layer_of(method=method, degree=3, size=0.6)
    mirror = copy.deepcopy(layer)
    x, y = randn(1, 15, 4) / 2, randn(1, 15, 4, seed=1)
    optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=0.05)
    coeffs = exp_polynomial("taylor", 3, 0.0).numpy() if method == "lowrank" else None
    for _ in range(20):
        optimizer.zero_grad()
        ((layer(x) - y).square().sum() / 2).backward()
        optimizer.step()
        out = numpy_layer(mirror, x.numpy(), np.zeros((1, 15, 4)), coeffs)["output"]
        expected = numpy_layer(mirror, x.numpy(), out - y.numpy(), coeffs)
        with torch.no_grad():
            for name in mirror.adapt:
                projection = getattr(mirror, f"{name}_proj")
                projection.lora_A -= 0.05 * torch.from_numpy(expected[name][0])
                projection.lora_B -= 0.05 * torch.from_numpy(expected[name][1])
    moved = 0.0
    for (name, mine), wanted in zip(layer.named_parameters(), mirror.parameters(), strict=True):
        np.testing.assert_allclose(mine.detach(), wanted.detach(), rtol=1e-9, atol=1e-10, err_msg=name)
        moved += float(
            (mine - layer_of(method=method, degree=3, size=0.6).get_parameter(name)).detach().abs().sum()
        )
    assert moved > 0.1


def test_training_curves_of_both_methods_agree_within_a_percent() -> None:
    teacher = layer_of(size=0.7, adapt=("q", "k", "v"))
    for projection in (teacher.q_proj, teacher.v_proj):
        torch.nn.init.normal_(projection.lora_B, std=0.5)
    curves = {}
    for method in ("exact", "lowrank"):
        layer = layer_of(method=method, size=0.7, adapt=("q", "k", "v"))
        x = randn(1, 200, 4) / 2
        y = teacher(x).detach()
        optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=0.02)
        curves[method] = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = (layer(x) - y).square().mean()
            loss.backward()
            optimizer.step()
            curves[method].append(float(loss.detach()))
        if method == "lowrank":
            assert layer.last_report["eps"] <= 1e-3
    np.testing.assert_allclose(curves["lowrank"], curves["exact"], rtol=0.01)
    assert curves["exact"][-1] < 0.8 * curves["exact"][0]


def test_only_adapters_train_and_children_are_as_documented() -> None:
    layer = LoRAAttention(6, num_heads=3, r=2, alpha=8.0)
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == [
        f"{name}_proj.lora_{factor}" for name in "qv" for factor in "AB"
    ]
    assert type(layer.k_proj) is type(layer.out_proj) is nn.Linear
    assert layer.q_proj.scaling == 4.0
    assert all(module.bias is None for module in layer.children())
    assert layer.scale == 1 / math.sqrt(2)
    assert LoRAAttention(6, adapt=("v", "q", "k")).adapt == ("q", "k", "v")
    assert "adapt=('q', 'v')" in repr(layer)
    assert layer.last_report is None


@pytest.mark.parametrize("method", ["exact", "lowrank"])
def test_check_7_at_the_start_only_B_has_a_gradient(method: str) -> None:
    torch.manual_seed(0)
    layer = LoRAAttention(4, num_heads=2, r=2, method=method, degree=4)
    layer(torch.randn(1, 30, 4)).square().sum().backward()
    for projection in (layer.q_proj, layer.v_proj):
        assert float(projection.lora_A.grad.abs().max()) == 0
        assert float(projection.lora_B.grad.abs().max()) > 1e-6


def test_report() -> None:
    x = randn(2, 60, 4) / 4
    exact, fast = layer_of(), layer_of(method="lowrank")
    exact(x)
    fast(x)
    q, k = ((x @ torch.from_numpy(weight_of(p)).mT).unflatten(-1, (2, 2)) for p in (fast.q_proj, fast.k_proj))
    radius = max(
        float(q[n, :, h].norm(dim=-1).max() * k[n, :, h].norm(dim=-1).max()) / math.sqrt(2)
        for n in range(2)
        for h in range(2)
    )
    assert exact.last_report == {"radius": pytest.approx(radius)}
    degree = required_degree(radius, 1e-3)
    assert fast.last_report == {
        "radius": pytest.approx(radius),
        "degree": degree,
        "rank": feature_rank(2, degree),
        "eps": pytest.approx(polynomial_relative_error(exp_polynomial("taylor", degree, radius), radius)),
        "certified": True,
    }
    coarse = layer_of(method="lowrank", degree=2)
    coarse(4 * x)
    assert coarse.last_report["eps"] >= 1
    assert coarse.last_report["certified"] is False


def test_where_values_cannot_be_read_a_fixed_taylor_polynomial_is_needed() -> None:
    x = randn(3, 1, 30, 4) / 4
    for options in ({}, {"degree": 4, "poly": "chebyshev"}):
        layer = layer_of(method="lowrank", **options)
        state = dict(layer.named_parameters()) | dict(layer.named_buffers())
        with pytest.raises(RuntimeError, match="radius is taken from tensor values"):
            vmap(lambda x, layer=layer, state=state: functional_call(layer, state, (x,)))(x)
    layer = layer_of(method="lowrank", degree=4)
    state = dict(layer.named_parameters()) | dict(layer.named_buffers())
    together = vmap(lambda x: functional_call(layer, state, (x,)))(x)
    assert layer.last_report is None
    torch.testing.assert_close(together[1], layer(x[1]))


def test_causal_mask_is_kept_by_both_methods() -> None:
    for method in ("exact", "lowrank"):
        layer = layer_of(method=method, degree=3, causal=True)
        x = randn(1, 25, 4) / 2
        changed = x.clone()
        changed[:, 12:] += 0.3
        before, after = layer(x), layer(changed)
        torch.testing.assert_close(before[:, :12], after[:, :12], rtol=1e-12, atol=1e-13)
        assert float((before[:, 12:] - after[:, 12:]).detach().abs().max()) > 1e-3


def test_warning_without_gain_and_limit_of_the_rank() -> None:
    layer = layer_of(method="lowrank", degree=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        layer(randn(1, 10, 4) / 4)
    assert [str(w.message).split(":")[0] for w in caught] == ["no gain"]
    layer(randn(1, 11, 4) / 4)
    with pytest.raises(ValueError, match=r"^max_rank must be at least the 10 "):
        layer_of(method="lowrank", degree=3, max_rank=9)
    with pytest.raises(ValueError, match=r"^max_rank must"):
        layer_of(method="lowrank", max_rank=2)(randn(1, 30, 4))
    with pytest.raises(ValueError, match=r"^radius must be smaller"):
        layer_of(method="lowrank")(100 * randn(1, 30, 4))
    with pytest.raises(ValueError, match="raise the degree"):
        layer_of(method="lowrank", degree=1)(10 * randn(1, 30, 4))


def test_zero_input_is_uniform() -> None:
    layer = layer_of(method="lowrank")
    torch.testing.assert_close(layer(torch.zeros(1, 5, 4).double()), torch.zeros(1, 5, 4).double())
    assert layer.last_report == {"radius": 0.0, "degree": 0, "rank": 1, "eps": 0.0, "certified": True}


def test_state_and_repr() -> None:
    layer = LoRAAttention(4, r=2, method="lowrank", device="cpu", dtype=torch.float64)
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    other = LoRAAttention(4, r=2, alpha=9.0, method="lowrank", dtype=torch.float64)
    other.load_state_dict(layer.state_dict())
    x = randn(1, 40, 4) / 4
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
    assert "poly='taylor', degree=None" in repr(layer)
