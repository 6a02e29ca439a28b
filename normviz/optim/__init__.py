"""Optimizers, one file per paper or concept."""

from normviz.optim.param_groups import split_matrix_params

__all__ = [
    "split_matrix_params",
]
