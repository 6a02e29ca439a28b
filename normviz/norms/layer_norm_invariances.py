"""What batch, weight and layer norm are invariant to, measured ("Layer Normalization", arXiv 1607.06450, sec. 5.1).

transformation                           batch norm   weight norm   layer norm
W -> d W            weight_matrix_rescale    yes          yes           yes
W -> W + 1 v^T      weight_matrix_recenter   no           no            yes
one row of W -> d   weight_vector_rescale    yes          yes           no
X -> d X            dataset_rescale          yes          no            yes
X -> X + 1 c^T      dataset_recenter         yes          no            no
one row of X -> d   single_case_rescale      no           no            yes
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from normviz.norms.layer_norm import standardize
from normviz.validation import check_integer, check_real

__all__ = ["invariance_gaps", "invariance_table"]


def _batch_norm(X: Tensor, W: Tensor) -> Tensor:
    A = F.linear(X, W)
    return (A - A.mean(0)) / A.var(0, correction=0).sqrt()


def _weight_norm(X: Tensor, W: Tensor) -> Tensor:
    return F.linear(X, W / torch.linalg.vector_norm(W, dim=1, keepdim=True))


def _layer_norm(X: Tensor, W: Tensor) -> Tensor:
    return standardize(F.linear(X, W), 0.0)[0]


_NORMALISERS = {"batch_norm": _batch_norm, "weight_norm": _weight_norm, "layer_norm": _layer_norm}


def invariance_gaps(
    X: Tensor, W: Tensor, *, delta: float, v: Tensor, c: Tensor
) -> dict[str, dict[str, float]]:
    """How much each normaliser's output moves under each transformation of the paper's invariance table.

    The layer is ``X W^T`` without gain, bias and nonlinearity, with eps = 0.

    Args:
        X: data set (N, I), one case per row.
        W: weights (H, I), one neuron per row.
        delta: factor of the re-scalings, positive (a negative one turns signs over).
        v: (I,), added to every row of W (weight_matrix_recenter).
        c: (I,), added to every case (dataset_recenter).

    Returns:
        ``gaps[normaliser][transformation]``: largest absolute change of an output, 0 (up to rounding) where the
        normaliser is invariant. ``weight_vector_rescale`` scales the first neuron only, ``single_case_rescale`` the
        first case only.
    """
    first_neuron, first_case = W.clone(), X.clone()
    first_neuron[0] *= delta
    first_case[0] *= delta
    transformed = {
        "weight_matrix_rescale": (X, delta * W),
        "weight_matrix_recenter": (X, W + v),
        "weight_vector_rescale": (X, first_neuron),
        "dataset_rescale": (delta * X, W),
        "dataset_recenter": (X + c, W),
        "single_case_rescale": (first_case, W),
    }
    return {
        name: {
            key: float((normaliser(*pair) - normaliser(X, W)).abs().max())
            for key, pair in transformed.items()
        }
        for name, normaliser in _NORMALISERS.items()
    }


def invariance_table(tol: float = 1e-8, seed: int = 0) -> dict[str, dict[str, bool]]:
    """The paper's invariance table (section 5.1), measured on random weights and data in float64.

    Args:
        tol: largest change of an output that still counts as invariant. Default 1e-8 (rounding is near 1e-14,
            true changes are of order 1).
        seed: of the random X, W, v, c. Default 0.

    Returns:
        ``table[normaliser][transformation]``, True where invariant. Normalisers ``batch_norm``, ``weight_norm``,
        ``layer_norm``; transformations ``weight_matrix_rescale``, ``weight_matrix_recenter``,
        ``weight_vector_rescale``, ``dataset_rescale``, ``dataset_recenter``, ``single_case_rescale``.

    Raises:
        ValueError: ``tol`` not positive, ``seed`` not an integer >= 0.
    """
    check_real("tol", tol, 0, low_open=True)
    generator = torch.Generator().manual_seed(check_integer("seed", seed, 0))
    X, W, v, c = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((16, 5), (8, 5), (5,), (5,))
    )
    gaps = invariance_gaps(X, W, delta=3.0, v=v, c=c)
    return {name: {key: gap <= tol for key, gap in row.items()} for name, row in gaps.items()}
