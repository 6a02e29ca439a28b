"""The reference models: a NumPy forward, caches that change no logits, truncation, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.decoding import ByteLSTM, CachedLM, CharTransformer, TokenCache

MODELS = {
    "transformer": lambda: CharTransformer(vocab=11, width=12, depth=2, heads=3, context=40),
    "lstm": lambda: ByteLSTM(vocab=11, width=6, depth=2),
    "lstm-1": lambda: ByteLSTM(vocab=11, width=6),
}


def built(name: str, dtype: torch.dtype = torch.float32) -> CharTransformer | ByteLSTM:
    torch.manual_seed(0)
    model = MODELS[name]().to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def text(n: int, batch: int = 1) -> Tensor:
    return torch.randint(11, (batch, n), generator=torch.Generator().manual_seed(n))


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().double().numpy() for name, p in model.named_parameters()}


def layer_norm(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def affine(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def numpy_transformer(model: CharTransformer, tokens: list[int]) -> np.ndarray:
    """Position by position, head by head."""
    w = arrays(model)
    xs = [w["embedding.weight"][t] + w["positions.weight"][i] for i, t in enumerate(tokens)]
    for b in range(model.depth):
        at = f"blocks.{b}"
        q, k, v = ([], [], [])
        for x in xs:
            pieces = np.split(affine(layer_norm(x, w, f"{at}.norm1"), w, f"{at}.qkv"), 3)
            for part, piece in zip((q, k, v), pieces, strict=True):
                part.append(piece.reshape(model.heads, -1))
        for i, x in enumerate(xs):
            heads = []
            for h in range(model.heads):
                scores = np.array([q[i][h] @ k[j][h] / math.sqrt(len(q[i][h])) for j in range(i + 1)])
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                heads.append(sum(a * v[j][h] for j, a in enumerate(weights)))
            x = x + affine(np.concatenate(heads), w, f"{at}.out")
            hidden = affine(layer_norm(x, w, f"{at}.norm2"), w, f"{at}.mlp.0")
            gelu = np.array([0.5 * z * (1 + math.erf(z / math.sqrt(2))) for z in hidden])
            xs[i] = x + affine(gelu, w, f"{at}.mlp.2")
    return np.stack([affine(layer_norm(x, w, "norm"), w, "head") for x in xs])


def numpy_lstm(model: ByteLSTM, tokens: list[int]) -> np.ndarray:
    """Token by token; gates in PyTorch's order i, f, g, o."""
    w = arrays(model)

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    h = np.zeros((model.depth, model.width))
    c = np.zeros((model.depth, model.width))
    logits = []
    for token in tokens:
        x = w["embedding.weight"][token]
        for layer in range(model.depth):
            at = f"cells.{layer}"
            gates = w[f"{at}.weight_ih"] @ x + w[f"{at}.bias_ih"] + w[f"{at}.weight_hh"] @ h[layer]
            i, f, g, o = np.split(gates + w[f"{at}.bias_hh"], 4)
            c[layer] = sigmoid(f) * c[layer] + sigmoid(i) * np.tanh(g)
            h[layer] = sigmoid(o) * np.tanh(c[layer])
            x = h[layer]
        logits.append(affine(x, w, "head"))
    return np.stack(logits)


@pytest.mark.parametrize("name", MODELS)
def test_equals_a_numpy_forward(name: str) -> None:
    model = built(name, torch.float64)
    tokens = text(23)
    reference = numpy_transformer if name == "transformer" else numpy_lstm
    ours = model(tokens)[0][0].detach().numpy()
    np.testing.assert_allclose(ours, reference(model, tokens[0].tolist()), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cuts", [range(1, 30), (7, 8, 21), (29,)])
def test_check_7_cached_logits_equal_uncached_ones(name: str, cuts) -> None:
    model, tokens = built(name), text(30, batch=2)
    whole, _ = model(tokens)
    cache, pieces, start = None, [], 0
    for end in (*cuts, 30):
        logits, cache = model(tokens[:, start:end], cache)
        assert cache.length == end
        pieces.append(logits)
        start = end
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_truncated_cache_continues_another_text(name: str) -> None:
    model, tokens, other = built(name), text(20), text(21)
    _, cache = model(tokens)
    for n in (13, 5, 0):
        cache.truncate(n)
        assert cache.length == n
        logits, longer = model(other[:, n:], cache)
        assert cache.length == n, "the cache given stays as it was"
        assert longer.length == 21
        mixed = torch.cat((tokens[:, :n], other[:, n:]), 1)
        torch.testing.assert_close(logits, model(mixed)[0][:, n:], rtol=0, atol=1e-5)
    for n in (1, -1):
        with pytest.raises(ValueError, match=r"\bn\b"):
            cache.truncate(n)


@pytest.mark.parametrize("name", MODELS)
def test_no_token_looks_ahead(name: str) -> None:
    model, tokens = built(name), text(12)
    changed = tokens.clone()
    changed[0, 8:] = (changed[0, 8:] + 1) % 11
    with torch.no_grad():
        first, second = model(tokens)[0], model(changed)[0]
    torch.testing.assert_close(first[:, :8], second[:, :8], rtol=0, atol=1e-6)
    assert float((first[:, 8:] - second[:, 8:]).abs().min(-1).values.max()) > 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_they_learn(name: str) -> None:
    model = built(name)
    tokens = (torch.arange(24)[None] + torch.arange(4)[:, None]) % 11  # the next token is one higher
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(tokens[:, :-1])[0].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None for p in model.parameters())
    assert loss.item() < 0.5 * math.log(11)


def test_sizes_of_the_demonstration() -> None:
    assert CharTransformer(36, 16, 1, 2, context=64).num_parameters == 5524
    assert CharTransformer(36, 64, 2, 4, context=64).num_parameters == 108_836
    lstm = ByteLSTM(256, 32, depth=2)
    assert lstm.num_parameters == 256 * 32 + 2 * (2 * 4 * 32 * 32 + 2 * 4 * 32) + 33 * 256
    assert lstm.num_parameters == sum(p.numel() for p in lstm.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_they_are_what_decoders_ask_for(name: str) -> None:
    model = built(name)
    assert isinstance(model, CachedLM)
    assert isinstance(model(text(2))[1], TokenCache)
    assert model.vocab_size == 11
    assert model.context == (40 if name == "transformer" else None)
    assert "width=" in repr(model)
    logits, cache = model(text(3)[:, :0])
    assert (logits.shape, cache.length) == ((1, 0, 11), 0)


def test_the_context_is_full_but_not_exceeded() -> None:
    model = built("transformer")
    _, cache = model(text(40))
    with pytest.raises(ValueError, match="context"):
        model(text(1), cache)
    with pytest.raises(ValueError, match="context"):
        model(text(41))
    assert built("lstm")(text(100))[1].length == 100


@pytest.mark.parametrize("name", MODELS)
def test_tokens_have_two_axes(name: str) -> None:
    with pytest.raises(ValueError, match="tokens"):
        built(name)(text(4)[0])


@pytest.mark.parametrize("option", ["vocab", "width", "depth", "heads", "context"])
def test_sizes_are_at_least_one(option: str) -> None:
    options = {"vocab": 5, "width": 4, "depth": 1, "heads": 2, "context": 8, option: 0}
    with pytest.raises(ValueError, match=option):
        CharTransformer(**options)
    if option in ("vocab", "width", "depth"):
        with pytest.raises(ValueError, match=option):
            ByteLSTM(**{name: options[name] for name in ("vocab", "width", "depth")})


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads"):
        CharTransformer(5, 4, 1, 3, 8)
