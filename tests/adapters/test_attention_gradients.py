"""Gradients of adapters through attention: closed form, autograd, NumPy; the low-rank chain; cost and memory."""

from __future__ import annotations

import math
import warnings
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from normviz.adapters import (
    LoRAWeight,
    exp_polynomial,
    feature_rank,
    lora_attention_gradients,
    polynomial_relative_error,
    required_degree,
)
from tests.adapters.reference import adapter_gradients, attention_step, default_scale

D_IN, D, R = 5, 3, 2


def problem(
    length: int = 12, adapt: str = "qkv", size: float = 0.4, seed: int = 0, d: int = D
) -> tuple[list[Tensor], Tensor, list[LoRAWeight]]:
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return size * torch.randn(*shape, dtype=torch.float64, generator=g)

    x = [randn(length, D_IN) for _ in range(3)]
    weights = [
        LoRAWeight(randn(d, D_IN), randn(R, D_IN), randn(d, R), 1.5)
        if name in adapt
        else LoRAWeight(randn(d, D_IN))
        for name in "qkv"
    ]
    return x, randn(length, d) / size, weights


def numpy_of(weight: LoRAWeight) -> tuple[np.ndarray, ...]:
    W, A, B = (None if t is None else t.numpy() for t in weight[:3])
    return W, A, B


def reference_gradients(
    x: list[Tensor], y: Tensor, weights: list[LoRAWeight], tau: float, coeffs: np.ndarray | None = None
) -> dict[str, Any]:
    projected = []
    for inputs, weight in zip(x, weights, strict=True):
        W, A, B = numpy_of(weight)
        effective = W if A is None else W + weight.scaling * B @ A
        projected.append(inputs.numpy() @ effective.T)
    step = attention_step(*projected, y.numpy(), tau, coeffs)
    for name, upstream, inputs, weight in zip("qkv", ("dQ", "dK", "dV"), x, weights, strict=True):
        _, A, B = numpy_of(weight)
        step[name] = (
            None if A is None else adapter_gradients(step[upstream], inputs.numpy(), A, B, weight.scaling)
        )
    return step


def assert_agrees(found: Any, expected: dict[str, Any], rtol: float) -> None:
    for field in ("loss", "output", "dQ", "dK", "dV"):
        np.testing.assert_allclose(
            getattr(found, field).numpy(), expected[field], rtol=rtol, atol=rtol, err_msg=field
        )
    for name in "qkv":
        mine, wanted = getattr(found, name), expected[name]
        assert (mine is None) == (wanted is None)
        if wanted is not None:
            for a, b in zip(mine, wanted, strict=True):
                np.testing.assert_allclose(a.numpy(), b, rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.parametrize("adapt", ["qv", "qkv", "k", ""])
@pytest.mark.parametrize("scale", [None, 0.9, 1 / D])
def test_exact_equals_numpy(adapt: str, scale: float | None) -> None:
    x, y, weights = problem(adapt=adapt)
    found = lora_attention_gradients(*x, y, *weights, scale=scale)
    tau = default_scale(D) if scale is None else scale
    assert_agrees(found, reference_gradients(x, y, weights, tau), 1e-12)
    assert (found.radius, found.degree, found.rank, found.eps) == (None,) * 4


@pytest.mark.parametrize("adapt", ["qv", "qkv"])
def test_check_1_exact_equals_autograd_special_and_full_case(adapt: str) -> None:
    x, y, weights = problem(length=40, adapt=adapt)
    factors = [t.requires_grad_() for w in weights for t in (w.A, w.B) if t is not None]
    Q, K, V = (inputs @ w.effective().mT for inputs, w in zip(x, weights, strict=True))
    for t in (Q, K, V):
        t.retain_grad() if t.requires_grad else t.requires_grad_()
    out = torch.nn.functional.scaled_dot_product_attention(Q, K, V)
    ((out - y).square().sum() / 2).backward()
    found = lora_attention_gradients(*x, y, *weights)
    mine = [t for pair in (found.q, found.k, found.v) if pair is not None for t in pair]
    assert len(mine) == len(factors) == 2 * len(adapt)
    for ours, leaf in zip(mine, factors, strict=True):
        assert not ours.requires_grad
        assert float((ours - leaf.grad).abs().max()) <= 1e-10
    for ours, leaf in zip((found.dQ, found.dK, found.dV), (Q, K, V), strict=True):
        assert float((ours - leaf.grad).abs().max()) <= 1e-10


def test_check_2_identities_of_the_exact_case() -> None:
    x, y, weights = problem()
    step = reference_gradients(x, y, weights, default_scale(D))
    found = lora_attention_gradients(*x, y, *weights)
    V = x[2] @ weights[2].effective().mT
    f, c = torch.from_numpy(step["f"]), found.output - y
    np.testing.assert_allclose(step["p"].sum(1), np.zeros(12), atol=1e-14)
    np.testing.assert_allclose((f * (c @ V.mT)).sum(1), (found.output * c).sum(1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("poly", ["taylor", "chebyshev"])
@pytest.mark.parametrize("degree", [2, 4, 7])
def test_lowrank_equals_numpy_with_the_polynomials_matrix(poly: str, degree: int) -> None:
    x, y, weights = problem(length=130)
    found = lora_attention_gradients(*x, y, *weights, method="lowrank", degree=degree, poly=poly)
    coeffs = exp_polynomial(poly, degree, found.radius)
    assert_agrees(found, reference_gradients(x, y, weights, default_scale(D), coeffs.numpy()), 1e-10)
    assert found.rank == feature_rank(D, degree)
    assert found.degree == degree
    assert found.eps == polynomial_relative_error(coeffs, found.radius)
    Q, K = (x[i] @ weights[i].effective().mT for i in (0, 1))
    assert found.radius == pytest.approx(float(Q.norm(dim=1).max() * K.norm(dim=1).max()) / math.sqrt(D))


def test_degree_is_chosen_from_the_radius() -> None:
    x, y, weights = problem(length=300, size=0.4)
    found = lora_attention_gradients(*x, y, *weights, method="lowrank", eps=1e-2)
    assert found.degree == required_degree(found.radius, 1e-2)
    assert found.eps <= 1e-2
    wider = lora_attention_gradients(
        *x, y, *weights, method="lowrank", radius=3.0, poly="chebyshev", max_rank=300
    )
    assert wider.radius == 3.0
    assert wider.degree == required_degree(3.0, 1e-3, "chebyshev")


def test_check_4_error_falls_with_the_degree_even_where_nothing_is_certified() -> None:
    x, y, weights = problem(length=300)
    exact = lora_attention_gradients(*x, y, *weights)
    errors, eps = [], []
    for degree in (2, 4, 6, 8, 10):
        found = lora_attention_gradients(*x, y, *weights, method="lowrank", degree=degree)
        errors.append(float((found.dQ - exact.dQ).norm() / exact.dQ.norm()))
        eps.append(found.eps)
    assert all(later < 0.5 * earlier for earlier, later in pairwise(errors)), errors
    assert eps[0] > 1, "a sup error of 1 or more is reported, not refused"
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("method", ["exact", "lowrank"])
def test_check_6_radius_scales_and_zero_adapters_change_nothing(method: str) -> None:
    x, y, weights = problem(length=100, size=0.4)
    options = {"method": "lowrank", "degree": 4}
    plain = [w.W for w in weights]
    radius = lora_attention_gradients(*x, y, *plain, **options).radius
    scaled = lora_attention_gradients(*x, y, 3 * plain[0], *plain[1:], **options).radius
    assert scaled == pytest.approx(3 * radius, rel=1e-12)
    zero = [LoRAWeight(w.W, w.A, torch.zeros_like(w.B), 2.0) for w in weights]
    assert lora_attention_gradients(*x, y, *zero, **options).radius == pytest.approx(radius, rel=1e-12)
    found = lora_attention_gradients(*x, y, *zero, method=method, degree=4)
    for dA, dB in (found.q, found.k, found.v):
        assert float(dA.abs().max()) == 0, "check 7: LoRA's start has no gradient at A"
        assert float(dB.abs().max()) > 1e-3
    assert not torch.equal(zero[0].effective(), weights[0].effective())


class LiveMemory(TorchDispatchMode):
    """Largest tensor and most bytes alive at once among the results of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.now = self.peak = 0
        self.holders: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, Tensor):
                self.largest = max(self.largest, t.numel())
                self._hold(t)
        return result

    def _hold(self, t: Tensor) -> None:
        key, size = t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()
        if self.holders.get(key, 0) == 0:
            self.now += size
            self.peak = max(self.peak, self.now)
        self.holders[key] = self.holders.get(key, 0) + 1
        weakref.finalize(t, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        if self.holders[key] == 0:
            self.now -= size


def test_check_7_no_quadratic_tensor_and_little_memory() -> None:
    length, degree, d = 16384, 4, 2
    x, y, weights = problem(length=length, size=0.4, d=d)
    with LiveMemory() as memory:
        lora_attention_gradients(*x, y, *weights, method="lowrank", degree=degree)
    assert memory.largest <= 2 * length * max(feature_rank(d, degree), D_IN)
    assert memory.peak < 200e6
    x, y, weights = problem(length=512)
    with LiveMemory() as memory:
        lora_attention_gradients(*x, y, *weights)
    assert memory.largest == 512 * 512, "the exact method does form f"


def multiplications(method: str, length: int) -> int:
    x, y, weights = problem(length=length, d=2, size=0.4)
    with FlopCounterMode(display=False) as counter:
        lora_attention_gradients(*x, y, *weights, method=method, degree=4)
    return counter.get_total_flops()


def test_check_8_cost_doubles_with_the_length_and_the_exact_one_quadruples() -> None:
    """Counted in multiplications of matrix products: time depends on the machine and on who else uses it."""
    lowrank = [multiplications("lowrank", length) for length in (256, 512, 1024)]
    exact = [multiplications("exact", length) for length in (256, 512, 1024)]
    assert lowrank[1] / lowrank[0] == pytest.approx(2, rel=1e-3)
    assert lowrank[2] / lowrank[1] == pytest.approx(2, rel=1e-3)
    assert 3.5 < exact[1] / exact[0] < exact[2] / exact[1] < 4


def test_one_token() -> None:
    x, y, weights = problem(length=1)
    found = lora_attention_gradients(*x, y, *weights)
    for zero in (found.dQ, found.dK, *found.q, *found.k):
        assert not zero.any()
    assert found.dV.any()
    with pytest.warns(UserWarning, match="no gain"):
        approximate = lora_attention_gradients(*x, y, *weights, method="lowrank", degree=4)
    torch.testing.assert_close(approximate.output, found.output, rtol=1e-12, atol=1e-12)
    assert float(approximate.dQ.abs().max()) < 1e-12


def test_radius_zero_is_uniform_attention_at_degree_zero() -> None:
    x, y, weights = problem()
    found = lora_attention_gradients(*x, y, torch.zeros(D, D_IN).double(), *weights[1:], method="lowrank")
    assert (found.radius, found.degree, found.rank, found.eps) == (0.0, 0, 1, 0.0)
    V = x[2] @ weights[2].effective().mT
    torch.testing.assert_close(found.output, V.mean(0).expand(12, D), rtol=1e-12, atol=1e-12)


def test_one_warning_without_gain() -> None:
    x, y, weights = problem(length=20, size=0.4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lora_attention_gradients(*x, y, *weights, method="lowrank", degree=3)
    assert [str(w.message).split(":")[0] for w in caught] == ["no gain"]
    assert caught[0].filename == __file__
    lora_attention_gradients(*x, y, *weights, method="lowrank", degree=2)


@pytest.mark.parametrize("method", ["exact", "lowrank"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_results_come_back_in_the_inputs_dtype(method: str, dtype: torch.dtype, rtol: float) -> None:
    x, y, weights = problem(length=100, size=0.4)
    low = [w._replace(W=w.W.to(dtype), A=w.A.to(dtype), B=w.B.to(dtype)) for w in weights]
    given = [t.to(dtype) for t in x]
    before = [t.clone() for t in given]
    found = lora_attention_gradients(*given, y.to(dtype), *low, method=method, degree=4)
    exact = lora_attention_gradients(*x, y, *weights, method=method, degree=4)
    for t in (found.loss, found.output, found.dQ, found.dK, found.dV, *found.q, *found.k, *found.v):
        assert t.dtype == dtype
    for mine, wanted in zip((*found.q, *found.v), (*exact.q, *exact.v), strict=True):
        assert float((mine.double() - wanted).norm()) <= rtol * float(wanted.norm())
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_effective_weight() -> None:
    _, _, (w, *_) = problem()
    np.testing.assert_allclose(w.effective(), w.W.numpy() + 1.5 * w.B.numpy() @ w.A.numpy(), rtol=1e-13)
    assert LoRAWeight(w.W).effective() is w.W
    assert LoRAWeight(w.W).scaling == 1.0
    with pytest.raises(ValueError, match="A and B"):
        LoRAWeight(w.W, A=w.A).effective()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"method": "performer"}, "method"),
        ({"poly": "pade"}, "poly"),
        ({"degree": -1}, "degree"),
        ({"eps": 0.0}, "eps"),
        ({"eps": 1.0}, "eps"),
        ({"radius": -0.5}, "radius"),
        ({"scale": math.nan}, "scale"),
        ({"max_rank": 0}, "max_rank"),
        ({"method": "lowrank", "degree": 5, "max_rank": 55}, "max_rank"),
        ({"method": "lowrank", "radius": 30.0}, "radius"),
    ],
)
def test_refused_options(options: dict[str, Any], name: str) -> None:
    x, y, weights = problem(length=80, size=0.4)
    with pytest.raises(ValueError, match=rf"^{name} must"):
        lora_attention_gradients(*x, y, *weights, **options)


def test_refused_tensors() -> None:
    x, y, weights = problem()
    w = weights[0]
    cases = {
        "x2": lambda: lora_attention_gradients(x[0], x[1][:-1], x[2], y, *weights),
        "target": lambda: lora_attention_gradients(*x, y[:-1], *weights),
        "wq": lambda: lora_attention_gradients(*x, y, w.W[:-1], *weights[1:]),
        "wk": lambda: lora_attention_gradients(*x, y, w, LoRAWeight(w.W, A=w.A), w),
        "wk.A": lambda: lora_attention_gradients(*x, y, w, LoRAWeight(w.W, w.A[:, :-1], w.B), w),
        "wv.B": lambda: lora_attention_gradients(*x, y, w, w, LoRAWeight(w.W, w.A, w.B[:, :-1])),
    }
    for name, call in cases.items():
        with pytest.raises(ValueError, match=rf"^{name} must"):
            call()
    with pytest.raises(TypeError, match=r"^x1 must"):
        lora_attention_gradients(x[0].long(), *x[1:], y, *weights)
    with pytest.raises(RuntimeError, match=r"^radius is taken from tensor values"):
        lora_attention_gradients(*(t.to("meta") for t in (*x, y, w.W, w.W, w.W)), method="lowrank", degree=2)
