"""Dynamic loss-based sample reweighting: LinUpper, Quadratic, Extremes.

Sow, Woisetschlaeger, Bulusu, Wang, Jacobsen, Liang, "Dynamic Loss-Based Sample Reweighting for Improved Large Language
Model Pretraining", ICLR 2025, arXiv 2502.06733.

Samples with the lowest losses of a batch are redundant, those with the highest may be outliers. Each sample of the
current batch gets a weight that is a softmax of a shaped, normalised loss, recomputed at every step from losses one has
anyway: no extra forward pass and nothing stored per sample.

Equations -> code (M samples over all devices, l_i the mean token loss of sample i, delta = 1):

==========================================================================  ==============================
h_i = delta (2 l_i - l_max - l_min) / max(l_max - l_min, 1e-6)              ``normalize_losses``
s_i = f(h_i), f one of STRATEGIES                                           ``apply_strategy``
w_i = exp(s_i / r) / sum_j exp(s_j / r)                                     ``sample_weights``
L = sum_i w_i l_i, w constant                                               ``DynamicLossReweighter``
L_k = W sum_{i on k} w_i l_i on device k of W (DDP averages gradients)      ``split_device_losses``
r(step), warm-up                                                            ``ConstantR``, ``AnnealedR``
what w optimises; the bound                                                 ``kl_dro_value``, ``weighted_gap_bound``
domain weights as sampling probabilities                                    ``domain_sampler``
==========================================================================  ==============================

Because h spans [-delta, delta], the weights of LinUpper, Quadratic and Extremes at delta = 1 lie within a factor
e^{1/r} of one another (12.2 at r = 0.4), so max w <= e^{1/r} / (M - 1 + e^{1/r}).

The official code (sowmaster/Sample-Level-Loss-Reweighting-ICLR-2025) is followed, except: "uniform" gives exactly 1/M
(its README's branch returns h, whose softmax is not uniform), and a loss range below 1e-6 gives h = 0 (the raw formula
blows rounding noise up by 1e6). The weighted loss is a weighted mean that leans to high losses: compare runs by
their uniform mean.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from normviz.validation import check_integer, check_real
from normviz.weighting._gather import gather_losses, group_size
from normviz.weighting._values import at_least_float32, readable
from normviz.weighting.domain_sampling import domain_sampler
from normviz.weighting.loss_weights import (
    STRATEGIES,
    Strategy,
    apply_strategy,
    check_delta,
    check_strategy,
    normalize_losses,
    per_sample_loss,
    sample_weights,
    scalar_like,
    split_device_losses,
    weights_where,
)
from normviz.weighting.r_schedule import (
    AnnealedR,
    ConstantR,
    RSchedule,
    schedule_from_state,
    schedule_state,
)
from normviz.weighting.reweighting_bounds import kl_dro_value, weighted_gap_bound

__all__ = [
    "STRATEGIES",
    "AnnealedR",
    "ConstantR",
    "DynamicLossReweighter",
    "apply_strategy",
    "domain_sampler",
    "kl_dro_value",
    "normalize_losses",
    "per_sample_loss",
    "sample_weights",
    "split_device_losses",
    "weighted_gap_bound",
]


class DynamicLossReweighter(nn.Module):
    """Weighted loss of a batch: forward(losses [B], n_tokens=None) -> 0-dim loss.

    Training: with weights from the batch on all W devices, L_k = W sum_{i on k} w_i l_i, so that DDP's average of
    gradients is that of L = sum_i w_i l_i. Token form (``token_weighted``, the official GPT-2 trainer), with
    t_i = n_i / sum_{j on k} n_j and M_k local samples: L_k = W M_k sum_{i on k} w_i t_i l_i. In the warm-up w_i = 1/M.
    Evaluation: local uniform loss, mean l_i or sum t_i l_i, no collective.
    Samples with n_i = 0 have loss and weight 0 and count neither in M nor in the minimum and maximum.

    ``step_count`` (0-dim long buffer) counts training forwards, there is no separate step(): under gradient
    accumulation multiply the warm-up by the number of micro-batches. The batch is the micro-batch across devices, as in
    the official code. state_dict holds ``step_count`` and the schedule's kind and parameters, which loading
    restores whatever the receiving module was built with; a user's own callable is not stored. Inside torch.func.grad
    the counter must come in through functional_call, like any buffer that forward changes.

    Attributes:
        weights: last local weights in force [B], detached (1/M in the warm-up); None before the first forward, not
            stored inside torch.func transforms.

    Args:
        strategy: a name of STRATEGIES ("linupper") or a callable f(h, delta).
        r: constant temperature (0.4, official configs).
        delta: half-width of the normalised losses (1, paper).
        warmup_steps: uniform steps at first (0; official code 1000).
        r_schedule: replaces r and warmup_steps: ConstantR, AnnealedR or a callable of the step (the 0-dim buffer) with
            an attribute ``warmup`` (0 if missing).
        token_weighted: token form (False).
        process_group: ranks that share a batch; None: the default group where torch.distributed is initialised,
            else one process.

    Raises:
        ValueError: r <= 0, delta <= 0, warmup_steps < 0, unknown strategy, warmup_steps beside r_schedule, r_schedule
            not callable. In forward: losses not 1-D or empty, NaN or infinite (on every rank, and in eager mode only),
            n_tokens of another shape, token_weighted without n_tokens.

    Example:
        >>> reweight = DynamicLossReweighter("linupper", r=0.4)
        >>> loss = reweight(torch.tensor([1.0, 2.0, 3.0, 5.0], requires_grad=True))
        >>> loss.backward()
        >>> reweight.weights
        tensor([0.0347, 0.1210, 0.4222, 0.4222])

    Reference: Sow et al., "Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining",
        arXiv 2502.06733, Algorithm 1; equations in the module's docstring.
    """

    step_count: Tensor
    weights: Tensor | None

    def __init__(
        self,
        strategy: str | Strategy = "linupper",
        r: float = 0.4,
        delta: float = 1.0,
        warmup_steps: int = 0,
        r_schedule: RSchedule | None = None,
        token_weighted: bool = False,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        check_strategy(strategy)
        check_delta(delta)
        check_real("r", r, 0.0, float("inf"), low_open=True, high_open=True)
        check_integer("warmup_steps", warmup_steps, 0)
        if r_schedule is not None:
            if not callable(r_schedule):
                raise ValueError(f"r_schedule must be callable (step -> r), got {r_schedule!r}.")
            if warmup_steps != 0:
                raise ValueError(
                    f"warmup_steps must be 0 beside r_schedule, whose warmup counts, got {warmup_steps}."
                )
            check_integer("r_schedule.warmup", getattr(r_schedule, "warmup", 0), 0)
        self.strategy = strategy
        self.delta = delta
        self.r_schedule: RSchedule = ConstantR(r, warmup_steps) if r_schedule is None else r_schedule
        self.token_weighted = token_weighted
        self.process_group = process_group
        self.weights = None
        self.register_buffer("step_count", torch.zeros((), dtype=torch.long))

    @property
    def world_size(self) -> int:
        """W, the number of ranks that share a batch."""
        return group_size(self.process_group)

    def forward(self, losses: Tensor, n_tokens: Tensor | None = None) -> Tensor:
        """The loss of this device, see the class.

        Args:
            losses: per-sample losses [B] of this device.
            n_tokens: number of tokens of each sample [B]; needed by ``token_weighted``, otherwise used to leave out
                samples with n_i = 0.

        Returns:
            0-dim loss in at least float32.
        """
        W = self.world_size if self.training else 1
        problem = self._problem(losses, n_tokens)
        if problem is not None and W == 1:
            raise ValueError(problem)
        losses = at_least_float32(losses)
        valid = torch.ones_like(losses, dtype=torch.bool) if n_tokens is None else n_tokens > 0
        table, counted, rank = losses.detach()[None], valid[None], 0
        if W > 1:
            table, counted, rank = gather_losses(losses, valid, problem, self.process_group)
        # After the gather, so that every rank raises.
        if readable(table) and not bool(table[counted].isfinite().all()):
            raise ValueError("losses must be finite, got NaN or infinite values.")

        M, M_k = (n.sum().clamp(min=1).to(losses.dtype) for n in (counted, valid))
        terms = torch.where(valid, losses, 0.0)  # [B]
        uniform_weights = valid.to(losses.dtype) / M
        # Each uniform loss is one sum times a factor that is exactly 1 for W = 1: the plain or token mean bit for bit.
        if self.token_weighted and n_tokens is not None:
            n = torch.where(valid, n_tokens, 0).to(losses.dtype)
            terms = terms * (n / n.sum().clamp(min=1))
            scale = W * M_k
            uniform_loss = terms.sum() * (scale / M)
        else:
            scale = torch.full_like(M, W)
            uniform_loss = terms.sum() * scale / M
        if not self.training:
            self._store(uniform_weights)
            return uniform_loss

        w = weights_where(table, counted, self.strategy, self._r(losses), self.delta)[rank, : losses.shape[0]]
        warming_up = self.step_count < getattr(self.r_schedule, "warmup", 0)
        loss = torch.where(warming_up, uniform_loss, (w * terms).sum() * scale)
        self._store(torch.where(warming_up, uniform_weights, w))
        self.step_count.add_(1)
        return loss

    def _problem(self, losses: Tensor, n_tokens: Tensor | None) -> str | None:
        """What is wrong with forward's arguments, None if nothing is."""
        if losses.ndim != 1 or losses.shape[0] == 0:
            return f"losses must have shape [B] with B >= 1, got {tuple(losses.shape)}."
        if n_tokens is None:
            return (
                "n_tokens must be given (shape [B]) when token_weighted=True, got None."
                if self.token_weighted
                else None
            )
        if n_tokens.shape != losses.shape:
            return f"n_tokens must have losses' shape {tuple(losses.shape)}, got {tuple(n_tokens.shape)}."
        return None

    def _r(self, losses: Tensor) -> Tensor:
        """The schedule's temperature, in the losses' dtype."""
        r = self.r_schedule(self.step_count)
        if not isinstance(r, Tensor):
            return scalar_like(losses, check_real("r_schedule(step)", r, 0.0, low_open=True))
        if not schedule_state(self.r_schedule) and readable(r) and not bool(r > 0):
            raise ValueError(f"r_schedule must return a number > 0, got {r.detach()}.")
        return r.to(losses)

    def _store(self, weights: Tensor) -> None:
        if torch._C._functorch.maybe_current_level() is None:
            self.weights = weights.detach()

    def get_extra_state(self) -> dict[str, Any]:
        """Kind and parameters of the schedule; empty for a user's own callable."""
        return schedule_state(self.r_schedule)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the schedule, if the state holds one."""
        if state:
            self.r_schedule = schedule_from_state(state)

    def extra_repr(self) -> str:
        """The configuration."""
        return (
            f"strategy={self.strategy!r}, delta={self.delta}, r_schedule={self.r_schedule}, "
            f"token_weighted={self.token_weighted}"
        )
