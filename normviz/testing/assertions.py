"""Checks of every kind of method: it resumes from its saved state, can be copied, and refuses bad arguments by name.

Each assertion is given ``make() -> subject`` and ``advance(subject, i) -> result`` and knows nothing else of it, so
layers, optimizers, schedulers, searches and users' own objects are tested by the same few lines.
"""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from normviz.testing._values import Inputs, assert_same, raised, require, saved_and_loaded, seeded

__all__ = [
    "Bad",
    "assert_bad_arguments_named",
    "assert_deepcopy_and_pickle",
    "assert_numbers_checked",
    "assert_resumes",
    "number_options",
]


class Stateful(Protocol):
    """What can be saved and resumed."""

    def state_dict(self) -> Any:
        """The whole state, as plain data and tensors."""

    def load_state_dict(self, state: Any) -> Any:
        """Continue from a state."""


S = TypeVar("S", bound=Stateful)
T = TypeVar("T")

UNRELATED = 1000
"""A step whose result no test looks at: it only brings an object into another state than a fresh one."""


def assert_resumes(
    make: Callable[[], S], advance: Callable[[S, int], object], *, before: int = 3, after: int = 2
) -> None:
    """A saved state continues bit for bit in another object, which had taken other steps before.

    ``before`` steps, state through ``torch.save`` and ``torch.load(weights_only=True)``, then ``after`` steps with the
    original and with the resumed one: equal results and equal final states.

    Args:
        make: builds the object; called twice, with different seeds.
        advance: takes step ``i`` of it, the same for equal ``i``, and returns what is compared (nested tensors, arrays,
            numbers, dataclasses).
        before: steps before saving.
        after: steps after loading.

    Raises:
        AssertionError: results or states differ.

    Example:
        >>> import torch
        >>> def step(layer, i):
        ...     return layer(torch.full((4, 3), float(i)))
        >>> assert_resumes(lambda: torch.nn.BatchNorm1d(3), step)
    """
    with seeded(0):
        original = make()
    with seeded(1):
        resumed = make()
    for i in range(before):
        advance(original, i)
    state = saved_and_loaded(original.state_dict())
    advance(resumed, UNRELATED)
    resumed.load_state_dict(state)
    for i in range(before, before + after):
        assert_same(advance(resumed, i), advance(original, i), f"resumed step {i}: ")
    assert_same(resumed.state_dict(), original.state_dict(), "state after the resumed steps: ")


def assert_deepcopy_and_pickle(
    make: Callable[[], T], advance: Callable[[T, int], object], *, pickles: bool = True
) -> None:
    """A deep copy, and what comes out of a pickle, continue like the original and do not disturb it.

    Args:
        make: builds the object.
        advance: takes step ``i`` of it, the same for equal ``i``, and returns what is compared.
        pickles: False: only the deep copy.

    Raises:
        AssertionError: the copy's steps differ, or change what the original does.
    """
    with seeded(0):
        original = make()
    for i in range(2):
        advance(original, i)
    copies = {"deep copy": copy.deepcopy(original)}
    if pickles:
        copies["pickle"] = pickle.loads(pickle.dumps(original))
    results = {name: [advance(other, i) for i in (2, 3)] for name, other in copies.items()}
    expected = [advance(original, i) for i in (2, 3)]
    for name, result in results.items():
        assert_same(result, expected, f"steps of the {name}: ")


# ------------------------------------------------------------------------------------------- bad arguments


@dataclass(frozen=True)
class Bad:
    """Arguments that must be refused.

    Attributes:
        options: keyword arguments over the row's own, one of them bad.
        inputs: what the call is given, if it is the call that is bad.
        names: word that the message must contain. Default: the first option's name.
        error: type of the exception.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Callable[[], Inputs] | None = None
    names: str | None = None
    error: type[Exception] = ValueError

    @property
    def name(self) -> str:
        """The word that the message must contain."""
        return self.names if self.names is not None else next(iter(self.options))


def assert_bad_arguments_named(make: Callable[..., Any], bad: Iterable[Bad]) -> None:
    """Each of ``bad`` is refused with its type of exception, and the message names the argument.

    Args:
        make: called with the options; what it returns is called with the inputs where there are any.
        bad: what must be refused.

    Raises:
        AssertionError: nothing is raised, or another exception, or the message does not name the argument.

    Example:
        >>> from normviz.norms import RMSNorm
        >>> bad = [Bad({"num_features": 0}), Bad({"num_features": 3, "eps": -1.0}, names="eps")]
        >>> assert_bad_arguments_named(RMSNorm, bad)
    """
    for case in bad:
        if case.inputs is None:
            error = raised(lambda case=case: make(**case.options))  # type: ignore[misc]
        else:
            with seeded(0):
                built, inputs = make(**case.options), case.inputs()
            error = raised(lambda built=built, inputs=inputs: built(*inputs))  # type: ignore[misc]
        _check_refusal(error, case.name, (case.error,), f"{dict(case.options) or 'these inputs'}")


def assert_numbers_checked(make: Callable[..., Any], options: Mapping[str, float]) -> None:
    """NaN is refused wherever a real number is expected, and 1.5 wherever an integer is, by name.

    Args:
        make: called with one bad option at a time.
        options: names with what must be refused (see :func:`number_options`).

    Raises:
        AssertionError: one is accepted, or refused by another exception than ValueError or TypeError, or not named.
    """
    for name, value in options.items():
        error = raised(lambda name=name, value=value: make(**{name: value}))  # type: ignore[misc]
        _check_refusal(error, name, (ValueError, TypeError), f"{name}={value}")


def number_options(method: Callable[..., Any]) -> dict[str, float]:
    """The arguments of a signature whose default is a number, with a bad value: 1.5 for integers, NaN for the others.

    An argument is an integer if its default is one (no bool) and its annotation does not say ``float``.

    Example:
        >>> def norm(num_features, groups: int = 4, eps: float = 1, affine: bool = True): ...
        >>> number_options(norm)
        {'groups': 1.5, 'eps': nan}
    """
    return {
        p.name: 1.5 if isinstance(p.default, int) and "float" not in str(p.annotation) else math.nan
        for p in inspect.signature(method).parameters.values()
        if isinstance(p.default, int | float) and not isinstance(p.default, bool)
    }


def _check_refusal(
    error: Exception | None, name: str, allowed: tuple[type[Exception], ...], given: str
) -> None:
    kinds = " or ".join(kind.__name__ for kind in allowed)
    require(error is not None, f"{given}: expected {kinds} about {name!r}, nothing was raised.")
    require(isinstance(error, allowed), f"{given}: expected {kinds} about {name!r}, got {error!r}.")
    named = re.search(rf"\b{re.escape(name)}\b", str(error)) is not None
    require(named, f"{given}: the message must name {name!r}, got {str(error)!r}.")
