r"""AdaB²N, adaptive balance of batch normalization: batch norm that keeps older tasks in its statistics.

Yilin Lyu, Liyuan Wang, Xingxing Zhang, Zicheng Sun, Hang Su, Jun Zhu, Liping Jing, "Overcoming Recency Bias of
Normalization Statistics in Continual Learning: Balance and Adaptation", NeurIPS 2023, arXiv 2310.08855. Official code:
lvyilin/AdaB2N, which is followed; what differs is said below.

Batch norm that learns one task after another leans to the newest one twice. In training its statistics are plain means
over a batch in which new samples outnumber replayed ones. For testing its running statistics forget all but about the
last 1/momentum batches. AdaB²N gives each task a learned weight in the batch statistics, lets the running statistics
remember longer, and ties the two together with a penalty.

Notation: x (N, C, ...); t_n the task of sample n; cur the task in progress; ``psi`` (T,) = ``task_weight``; N_t the
samples of task t in the batch; m = ``momentum``. A training forward computes::

    posterior   c_t = exp(psi_t) + N_t,  pi_t = c_t / sum_{s <= cur} c_s  for the tasks t = 0..cur seen so far
    weights     w_n = pi_{t_n} / N_{t_n}                  (1/N each, when no task ids are given)
    statistics  mu = sum_n w_n mean_hw x_n,   v = sum_n w_n mean_hw (x_n - mu)^2,   y = gamma (x-mu)/sqrt(v+eps) + beta
    momentum    eta <- eta / (eta + (1-m)^kappa),  m^kappa in the first batch
    running     rm <- (1-eta) rm + eta mu,   rv <- (1-eta) rv + eta v             (v is biased, unlike torch's)
    penalty     balance_loss = mean_c (mu - rm)^2 + mean_c (v - rv)^2 with the new rm and rv as constants

eps and eval mode are those of batch norm, and eval needs no task ids. The gradient reaches x, gamma, beta and psi
through mu and v. In task 0 every weight is 1/N, so ids change nothing there.

kappa = 0 is the cumulative average (eta = 1/(t+1)) and kappa = 1 the exponential moving average (eta = m). In between,
1/eta_t = sum_{j<t} a^j + a^t/m^kappa with a = (1-m)^kappa falls to the limit eta = 1 - a: the running statistics are a
normalised geometric window of about 1/(1-a) batches. eta is never reset at a task boundary.

Absent tasks: a seen task without a sample in the batch keeps its pseudo-count in the sum, but there is nobody to carry
its weight, so the w_n sum to less than 1 and mu shrinks towards 0 a little. That is what the official code does
(``absent_tasks="official"``); ``"renormalize"`` is ours.

Differences from the official code: eta and the task index are buffers and so survive a checkpoint; ids are used up by
the training forward that follows; psi enters as log c_t = logaddexp(psi_t, log N_t), which cannot overflow.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normviz.norms._rows import computing_dtype, kept_for_backward
from normviz.norms._task_posterior import check_task_ids, posterior_mean, sample_weights, tasks_in_batch
from normviz.norms.continual_norm import ContinualNorm2d
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "AdaB2N",
    "AdaptiveBalanceBatchNorm1d",
    "AdaptiveBalanceBatchNorm2d",
    "ContinualNorm2d",
    "balance_loss",
    "convert_batchnorm",
    "end_task",
    "modified_momentum",
    "set_task_ids",
]

M = TypeVar("M", bound=nn.Module)


def modified_momentum(prev_eta: float | None, momentum: float, kappa: float) -> float:
    """The next eta: ``momentum ** kappa`` at first, then ``eta / (eta + (1 - momentum) ** kappa)``.

    Args:
        prev_eta: the last eta, in (0, 1]; None for the first batch.
        momentum: m in (0, 1].
        kappa: in [0, 1]; 0: cumulative average, 1: exponential moving average.

    Returns:
        Weight of the new batch in the running statistics, in (0, 1].

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> etas = [modified_momentum(None, 0.1, 0.0)]
        >>> for _ in range(3):
        ...     etas.append(modified_momentum(etas[-1], 0.1, 0.0))
        >>> [round(eta, 4) for eta in etas]
        [1.0, 0.5, 0.3333, 0.25]
    """
    m, k = _check_momentum(momentum), _check_kappa(kappa)
    if prev_eta is None:
        return float(m**k)
    eta = check_real("prev_eta", prev_eta, 0, 1, low_open=True)
    return float(eta / (eta + (1 - m) ** k))


def _check_momentum(momentum: object) -> float:
    return check_real("momentum", momentum, 0, 1, low_open=True)


def _check_kappa(kappa: object) -> float:
    return check_real("kappa", kappa, 0, 1)


class _AdaptiveBalanceBatchNorm(_BatchNorm):
    """What the 1d and 2d layers share: everything but the shapes they take."""

    dims: tuple[int, ...]
    shapes: str
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    cur_task: Tensor
    eta: Tensor

    def __init__(
        self,
        num_features: int,
        num_tasks: int,
        kappa: float = 1.0,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        init_weight: float = 0.0,
        absent_tasks: str = "official",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_integer("num_features", num_features, 1)
        check_integer("num_tasks", num_tasks, 1)
        _check_kappa(kappa)
        check_real("eps", eps, 0, high_open=True)
        _check_momentum(momentum)
        check_real("init_weight", init_weight, low_open=True, high_open=True)
        check_choice("absent_tasks", absent_tasks, ("official", "renormalize"))
        super().__init__(num_features, eps, momentum, bool(affine), device=device, dtype=dtype)
        self.num_tasks = num_tasks
        self.kappa = float(kappa)
        self.init_weight = float(init_weight)
        self.absent_tasks = absent_tasks
        prior = torch.full((num_tasks,), self.init_weight, device=device, dtype=dtype)
        self.task_weight = nn.Parameter(prior)
        self.register_buffer("cur_task", torch.zeros((), dtype=torch.long, device=device))
        self.register_buffer("eta", torch.zeros((), dtype=dtype, device=device))
        self.balance_loss: Tensor | None = None
        self._task_ids: Tensor | None = None
        self._posterior: tuple[Tensor, Tensor] | None = None

    def reset_running_stats(self) -> None:
        """Running mean 0 and variance 1, no batch seen, eta unset; the task in progress stays."""
        super().reset_running_stats()
        if "eta" in self._buffers:
            nn.init.zeros_(self.eta)

    def reset_parameters(self) -> None:
        """Fresh running statistics, gain 1, bias 0, psi = ``init_weight``; the task in progress stays."""
        super().reset_parameters()
        if "task_weight" in self._parameters:
            nn.init.constant_(self.task_weight, self.init_weight)

    def set_task_ids(self, task_ids: Tensor | None) -> None:
        """Give the ids (N,) of the next training forward, where it cannot be called with them; None takes them back.

        They are checked and used up by that forward. An eval forward leaves them.
        """
        self._task_ids = task_ids

    def end_task(self) -> None:
        """Close the task in progress: ``cur_task`` += 1, up to ``num_tasks``.

        Raises:
            RuntimeError: every one of the ``num_tasks`` tasks is closed.
        """
        _check_open(self)
        self.cur_task.add_(1)

    def task_posterior(self) -> Tensor:
        """Weights pi of the tasks seen so far, (cur+1,), in the last training forward with task ids; a detached copy.

        Not kept by forwards under vmap and other function transforms.

        Raises:
            RuntimeError: there was no such forward yet.
        """
        if self._posterior is None:
            raise RuntimeError("task_posterior needs a training forward with task_ids first.")
        posterior, cur_task = self._posterior
        return posterior[: min(int(cur_task), self.num_tasks - 1) + 1].clone()

    def forward(self, x: Tensor, task_ids: Tensor | None = None) -> Tensor:
        """Normalise x.

        Args:
            x: (N, C, H, W) for the 2d layer, (N, C) or (N, C, L) for the 1d layer.
            task_ids: (N,), integers in 0..cur_task. None: those given by ``set_task_ids``, else plain batch statistics.
                Ignored in eval.

        Returns:
            Same shape and dtype as x.
        """
        kind = computing_dtype("x", x)
        if x.ndim not in self.dims or x.shape[1] != self.num_features:
            raise ValueError(
                f"x must have shape {self.shapes} with C = {self.num_features}, got {tuple(x.shape)}."
            )
        rows = x.to(kind)
        if not self.training:
            return self._affine(rows, self.running_mean.to(kind), self.running_var.to(kind)).to(x.dtype)
        pending, self._task_ids = self._task_ids, None
        if x.numel() < 2 * self.num_features:
            raise ValueError(f"x must have more than 1 value per channel in training, got {tuple(x.shape)}.")
        w = self._weights(pending if task_ids is None else task_ids, rows)
        mean, var = _weighted_moments(rows, w)
        self._advance(mean, var)
        return self._affine(rows, mean, var).to(x.dtype)

    def _weights(self, task_ids: Tensor | None, x: Tensor) -> Tensor:
        """w (N,); remembers the posterior if there are ids."""
        samples = x.shape[0]
        if task_ids is None:
            return x.new_full((samples,), 1 / samples)
        ids = check_task_ids(task_ids, samples, self.cur_task, self.num_tasks)
        members = tasks_in_batch(ids, self.num_tasks, x.dtype)  # (N, T)
        counts = members.sum(0)
        seen = torch.arange(self.num_tasks, device=ids.device) <= self.cur_task
        posterior = posterior_mean(
            self.task_weight.to(x.dtype), counts, seen, self.absent_tasks == "renormalize"
        )
        if torch.compiler.is_compiling() or not _transformed(posterior):
            self._posterior = (posterior.detach(), self.cur_task.clone())
        return sample_weights(members, posterior, counts)

    def _advance(self, mean: Tensor, var: Tensor) -> None:
        """Move eta and the running statistics, then take the penalty against them."""
        with torch.no_grad():
            eta = self._next_eta()
            running_mean = (1 - eta) * self.running_mean.to(mean.dtype) + eta * mean
            running_var = (1 - eta) * self.running_var.to(var.dtype) + eta * var
            self.running_mean.copy_(running_mean)
            self.running_var.copy_(running_var)
            self.num_batches_tracked.add_(1)
            # torch.compile (2.13) loses a direct write to a 0-dim float64 buffer on the CPU; one through a view stays.
            self.eta.view(1).copy_(eta)
        # The running statistics are kept as they are now: a compiler may not compute them from later buffers.
        mean, var, running_mean, running_var = kept_for_backward(mean, var, running_mean, running_var)
        self.balance_loss = (mean - running_mean).square().mean() + (var - running_var).square().mean()

    def _next_eta(self) -> Tensor:
        eta = self.eta.to(computing_dtype("eta", self.eta))
        if self.momentum is None:  # torch.optim.swa_utils.update_bn asks for the plain average like this
            return (self.num_batches_tracked + 1).to(eta.dtype).reciprocal()
        decay = (1 - self.momentum) ** self.kappa
        return torch.where(eta > 0, eta / (eta + decay), self.momentum**self.kappa)

    def _affine(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight.to(x.dtype)
        y = (x - mean.view(shape)) * scale.view(shape)
        return y if self.bias is None else y + self.bias.to(x.dtype).view(shape)

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return (
            f"{self.num_features}, num_tasks={self.num_tasks}, kappa={self.kappa}, eps={self.eps}, "
            f"momentum={self.momentum}, affine={self.affine}, init_weight={self.init_weight}, "
            f"absent_tasks={self.absent_tasks!r}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without the graph behind ``balance_loss``."""
        state = self.__dict__.copy()
        loss = self.balance_loss
        state["balance_loss"] = None if loss is None or _transformed(loss) else loss.detach()
        return state


def _weighted_moments(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance per channel of x (N, C, ...), both with the sample weights w (N,)."""
    per_sample = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)  # (N, C, HW)
    mean = (w[:, None] * per_sample.mean(2)).sum(0)
    var = (w[:, None] * (per_sample - mean[None, :, None]).square().mean(2)).sum(0)
    return mean, var


def _transformed(tensor: Tensor) -> bool:
    """Whether the tensor belongs to a torch.func transform and must not outlive it."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


class AdaptiveBalanceBatchNorm2d(_AdaptiveBalanceBatchNorm):
    """AdaB²N of images (N, C, H, W): batch norm with learned task weights and adaptive momentum.

    Lyu et al., arXiv 2310.08855; the equations, by the names used here, are in the module's docstring.

    Without task ids, and in the first task, the output is that of ``nn.BatchNorm2d``; the running variance takes the
    biased batch variance. Give the ids of a batch to ``forward``, or through ``set_task_ids`` where the layer sits in
    a Sequential, call ``end_task`` after each task, and add lambda x ``balance_loss`` to the objective.

    Parameters: ``weight``, ``bias`` (C,), ``task_weight`` (T,) = psi. Buffers, all in state_dict: ``running_mean``,
    ``running_var`` (C,), ``num_batches_tracked``, ``cur_task`` (int64), ``eta`` (the one used by the last training
    batch, 0 before; in the layer's dtype, so with bfloat16 and kappa = 0 it stalls near 1/256).

    ``balance_loss``: 0-dim tensor with gradient of the last training forward, None before. A copy or a pickle has it
    without gradient. In eval mode nothing changes.

    Args:
        num_features: channels C.
        num_tasks: T, the number of tasks of the sequence.
        kappa: in [0, 1], from cumulative average (0) to exponential moving average (1). Default 1 (official); the
            paper's grid is 0.1, 0.4, 0.7, 1.
        eps: inside the root. Default 1e-5 (official).
        momentum: m in (0, 1], weight of the NEW value for kappa = 1. Default 0.1 (official).
        affine: learn gain and bias. Default True.
        init_weight: initial value of every psi_t; exp(psi_t) is a pseudo-count. Default 0 (official).
        absent_tasks: "official" (default) or "renormalize" (ours): tasks without a sample in the batch leave the sum.
        device: of parameters and buffers.
        dtype: of parameters and buffers.

    Raises:
        ValueError: an argument out of range; x of another shape; one value per channel in training; task ids of another
            length, or one below 0 or above ``cur_task``. A refused batch leaves every buffer as it was.
        TypeError: x not floating point; task ids not integers.

    Example:
        >>> norm = AdaptiveBalanceBatchNorm2d(3, num_tasks=2)
        >>> norm.end_task()
        >>> y = norm(torch.randn(4, 3, 5, 5), torch.tensor([0, 1, 1, 1]))
        >>> [round(pi, 3) for pi in norm.task_posterior().tolist()]
        [0.333, 0.667]
    """

    dims = (4,)
    shapes = "(N, C, H, W)"


class AdaptiveBalanceBatchNorm1d(_AdaptiveBalanceBatchNorm):
    """AdaB²N of feature vectors (N, C) or sequences (N, C, L). All else as :class:`AdaptiveBalanceBatchNorm2d`.

    Lyu et al., arXiv 2310.08855; the equations are in the module's docstring.

    Example:
        >>> AdaptiveBalanceBatchNorm1d(3, num_tasks=2)(torch.randn(4, 3)).shape
        torch.Size([4, 3])
    """

    dims = (2, 3)
    shapes = "(N, C) or (N, C, L)"


AdaB2N = AdaptiveBalanceBatchNorm2d
"""The paper's name of the layer."""


# ------------------------------------------------------------------------------------------ whole models


def _layers(model: nn.Module) -> list[_AdaptiveBalanceBatchNorm]:
    return [module for module in model.modules() if isinstance(module, _AdaptiveBalanceBatchNorm)]


def convert_batchnorm(model: M, num_tasks: int, **kw: Any) -> M:
    """Put an AdaB²N layer in the place of every ``nn.BatchNorm2d`` (of exactly this type), in place.

    Each layer takes over eps, momentum, gain and bias, running statistics, dtype, device and the train/eval flag of the
    one it replaces, and gets a psi of its own; eta is unset. With kappa = 0 the first batch replaces the running
    statistics altogether. Build the optimizer afterwards, so that it holds psi. Forward hooks are not taken over.

    Args:
        model: any module. One without batch norm comes back as it is.
        num_tasks: T.
        **kw: arguments of :class:`AdaptiveBalanceBatchNorm2d`; they win over what is taken from the replaced layer.

    Returns:
        The model; the new layer if ``model`` itself is a BatchNorm2d.

    Raises:
        ValueError: an argument out of range; a batch norm has momentum None and ``kw`` gives none.

    Example:
        >>> convert_batchnorm(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), num_tasks=5, kappa=0.4)[1].kappa
        0.4
    """
    check_integer("num_tasks", num_tasks, 1)
    converted = {
        id(module): _from_batchnorm(module, num_tasks, kw)
        for module in model.modules()
        if type(module) is nn.BatchNorm2d
    }
    if type(model) is nn.BatchNorm2d:
        return cast(M, converted[id(model)])
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if type(child) is nn.BatchNorm2d:
                parent._modules[name] = converted[id(child)]
    return model


def _from_batchnorm(bn: nn.BatchNorm2d, num_tasks: int, kw: dict[str, Any]) -> AdaptiveBalanceBatchNorm2d:
    like = bn.running_mean if bn.running_mean is not None else bn.weight
    own: dict[str, Any] = {"eps": bn.eps, "momentum": bn.momentum, "affine": bn.affine}
    if like is not None:
        own |= {"device": like.device, "dtype": like.dtype}
    layer = AdaptiveBalanceBatchNorm2d(bn.num_features, num_tasks, **{**own, **kw})
    with torch.no_grad():
        for name in ("weight", "bias"):
            mine, theirs = getattr(layer, name), getattr(bn, name)
            if mine is not None and theirs is not None:
                mine.copy_(theirs).requires_grad_(theirs.requires_grad)
        if bn.affine and bn.bias is None:
            layer.register_parameter("bias", None)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            theirs = getattr(bn, name)
            if theirs is not None:
                getattr(layer, name).copy_(theirs)
    return layer.train(bn.training)


def set_task_ids(model: nn.Module, ids: Tensor | None) -> None:
    """Give the task ids (N,) of the next training forward to every AdaB²N layer of the model; None takes them back."""
    for layer in _layers(model):
        layer.set_task_ids(ids)


def end_task(model: nn.Module) -> None:
    """Close the task in progress in every AdaB²N layer of the model.

    Raises:
        RuntimeError: a layer has no task left; then no layer is changed.
    """
    layers = _layers(model)
    for layer in layers:
        _check_open(layer)
    for layer in layers:
        layer.end_task()


def _check_open(layer: _AdaptiveBalanceBatchNorm) -> None:
    if int(layer.cur_task) >= layer.num_tasks:
        raise RuntimeError(
            f"end_task was called {layer.num_tasks} times already, once for each of num_tasks."
        )


def balance_loss(model: nn.Module) -> Tensor:
    """Sum of the ``balance_loss`` of the model's AdaB²N layers that have one, 0-dim; 0 if there is none.

    Call it between a training forward and its backward, and inside the same torch.func transform; later the graph
    behind it is gone.
    """
    losses = [loss for layer in _layers(model) if (loss := layer.balance_loss) is not None]
    if not losses:
        like = next(model.parameters(), None)
        return torch.zeros(()) if like is None else torch.zeros((), dtype=like.dtype, device=like.device)
    return torch.stack([loss.to(losses[0].device) for loss in losses]).sum()
