r"""Project: keep the norm of every weight tensor where it was at initialisation.

The second half of Normalize-and-Project (Lyle et al., "Normalization and effective learning rates in reinforcement
learning", arXiv 2407.01800); see :mod:`normviz.norms.nap` for the paper.

    W_l <- rho_l W_l / ||W_l||_F,   rho_l = ||W_l||_F at construction
    (sigma, mu) <- rho (sigma, mu) / r,   r = sqrt(||sigma||^2 + ||mu||^2), rho = r at construction     "project"
    sigma <- sigma - lr lambda (sigma - 1),   mu <- mu - lr lambda mu                                   "regularize"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from normviz.module_roles import (
    affine_parameters,
    check_finite,
    frobenius_norms,
    initial_radii,
    is_activation,
    is_homogeneous,
    is_norm,
    projected_weights,
)
from normviz.validation import check_choice, check_integer, check_real, nearest

__all__ = ["NormProjector"]

_NEUTRAL = {"weight": 1.0, "bias": 0.0}
"""The scale and offset that do nothing."""

Rate = float | Tensor
"""A learning rate as optimizers keep it."""


class NormProjector:
    """Rescale each weight tensor to its initial Frobenius norm, one scalar per tensor, after an optimizer's step.

    Projected are the weights of Linear, convolution and Embedding modules (found by type), except the output layer's:
    the last such module in ``named_modules()`` order if no norm comes after it, which is not scale-invariant. A tensor
    that two modules share is projected once. Gradients and the optimizer's state stay as they are. Use no weight decay
    on projected tensors: it would only change the step.

    A norm's scale sigma and offset mu count as one vector (sigma, mu), which is scale-invariant *together* if a
    homogeneous activation and then another norm follow. So under "project" the pairs that no later norm follows in
    ``named_modules()`` order (those that feed the output) are left free, unless ``project_output``.

    Args:
        model: the network, with the weights that define the radii.
        every: project on calls every, 2 every, … Default 1 (paper).
        project_output: project the output layer and the pair that feeds it too. Default False (this project's choice;
            what the paper does is not confirmed).
        scale_offset: what happens to (sigma, mu): "project" (default) to their initial joint norm, sqrt(d) for a fresh
            pair of d features; "regularize" pulls every pair towards (1, 0), for any activation; "free" leaves them;
            "none" asserts that there are none.
        reg_strength: lambda of "regularize". Default 1e-3 (this project's choice).
        exclude: names of parameters or modules that are neither projected nor pulled. A pair is left out as a whole.

    Attributes:
        radii: parameter name, or norm module's name for a pair, -> norm to which it is projected.
        calls: number of calls of :meth:`project_` so far.

    Raises:
        ValueError: ``every`` < 1, ``reg_strength`` < 0, unknown ``scale_offset`` or name in ``exclude``; "project" in a
            model with an affine norm and an activation module that is not homogeneous (tanh, GELU, …); "none" in a
            model with an affine norm.
        FloatingPointError: a norm is not finite.

    A tensor that is zero at construction has no direction to keep; it is left out with a UserWarning.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
        >>> projector = NormProjector(model)
        >>> sorted(projector.radii)
        ['0.weight']
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = projector.attach(optimizer)  # from now on every optimizer.step() ends with a projection
        >>> model(torch.randn(3, 4)).square().sum().backward()
        >>> optimizer.step()
        >>> abs(projector.norms()["0.weight"] / projector.radii["0.weight"] - 1) < 1e-6
        True

    Reference: Lyle et al., "Normalization and effective learning rates in reinforcement learning", arXiv
        2407.01800: ``W <- rho W / ||W||_F``.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 1,
        project_output: bool = False,
        scale_offset: str = "project",
        reg_strength: float = 1e-3,
        exclude: Iterable[str] = (),
    ) -> None:
        self.every = check_integer("every", every, 1)
        self.scale_offset = check_choice(
            "scale_offset", scale_offset, ("project", "regularize", "free", "none")
        )
        self.reg_strength = check_real("reg_strength", reg_strength, 0, high_open=True)
        excluded = _excluded_parameters(model, exclude)
        pairs = _affine_pairs(model, excluded)
        tensors: dict[str, tuple[nn.Parameter, ...]] = {
            name: (weight,)
            for name, weight in projected_weights(model, project_output).items()
            if weight not in excluded
        }
        if scale_offset == "project":
            _check_homogeneous(model, pairs)
            invariant = pairs if project_output else _followed_by_norm(model)
            tensors |= {name: tuple(pair.values()) for name, pair in pairs.items() if name in invariant}
        elif scale_offset == "none" and pairs:
            raise ValueError(
                f"scale_offset='none' needs norms without scale and offset, but {next(iter(pairs))} has them."
            )
        self.radii: dict[str, float] = initial_radii(tensors)
        self.calls = 0
        self._tensors = {name: tensors[name] for name in self.radii}
        self._pulled = list(pairs.values()) if scale_offset == "regularize" else []

    def norms(self) -> dict[str, float]:
        """The present norms of what is projected, with the keys of ``radii``."""
        return frobenius_norms(self._tensors)

    def project_(self, lr: Rate | None = None) -> None:
        """Project in place; to be called after ``optimizer.step()``, or not at all where :meth:`attach` was.

        Args:
            lr: learning rate of the step, needed by "regularize" only. Default None.

        Raises:
            ValueError: "regularize" without ``lr``, or ``lr`` < 0.
            FloatingPointError: a norm is not finite; nothing was changed. The message names the tensor.
        """
        if self.scale_offset == "regularize":
            if lr is None:
                raise ValueError("lr must be given with scale_offset='regularize', got None.")
            if not isinstance(lr, Tensor):
                check_real("lr", lr, 0, high_open=True)
        self._after_step(lambda _: lr)

    def attach(self, optimizer: Optimizer) -> RemovableHandle:
        """Project after every step of the optimizer, with each tensor's learning rate; ``.remove()`` ends it.

        Under "regularize" only the pairs' parameters that this optimizer holds are pulled.
        """

        def project_after_step(stepped: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001
            rates = {p: group["lr"] for group in stepped.param_groups for p in group["params"]}
            self._after_step(rates.get)

        return optimizer.register_step_post_hook(project_after_step)

    @torch.no_grad()
    def _after_step(self, rate: Callable[[nn.Parameter], Rate | None]) -> None:
        due = (self.calls + 1) % self.every == 0
        norms = self.norms() if due else {}
        check_finite(norms)
        self.calls += 1
        for pair in self._pulled:
            for name, p in pair.items():
                lr = rate(p)
                if lr is not None:
                    p.sub_(lr * self.reg_strength * (p - _NEUTRAL[name]))
        tensors: list[Tensor] = []
        factors: list[float] = []
        for name, norm in norms.items():
            if norm > 0:
                tensors += self._tensors[name]
                factors += [self.radii[name] / norm] * len(self._tensors[name])
        if tensors:
            torch._foreach_mul_(tensors, factors)

    def state_dict(self) -> dict[str, Any]:
        """Radii and number of calls, as plain numbers."""
        return {"radii": dict(self.radii), "calls": self.calls}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take radii and number of calls from :meth:`state_dict`, e.g. after building it on trained weights.

        Raises:
            RuntimeError: radii or calls are missing, or the radii have other names than here; nothing was changed.
        """
        radii, calls = state_dict.get("radii"), state_dict.get("calls")
        if not isinstance(radii, Mapping) or calls is None:
            raise RuntimeError(f"state_dict must have 'radii' and 'calls', got {sorted(state_dict)}.")
        missing, unexpected = self.radii.keys() - radii.keys(), radii.keys() - self.radii.keys()
        if missing or unexpected:
            raise RuntimeError(
                f"radii have other names: missing {sorted(missing)}, unexpected {sorted(unexpected)}."
            )
        self.radii = {name: float(radii[name]) for name in self.radii}
        self.calls = int(calls)


def _excluded_parameters(model: nn.Module, exclude: Iterable[str]) -> set[nn.Parameter]:
    """All parameters that are named, or are inside a named module."""
    names = [exclude] if isinstance(exclude, str) else list(exclude)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules(remove_duplicate=False))
    excluded: set[nn.Parameter] = set()
    for name in names:
        if name in parameters:
            excluded.add(parameters[name])
        elif name in modules:
            excluded.update(modules[name].parameters())
        else:
            close = nearest(str(name), [*parameters, *modules])
            raise ValueError(f"exclude has {name!r}, which is no parameter or module; nearest: {close}.")
    return excluded


def _affine_pairs(model: nn.Module, excluded: set[nn.Parameter]) -> dict[str, dict[str, nn.Parameter]]:
    """Scale and offset of every norm that has any and is not excluded, by the norm's name."""
    pairs = {name: affine_parameters(module) for name, module in model.named_modules() if is_norm(module)}
    return {name: pair for name, pair in pairs.items() if pair and excluded.isdisjoint(pair.values())}


def _followed_by_norm(model: nn.Module) -> set[str]:
    """Names of all norms but the last."""
    norms = [name for name, module in model.named_modules() if is_norm(module)]
    return set(norms[:-1])


def _check_homogeneous(model: nn.Module, pairs: Mapping[str, object]) -> None:
    for name, module in model.named_modules():
        if pairs and is_activation(module) and not is_homogeneous(module):
            raise ValueError(
                f"scale_offset='project' needs homogeneous activations (ReLU, leaky ReLU), but {name} is "
                f"{type(module).__name__} and {next(iter(pairs))} has scale and offset; "
                "use 'regularize' or 'free', or norms without them."
            )
