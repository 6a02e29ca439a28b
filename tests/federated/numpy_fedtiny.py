"""FedTiny in NumPy for the network Linear - BatchNorm - ReLU - Linear, from the paper's equations, in float64.

Whole batches only, so that the order of samples does not matter; gradients of the adjustment are over all of a client's
data. The backward pass is written by hand.
"""

from __future__ import annotations

import math

import numpy as np

EPS = 1e-5


def forward(p, x, running=None):
    """Logits and what the backward pass needs; batch statistics unless running ones are given."""
    z = x @ p["0.weight"].T
    mean, var = (z.mean(0), z.var(0)) if running is None else running
    hat = (z - mean) / np.sqrt(var + EPS)
    a = hat * p["1.weight"] + p["1.bias"]
    h = np.maximum(a, 0)
    return h @ p["3.weight"].T + p["3.bias"], (z, mean, var, hat, a, h)


def cross_entropy(logits, y):
    top = logits - logits.max(1, keepdims=True)
    return float(-(top - np.log(np.exp(top).sum(1, keepdims=True)))[np.arange(len(y)), y].mean())


def gradients(p, x, y):
    """Of the mean cross-entropy, with respect to every entry, masked or not."""
    logits, (_, _, var, hat, a, h) = forward(p, x)
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    probability[np.arange(len(y)), y] -= 1
    d = probability / len(y)
    g = {"3.weight": d.T @ h, "3.bias": d.sum(0)}
    da = (d @ p["3.weight"]) * (a > 0)
    g["1.weight"], g["1.bias"] = (da * hat).sum(0), da.sum(0)
    dhat = da * p["1.weight"]
    dz = (dhat - dhat.mean(0) - hat * (dhat * hat).mean(0)) / np.sqrt(var + EPS)
    g["0.weight"] = dz.T @ x
    return g


def train(p, stats, masks, x, y, lr, epochs, momentum):
    """A client's epochs, one step each; returns parameters and running statistics."""
    p, (mean, var) = {n: v.copy() for n, v in p.items()}, stats
    velocity = {n: np.zeros_like(v) for n, v in p.items()}
    for _ in range(epochs):
        g = gradients(p, x, y)
        z = x @ p["0.weight"].T
        mean, var = 0.9 * mean + 0.1 * z.mean(0), 0.9 * var + 0.1 * z.var(0, ddof=1)
        for n in p:
            step = g[n] * masks[n] if n in masks else g[n]
            velocity[n] = momentum * velocity[n] + step
            p[n] = p[n] - lr * velocity[n]
    return p, (mean, var)


def select(candidates, clients):
    """Adaptive BN selection on all data in one batch: (index, losses, aggregated statistics of the chosen one)."""
    sizes = np.array([len(x) for x, _ in clients], float)
    share = sizes / sizes.sum()
    losses, kept = np.empty((len(clients), len(candidates))), []
    for c, p in enumerate(candidates):
        z = [x @ p["0.weight"].T for x, _ in clients]
        mean = sum(s * values.mean(0) for s, values in zip(share, z, strict=True))
        var = sum(s * values.var(0, ddof=1) for s, values in zip(share, z, strict=True))
        kept.append((mean, var))
        for k, (x, y) in enumerate(clients):
            losses[k, c] = cross_entropy(forward(p, x, (mean, var))[0], y)
    best = int(losses.mean(0).argmin())
    return best, losses, kept[best]


def exchange(w, mask, grads, share, count):
    """Clients upload their `count` largest gradients of inactive weights; the server averages, prunes and grows."""
    inactive = np.flatnonzero(~mask.ravel())
    total = np.zeros(mask.size)
    for g, s in zip(grads, share, strict=True):
        best = sorted(inactive, key=lambda i: (-abs(g.ravel()[i]), i))[:count]
        total[best] += s * g.ravel()[best]
    grow = sorted(inactive, key=lambda i: (-abs(total[i]), i))[:count]
    prune = sorted(np.flatnonzero(mask.ravel()), key=lambda i: (abs(w.ravel()[i]), i))[:count]
    w, mask = w.copy().ravel(), mask.copy().ravel()
    w[prune] = 0.0
    w[grow] = 0.0
    mask[prune] = False
    mask[grow] = True
    return w, mask, sorted(grow), sorted(prune)


def run(p, stats, masks, clients, *, rounds, interval, stop, rate, lr, epochs, momentum):
    """FedAvg with progressive pruning; yields (parameters, statistics, masks, grown, pruned) after every round."""
    blocks = [["0.weight"], ["3.weight"]]
    sizes = np.array([len(x) for x, _ in clients], float)
    share = sizes / sizes.sum()
    for r in range(1, rounds + 1):
        local = [train(p, stats, masks, x, y, lr, epochs, momentum) for x, y in clients]
        p = {n: sum(s * q[n] for s, (q, _) in zip(share, local, strict=True)) for n in p}
        stats = tuple(sum(s * t[i] for s, (_, t) in zip(share, local, strict=True)) for i in range(2))
        grown, pruned = {}, {}
        if r % interval == 0 and r <= stop:
            turn = (r // interval - 1) % 2
            for n in blocks[1 - turn]:
                active = int(masks[n].sum())
                count = int(rate / 2 * (1 + math.cos(math.pi * r / stop)) * active)
                count = min(count, active, masks[n].size - active)
                grads = [gradients(q, x, y)[n] for (q, _), (x, y) in zip(local, clients, strict=True)]
                w, m, grown[n], pruned[n] = exchange(p[n], masks[n], grads, share, count)
                p[n], masks = w.reshape(p[n].shape), {**masks, n: m.reshape(masks[n].shape)}
        yield p, stats, masks, grown, pruned
