"""Row entropy of attention, and what it has to do with the norms of queries and keys (arXiv 2506.21137).

A row of attention weights with low entropy looks at few tokens. Softmax takes the norm of the query as a temperature,
so that long queries have sharp rows; a kernel from which the norm cancels cannot. Two measurements tell:

- the correlation of entropy and norm over the rows that occur, which may also come from what long queries have in
  common otherwise;
- the response: what happens to the entropy of the same rows when nothing but the norm of their queries is doubled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normviz.attention import attention_weights, positive_sequence_entropy
from normviz.frame import Value
from normviz.probes.probe import Probe

__all__ = ["AttentionEntropy", "attention_rows", "entropy_norm_correlation", "row_entropy"]

Weights = Callable[[Tensor, Tensor], Tensor]
"""Maps q and k, each (B, h, N, d), to non-negative weights (B, h, N, N)."""


def row_entropy(weights: Tensor, *, causal: bool = False) -> Tensor:
    """Entropy of every row as a share of the greatest possible one, log of the number of keys that the row sees.

    0: one token has all the weight; 1: all have the same. The first row of causal attention, which sees one key only,
    has no such share: NaN.

    Args:
        weights: (..., N, M), not negative; rows need not sum to one.
        causal: row i sees the keys 0..i only (False).

    Returns:
        (..., N).

    Raises:
        ValueError: a negative weight, or a single key.
    """
    n, m = weights.shape[-2:]
    if m < 2:
        raise ValueError(f"weights must have at least two keys, got {m}.")
    entropy = positive_sequence_entropy(weights)
    if not causal:
        return entropy / math.log(m)
    seen = torch.arange(1, n + 1, device=weights.device, dtype=entropy.dtype)
    return torch.where(seen > 1, entropy / seen.log().clamp_min(torch.finfo(entropy.dtype).tiny), math.nan)


def entropy_norm_correlation(entropy: Tensor, norm: Tensor, *, by_position: bool = False) -> float:
    """Pearson's correlation of row entropy and vector norm, head by head, averaged over the heads.

    Args:
        entropy: (B, h, N); entries that are NaN are left out.
        norm: of the queries or keys, (B, h, N).
        by_position: compare only rows at the same position of different sequences (False), for causal attention, where
            entropy depends on the position by itself. Needs more than one sequence.

    Returns:
        The correlation in [-1, 1]; NaN if all norms or all entropies of every head are equal.

    Raises:
        ValueError: the shapes differ or do not have three axes.
    """
    if entropy.ndim != 3 or entropy.shape != norm.shape:
        raise ValueError(
            f"entropy and norm must have the same shape (B, heads, N), got {tuple(entropy.shape)} and "
            f"{tuple(norm.shape)}."
        )
    found = []
    for head in range(entropy.shape[1]):
        x, y = norm[:, head].double(), entropy[:, head].double()  # (B, N)
        kept = ~y.isnan().any(0)
        x, y = x[:, kept], y[:, kept]
        if by_position:
            x, y = x - x.mean(0), y - y.mean(0)
        found.append(_pearson(x.flatten(), y.flatten()))
    known = [value for value in found if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _pearson(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    spread_x, spread_y = float(x.norm()), float(y.norm())
    rounding = 1e-6 * math.sqrt(max(len(x), 1))  # differences of this size are no variation
    if not (spread_x > rounding and spread_y > rounding):
        return math.nan
    return float(x @ y) / (spread_x * spread_y)


def attention_rows(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Weights, bool]:
    """Queries, keys, the map from both to weights, and causality of an attention layer that gets the input x.

    For layers built like :class:`normviz.models.SelfAttention`: ``heads(x)`` gives q, k, v of shape (B, h, N, d),
    ``causal`` says what it says, ``kernel`` is None for softmax or has ``weights(q, k)``.

    Raises:
        TypeError: a kernel that cannot tell its weights.
    """
    layer: Any = module
    q, k, _ = layer.heads(x)
    if layer.kernel is None:
        return q, k, lambda q, k: attention_weights(q, k, "softmax", layer.causal), layer.causal
    if not hasattr(layer.kernel, "weights"):
        raise TypeError(f"the kernel of an attention must have weights(q, k), got {layer.kernel!r}.")
    return q, k, layer.kernel.weights, bool(getattr(layer.kernel, "causal", layer.causal))


class AttentionEntropy(Probe):
    """Mean row entropy of attention layers, its correlations with |q| and |k|, its response to 2 q.

    Values, means over the layers: ``entropy`` (share of the greatest possible, see :func:`row_entropy`),
    ``entropy_q_correlation`` and ``entropy_k_correlation`` (:func:`entropy_norm_correlation`; left out where
    undefined), ``entropy_response`` (mean change of the entropy when every query is doubled), ``query_norm`` (mean).
    ``entropy_rows`` is an array (2, rows): norms and entropies of some rows of the first layer and head.

    Args:
        select: which modules are attention layers, by qualified name and module.
        every: cadence in steps.
        examples: sequences of the batch that are looked at (16 by default): the cost grows with the square of their
            length.
        rows: of ``entropy_rows`` (100 by default).
        read: how q, k and the weights of a layer are found (:func:`attention_rows` by default).

    Raises:
        ValueError: ``examples`` or ``rows`` is smaller than 1.

    Reference: Meng et al., "NaLaFormer: Norm-Aware Linear Attention for Transformer Models", arXiv 2506.21137;
        measures in the module's docstring.
    """

    def __init__(
        self,
        select: Callable[[str, nn.Module], bool],
        every: int = 10,
        *,
        examples: int = 16,
        rows: int = 100,
        read: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor, Weights, bool]] = attention_rows,
    ) -> None:
        super().__init__(every)
        if examples < 1 or rows < 1:
            raise ValueError(f"examples and rows must be >= 1, got {examples!r} and {rows!r}.")
        self.select, self.examples, self.rows, self.read = select, examples, rows, read

    @contextmanager
    def forward(self, model: nn.Module, values: dict[str, Value]) -> Iterator[None]:
        """Hook the selected layers; put what was measured into ``values`` on leaving."""
        inputs: list[tuple[nn.Module, Tensor]] = []

        def watch(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs.append((module, args[0].detach()[: self.examples]))

        layers = [module for name, module in model.named_modules() if self.select(name, module)]
        handles = [layer.register_forward_pre_hook(watch) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if inputs:
            with torch.no_grad():
                values.update(self._measured(inputs))

    def _measured(self, inputs: list[tuple[nn.Module, Tensor]]) -> dict[str, Value]:
        collected: dict[str, list[float]] = {}
        sample: np.ndarray | None = None
        for module, x in inputs:
            q, k, weights, causal = self.read(module, x)
            entropy = row_entropy(weights(q, k), causal=causal)  # (B, h, N)
            doubled = row_entropy(weights(2 * q, k), causal=causal)
            q_norm, k_norm = q.float().norm(dim=-1), k.float().norm(dim=-1)
            measured = {
                "entropy": float(entropy.nanmean()),
                "entropy_response": float((doubled - entropy).nanmean()),
                "query_norm": float(q_norm.mean()),
                "entropy_q_correlation": entropy_norm_correlation(entropy, q_norm, by_position=causal),
                "entropy_k_correlation": entropy_norm_correlation(entropy, k_norm, by_position=causal),
            }
            for name, value in measured.items():
                if not math.isnan(value):
                    collected.setdefault(name, []).append(value)
            if sample is None:
                pair = torch.stack((q_norm[:, 0].flatten(), entropy[:, 0].float().flatten()))
                pair = pair[:, ~pair[1].isnan()]
                chosen = torch.linspace(0, pair.shape[1] - 1, min(self.rows, pair.shape[1])).long()
                sample = pair[:, chosen.to(pair.device)].cpu().numpy()
        values: dict[str, Value] = {name: sum(of) / len(of) for name, of in collected.items()}
        if sample is not None:
            values["entropy_rows"] = sample
        return values
