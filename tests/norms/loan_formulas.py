"""LOAN and its network in NumPy float64, with loops over kernel offsets and pooling windows; no autograd, no torch."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]

EPS = 1e-5
MOMENTUM = 0.1


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


class Moments:
    """Batch norm without gain and bias, over all axes but the second, with its running statistics."""

    def __init__(self, channels: int) -> None:
        self.mean, self.var, self.batches = np.zeros(channels), np.ones(channels), 0

    def __call__(self, x: np.ndarray, training: bool = True) -> np.ndarray:
        out = np.empty_like(x)
        for c in range(x.shape[1]):
            mean, var = self.mean[c], self.var[c]
            if training:
                count = x[:, c].size
                mean = x[:, c].sum() / count
                var = ((x[:, c] - mean) ** 2).sum() / count
                self.mean[c] += MOMENTUM * (mean - self.mean[c])
                self.var[c] += MOMENTUM * (var * count / (count - 1) - self.var[c])
            out[:, c] = (x[:, c] - mean) / np.sqrt(var + EPS)
        self.batches += training
        return out


def convolve(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: Any = 1, padding: int = 0
) -> np.ndarray:
    """Cross-correlation (N, C, ...) with (O, C, ...), a loop over the offsets of the kernel."""
    dims = x.ndim - 2
    strides = (stride,) * dims if isinstance(stride, int) else stride
    x = np.pad(x, [(0, 0), (0, 0), *[(padding, padding)] * dims])
    kernel = weight.shape[2:]
    out_shape = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], kernel, strides, strict=True)]
    out = np.zeros((x.shape[0], weight.shape[0], *out_shape))
    for offset in product(*map(range, kernel)):
        window = tuple(
            slice(o, o + s * (n - 1) + 1, s) for o, s, n in zip(offset, strides, out_shape, strict=True)
        )
        out += np.einsum("nc...,oc->no...", x[(slice(None), slice(None), *window)], weight[(..., *offset)])
    return out + bias.reshape(1, -1, *[1] * dims)


def max_pool(x: np.ndarray, window: tuple[int, ...]) -> np.ndarray:
    """Maxima of windows side by side; what does not fill a window is left out."""
    sizes = [n // k for n, k in zip(x.shape[2:], window, strict=True)]
    out = np.empty((*x.shape[:2], *sizes))
    for cell in product(*map(range, sizes)):
        part = tuple(slice(i * k, (i + 1) * k) for i, k in zip(cell, window, strict=True))
        out[(slice(None), slice(None), *cell)] = x[(slice(None), slice(None), *part)].max(
            axis=tuple(range(2, x.ndim))
        )
    return out


def two_slots(x: np.ndarray) -> np.ndarray:
    """(N, C, D, H, W) -> (N, C, 2): means over pixels and over the halves of time, which share an odd middle."""
    d = x.shape[2]
    halves = [x[:, :, : (d + 1) // 2], x[:, :, d // 2 :]]
    return np.stack([half.mean(axis=(2, 3, 4)) for half in halves], axis=-1)


class Layer:
    """The LOAN layer with given weights."""

    def __init__(self, weights: Weights, norm: bool = True) -> None:
        self.weights = weights
        channels, cond_channels = weights["conv_gamma.weight"].shape[:2]
        self.norm_x = Moments(channels) if norm else None
        self.norm_cond = Moments(cond_channels)

    def __call__(self, x: np.ndarray, cond: np.ndarray, training: bool = True) -> np.ndarray:
        w = self.weights
        a = relu(self.norm_cond(cond, training))
        half = w["conv_gamma.weight"].shape[-1] // 2
        gamma = convolve(a, w["conv_gamma.weight"], w["conv_gamma.bias"], padding=half)
        beta = convolve(a, w["conv_beta.weight"], w["conv_beta.bias"], padding=half)
        xn = x if self.norm_x is None else self.norm_x(x, training)
        out = np.empty_like(x)
        for d in range(x.shape[2]):
            out[:, :, d] = xn[:, :, d] * (1 + gamma) + beta
        return out


def part(weights: Weights, name: str) -> Weights:
    """The weights of a submodule."""
    return {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}


def day_code(day: int, d: int) -> np.ndarray:
    """The row of a day, entry by entry."""
    p, row = day - 1, np.empty(d)
    for i in range(0, d, 2):
        row[i] = np.sin(p / 10 ** (2 * i / d))
        row[i + 1] = np.cos(p / 10 ** (2 * (i + 1) / d))
    return row


def affine(moments: np.ndarray, w: Weights) -> np.ndarray:
    shape = (1, -1, *[1] * (moments.ndim - 2))
    return moments * w["weight"].reshape(shape) + w["bias"].reshape(shape)


def network(
    w: Weights, fusion: str, dynamic: np.ndarray, static: np.ndarray, landcover: np.ndarray, day: list[int]
) -> np.ndarray:
    """Log-probabilities of the network in training mode without dropout."""

    def conv(name: str, x: np.ndarray, stride: Any = 1) -> np.ndarray:
        return convolve(x, w[f"{name}.weight"], w[f"{name}.bias"], stride)

    maps = np.concatenate([static, landcover], axis=1)
    if fusion == "early":
        copies = np.repeat(maps[:, :, None], dynamic.shape[2], axis=2)
        dynamic = np.concatenate([dynamic, copies], axis=1)
    else:
        s1 = conv("static_convs.0", maps)
        s2 = conv(
            "static_convs.1",
            max_pool(relu(affine(Moments(s1.shape[1])(s1), part(w, "static_norm"))), (2, 2)),
        )
        s3 = relu(conv("static_convs.2", max_pool(relu(s2), (2, 2)), 2))
    x = conv("dynamic_convs.0", dynamic)
    own_norm = part(w, "dynamic_norm")
    x = Layer(part(w, "loan1"))(x, s1) if fusion == "loan" else affine(Moments(x.shape[1])(x), own_norm)
    x = conv("dynamic_convs.1", max_pool(relu(x), (1, 2, 2)))
    if fusion == "loan":
        x = Layer(part(w, "loan2"), norm=False)(x, s2)
    x = relu(conv("dynamic_convs.2", max_pool(relu(x), (2, 2, 2)), (1, 2, 2)))
    features = two_slots(x).reshape(len(x), -1)
    codes = np.stack([day_code(d, features.shape[1]) for d in day])
    features = features + codes * (1 + w["time.scale"])
    if fusion != "early":
        features = np.concatenate([features, s3.mean(axis=(2, 3))], axis=1)
    layers = sum(key.startswith("head.") and key.endswith("weight") for key in w)
    for i in range(layers):
        features = features @ w[f"head.{i}.weight"].T + w[f"head.{i}.bias"]
        features = relu(features) if i < layers - 1 else features
    shifted = features - features.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
