"""Optimizers, one file per paper or concept."""

from normviz.optim.matrix_norms import (
    ColumnNorm,
    FrobeniusNorm,
    MatrixNorm,
    MaxNorm,
    RowNorm,
    SpectralNorm,
)
from normviz.optim.multinorm import (
    MultiNormGD,
    SinkGD,
    multi_normalize,
    multi_normalize_fixed_point,
    sr_sinkhorn,
)
from normviz.optim.param_groups import split_matrix_params
from normviz.optim.swan import SWAN, SWANFast, exact_whitening, grad_norm, grad_whitening, swan_update

__all__ = [
    "SWAN",
    "ColumnNorm",
    "FrobeniusNorm",
    "MatrixNorm",
    "MaxNorm",
    "MultiNormGD",
    "RowNorm",
    "SWANFast",
    "SinkGD",
    "SpectralNorm",
    "exact_whitening",
    "grad_norm",
    "grad_whitening",
    "multi_normalize",
    "multi_normalize_fixed_point",
    "split_matrix_params",
    "sr_sinkhorn",
    "swan_update",
]
