"""The supervised tasks of the page *Effective learning rate*: memorisation with resets, equivalence, stationary.

512 digits (8 x 8 pixels); an MLP of width 128 or a small ConvNet, and for two arms a small ResNet. In each phase the
network must learn a new labelling of the same images; the stationary task has the true labels of all 1348 training
digits and is judged on 449 others. All arms of a seed and a network start from the same weights and see the same
batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from normviz.data import IndexSampler, load_digit_source, seeded_generator
from normviz.digit_sources import digit_source
from normviz.experiments.effective_learning_rate.knobs import (
    NAP,
    NONE,
    REPLAY,
    Knobs,
    Variant,
    normed,
    variants,
)
from normviz.experiments.effective_learning_rate.measures import GrowthLaw, Lengths, dormant_units
from normviz.frame import Frame, Value
from normviz.models import ResNet
from normviz.norms import FeatureNorm, NaPConvNet, NaPMLP, NormProjector, insert_normalization
from normviz.optim import L2, NoisyUpdates, ReDO, RegenerativeL2, shrink_and_perturb_
from normviz.probes import GradientNorm
from normviz.schedules import ImplicitScheduleReplay, MatchedEffectiveLR, per_tensor_groups
from normviz.training import Arm, Batch, Member, train
from normviz.training.seeding import seeded

__all__ = ["learn"]

EXAMPLES, WIDTH, CHANNELS = 512, 128, (32, 64, 64, 64)
RESIDUAL = (16, 32)
"""Channels of the ResNet's two stages, of one block each."""

TINY_EPS = 1e-30
"""eps of the norms in the equivalence, which holds for eps = 0."""

REDO_EVERY = 100
"""Steps between two looks for dormant units (1000 in the library, for runs of millions of steps)."""

SNAPSHOTS = 250
"""Measurements of lengths and rates in a run."""


def learn(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    """Train every arm of a supervised task and yield what the page shows."""
    yield from Study(knobs, device).frames()


def make_optimizer(rule: str, lr: float, params: Any) -> Optimizer:
    """Adam, plain SGD, or momentum 0.9 with gradients averaged."""
    if rule == "adam":
        return torch.optim.Adam(params, lr=lr, fused=True)
    memory = 0.9 if rule == "momentum" else 0.0
    return torch.optim.SGD(params, lr=lr, momentum=memory, dampening=memory)


class Split(NamedTuple):
    """Digits for training (n, ...) with their classes (n,), and those that are held out."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


class Study:
    """One run: data, arms, and what is known of each member between its steps."""

    def __init__(self, knobs: Knobs, device: torch.device) -> None:
        exact = knobs.task == "equivalence"
        self.knobs = knobs
        self.device = torch.device("cpu") if exact and device.type == "mps" else device  # MPS has no float64
        self.dtype = torch.float64 if exact else torch.float32
        self.source = digit_source(knobs.data)
        self.split = cache(self._split)
        self.task = lru_cache(maxsize=16)(self._task)
        self.sampler = IndexSampler(len(self.split(knobs.first_seed).x), knobs.batch_size)
        self.steps = knobs.total_steps()
        self.every = max(1, self.steps // SNAPSHOTS)
        self.variants = {variant.name: variant for variant in variants(knobs)}
        self.states: dict[Member, State] = {}
        self.recorded: dict[int, list[dict[str, float]]] = {}
        self.outputs: dict[tuple[str, int, int], Tensor] = {}

    def frames(self) -> Iterator[Frame]:
        yield from self._facts()
        names = list(self.variants)
        yield from self._train([name for name in names if name != REPLAY])
        if REPLAY in names:
            yield from self._train([REPLAY])

    def _train(self, names: list[str]) -> Iterator[Frame]:
        yield from train(
            [self._arm(self.variants[name]) for name in names],
            self.knobs.seed_range(),
            batches=self._batch,
            steps=self.steps,
            device=self.device,
            probes=[GradientNorm(self.every)],
            evaluate=self._evaluate,
            eval_every=max(1, self.knobs.period // 5),
            before_step=self._before_step,
        )

    def _split(self, seed: int) -> Split:
        """The digits as the seed splits them; tasks that change take some examples only."""
        layout = "flat" if self.knobs.network == "mlp" else "image"
        digits = load_digit_source(self.knobs.data, layout, seed=seed).to(self.device)
        kept = None if self.knobs.task == "stationary" else EXAMPLES
        x, x_test = digits.x_train[:kept].to(self.dtype), digits.x_test.to(self.dtype)
        return Split(x, digits.y_train[:kept], x_test, digits.y_test)

    def _task(self, seed: int, phase: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a phase."""
        x, y, _, _ = self.split(seed)
        if self.knobs.task == "stationary":
            return x, y
        generator = seeded_generator(seed, 1, phase)
        if self.knobs.change == "labels":
            labels = torch.randint(10, (len(x),), generator=generator)
            return x, labels.to(self.device)
        if self.knobs.change == "pixels":
            order = torch.randperm(x[0].numel(), generator=generator).to(self.device)
            return x.flatten(1)[:, order].reshape(x.shape), y
        return x, torch.randperm(10, generator=generator).to(self.device)[y]

    def _batch(self, seed: int, step: int) -> Batch:
        x, y = self.task(seed, step // self.knobs.period)
        chosen = self.sampler.indices(seed, step).to(self.device)
        return x[chosen], y[chosen]

    def _arm(self, variant: Variant) -> Arm:
        lr = variant.factor * self.knobs.learning_rate()
        optimizer = partial(make_optimizer, self.knobs.update_rule(), lr)
        model = partial(self._network, variant)
        return Arm(variant.name, model, optimizer, _loss, prepare=partial(self._prepare, variant))

    def _network(self, variant: Variant) -> nn.Module:
        knobs = self.knobs
        if variant.residual:
            return self._resnet().to(self.dtype)
        activation = "leaky_relu" if variant.remedy == "leaky" else "relu"
        plain: nn.Module
        if knobs.network == "mlp":
            plain = NaPMLP(self.source.values, 10, (WIDTH,) * knobs.depth, norm=None, activation=activation)
        else:
            plain = NaPConvNet(1, 10, CHANNELS[: knobs.depth], norm=None, activation=activation)
        if variant.norm:
            exact = knobs.task == "equivalence"
            affine = exact or knobs.scale_offset != "none"
            plain = insert_normalization(plain, knobs.norm, affine=affine, eps=TINY_EPS if exact else None)
        return plain.to(self.dtype)

    def _resnet(self) -> nn.Module:
        """A pre-activation ResNet for flat digits or pictures: a norm before every ReLU, convolutions without bias.

        The weights of convolutions that add up to the input of one norm are scale-invariant together, not one by one.
        """
        affine = self.knobs.scale_offset != "none"
        norm = partial(FeatureNorm, kind=self.knobs.norm, spatial=True, affine=affine)
        height, width = (1, *self.source.shape)[-2:]  # a signal is a picture of height 1
        square = nn.Unflatten(1, (1, height, width))
        return nn.Sequential(nn.Flatten(), square, ResNet(1, RESIDUAL, 10, norm=norm, bias=False))

    def _prepare(self, variant: Variant, member: Member) -> None:
        """Give a new member its rates, remedies and projection; the projection then ends each step."""
        knobs, model = self.knobs, member.model
        state = self.states[member] = State(member, variant, knobs)
        if variant.rates != "constant":
            groups = per_tensor_groups(model, variant.factor * knobs.learning_rate())
            member.optimizer = make_optimizer(knobs.update_rule(), knobs.learning_rate(), groups)
        if variant.rates in ("layerwise", "global"):
            member.scheduler = MatchedEffectiveLR(
                member.optimizer, model, variant.rates, "sgd", knobs.project_output
            )
        if variant.rates == "replay":
            member.scheduler = ImplicitScheduleReplay(member.optimizer, self.recorded[member.seed])
        state.treat(member)
        if variant.projected:
            scale_offset = "free" if knobs.task == "equivalence" else knobs.scale_offset
            projector = NormProjector(model, knobs.every, knobs.project_output, scale_offset)
            projector.attach(member.optimizer)
        if knobs.task == "equivalence" and variant.name == normed(knobs):
            state.law = GrowthLaw(model, member.optimizer)

    def _phase_of(self, updates: int) -> int:
        """The phase that the last update belonged to."""
        return max(updates - 1, 0) // self.knobs.period

    def _before_step(self, member: Member, step: int) -> Mapping[str, Value]:
        state = self.states[member]
        values: dict[str, Value] = {}
        if step % self.every == 0:
            values |= state.values(member)
        if step > 0 and step % self.knobs.period == 0 and self.knobs.task != "stationary":
            values |= self._phase_end(member)
            state.on_reset(member)
        if REPLAY in self.variants and member.arm.name == normed(self.knobs):
            self.recorded.setdefault(member.seed, []).append(state.lengths.effective_rates(member.optimizer))
        state.recycle(self.task(member.seed, step // self.knobs.period)[0], step)
        state.updates = step + 1
        return values

    def _phase_end(self, member: Member) -> dict[str, Value]:
        x, y = self.task(member.seed, self._phase_of(self.states[member].updates))
        return {"phase_accuracy": _accuracy(member.model, x, y)}

    def _evaluate(self, member: Member) -> Mapping[str, Value]:
        state = self.states[member]
        x, y = self.task(member.seed, self._phase_of(state.updates))
        if self.knobs.task == "equivalence":
            return self._compare(member, x)
        split = self.split(member.seed)
        seen = (split.x_test, split.y_test) if self.knobs.task == "stationary" else (x, y)
        values: dict[str, Value] = {
            "accuracy": _accuracy(member.model, *seen),
            "dormant": 100 * dormant_units(member.model, x[:EXAMPLES]),
        }
        if state.updates == self.steps:
            values |= state.values(member)
            if self.knobs.task == "memorisation":
                values |= self._phase_end(member)
        return values

    def _compare(self, member: Member, x: Tensor) -> dict[str, Value]:
        """Largest difference of the logits from those of the arm that must, or must nearly, agree."""
        state = self.states[member]
        with torch.no_grad():
            logits = member.model(x)
        name, key = member.arm.name, (member.seed, state.updates)
        if name in (NAP, normed(self.knobs)):
            self.outputs[name, *key] = logits
        ended = state.updates == self.steps
        values = {**state.values(member), **self._phase_end(member)} if ended else {}
        reference = self.outputs.get((normed(self.knobs) if name == REPLAY else NAP, *key))
        if reference is not None and name != NAP:
            values["difference"] = float((logits - reference).abs().max())
        return values

    def _facts(self) -> Iterator[Frame]:
        """What a dead unit's gradient is at the start, with and without a norm."""
        for variant in self.variants.values():
            if variant.name in (NONE, normed(self.knobs)):
                for seed in self.knobs.seed_range():
                    values = self._dead_unit(variant, seed)
                    if values:
                        yield Frame(0, variant.name, seed, values)

    def _dead_unit(self, variant: Variant, seed: int) -> dict[str, Value]:
        """Gradient of a dead unit's incoming weights, relative to the mean over its layer's units."""
        with seeded(seed):
            model = self._network(variant).to(self.device)
        shifts = [p for name, p in model.named_parameters() if name.endswith("bias")]
        if len(shifts) < 2:
            return {}
        with torch.no_grad():
            shifts[0][0] = -1e3  # the first hidden unit's offset: no input can reach it
        _loss(model, self._batch(seed, 0)).backward()  # type: ignore[no-untyped-call]
        weight = next(p for name, p in model.named_parameters() if name.endswith("weight"))
        assert weight.grad is not None
        of_unit = weight.grad.flatten(1).norm(dim=1)
        return {"dead_unit_gradient": float(of_unit[0] / of_unit.mean())}


class State:
    """What is known of one member between its steps, and the remedy it is given.

    Args:
        member: the network at its start.
        variant: its arm.
        knobs: of the run.
    """

    def __init__(self, member: Member, variant: Variant, knobs: Knobs) -> None:
        self.remedy, self.seed = variant.remedy, member.seed
        rate = variant.factor * knobs.learning_rate()
        self.lengths = Lengths(member.model, knobs.law(), rate, scale_invariant=variant.norm)
        self.updates = 0
        self.law: GrowthLaw | None = None
        self._redo: ReDO | None = None

    def values(self, member: Member) -> dict[str, Value]:
        """Lengths and rates now; in the equivalence the laws since the last call."""
        values = self.lengths.values(member.optimizer)
        return values if self.law is None else values | self.law.values()

    def treat(self, member: Member) -> None:
        """Attach the remedies that act in every step, and build the one that recycles units."""
        model, optimizer = member.model, member.optimizer
        if self.remedy in ("l2", "regenerative"):
            penalty = L2(model).penalty if self.remedy == "l2" else RegenerativeL2(model).penalty
            optimizer.register_step_pre_hook(partial(_add_gradient, penalty))
        elif self.remedy == "noise":
            NoisyUpdates(optimizer, generator=seeded_generator(self.seed, 2))
        elif self.remedy == "redo":
            self._redo = ReDO(model, optimizer, every=REDO_EVERY)

    def on_reset(self, member: Member) -> None:
        """What a remedy does when the task changes."""
        if self.remedy == "shrink":
            shrink_and_perturb_(member.model, generator=seeded_generator(self.seed, 3, self.updates))

    def recycle(self, x: Tensor, step: int) -> None:
        """Let ReDo count the step; what it draws depends on seed and step alone."""
        if self._redo is not None:
            with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
                torch.manual_seed(
                    int(torch.randint(2**62, (), generator=seeded_generator(self.seed, 4, step)))
                )
                self._redo.step(x)


def _add_gradient(penalty: Callable[[], Tensor], *args: Any) -> None:  # noqa: ARG001
    """Add a penalty's gradient to the loss's: the same as adding the penalty to the loss."""
    with torch.enable_grad():
        penalty().backward()  # type: ignore[no-untyped-call]


def _loss(call: Callable[..., Tensor], batch: Batch) -> Tensor:
    x, y = batch
    return cross_entropy(call(x), y)


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """In percent."""
    return 100 * float((model(x).argmax(-1) == y).float().mean())
