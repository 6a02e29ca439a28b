import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from normviz import attention as package
from normviz.attention import (
    NormAwareFeatureMap,
    apply_rotary,
    attention_weights,
    nalaformer,
    norm_aware_linear_attention,
    rope_1d,
)

DIRECTIONS = ("cosine", "sign")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def phi_q(q: np.ndarray, direction: str, lam: float = 3, tau: float = 0.5, alpha: float = 20) -> np.ndarray:
    """One query, coordinate by coordinate."""
    r = math.sqrt(sum(x * x for x in q))
    p = lam * (tau + math.tanh(r))
    first, second = [], []
    for x in q:
        u = x / r
        if direction == "sign":
            first.append(max(u, 0) ** p)
            second.append(max(-u, 0) ** p)
        else:
            theta = math.pi / 4 * math.tanh(alpha * u)
            first.append(abs(u) ** p * math.cos(theta))
            second.append(abs(u) ** p * math.sin(theta))
    return np.array(first + second)


def phi_k(k: np.ndarray, direction: str, lam: float = 3, alpha: float = 20) -> np.ndarray:
    r = math.sqrt(sum(x * x for x in k))
    first, second = [], []
    for x in k:
        if direction == "sign":
            first.append(max(x, 0) ** lam)
            second.append(max(-x, 0) ** lam)
        else:
            theta = math.pi / 4 * math.tanh(alpha * x / r)
            first.append(abs(x) ** lam * math.cos(theta))
            second.append(abs(x) ** lam * math.sin(theta))
    return np.array(first + second)


# ------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("options", [{}, {"lam": 2.0, "tau": 0.75, "alpha": 3.0}])
def test_features_equal_scalar_loops(direction: str, options: dict[str, float]) -> None:
    phi = NormAwareFeatureMap(**options, direction=direction)
    q, k = randn(6, 5), randn(6, 5)
    key_options = {name: value for name, value in options.items() if name != "tau"}
    for i in range(6):
        np.testing.assert_allclose(
            phi.query(q)[i].numpy(), phi_q(q[i].numpy(), direction, **options), rtol=1e-12
        )
        np.testing.assert_allclose(
            phi.key(k)[i].numpy(), phi_k(k[i].numpy(), direction, **key_options), rtol=1e-12
        )


def test_power_is_bounded() -> None:
    phi = NormAwareFeatureMap()
    assert phi.power(torch.zeros(2)).tolist() == [1.5, 1.5]
    assert phi.power(torch.tensor([50.0])).item() == pytest.approx(4.5)
    r = torch.rand(3, 4) * 3
    torch.testing.assert_close(phi.power(r), 3 * (0.5 + torch.tanh(r)))


def test_angles_keep_the_norm() -> None:
    phi, q, k = NormAwareFeatureMap(), randn(50, 8), randn(50, 8)
    r = q.norm(dim=1, keepdim=True)
    magnitude = (q / r).abs() ** phi.power(r)
    torch.testing.assert_close(phi.query(q).norm(dim=1), magnitude.norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(phi.key(k).norm(dim=1), (k.abs() ** 3).norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(0.05, 10))
def test_similarities_are_non_negative_and_bounded(direction: str, seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = (size * torch.randn(20, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    phi = NormAwareFeatureMap(direction=direction)
    products = phi.query(q) @ phi.key(k).T
    r = q.norm(dim=1, keepdim=True)
    bound = ((q / r).abs() ** phi.power(r)) @ (k.abs() ** 3).T
    assert (products >= -1e-12 * bound).all()
    assert (products <= bound * (1 + 1e-12)).all()
    if direction == "cosine":
        assert (phi.query(q) < 0).any()  # only products are non-negative


def test_sign_form_is_the_steep_limit_of_the_cosine_form() -> None:
    steep, sign = NormAwareFeatureMap(alpha=1e6), NormAwareFeatureMap(direction="sign")
    q, k = randn(40, 8), randn(40, 8)
    torch.testing.assert_close(
        steep.query(q) @ steep.key(k).T, sign.query(q) @ sign.key(k).T, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_opposite_one_hots_do_not_meet(direction: str) -> None:
    phi, e = NormAwareFeatureMap(direction=direction), torch.eye(4)[0]
    assert abs((phi.query(e) @ phi.key(-e)).item()) < 1e-6
    assert (phi.query(e) @ phi.key(e)).item() == pytest.approx(1)


def test_the_norm_enters_through_the_power_only() -> None:
    phi, q = NormAwareFeatureMap(), randn(6)
    q = q / q.norm()
    for r in (0.2, 3.0):
        wanted = q.abs() ** (3 * (0.5 + math.tanh(r)))
        features = phi.query(r * q)
        torch.testing.assert_close(features[:6].hypot(features[6:]), wanted)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_features_are_at_least_float32(direction: str, dtype: torch.dtype) -> None:
    phi = NormAwareFeatureMap(direction=direction)
    k = torch.full((1, 4), 60.0).to(dtype)  # 60^3 overflows float16
    wide = torch.promote_types(dtype, torch.float32)
    for features in (phi.query(k), phi.key(k)):
        assert features.dtype == wide
        assert torch.isfinite(features).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm_aware_linear_attention(*(torch.ones(3, 1, 1, 2, 4).to(dtype).unbind()))
    assert out.dtype == dtype
    assert not list(phi.parameters())
    assert not list(phi.buffers())
    assert f"direction='{direction}'" in repr(phi)
    both = phi(k, k)
    assert torch.equal(both[0], phi.query(k))
    assert torch.equal(both[1], phi.key(k))


# ------------------------------------------------------------------------------------------------- bidirectional


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_bidirectional_form_equals_loops(direction: str) -> None:
    q, k, v = randn(1, 1, 4, 3), randn(1, 1, 6, 3), randn(1, 1, 6, 2)
    out = norm_aware_linear_attention(q, k, v, feature_map=NormAwareFeatureMap(direction=direction))
    for i in range(4):
        features = phi_q(q[0, 0, i].numpy(), direction)
        similarities = [features @ phi_k(k[0, 0, j].numpy(), direction) for j in range(6)]
        z = sum(similarities) / 6 + 1e-6
        o = sum(s * v[0, 0, j].numpy() for j, s in enumerate(similarities)) / 6 / z
        np.testing.assert_allclose(out[0, 0, i].numpy(), o, rtol=1e-10)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_linear_form_equals_explicit_weights(
    direction: str, causal: bool, dtype: torch.dtype, tolerance: float
) -> None:
    q, k, v = (torch.randn(2, 3, 20, 8, dtype=dtype) for _ in range(3))
    k[..., 0, :] = q[..., 0, :]  # the first causal row sees one key: give it a clear similarity
    phi = NormAwareFeatureMap(direction=direction)
    A = attention_weights(q, k, f"nala_{direction}", causal)
    if causal:
        # A row with opposite signs only has a similarity at rounding level, where eps decides.
        similarity = (phi.query(q) @ phi.key(k).mT).tril().sum(-1)
        assert similarity.min() > 1e-3
    out = norm_aware_linear_attention(q, k, v, causal=causal, feature_map=phi)
    torch.testing.assert_close(out, A @ v, rtol=0, atol=tolerance)


def test_default_feature_map_is_the_cosine_form() -> None:
    q, k, v = randn(3, 1, 2, 5, 4).unbind()
    default = norm_aware_linear_attention(q, k, v)
    torch.testing.assert_close(
        default,
        norm_aware_linear_attention(q, k, v, feature_map=NormAwareFeatureMap(3.0, 0.5, 20.0, "cosine")),
    )


def test_permuting_the_tokens_permutes_the_output() -> None:
    q, k, v = randn(3, 2, 2, 9, 4).unbind()
    order = torch.randperm(9)
    out = norm_aware_linear_attention(q, k, v)
    permuted = norm_aware_linear_attention(q[:, :, order], k[:, :, order], v[:, :, order])
    torch.testing.assert_close(permuted, out[:, :, order])


def test_single_token() -> None:
    q, k, v = randn(3, 1, 1, 1, 4).unbind()
    S = (NormAwareFeatureMap().query(q) * NormAwareFeatureMap().key(k)).sum()
    for causal in (True, False):
        torch.testing.assert_close(norm_aware_linear_attention(q, k, v, causal=causal), v * S / (S + 1e-6))


def test_rotary_turns_the_numerator_only() -> None:
    q, k, v = randn(3, 1, 1, 6, 4).unbind()
    sin, cos = rope_1d(6, 4, dtype=torch.float64)
    phi = NormAwareFeatureMap()
    a, b = phi.query(q)[0, 0], phi.key(k)[0, 0]
    turned_a, turned_b = apply_rotary(a, sin, cos), apply_rotary(b, sin, cos)
    out = norm_aware_linear_attention(q, k, v, rotary=(sin, cos))
    causal = norm_aware_linear_attention(q, k, v, rotary=(sin, cos), causal=True, chunk_size=4)
    for i in range(6):
        z = sum(a[i] @ b[j] for j in range(6)) / 6 + 1e-6
        o = sum((turned_a[i] @ turned_b[j]) * v[0, 0, j] for j in range(6)) / 6 / z
        torch.testing.assert_close(out[0, 0, i], o)
        z = sum(a[i] @ b[j] for j in range(i + 1)) / (i + 1) + 1e-6
        o = sum((turned_a[i] @ turned_b[j]) * v[0, 0, j] for j in range(i + 1)) / (i + 1) / z
        torch.testing.assert_close(causal[0, 0, i], o)


# ------------------------------------------------------------------------------------------------- causal


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("rotary", [True, False])
def test_parallel_recurrent_and_chunked_agree(dtype: torch.dtype, tolerance: float, rotary: bool) -> None:
    N = 37
    q, k, v = (torch.randn(2, 2, N, 4, dtype=dtype) for _ in range(3))
    k[..., 0, :] = q[..., 0, :]
    table = rope_1d(N, 4, dtype=dtype) if rotary else None
    attend = partial(norm_aware_linear_attention, q, k, v, causal=True, rotary=table)
    recurrent = attend(chunk_size=1)
    for chunk in (4, 36, N, 64):
        # rotated weights need not sum to 1: rows can be longer than any v
        torch.testing.assert_close(attend(chunk_size=chunk), recurrent, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(attend(), recurrent, rtol=tolerance, atol=tolerance)
    whole = norm_aware_linear_attention(q, k, v, rotary=table)
    torch.testing.assert_close(recurrent[:, :, -1], whole[:, :, -1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize("t", [0, 5, 11])
def test_causality(chunk: int, t: int) -> None:
    q, k, v = (torch.randn(2, 2, 12, 4) for _ in range(3))
    changed = [x.clone() for x in (q, k, v)]
    for x in changed:
        x[:, :, t] += 1
    before = norm_aware_linear_attention(q, k, v, causal=True, chunk_size=chunk)
    after = norm_aware_linear_attention(*changed, causal=True, chunk_size=chunk)
    if chunk == 1:
        assert torch.equal(before[:, :, :t], after[:, :, :t])
    torch.testing.assert_close(before[:, :, :t], after[:, :, :t], rtol=0, atol=1e-6)
    assert (before[:, :, t] - after[:, :, t]).abs().max() > 1e-3


@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize("cuts", [(6,), (1, 2, 3, 9), tuple(range(1, 13))])
def test_state_continues_a_sequence(chunk: int, cuts: tuple[int, ...]) -> None:
    N = 13
    q, k, v = randn(3, 2, 2, N, 4).unbind()
    k[..., 0, :] = q[..., 0, :]
    sin, cos = rope_1d(N, 4, dtype=torch.float64)
    whole, final = norm_aware_linear_attention(
        q, k, v, causal=True, rotary=(sin, cos), return_state=True, chunk_size=chunk
    )
    state, parts = None, []
    for start, stop in zip((0, *cuts), (*cuts, N), strict=True):
        piece = slice(start, stop)
        part, state = norm_aware_linear_attention(
            q[:, :, piece], k[:, :, piece], v[:, :, piece], causal=True, rotary=(sin[piece], cos[piece]),
            state=state, return_state=True, chunk_size=chunk,
        )  # fmt: skip
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=0, atol=1e-11)
    assert state[2] == final[2] == N
    phi = NormAwareFeatureMap()
    S = apply_rotary(phi.key(k), sin, cos).mT @ v
    for reached in (state, final):
        torch.testing.assert_close(reached[0], S)
        torch.testing.assert_close(reached[1], phi.key(k).sum(2))


# ------------------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("causal", [True, False])
def test_zero_queries_and_keys_give_zero_and_finite_gradients(direction: str, causal: bool) -> None:
    phi = NormAwareFeatureMap(direction=direction)
    q, k, v = (torch.randn(1, 1, 5, 4) for _ in range(3))
    q[0, 0, 2] = 0
    q.requires_grad_()
    k.requires_grad_()
    out = norm_aware_linear_attention(q, k, v, feature_map=phi, causal=causal)
    assert not out[0, 0, 2].any()
    assert torch.isfinite(out).all()
    for gradient in torch.autograd.grad(out.square().sum() + out.sum(), (q, k)):
        assert torch.isfinite(gradient).all()
    zero = torch.zeros(1, 1, 5, 4, requires_grad=True)
    out = norm_aware_linear_attention(q, zero, v, feature_map=phi, causal=causal)
    assert not out.any()
    assert torch.isfinite(torch.autograd.grad(out.sum(), zero)[0]).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_zero_coordinate_of_a_short_query_has_a_finite_gradient(direction: str) -> None:
    """(d^2)^(p/2) would give NaN here, since p/2 < 1 for |q| < atanh(1/6)."""
    q = torch.tensor([[0.06, 0.0, -0.08]], dtype=torch.float64, requires_grad=True)
    assert q.norm().item() == pytest.approx(0.1)
    phi = NormAwareFeatureMap(direction=direction)
    assert phi.power(q.detach().norm()).item() < 2
    (gradient,) = torch.autograd.grad(phi.query(q).sum(), q)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 0] != 0


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck(direction: str, causal: bool) -> None:
    signs = torch.where(torch.rand(3, 1, 1, 5, 4) < 0.5, -1, 1)
    q, k, v = (signs * (0.2 + torch.rand(3, 1, 1, 5, 4, dtype=torch.float64))).unbind()
    k = torch.cat((q[:, :, :1], k[:, :, 1:]), dim=2)
    inputs = tuple(x.clone().requires_grad_() for x in (q, k, v))
    # a gentle angle: at alpha = 20 its third derivative dominates the finite difference
    phi = NormAwareFeatureMap(alpha=2.0, direction=direction)
    attend = partial(norm_aware_linear_attention, feature_map=phi, causal=causal, chunk_size=2)
    assert torch.autograd.gradcheck(attend, inputs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
def test_half_input_is_computed_in_float32(dtype: torch.dtype, causal: bool) -> None:
    q, k, v = (
        (8 * torch.randn(2, 2, 10, 4)).to(dtype),
        (30 * torch.randn(2, 2, 10, 4)).to(dtype),
        torch.randn(2, 2, 10, 4),
    )
    v = v.to(dtype)
    out = norm_aware_linear_attention(q, k, v, causal=causal)
    wide = norm_aware_linear_attention(q.float(), k.float(), v.float(), causal=causal)
    assert out.dtype == dtype
    assert torch.equal(out, wide.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(norm_aware_linear_attention(q.float(), k.float(), v.float(), causal=causal), wide)


@pytest.mark.parametrize("causal", [True, False])
def test_vmap_and_compile(causal: bool) -> None:
    q, k, v = (torch.randn(3, 2, 2, 10, 4) for _ in range(3))
    table = rope_1d(10, 4)
    attend = partial(norm_aware_linear_attention, causal=causal, rotary=table, chunk_size=4)
    together = vmap(attend)(q, k, v)
    for i in range(3):
        torch.testing.assert_close(together[i], attend(q[i], k[i], v[i]))
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q[0], k[0], v[0]), together[0])


def test_names() -> None:
    assert set(package.__all__) == {*nalaformer.__all__, "orthogonal_projection"}
    assert package.__all__ == sorted(package.__all__)
    for name in nalaformer.__all__:
        assert getattr(package, name) is getattr(nalaformer, name)


def tensors(*shapes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.ones(shape) for shape in shapes)


Q = (1, 2, 5, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NormAwareFeatureMap(lam=0), "lam must be a number > 0, got 0"),
        (lambda: NormAwareFeatureMap(tau=-1), "tau must be"),
        (lambda: NormAwareFeatureMap(alpha=0), "alpha must be"),
        (lambda: NormAwareFeatureMap(alpha=math.inf), "alpha must be"),
        (lambda: NormAwareFeatureMap(direction="cos"), "Did you mean 'cosine'"),
        (lambda: norm_aware_linear_attention(*tensors(Q[1:], Q, Q)), "q must have shape"),
        (lambda: norm_aware_linear_attention(*tensors((1, 2, 0, 4), Q, Q)), "q must hold at least one token"),
        (lambda: norm_aware_linear_attention(*tensors(Q, (2, 2, 5, 4), Q)), "k must have shape"),
        (lambda: norm_aware_linear_attention(*tensors(Q, (1, 1, 5, 4), Q)), "k must have shape"),
        (lambda: norm_aware_linear_attention(*tensors(Q, (1, 2, 5, 3), Q)), "k must have shape"),
        (lambda: norm_aware_linear_attention(*tensors(Q, Q, (1, 2, 6, 4))), "v must have shape"),
        (lambda: norm_aware_linear_attention(*tensors(Q, (1, 2, 6, 4), (1, 2, 6, 4)), causal=True), "as many keys"),
        (lambda: norm_aware_linear_attention(*tensors(Q, (1, 2, 6, 4), (1, 2, 6, 4)), rotary=rope_1d(5, 4)), "rotary"),
        (lambda: norm_aware_linear_attention(*tensors(Q, Q, Q), rotary=rope_1d(4, 4)), "sin and cos"),
        (lambda: norm_aware_linear_attention(*tensors(Q, Q, Q), chunk_size=0), "chunk_size must be"),
        (lambda: norm_aware_linear_attention(*tensors(Q, Q, Q), eps=-1.0), "eps must be"),
        (lambda: norm_aware_linear_attention(*tensors(Q, Q, Q), return_state=True), "need causal=True"),
        (lambda: norm_aware_linear_attention(*tensors(Q, Q, Q), state=(*tensors((1, 2, 8, 4), (1, 2, 8)), 1)), "need"),
        (
            lambda: norm_aware_linear_attention(
                *tensors(Q, Q, Q), causal=True, state=(*tensors((1, 2, 4, 4), (1, 2, 8)), 1)
            ),
            "state must hold S",
        ),
        (
            lambda: norm_aware_linear_attention(
                *tensors(Q, Q, Q), causal=True, state=(*tensors((1, 2, 8, 4), (1, 2, 8)), -1)
            ),
            "state must count",
        ),
    ],
)  # fmt: skip
def test_bad_arguments(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
