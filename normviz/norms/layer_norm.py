r"""Layer Normalization, with its recurrent forms and the invariance analysis.

J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", 2016, arXiv 1607.06450.
Authors' code: ryankiros/layer-norm (Theano ``layers.py``, Lua modules).

Batch norm takes mean and variance of one neuron over the cases of a batch; layer norm takes them of one case over
all neurons of the layer. No state, the same computation in training and inference, any batch size, and in a
recurrent net fresh statistics at every time step with one gain and bias shared over time.

Notation: ``a`` summed inputs before the nonlinearity (..., H), ``mu`` and ``sigma`` their mean and (biased) standard
deviation over the H neurons, ``g`` gain (``weight``), ``b`` bias, ``s = sqrt(sigma^2 + eps)``, ``z = (a - mu) / s``.

    y = g z + b                                                          LayerNorm
    da = (u - mean(u) - z mean(u z)) / s,   u = g dy                     LayerNormFunction.backward
    h_t = f(LN(W_hh h + W_ih x))                                         LayerNormRNNCell
    pre = LN(W_hh h) + LN(W_ih x) + bias;   h_t = sigmoid(o) tanh(LN(c_t))   LayerNormLSTMCell
    n = tanh(LN(W_ih^n x) + r LN(W_hh^n h)); h_t = z h + (1 - z) n       LayerNormGRUCell

Where paper and code differ: ``eps`` stands inside the root (Python code and torch; the Lua module adds it to sigma).
The LSTM adds its bias once, after the two norms (paper; the code adds the same parameter before as well), and carries
the un-normalised cell. In the GRU ``z`` keeps the old state (code and torch; the paper's appendix writes 1 - z). Gates
are ordered i, f, g, o (torch; the code: i, f, o, g). At padded steps the states are held (code).

For convolutions the paper reports that layer norm helps over no norm but is worse than batch norm: units at the
border of an image have other statistics than the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms._layer_norm_core import LayerNorm, LayerNormFunction, norm_statistics, standardize
from normviz.norms._layer_norm_recurrent import (
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LayerNormRNN,
    LayerNormRNNCell,
)
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "LayerNorm",
    "LayerNormFunction",
    "LayerNormGRU",
    "LayerNormGRUCell",
    "LayerNormLSTM",
    "LayerNormLSTMCell",
    "LayerNormLinear",
    "LayerNormRNN",
    "LayerNormRNNCell",
    "invariance_gaps",
    "invariance_table",
    "norm_statistics",
]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "identity": lambda a: a,
}


class LayerNormLinear(nn.Module):
    """The paper's feed-forward layer ``h = f(LN(W x))``: Linear without bias, layer norm, nonlinearity.

    The Linear has no bias since the norm has one (and takes away the mean anyway).

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        activation: "tanh" (default), "relu", "gelu", "sigmoid", "identity", or any callable on tensors.
        eps: of the norm. Default 1e-5 (authors' code).

    Raises:
        ValueError: unknown activation name, sizes below 1.
        TypeError: ``activation`` neither a string nor callable.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str | Callable[[Tensor], Tensor] = "tanh",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_integer("in_features", in_features, 1)
        check_integer("out_features", out_features, 1)
        if isinstance(activation, str):
            activation = _ACTIVATIONS[check_choice("activation", activation, _ACTIVATIONS)]
        elif not callable(activation):
            raise TypeError(f"activation must be a string or a callable, got {type(activation).__name__}.")
        self.linear = nn.Linear(in_features, out_features, bias=False)
        self.norm = LayerNorm(out_features, eps)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features)."""
        h: Tensor = self.activation(self.norm(self.linear(x)))
        return h


# ------------------------------------------------------------------------------------------------------ invariance


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
