import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from normviz.attention import attention_weights, feature_weights, positive_sequence_entropy

KINDS = ("softmax", "elu1", "relu", "performer", "focused", "pola", "nala_cosine", "nala_sign")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def options(kind: str, d: int) -> dict[str, torch.Tensor]:
    return {"projection": torch.randn(12, d, dtype=torch.float64)} if kind == "performer" else {}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_distributions(kind: str) -> None:
    q, k = randn(2, 3, 7, 6), randn(2, 3, 9, 6)
    A = attention_weights(q, k, kind, **options(kind, 6))
    assert A.shape == (2, 3, 7, 9)
    assert (A > -1e-12).all()
    total = A.sum(-1)
    assert (total < 1 + 1e-12).all()
    if kind != "softmax":
        assert (total < 1).all()  # eps is in the denominator alone
    if kind in {"softmax", "elu1", "performer"}:  # the others have rows of no similarity at all
        assert (total > 0.999).all()


@pytest.mark.parametrize("kind", KINDS)
def test_causal_rows_equal_the_bidirectional_rows_of_each_prefix(kind: str) -> None:
    q, k = randn(1, 2, 6, 4), randn(1, 2, 6, 4)
    kw = options(kind, 4)
    A = attention_weights(q, k, kind, causal=True, **kw)
    for i in range(6):
        prefix = attention_weights(q[:, :, i : i + 1], k[:, :, : i + 1], kind, **kw)
        torch.testing.assert_close(A[:, :, i, : i + 1], prefix[:, :, 0])
        assert not A[:, :, i, i + 1 :].any()


def test_softmax_is_torchs() -> None:
    q, k, v = randn(3, 2, 2, 5, 4).unbind()
    for causal in (True, False):
        torch.testing.assert_close(
            attention_weights(q, k, "softmax", causal) @ v,
            F.scaled_dot_product_attention(q, k, v, is_causal=causal),
        )
    torch.testing.assert_close(
        attention_weights(q, k, "softmax", scale=1.0), attention_weights(2 * q, k, "softmax")
    )


def test_relu_loses_the_norm_of_the_query_and_norm_aware_keeps_it() -> None:
    q, k = randn(1, 1, 40, 16), randn(1, 1, 64, 16)
    relu = attention_weights(q, k, "relu"), attention_weights(7 * q, k, "relu")
    torch.testing.assert_close(*relu, rtol=0, atol=1e-6)
    q = F.normalize(q, dim=-1)  # beyond |q| = 3 the power has reached its bound
    for kind in ("nala_cosine", "nala_sign", "softmax"):
        assert (attention_weights(q, k, kind) - attention_weights(7 * q, k, kind)).abs().max() > 1e-3


def mean_entropies(kind: str, seed: int, **kw: float) -> list[float]:
    """Over 200 directions against 64 Gaussian keys, d = 16."""
    generator = torch.Generator().manual_seed(seed)
    u = F.normalize(torch.randn(1, 1, 200, 16, generator=generator), dim=-1)
    k = torch.randn(1, 1, 64, 16, generator=generator)
    return [
        positive_sequence_entropy(attention_weights(r * u, k, kind, **kw)).mean().item()
        for r in (0.1, 0.3, 1.0, 2.0, 3.0)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_mean_entropy_falls_with_the_norm_for_norm_aware_features(seed: int) -> None:
    for kind in ("nala_cosine", "nala_sign"):
        falling = mean_entropies(kind, seed)
        assert all(a > b for a, b in pairwise(falling))
        assert falling[0] - falling[-1] > 0.2
    flat = mean_entropies("relu", seed)
    assert max(flat) - min(flat) < 1e-3


@pytest.mark.parametrize(
    ("kind", "row", "spread"),
    [
        ("softmax", (4.154, 4.116, 3.706, 1.902), 0.3),
        ("relu", (3.938, 3.938, 3.938, 3.938), 0.08),
        ("elu1", (4.142, 4.142, 4.141, 4.138), 0.02),
        ("nala_cosine", (3.709, 3.613, 3.396, 3.306), 0.25),
        ("nala_sign", (3.706, 3.611, 3.395, 3.305), 0.25),
    ],
)
def test_mean_entropies_are_those_of_the_reference_table(
    kind: str, row: tuple[float, ...], spread: float
) -> None:
    """Other draws of keys than the table's: ``spread`` is 5 standard deviations over draws, at the worst norm."""
    kw = {"scale": 1.0} if kind == "softmax" else {}
    measured = np.mean([mean_entropies(kind, seed, **kw) for seed in range(5)], axis=0)
    np.testing.assert_allclose(measured[[0, 1, 2, 4]], row, rtol=0, atol=spread)


def test_entropy_of_softmax_falls_by_c_times_the_variance() -> None:
    """dH/dc of softmax(c s) is -c Var_p(s)."""
    s = randn(12)
    for c in (0.3, 1.0, 4.0):
        scale = torch.tensor(c, dtype=torch.float64, requires_grad=True)
        p = torch.softmax(scale * s, 0)
        (slope,) = torch.autograd.grad(positive_sequence_entropy(p), scale)
        p = p.detach()
        variance = (p * (s - (p * s).sum()) ** 2).sum()
        assert slope.item() == pytest.approx(-c * variance.item(), abs=1e-6)
        assert slope < 0


def test_entropy_equals_its_formula() -> None:
    a = torch.rand(3, 5, dtype=torch.float64)
    a[0, 2] = 0
    wanted = []
    for row in a.tolist():
        s = sum(row)
        wanted.append(-sum(x / s * math.log(x / s) for x in row if x > 0))
    np.testing.assert_allclose(positive_sequence_entropy(a).numpy(), wanted, rtol=1e-12)
    torch.testing.assert_close(positive_sequence_entropy(a.T, dim=0), positive_sequence_entropy(a))
    torch.testing.assert_close(positive_sequence_entropy(7 * a), positive_sequence_entropy(a))
    assert positive_sequence_entropy(torch.ones(8)).item() == pytest.approx(math.log(8))


def test_entropy_at_the_edges() -> None:
    assert positive_sequence_entropy(torch.zeros(4)).item() == 0
    assert positive_sequence_entropy(torch.tensor([0.0, 2.0])).item() == 0
    a = torch.tensor([0.0, 1.0, 3.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(positive_sequence_entropy(a), a)
    assert torch.isfinite(gradient).all()
    assert positive_sequence_entropy(torch.ones(4, dtype=torch.float16)).dtype == torch.float32
    with pytest.raises(ValueError, match=r"a must not be negative, got -0\.5"):
        positive_sequence_entropy(torch.tensor([1.0, -0.5]))


def test_dtype() -> None:
    q = torch.randn(1, 1, 3, 4)
    for kind in KINDS:
        assert attention_weights(q.bfloat16(), q.bfloat16(), kind).dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert attention_weights(q, q, kind).dtype == torch.float32
        assert attention_weights(q.double(), q.double(), kind).dtype == torch.float64


ONE = torch.ones(1, 1, 3, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: attention_weights(ONE, ONE, "nala_cos"), ValueError, "Did you mean 'nala_cosine'"),
        (lambda: attention_weights(ONE, ONE[:, :, :2], "relu", True), ValueError, "as many keys"),
        (lambda: attention_weights(ONE, ONE[..., :3], "relu"), ValueError, "k must have shape"),
        (lambda: attention_weights(ONE, ONE, "nala_sign", lam=-1.0), ValueError, "lam must be"),
        (lambda: attention_weights(ONE, ONE, "softmax", scale=math.nan), ValueError, "scale must be"),
        (lambda: attention_weights(ONE, ONE, "pola", path="both"), ValueError, "path must be one of"),
        (lambda: attention_weights(ONE, ONE, "relu", eps=-1.0), ValueError, "eps must be"),
        (lambda: attention_weights(ONE, ONE, "relu", lam=3.0), TypeError, "lam"),
        (lambda: attention_weights(ONE, ONE, "softmax", power=3.0), TypeError, "power"),
    ],
)
def test_bad_arguments(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_cosine_weights_are_not_negative_where_products_round() -> None:
    generator = torch.Generator().manual_seed(0)
    for alpha in (20.0, 100.0):
        for lam in (2.0, 4.0, 8.0):
            q, k = torch.randn(2, 1, 2, 64, 8, generator=generator).unbind()
            weights = attention_weights(4 * q, 4 * k, "nala_cosine", lam=lam, alpha=alpha)
            assert float(weights.min()) >= 0
            assert bool(positive_sequence_entropy(weights).isfinite().all())


def test_feature_weights_take_what_is_below_zero_for_zero() -> None:
    """By hand: similarities 3, -1e-7 and 1, of which the second is rounding; the causal second row has two of three."""
    phi_q = torch.tensor([[[[9.0], [1.0]]]], dtype=torch.float64)
    phi_k = torch.tensor([[[[3.0], [-1e-7], [1.0]]]], dtype=torch.float64)
    full = feature_weights(phi_q, phi_k, eps=0.5)[0, 0, 1]
    torch.testing.assert_close(full, torch.tensor([3.0, 0.0, 1.0], dtype=torch.float64) / 3 / (4 / 3 + 0.5))
    causal = feature_weights(phi_q, phi_k[:, :, :2], True, eps=0.5)[0, 0, 1]
    torch.testing.assert_close(causal, torch.tensor([3.0, 0.0], dtype=torch.float64) / 2 / (3 / 2 + 0.5))
