"""Row entropy of attention and its relation to norms, against NumPy and hand-made rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from normviz.frame import Value
from normviz.models import SelfAttention
from normviz.probes import AttentionEntropy, attention_rows, entropy_norm_correlation, row_entropy


def watch(probe: AttentionEntropy, model: nn.Module, x: torch.Tensor) -> dict[str, Value]:
    values: dict[str, Value] = {}
    with probe.forward(model, values):
        model(x)
    return values


def is_attention(name: str, module: nn.Module) -> bool:
    return isinstance(module, SelfAttention)


def softmax_weights(q: np.ndarray, k: np.ndarray, causal: bool) -> np.ndarray:
    scores = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def shares(weights: np.ndarray, causal: bool) -> np.ndarray:
    """Entropy over the log of the number of keys, row by row."""
    out = np.full(weights.shape[:-1], np.nan)
    for at in np.ndindex(out.shape):
        seen = at[-1] + 1 if causal else weights.shape[-1]
        p = weights[at][:seen]
        if seen > 1:
            out[at] = -sum(x * math.log(x) for x in p if x > 0) / math.log(seen)
    return out


def test_entropy_of_even_and_one_hot_rows() -> None:
    rows = torch.tensor([[1.0, 1, 1, 1], [0, 5, 0, 0], [1, 1, 0, 0]])
    torch.testing.assert_close(row_entropy(rows), torch.tensor([1.0, 0.0, 0.5]), atol=1e-6, rtol=0)


def test_causal_rows_are_compared_with_the_keys_they_see() -> None:
    rows = torch.ones(4, 4).tril()
    found = row_entropy(rows, causal=True)
    assert math.isnan(float(found[0]))
    torch.testing.assert_close(found[1:], torch.ones(3), atol=1e-6, rtol=0)


def test_entropy_refuses_single_keys_and_negative_weights() -> None:
    with pytest.raises(ValueError, match="at least two keys"):
        row_entropy(torch.ones(3, 1))
    with pytest.raises(ValueError, match="negative"):
        row_entropy(torch.tensor([[1.0, -1.0]]))


def test_correlation_is_pearsons_averaged_over_heads() -> None:
    rng = np.random.default_rng(0)
    entropy, norm = rng.normal(size=(2, 3, 4, 9))
    entropy[:, :, 0] = np.nan
    expected = np.mean(
        [np.corrcoef(entropy[:, h, 1:].ravel(), norm[:, h, 1:].ravel())[0, 1] for h in range(4)]
    )
    found = entropy_norm_correlation(torch.tensor(entropy), torch.tensor(norm))
    assert found == pytest.approx(expected, abs=1e-9)


def test_correlation_by_position_ignores_what_position_does() -> None:
    rng = np.random.default_rng(1)
    position = 100 * np.arange(9.0)
    norm = rng.normal(size=(5, 1, 9))
    entropy = torch.tensor(position - norm)
    assert entropy_norm_correlation(entropy, torch.tensor(norm + position)) > 0.99
    by_position = entropy_norm_correlation(entropy, torch.tensor(norm + position), by_position=True)
    assert by_position == pytest.approx(-1.0, abs=1e-9)


def test_correlation_of_constants_is_undefined() -> None:
    assert math.isnan(entropy_norm_correlation(torch.ones(2, 1, 4), torch.rand(2, 1, 4)))
    assert math.isnan(entropy_norm_correlation(torch.full((2, 1, 4), math.nan), torch.rand(2, 1, 4)))
    with pytest.raises(ValueError, match="same shape"):
        entropy_norm_correlation(torch.ones(2, 1, 4), torch.ones(2, 1, 5))


@pytest.mark.parametrize("causal", [False, True])
def test_probe_measures_what_numpy_measures(causal: bool) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, 2, causal=causal, std=1.0)
    x = torch.randn(6, 5, 8)
    values = watch(AttentionEntropy(is_attention, examples=4, rows=7), layer, x)
    qkv = (x[:4] @ layer.qkv.weight.T + layer.qkv.bias).detach().double().numpy()
    q, k, _ = qkv.reshape(4, 5, 3, 2, 4).transpose(2, 0, 3, 1, 4)
    entropy, doubled = (shares(softmax_weights(f * q, k, causal), causal) for f in (1, 2))
    assert values["entropy"] == pytest.approx(np.nanmean(entropy), abs=1e-5)
    assert values["entropy_response"] == pytest.approx(np.nanmean(doubled - entropy), abs=1e-5)
    norms = np.linalg.norm(q, axis=-1)
    assert values["query_norm"] == pytest.approx(norms.mean(), rel=1e-5)
    correlations = []
    for h in range(2):
        a, b = norms[:, h], entropy[:, h]
        if causal:
            a, b = a[:, 1:] - a[:, 1:].mean(0), b[:, 1:] - b[:, 1:].mean(0)
        correlations.append(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert values["entropy_q_correlation"] == pytest.approx(np.mean(correlations), abs=1e-4)
    rows = values["entropy_rows"]
    assert isinstance(rows, np.ndarray)
    assert rows.shape == (2, 7)
    assert np.isfinite(rows).all()


def test_probe_leaves_a_network_without_attention_alone() -> None:
    assert watch(AttentionEntropy(is_attention), nn.Linear(3, 3), torch.ones(2, 3)) == {}
    with pytest.raises(ValueError, match="examples and rows"):
        AttentionEntropy(is_attention, examples=0)


def test_kernels_must_tell_their_weights() -> None:
    layer = SelfAttention(4, 1, kernel=lambda q, k, v: v)
    with pytest.raises(TypeError, match=r"weights\(q, k\)"):
        attention_rows(layer, torch.ones(1, 3, 4))
