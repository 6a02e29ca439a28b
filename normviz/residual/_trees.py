r"""The levels of the expansion as sums over trees of directional derivatives.

T_k = sum over trees of k nodes of F(tau) / sigma(tau), where F(root j; subtrees tau_1..tau_m) =
f_j^{(m)}(x)[F(tau_1), ..., F(tau_m)], the subtrees' roots lie below j in the tower, and sigma is the product of the
factorials of the multiplicities of equal subtrees. f_j^{(m)} is linear in each slot, so the trees with root j whose m
subtrees have sizes s_1 <= .. <= s_m (a partition of k - 1) are summed at once:

    G_k(j) = sum over partitions  1 / (multiplicities!)  f_j^{(m)}(x)[S_{s_1}(j), ..., S_{s_m}(j)],
    S_s(j) = sum_{i<j} G_s(i),     T_k = S_k(n + 1).

Nothing is shared with the series of ``_jets.py``, which these sums are there to check.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from normviz.residual._forward_ad import elementary_norms, jvp

__all__ = ["composed_coefficient", "directional_derivative", "tree_sums"]

Map = Callable[[Tensor], Tensor]


def directional_derivative(f: Map, x: Tensor, directions: Sequence[Tensor]) -> Tensor:
    """f^{(m)}(x)[v_1, ..., v_m] by m nested levels of forward-mode AD; f(x) without directions."""

    def derivative(g: Map, v: Tensor) -> Map:
        def along(y: Tensor) -> Tensor:
            return jvp(g, (y,), (v,))[1]

        return along

    for v in directions:
        f = derivative(f, v)
    with elementary_norms():
        return f(x)


def partitions(total: int, smallest: int = 1) -> Iterator[tuple[int, ...]]:
    """All ways to write ``total`` as a sum of non-decreasing positive integers."""
    if total == 0:
        yield ()
    for first in range(smallest, total + 1):
        for rest in partitions(total - first, first):
            yield (first, *rest)


def composed_coefficient(f: Map, x: Tensor, series: Sequence[Tensor], k: int) -> Tensor:
    """Coefficient k of f(x + sum_{s >= 1} z^s series[s]); ``series[0]`` is not used."""
    total: Tensor | None = None
    for sizes in partitions(k):
        symmetry = math.prod(math.factorial(count) for count in Counter(sizes).values())
        term = directional_derivative(f, x, [series[s] for s in sizes]) / symmetry
        total = term if total is None else total + term
    assert total is not None  # every k >= 0 has a partition
    return total


def tree_sums(modules: Sequence[Map], scales: Sequence[Tensor] | None, x: Tensor, order: int) -> list[Tensor]:
    """T_0..T_order for the modules scales[j] * modules[j] (bare without scales), T_0 = x."""
    S = [x] + [x.new_zeros(x.shape)] * order
    for j, f in enumerate(modules):
        G = [composed_coefficient(f, x, S, k) for k in range(order)]  # G[k]: trees of k + 1 nodes with root j
        if scales is not None:
            G = [scales[j] * g for g in G]
        S = [x, *(s + g for s, g in zip(S[1:], G, strict=True))]
    return S
