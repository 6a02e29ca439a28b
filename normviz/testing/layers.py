"""Checks of a layer: types and devices are kept, vmap equals a loop, compiled equals eager, autocast, eval mode.

The same assertions serve plain functions of tensors, as :class:`AsModule`.

Every comparison is of whole training steps: outputs, gradients of inputs and parameters, and buffers afterwards, with a
random linear functional of the outputs as the loss. Gradients need not be those of the forward (some papers replace
them), they only have to be the same both ways.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from normviz.testing._values import (
    Inputs,
    assert_near,
    assert_same,
    cast,
    moved,
    require,
    seeded,
    stacked,
    tensors,
)

__all__ = [
    "AsModule",
    "LayerStep",
    "assert_autocast",
    "assert_compiled_equals_eager",
    "assert_device_kept",
    "assert_dtype_kept",
    "assert_eval_is_still",
    "assert_vmap_equals_loop",
    "build_layer",
    "layer_step",
]

ROUNDING = 1e-8
"""Relative error in norm between two orders of the same float64 arithmetic."""

FLOAT32_ROUNDING = 1e-4
"""The same between float32 (2^-24 per rounding) and float64: some hundred roundings that add up."""

HALF_ROUNDING = 0.1
"""The same between bfloat16 (2^-9 per rounding) and float32: some ten roundings, in sums that partly cancel."""

Make = Callable[[], nn.Module]
MakeInputs = Callable[[], Inputs]


class AsModule(nn.Module):
    """A function of tensors as a module without parameters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        """Call the function."""
        return self.function(*inputs)


class LayerStep(NamedTuple):
    """One training step: everything that it computes or changes, by name or position."""

    outputs: dict[str, Tensor]
    input_gradients: dict[str, Tensor]
    parameter_gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def build_layer(make: Make, seed: int | None = 0) -> nn.Module:
    """The layer with its parameters moved away from where they start (gains of 1 and biases of 0 hide mistakes).

    Args:
        make: builds the layer.
        seed: of its parameters. None: torch's random state as it is.
    """
    with nullcontext() if seed is None else seeded(seed):
        layer = make()
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(0.3 * torch.randn_like(p))
    return layer


def build_inputs(inputs: MakeInputs, seed: int) -> Inputs:
    """The inputs of step ``seed``."""
    with seeded(seed):
        return inputs()


def random_coefficients(outputs: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Random c of the shape of every floating output."""
    generator = torch.Generator().manual_seed(seed)
    return {
        path: torch.randn(output.shape, generator=generator, dtype=torch.float64).to(
            output.device, output.dtype
        )
        for path, output in outputs.items()
        if output.is_floating_point()
    }


def linear_functional(outputs: dict[str, Tensor], coefficients: dict[str, Tensor]) -> Tensor:
    """``sum <output, c>`` in float64: the loss of every step here."""
    terms = [(outputs[path] * c).sum().double() for path, c in coefficients.items()]
    return torch.stack(terms).sum()


def layer_step(
    layer: nn.Module,
    inputs: Inputs,
    seed: int = 0,
    call: Callable[..., Any] | None = None,
    autocast: torch.dtype | None = None,
) -> LayerStep:
    """Forward and backward of a random linear functional of the outputs, with everything that came out.

    Args:
        layer: its buffers move as they do in training (or eval).
        inputs: of the forward; gradients are taken for floating tensors.
        seed: of the functional, and of what the layer draws.
        call: what to call instead of the layer, e.g. its compiled form.
        autocast: dtype of an autocast region around the forward.
    """
    layer.zero_grad()
    given = [
        x.detach().clone().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x
        for x in inputs
    ]
    with seeded(seed), torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        outputs = tensors((layer if call is None else call)(*given))
    if any(output.requires_grad for output in outputs.values()):
        linear_functional(outputs, random_coefficients(outputs, seed)).backward()  # type: ignore[no-untyped-call]
    return LayerStep(
        {path: output.detach() for path, output in outputs.items()},
        {str(i): x.grad for i, x in enumerate(given) if isinstance(x, Tensor) and x.grad is not None},
        {name: p.grad.detach() for name, p in layer.named_parameters() if p.grad is not None},
        {name: buffer.detach().clone() for name, buffer in layer.named_buffers()},
    )


# ---------------------------------------------------------------------------------------- types and devices


def same_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself: what a layer returns for inputs of it."""
    return dtype


def assert_dtype_kept(
    make: Make,
    inputs: MakeInputs,
    dtype: torch.dtype,
    *,
    output_dtype: Callable[[torch.dtype], torch.dtype] = same_dtype,
    differentiable: bool = True,
    float32_error: float = FLOAT32_ROUNDING,
) -> None:
    """A training step in ``dtype``: outputs and gradients in it, finite, and near the same step in float64.

    Args:
        make: builds the layer.
        inputs: its inputs.
        dtype: of parameters, buffers and floating inputs.
        output_dtype: dtype of the outputs for inputs of a dtype. Default: the same.
        differentiable: whether gradients are expected, for the inputs and for all parameters.
        float32_error: relative error in norm of a float32 step against float64. Default 1e-4; more for what multiplies
            its rounding errors, as an iteration does that does not converge.

    Raises:
        AssertionError: another dtype, a value that is not finite, a missing gradient, a step that is not near.
    """
    layer = build_layer(make).to(dtype)
    given = cast(build_inputs(inputs, 0), dtype)
    reference = copy.deepcopy(layer).double()
    step = layer_step(layer, given)
    for path, output in step.outputs.items():
        if output.is_floating_point():
            expected = output_dtype(dtype)
            require(output.dtype == expected, f"output{path} is {output.dtype}, not {expected}.")
    for kind in ("input_gradients", "parameter_gradients", "buffers"):
        for name, value in getattr(step, kind).items():
            wrong = value.is_floating_point() and value.dtype != dtype
            require(not wrong, f"{kind}[{name!r}] is {value.dtype}, not {dtype}.")
    for path, value in tensors(step).items():
        require(bool(torch.isfinite(value).all()), f"step{path} is not finite.")
    if differentiable:
        floating = {str(i) for i, x in enumerate(given) if isinstance(x, Tensor) and x.is_floating_point()}
        require(floating == step.input_gradients.keys(), "an input has no gradient.")
        missing = {name for name, _ in layer.named_parameters()} - step.parameter_gradients.keys()
        require(not missing, f"no gradient for {sorted(missing)}.")
    if dtype != torch.float64:
        tolerance = HALF_ROUNDING if dtype.itemsize < 4 else float32_error
        exact = layer_step(reference, cast(given, torch.float64))
        assert_near(
            step, exact, f"{dtype} against float64: ", rtol=tolerance, atol=tolerance / 10, dtype=False
        )


def assert_device_kept(make: Make, inputs: MakeInputs, device: str = "meta") -> None:
    """A training step on ``device`` stays there and has the shapes and dtypes of the CPU's.

    The device "meta" is everywhere and holds no values: a tensor that the layer creates on the CPU, or a value that it
    looks at, is an error there. On other devices the values are compared too.

    Args:
        make: builds the layer.
        inputs: its inputs.
        device: any. Default "meta".

    Raises:
        AssertionError: a result is elsewhere or differs; the layer's own errors pass through.
    """
    layer, given = build_layer(make), build_inputs(inputs, 0)
    expected = layer_step(copy.deepcopy(layer), given)
    step = layer_step(layer.to(device), moved(given, device))
    for path, value in tensors(step).items():
        require(value.device.type == torch.device(device).type, f"step{path} is on {value.device}.")
    if torch.device(device).type == "meta":
        assert_same(
            {path: (value.shape, value.dtype) for path, value in tensors(step).items()},
            {path: (value.shape, value.dtype) for path, value in tensors(expected).items()},
            "shapes on meta: ",
        )
    else:
        assert_near(step, expected, f"on {device}: ", rtol=1e-2, atol=1e-3)


def assert_autocast(make: Make, inputs: MakeInputs, dtype: torch.dtype = torch.bfloat16) -> None:
    """Inside an autocast region a step of a float32 layer is near the one outside, for float32 and half inputs.

    Args:
        make: builds the layer.
        inputs: its inputs.
        dtype: of the region, and of the second set of inputs (what a Linear before the layer returns there).

    Raises:
        AssertionError: results far from those outside, or gradients of parameters that are not float32.
    """
    given = cast(cast(build_inputs(inputs, 0), dtype), torch.float32)
    expected = layer_step(build_layer(make), given)
    for kind in (torch.float32, dtype):
        step = layer_step(build_layer(make), cast(given, kind), autocast=dtype)
        for name, gradient in step.parameter_gradients.items():
            require(gradient.dtype == torch.float32, f"gradient of {name} is {gradient.dtype}.")
        assert_near(
            step,
            expected,
            f"autocast, {kind} inputs: ",
            rtol=HALF_ROUNDING,
            atol=HALF_ROUNDING / 10,
            dtype=False,
        )


def assert_eval_is_still(make: Make, inputs: MakeInputs) -> None:
    """In eval mode a forward draws nothing at random and changes nothing, and repeats bit for bit.

    Args:
        make: builds the layer.
        inputs: its inputs.

    Raises:
        AssertionError: outputs differ from call to call, state changes, or the random state moves.
    """
    layer, given = build_layer(make), build_inputs(inputs, 0)
    layer_step(layer, given)
    layer.eval()
    state = copy.deepcopy(layer.state_dict())
    random_state = torch.get_rng_state()
    first = layer(*given)
    require(torch.equal(torch.get_rng_state(), random_state), "eval mode draws random numbers.")
    assert_same(layer(*given), first, "second call in eval mode: ")
    assert_same(layer.state_dict(), state, "state after eval mode: ")


# ------------------------------------------------------------------------------------------ transforms


def assert_vmap_equals_loop(
    make: Make, inputs: MakeInputs, *, members: int = 3, steps: int = 2, random: bool = False
) -> None:
    """Training steps of several members at once (stacked state, ``vmap`` of ``grad``) equal one member after another.

    Members have different parameters, buffers and inputs. Outputs, gradients and buffers are compared after every step,
    and at last the outputs in eval mode; all in float64.

    Args:
        make: builds a member.
        inputs: one member's inputs.
        members: how many.
        steps: training steps.
        random: the layer draws in training. Its training steps are then only run, under ``randomness="different"``.

    Raises:
        AssertionError: the two ways differ.
    """
    layers = [build_layer(make, seed).double() for seed in range(members)]
    for seed, layer in enumerate(layers):
        layer_step(layer, cast(build_inputs(inputs, 10 + seed), torch.float64))
    parameters, buffers = stack_module_state(layers)
    parameters = {name: p.detach() for name, p in parameters.items()}
    base = copy.deepcopy(layers[0])

    for step in range(steps):
        given = [cast(build_inputs(inputs, 20 + 10 * step + seed), torch.float64) for seed in range(members)]
        expected = [layer_step(layer, x, seed=step) for layer, x in zip(layers, given, strict=True)]
        coefficients = random_coefficients(expected[0].outputs, step)
        together = _vmapped_step(base, parameters, buffers, stacked(given), coefficients, expected[0])
        if not random:
            _assert_members(together, expected, f"step {step}, ")

    base.eval()
    outputs = _vmapped_outputs(base, parameters, buffers, stacked(given))
    for i, (layer, x) in enumerate(zip(layers, given, strict=True)):
        mine = {path: output[i] for path, output in outputs.items()}
        if random:  # parameters are the same, buffers went their own way
            buffers_of_i = {name: b[i] for name, b in buffers.items()}
            layer.load_state_dict({**layer.state_dict(), **buffers_of_i})
        assert_near(mine, tensors(layer.eval()(*x)), f"eval, member {i}: ", rtol=ROUNDING)


@contextmanager
def slow_batching_allowed() -> Iterator[None]:
    """Without torch's warning that an operation has no batching rule: it then loops, with the same results."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        yield


def _axes(inputs: Inputs) -> tuple[int | None, ...]:
    return tuple(0 if isinstance(x, Tensor) else None for x in inputs)


def _vmapped_step(
    base: nn.Module,
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    inputs: Inputs,
    coefficients: dict[str, Tensor],
    like: LayerStep,
) -> LayerStep:
    floating = {str(i): x for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.is_floating_point()}
    rest = {str(i): x for i, x in enumerate(inputs) if isinstance(x, Tensor) and not x.is_floating_point()}
    constant = {str(i): x for i, x in enumerate(inputs) if not isinstance(x, Tensor)}

    def loss(
        parameters: dict[str, Tensor],
        floating: dict[str, Tensor],
        rest: dict[str, Tensor],
        buffers: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        by_place: dict[str, Any] = {**floating, **rest, **constant}
        given = tuple(by_place[str(i)] for i in range(len(inputs)))
        outputs = tensors(functional_call(base, (parameters, buffers), given))
        return linear_functional(outputs, coefficients), outputs

    differentiated = grad_and_value(loss, argnums=(0, 1), has_aux=True)
    with slow_batching_allowed():
        (dp, dx), (_, outputs) = vmap(differentiated, randomness="different")(
            parameters, floating, rest, buffers
        )
    # The functional of detached outputs has a zero gradient here and none in the loop.
    dx = {name: g for name, g in dx.items() if name in like.input_gradients}
    dp = {name: g for name, g in dp.items() if name in like.parameter_gradients}
    return LayerStep(outputs, dx, dp, {name: b.clone() for name, b in buffers.items()})


def _vmapped_outputs(
    base: nn.Module, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Inputs
) -> dict[str, Tensor]:
    def forward(p: dict[str, Tensor], b: dict[str, Tensor], *x: Any) -> dict[str, Tensor]:
        return tensors(functional_call(base, (p, b), x))

    with slow_batching_allowed():
        outputs: dict[str, Tensor] = vmap(forward, in_dims=(0, 0, *_axes(inputs)))(
            parameters, buffers, *inputs
        )
    return outputs


def _assert_members(together: LayerStep, alone: Sequence[LayerStep], what: str) -> None:
    for i, step in enumerate(alone):
        mine = LayerStep(*({name: value[i] for name, value in part.items()} for part in together))
        assert_near(mine, step, f"{what}member {i}: ", rtol=ROUNDING, atol=ROUNDING / 10)


def assert_compiled_equals_eager(
    make: Make, inputs: MakeInputs, *, backend: str = "aot_eager", steps: int = 3
) -> None:
    """Compiled in one graph, training steps equal the eager ones, in float64.

    Several steps, because a compiler that computes a running statistic again in the backward, from buffers that the
    forward has moved on, is right at the first step only.

    Args:
        make: builds the layer.
        inputs: its inputs, of the same shapes every time.
        backend: of torch.compile. Default "aot_eager": the whole front end, no code generation.
        steps: training steps.

    Raises:
        AssertionError: outputs, gradients or buffers differ; the compiler's own errors pass through.
    """
    torch.compiler.reset()
    eager = build_layer(make).double()
    layer = copy.deepcopy(eager)
    with warnings.catch_warnings():
        # torch's own, from tracing a torch.autograd.Function
        warnings.filterwarnings("ignore", message=".*should not be instantiated", category=DeprecationWarning)
        compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=False)
        for i in range(steps):
            given = cast(build_inputs(inputs, i), torch.float64)
            expected = layer_step(eager, given, seed=i)
            step = layer_step(layer, given, seed=i, call=compiled)
            assert_near(step, expected, f"compiled step {i}: ", rtol=ROUNDING, atol=ROUNDING / 10)
