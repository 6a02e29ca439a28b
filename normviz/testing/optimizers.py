"""Checks of an optimizer, beyond its own mathematics.

Each assertion is given ``make(params, **options) -> Optimizer`` and the shapes of a few parameters, by default two
equal matrices, a tall one and a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from normviz.testing._values import assert_near, assert_same, raised, require, saved_and_loaded, seeded

__all__ = [
    "MATRICES",
    "SHAPES",
    "Training",
    "assert_batched_equals_one_by_one",
    "assert_closure",
    "assert_decreases_convex",
    "assert_follows_scheduler",
    "assert_gradients_untouched",
    "assert_maximize_climbs",
    "assert_maximize_is_checked",
    "assert_missing_gradients_skipped",
    "assert_optimizer_dtype_kept",
    "assert_param_groups",
    "assert_sparse_and_complex_refused",
    "assert_step_ignores_autocast",
    "assert_step_matches",
    "assert_tensor_rate",
]

MATRICES = ((4, 6), (4, 6), (6, 3))
SHAPES = (*MATRICES, (5,))

Make = Callable[..., Optimizer]
Shapes = Sequence[tuple[int, ...]]
Array = np.ndarray[Any, np.dtype[np.float64]]
NumpyStep = Callable[[Array, Array, dict[str, Any], int], Array]


class Training:
    """Parameters and the optimizer that moves them: what is stepped, copied, saved and resumed together.

    Args:
        make: builds the optimizer from a list of parameters.
        shapes: of the parameters, which start at random.
        dtype: of the parameters.
        seed: of their start.
        options: of ``make``.
    """

    def __init__(
        self, make: Make, shapes: Shapes, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any
    ) -> None:
        with seeded(seed):
            self.params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
        self.optimizer = make(self.params, **options)

    def set_gradients(self, i: int) -> None:
        """The random gradients of step ``i``."""
        with seeded(100 + i):
            for p in self.params:
                p.grad = torch.randn(p.shape).to(p.device, p.dtype)

    def values(self) -> list[Tensor]:
        """A copy of the parameters."""
        return [p.detach().clone() for p in self.params]

    def step(self, i: int) -> list[Tensor]:
        """One step with the gradients of step ``i``; the parameters after it."""
        self.set_gradients(i)
        self.optimizer.step()
        return self.values()

    def state_dict(self) -> dict[str, Any]:
        """Parameters and the optimizer's state."""
        return {"params": self.values(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        with torch.no_grad():
            for p, value in zip(self.params, state["params"], strict=True):
                p.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])


# ------------------------------------------------------------------------------------------- the step itself


def assert_step_matches(
    make: Make,
    numpy_step: NumpyStep,
    *,
    shape: tuple[int, ...] = (4, 6),
    steps: int = 5,
    seed: int = 0,
    rtol: float = 1e-9,
    atol: float = 1e-12,
) -> None:
    """Several steps of one float64 parameter equal an independent NumPy derivation, entry by entry.

    This is the test of a method's own mathematics; the method's own test file calls it. Write ``numpy_step`` from the
    paper's equations, with loops and textbook decompositions, not from the code.

    Args:
        make: builds the optimizer from a list of one parameter.
        numpy_step: ``(W, G, state, t) -> W`` after step t = 1, 2, …; ``state`` is a dict of its own, empty at first.
        shape: of the parameter.
        steps: how many.
        seed: of start and gradients.
        rtol: relative tolerance.
        atol: absolute tolerance.

    Raises:
        AssertionError: the parameter differs after some step.

    Example:
        >>> def momentum(W, G, state, t):
        ...     state["m"] = 0.9 * state.get("m", 0.0) + G
        ...     return W - 0.1 * state["m"]
        >>> assert_step_matches(lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9), momentum)
    """
    training = Training(make, [shape], torch.float64, seed)
    W: Array = training.params[0].detach().numpy().copy()
    state: dict[str, Any] = {}
    for t in range(1, steps + 1):
        training.set_gradients(1000 * seed + t)
        gradient = training.params[0].grad
        assert gradient is not None
        W = numpy_step(W, gradient.numpy().copy(), state, t)
        training.optimizer.step()
        np.testing.assert_allclose(
            training.params[0].detach().numpy(), W, rtol=rtol, atol=atol, err_msg=f"step {t}"
        )


def assert_decreases_convex(
    make: Make, lr: float, *, shapes: Shapes = SHAPES, steps: int = 50, factor: float = 0.5
) -> None:
    """Least squares in each parameter: the loss falls below ``factor`` times its first value.

    For a matrix W (m, n): ``mean over k of ||(W - W*) x_k||^2 / 2`` with random x and W*; for a vector the squared
    distance to a random point. The learning rate falls linearly to 0, so that steps of fixed length settle.

    Args:
        make: builds the optimizer, called with ``lr``.
        lr: first learning rate.
        shapes: of the parameters.
        steps: how many.
        factor: of the first loss, for each parameter. Default 1/2.

    Raises:
        AssertionError: a parameter's loss is too high, or not finite.
    """
    training = Training(make, shapes, lr=lr)
    with seeded(1):
        targets = [torch.randn(shape) for shape in shapes]
        samples = [torch.randn(p.flatten(1).shape[1], 16) for p in targets if p.ndim > 1]

    def losses() -> list[Tensor]:
        x = iter(samples)
        differences = [p - target for p, target in zip(training.params, targets, strict=True)]
        return [
            (D.flatten(1) @ next(x)).square().sum(0).mean() / 2 if D.ndim > 1 else D.square().sum() / 2
            for D in differences
        ]

    first = [float(loss.detach()) for loss in losses()]
    scheduler = LambdaLR(training.optimizer, lambda t: 1 - t / steps)
    for _ in range(steps):
        training.optimizer.zero_grad()
        torch.stack(losses()).sum().backward()  # type: ignore[no-untyped-call]
        training.optimizer.step()
        scheduler.step()
    for shape, before, after in zip(shapes, first, losses(), strict=True):
        falls = float(after.detach()) < factor * before
        require(falls, f"loss of the parameter {shape}: {before:.3g} to {float(after.detach()):.3g}.")


def assert_batched_equals_one_by_one(make: Make, *, shapes: Shapes = SHAPES, steps: int = 3) -> None:
    """Parameters that one optimizer holds together step as if each had its own, in float64.

    Args:
        make: builds the optimizer.
        shapes: of the parameters; equal ones are what a batched implementation stacks.
        steps: how many.

    Raises:
        AssertionError: the two ways differ.
    """
    together = Training(make, shapes, torch.float64)
    alone = [Training(make, [shape], torch.float64) for shape in shapes]
    with torch.no_grad():
        for one, value in zip(alone, together.values(), strict=True):
            one.params[0].copy_(value)
    for i in range(steps):
        together.set_gradients(i)
        for one, p in zip(alone, together.params, strict=True):
            one.params[0].grad = None if p.grad is None else p.grad.clone()
            one.optimizer.step()
        together.optimizer.step()
        expected = [one.params[0].detach() for one in alone]
        assert_near(together.values(), expected, f"step {i}: ", rtol=1e-10)


def assert_optimizer_dtype_kept(
    make: Make, dtype: torch.dtype, *, shapes: Shapes = SHAPES, device: str = "cpu"
) -> None:
    """Two steps in ``dtype``: parameters and floating state keep dtype and device, and the first is near float64's.

    A step counter may be float32, and state may be kept in a wider type than the parameter's. State loaded from a file
    keeps its types too.

    Args:
        make: builds the optimizer.
        dtype: of the parameters.
        shapes: of the parameters.
        device: of the parameters.

    Raises:
        AssertionError: a type or device changes, a value is not finite, or the first step is far from float64's.
    """

    training = Training(make, shapes, dtype)
    with torch.no_grad():
        for p in training.params:
            p.data = p.data.to(device)
            p.zero_()
    exact = Training(make, shapes, torch.float64)
    training.set_gradients(0)
    with torch.no_grad():
        for p, q in zip(training.params, exact.params, strict=True):
            q.zero_()
            q.grad = None if p.grad is None else p.grad.cpu().double()
    training.optimizer.step()
    exact.optimizer.step()
    # Rounding may turn over the sign of an entry near zero, to which sign-like steps give their full size.
    tolerance = {8: 1e-10, 4: 1e-2}.get(dtype.itemsize, 0.25) if device == "cpu" else 0.25
    assert_near(training.values(), exact.values(), "first step: ", rtol=tolerance, atol=1e-12, dtype=False)
    training.optimizer.load_state_dict(saved_and_loaded(training.optimizer.state_dict()))
    training.step(1)
    for p in training.params:
        require(p.dtype == dtype and p.device.type == device, f"a parameter became {p.dtype} on {p.device}.")
        require(bool(torch.isfinite(p).all()), "a parameter is not finite.")
        for key, value in training.optimizer.state[p].items():
            if isinstance(value, Tensor) and value.is_floating_point():
                wide = torch.promote_types(value.dtype, dtype) == value.dtype
                require(wide or key == "step", f"state {key!r} of a {dtype} parameter is {value.dtype}.")
                require(key == "step" or value.device.type == device, f"state {key!r} is on {value.device}.")
                require(bool(torch.isfinite(value).all()), f"state {key!r} is not finite.")


def assert_step_ignores_autocast(
    make: Make, *, shapes: Shapes = SHAPES, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Steps inside an autocast region are bit for bit those outside.

    Args:
        make: builds the optimizer.
        shapes: of the parameters.
        dtype: of the region.

    Raises:
        AssertionError: they differ.
    """
    outside, inside = Training(make, shapes), Training(make, shapes)
    for i in range(2):
        outside.step(i)
        with torch.autocast("cpu", dtype=dtype):
            inside.step(i)
    assert_same(inside.values(), outside.values(), "steps inside autocast: ")


# --------------------------------------------------------------------------------------- torch.optim's protocol


def assert_param_groups(make: Make, lr: float, *, shapes: Shapes = SHAPES) -> None:
    """A group with a learning rate of its own, added later, steps like an optimizer with that learning rate.

    For each shape: one parameter in a group with ``lr``, an equally shaped one in a group with ``lr / 4`` (which must
    not be batched into one step), and a third one in a group with ``lr = 0``, which must not move.

    Args:
        make: builds the optimizer, called with ``lr``.
        lr: learning rate of the first group.
        shapes: of the parameters, one after another.

    Raises:
        AssertionError: a group's step is not that of its own optimizer.
    """
    rates = (lr, lr / 4, 0.0)
    for shape in shapes:
        alone = []
        for seed, rate in enumerate(rates):
            training = Training(make, [shape], seed=seed)
            for group in training.optimizer.param_groups:
                group["lr"] = rate
            alone.append(training)
        grouped = [Training(make, [shape], seed=seed).params[0] for seed in range(len(rates))]
        optimizer = make(grouped[:1])
        (options,) = ({k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups)
        optimizer.param_groups[0]["lr"] = lr
        for p, rate in zip(grouped[1:], rates[1:], strict=True):
            optimizer.add_param_group({**options, "params": [p], "lr": rate})
        start = grouped[2].detach().clone()
        for i in range(2):
            for training, p in zip(alone, grouped, strict=True):
                training.set_gradients(i)
                gradient = training.params[0].grad
                p.grad = None if gradient is None else gradient.clone()
                training.optimizer.step()
            optimizer.step()
        assert_same([p.detach() for p in grouped], [t.values()[0] for t in alone], f"groups of {shape}: ")
        assert_same(grouped[2].detach(), start, f"{shape} with lr = 0: ")


def assert_closure(make: Make, *, shapes: Shapes = SHAPES) -> None:
    """``step(closure)`` calls it once with gradients enabled, returns its loss, and steps as without one.

    Args:
        make: builds the optimizer.
        shapes: of the parameters.

    Raises:
        AssertionError: gradients are disabled in the closure, another value is returned, or another step is taken.
    """
    plain, closed = Training(make, shapes), Training(make, shapes)
    calls = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        closed.set_gradients(0)
        return 3.25

    plain.set_gradients(0)
    with torch.no_grad():
        returned = closed.optimizer.step(closure)
        nothing = plain.optimizer.step()
        require(not torch.is_grad_enabled(), "the step leaves gradients enabled.")
    require(calls == [True], f"gradients enabled in the closure's calls: {calls}, expected [True].")
    require(returned == 3.25, f"step(closure) returned {returned!r}, not the closure's loss.")
    require(nothing is None, f"step() returned {nothing!r}, not None.")
    assert_same(closed.values(), plain.values(), "step with a closure: ")


def assert_follows_scheduler(make: Make, *, shapes: Shapes = SHAPES) -> None:
    """A scheduler's learning rate counts at every step: 0 stops all parameters, another value moves them again.

    Args:
        make: builds the optimizer; every parameter must move at its default learning rate.
        shapes: of the parameters.

    Raises:
        AssertionError: a parameter moves at learning rate 0, or does not otherwise.
    """
    training = Training(make, shapes)
    scheduler = LambdaLR(training.optimizer, lambda t: float(t != 1))
    history = [training.values()]
    for i in range(3):
        history.append(training.step(i))
        scheduler.step()
    assert_same(history[2], history[1], "step with learning rate 0: ")
    for before, after in ((0, 1), (2, 3)):
        for old, new in zip(history[before], history[after], strict=True):
            require(not torch.equal(old, new), f"a parameter of shape {tuple(old.shape)} does not move.")


def assert_missing_gradients_skipped(make: Make, *, shapes: Shapes = SHAPES) -> None:
    """A parameter without gradient stays, gets no state, and the others step as if it were not there.

    Args:
        make: builds the optimizer.
        shapes: of the parameters, at least two.

    Raises:
        AssertionError: it moves or has state, or others are disturbed.
    """
    training, full = Training(make, shapes), Training(make, shapes)
    before = training.values()[0]
    training.set_gradients(0)
    training.params[0].grad = None
    training.optimizer.step()
    full.step(0)
    assert_same(training.values()[0], before, "parameter without gradient: ")
    require(not training.optimizer.state[training.params[0]], "a parameter without gradient has state.")
    assert_near(training.values()[1:], full.values()[1:], "the others: ", rtol=1e-5)


def assert_gradients_untouched(make: Make, *, shapes: Shapes = SHAPES) -> None:
    """A step reads the gradients and leaves them as they are.

    Args:
        make: builds the optimizer.
        shapes: of the parameters, together and each alone.

    Raises:
        AssertionError: a gradient has changed.
    """
    for some in (shapes, *([shape] for shape in shapes)):
        training = Training(make, some)
        training.set_gradients(0)
        before = [p.grad.clone() for p in training.params if p.grad is not None]
        training.optimizer.step()
        assert_same([p.grad for p in training.params], before, f"gradients of {list(some)}: ")


def assert_maximize_climbs(make: Make, *, shapes: Shapes = SHAPES) -> None:
    """``maximize=True`` steps bit for bit as the negative gradients do without it, and leaves the gradients.

    Args:
        make: builds the optimizer, called with ``maximize``.
        shapes: of the parameters.

    Raises:
        AssertionError: another step, or a changed gradient.
    """
    up, down = Training(make, shapes, maximize=True), Training(make, shapes)
    for i in range(3):
        for training, sign in ((up, 1.0), (down, -1.0)):
            training.set_gradients(i)
            for p in training.params:
                p.grad = None if p.grad is None else sign * p.grad
        given = [(p.grad, p.grad.clone()) for p in up.params if p.grad is not None]
        up.optimizer.step()
        down.optimizer.step()
        assert_same(up.values(), down.values(), f"step {i}: ")
        for p, (gradient, value) in zip(up.params, given, strict=True):
            require(p.grad is gradient, "the gradient is another tensor after the step.")
            assert_same(gradient, value, "gradient after the step: ")


def assert_maximize_is_checked(make: Make, *, shapes: Shapes = SHAPES) -> None:
    """``maximize`` takes a bool and nothing else.

    Args:
        make: builds the optimizer, called with ``maximize``.
        shapes: of the parameters.

    Raises:
        AssertionError: another value is accepted, or its error does not name the argument.
    """
    error = raised(lambda: Training(make, shapes, maximize="yes"))
    named = isinstance(error, ValueError) and "maximize" in str(error)
    require(named, f"maximize='yes': expected a ValueError that names it, got {error!r}.")


def assert_tensor_rate(make: Make, lr: float, *, shapes: Shapes = SHAPES) -> None:
    """A learning rate that is a tensor of one number steps as the number does, also when it is changed in place.

    Args:
        make: builds the optimizer, called with ``lr``.
        lr: learning rate.
        shapes: of the parameters.

    Raises:
        AssertionError: the steps differ, or a bad tensor is accepted.
    """
    number = Training(make, shapes, lr=lr)
    rate = torch.tensor(lr, dtype=torch.float64)
    tensor = Training(make, shapes, lr=rate)
    for i in range(3):
        assert_same(tensor.step(i), number.step(i), f"step {i}: ")
        for group in number.optimizer.param_groups:
            group["lr"] = group["lr"] / 2
        # Groups that were made of one argument share its tensor.
        for shared in {id(group["lr"]): group for group in tensor.optimizer.param_groups}.values():
            if isinstance(shared["lr"], Tensor):
                shared["lr"].div_(2)
            else:
                shared["lr"] = shared["lr"] / 2
    for bad in (torch.tensor(-1.0), torch.ones(2)):
        error = raised(lambda bad=bad: make(number.params, lr=bad))  # type: ignore[misc]
        require(isinstance(error, ValueError), f"lr = {bad!r}: expected a ValueError, got {error!r}.")


def assert_sparse_and_complex_refused(make: Make, *, shapes: Shapes = SHAPES) -> None:
    """A sparse gradient or a complex parameter is a RuntimeError at the step, before anything has changed.

    Args:
        make: builds the optimizer.
        shapes: of the parameters; the last one is given the bad gradient.

    Raises:
        AssertionError: the step is taken, raises something else, or has changed parameters or state.
    """
    for kind in ("sparse", "complex"):
        training = Training(make, shapes)
        training.step(0)
        if kind == "complex":
            with seeded(0):
                odd = nn.Parameter(torch.randn(shapes[-1], dtype=torch.complex64))
            group = {k: v for k, v in training.optimizer.param_groups[-1].items() if k != "params"}
            training.optimizer.add_param_group({**group, "params": [odd]})
            training.set_gradients(1)
            odd.grad = torch.ones_like(odd)
        else:
            training.set_gradients(1)
            gradient = training.params[-1].grad
            training.params[-1].grad = None if gradient is None else gradient.to_sparse()
        before = saved_and_loaded(training.state_dict())
        error = raised(training.optimizer.step)
        require(isinstance(error, RuntimeError), f"{kind}: expected RuntimeError, got {error!r}.")
        require(kind in str(error), f"the message must say {kind!r}, got {str(error)!r}.")
        assert_same(training.state_dict(), before, f"after the refused {kind} step: ")
