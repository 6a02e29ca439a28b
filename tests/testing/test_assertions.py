"""Every assertion passes on torch's own layers and optimizers, and fails on a toy with just the fault it looks for."""

from __future__ import annotations

import copy
import doctest
import importlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LRScheduler, StepLR

from normviz import testing
from normviz.testing import (
    Bad,
    FunctionContract,
    LayerContract,
    ObjectContract,
    OptimizerContract,
    SchedulerContract,
    Training,
)
from normviz.testing._values import assert_near, assert_same
from normviz.testing.contracts import in_place, resolve
from normviz.testing.layers import build_layer

WIDTH = 6


def rows() -> tuple[Tensor]:
    return (torch.randn(4, WIDTH),)


def fails(check: Callable[[], object], match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        check()


# ---------------------------------------------------------------------------------------------------- controls

GOOD_LAYERS = {
    "Linear": LayerContract(method="torch.nn.Linear", make=partial(nn.Linear, WIDTH, 3), inputs=rows),
    "BatchNorm1d": LayerContract(
        method="torch.nn.BatchNorm1d", make=partial(nn.BatchNorm1d, WIDTH), inputs=rows
    ),
    "Dropout": LayerContract(method="torch.nn.Dropout", make=nn.Dropout, inputs=rows, random=True),
}
ADAM = OptimizerContract(
    method="torch.optim.Adam",
    make=torch.optim.Adam,
    lr=0.1,
    bad=[Bad({"lr": -1.0}, names="learning rate"), Bad({"eps": -1.0}, names="epsilon")],
    skip={
        "sparse_and_complex": "takes complex parameters",
        "compile": "torch warns of its own deprecated scripts while it traces it",
        "numbers": "takes NaN",
        "maximize_flag": "takes anything for a flag",
    },
)
MOMENTUM = OptimizerContract(
    method="torch.optim.SGD",
    make=partial(torch.optim.SGD, momentum=0.5, lr=0.1),
    lr=0.1,
    skip={
        "sparse_and_complex": "takes both",
        "compile": "torch warns of its own deprecated scripts while it traces it",
        "numbers": "takes NaN",
        "maximize_flag": "takes anything for a flag",
    },
)


def controls() -> Iterator[Any]:
    for name, contract in GOOD_LAYERS.items():
        for check, run in contract.checks().items():
            if check != "numbers":  # torch takes NaN as eps and p
                yield pytest.param(run, id=f"{name}-{check}")
    for contract in (ADAM, MOMENTUM):
        for check, run in contract.checks().items():
            yield pytest.param(run, id=f"{contract.name}-{check}")


@pytest.mark.parametrize("check", list(controls()))
def test_what_is_right_passes(check: Callable[[], None]) -> None:
    check()


# ------------------------------------------------------------------------------------------------------ layers


class Toy(nn.Module):
    """x + bias, with the fault in a subclass's ``fault``."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(WIDTH))
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.fault(x + self.bias)

    def fault(self, y: Tensor) -> Tensor:
        return y


class Widens(Toy):
    def fault(self, y: Tensor) -> Tensor:
        return y.double()


class Detaches(Toy):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach() + self.bias


class ForgetsItsParameter(Toy):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Overflows(Toy):
    def fault(self, y: Tensor) -> Tensor:
        return y / torch.zeros_like(y)


class ImpreciseInHalf(Toy):
    def fault(self, y: Tensor) -> Tensor:
        return (y + 1000) - 1000


class Elsewhere(Toy):
    def fault(self, y: Tensor) -> Tensor:
        return y * torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0)).to(y.dtype)


class LooksAtValues(Toy):
    def fault(self, y: Tensor) -> Tensor:
        return y if y.sum() > 0 else -y


class RandomInEval(Toy):
    def fault(self, y: Tensor) -> Tensor:
        return F.dropout(y, training=True)


class LearnsInEval(Toy):
    def fault(self, y: Tensor) -> Tensor:
        self.mean.add_(1)
        return y


class RemembersInSecret(Toy):
    """Its running mean is a plain attribute: not saved, not stacked, not copied apart."""

    def __init__(self) -> None:
        super().__init__()
        self.secret = [torch.zeros(WIDTH)]

    def fault(self, y: Tensor) -> Tensor:
        if self.training and not torch._C._functorch.is_batchedtensor(y):
            self.secret[0] = 0.5 * self.secret[0].to(y.dtype) + y.detach().mean(0)
        return y - self.secret[0].to(y.dtype)


class SharesItsCopies(RemembersInSecret):
    def __deepcopy__(self, memo: dict[int, Any]) -> SharesItsCopies:
        twin = SharesItsCopies()
        twin.load_state_dict(self.state_dict())
        twin.secret = self.secret
        return twin


class OtherWhenCompiled(Toy):
    def fault(self, y: Tensor) -> Tensor:
        return y.square() if torch.compiler.is_compiling() else y


class OtherGradientWhenCompiled(Toy):
    def fault(self, y: Tensor) -> Tensor:
        return y.detach() * y if torch.compiler.is_compiling() else y.square()


class ImpreciseUnderAutocast(Toy):
    def fault(self, y: Tensor) -> Tensor:
        return F.linear(y + 100, torch.eye(WIDTH)) - 100


BROKEN_LAYERS = [
    (Toy, None, None, ""),
    (Widens, "float32", AssertionError, "float64, not"),
    (Detaches, "float32", AssertionError, "input has no gradient"),
    (ForgetsItsParameter, "float32", AssertionError, "no gradient for .*bias"),
    (Overflows, "float32", AssertionError, "not finite"),
    (ImpreciseInHalf, "bfloat16", AssertionError, "error"),
    (Elsewhere, "device", RuntimeError, "device|meta"),
    (LooksAtValues, "device", RuntimeError, "meta"),
    (RandomInEval, "eval", AssertionError, "random"),
    (LearnsInEval, "eval", AssertionError, "mean"),
    (RemembersInSecret, "resume", AssertionError, "resumed step"),
    (RemembersInSecret, "vmap", AssertionError, "member 1"),
    (SharesItsCopies, "copy", AssertionError, "steps of the deep copy"),
    (OtherWhenCompiled, "compile", AssertionError, "compiled step 0"),
    (OtherGradientWhenCompiled, "compile", AssertionError, "gradients"),
    (ImpreciseUnderAutocast, "autocast", AssertionError, "autocast"),
]


@pytest.mark.parametrize(("toy", "check", "error", "match"), BROKEN_LAYERS)
def test_faults_of_layers_are_found(
    toy: type[Toy], check: str | None, error: type[Exception] | None, match: str
) -> None:
    contract = LayerContract(method="toy", make=toy, inputs=rows)
    if check is None or error is None:
        for name in (
            "float32",
            "bfloat16",
            "device",
            "eval",
            "resume",
            "copy",
            "vmap",
            "compile",
            "autocast",
        ):
            contract.checks()[name]()
    else:
        with pytest.raises(error, match=match):
            contract.checks()[check]()


def imprecise_in_single(y: Tensor) -> Tensor:
    """A relative error of 1e-3 in float32 and none in float64, as of an iteration that multiplies its rounding."""
    return y * 1.001 if y.dtype == torch.float32 else 1 * y


class ImpreciseInSingle(Toy):
    def fault(self, y: Tensor) -> Tensor:
        return imprecise_in_single(y)


def test_a_row_can_allow_a_larger_error_in_float32() -> None:
    function = f"{__name__}.imprecise_in_single"
    for allowed in ({}, {"float32_error": 2e-3}):
        for contract in (
            LayerContract(method="toy", make=ImpreciseInSingle, inputs=rows, **allowed),
            FunctionContract(method=function, inputs=rows, **allowed),
        ):
            if allowed:
                contract.checks()["float32"]()
            else:
                with pytest.raises(AssertionError, match="float32 against float64"):
                    contract.checks()["float32"]()


def test_layers_start_away_from_neutral_parameters() -> None:
    norm = build_layer(lambda: nn.LayerNorm(WIDTH))
    assert not torch.equal(norm.weight, torch.ones(WIDTH))
    assert_same(build_layer(lambda: nn.LayerNorm(WIDTH)), norm, "same seed: ")
    assert not torch.equal(build_layer(lambda: nn.LayerNorm(WIDTH), seed=1).weight, norm.weight)


# -------------------------------------------------------------------------------------------------- optimizers


class Descent(torch.optim.Optimizer):
    """Gradient descent with a momentum of 1/2; subclasses have a fault."""

    def __init__(self, params: Any, lr: float = 0.1, maximize: bool = False) -> None:
        if torch.as_tensor(lr).numel() != 1 or lr < 0:
            raise ValueError(f"lr must be one number of at least 0, got {lr!r}.")
        if not isinstance(maximize, bool):
            raise ValueError(f"maximize must be a bool, got {maximize!r}.")
        super().__init__(params, {"lr": lr, "maximize": maximize})

    def rate(self, group: dict[str, Any]) -> float:
        return -group["lr"] if group["maximize"] else group["lr"]

    def gradient(self, p: Tensor) -> Tensor | None:
        return p.grad

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        return loss

    def update(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                g = self.gradient(p)
                if g is None:
                    continue
                if g.is_sparse:
                    raise RuntimeError("no sparse gradients")
                if g.is_complex():
                    raise RuntimeError("no complex gradients")
                state = self.state[p]
                state["m"] = self.momentum(p, state.get("m"), g)
                p.sub_(self.rate(group) * state["m"].to(p.dtype))

    def momentum(self, p: Tensor, m: Tensor | None, g: Tensor) -> Tensor:
        return g.clone() if m is None else 0.5 * m + g


class Ascends(Descent):
    def rate(self, group: dict[str, Any]) -> float:
        return -group["lr"]


class DescendsAnyway(Descent):
    def rate(self, group: dict[str, Any]) -> float:
        return group["lr"]


class TakesAnyFlag(Descent):
    def __init__(self, params: Any, lr: float = 0.1, maximize: object = False) -> None:
        super().__init__(params, lr, bool(maximize))


class FirstGroupsRate(Descent):
    def rate(self, group: dict[str, Any]) -> float:
        return self.param_groups[0]["lr"]


class DefaultRate(Descent):
    def rate(self, group: dict[str, Any]) -> float:
        return self.defaults["lr"]


class CountsInSecret(Descent):
    count = 0

    def update(self) -> None:
        self.count += 1
        super().update()

    def rate(self, group: dict[str, Any]) -> float:
        return group["lr"] / self.count


class ZerosForMissing(Descent):
    def gradient(self, p: Tensor) -> Tensor | None:
        return torch.zeros_like(p) if p.grad is None else p.grad


class EatsGradients(Descent):
    def gradient(self, p: Tensor) -> Tensor | None:
        return None if p.grad is None else p.grad.mul_(0.5)


class JointNorm(Descent):
    def update(self) -> None:
        total = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad / total)


class HalfState(Descent):
    def momentum(self, p: Tensor, m: Tensor | None, g: Tensor) -> Tensor:
        return super().momentum(p, m, g).bfloat16()


class WidensParameters(Descent):
    def update(self) -> None:
        super().update()
        for group in self.param_groups:
            for p in group["params"]:
                p.data = p.data.double()


class HalvesLowPrecision(Descent):
    def rate(self, group: dict[str, Any]) -> float:
        return group["lr"] / (1 if group["params"][0].dtype == torch.float64 else 2)


class MultipliesUnderAutocast(Descent):
    def gradient(self, p: Tensor) -> Tensor | None:
        return p.grad if p.grad is None or p.ndim < 2 else torch.eye(p.shape[0]) @ p.grad


class ClosureWithoutGrad(Descent):
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else closure()
        self.update()
        return loss


class LosesTheLoss(Descent):
    def step(self, closure: Callable[[], float] | None = None) -> None:
        super().step(closure)


class Densifies(Descent):
    def gradient(self, p: Tensor) -> Tensor | None:
        return None if p.grad is None else p.grad.to_dense()


class MovesBeforeItRefuses(Descent):
    """The refused parameter is the last: the others have moved by then. (This is Descent itself.)"""


BROKEN_OPTIMIZERS = [
    (Descent, None, ""),
    (Ascends, "convex", "loss of the parameter"),
    (DescendsAnyway, "maximize", "step 0"),
    (TakesAnyFlag, "maximize_flag", "expected a ValueError"),
    (FirstGroupsRate, "param_groups", "groups of"),
    (DefaultRate, "scheduler", "learning rate 0"),
    (CountsInSecret, "resume", "resumed step"),
    (ZerosForMissing, "missing_gradients", "has state"),
    (EatsGradients, "gradients_untouched", "gradients of"),
    (JointNorm, "batched", "step 0"),
    (HalfState, "float32", "state 'm'"),
    (WidensParameters, "float32", "became torch.float64"),
    (HalvesLowPrecision, "bfloat16", "first step"),
    (MultipliesUnderAutocast, "autocast", "inside autocast"),
    (ClosureWithoutGrad, "closure", r"\[False\]"),
    (LosesTheLoss, "closure", "returned None"),
    (Densifies, "sparse_and_complex", "sparse: expected RuntimeError, got None"),
    (MovesBeforeItRefuses, "sparse_and_complex", "after the refused sparse step"),
    (
        CountsInSecret,
        "copy",
        "steps of the deep copy",
    ),  # Optimizer.__getstate__ knows its own attributes only
]


@pytest.mark.parametrize(("toy", "check", "match"), BROKEN_OPTIMIZERS)
def test_faults_of_optimizers_are_found(toy: type[Descent], check: str | None, match: str) -> None:
    contract = OptimizerContract(
        method="toy",
        make=toy,
        lr=0.1,
        graphs=2,  # without state and with it
        skip={"sparse_and_complex": "tested below"} if check is None else {},
    )
    if check is None:
        for name, run in contract.checks().items():
            if name != "numbers":
                run()
    else:
        fails(contract.checks()[check], match)


def adam(
    W: np.ndarray, G: np.ndarray, state: dict[str, Any], t: int, *, corrected: bool = True
) -> np.ndarray:
    """Adam by the textbook, entry by entry."""
    m, v = state.setdefault("m", np.zeros_like(W)), state.setdefault("v", np.zeros_like(W))
    out = W.copy()
    for i in np.ndindex(W.shape):
        m[i] = 0.9 * m[i] + 0.1 * G[i]
        v[i] = 0.999 * v[i] + 0.001 * G[i] ** 2
        c1, c2 = (1 - 0.9**t, 1 - 0.999**t) if corrected else (1.0, 1.0)
        out[i] -= 0.1 * (m[i] / c1) / (math.sqrt(v[i] / c2) + 1e-8)
    return out


@pytest.mark.parametrize("shape", [(4, 6), (5,), (2, 3, 2)])
def test_step_matches_the_textbook_and_not_another_rule(shape: tuple[int, ...]) -> None:
    make = partial(torch.optim.Adam, lr=0.1)
    testing.assert_step_matches(make, adam, shape=shape)
    with pytest.raises(AssertionError, match="step 1"):
        testing.assert_step_matches(make, partial(adam, corrected=False), shape=shape)
    with pytest.raises(AssertionError, match="step 2"):  # right at first, wrong from its second step on
        testing.assert_step_matches(partial(torch.optim.Adam, lr=0.1, betas=(0.5, 0.999)), adam, shape=shape)


def test_training_is_what_it_says() -> None:
    training = Training(torch.optim.SGD, [(2, 3)], lr=0.5)
    before = training.values()[0]
    after = training.step(3)[0]
    torch.testing.assert_close(after, before - 0.5 * training.params[0].grad)
    assert_same(Training(torch.optim.SGD, [(2, 3)], lr=0.5).step(3), [after], "same seed: ")


# -------------------------------------------------------------------------------------- schedulers and the rest


def scheduled(cls: Callable[..., LRScheduler], **options: Any) -> LRScheduler:
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD([{"params": [net.weight]}, {"params": [net.bias], "lr": 0.2}], lr=0.1)
    return cls(optimizer, **options)


class Forgets(StepLR):
    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": 0, "_last_lr": self._last_lr}


class LiesAboutRates(StepLR):
    def get_last_lr(self) -> list[float | Tensor]:
        return [0.5, 0.5]


def test_faults_of_schedulers_are_found() -> None:
    def checks(cls: Callable[..., LRScheduler], **options: Any) -> dict[str, Callable[[], None]]:
        make = partial(scheduled, cls, **options)
        return SchedulerContract(method="toy", make=make).checks()

    good = checks(StepLR, step_size=2, gamma=0.5)
    good["resume"]()
    good["rates"]()
    fails(checks(Forgets, step_size=4, gamma=0.5)["resume"], "resumed step")
    fails(checks(LiesAboutRates, step_size=2)["rates"], "rates after step 0")
    fails(checks(ConstantLR, factor=1.0)["rates"], "never change")
    fails(checks(LambdaLR, lr_lambda=lambda t: 1.0 - t)["rates"], "not finite numbers >= 0")


class Counter:
    """Counts; what it was given as a start is checked by name, ``step`` is not checked at all."""

    def __init__(self, start: int = 0, step: float = 1.0) -> None:
        if not isinstance(start, int) or start < 0:
            raise ValueError(f"start must be an integer >= 0, got {start!r}.")
        self.value, self.by, self.steps = start, step, 0

    def advance(self, i: int) -> tuple[float, int]:
        self.value += self.by * i
        self.steps += 1
        return self.value, self.steps

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.steps = state["value"], state["steps"]


class ForgetfulCounter(Counter):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


class UnsafeCounter(Counter):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "self": self}


def test_objects() -> None:
    def checks(cls: type[Counter]) -> dict[str, Callable[[], None]]:
        method = f"{__name__}.{cls.__name__}"
        return ObjectContract(method=method, make=cls, step=cls.advance, bad=[Bad({"start": -1})]).checks()

    good = checks(Counter)
    good["resume"]()
    good["copy"]()
    good["bad_arguments"]()
    fails(good["numbers"], "step=nan: expected")
    fails(checks(ForgetfulCounter)["resume"], "steps|resumed")
    with pytest.raises(Exception, match="weights_only"):
        checks(UnsafeCounter)["resume"]()


def scale_(x: Tensor, by: float = 2.0) -> Tensor:
    return x.mul_(by)


def jitter(x: Tensor, by: float = 2.0) -> Tensor:
    return x + by * torch.rand_like(x)


def gradients_off(x: Tensor, by: float = 2.0) -> Tensor:
    torch.set_grad_enabled(False)
    return by * x


@pytest.mark.parametrize(
    ("function", "match"),
    [(scale_, "second call|arguments after"), (jitter, "random state"), (gradients_off, "gradients are")],
)
def test_impure_functions_are_found(function: Callable[..., Tensor], match: str) -> None:
    contract = FunctionContract(method=f"{__name__}.{function.__name__}", inputs=rows)
    try:
        fails(contract.checks()["pure"], match)
    finally:
        torch.set_grad_enabled(True)


def test_refusals_must_be_there_be_of_the_type_and_name_the_argument() -> None:
    def make(a: int = 1, b: int = 2) -> Callable[[Tensor], Tensor]:
        if a < 0:
            raise ValueError(f"a must be >= 0, got {a}.")
        if b < 0:
            raise KeyError("b")
        if b == 0:
            raise ValueError("alphabet")

        def call(x: Tensor) -> Tensor:
            if x.ndim != 2:
                raise TypeError(f"x must have 2 axes, got {x.ndim}.")
            return x

        return call

    check = partial(testing.assert_bad_arguments_named, make)
    check([Bad({"a": -1}), Bad(inputs=lambda: (torch.zeros(3),), names="x", error=TypeError)])
    fails(lambda: check([Bad({"a": 3})]), "nothing was raised")
    fails(lambda: check([Bad({"b": -1})]), "got KeyError")
    fails(lambda: check([Bad({"b": 0})]), "must name 'b'")
    fails(lambda: check([Bad(inputs=lambda: (torch.zeros(3),), names="x")]), "got TypeError")
    fails(lambda: check([Bad(inputs=lambda: (torch.zeros(3, 3),), names="x")]), "nothing was raised")


def test_skipping_needs_a_name_that_exists() -> None:
    contract = LayerContract(method="toy", make=Toy, inputs=rows, skip={"vmaps": "no such check"})
    with pytest.raises(ValueError, match="vmaps"):
        contract.checks()
    kept = LayerContract(method="toy", make=Toy, inputs=rows, skip={"vmap": "a reason"})
    assert kept.all_checks().keys() - kept.checks().keys() == {"vmap"}


def test_in_place_and_resolve() -> None:
    assert in_place("normviz.norms.PowerNorm")
    assert not in_place("normviz.norms.PowerNrom")
    assert resolve("torch.nn.Linear") is nn.Linear
    with pytest.raises(ModuleNotFoundError):
        in_place("normviz.no_such_topic.Name")


# ---------------------------------------------------------------------------------------------------- comparing


def test_same_is_bit_for_bit_and_deep() -> None:
    value = {"a": [torch.tensor([1.0, math.nan]), 2], "b": (np.arange(3), math.nan, "x", None)}
    assert_same(copy.deepcopy(value), value, "copy: ")
    ulp = copy.deepcopy(value)
    ulp["a"][0][0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    fails(lambda: assert_same(ulp, value, "one ulp: "), r"one ulp: \['a'\]\[0\]")
    fails(lambda: assert_same({**value, "c": 1}, value, "more: "), "'c'")
    fails(lambda: assert_same({**value, "a": [value["a"][0].double(), 2]}, value, "dtype: "), "dtype")
    fails(
        lambda: assert_same({**value, "b": (np.arange(3) + 1, math.nan, "x", None)}, value, "array: "),
        "array",
    )
    fails(lambda: assert_same(Counter(), Counter(), "objects: "), "instead of")


def test_near_is_relative_to_the_norm() -> None:
    b = torch.tensor([3.0, 4.0, 0.0])
    assert_near([b + torch.tensor([0.0, 0.0, 0.049])], [b], "within: ", rtol=0.01)
    fails(lambda: assert_near([b + torch.tensor([0.0, 0.0, 0.051])], [b], "beyond: ", rtol=0.01), "beyond")
    fails(lambda: assert_near([b.double()], [b], "dtype: ", rtol=0.01), "float64")
    fails(lambda: assert_near([b[:2]], [b], "shape: ", rtol=0.01), "shape")
    fails(lambda: assert_near([b * math.nan], [b], "nan: ", rtol=0.01), "nan")


@pytest.mark.parametrize("module", ["", ".assertions", ".optimizers", ".layers", ".schedulers", ".contracts"])
def test_examples(module: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(f"normviz.testing{module}"))
    assert failed == 0


def test_every_name_is_exported() -> None:
    assert list(testing.__all__) == sorted(testing.__all__)
    for name in testing.__all__:
        assert hasattr(testing, name), name
