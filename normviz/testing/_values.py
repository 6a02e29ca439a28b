"""What the assertions share: results taken apart into leaves, compared bit for bit or in norm; seeds; saving."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "Inputs",
    "assert_near",
    "assert_same",
    "cast",
    "leaves",
    "moved",
    "raised",
    "require",
    "saved_and_loaded",
    "seeded",
    "stacked",
    "tensors",
]

Inputs = tuple[Any, ...]
"""Positional arguments of a call: tensors, and anything else that is passed on as it is."""


def require(condition: bool, message: str) -> None:
    """Raise AssertionError with ``message`` unless ``condition``; unlike ``assert`` also under ``python -O``."""
    if not condition:
        raise AssertionError(message)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's CPU random state set to ``seed`` inside, and as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Everything in nested containers, dataclasses and modules (their state), with a readable path."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    elif is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from leaves(entry, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from leaves(entry, f"{path}[{index}]")
    else:
        yield path, value


def tensors(value: object) -> dict[str, Tensor]:
    """The tensors among :func:`leaves`, by path."""
    return {path: leaf for path, leaf in leaves(value) if isinstance(leaf, Tensor)}


def assert_same(actual: object, expected: object, what: str) -> None:
    """Raise unless both hold the same leaves: tensors and arrays bit for bit (NaN equals NaN), the rest by ``==``."""
    ours, wanted = dict(leaves(actual)), dict(leaves(expected))
    require(ours.keys() == wanted.keys(), f"{what}: {sorted(ours)} instead of {sorted(wanted)}.")
    for path, leaf in ours.items():
        other = wanted[path]
        if isinstance(leaf, Tensor) and isinstance(other, Tensor):
            torch.testing.assert_close(
                leaf.to_dense(),
                other.to_dense(),
                rtol=0,
                atol=0,
                equal_nan=True,
                msg=partial(_prefixed, f"{what}{path}: "),
            )
        elif isinstance(leaf, np.ndarray):
            np.testing.assert_array_equal(leaf, np.asarray(other), err_msg=f"{what}{path}")
        else:
            both_nan = all(isinstance(x, float) and math.isnan(x) for x in (leaf, other))
            require(both_nan or leaf == other, f"{what}{path}: {leaf!r} instead of {other!r}.")


def _prefixed(prefix: str, text: str) -> str:
    return prefix + text


SINGLE = 5.0
"""How often ``atol`` counts for a tensor of one number in :func:`assert_near`."""


def assert_near(
    actual: object, expected: object, what: str, *, rtol: float, atol: float = 0.0, dtype: bool = True
) -> None:
    """Raise unless each tensor of ``actual`` is near its counterpart in norm, other leaves equal.

    Near: ``||a - b|| <= rtol ||b|| + atol sqrt(number of elements)``, in float64; not entry by entry, because a sum
    that cancels has no small relative error. A tensor of one number (a gate's gradient) has no other entries over
    which such a sum's error averages out: there ``atol`` counts :data:`SINGLE` times.

    Args:
        actual: a nest of results.
        expected: another of the same structure.
        what: what is compared, for the message.
        rtol: relative error in norm.
        atol: root mean square error that is always allowed.
        dtype: the dtypes must agree as well.
    """
    ours, wanted = dict(leaves(actual)), dict(leaves(expected))
    require(ours.keys() == wanted.keys(), f"{what}: {sorted(ours)} instead of {sorted(wanted)}.")
    for path, a in ours.items():
        b = wanted[path]
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            a, b = torch.as_tensor(a), torch.as_tensor(b)
        require(a.shape == b.shape, f"{what}{path}: shape {tuple(a.shape)} instead of {tuple(b.shape)}.")
        require(not dtype or a.dtype == b.dtype, f"{what}{path}: {a.dtype} instead of {b.dtype}.")
        a, b = a.detach().cpu().double(), b.detach().cpu().double()
        error, size = float((a - b).norm()), float(b.norm())
        allowed = rtol * size + atol * (math.sqrt(a.numel()) if a.numel() > 1 else SINGLE)
        require(
            error <= allowed,
            f"{what}{path}: error {error:.3g} in norm, size {size:.3g}, allowed {allowed:.3g}.",
        )


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The floating tensors among ``inputs`` in ``dtype``; the rest as it is."""
    return tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)


def moved(inputs: Inputs, device: str | torch.device) -> Inputs:
    """The tensors among ``inputs`` on ``device``; the rest as it is."""
    return tuple(x.to(device) if isinstance(x, Tensor) else x for x in inputs)


def stacked(batch: Sequence[Inputs]) -> Inputs:
    """Several calls' inputs as one: each tensor stacked along a new first axis, the rest from the first call."""
    return tuple(
        torch.stack(column) if isinstance(column[0], Tensor) else column[0]
        for column in zip(*batch, strict=True)
    )


def saved_and_loaded(state: object) -> Any:
    """``state`` through a file that may hold no code: ``torch.save``, ``torch.load(weights_only=True)``."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def raised(call: Callable[[], object]) -> Exception | None:
    """The exception that ``call`` raises, None if it does not."""
    try:
        call()
    except Exception as error:
        return error
    return None
