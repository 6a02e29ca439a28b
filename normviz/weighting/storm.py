"""STORM: Self-Taught On-the-fly Meta loss Rescaling, learning from noisy labels without a clean set.

Heck, Geishauser, Lubis, van Niekerk, Feng, Lin, Ruppik, Vukovic, Gašić, "Learning from Noisy Labels via Self-Taught
On-the-Fly Meta Loss Rescaling", AAAI 2025, arXiv 2412.12955.

A small network Omega turns what the model says about a sample (its loss, confidence, uncertainty) into the weight of
the sample's loss, and learns online: how would the weights of this update have changed the loss on a second batch? That
batch comes from the same noisy data and is weighted by Omega itself, which stands in for a clean validation set.

One ``STORM.step`` is Algorithm 1 (Theta the model, X and V two independent shufflings of the same data):

====================================================  ==========================================================
F = features(Theta, B, G)                             ``sample_features`` (storm_features.py)
w = Omega(F)                                          ``LossRescaler`` (storm_rescaler.py)
theta <- optimizer step on (1/n) sum_i w_i l_i        ``STORM._inner_step``
L_out = (1/n') sum_j Omega(F_val)_j l_j(theta')       ``STORM._meta_update``
meta part, through theta'                             A per optimizer (_update_gain.py), u = jvp along A v
outer part, through Omega(F_val)                      ``STORM._meta_update``
both for one SGD step, as a pure function             ``meta_gradient`` (storm_meta_gradient.py)
noise, baselines                                      noisy_labels.py, noise_baselines.py, meta_weight_training.py
====================================================  ==========================================================

From the paper: the loop, features from G passes, the outer loss weighted by Omega, the two gradients. A reconstruction,
because neither its details nor the authors' code were readable: the exact features, Omega's architecture, the
normalisation of the weights, the balance of the two gradients (``outer_scale``), burn-in, all defaults. The meta part
carries a factor of the learning rate and the outer part does not; with their plain sum (``outer_scale`` 1) a few
classes took all the weight in our runs on the digits.

The model must support forward-mode differentiation (torch.func.jvp): torch's fused LSTM on the CPU and EmbeddingBag do
not, nor do custom autograd functions without ``setup_context`` and ``jvp``. A GradScaler is not supported: the
gradients that reach the optimizer must be unscaled.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normviz.validation import check_choice, check_integer, check_real
from normviz.weighting._forward_pass import ForwardPass, Named, check_labels, forked_rng
from normviz.weighting._update_gain import UpdateGain, check_optimizer, fresh_momenta, update_gains
from normviz.weighting.noise_baselines import GCELoss, MetaWeightNet, SmallLossFilter, l2rw_weights
from normviz.weighting.noisy_labels import inject_instance_noise, inject_label_noise
from normviz.weighting.storm_features import sample_features
from normviz.weighting.storm_meta_gradient import meta_gradient, rescaler_gradient, sample_cross_entropy
from normviz.weighting.storm_rescaler import LossRescaler

__all__ = [
    "STORM",
    "GCELoss",
    "LossRescaler",
    "MetaWeightNet",
    "SmallLossFilter",
    "StormStep",
    "inject_instance_noise",
    "inject_label_noise",
    "l2rw_weights",
    "meta_gradient",
    "sample_features",
]

Pair = tuple[Any, Any]
NORM_EPS = 1e-12


class StormStep(NamedTuple):
    """What one step of STORM did, all detached.

    Attributes:
        loss: L_in as it was minimised in the last inner step, 0-dim (the plain mean in the burn-in).
        weights: Omega's weights of the last inner batch [n] (also in the burn-in, where theta does not use them).
        val_loss: L_out, 0-dim; None without a meta update.
        val_weights: Omega's weights of the validation batch [n']; None without a meta update.
        meta_grad_norm, outer_grad_norm: Euclidean norms of the two parts, before ``outer_scale`` and ``combine``,
            0-dim; 0 without a meta update.

    Reference: Heck et al., "Learning from Noisy Labels via Self-Taught On-the-Fly Meta Loss Rescaling", arXiv
        2412.12955, Algorithm 1.
    """

    loss: Tensor
    weights: Tensor
    val_loss: Tensor | None
    val_weights: Tensor | None
    meta_grad_norm: Tensor
    outer_grad_norm: Tensor


@dataclass(frozen=True)
class _InnerStep:
    """An inner step as the meta gradient needs it: the pass, theta before it, what weighted it, how it moved."""

    run: ForwardPass
    theta: Named
    features: Tensor
    weights: Tensor
    gains: Mapping[str, UpdateGain]


class STORM:
    """Trains a model and, at the same time, the rescaler of its sample losses.

    Set the model's mode yourself (normally ``train()``): the losses of both batches are taken in it. Only the inner
    forward passes advance the global random state and update running statistics. Evaluation needs the model alone.

    Args:
        model: Theta, maps x to logits [n, C].
        rescaler: Omega, maps features [n, d_f] to weights [n].
        optimizer: of the model: SGD, Adam or AdamW of torch.optim. Learning rates may change between steps.
        meta_optimizer: of the rescaler, any.
        loss_fn: (logits, y) -> per-sample losses [n] (default: cross-entropy).
        features: f(model, x, y, num_passes=...) -> [n, d_f]; must leave modes and buffers as they are.
        num_passes: G >= 1 (4, our choice).
        n_inner: inner steps of theta per meta update (1, our choice).
        unroll: how many of the last inner steps the meta gradient goes through, 1..n_inner (1, our choice).
        outer_scale: factor of the outer part (0.01, our choice, see the module); 0: pure meta gradient.
        combine: "sum" (default): meta + outer_scale outer; "normalized": each part divided by its norm first.
        burn_in: steps at first in which theta takes plain steps, bit for bit, while Omega already learns from the step
            that its weights would have given (0; about 8 epochs on the digits).
        meta_every: meta update at steps 0, meta_every, 2 meta_every, … (1, our choice), burn-in included.

    Raises:
        TypeError: another optimizer than SGD, Adam or AdamW.
        ValueError: amsgrad or maximize; an optimizer over other parameters; a number outside its range; unknown
            combine.

    Example:
        >>> model, omega = nn.Linear(4, 3), LossRescaler()
        >>> sgd, adam = torch.optim.SGD(model.parameters(), 0.1), torch.optim.Adam(omega.parameters(), 1e-2)
        >>> storm = STORM(model, omega, sgd, adam)
        >>> batch, val_batch = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(2)]
        >>> storm.step(batch, val_batch).weights.shape
        torch.Size([8])

    Reference: Heck et al., "Learning from Noisy Labels via Self-Taught On-the-Fly Meta Loss Rescaling", arXiv
        2412.12955, Algorithm 1.
    """

    def __init__(
        self,
        model: nn.Module,
        rescaler: nn.Module,
        optimizer: Optimizer,
        meta_optimizer: Optimizer,
        *,
        loss_fn: Callable[[Any, Any], Tensor] = sample_cross_entropy,
        features: Callable[..., Tensor] = sample_features,
        num_passes: int = 4,
        n_inner: int = 1,
        unroll: int = 1,
        outer_scale: float = 0.01,
        combine: str = "sum",
        burn_in: int = 0,
        meta_every: int = 1,
    ) -> None:
        check_optimizer(optimizer)
        self.model, self.rescaler = model, rescaler
        self.optimizer, self.meta_optimizer = optimizer, meta_optimizer
        self.loss_fn, self.features = loss_fn, features
        self.num_passes = check_integer("num_passes", num_passes, 1)
        self.n_inner = check_integer("n_inner", n_inner, 1)
        self.unroll = check_integer("unroll", unroll, 1, self.n_inner)
        self.outer_scale = check_real("outer_scale", outer_scale, 0.0, math.inf, high_open=True)
        self.combine = check_choice("combine", combine, ("sum", "normalized"))
        self.burn_in = check_integer("burn_in", burn_in, 0)
        self.meta_every = check_integer("meta_every", meta_every, 1)
        self._step = 0
        if not self._names():
            raise ValueError("optimizer must hold at least one parameter of model, got none.")

    @torch.enable_grad()
    def step(self, batch: Pair | Sequence[Pair], val_batch: Pair) -> StormStep:
        """One step: ``n_inner`` updates of theta, then (when due) one update of omega.

        Args:
            batch: (x, y), or a sequence of ``n_inner`` such pairs if ``n_inner`` > 1.
            val_batch: (x, y) from an independent shuffling of the same data: with a shared batch every sample
                would confirm its own label.

        Raises:
            ValueError: another number of pairs, labels outside 0..C-1, losses not [n].
        """
        batches = self._inner_batches(batch)
        burning = self._step < self.burn_in
        due = self._step % self.meta_every == 0
        unroll = 1 if burning else self.unroll
        trail: list[_InnerStep] = []
        val_loss = val_weights = None
        norms = (torch.zeros(()), torch.zeros(()))
        for j, pair in enumerate(batches):
            last = j == self.n_inner - 1
            record = due and j >= self.n_inner - unroll
            labels = [y for _, y in (*batches, val_batch)] if j == 0 else []
            if burning:
                loss, weights, imagined = self._plain_step(pair, labels, look=last, record=record)
                if imagined is not None:
                    inner, moved = imagined
                    with self._model_at(moved):
                        val_loss, val_weights, norms = self._meta_update([inner], val_batch)
                self.optimizer.step()
            else:
                loss, weights, done = self._inner_step(pair, labels, record=record)
                trail += [done] if done is not None else []
        if trail:
            val_loss, val_weights, norms = self._meta_update(trail, val_batch)
        self._step += 1
        return StormStep(loss, weights, val_loss, val_weights, *(n.to(loss.device) for n in norms))

    def validation_weights(self, features: Tensor) -> Tensor:
        """w^val of the outer loss [n']: Omega's own. Baselines that trust the validation batch override this."""
        weights: Tensor = self.rescaler(features)
        return weights

    def state_dict(self) -> dict[str, Any]:
        """Keys model, rescaler, optimizer, meta_optimizer (their state dicts) and step."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        return {**parts, "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load :meth:`state_dict` into the four objects this was built with.

        Raises:
            ValueError: a key is missing.
        """
        if missing := [name for name in (*_PARTS, "step") if name not in state]:
            raise ValueError(f"state must have the keys {', '.join(_PARTS)} and step, missing: {missing}.")
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self._step = int(state["step"])

    def _inner_batches(self, batch: Pair | Sequence[Pair]) -> list[Pair]:
        if self.n_inner == 1:
            batch = [batch]  # type: ignore[list-item]
        pairs = list(batch) if isinstance(batch, (tuple, list)) else []
        if len(pairs) != self.n_inner or not all(isinstance(p, (tuple, list)) and len(p) == 2 for p in pairs):
            wanted = (
                "a pair (x, y)"
                if self.n_inner == 1
                else f"a sequence of n_inner = {self.n_inner} pairs (x, y)"
            )
            raise ValueError(f"batch must be {wanted}, got {_shape_of(batch)}.")
        return [(x, y) for x, y in pairs]

    def _names(self) -> dict[Tensor, str]:
        """Names of the model's parameters that the optimizer holds."""
        held = {p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad}
        return {p: name for name, p in self.model.named_parameters() if p in held}

    def _features_of(self, pair: Pair) -> Tensor:
        x, y = pair
        with torch.no_grad(), forked_rng(self.model):
            return self.features(self.model, x, y, num_passes=self.num_passes).detach()

    def _losses(self, pair: Pair, labels: Sequence[Any]) -> Tensor:
        """The real forward pass of an inner step; ``labels`` are checked before anything is updated."""
        x, y = pair
        logits = self.model(x)
        if isinstance(logits, Tensor) and logits.ndim == 2:
            for given in labels:
                if isinstance(given, Tensor) and not given.is_floating_point():
                    check_labels(given, logits.shape[1])
        losses = self.loss_fn(logits, y)
        if losses.ndim != 1:
            raise ValueError(f"loss_fn must return losses of shape [n], got {tuple(losses.shape)}.")
        return losses

    def _inner_step(
        self, pair: Pair, labels: Sequence[Any], *, record: bool
    ) -> tuple[Tensor, Tensor, _InnerStep | None]:
        """theta <- optimizer step on the weighted loss."""
        names = self._names()
        features = self._features_of(pair)
        with torch.no_grad():
            weights = self.rescaler(features)
        before = self._before(pair, names) if record else None
        loss = (weights * self._losses(pair, labels)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        fresh = fresh_momenta(self.optimizer, names)
        self.optimizer.step()
        done = None
        if before is not None:
            done = _InnerStep(*before, features, weights, update_gains(self.optimizer, names, fresh))
        return loss.detach(), weights, done

    def _plain_step(
        self, pair: Pair, labels: Sequence[Any], *, look: bool, record: bool
    ) -> tuple[Tensor, Tensor, tuple[_InnerStep, list[tuple[nn.Parameter, Tensor]]] | None]:
        """Gradients of the plain mean for the burn-in; the caller takes the step.

        With ``look`` Omega's weights are computed; with ``record`` also the step that they would have given: returned
        are the step and, for each parameter of the optimizer, where it would have moved.
        """
        names = self._names()
        weights = features = torch.empty(0)
        if look:
            features = self._features_of(pair)
            with torch.no_grad():
                weights = self.rescaler(features)
        before = self._before(pair, names) if record else None
        losses = self._losses(pair, labels)
        loss = losses.mean()
        self.optimizer.zero_grad()
        loss.backward(retain_graph=record)  # type: ignore[no-untyped-call]
        if before is None:
            return loss.detach(), weights, None
        grads = torch.autograd.grad((weights * losses).mean(), list(names), allow_unused=True)
        gains, moved = self._imagine(names, grads)
        return loss.detach(), weights, (_InnerStep(*before, features, weights, gains), moved)

    def _before(self, pair: Pair, names: Mapping[Tensor, str]) -> tuple[ForwardPass, Named]:
        theta = {name: p.detach().clone() for p, name in names.items()}
        return ForwardPass.from_here(self.model, self.loss_fn, pair), theta

    def _imagine(
        self, names: Mapping[Tensor, str], grads: Sequence[Tensor | None]
    ) -> tuple[dict[str, UpdateGain], list[tuple[nn.Parameter, Tensor]]]:
        """The step that the optimizer would take from its present state with other gradients, taken by a copy of it."""
        shadow = copy.deepcopy(self.optimizer)
        real = [p for group in self.optimizer.param_groups for p in group["params"]]
        copies = [p for group in shadow.param_groups for p in group["params"]]
        twin = dict(zip(real, copies, strict=True))
        for p in copies:
            p.grad = None
        for p, g in zip(names, grads, strict=True):
            twin[p].grad = g
        shadow_names = {twin[p]: name for p, name in names.items()}
        fresh = fresh_momenta(shadow, shadow_names)
        shadow.step()
        return update_gains(shadow, shadow_names, fresh), [(p, twin[p].detach()) for p in real]

    @contextmanager
    def _model_at(self, moved: Sequence[tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
        """The model with other parameters inside the context."""
        kept = [p.data for p, _ in moved]
        try:
            for p, value in moved:
                p.data = value
            yield
        finally:
            for (p, _), value in zip(moved, kept, strict=True):
                p.data = value

    def _meta_update(
        self, trail: Sequence[_InnerStep], val_batch: Pair
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Both parts of dL_out/d omega at the model's present parameters theta', then omega's step."""
        theta = {name: p.detach() for p, name in self._names().items()}
        w_val = self.validation_weights(self._features_of(val_batch))
        validation = ForwardPass.from_here(self.model, self.loss_fn, val_batch)
        losses, v = validation.losses_and_gradient(theta, w_val.detach())
        val_loss = (w_val * losses).mean()
        outer = rescaler_gradient(self.rescaler, val_loss)

        meta = {name: torch.zeros_like(g) for name, g in outer.items()}
        for k, inner in enumerate(reversed(trail)):
            step = {name: value * inner.gains[name].gain for name, value in v.items()}  # A v
            u = inner.run.directional(inner.theta, step)
            part = rescaler_gradient(self.rescaler, -(self.rescaler(inner.features) * u).mean())
            meta = {name: total + part[name] for name, total in meta.items()}
            if k + 1 < len(trail):  # v <- (K - H A) v
                curved = inner.run.hessian_product(inner.theta, inner.weights, step)
                v = {name: value * inner.gains[name].keep - curved[name] for name, value in v.items()}

        norms = (_norm(meta), _norm(outer))
        scales = (1.0, self.outer_scale)
        if self.combine == "normalized":
            scales = (1 / (norms[0] + NORM_EPS), self.outer_scale / (norms[1] + NORM_EPS))  # type: ignore[assignment]
        self.meta_optimizer.zero_grad()
        for name, p in self.rescaler.named_parameters():
            if name in meta:
                p.grad = scales[0] * meta[name] + scales[1] * outer[name]
        self.meta_optimizer.step()
        self.meta_optimizer.zero_grad()
        return val_loss.detach(), w_val.detach(), norms


_PARTS = ("model", "rescaler", "optimizer", "meta_optimizer")


def _norm(gradient: Named) -> Tensor:
    """Euclidean norm over all entries of all tensors."""
    flat = [g.flatten() for g in gradient.values()]
    return torch.linalg.vector_norm(torch.cat(flat)) if flat else torch.zeros(())


def _shape_of(batch: object) -> str:
    if isinstance(batch, (tuple, list)):
        return f"{len(batch)} entries of types {[type(entry).__name__ for entry in batch]}"
    return type(batch).__name__
