"""What is trained on the page *Sample reweighting*.

Language: a character-level GPT of two pre-norm blocks (width 64, context 48) on text of mixed quality, AdamW with
weight decay 0.01. Regression: see :mod:`normviz.experiments.sample_reweighting.regression`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from normviz.data.corpora import load_corpus
from normviz.experiments.sample_reweighting.devices import device_values
from normviz.experiments.sample_reweighting.knobs import CONTEXT, TEXT_SOURCES, Knobs, arm_name
from normviz.experiments.sample_reweighting.regression import make_reweighter, regression_frames
from normviz.experiments.sample_reweighting.text_mixture import TextMixture
from normviz.frame import Frame, Value
from normviz.models import GPT, SelfAttention
from normviz.probes import Probe
from normviz.training import Arm, Batch, Member, resolve_device, train
from normviz.weighting import DynamicLossReweighter, per_sample_loss

__all__ = ["frames"]

WIDTH, LAYERS, HEADS = 64, 2, 4
HELD_OUT = 24
"""Held-out windows of each source."""


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every strategy and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    if knobs.task == "regression":
        return regression_frames(knobs)
    return _language_frames(knobs, where)


def _language_frames(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    first = knobs.shown_arms().names[0]
    yield from (Frame(0, first, seed) for seed in knobs.seed_range())
    corpus = load_corpus(knobs.corpus).to(device)

    def mixture_of(redundant: float) -> TextMixture:
        bad = (redundant, knobs.shuffled, knobs.foreign)
        shares = (max(0.0, 1 - sum(bad)), *bad)
        return TextMixture(corpus, CONTEXT, knobs.batch_size, shares, knobs.duplicates)

    mixture = mixture_of(knobs.redundant)

    def arm(strategy: str, batches: TextMixture) -> Arm:
        def build() -> nn.Module:
            network = GPT(
                corpus.vocab_size,
                dim=WIDTH,
                num_layers=LAYERS,
                num_heads=HEADS,
                max_length=CONTEXT,
                attention=partial(SelfAttention, causal=True, fused=device.type == "cpu"),
            )
            return ReweightedLM(network, make_reweighter(strategy, knobs))

        name = arm_name(strategy, repeats=batches is mixture)
        return Arm(name, build, optimizer, lambda call, batch: call(*batch), batches=batches)

    optimizer = partial(torch.optim.AdamW, lr=knobs.learning_rate, weight_decay=0.01)
    held_out = {seed: mixture.held_out(seed, HELD_OUT) for seed in knobs.seed_range()}
    codes = torch.tensor([ord(char) for char in corpus.vocabulary], device=device)
    probes: list[Probe] = [WeightShares(), DeviceSplit(knobs, every=5), Samples(codes, every=10)]
    if device.type == "cpu":  # elsewhere kernels run on after the call has returned
        probes.insert(0, ReweightingCost(every=5))
    mixtures = [mixture, mixture_of(0.0)] if knobs.has_twins() else [mixture]
    yield from train(
        [arm(strategy, batches) for batches in mixtures for strategy in knobs.strategies],
        knobs.seed_range(),
        batches=mixture,
        steps=knobs.steps,
        device=device,
        probes=probes,
        evaluate=partial(_evaluate, held_out=held_out),
        eval_every=max(5, knobs.steps // 15),
    )


class ReweightedLM(nn.Module):
    """A language model with its weighted loss: forward(tokens (B, T), targets (B, T), source (B,)) -> loss.

    ``source`` says where each sample comes from. Neither network nor weights see it; the probes do.
    """

    def __init__(self, network: nn.Module, reweight: DynamicLossReweighter) -> None:
        super().__init__()
        self.network = network
        self.reweight = reweight

    def forward(self, tokens: Tensor, targets: Tensor, source: Tensor) -> Tensor:  # noqa: ARG002
        """The weighted loss of a batch."""
        losses, _ = per_sample_loss(self.network(tokens), targets, shift=False)
        loss: Tensor = self.reweight(losses)
        return loss


def _evaluate(member: Member, *, held_out: Mapping[int, list[tuple[Tensor, Tensor]]]) -> Mapping[str, Value]:
    """Uniform mean loss on unseen text of each source (for "duplicated": the repeated passages themselves)."""
    network = member.model.get_submodule("network").eval()
    with torch.no_grad():
        losses = [
            float(per_sample_loss(network(tokens), targets, shift=False)[0].mean())
            for tokens, targets in held_out[member.seed]
        ]
    network.train()
    by_source = {f"heldout/{name}": loss for name, loss in zip(TEXT_SOURCES, losses, strict=True)}
    return {"heldout_loss": losses[0], **by_source}


class _BatchProbe(Probe):
    """Base of the probes of one batch: override :meth:`measure`."""

    @contextmanager
    def forward(self, model: nn.Module, values: dict[str, Value]) -> Iterator[None]:
        """Watch the batch and the losses that reach the weights; measure when the forward pass is over."""
        assert isinstance(model, ReweightedLM)
        batch: list[Batch] = []
        losses: list[Tensor] = []
        handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(lambda _, args: batch.append(args)),
            model.reweight.register_forward_pre_hook(lambda _, args: losses.append(args[0].detach())),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if batch and losses and bool(losses[0].isfinite().all()):
            values.update(self.measure(model.reweight, batch[0], losses[0]))

    def measure(self, reweight: DynamicLossReweighter, batch: Batch, losses: Tensor) -> dict[str, Value]:
        """What to log of a batch (tokens, targets, source) with its per-sample losses (B,)."""
        raise NotImplementedError


class WeightShares(_BatchProbe):
    """The batch's uniform mean loss, the weight that each source got, and how unequal the weights are."""

    def measure(self, reweight: DynamicLossReweighter, batch: Batch, losses: Tensor) -> dict[str, Value]:
        """``batch_loss``, ``share/<source>``, ``weight_log_ratio`` = log(largest weight / smallest)."""
        weights, source = reweight.weights, batch[2]
        assert weights is not None
        shares = weights.new_zeros(len(TEXT_SOURCES)).index_add(0, source, weights).tolist()
        return {
            "batch_loss": float(losses.mean()),
            **{f"share/{name}": share for name, share in zip(TEXT_SOURCES, shares, strict=True)},
            "weight_log_ratio": float((weights.max() / weights.min()).log()),
        }


class DeviceSplit(_BatchProbe):
    """The batch cut into virtual devices, see :func:`device_values`."""

    def __init__(self, knobs: Knobs, every: int) -> None:
        super().__init__(every)
        self.knobs = knobs

    def measure(self, reweight: DynamicLossReweighter, batch: Batch, losses: Tensor) -> dict[str, Value]:  # noqa: ARG002
        """``device_gap`` and ``local_weight_error``."""
        return device_values(losses, reweight.strategy, self.knobs.r, self.knobs.devices)


class Samples(_BatchProbe):
    """Loss, weight, source and text of every sample of a batch; the text as character codes."""

    def __init__(self, codes: Tensor, every: int) -> None:
        super().__init__(every)
        self.codes = codes

    def measure(self, reweight: DynamicLossReweighter, batch: Batch, losses: Tensor) -> dict[str, Value]:
        """``sample_loss`` (B,), ``sample_weight`` (B,), ``sample_source`` (B,), ``sample_text`` (B, T)."""
        tokens, _, source = batch
        assert reweight.weights is not None
        seen = {
            "sample_loss": losses,
            "sample_weight": reweight.weights,
            "sample_source": source,
            "sample_text": self.codes[tokens],
        }
        return {name: value.float().cpu().numpy() for name, value in seen.items()}


class ReweightingCost(Probe):
    """Seconds for turning losses into a weighted loss, in per cent of forward and backward pass.

    Must be the first probe, so that what the others compute between the two passes is not counted.
    """

    def __init__(self, every: int) -> None:
        super().__init__(every)
        self._at: dict[str, float] = {}

    @contextmanager
    def forward(self, model: nn.Module, values: dict[str, Value]) -> Iterator[None]:  # noqa: ARG002
        """Note when the forward pass starts, when losses are there, and when they are weighted."""
        assert isinstance(model, ReweightedLM)
        at = self._at = {}

        def note(name: str) -> Callable[..., None]:
            def now(*_: Any) -> None:
                at[name] = time.perf_counter()

            return now

        handles = [
            model.register_forward_pre_hook(note("start")),
            model.reweight.register_forward_pre_hook(note("losses")),
            model.reweight.register_forward_hook(note("weighted")),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        at["backward"] = time.perf_counter()

    def gradients(self, model: nn.Module) -> Mapping[str, Value]:  # noqa: ARG002
        """``weighting_cost``, once the backward pass is over."""
        at = self._at
        passes = at["weighted"] - at["start"] + time.perf_counter() - at["backward"]
        return {"weighting_cost": 100 * (at["weighted"] - at["losses"]) / passes}
