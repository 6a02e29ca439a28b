"""Watch a model of one's own: the probes of the pages in any training loop, through hooks alone.

In a notebook::

    import normviz
    with normviz.watch(model, optimizer) as watch:
        for x, y in batches:
            loss = cross_entropy(model(x), y)
            loss.backward()
            watch.loss(loss)
            optimizer.step()
            optimizer.zero_grad()
    watch.figures()["activations"]

What is watched when: a pre-hook of the model starts the probes that are due, in the first forward pass of each step;
a pre-hook of the optimizer reads the gradients; a post-hook of the optimizer ends the step. Nothing draws a random
number or writes to the model, so the training is the same with and without (bit for bit).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normviz.figures import Figure, line_figure, profile_figure, ridge_figure
from normviz.frame import EventKind, Frame, FrameLog, Value
from normviz.module_roles import is_activation, is_norm, is_weight_layer
from normviz.probes import (
    ActivationHistogram,
    GradientNorm,
    Probe,
    StatisticsGap,
    UpdateSpectrum,
    warn_of_blind_spots,
)
from normviz.validation import check_integer

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Watch", "watch"]

Select = Callable[[str, nn.Module], bool]

_LINES: dict[str, dict[str, Any]] = {
    "loss": {
        "series": "loss",
        "title": "Training loss",
        "y": "loss",
        "look_for": "Does it fall steadily, jump, or stop?",
    },
    "gradients": {
        "series": "grad_norm",
        "title": "Gradient norm",
        "y": "Euclidean norm",
        "look_for": "Spikes announce instability. As the optimizer sees it: after clipping, if you clip.",
        "log_scale": True,
    },
    "fluctuation": {
        "series": ["gap/var", "gap/quadratic_mean"],
        "title": "How far a batch strays from the running statistics: second moment",
        "y": "|batch − running|, mean over channels",
        "look_for": "Variance for BatchNorm, quadratic mean for PowerNorm: lower and flatter is safer. Log scale.",
        "log_scale": True,
    },
    "mean_fluctuation": {
        "series": "gap/mean",
        "title": "How far a batch strays from the running statistics: mean",
        "y": "|batch − running|, mean over channels",
        "look_for": "Only norms that subtract a batch mean have this line.",
        "log_scale": True,
    },
    "update_rank": {
        "series": "update/effective_rank",
        "title": "Effective rank of the update, mean over the matrices",
        "y": "exp(entropy of the squared singular values)",
        "look_for": "Low: the optimizer moves each matrix in few directions. Muon and its variants keep it high.",
    },
}

_SPECTRUM = ("effective_rank", "stable_rank", "condition_number", "rms", "cosine_to_gradient")


class _Hook:
    """A method of a watch as a hook that a copied or pickled model leaves behind."""

    def __init__(self, method: Callable[..., None]) -> None:
        self._method = method

    def __call__(self, *args: Any) -> None:
        self._method(*args)

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _no_hook, ()


def _no_hook() -> Callable[..., None]:
    return _ignore


def _ignore(*args: Any) -> None:
    pass


class Watch:
    """What :func:`watch` returns: the probes on one model and optimizer, and the log that they fill.

    Attributes:
        arm: the name of the curves.
        log: what was measured; one frame per optimizer step in which something was.
        step: optimizer steps seen so far.
        layers: names of the layers in ``activations``, in the order in which the forward pass calls them (empty
            before the first histogram).
        matrices: names of the parameters whose updates are measured.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        every: int = 1,
        arm: str = "model",
        histogram_every: int = 10,
        select: Select | None = None,
        spectrum_every: int = 0,
        log: FrameLog | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
        optimizer = _innermost(optimizer)
        warn_of_blind_spots(model, optimizer, stacklevel=4)  # at the caller of watch()
        check_integer("every", every, 1)
        check_integer("histogram_every", histogram_every, 1)
        self._spectrum_every = check_integer("spectrum_every", spectrum_every, 0)
        if not isinstance(arm, str) or not arm:
            raise ValueError(f"arm must be a non-empty name, got {arm!r}.")
        if select is not None and not any(select(name, module) for name, module in model.named_modules()):
            raise ValueError("select must choose at least one module of the model, it chose none.")
        self.arm = arm
        self.log = FrameLog() if log is None else log
        self.step = 0
        self.layers: list[str] = []
        matrices = _matrices(model, optimizer) if self._spectrum_every else {}
        self.matrices = list(matrices)
        self._model = model
        self._select = select or _outermost(model)
        self._histogram = ActivationHistogram(self._select, histogram_every)
        self._probes: list[Probe] = [StatisticsGap(every), GradientNorm(every), self._histogram]
        self._values: dict[str, Value] = {}
        self._losses: list[float] = []
        self._hooked = False  # whether the forward passes are seen at all: those of a compiled model are not
        self._forwards = 0
        self._measured = False
        self._finite = True
        self._open: ExitStack | None = None
        # The spectrum's hooks stand between the two of this class: armed before, read after.
        self._handles = [optimizer.register_step_pre_hook(self._before_step)]
        self._spectrum = UpdateSpectrum(optimizer, matrices) if matrices else None
        self._handles.append(optimizer.register_step_post_hook(self._after_step))
        if not hasattr(model, "_orig_mod"):  # torch.compile's wrapper: hooks inside it would break its graph
            self._handles.append(model.register_forward_pre_hook(_Hook(self._before_forward)))

    def loss(self, value: float | Tensor) -> None:
        """Note the loss of this step; several in one step (gradient accumulation) are averaged.

        Call it before or after ``optimizer.step()``: after it, with no forward pass in between, the loss belongs to
        the step that was just taken.

        Raises:
            ValueError: more than one number.
        """
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"value must be one number, got a tensor of shape {tuple(value.shape)}.")
            value = value.detach()
        if self.step and self._hooked and not self._forwards:
            self._append(self.step - 1, {}, [float(value)])
        else:
            self._losses.append(float(value))

    def figures(self, step: int | None = None) -> dict[str, Figure]:
        """The page's figures for what was measured: those of ``loss, gradients, fluctuation, mean_fluctuation,
        activations, update_rank, update_rank_by_layer`` that have data, at the newest or at a given step.

        Raises:
            ValueError: ``step`` is no integer >= 0.
        """
        if step is not None:
            check_integer("step", step, 0)
        drawn: dict[str, Figure] = {}
        scalars, arrays = set(self.log.scalar_names), set(self.log.array_names)
        for name, options in _LINES.items():
            series = options["series"]
            if scalars & set([series] if isinstance(series, str) else series):
                drawn[name] = line_figure(self.log, step=step, **options)
        if "activations" in arrays:
            drawn["activations"] = ridge_figure(
                self.log,
                "activations",
                low=self._histogram.low,
                high=self._histogram.high,
                title="Activations, layer by layer",
                x="value",
                look_for="Does every layer keep a similar spread, from the input (bottom) to the output (top)?",
                layer_names=self.layers,
                step=step,
            )
        if "update_by_layer/effective_rank" in arrays:
            drawn["update_rank_by_layer"] = profile_figure(
                self.log,
                "update_by_layer/effective_rank",
                title="Effective rank of the update, matrix by matrix",
                x="matrix, input side first",
                y="effective rank",
                look_for="Which matrices move in few directions only?",
                step=step,
            )
        return drawn

    def to_dataframe(self) -> pd.DataFrame:
        """All scalars, one row per step and arm and one column per name."""
        return self.log.to_dataframe()

    def close(self) -> None:
        """Take all hooks off; the log and the figures stay. Harmless to repeat."""
        self._discard()
        for handle in self._handles:
            handle.remove()
        if self._spectrum is not None:
            self._spectrum.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Watch({self.arm!r}, {self.step} steps, {self.log!r})"

    # -- the forward pass --------------------------------------------------------------------------------------------

    def _before_forward(self, module: nn.Module, args: object) -> None:  # noqa: ARG002
        if torch.compiler.is_compiling():
            return
        self._discard()
        if not module.training or not torch.is_grad_enabled():
            return
        self._hooked = True
        self._forwards += 1
        due = [probe for probe in self._probes if self.step % probe.every == 0]
        if self._measured or not due:
            return
        values: dict[str, Value] = {}
        with ExitStack() as watching:
            for probe in due:
                watching.enter_context(probe.forward(module, values))
            if self._histogram in due:
                self._note_layers(module, watching)
            # Registered last, so that it runs when all that watches this forward pass has seen its end.
            handle = module.register_forward_hook(_Hook(lambda *_: self._after_forward(values)))
            watching.callback(handle.remove)
            self._open = watching.pop_all()

    def _after_forward(self, values: dict[str, Value]) -> None:
        self._discard()
        self._values.update(values)
        self._measured = True

    def _discard(self) -> None:
        """End what watches a forward pass; one that broke off with an error never got to its own end."""
        if self._open is not None:
            watching, self._open = self._open, None
            watching.close()

    def _note_layers(self, model: nn.Module, watching: ExitStack) -> None:
        """Note the names of the layers in the order of their calls, which is the order of the histograms."""
        self.layers = []

        def note(name: str, output: object) -> None:
            if isinstance(output[0] if isinstance(output, tuple) else output, Tensor):
                self.layers.append(name or type(model).__name__)

        for name, module in model.named_modules():
            if self._select(name, module):
                handle = module.register_forward_hook(_Hook(lambda _, __, output, n=name: note(n, output)))
                watching.callback(handle.remove)

    # -- the optimizer's step ----------------------------------------------------------------------------------------

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        if not _has_closure(args, kwargs):
            self._read_gradients()
        if self._spectrum is not None and self.step % self._spectrum_every == 0:
            self._spectrum.arm()

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        if _has_closure(args, kwargs):  # its gradients did not exist before the step
            self._read_gradients()
        if self._spectrum is not None and self.step % self._spectrum_every == 0:
            self._values.update(self._update_values())
        self._append(self.step, self._values, self._losses)
        self._values, self._losses, self._forwards, self._measured = {}, [], 0, False
        self.step += 1

    def _read_gradients(self) -> None:
        for probe in self._probes:
            if self.step % probe.every == 0:
                self._values.update(probe.gradients(self._model))

    def _update_values(self) -> dict[str, Value]:
        assert self._spectrum is not None
        spectra = [record.spectrum() for record in self._spectrum.read().values()]
        values: dict[str, Value] = {}
        for name in _SPECTRUM:
            by_layer = np.array([spectrum[name] for spectrum in spectra], dtype=np.float32)  # type: ignore[literal-required]
            values[f"update/{name}"] = float(np.mean(by_layer))
            values[f"update_by_layer/{name}"] = by_layer
        return values

    def _append(self, step: int, values: dict[str, Value], losses: list[float]) -> None:
        event: str | None = None
        kind: EventKind = "note"
        if losses:
            loss = float(np.mean(losses))
            values["loss"] = loss
            if self._finite and not math.isfinite(loss):
                self._finite, kind = False, "diverged"
                event = f"diverged at step {step}: the training loss is {loss}"
        if values:
            self.log.append(Frame(step, self.arm, 0, values, event, kind))


def watch(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    every: int = 1,
    arm: str = "model",
    histogram_every: int = 10,
    select: Select | None = None,
    spectrum_every: int = 0,
    log: FrameLog | None = None,
) -> Watch:
    """Watch a model while a training loop of one's own trains it.

    The loop stays as it is: any number of forward passes per step (the first one in training mode is measured;
    evaluation and ``no_grad`` passes are ignored), any optimizer of ``torch.optim``'s kind, closures, schedules,
    autocast. A step is a call of ``optimizer.step()``. A copy or a pickle of the model is not watched. A model that
    ``torch.compile`` runs is watched as far as the optimizer's hooks reach (gradients, updates, loss): its forward
    pass has no hooks.

    Args:
        model: trained in training mode (``model.train()``).
        optimizer: its optimizer; one that Accelerate or Lightning has wrapped is watched inside its wrapper.
        every: steps between two measurements of gradients and running statistics (default 1: each step).
        arm: name of the curves in the figures (default "model").
        histogram_every: steps between two histograms of activations (default 10, as on the pages).
        select: maps qualified name and module to whether its output gets a histogram. Default: the normalization
            layers; in a model without any the activation functions; without those too the weight layers.
        spectrum_every: steps between two measurements of the updates' singular values (default 0: never, since each
            takes an SVD of every weight matrix).
        log: a log to add to, e.g. another watch's, so that two models are drawn in the same figures as two arms.

    Returns:
        The :class:`Watch`; close it, or use it in a ``with`` statement, to take the hooks off.

    Raises:
        TypeError: no module, or no optimizer.
        ValueError: a cadence out of range, an empty arm, ``select`` chooses nothing, or ``spectrum_every`` without a
            weight matrix in the optimizer.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with watch(model, optimizer) as watching:
        ...     for _ in range(3):
        ...         loss = model(torch.randn(16, 4)).square().mean()
        ...         loss.backward()
        ...         watching.loss(loss)
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> list(watching.figures())
        ['loss', 'gradients', 'fluctuation', 'mean_fluctuation', 'activations']
    """
    return Watch(
        model,
        optimizer,
        every=every,
        arm=arm,
        histogram_every=histogram_every,
        select=select,
        spectrum_every=spectrum_every,
        log=log,
    )


def _outermost(model: nn.Module) -> Select:
    """The outermost modules of the first kind that the model has: norms, activations, weight layers."""
    for is_kind in (is_norm, is_activation, is_weight_layer):
        kind = [name for name, module in model.named_modules() if is_kind(module)]
        inner = {name for name in kind for outer in kind if outer and name.startswith(f"{outer}.")}
        if kind:
            chosen = set(kind) - inner
            return lambda name, _: name in chosen
    return lambda _, __: False


def _innermost(optimizer: object) -> Optimizer:
    """The optimizer itself where a library has wrapped it (Accelerate, Lightning): only it has hooks, and it steps.

    Raises:
        TypeError: it is none and wraps none.
    """
    found = optimizer
    while isinstance(inner := getattr(found, "optimizer", None), Optimizer):
        found = inner
    if not isinstance(found, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    return found


def _matrices(model: nn.Module, optimizer: Optimizer) -> dict[str, nn.Parameter]:
    """The parameters with two or more axes that the optimizer updates."""
    owned = {p for group in optimizer.param_groups for p in group["params"]}
    matrices = {n: p for n, p in model.named_parameters() if p in owned and p.ndim >= 2 and p.numel()}
    if not matrices:
        raise ValueError("spectrum_every needs a weight matrix of the model in the optimizer, there is none.")
    return matrices


def _has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether ``optimizer.step`` was called with a closure; ``args`` starts with the optimizer."""
    return kwargs.get("closure") is not None or (len(args) > 1 and args[1] is not None)
