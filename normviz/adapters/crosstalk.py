r"""How much the residuals of concepts disturb each other in one layer: by their weights, and on given inputs.

For Orthogonal Adaptation (Po, Yang, Aberman, Wetzstein 2024, arXiv 2312.02432); the two measures are derived here from
its argument. With ``D_i = s A_i B_i^T``, ``D_i D_j^T = s^2 A_i (B_i^T B_j) A_j^T`` is zero if the frames are
orthogonal. That concept j then leaves concept i alone is another statement: ``X_i D_j^T = s (X_i B_j) A_j^T`` is zero
only for inputs orthogonal to span(B_j). Of isotropic inputs a share r / n of the energy gets through, whatever the
frames are; of inputs that a trained down-projection has been fitted to, most of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from normviz.adapters._values import at_least_float32, check_matrix
from normviz.validation import check_real

__all__ = ["activation_crosstalk", "check_weights", "float64_of", "weight_crosstalk"]


def float64_of(x: Tensor) -> Tensor:
    """``x`` in float64, on the CPU if its own device has no such type."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def check_weights(weights: Sequence[float] | Tensor | None, count: int, default: float) -> list[float]:
    """One finite number per concept; None: ``default`` for each.

    Raises:
        ValueError: names ``weights``: another length, a value that is not a finite number.
    """
    if weights is None:
        return [default] * count
    values = weights.tolist() if hasattr(weights, "tolist") else weights
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        raise ValueError(
            f"weights must be a sequence of one number for each of {count} concepts, got {weights!r}."
        )
    return [
        check_real(f"weights[{i}]", w, -math.inf, math.inf, low_open=True, high_open=True)
        for i, w in enumerate(values)
    ]


def _matrices(
    name: str, tensors: Sequence[Tensor], columns: int | None = None
) -> tuple[list[Tensor], torch.dtype]:
    """Checked matrices in float64 with one number of columns, and the dtype of results."""
    given = list(tensors)
    if not given:
        raise ValueError(f"{name} must hold at least one matrix.")
    for i, x in enumerate(given):
        check_matrix(f"{name}[{i}]", x, columns=given[0].shape[-1] if columns is None else columns)
    return [float64_of(x) for x in given], at_least_float32(*given)


def _ratio(part: Tensor, whole: Tensor, otherwise: float) -> Tensor:
    """part / whole, ``otherwise`` where whole is 0."""
    zero = whole == 0
    return torch.where(zero, otherwise, part / torch.where(zero, 1.0, whole))


def weight_crosstalk(deltas: Sequence[Tensor]) -> Tensor:
    r"""``||D_i D_j^T||_F / (||D_i||_F ||D_j||_F)`` of every two residuals: 0 if they read orthogonal directions.

    Derived for the method of arXiv 2312.02432. In [0, 1]; 1 only where both have rank 1 and read the same direction.
    The diagonal is ``||D D^T||_F / ||D||_F^2``, between 1/sqrt(rank) and 1.

    Args:
        deltas: N matrices [out, in]; out may differ.

    Returns:
        [N, N], symmetric, computed in float64; at least float32. Rows and columns of a zero residual are 0.

    Raises:
        ValueError: deltas is empty, or holds something else than matrices with one number of columns.
        TypeError: not floating.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])
        >>> weight_crosstalk([a, b])
        tensor([[1.0000, 0.6000],
                [0.6000, 1.0000]])
    """
    matrices, dtype = _matrices("deltas", deltas)
    # Each is scaled to largest entry 1 first: squares of very small residuals would be 0.
    scaled = [_ratio(D, D.abs().amax(), 0.0) for D in matrices]
    units = [_ratio(D, torch.linalg.vector_norm(D), 0.0) for D in scaled]
    rows = [torch.stack([torch.linalg.vector_norm(D @ E.mT) for E in units]) for D in units]
    return torch.stack(rows).to(dtype)


def activation_crosstalk(
    deltas: Sequence[Tensor], inputs: Sequence[Tensor], weights: Sequence[float] | Tensor | None = None
) -> Tensor:
    r"""``||X_i (sum_{j != i} lambda_j D_j)^T||_F / ||X_i D_i^T||_F``: the others' response to a concept's inputs.

    Derived for the method of arXiv 2312.02432; relative to the concept's own response, which lambda does not scale.

    Args:
        deltas: N residuals D_i [out, in].
        inputs: N matrices X_i [n_i, in], the layer's inputs for concept i.
        weights: lambda_j, N finite numbers, of the disturbers. None (default): 1.

    Returns:
        [N], computed in float64; at least float32. Infinite for a concept without a response of its own.

    Raises:
        ValueError: deltas is empty, another number of inputs or weights, sizes that do not fit, a weight that is not
            finite.
        TypeError: not floating.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])
        >>> activation_crosstalk([a, b], [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])])
        tensor([3., 0.])
    """
    matrices, dtype = _matrices("deltas", deltas)
    if len({D.shape for D in matrices}) > 1:
        raise ValueError(f"deltas must have one shape, got {[tuple(D.shape) for D in matrices]}.")
    if len(inputs) != len(matrices):
        raise ValueError(
            f"inputs must hold one matrix for each of {len(matrices)} deltas, got {len(inputs)}."
        )
    Xs, inputs_dtype = _matrices("inputs", inputs, matrices[0].shape[1])
    scales = check_weights(weights, len(matrices), 1.0)
    result = []
    for i, (X, D) in enumerate(zip(Xs, matrices, strict=True)):
        # Summed without the concept itself: sum minus own would leave its rounding errors as crosstalk.
        others = torch.zeros_like(D)
        for j, E in enumerate(matrices):
            if j != i:
                others = others + scales[j] * E
        disturbance, own = (torch.linalg.vector_norm(X @ M.mT) for M in (others, D))
        result.append(_ratio(disturbance, own, math.inf))
    return torch.stack(result).to(torch.promote_types(dtype, inputs_dtype))
