"""How much arithmetic some work in PyTorch takes, counted operator by operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

__all__ = ["count_operations"]

_aten = torch.ops.aten

_PER_INPUT: dict[Any, int] = {
    _aten.sum: 1,
    _aten.mean: 1,
    _aten.native_layer_norm: 7,  # mean, centre, square, mean, scale, gain, bias
    _aten.native_layer_norm_backward: 11,  # u, its mean, u z, its mean, z times it, two differences, scale; dg 2, db 1
    _aten._log_softmax: 5,  # largest, difference, exp, sum, difference
    _aten._log_softmax_backward_data: 4,  # sum, exp, product, difference
}
"""Operations for each element of the first argument."""

_MOVES = (_aten.clone, _aten._to_copy)
"""Operators that PyTorch calls pointwise although they calculate nothing."""


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += _operations(func, args, kwargs or {}, result)
        return result


def _operations(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    packet = func.overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result))
    if packet in _PER_INPUT:
        return _PER_INPUT[packet] * int(args[0].numel())
    if torch.Tag.pointwise not in func.tags or packet in _MOVES:
        return 0
    return sum(t.numel() for t in tree_leaves(result) if isinstance(t, Tensor) and t.is_floating_point())


def count_operations(work: Callable[[], object]) -> int:
    """Arithmetic operations of what ``work`` does with tensors, backward passes included.

    A product of (m, k) and (k, n) counts 2 m k n, as in PyTorch's own counter of such operations; a pointwise operator
    one for each floating-point number that it puts out; a sum or mean one for each that it reads; layer normalization
    7 in the forward and 11 in the backward pass for each input, by its formulas; the logarithm of softmax 5 and 4.
    Looking up, copying, cutting and reshaping count nothing. It is a count, not a time: the same on every machine.

    Args:
        work: called once, without arguments.

    Example:
        >>> a, b = torch.ones(2, 3), torch.ones(3, 5)
        >>> count_operations(lambda: (a @ b).tanh())
        70

    Reference: none, no paper; layer normalization's formulas are those of arXiv 1607.06450.
    """
    with _Counter() as counter:
        work()
    return int(counter.operations)
