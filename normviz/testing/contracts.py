"""One row of the contract table: a method, how to build it, and by that all the checks that its kind must pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from normviz.testing import layers, optimizers, schedulers
from normviz.testing._values import Inputs, assert_same, require, seeded
from normviz.testing.assertions import (
    Bad,
    Stateful,
    assert_bad_arguments_named,
    assert_deepcopy_and_pickle,
    assert_numbers_checked,
    assert_resumes,
    number_options,
)
from normviz.testing.compiled_optimizers import assert_compiles_once

__all__ = [
    "Check",
    "Contract",
    "FunctionContract",
    "LayerContract",
    "ObjectContract",
    "OptimizerContract",
    "SchedulerContract",
    "in_place",
    "resolve",
]

Check = Callable[[], None]

_DEVICE = torch.accelerator.current_accelerator(check_available=True)
ACCELERATOR = None if _DEVICE is None else _DEVICE.type
"""Where layers and optimizers are run a second time, if this machine has such a thing."""


def resolve(method: str) -> Any:
    """The object with a dotted name, as it is imported from its topic package."""
    module, _, name = method.rpartition(".")
    return getattr(import_module(module), name)


def in_place(method: str) -> bool:
    """Whether the topic package of a dotted name exports it; errors of the package itself pass through."""
    package, _, name = method.rpartition(".")
    return name in getattr(import_module(package), "__all__", ())


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What all rows have.

    Attributes:
        method: dotted name in the topic package, as in :mod:`normviz.catalog`.
        variant: tells rows of one method apart.
        bad: arguments that must be refused by name.
        skip: checks that do not apply to the method, each with the reason (usually from the paper).
    """

    method: str
    variant: str = ""
    bad: Sequence[Bad] = ()
    skip: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Short name of the row: ``norms.PowerNorm`` or ``norms.make_evonorm[B0]``."""
        return self.method.removeprefix("normviz.") + (f"[{self.variant}]" if self.variant else "")

    def all_checks(self) -> dict[str, Check]:
        """Every check of this kind of method, by name."""
        raise NotImplementedError

    def checks(self) -> dict[str, Check]:
        """The checks that apply to this method.

        Raises:
            ValueError: ``skip`` names a check that does not exist.
        """
        checks = self.all_checks()
        unknown = self.skip.keys() - checks.keys()
        if unknown:
            raise ValueError(f"skip must name checks among {sorted(checks)}, got {sorted(unknown)}.")
        return {name: check for name, check in checks.items() if name not in self.skip}

    def numbers(self) -> dict[str, float]:
        """The method's arguments with a number as default, each with a value that must be refused."""
        return number_options(resolve(self.method))


@dataclass(frozen=True, kw_only=True)
class LayerContract(Contract):
    """A layer, or any nn.Module.

    Attributes:
        make: ``make(**options) -> nn.Module``; options are the method's own arguments.
        inputs: arguments of one forward in training, drawn from torch's global generator, floating ones in float32.
        differentiable: gradients reach all floating inputs and all parameters.
        random: draws in training.
        output_dtype: dtype of floating outputs for inputs of a dtype. Default: the same.
        float32_error: relative error in norm of a float32 step against float64, see ``assert_dtype_kept``.
    """

    make: Callable[..., nn.Module]
    inputs: Callable[[], Inputs]
    differentiable: bool = True
    random: bool = False
    output_dtype: Callable[[torch.dtype], torch.dtype] = layers.same_dtype
    float32_error: float = layers.FLOAT32_ROUNDING

    def all_checks(self) -> dict[str, Check]:
        """Types, device, autocast, eval mode, state, copies, vmap, compile, bad arguments."""
        make, inputs = self.make, self.inputs
        step = partial(_layer_step, inputs)
        kept = partial(
            layers.assert_dtype_kept,
            make,
            inputs,
            output_dtype=self.output_dtype,
            differentiable=self.differentiable,
            float32_error=self.float32_error,
        )
        build = partial(layers.build_layer, make, seed=None)
        checks: dict[str, Check] = {
            "float32": partial(kept, torch.float32),
            "float64": partial(kept, torch.float64),
            "bfloat16": partial(kept, torch.bfloat16),
            "device": partial(layers.assert_device_kept, make, inputs),
            "autocast": partial(layers.assert_autocast, make, inputs),
            "eval": partial(layers.assert_eval_is_still, make, inputs),
            "resume": partial(assert_resumes, build, step),
            "copy": partial(assert_deepcopy_and_pickle, build, step),
            "vmap": partial(layers.assert_vmap_equals_loop, make, inputs, random=self.random),
            "compile": partial(layers.assert_compiled_equals_eager, make, inputs),
            "bad_arguments": partial(assert_bad_arguments_named, make, self.bad),
            "numbers": lambda: assert_numbers_checked(make, self.numbers()),
        }
        if ACCELERATOR is not None and not self.random:
            checks["accelerator"] = partial(layers.assert_device_kept, make, inputs, ACCELERATOR)
        return checks


def _layer_step(inputs: Callable[[], Inputs], layer: nn.Module, i: int) -> list[Any]:
    given = layers.build_inputs(inputs, i)
    step = layers.layer_step(layer, given, seed=i)
    layer.eval()
    with seeded(i):
        evaluated = layer(*given)
    layer.train()
    return [step, evaluated]


@dataclass(frozen=True, kw_only=True)
class OptimizerContract(Contract):
    """An optimizer.

    Attributes:
        make: ``make(params, **options) -> Optimizer`` for a list of parameters; options are the method's arguments, and
            those of its groups where ``make`` builds some.
        lr: a learning rate that moves parameters of size 1 by about 0.1 per step.
        shapes: of the parameters that it takes. Default: two equal matrices, a tall one and a vector.
        graphs: how many graphs ``torch.compile`` may make of the step, whatever the learning rate and the number of
            steps. Default 1.
    """

    make: Callable[..., Optimizer]
    lr: float
    shapes: optimizers.Shapes = optimizers.SHAPES
    graphs: int = 1

    def all_checks(self) -> dict[str, Check]:
        """Convex problem, types, state, copies, groups, closure, scheduler, batches, autocast, compile, refusals."""
        make, shapes = self.make, self.shapes
        build = partial(optimizers.Training, make, shapes)
        step = optimizers.Training.step
        dtype_kept = partial(optimizers.assert_optimizer_dtype_kept, make, shapes=shapes)
        checks: dict[str, Check] = {
            "convex": partial(optimizers.assert_decreases_convex, make, self.lr, shapes=shapes),
            "float32": partial(dtype_kept, torch.float32),
            "float64": partial(dtype_kept, torch.float64),
            "bfloat16": partial(dtype_kept, torch.bfloat16),
            "autocast": partial(optimizers.assert_step_ignores_autocast, make, shapes=shapes),
            "resume": partial(assert_resumes, build, step),
            "copy": partial(assert_deepcopy_and_pickle, build, step),
            "param_groups": partial(optimizers.assert_param_groups, make, self.lr, shapes=shapes),
            "closure": partial(optimizers.assert_closure, make, shapes=shapes),
            "batched": partial(optimizers.assert_batched_equals_one_by_one, make, shapes=shapes),
            "scheduler": partial(optimizers.assert_follows_scheduler, make, shapes=shapes),
            "gradients_untouched": partial(optimizers.assert_gradients_untouched, make, shapes=shapes),
            "missing_gradients": partial(optimizers.assert_missing_gradients_skipped, make, shapes=shapes),
            "maximize": partial(optimizers.assert_maximize_climbs, make, shapes=shapes),
            "maximize_flag": partial(optimizers.assert_maximize_is_checked, make, shapes=shapes),
            "compile": partial(assert_compiles_once, make, self.lr, shapes=shapes, graphs=self.graphs),
            "tensor_rate": partial(optimizers.assert_tensor_rate, make, self.lr, shapes=shapes),
            "sparse_and_complex": partial(optimizers.assert_sparse_and_complex_refused, make, shapes=shapes),
            "bad_arguments": partial(assert_bad_arguments_named, self._build, self.bad),
            "numbers": lambda: assert_numbers_checked(self._build, self.numbers()),
        }
        if ACCELERATOR is not None:
            checks["accelerator"] = partial(dtype_kept, torch.float32, device=ACCELERATOR)
        return checks

    def _build(self, **options: Any) -> Optimizer:
        return optimizers.Training(self.make, self.shapes, **options).optimizer


@dataclass(frozen=True, kw_only=True)
class SchedulerContract(Contract):
    """A learning-rate scheduler.

    Attributes:
        make: ``make(**options) -> LRScheduler``, with a model and an optimizer of its own; options are the method's
            arguments after the optimizer.
    """

    make: Callable[..., LRScheduler]

    def all_checks(self) -> dict[str, Check]:
        """State, rates, bad arguments."""
        return {
            "resume": partial(
                assert_resumes, partial(schedulers.Scheduled, self.make), schedulers.Scheduled.step
            ),
            "rates": partial(schedulers.assert_rates_reach_the_optimizer, self.make),
            "bad_arguments": partial(assert_bad_arguments_named, self.make, self.bad),
            "numbers": lambda: assert_numbers_checked(self.make, self.numbers()),
        }


@dataclass(frozen=True, kw_only=True)
class FunctionContract(Contract):
    """A function.

    Attributes:
        inputs: positional arguments of one call, drawn from torch's global generator, floating ones in float32.
        options: keyword arguments of every call.
        tensors: it maps tensors to tensors, and so has a dtype, a device, vmap and compile. False: it is only asked to
            be pure and to refuse bad arguments.
        differentiable: gradients reach all floating inputs.
        output_dtype: dtype of floating outputs for inputs of a dtype. Default: the same.
        float32_error: relative error in norm of a float32 step against float64, see ``assert_dtype_kept``.
    """

    inputs: Callable[[], Inputs]
    options: Mapping[str, Any] = field(default_factory=dict)
    tensors: bool = True
    differentiable: bool = True
    output_dtype: Callable[[torch.dtype], torch.dtype] = layers.same_dtype
    float32_error: float = layers.FLOAT32_ROUNDING

    def all_checks(self) -> dict[str, Check]:
        """Purity and bad arguments; for functions of tensors also types, device, autocast, vmap, compile."""
        checks: dict[str, Check] = {
            "pure": self._assert_pure,
            "bad_arguments": self._assert_bad_arguments,
            "numbers": lambda: assert_numbers_checked(self._call, self.numbers()),
        }
        if not self.tensors:
            return checks
        kept = partial(
            layers.assert_dtype_kept,
            self._module,
            self.inputs,
            output_dtype=self.output_dtype,
            differentiable=self.differentiable,
            float32_error=self.float32_error,
        )
        return {
            "float32": partial(kept, torch.float32),
            "float64": partial(kept, torch.float64),
            "bfloat16": partial(kept, torch.bfloat16),
            "device": partial(layers.assert_device_kept, self._module, self.inputs),
            "autocast": partial(layers.assert_autocast, self._module, self.inputs),
            "vmap": partial(layers.assert_vmap_equals_loop, self._module, self.inputs, steps=1),
            "compile": partial(layers.assert_compiled_equals_eager, self._module, self.inputs, steps=1),
            **checks,
        }

    def _module(self, **options: Any) -> nn.Module:
        return layers.AsModule(partial(resolve(self.method), **{**self.options, **options}))

    def _call(self, **options: Any) -> Any:
        return self._module(**options)(*layers.build_inputs(self.inputs, 0))

    def _assert_bad_arguments(self) -> None:
        calls = [bad for bad in self.bad if bad.inputs is not None]
        assert_bad_arguments_named(self._module, calls)
        assert_bad_arguments_named(self._call, [bad for bad in self.bad if bad.inputs is None])

    def _assert_pure(self) -> None:
        """Equal results from equal arguments, which stay as they are; the random and gradient state stay too."""
        given, untouched = (layers.build_inputs(self.inputs, 0) for _ in range(2))
        function = self._module()
        before = torch.get_rng_state(), torch.is_grad_enabled()
        first = function(*given)
        require(torch.equal(torch.get_rng_state(), before[0]), "it moves torch's random state.")
        require(torch.is_grad_enabled() == before[1], "it changes whether gradients are enabled.")
        assert_same(function(*given), first, "second call: ")
        assert_same(given, untouched, "arguments after the calls: ")


@dataclass(frozen=True, kw_only=True)
class ObjectContract(Contract):
    """Anything else that has state: a search, a projector, a controller, a mechanism.

    Attributes:
        make: ``make(**options) -> object``; options are the method's arguments.
        step: takes step i of it, the same for equal i, and returns what is compared.
        pickles: it can be pickled.
    """

    make: Callable[..., Stateful]
    step: Callable[[Any, int], object]
    pickles: bool = True

    def all_checks(self) -> dict[str, Check]:
        """State, copies, bad arguments."""
        return {
            "resume": partial(assert_resumes, self.make, self.step),
            "copy": partial(assert_deepcopy_and_pickle, self.make, self.step, pickles=self.pickles),
            "bad_arguments": partial(assert_bad_arguments_named, self.make, self.bad),
            "numbers": lambda: assert_numbers_checked(self.make, self.numbers()),
        }
