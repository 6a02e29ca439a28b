"""What an optimizer says when it was given a model, or matrices of which it treats none as one."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from torch import nn
from torch.optim.optimizer import Optimizer

__all__ = ["refuse_model", "warn_if_nothing_to_do", "warn_of_fallback"]

_PACKAGE = str(Path(__file__).parent)


def refuse_model(params: object, optimizer: Optimizer, remedy: str) -> None:
    """Raise TypeError if ``params`` is a module, or holds modules.

    Args:
        params: what the constructor of ``optimizer`` was given. Iterators are left alone.
        optimizer: for its name.
        remedy: what to give instead, as code.
    """
    given = params[0] if isinstance(params, list | tuple) and params else params
    if isinstance(given, nn.Module):
        raise TypeError(
            f"params must be parameters or groups of them, got the model {type(given).__name__}: "
            f"{type(optimizer).__name__}({remedy}) takes those of a model."
        )


def warn_of_fallback(optimizer: Optimizer, rule: str, remedy: str) -> None:
    """Warn that ``optimizer`` steps every parameter by its fallback.

    Args:
        optimizer: fully built.
        rule: name of the fallback, e.g. "Adam".
        remedy: a sentence that says how to build the groups.
    """
    name = type(optimizer).__name__
    matrices = sum(p.ndim >= 2 for group in optimizer.param_groups for p in group["params"])
    warnings.warn(
        f"{name} has {matrices} parameters with two or more axes and treats none of them as a matrix: every step is "
        f"plain {rule}. {remedy}",
        UserWarning,
        stacklevel=_depth_of_caller(),
    )


def warn_if_nothing_to_do(optimizer: Optimizer) -> None:
    """Warn if no group of ``optimizer`` has a parameter."""
    if not any(group["params"] for group in optimizer.param_groups):
        warnings.warn(
            f"{type(optimizer).__name__} has no parameter, so its steps change nothing: the model has no "
            "matrix, or exclude of split_matrix_params names all of them.",
            UserWarning,
            stacklevel=_depth_of_caller(),
        )


def _depth_of_caller() -> int:
    """``stacklevel``, seen from the function that calls this one, of the first frame outside this package."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        depth, frame = depth + 1, frame.f_back
    return depth
