r"""The Residual Expansion Theorem: a residual tower as a sum over an ensemble of paths, level by level.

B. Dherin, M. Munn, "On residual network depth", 2025, arXiv 2510.03470. No official code. The paper states the orders
up to lam^2; the general theorem here is derived from the same recursion and agrees with it there.

For h_n(lam) = (1 + lam f_n) o ... o (1 + lam f_1)(x) = sum_k lam^k T_k:

- affine modules f_i(h) = W_i h + b_i, exact and finite:
  T_k = sum_{i_1 < ... < i_k} W_{i_k} ... W_{i_2} f_{i_1}(x), C(n, k) summands; the later module is the outer one.
- smooth modules, up to O(lam^{K+1}): T_1 = sum_i f_i(x), T_2 = sum_{i<j} f_j'(x)[f_i(x)],
  T_3 = sum_{i<j<l} (f_l'[f_j'[f_i]] + f_l''[f_i, f_j]) + 1/2 sum_{i<l} f_l''[f_i, f_i], and in general one term per
  tree of k modules with children below their parents (``_trees.py``).
- ReLU modules are affine around x: the affine formula with their Jacobians at x is exact for every lam below the first
  crossing of a kink.

=====================================================  ==================================================
T_k from power series in lam (``_jets.py``)             ``expansion_terms(method="jet")``
T_k^{(i)} = T_k^{(i-1)} + W_i T_{k-1}^{(i-1)} (+ b_i)     ``expansion_terms(method="linear")``
T_k as sums over trees (``_trees.py``)                  ``expansion_terms(method="trees")``
decoder(sum_{k <= K} lam^k T_k)                         ``truncated_forward``
C(n, k) lam^k                                           ``level_coefficients``
mean_b |lam^k T_k|                                      ``level_contributions``
log |h_n - sum_{k <= K}| ~ (K + 1) log lam              ``remainder_slope``
single paths of the ensemble                            ``sample_paths``
counts and bounds                                       ``counting.py``, exported here as well
=====================================================  ==================================================

Modules must be deterministic. torch's batch norms in training mode use the batch's statistics, without moving the
running ones; other modules with running statistics belong in eval mode. A module built on a torch.autograd.Function
has no right expansion beyond order 2: torch takes nested forward derivatives of one as 0 (pytorch/pytorch#197867).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm

from normviz.residual._forward_ad import jvp
from normviz.residual._jets import module_series
from normviz.residual._tower import ResidualTower
from normviz.residual._trees import composed_coefficient, tree_sums
from normviz.residual.counting import (
    ensemble_size,
    expected_norm_ratio,
    level_weights,
    path_count,
    remainder_bound,
    tree_count,
)
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "ensemble_size",
    "expansion_terms",
    "expected_norm_ratio",
    "level_coefficients",
    "level_contributions",
    "path_count",
    "remainder_bound",
    "remainder_slope",
    "sample_paths",
    "tree_count",
    "truncated_forward",
]

_LARGEST_ORDER: dict[str, float] = {"jet": 12, "linear": math.inf, "trees": 4}
_KINKED = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Hardtanh)


def expansion_terms(
    tower: ResidualTower,
    x: Tensor,
    order: int,
    method: str = "jet",
    scaled: bool = False,
    decoder: bool = False,
) -> Tensor:
    """The levels T_0..T_K of the expansion around h_0 = encoder(x), T_0 = h_0.

    Args:
        tower: n residual modules.
        x: input of the encoder, (B, ...).
        order: K >= 0.
        method: "jet" (default): truncated power series, exact, order <= 12; layers without a rule go through nested
            forward-mode AD, at two to four times the cost per order. "linear": the recursion for nn.Linear modules,
            any order. "trees": sums over trees of directional derivatives, order <= 4, independent of "jet".
        scaled: False (default): bare modules f_i, the tower's scales ignored; h_n = sum_k lam^k T_k for one lam. True:
            modules lam_i f_i, so that the levels sum to the tower's own h_n; equal to lam^k T_k for equal scales, and
            the only form with a meaning for unequal ones. A SkipInit's alpha is part of its module in both.
        decoder: the coefficients of decoder(h_n(lam)) instead (False). Order 1 is g'[T_1], order 2
            g'[T_2] + 1/2 g''[T_1, T_1].

    Returns:
        (order + 1, B, d), or (order + 1, B, C, H, W) for images; differentiable like the tower.

    Raises:
        ValueError: order < 0 or above the method's limit, unknown method, decoder=True without a decoder, a module
            that changes the shape.
        TypeError: "linear" on a module that is not an nn.Linear.

    Warns:
        UserWarning: a ReLU (or a relative of it) in a module, or in the decoder if expanded: the levels are those of
            the affine pieces around h_0.

    Example:
        >>> from normviz.residual import ResidualTower
        >>> tower = ResidualTower([nn.Linear(3, 3, bias=False) for _ in range(2)], scale="one")
        >>> W1, W2 = (block.weight for block in tower.blocks)
        >>> T = expansion_terms(tower, torch.eye(3), 2)
        >>> torch.allclose(T[2], (W2 @ W1).T), torch.allclose(T.sum(0), tower(torch.eye(3)))
        (True, True)
    """
    check_choice("method", method, _LARGEST_ORDER)
    check_integer("order", order, 0, _LARGEST_ORDER[method])
    if decoder and tower.decoder is None:
        raise ValueError("decoder=True needs a tower with a decoder, got decoder=None.")
    if method == "linear":
        _check_linear(tower)
    _warn_of_kinks([*tower.blocks, tower.decoder] if decoder else tower.blocks)
    scales = tower.scales if scaled else torch.ones_like(tower.scales)
    with _frozen_batch_statistics(tower):
        h0 = tower.encode(x)
        if method == "trees":
            return _tree_terms(tower, h0, order, scales, decoder)
        levels = _linear_terms if method == "linear" else _jet_terms
        T = levels(tower, h0, order, scales)
        return module_series(tower.decoder, T) if decoder and tower.decoder is not None else T


def _jet_terms(tower: ResidualTower, h0: Tensor, order: int, scales: Tensor) -> Tensor:
    """h_i(z) = h_{i-1}(z) + z lam_i f_i(h_{i-1}(z)) in power series of z."""
    T = torch.cat([h0[None], h0.new_zeros(order, *h0.shape)])  # (K+1, B, ...)
    if order == 0:
        return T
    for i, block in enumerate(tower.blocks):
        f = module_series(block, T[:-1])
        _check_shape(i, f[0], h0)
        T = torch.cat([T[:1], T[1:] + scales[i] * f])
    return T


def _linear_terms(tower: ResidualTower, h0: Tensor, order: int, scales: Tensor) -> Tensor:
    """T_k^{(i)} = T_k^{(i-1)} + W_i T_{k-1}^{(i-1)}, with b_i in level 1; levels above n are exactly zero."""
    K = min(order, len(tower.blocks))
    T = torch.cat([h0[None], h0.new_zeros(K, *h0.shape)])  # (K+1, B, d)
    for i, block in enumerate(tower.blocks if K else ()):
        assert isinstance(block, nn.Linear)
        f = torch.cat([block(T[:1]), nn.functional.linear(T[1:-1], block.weight)])
        _check_shape(i, f[0], h0)
        T = torch.cat([T[:1], T[1:] + scales[i] * f])
    return torch.cat([T, h0.new_zeros(order - K, *h0.shape)])


def _tree_terms(tower: ResidualTower, h0: Tensor, order: int, scales: Tensor, decoder: bool) -> Tensor:
    if order:
        for i in range(len(tower.blocks)):
            tower.branch(i, h0)
    T = tree_sums(list(tower.blocks), scales.unbind(), h0, order)
    if decoder and tower.decoder is not None:
        T = [composed_coefficient(tower.decoder, h0, T, k) for k in range(order + 1)]
    return torch.stack(T)


def truncated_forward(tower: ResidualTower, x: Tensor, order: int, scale: float | None = None) -> Tensor:
    """decoder(sum_{k <= order} lam^k T_k): the tower's output without its paths through more than ``order`` modules.

    Args:
        tower: the tower; nn.Linear modules go through "linear" (any order), others through "jet" (order <= 12).
        x: input of the encoder, (B, ...).
        order: last level kept. 0 is decoder(encoder(x)), 1 is linear in the modules.
        scale: None (default): the tower's own scales; a number replaces them all.

    Returns:
        The decoder's output, or the sum without a decoder.

    Raises:
        ValueError: as :func:`expansion_terms`; scale is NaN.
    """
    if scale is None:
        h = expansion_terms(tower, x, order, _exact_method(tower), scaled=True).sum(0)
    else:
        check_real("scale", scale)
        h = _evaluated(expansion_terms(tower, x, order, _exact_method(tower)), scale)
    if tower.decoder is not None:
        h = tower.decoder(h)
    return h


def level_coefficients(n: int, lam: float, order: int | None = None) -> Tensor:
    """c_k = C(n, k) lam^k, the weight of the average path of level k, by log-gamma (see ``level_weights``).

    Args:
        n: number of modules.
        lam: scale; 0 gives (1, 0, 0, ..), a negative one alternating signs.
        order: last k (n); c_k = 0 for k > n.

    Returns:
        float64 (order + 1,).

    Raises:
        ValueError: n < 1, order < 0, lam not finite.

    Example:
        >>> level_coefficients(100, 0.01, 3).round(decimals=4)
        tensor([1.0000, 1.0000, 0.4950, 0.1617], dtype=torch.float64)
    """
    return torch.from_numpy(level_weights(n, lam, order))


def level_contributions(tower: ResidualTower, x: Tensor, order: int) -> Tensor:
    """How much each level adds to h_n: the batch mean of the Euclidean norm of the scaled T_k.

    Args:
        tower: the tower, with its own scales.
        x: input of the encoder, (B, ...).
        order: last level; <= 12 unless all modules are nn.Linear.

    Returns:
        (order + 1,).

    Raises:
        ValueError: as :func:`expansion_terms`.
    """
    T = expansion_terms(tower, x, order, _exact_method(tower), scaled=True)
    norms: Tensor = torch.linalg.vector_norm(T.flatten(2), dim=2)  # (K+1, B)
    return norms.mean(1)


def remainder_slope(tower: ResidualTower, x: Tensor, order: int, lams: Sequence[float]) -> float:
    """Power of lam with which the truncated expansion fails: about order + 1 for small lam.

    Least-squares slope of log |h_n(lam) - sum_{k <= order} lam^k T_k|_F against log lam, each lam the scale of all
    modules, without the decoder. Computed on a float64 copy of the tower. An expansion that leaves no remainder (ReLU
    within its affine piece, affine modules at order >= n) gives the slope of rounding errors, and nan if one is 0.

    Args:
        tower: the tower; its own scales are not used.
        x: input of the encoder, (B, ...).
        order: K.
        lams: at least two different positive scales.

    Raises:
        ValueError: fewer than two different lams, one that is not positive and finite; as :func:`expansion_terms`.
    """
    values = [
        check_real(f"lams[{i}]", lam, 0, math.inf, low_open=True, high_open=True)
        for i, lam in enumerate(lams)
    ]
    if len(set(values)) < 2:
        raise ValueError(f"lams must hold at least two different scales, got {list(lams)}.")
    tower = copy.deepcopy(tower).double()
    x = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        T = expansion_terms(tower, x, order, _exact_method(tower))
        remainders = []
        for lam in values:
            tower.scales.fill_(lam)
            remainders.append(float((tower.features(x)[-1] - _evaluated(T, lam)).norm()))
    if 0.0 in remainders:
        return math.nan
    return float(np.polyfit(np.log(values), np.log(remainders), 1)[0])


def sample_paths(
    tower: ResidualTower, x: Tensor, k: int, n_samples: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw paths through exactly k modules and the value of each, f_{i_k}'(x)[.. f_{i_2}'(x)[f_{i_1}(x)]].

    C(n, k) * values.mean(0) is an unbiased estimate of T_k for affine modules (ReLU: locally), and of its chains alone
    for curved ones, where trees with forks belong to T_k from k = 3 on. Scales are ignored, x stands for encoder(x).

    Args:
        tower: n modules.
        x: input of the encoder, (B, ...).
        k: modules per path, 1..n.
        n_samples: paths, drawn uniformly with replacement, >= 1.
        generator: of the draws, on any device; None: torch's global one.

    Returns:
        indices (n_samples, k), int64, 0-based and ascending; values (n_samples, B, d).

    Raises:
        ValueError: k outside 1..n, n_samples < 1, a module that changes the shape.
    """
    n = len(tower.blocks)
    check_integer("k", k, 1, n)
    check_integer("n_samples", n_samples, 1)
    device = "cpu" if generator is None else generator.device
    lots = torch.ones(n_samples, n, device=device)
    indices = (
        torch.multinomial(lots, k, replacement=False, generator=generator).sort(dim=1).values.to(x.device)
    )
    with _frozen_batch_statistics(tower):
        h0 = tower.encode(x)
        first = {i: tower.branch(i, h0) for i in set(indices[:, 0].tolist())}
        values = torch.stack([first[i] for i in indices[:, 0].tolist()])  # (n_samples, B, ...)
        for position in range(1, k):
            values = _pushed_forward(tower, h0, indices[:, position], values)
    return indices, values


def _pushed_forward(tower: ResidualTower, h0: Tensor, modules: Tensor, values: Tensor) -> Tensor:
    """Row s becomes f_{modules[s]}'(h0)[values[s]]; all rows of one module at once."""
    out = values
    for i in sorted(set(modules.tolist())):

        def derivative(v: Tensor, i: int = i) -> Tensor:
            return jvp(lambda h: tower.branch(i, h), (h0,), (v,))[1]

        (rows,) = torch.nonzero(modules == i, as_tuple=True)
        out = out.index_copy(0, rows, vmap(derivative)(values[rows]))
    return out


def _evaluated(T: Tensor, lam: float) -> Tensor:
    """sum_k lam^k T_k."""
    total = T[-1]
    for term in reversed(T[:-1].unbind()):
        total = term + lam * total
    return total


def _exact_method(tower: ResidualTower) -> str:
    return "linear" if all(isinstance(block, nn.Linear) for block in tower.blocks) else "jet"


def _check_linear(tower: ResidualTower) -> None:
    for i, block in enumerate(tower.blocks):
        if not isinstance(block, nn.Linear):
            raise TypeError(
                f'method="linear" needs nn.Linear modules, got {type(block).__name__} as module {i}; use method="jet".'
            )


def _check_shape(i: int, f: Tensor, h: Tensor) -> None:
    if f.shape != h.shape:
        raise ValueError(
            f"modules must keep the shape of their input, got {tuple(f.shape)} for {tuple(h.shape)} from module {i}."
        )


def _warn_of_kinks(modules: Sequence[nn.Module | None] | nn.ModuleList) -> None:
    for module in modules:
        if module is not None and any(isinstance(part, _KINKED) for part in module.modules()):
            warnings.warn(
                "a module has a kink (ReLU or a relative): the expansion is that of the affine piece around its input.",
                UserWarning,
                stacklevel=3,
            )
            return


@contextmanager
def _frozen_batch_statistics(tower: ResidualTower) -> Iterator[None]:
    """Keep torch's batch norms in training mode from moving their running statistics."""
    training = [
        m for m in tower.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats
    ]
    for norm in training:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in training:
            norm.track_running_stats = True
