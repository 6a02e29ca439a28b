r"""alpha-BN: batch norm at test time with a mixture of source and test statistics.

Fuming You, Jingjing Li, Zhou Zhao, "Test-time Batch Statistics Calibration for Covariate Shift", arXiv 2110.04065.
No official code was found; the semantics of the layer are those of the public re-implementation in
mariodoebler/test-time-adaptation.

Under a covariate shift the running statistics of training normalise wrongly. The test batch's own statistics remove the
shift, but the weights behind the norm were trained with the source's, and a small or one-sided batch is a poor sample.
alpha-BN stands between the two. With the running statistics (mu_s, var_s), which never change, and mean and biased
variance (mu_t, var_t) of the test batch x (N, C, ...) over all axes but the channels::

    mu  = alpha mu_s  + (1 - alpha) mu_t
    var = alpha var_s + (1 - alpha) var_t          y = gamma (x - mu) / sqrt(var + eps) + beta

``alpha`` is the weight of the SOURCE: 1 is ordinary eval mode, 0 is test-time batch norm (TBN). Many later papers and
libraries call the weight of the test batch alpha. That the paper means the source, and its default, could not be
confirmed; 0.9 is ours, the counterpart of the 0.1 for the test batch that later libraries use.

``variance="mixture"`` (ours) adds alpha (1-alpha) (mu_s - mu_t)^2, the variance of the two populations together.
Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020, arXiv
2006.16971, read alpha as N0 / (N0 + n): the source counts like N0 samples beside the n of the batch
(:func:`prior_alpha`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normviz.norms._rows import computing_dtype
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "AlphaBatchNorm1d",
    "AlphaBatchNorm2d",
    "AlphaBatchNorm3d",
    "calibrate_batchnorm",
    "mix_stats",
    "prior_alpha",
    "restore_batchnorm",
    "set_alpha",
]

M = TypeVar("M", bound=nn.Module)
Alpha = float | Iterable[float]

VARIANCES = ("linear", "mixture")


def prior_alpha(prior_n: float, batch_n: int) -> float:
    """``prior_n / (prior_n + batch_n)``: the source statistics count like ``prior_n`` samples (arXiv 2006.16971).

    Args:
        prior_n: N0 >= 0; 0 gives test-time batch norm.
        batch_n: size n >= 1 of the test batch.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> prior_alpha(16, 64)
        0.2
    """
    prior = check_real("prior_n", prior_n, 0, high_open=True)
    return prior / (prior + check_integer("batch_n", batch_n, 1))


def mix_stats(
    mu_s: Tensor, var_s: Tensor, mu_t: Tensor, var_t: Tensor, alpha: float, variance: str = "linear"
) -> tuple[Tensor, Tensor]:
    """Mean and variance between source and test batch.

    Args:
        mu_s: mean of the source, (C,).
        var_s: variance of the source, (C,).
        mu_t: mean of the test batch, (C,).
        var_t: variance of the test batch, (C,).
        alpha: weight of the source, in [0, 1].
        variance: "linear" (default): alpha var_s + (1-alpha) var_t; "mixture" (ours):
            plus alpha (1-alpha) (mu_s - mu_t)^2.

    Returns:
        (mu, var), (C,) each.

    Raises:
        ValueError: alpha out of range, unknown variance.
    """
    a = check_real("alpha", alpha, 0, 1)
    check_choice("variance", variance, VARIANCES)
    mu = a * mu_s + (1 - a) * mu_t
    var = a * var_s + (1 - a) * var_t
    return (mu, var + a * (1 - a) * (mu_s - mu_t).square()) if variance == "mixture" else (mu, var)


class _AlphaBatchNorm(nn.Module):
    """What the three layers share: everything but the shapes they take."""

    dims: tuple[int, ...]
    shapes: str
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        bn: _BatchNorm,
        alpha: float = 0.9,
        unbiased: bool = False,
        detach_stats: bool = True,
        variance: str = "linear",
    ) -> None:
        super().__init__()
        if not isinstance(bn, _BatchNorm):
            raise TypeError(f"bn must be a batch norm of torch.nn, got {type(bn).__name__}.")
        if bn.running_mean is None or bn.running_var is None:
            raise ValueError("bn must have running statistics (track_running_stats=True), got one without.")
        self._configure(alpha, unbiased, detach_stats, variance)
        tracked = bn.num_batches_tracked
        if tracked is not None and not tracked.is_meta and int(tracked) == 0:
            warnings.warn(
                "bn was never trained (num_batches_tracked is 0): its source statistics are the initial 0 and 1.",
                UserWarning,
                stacklevel=2,
            )
        self.num_features = bn.num_features
        self.eps = bn.eps
        self._plain = type(bn), {name: value for name, value in bn.__dict__.items() if name[0] != "_"}
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(bn, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(bn, name))
        self.train(bn.training)

    def _configure(self, alpha: float, unbiased: bool, detach_stats: bool, variance: str) -> None:
        check_choice("variance", variance, VARIANCES)
        self.alpha = alpha
        self.unbiased = bool(unbiased)
        self.detach_stats = bool(detach_stats)
        self.variance = variance

    @property
    def alpha(self) -> float:
        """Weight of the source statistics, in [0, 1]."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        self._alpha = check_real("alpha", value, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x; same shape and dtype out. The same in train and eval mode; no buffer changes."""
        kind = computing_dtype("x", x)
        if x.ndim not in self.dims or x.shape[1] != self.num_features:
            raise ValueError(
                f"x must have shape {self.shapes} with C = {self.num_features}, got {tuple(x.shape)}."
            )
        if not x.numel():
            raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}.")
        rows = x.to(kind)
        mean, var = self._statistics(rows)
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight.to(kind)
        y = (rows - mean.view(shape)) * scale.view(shape)
        if self.bias is not None:
            y = y + self.bias.to(kind).view(shape)
        return y.to(x.dtype)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, var) that x is normalised with, (C,) each."""
        mu_s, var_s = self.running_mean.to(x.dtype), self.running_var.to(x.dtype)
        if self.alpha == 1:
            return mu_s, var_s
        count = x.numel() // self.num_features
        if count == 1 and (self.alpha == 0 or self.unbiased):
            setting = "alpha = 0" if self.alpha == 0 else "unbiased"
            raise ValueError(
                f"x must have more than 1 value per channel with {setting}, got shape {tuple(x.shape)}."
            )
        axes = (0, *range(2, x.ndim))
        var_t, mu_t = torch.var_mean(
            x.detach() if self.detach_stats else x, axes, correction=int(self.unbiased)
        )
        return mix_stats(mu_s, var_s, mu_t, var_t, self.alpha, self.variance)

    def _restored(self) -> _BatchNorm:
        """The plain batch norm with this layer's parameters and buffers."""
        kind, settings = self._plain
        bn = kind.__new__(kind)
        nn.Module.__init__(bn)
        bn.__dict__.update(settings)
        for name in ("weight", "bias"):
            bn.register_parameter(name, self._parameters[name])
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            bn.register_buffer(name, self._buffers[name])
        return bn.train(self.training)

    def _options(self) -> dict[str, Any]:
        return {"unbiased": self.unbiased, "detach_stats": self.detach_stats, "variance": self.variance}

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return (
            f"{self.num_features}, alpha={self.alpha}, unbiased={self.unbiased}, "
            f"detach_stats={self.detach_stats}, variance={self.variance!r}, eps={self.eps}"
        )


class AlphaBatchNorm2d(_AlphaBatchNorm):
    """alpha-BN of images (N, C, H, W): ``mu = alpha mu_s + (1-alpha) mu_t``, the same for the variance.

    You, Li, Zhao, arXiv 2110.04065; the equations are in the module's docstring. ``alpha``, which can be set at any
    time, is the weight of the source statistics. The layer only infers: in train and eval mode alike it takes the
    statistics of each batch anew, and its buffers never change. eps, parameters and buffers are ``bn``'s own objects,
    under the same names in the state_dict. float16 and bfloat16 inputs are computed in float32 and cast back.

    Args:
        bn: a trained batch norm with running statistics.
        alpha: weight of the source, in [0, 1]. Default 0.9 (ours, see the module).
        unbiased: divide by n - 1 in the test batch's variance (the public re-implementation). Default False, so that
            alpha = 0 is ``F.batch_norm(training=True)``.
        detach_stats: the batch statistics are constants for the gradient (the public re-implementation). Default True.
        variance: "linear" (default) or "mixture" (ours).

    Raises:
        ValueError: alpha out of range, unknown variance, bn without running statistics; x of another shape or empty;
            one value per channel with alpha = 0, or with ``unbiased`` and alpha < 1.
        TypeError: bn is no batch norm; x not floating point.

    Warns:
        UserWarning: bn has seen no batch.

    Example:
        >>> bn = nn.BatchNorm2d(3)
        >>> y = bn(torch.randn(4, 3, 2, 2))
        >>> AlphaBatchNorm2d(bn, alpha=0.5)
        AlphaBatchNorm2d(3, alpha=0.5, unbiased=False, detach_stats=True, variance='linear', eps=1e-05)
    """

    dims = (4,)
    shapes = "(N, C, H, W)"


class AlphaBatchNorm1d(_AlphaBatchNorm):
    """alpha-BN of vectors (N, C) or sequences (N, C, L). All else as :class:`AlphaBatchNorm2d` (arXiv 2110.04065)."""

    dims = (2, 3)
    shapes = "(N, C) or (N, C, L)"


class AlphaBatchNorm3d(_AlphaBatchNorm):
    """alpha-BN of volumes (N, C, D, H, W). All else as :class:`AlphaBatchNorm2d` (arXiv 2110.04065)."""

    dims = (5,)
    shapes = "(N, C, D, H, W)"


# ------------------------------------------------------------------------------------------ whole models

_CALIBRATED: dict[type[nn.Module], type[_AlphaBatchNorm]] = {
    nn.BatchNorm1d: AlphaBatchNorm1d,
    nn.BatchNorm2d: AlphaBatchNorm2d,
    nn.BatchNorm3d: AlphaBatchNorm3d,
}


def calibrate_batchnorm(model: M, alpha: Alpha = 0.9, **kw: Any) -> M:
    """Put an alpha layer in the place of every BatchNorm1d, 2d and 3d (of exactly these types), in place.

    Parameters, buffers and the names in the state_dict stay; forward hooks of the replaced layers do not. Layers that
    are alpha layers already get the new alpha and options.

    Args:
        model: a trained network.
        alpha: weight of the source statistics; one number, or one per batch norm in ``model.modules()`` order.
        **kw: ``unbiased``, ``detach_stats``, ``variance`` of the layers.

    Returns:
        The model; the new layer if ``model`` itself is a batch norm.

    Raises:
        ValueError: alpha out of range or of the wrong length; the model has no batch norm, or one without running
            statistics; unknown variance. The model is then as before.

    Warns:
        UserWarning: a batch norm has seen no batch.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        >>> y = model(torch.randn(2, 1, 5, 5))
        >>> calibrate_batchnorm(model, 0.7)[1].alpha
        0.7
    """
    found = [m for m in model.modules() if isinstance(m, _AlphaBatchNorm) or type(m) in _CALIBRATED]
    alphas = _alphas(alpha, len(found))
    new = {
        id(module): _CALIBRATED[type(module)](cast(_BatchNorm, module), value, **kw)
        for module, value in zip(found, alphas, strict=True)
        if type(module) in _CALIBRATED
    }
    for module, value in zip(found, alphas, strict=True):
        if isinstance(module, _AlphaBatchNorm):
            module._configure(value, **{**module._options(), **kw})
    return _exchange(model, new)


def restore_batchnorm(model: M) -> M:
    """Put a plain batch norm back in the place of every alpha layer, in place.

    It is of the original class, with the original momentum, the layer's train/eval flag, and the same parameter and
    buffer objects.

    Returns:
        The model; the batch norm if ``model`` itself is an alpha layer.
    """
    found = [module for module in model.modules() if isinstance(module, _AlphaBatchNorm)]
    return _exchange(model, {id(layer): layer._restored() for layer in found})


def set_alpha(model: nn.Module, alpha: Alpha) -> None:
    """Set alpha of the model's alpha layers: one number, or one per layer in ``model.modules()`` order.

    Raises:
        ValueError: out of range, of the wrong length, or the model has no alpha layer; then no layer is changed.
    """
    found = [module for module in model.modules() if isinstance(module, _AlphaBatchNorm)]
    for layer, value in zip(found, _alphas(alpha, len(found)), strict=True):
        layer.alpha = value


def _alphas(alpha: Alpha, count: int) -> list[float]:
    if not count:
        raise ValueError("model must have a batch norm, got none.")
    given = (
        [alpha] * count if isinstance(alpha, Real | str) or not isinstance(alpha, Iterable) else list(alpha)
    )
    values = [check_real("alpha", value, 0, 1) for value in given]
    if len(values) != count:
        raise ValueError(f"alpha must have one value for each of {count} batch norms, got {len(values)}.")
    return values


def _exchange(model: M, layers: Mapping[int, nn.Module]) -> M:
    """Replace the modules with these ids, everywhere in the model."""
    if id(model) in layers:
        return cast(M, layers[id(model)])
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in layers:
                parent._modules[name] = layers[id(child)]
    return model
