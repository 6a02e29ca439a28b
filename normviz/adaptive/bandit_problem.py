"""Problems of pure exploration: ask noisy questions, then decide.

Zhang, Jain, Jamieson, "Learning to Actively Learn: A Robust Approach", 2020, arXiv 2010.15382. Actions X [n, d],
decisions Z [k, d], a problem theta [d]. An answer to action x has mean <x, theta>; after T answers a decision z is
judged against z* = argmax_z <z, theta>.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normviz.validation import check_choice, check_integer, check_real

__all__ = ["LOSSES", "NOISES", "TIE", "BanditProblem", "first_largest"]

NOISES = ("gaussian", "bernoulli")
LOSSES = ("simple_regret", "best_identification")

TIE = 1e-9
"""Estimated values within this of the largest are tied; the lowest index wins."""
ROUNDING = 1e-12
"""Values of decisions closer than this under a known theta are equal: the rounding of a sum."""
MEAN_SLACK = 1e-9
"""How far a Bernoulli mean may lie outside [0, 1]; it is then clipped."""


def first_largest(values: Tensor, slack: float = TIE) -> Tensor:
    """Index of the largest entry along the last axis; among those within ``slack`` of it the lowest."""
    return (values >= values.amax(dim=-1, keepdim=True) - slack).to(torch.int8).argmax(dim=-1)


def _table(name: str, rows: Any) -> Tensor:
    table = rows if isinstance(rows, Tensor) else torch.as_tensor(np.asarray(rows, dtype=np.float64))
    if table.ndim != 2 or table.numel() == 0:
        raise ValueError(f"{name} must be a table with at least one row, got shape {tuple(table.shape)}.")
    if not bool(torch.isfinite(table).all()):
        raise ValueError(f"{name} must be finite.")
    return table if table.is_floating_point() else table.double()


@dataclass(frozen=True, eq=False)
class BanditProblem:
    """Actions, decisions, noise and loss (arXiv 2010.15382, setting); which theta it is, is not part of it.

    Answers: "gaussian" y = <x, theta> + N(0, 1); "bernoulli" y in {0, 1} with mean (1 + <x, theta>) / 2, whose centred
    form 2 y - 1 has the mean <x, theta>. Losses: "simple_regret" <z* - z, theta>; "best_identification" 1 if z is not
    z*, else 0. Of tied best decisions z* is the one of lowest index. The tables follow the dtype and device of theta.

    Args:
        actions: X [n, d], array or tensor.
        decisions: Z [k, d].
        noise: "gaussian" (default) or "bernoulli".
        loss: "simple_regret" (default) or "best_identification".
        box: (low, high), bounds of every coordinate of theta; (-1, 1) by default.

    Raises:
        ValueError: empty tables, different d, an unknown noise or loss, a box that is not increasing.

    Example:
        >>> problem = BanditProblem.multi_armed(3)
        >>> problem.best(torch.tensor([0.1, 0.5, 0.2]))
        tensor(1)
    """

    actions: Tensor
    decisions: Tensor
    noise: str = "gaussian"
    loss: str = "simple_regret"
    box: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "actions", _table("actions", self.actions))
        object.__setattr__(self, "decisions", _table("decisions", self.decisions))
        if self.decisions.shape[1] != self.actions.shape[1]:
            raise ValueError(
                f"decisions must have {self.actions.shape[1]} columns like actions, "
                f"got {self.decisions.shape[1]}."
            )
        check_choice("noise", self.noise, NOISES)
        check_choice("loss", self.loss, LOSSES)
        try:
            low, high = self.box
        except (TypeError, ValueError) as error:
            raise ValueError(f"box must be a pair (low, high), got {self.box!r}.") from error
        low, high = (check_real("box", end) for end in (low, high))
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"box must be finite with low < high, got {self.box!r}.")
        object.__setattr__(self, "box", (low, high))

    # ------------------------------------------------------------------------------------------- constructors

    @classmethod
    def multi_armed(
        cls,
        n: int,
        noise: str = "gaussian",
        loss: str = "simple_regret",
        box: tuple[float, float] = (-1.0, 1.0),
    ) -> BanditProblem:
        """n arms: X = Z = unit vectors, theta = means of the arms."""
        eye = torch.eye(check_integer("n", n, 1), dtype=torch.float64)
        return cls(eye, eye.clone(), noise, loss, box)

    @classmethod
    def thresholds(
        cls,
        n: int,
        noise: str = "bernoulli",
        loss: str = "simple_regret",
        box: tuple[float, float] = (-1.0, 1.0),
    ) -> BanditProblem:
        """Labels of n points on a line: decision k = 0..n says + from point k on, theta_j = 2 P(y_j = +) - 1.

        Simple regret is twice the expected number of mistakes beyond the best threshold's.
        """
        point = torch.arange(check_integer("n", n, 1))
        signs = torch.where(point >= torch.arange(n + 1)[:, None], 1.0, -1.0).double()
        return cls(torch.eye(n, dtype=torch.float64), signs, noise, loss, box)

    @classmethod
    def linear(
        cls,
        n: int,
        d: int,
        k: int,
        seed: int = 0,
        noise: str = "gaussian",
        loss: str = "simple_regret",
        box: tuple[float, float] = (-1.0, 1.0),
    ) -> BanditProblem:
        """A transductive linear bandit: n actions and k decisions, Gaussian directions of length 1 in d dimensions."""
        sizes = [check_integer(name, value, 1) for name, value in (("n", n), ("d", d), ("k", k))]
        generator = torch.Generator().manual_seed(check_integer("seed", seed, 0))
        actions, decisions = (
            torch.randn(rows, sizes[1], generator=generator, dtype=torch.float64)
            for rows in (sizes[0], sizes[2])
        )
        unit = torch.nn.functional.normalize
        return cls(unit(actions, dim=1), unit(decisions, dim=1), noise, loss, box)

    @classmethod
    def twenty_questions(
        cls,
        prob: Any,
        noise: str = "bernoulli",
        loss: str = "best_identification",
        box: tuple[float, float] = (-1.0, 1.0),
    ) -> BanditProblem:
        """Objects and yes/no questions: the answer about object z to question x is yes with probability prob[z, x].

        X = unit vectors, theta = 2 prob[z] - 1 (or near it), Z = the rows 2 prob - 1 scaled to length 1, so that each
        object is the best decision for its own answers.

        Args:
            prob: probabilities [k, n] of yes.
            noise, loss, box: as in the class.

        Raises:
            ValueError: probabilities outside [0, 1], or an object whose answers are all 1/2.
        """
        table = _table("prob", prob).double()
        if not bool(((table >= 0) & (table <= 1)).all()):
            raise ValueError("prob must have entries in [0, 1].")
        centred = 2 * table - 1
        length = centred.norm(dim=1, keepdim=True)
        if bool((length == 0).any()):
            raise ValueError("prob must have in every row an entry other than 1/2.")
        return cls(torch.eye(table.shape[1], dtype=torch.float64), centred / length, noise, loss, box)

    # ------------------------------------------------------------------------------------------------- methods

    @cached_property
    def unit_actions(self) -> bool:
        """Whether the actions are the unit vectors, in order."""
        n, d = self.actions.shape
        return n == d and torch.equal(self.actions, torch.eye(n).to(self.actions))

    @cached_property
    def is_multi_armed(self) -> bool:
        """Whether actions and decisions both are the unit vectors, in order."""
        return self.unit_actions and torch.equal(self.decisions.to(self.actions), self.actions)

    def check_theta(self, theta: Tensor) -> Tensor:
        """Return theta if its last axis has d entries; ValueError otherwise."""
        d = self.actions.shape[1]
        if not isinstance(theta, Tensor) or theta.ndim == 0 or theta.shape[-1] != d:
            shape = tuple(theta.shape) if isinstance(theta, Tensor) else type(theta).__name__
            raise ValueError(f"theta must be a tensor [B, {d}], got {shape}.")
        return theta

    def best(self, theta: Tensor) -> Tensor:
        """z*(theta) as an index: theta [B, d] -> [B], or [d] -> 0-dim; the lowest of tied ones."""
        theta = self.check_theta(theta).detach().double()
        return first_largest(theta @ self.decisions.to(theta).T, ROUNDING)

    def all_losses(self, theta: Tensor) -> Tensor:
        """Loss of every decision: theta [B, d] -> [B, k]; differentiable in theta for simple regret."""
        best = self.best(theta)[..., None]
        if self.loss == "best_identification":
            index = torch.arange(self.decisions.shape[0], device=theta.device)
            return (index != best).to(theta.dtype)
        values = theta @ self.decisions.to(theta).T
        return values.gather(-1, best) - values

    def loss_value(self, z_index: Tensor, theta: Tensor) -> Tensor:
        """Loss of decisions: z_index [B], theta [B, d] -> [B]; differentiable in theta for simple regret."""
        return self.all_losses(theta).gather(-1, z_index[..., None]).squeeze(-1)

    def sample(self, x_index: Tensor, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Answers y [B] to actions x_index [B] under theta [B, d].

        Raises:
            ValueError: a Bernoulli mean outside [0, 1] by more than 1e-9; the message names theta.
        """
        mean = self.checked_means(x_index, theta.detach())
        if self.noise == "gaussian":
            draw = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
            return mean + draw
        draw = torch.rand(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return (draw < (1 + mean) / 2).to(mean.dtype)

    def log_prob(self, y: Tensor, x_index: Tensor, theta: Tensor) -> Tensor:
        """Log density of answers y [B] to actions x_index [B] under theta [B, d] -> [B], differentiable in theta.

        Bernoulli: log((1 + s <x, theta>) / 2), s = 2 y - 1, so that value and gradient of an answer that can happen
        stay finite where the mean is 0 or 1.

        Raises:
            ValueError: a Bernoulli mean outside [0, 1] by more than 1e-9; the message names theta.
        """
        mean = self.checked_means(x_index, theta)
        if self.noise == "gaussian":
            return -0.5 * (y - mean) ** 2 - 0.5 * math.log(2 * math.pi)
        return torch.log((1 + (2 * y - 1) * mean) / 2)

    def log_prob_slope(self, y: Tensor, x_index: Tensor, theta: Tensor) -> Tensor:
        """Derivative of ``log_prob`` by <x, theta> [B]; times x it is the gradient by theta."""
        mean = self.checked_means(x_index, theta.detach())
        if self.noise == "gaussian":
            return y - mean
        sign = 2 * y - 1
        return sign / (1 + sign * mean)

    def checked_means(self, x_index: Tensor, theta: Tensor) -> Tensor:
        """<x, theta> for x_index [...] and theta [..., d]; for Bernoulli noise clipped to [-1, 1], not in gradient.

        Raises:
            ValueError: a Bernoulli mean outside [0, 1] by more than 1e-9; the message names theta.
        """
        mean = (self.actions.to(theta)[x_index] * self.check_theta(theta)).sum(-1)
        if self.noise == "gaussian":
            return mean
        # In float64, lest the rounding of a float32 sum at the edge of the box look like a mean outside [0, 1].
        exact = (self.actions.to(theta.device).double()[x_index] * theta.detach().double()).sum(-1)
        if bool((exact.abs() > 1 + 2 * MEAN_SLACK).any()):
            worst = float(exact.flatten()[exact.abs().argmax()])
            raise ValueError(
                f"theta must give Bernoulli means in [0, 1], got {(1 + worst) / 2:g} for some action."
            )
        return mean + (mean.detach().clamp(-1, 1) - mean.detach())
