"""LaVi's formulas in NumPy float64, one text token at a time, written from the paper's description."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]
Weights = dict[str, Array]

erf = np.vectorize(math.erf)


def weights_of(module: nn.Module) -> Weights:
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def affine(w: Weights, name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def gelu(x: Array) -> Array:
    return x * (1 + erf(x / math.sqrt(2))) / 2


def swish(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def layer_norm(x: Array, weight: Array | float = 1.0, bias: Array | float = 0.0, eps: float = 1e-5) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return weight * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) + bias


def rms_norm(x: Array, weight: Array | float = 1.0, eps: float = 1e-5) -> Array:
    return weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return e / e.sum()


def attention(w: Weights, u: Array, vision: Array, heads: int) -> Array:
    """One text token u [d] over V [M, dv]: F [r]."""
    q, k, v = affine(w, "q_proj", u), affine(w, "k_proj", vision), affine(w, "v_proj", vision)
    size = len(q) // heads
    parts = []
    for h in range(heads):
        own = slice(h * size, (h + 1) * size)
        scores = np.array([q[own] @ key[own] / math.sqrt(size) for key in k])
        parts.append(sum(p * value[own] for p, value in zip(softmax(scores), v, strict=True)))
    return np.concatenate(parts)


def rows(w: Weights, u: Array, vision: Array, valid: Array | None) -> Array:
    """X [M + 1, r]."""
    of_vision = affine(w, "vision_proj", vision)
    if valid is not None:
        of_vision = of_vision * valid[:, None]
    return np.concatenate([affine(w, "text_proj", u)[None], of_vision])


def mlp(w: Weights, u: Array, vision: Array, valid: Array | None = None) -> Array:
    x = rows(w, u, vision, valid)
    normed = layer_norm(x, w["norm1.weight"], w["norm1.bias"])
    for channel in range(x.shape[1]):
        hidden = gelu(affine(w, "token_in", normed[:, channel]))
        x[:, channel] += affine(w, "token_out", hidden)
    normed = layer_norm(x, w["norm2.weight"], w["norm2.bias"])
    x = x + affine(w, "channel_out", gelu(affine(w, "channel_in", normed)))
    return x[0]


def conv(w: Weights, u: Array, vision: Array, valid: Array | None = None) -> Array:
    x = rows(w, u, vision, valid)
    kernel, bias = w["depthwise.weight"][:, 0], w["depthwise.bias"]
    half = kernel.shape[1] // 2
    z = np.zeros_like(x)
    for row in range(len(x)):
        total = bias.copy()
        for tap in range(kernel.shape[1]):
            source = row + tap - half
            if 0 <= source < len(x):
                total += kernel[:, tap] * x[source]
        z[row] = gelu(affine(w, "pointwise", x[row] + gelu(total)))
    counted = np.ones(len(x)) if valid is None else np.concatenate([[1.0], valid])
    return (z * counted[:, None]).sum(0) / counted.sum()


def pooled(w: Weights, vision: Array) -> Array:
    return affine(w, "vision_proj", vision.mean(0))


def modulated(w: Weights, t: Array, read: Array, rms: bool, eps: float = 1e-5) -> tuple[Array, Array, Array]:
    """ViLN of one token t [d] that read F [r]: the result, dgamma, dbeta."""
    d = len(t)
    t_hat = rms_norm(t, eps=eps) if rms else layer_norm(t, eps=eps)
    delta = affine(w, "head", swish(read))
    gamma, beta = w.get("weight", np.ones(d)), w.get("bias", np.zeros(d))
    return (gamma + delta[:d]) * t_hat + beta + delta[d:], delta[:d], delta[d:]
