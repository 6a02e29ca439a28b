import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch.func import vmap

from normviz.attention import (
    attention_weights,
    baselines,
    focused_linear_attention,
    linear_attention,
    performer_attention,
    pola_linear_attention,
)
from normviz.attention._feature_maps import orthogonal_projection


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


Matrix = Callable[[np.ndarray, np.ndarray], np.ndarray]


def normalised(similarities: np.ndarray, v: np.ndarray, causal: bool) -> np.ndarray:
    """Rows over their mean plus 1e-6, one row at a time."""
    out = np.zeros((len(similarities), v.shape[1]))
    for i, row in enumerate(similarities):
        seen = i + 1 if causal else len(row)
        out[i] = row[:seen] @ v[:seen] / seen / (row[:seen].sum() / seen + 1e-6)
    return out


def check(
    attend: Callable[..., torch.Tensor], similarity: Callable[[torch.Tensor, torch.Tensor, int], np.ndarray]
) -> None:
    """Against loops, in both directions, with M != N and several heads."""
    for causal in (False, True):
        q, k = randn(2, 3, 6, 4), randn(2, 3, 6 if causal else 9, 4)
        v = randn(2, 3, k.shape[2], 2)
        for chunk in (1, 4, 64):
            out = attend(q, k, v, causal=causal, chunk_size=chunk)
            for b in range(2):
                for h in range(3):
                    wanted = normalised(similarity(q[b], k[b], h), v[b, h].numpy(), causal)
                    np.testing.assert_allclose(out[b, h].numpy(), wanted, rtol=1e-8, atol=1e-9)


def test_elu_and_relu() -> None:
    def elu1(x: float) -> float:
        return x + 1 if x > 0 else math.exp(x)

    for kind, phi in (("elu1", elu1), ("relu", lambda x: max(x, 0.0))):
        phi = np.vectorize(phi)

        def similarity(q: torch.Tensor, k: torch.Tensor, h: int, phi: Callable = phi) -> np.ndarray:
            return phi(q[h].numpy()) @ phi(k[h].numpy()).T

        check(partial(linear_attention, kind=kind), similarity)


def test_default_is_elu() -> None:
    q, k, v = randn(3, 1, 1, 5, 4).unbind()
    torch.testing.assert_close(linear_attention(q, k, v), linear_attention(q, k, v, kind="elu1"))


def test_performer() -> None:
    W = randn(7, 4)

    def phi(x: np.ndarray) -> np.ndarray:
        x = x / 4**0.25
        return np.array([math.exp(w @ x - x @ x / 2) / math.sqrt(7) for w in W.numpy()])

    def similarity(q: torch.Tensor, k: torch.Tensor, h: int) -> np.ndarray:
        return np.array([[phi(a) @ phi(b) for b in k[h].numpy()] for a in q[h].numpy()])

    check(partial(performer_attention, projection=W), similarity)


def test_performer_estimates_the_softmax_kernel() -> None:
    """The error falls like 1/sqrt(m) (short vectors: the features of long ones have heavy tails)."""
    q, k, v = (0.3 * randn(3, 1, 1, 12, 8)).unbind()
    softmax = attention_weights(q, k, "softmax") @ v

    def error(m: int) -> float:
        squares = [
            performer_attention(q, k, v, num_features=m, generator=torch.Generator().manual_seed(seed))
            - softmax
            for seed in range(10)
        ]
        return torch.stack(squares).square().mean().sqrt().item()

    few, many = error(40), error(4000)
    assert many < few / 5
    assert many < 0.05 * softmax.square().mean().sqrt()


def test_drawn_projections() -> None:
    W = orthogonal_projection(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert W.shape == (10, 4)
    for block in (W[:4], W[4:8], W[8:]):
        gram = block @ block.T
        torch.testing.assert_close(gram, torch.diag(gram.diagonal()), rtol=0, atol=1e-10)
    many = orthogonal_projection(20000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    squares = many.square().sum(1)  # chi-squared, 4 degrees of freedom: mean 4, variance 8
    assert squares.mean().item() == pytest.approx(4, abs=5 * math.sqrt(8 / 20000))
    assert squares.var().item() == pytest.approx(8, rel=0.1)
    torch.testing.assert_close(many.T @ many / 20000, torch.eye(4, dtype=torch.float64), rtol=0, atol=0.03)
    q = torch.randn(1, 1, 3, 8)
    first, second = (
        performer_attention(q, q, q, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_performer_draws_d_log_d_features(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def recorded(m: int, d: int, **kw: object) -> torch.Tensor:
        asked.append(m)
        return torch.ones(m, d)

    monkeypatch.setattr("normviz.attention._feature_maps.orthogonal_projection", recorded)
    for d in (8, 1):
        performer_attention(*torch.ones(3, 1, 1, 2, d).unbind())
    assert asked == [int(8 * math.log(8)), 1]


@pytest.mark.parametrize("power", [3.0, 1.5, 9.0])
@pytest.mark.parametrize("learned", [True, False])
def test_focused(power: float, learned: bool) -> None:
    scale = randn(3, 1, 4) if learned else None

    def phi(x: torch.Tensor, h: int) -> np.ndarray:
        out = []
        for n in range(x.shape[1]):
            token = np.zeros((3, 4))
            for head in range(3):
                for i in range(4):
                    s = 0.0 if scale is None else scale[head, 0, i].item()
                    token[head, i] = (max(x[head, n, i].item(), 0) + 1e-6) / softplus(s)
            raised = token**power
            # length over all heads: the official code merges them
            out.append((raised * np.sqrt((token**2).sum()) / np.sqrt((raised**2).sum()))[h])
        return np.array(out)

    check(
        partial(focused_linear_attention, scale=scale, power=power), lambda q, k, h: phi(q, h) @ phi(k, h).T
    )


def test_focused_of_a_wholly_negative_token_is_finite() -> None:
    """Every entry is 1e-6: their power must not underflow to 0 / 0."""
    q = -torch.rand(1, 1, 3, 4)
    assert torch.isfinite(focused_linear_attention(q, q, q, power=9.0)).all()


@pytest.mark.parametrize("learned", [True, False])
def test_pola(learned: bool) -> None:
    scale, logits = (randn(3, 1, 4), randn(3, 1, 4)) if learned else (None, None)

    def parts(x: torch.Tensor, h: int) -> tuple[np.ndarray, np.ndarray]:
        positive, negative = np.zeros((2, x.shape[1], 4))
        for n in range(x.shape[1]):
            for i in range(4):
                s = 0.0 if scale is None else scale[h, 0, i].item()
                w = 0.0 if logits is None else logits[h, 0, i].item()
                p = 1 + 4 / (1 + math.exp(-w))
                value = x[h, n, i].item() / softplus(s)
                positive[n, i], negative[n, i] = max(value, 0) ** p, max(-value, 0) ** p
        return positive, negative

    def same(q: torch.Tensor, k: torch.Tensor, h: int) -> np.ndarray:
        (qp, qn), (kp, kn) = parts(q, h), parts(k, h)
        return qp @ kp.T + qn @ kn.T

    def opposite(q: torch.Tensor, k: torch.Tensor, h: int) -> np.ndarray:
        (qp, qn), (kp, kn) = parts(q, h), parts(k, h)
        return qn @ kp.T + qp @ kn.T

    for causal in (False, True):
        q, k, v = randn(1, 3, 6, 4), randn(1, 3, 6, 4), randn(1, 3, 6, 6)
        out = pola_linear_attention(q, k, v, scale=scale, power_logits=logits, causal=causal, chunk_size=4)
        for h in range(3):
            halves = [
                normalised(f(q[0], k[0], h), v[0, h, :, part].numpy(), causal)
                for f, part in ((same, slice(0, 3)), (opposite, slice(3, 6)))
            ]
            np.testing.assert_allclose(out[0, h].numpy(), np.concatenate(halves, 1), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
def test_explicit_weights_equal_the_linear_forms(causal: bool) -> None:
    q, k, v = randn(3, 2, 3, 10, 4).unbind()
    scale, logits, W = randn(3, 1, 4), randn(3, 1, 4), randn(9, 4)
    pairs = [
        (partial(linear_attention, kind="elu1"), "elu1", {}),
        (partial(linear_attention, kind="relu"), "relu", {}),
        (partial(performer_attention, projection=W), "performer", {"projection": W}),
        (
            partial(focused_linear_attention, scale=scale, power=2.0),
            "focused",
            {"scale": scale, "power": 2.0},
        ),
    ]
    for attend, kind, kw in pairs:
        A = attention_weights(q, k, kind, causal, **kw)
        torch.testing.assert_close(A @ v, attend(q, k, v, causal=causal), rtol=1e-7, atol=1e-8)
    out = pola_linear_attention(q, k, v, scale=scale, power_logits=logits, causal=causal)
    for path, half in (("same", slice(0, 2)), ("opposite", slice(2, 4))):
        A = attention_weights(q, k, "pola", causal, scale=scale, power_logits=logits, path=path)
        torch.testing.assert_close(A @ v[..., half], out[..., half], rtol=1e-7, atol=1e-8)


ALL = (linear_attention, performer_attention, focused_linear_attention, pola_linear_attention)


@pytest.mark.parametrize("attend", ALL)
def test_dtype_autocast_vmap_and_compile(attend: Callable[..., torch.Tensor]) -> None:
    q, k, v = torch.randn(3, 2, 1, 2, 6, 4).unbind()
    if attend is performer_attention:
        attend = partial(attend, projection=torch.randn(5, 4))
    wide = attend(q[0], k[0], v[0])
    half = [x[0].bfloat16() for x in (q, k, v)]
    assert torch.equal(attend(*half), attend(*(x.float() for x in half)).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attend(q[0], k[0], v[0]), wide)
    torch.testing.assert_close(vmap(attend)(q, k, v)[0], wide)
    causal = partial(attend, causal=True, chunk_size=4)
    compiled = torch.compile(causal, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q[0], k[0], v[0]), causal(q[0], k[0], v[0]))


def test_names() -> None:
    assert [f.__name__ for f in ALL] == sorted(baselines.__all__, key=[f.__name__ for f in ALL].index)


ONE = torch.ones(1, 2, 3, 4)


@pytest.mark.parametrize("attend", ALL)
def test_bad_shapes_and_options(attend: Callable[..., torch.Tensor]) -> None:
    for call, message in (
        (lambda: attend(ONE, ONE[:, :1], ONE), "k must have shape"),
        (lambda: attend(ONE, ONE, ONE[:, :, :2]), "v must have shape"),
        (lambda: attend(ONE[:, :, :2], ONE, ONE, causal=True), "as many keys"),
        (lambda: attend(ONE, ONE, ONE, chunk_size=0), "chunk_size must be"),
        (lambda: attend(ONE, ONE, ONE, eps=-1.0), "eps must be"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_attention(ONE, ONE, ONE, kind="softmax"), "kind must be one of 'elu1', 'relu'"),
        (
            lambda: performer_attention(ONE, ONE, ONE, projection=torch.ones(3, 3)),
            r"shape \(m, 4\), got \(3, 3\)",
        ),
        (lambda: performer_attention(ONE, ONE, ONE, projection=torch.ones(3, 4), num_features=3), "not both"),
        (lambda: performer_attention(ONE, ONE, ONE, num_features=0), "num_features must be"),
        (lambda: focused_linear_attention(ONE, ONE, ONE, power=0.0), "power must be"),
        (
            lambda: focused_linear_attention(ONE, ONE, ONE, scale=torch.ones(2, 4)),
            r"scale must have .* \(2, 1, 4\)",
        ),
        (lambda: pola_linear_attention(ONE, ONE, ONE[..., :3]), "even number of channels, got 3"),
        (
            lambda: pola_linear_attention(ONE, ONE, ONE, power_logits=torch.ones(1, 1, 4)),
            "power_logits must have",
        ),
    ],
)
def test_bad_arguments(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
