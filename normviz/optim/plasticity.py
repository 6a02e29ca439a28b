r"""Interventions against loss of plasticity: the baselines that Normalize-and-Project is compared with.

Lyle et al., "Normalization and effective learning rates in reinforcement learning", NeurIPS 2024, arXiv 2407.01800,
compares them with and without projection. The interventions themselves:

    L2                 loss + strength sum theta^2                                   L2
    regenerative L2    loss + strength sum (theta - theta_0)^2                       RegenerativeL2
                       Kumar, Marklund, Van Roy, arXiv 2308.11958
    shrink, perturb    theta <- shrink theta + noise_std N(0, 1)                     shrink_and_perturb_
                       Ash, Adams, arXiv 1910.08475
    noisy updates      theta <- theta + std N(0, 1) after each step                  NoisyUpdates
    dormant reset      see :mod:`normviz.optim.redo`                                 ReDO
                       Sokar et al., arXiv 2302.12902

"Weights" theta are all trainable parameters except those of norm layers. Penalties carry no factor 1/2. The defaults
are this project's or quoted second-hand, and depend on the problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normviz.module_roles import plastic_weights
from normviz.optim._matrix import at_least_float32
from normviz.optim.redo import ReDO
from normviz.validation import check_real

__all__ = ["L2", "NoisyUpdates", "ReDO", "RegenerativeL2", "shrink_and_perturb_"]


class L2:
    """``strength * sum theta^2`` over the weights, to be added to the loss.

    Args:
        model: the network; weights are all trainable parameters except those of norm layers.
        strength: >= 0. Default 1e-4 (unconfirmed).

    Raises:
        ValueError: ``strength`` < 0, a model without weights.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 3.0)
        >>> L2(layer, strength=0.5).penalty()
        tensor(9., grad_fn=<MulBackward0>)

    Reference: a baseline of Lyle et al., "Normalization and effective learning rates in reinforcement learning",
        arXiv 2407.01800: ``loss + strength sum theta^2``.
    """

    def __init__(self, model: nn.Module, strength: float = 1e-4) -> None:
        self.strength = check_real("strength", strength, 0, high_open=True)
        self._weights = plastic_weights(model)

    def penalty(self) -> Tensor:
        """The penalty at the present weights: a scalar that can be differentiated."""
        squares = [at_least_float32(p).square().sum() for p in self._weights.values()]
        return self.strength * torch.stack(squares).sum()


class RegenerativeL2:
    """``strength * sum (theta - theta_0)^2`` over the weights, to be added to the loss.

    Args:
        model: the network; theta_0 is a copy of its weights at construction.
        strength: >= 0. Default 1e-3 (unconfirmed).

    Raises:
        ValueError: ``strength`` < 0, a model without weights.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 3.0)
        >>> regularizer = RegenerativeL2(layer, strength=0.5)
        >>> _ = layer.weight.data.add_(1)
        >>> regularizer.penalty()
        tensor(1., grad_fn=<MulBackward0>)

    Reference: Kumar, Marklund, Van Roy, arXiv 2308.11958: ``loss + strength sum (theta - theta_0)^2``.
    """

    def __init__(self, model: nn.Module, strength: float = 1e-3) -> None:
        self.strength = check_real("strength", strength, 0, high_open=True)
        self._weights = plastic_weights(model)
        self._initial = {name: p.detach().clone() for name, p in self._weights.items()}

    def penalty(self) -> Tensor:
        """The penalty at the present weights: a scalar that can be differentiated."""
        squares = [
            (at_least_float32(p) - self._initial[name].to(p.device)).square().sum()
            for name, p in self._weights.items()
        ]
        return self.strength * torch.stack(squares).sum()

    def state_dict(self) -> dict[str, Any]:
        """theta_0 by parameter name, under "initial"."""
        return {"initial": dict(self._initial)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take theta_0 from :meth:`state_dict`, e.g. after building it on trained weights.

        Raises:
            RuntimeError: it is missing, or has other names or shapes than the weights; nothing was changed.
        """
        initial = state_dict.get("initial")
        shapes = {name: tuple(p.shape) for name, p in self._weights.items()}
        given = (
            {name: tuple(t.shape) for name, t in initial.items()} if isinstance(initial, Mapping) else None
        )
        if not isinstance(initial, Mapping) or given != shapes:
            raise RuntimeError(f"state_dict must have 'initial' with shapes {shapes}, got {given}.")
        self._initial = {
            name: initial[name].detach().clone().to(p.device) for name, p in self._weights.items()
        }


@torch.no_grad()
def shrink_and_perturb_(
    model: nn.Module, shrink: float = 0.8, noise_std: float = 0.01, generator: torch.Generator | None = None
) -> None:
    """``theta <- shrink theta + noise_std N(0, 1)`` in place, for the weights; norm layers stay as they are.

    Args:
        model: the network.
        shrink: in [0, 1]. Default 0.8 (unconfirmed).
        noise_std: standard deviation of the noise, >= 0. Default 0.01 (unconfirmed).
        generator: source of the noise, on any device. Default None: torch's global one.

    Raises:
        ValueError: an argument out of range, a model without weights.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.ones_(layer.weight)
        >>> shrink_and_perturb_(layer, shrink=0.5, noise_std=0.0)
        >>> layer.weight.tolist()
        [[0.5, 0.5]]
    """
    check_real("shrink", shrink, 0, 1)
    check_real("noise_std", noise_std, 0, high_open=True)
    for p in plastic_weights(model).values():
        p.mul_(shrink).add_(_normal_like(p, generator), alpha=noise_std)


class NoisyUpdates:
    """Add ``std * N(0, 1)`` to every parameter that has a gradient, after each step of the optimizer.

    Args:
        optimizer: any optimizer; it gets a step post-hook.
        std: standard deviation of the noise, >= 0. Default 1e-3 (unconfirmed).
        generator: source of the noise, on any device. Default None: torch's global one.

    Raises:
        ValueError: ``std`` < 0.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> noise = NoisyUpdates(optimizer, std=0.01)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> noise.remove()

    Reference: a baseline of Lyle et al., "Normalization and effective learning rates in reinforcement learning",
        arXiv 2407.01800: ``theta + std N(0, 1)`` after each step.
    """

    def __init__(
        self, optimizer: Optimizer, std: float = 1e-3, generator: torch.Generator | None = None
    ) -> None:
        self.std = check_real("std", std, 0, high_open=True)
        self.generator = generator
        self._handle = optimizer.register_step_post_hook(self._add_noise)

    @torch.no_grad()
    def _add_noise(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(_normal_like(p, self.generator), alpha=self.std)

    def remove(self) -> None:
        """Remove the hook: no more noise is added."""
        self._handle.remove()


def _normal_like(p: Tensor, generator: torch.Generator | None) -> Tensor:
    """N(0, 1) of the shape and dtype of ``p``, drawn on the generator's device."""
    device = p.device if generator is None else generator.device
    return torch.randn(p.shape, generator=generator, dtype=p.dtype, device=device).to(p.device)
