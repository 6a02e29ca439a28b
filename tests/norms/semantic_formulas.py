"""Norms steered by a layout in NumPy float64: loops over kernel offsets, classes and pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.norms.loan_formulas import Weights, convolve, part, relu

EPS = 1e-5


def nearest(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixel of index floor(i H' / H), as torch's "nearest"."""
    out = np.empty((*maps.shape[:2], *size))
    for i in range(size[0]):
        for j in range(size[1]):
            out[:, :, i, j] = maps[:, :, i * maps.shape[2] // size[0], j * maps.shape[3] // size[1]]
    return out


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    out = np.zeros((labels.shape[0], classes, *labels.shape[1:]))
    for index in np.ndindex(labels.shape):
        out[(index[0], labels[index], *index[1:])] = 1
    return out


def normed(x: np.ndarray, kind: str) -> np.ndarray:
    axes = (0, 2, 3) if kind == "batch" else (2, 3)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPS)


def conv(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    weight = w[f"{name}.weight"]
    return convolve(x, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)


def branch(w: Weights, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    e = relu(conv(w, "conv_shared", maps))
    return conv(w, "conv_gamma", e), conv(w, "conv_beta", e)


def linear(w: Weights, name: str, z: np.ndarray) -> np.ndarray:
    return z @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def spade(w: Weights, x: np.ndarray, maps: np.ndarray, kind: str) -> np.ndarray:
    gamma, beta = branch(w, nearest(maps, x.shape[2:]))
    return normed(x, kind) * (1 + gamma) + beta


def sstan(w: Weights, x: np.ndarray, maps: np.ndarray, z: np.ndarray, kind: str) -> np.ndarray:
    s = relu(linear(w, "style", z))
    tiled = np.ones((*s.shape, *x.shape[2:])) * s[:, :, None, None]
    gamma, beta = branch(w, np.concatenate([nearest(maps, x.shape[2:]), tiled], axis=1))
    return normed(x, kind) * (1 + gamma) + beta


def style_only(w: Weights, x: np.ndarray, z: np.ndarray, kind: str) -> np.ndarray:
    both = linear(w, "affine", relu(linear(w, "style", z)))
    gamma, beta = both[:, : x.shape[1], None, None], both[:, x.shape[1] :, None, None]
    return normed(x, kind) * (1 + gamma) + beta


def sean(w: Weights, x: np.ndarray, maps: np.ndarray, styles: np.ndarray, kind: str) -> np.ndarray:
    sigmoid: Callable[[np.ndarray], np.ndarray] = lambda t: 1 / (1 + np.exp(-t))  # noqa: E731
    small = nearest(maps, x.shape[2:])
    style_map = np.zeros((x.shape[0], styles.shape[2], *x.shape[2:]))
    for n, y, column in np.ndindex(x.shape[0], *x.shape[2:]):
        for label in range(maps.shape[1]):
            vector = relu(linear(w, f"fc.{label}", styles[n, label]))
            style_map[n, :, y, column] += small[n, label, y, column] * vector
    gamma_o, beta_o = branch(part(w, "spade"), small)
    a, b = sigmoid(w["alpha_gamma"]), sigmoid(w["alpha_beta"])
    gamma = a * conv(w, "conv_gamma", style_map) + (1 - a) * gamma_o
    beta = b * conv(w, "conv_beta", style_map) + (1 - b) * beta_o
    return normed(x, kind) * (1 + gamma) + beta


def region_means(feat: np.ndarray, maps: np.ndarray) -> np.ndarray:
    small = nearest(maps, feat.shape[2:])
    out = np.zeros((feat.shape[0], maps.shape[1], feat.shape[1]))
    for n, label in np.ndindex(*out.shape[:2]):
        pixels = [feat[n, :, i, j] for i, j in np.ndindex(feat.shape[2:]) if small[n, label, i, j]]
        if pixels:
            out[n, label] = np.mean(pixels, axis=0)
    return out
