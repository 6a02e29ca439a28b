"""What is trained on the page *Optimizer spectra*.

Digits: an MLP 64-128-64-64-10 on scikit-learn's 8 x 8 digits, or 40-128-64-64-10 on MNIST-1D, or 784-64-64-128-10 on
MNIST, in float64. Matrix equation: min ||A W B - C||^2 /
||C||^2 from W = 0, A and B square with condition number 100, C = A W* B for a Gaussian W*, in float64; every seed has
its own A, B and C. Text: a character-level GPT of two blocks (width 64, context 64), in float32.

Each optimizer is one arm per learning rate; LoRA's trains adapters of the same network. Every seed has its own split
into training and held-out data, the same for all arms. Members run one after another on every device, so that each step
can be timed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from normviz.data import SupervisedData, by_seed, chunks, load_digit_source, seeded_generator
from normviz.data.corpora import load_corpus
from normviz.experiments.optimizer_spectra.fira import Shadow
from normviz.experiments.optimizer_spectra.knobs import (
    PLANS,
    SPIKE_AT,
    Knobs,
    learning_rates,
    member_name,
)
from normviz.experiments.optimizer_spectra.lora import AdapterSpectrum, adapted, watched_adapter
from normviz.experiments.optimizer_spectra.optimizers import (
    REST_RATE,
    Watched,
    matrix_optimizer,
    state_formula,
)
from normviz.experiments.optimizer_spectra.recorded import HISTOGRAM_RANGE
from normviz.frame import Frame, Value
from normviz.models import GPT, MLP, BilinearMap
from normviz.optim import (
    ColumnNorm,
    FiraAdamW,
    RowNorm,
    SpectralNorm,
    assign_owners,
    multi_normalize,
    multi_normalize_fixed_point,
    simulate_sharded_step,
    split_matrix_params,
    swan_update,
)
from normviz.probes import (
    UpdateRecord,
    col_norm_cv,
    condition_number,
    cosine,
    effective_rank,
    numerical_rank,
    optimizer_state_bytes,
    rms,
    row_norm_cv,
    singular_values,
    stable_rank,
)
from normviz.training import Arm, Batch, Batches, Member, evaluation_loss, resolve_device, train

__all__ = ["frames"]

CONTEXT, WIDTH = 64, 64
HIDDEN = {"digits": (128, 64, 64), "mnist1d": (128, 64, 64), "mnist": (64, 64, 128)}
"""Hidden layers by the kind of digits, so that one matrix is tall, one square and one wide: MNIST's first is wide."""
SIDES = {"tall": (64, 32), "square": (48, 48), "wide": (32, 64)}
"""Shape of the unknown W of the matrix equation."""

CONDITION = 100.0
"""Condition number of A and of B."""

WATCHED = {
    "digits": {
        "tall": "blocks.0.linear.weight",
        "square": "blocks.2.linear.weight",
        "wide": "blocks.1.linear.weight",
    },
    "mnist": {
        "tall": "blocks.2.linear.weight",
        "square": "blocks.1.linear.weight",
        "wide": "blocks.0.linear.weight",
    },
    "regression": dict.fromkeys(SIDES, "weight"),
    "language": {
        "tall": "blocks.1.mlp.fc1.weight",
        "square": "blocks.1.attn.proj.weight",
        "wide": "blocks.1.mlp.fc2.weight",
    },
}
"""The measured matrices: of the task, or of MNIST where the digits are MNIST's."""

RESIDUAL_SWEEPS = 20
BINS = 31
"""Bins of a histogram of norms; odd, so that a norm of exactly the mean lies within a bin, not between two."""

PROBES = 20
"""Measurements of the spectrum in a run."""

GPT2_SMALL = ((2304, 768), (768, 768), (3072, 768), (768, 3072))
"""Weight matrices of one of GPT-2 small's twelve blocks: qkv, attention output, and the two of the MLP."""


@dataclass(frozen=True)
class Task:
    """A network, its loss, its batches, and what is held out in the split of a seed (None if nothing is)."""

    model: Callable[[], nn.Module]
    loss: Callable[[Callable[..., Tensor], Batch], Tensor]
    batches: Batches
    held_out: Callable[[int], list[Batch]] | None


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every optimizer with every learning rate and yield what the page shows; see :class:`Knobs`."""
    threads = torch.get_num_threads()
    # Matrices of digits and of the equation are so small that a second thread only waits and keeps its core busy.
    torch.set_num_threads(threads if knobs.task == "language" else 1)
    try:
        yield from _frames(knobs, resolve_device(device))
    finally:
        torch.set_num_threads(threads)


def _frames(knobs: Knobs, where: torch.device) -> Iterator[Frame]:
    names = {
        member_name(optimizer, rate): (optimizer, rate)
        for optimizer in knobs.optimizers
        for rate in learning_rates(knobs, optimizer)
    }
    for name in names:
        yield from (Frame(0, name, seed) for seed in knobs.seed_range())
    task = {"digits": _digits, "regression": _regression, "language": _language}[knobs.task](knobs, where)
    yield from _memory(knobs, task, names)
    for chosen, check in {"normuon": _distributed_plan, "sinkgd": _multi_normalization}.items():
        if chosen in knobs.optimizers:
            members = [name for name, (own, _) in names.items() if own == chosen]
            for seed in knobs.seed_range():
                values = check(knobs, seed)
                yield from (Frame(0, name, seed, values) for name in members)

    builds = {name: _Build(*names[name], knobs, task) for name in names}
    arms = [
        Arm(name, build.model, build.optimizer, task.loss, _schedule(knobs, build.name))
        for name, build in builds.items()
    ]
    every = max(1, knobs.steps // PROBES)
    training = train(
        arms,
        knobs.seed_range(),
        batches=task.batches,
        steps=knobs.steps,
        device=where,
        evaluate=partial(_evaluate, held_out=task.held_out) if task.held_out else None,
        eval_every=every,
        together=False,
    )
    while True:
        started = time.perf_counter()
        frame = next(training, None)
        elapsed = time.perf_counter() - started
        if frame is None:
            return
        if "loss" not in frame.values or frame.event is not None:
            yield frame
            continue
        optimizer = builds[frame.arm].built[knobs.seed_range().index(frame.seed)]
        values = {
            **frame.values,
            "step_ms": 1e3 * (elapsed - optimizer.overhead),
            "optimizer_ms": 1e3 * optimizer.seconds,
        }
        if frame.step % every == 0:
            values |= _spectra(optimizer.records["probed"])
            values |= optimizer.measured
        if (frame.step + 1) % every == 0:
            optimizer.arm()
        optimizer.seconds = optimizer.overhead = 0.0
        yield Frame(frame.step, frame.arm, frame.seed, values)


def watched_name(knobs: Knobs) -> str:
    """The name of the weight that is measured."""
    network = "mnist" if (knobs.task, knobs.data) == ("digits", "mnist") else knobs.task
    return WATCHED[network][knobs.matrix]


class _Build:
    """The members of one optimizer with one learning rate.

    Attributes:
        built: their optimizers, seed by seed.
    """

    def __init__(self, optimizer: str, rate: float, knobs: Knobs, task: Task) -> None:
        self.name, self.rate, self.knobs, self.task = optimizer, rate, knobs, task
        self.built: list[Watched] = []

    def model(self) -> nn.Module:
        """The network of the next member, remembered for :meth:`optimizer`, which needs its parameters' names."""
        model = self.task.model()
        self._latest = adapted(model, self.knobs.rank) if self.name == "lora" else model
        return self._latest

    def optimizer(self, params: Iterable[nn.Parameter]) -> Watched:  # noqa: ARG002
        """The optimizer over the network built last, armed for the first step."""
        matrices, rest = (group["params"] for group in split_matrix_params(self._latest))
        inner = matrix_optimizer(self.name, matrices, self.rate, self.knobs)
        name = watched_name(self.knobs)
        watched = Watched(
            inner,
            AdamW(rest, REST_RATE, weight_decay=0.0) if rest else None,
            AdapterSpectrum(inner, watched_adapter(self._latest, name))
            if self.name == "lora"
            else {"probed": self._latest.get_parameter(name)},
            spike=int(SPIKE_AT * self.knobs.steps) if self.knobs.spike else -1,
        )
        if isinstance(inner, FiraAdamW):
            probed = self._latest.get_parameter(name)
            shadow = Shadow(inner, probed)
            watched.after.append(shadow.update)
            watched.measures.append(shadow.values)
        if self.name == "sinkgd":
            watched.measures.append(partial(_sinkhorn_residual, self._latest.get_parameter(name)))
        watched.arm()
        self.built.append(watched)
        return watched


def _schedule(knobs: Knobs, optimizer: str) -> Callable[[Optimizer], LambdaLR] | None:
    """The fall of all learning rates; a shorter schedule is followed by steps of size zero."""
    end = knobs.steps * (1.0 if optimizer == "adamw" else knobs.shorter)
    if knobs.schedule == "constant":
        return partial(LambdaLR, lr_lambda=lambda step: float(step < end)) if end < knobs.steps else None
    return partial(LambdaLR, lr_lambda=lambda step: max(0.0, 1 - step / end))


def _evaluate(member: Member, *, held_out: Callable[[int], list[Batch]]) -> Mapping[str, Value]:
    return {"validation_loss": evaluation_loss(member, held_out(member.seed))}


# -------------------------------------------------------------------------------------------------------- tasks


def _digits(knobs: Knobs, device: torch.device) -> Task:
    @cache
    def digits(seed: int) -> SupervisedData:
        data = load_digit_source(knobs.data, "flat", seed=seed).to(device)
        return replace(data, x_train=data.x_train.double(), x_test=data.x_test.double())

    def loss(call: Callable[..., Tensor], batch: Batch) -> Tensor:
        images, labels = batch
        return cross_entropy(call(images), labels)

    def model() -> nn.Module:
        some = digits(knobs.first_seed)
        return MLP(some.input_shape[0], HIDDEN[knobs.data], some.num_classes).double()

    batches = by_seed(lambda seed: digits(seed).train_batches(knobs.batch_size))
    return Task(model, loss, batches, lambda seed: [(digits(seed).x_test, digits(seed).y_test)])


def _regression(knobs: Knobs, device: torch.device) -> Task:
    m, n = SIDES[knobs.matrix]

    @cache
    def problem(seed: int) -> Batch:
        A, B = (_conditioned(size, seeded_generator(seed, i)) for i, size in enumerate((m, n)))
        W = torch.randn(m, n, generator=seeded_generator(seed, 2), dtype=torch.float64)
        return tuple(X.to(device) for X in (A, B, A @ W @ B))

    def loss(call: Callable[..., Tensor], batch: Batch) -> Tensor:
        A, B, C = batch
        return (call(A, B) - C).square().sum() / C.square().sum()

    return Task(lambda: BilinearMap(m, n).double(), loss, lambda seed, step: problem(seed), None)  # noqa: ARG005


def _conditioned(size: int, generator: torch.Generator) -> Tensor:
    """U diag(s) V^T with random rotations and s evenly spaced in the logarithm from 1 to 1/100."""
    U, V = (
        torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        for _ in range(2)
    )
    s = torch.logspace(0.0, -math.log10(CONDITION), size, dtype=torch.float64)
    conditioned: Tensor = (U * s) @ V.mT
    return conditioned


def _language(knobs: Knobs, device: torch.device) -> Task:
    corpus = load_corpus(knobs.corpus).to(device)

    def loss(call: Callable[..., Tensor], batch: Batch) -> Tensor:
        tokens, targets = batch
        return cross_entropy(call(tokens).flatten(0, 1), targets.flatten())

    @cache
    def held_out(seed: int) -> list[Batch]:
        windows = corpus.resplit(seed).windows("val", CONTEXT, limit=64)
        return list(chunks((windows.tokens, windows.targets), 64))

    model = partial(GPT, corpus.vocab_size, dim=WIDTH, num_layers=2, num_heads=4, max_length=CONTEXT)
    batches = by_seed(lambda seed: corpus.resplit(seed).batches(CONTEXT, knobs.windows()))
    return Task(model, loss, batches, held_out)


# ------------------------------------------------------------------------------------------------- measurements


def _spectra(record: UpdateRecord) -> dict[str, Value]:
    """Spectra of gradient and update, and the update's measures; singular values that are rounding count as zero."""
    U = record.update
    assert record.gradient is not None
    G = record.gradient.double().cpu()
    s = record.singular_values()
    return {
        "update_spectrum": _relative(s),
        "gradient_spectrum": _relative(singular_values(G)),
        "condition": float(condition_number(s)),
        "stable_rank": float(stable_rank(s)),
        "effective_rank": float(effective_rank(s)),
        "rank": float(numerical_rank(s)),
        "row_cv": float(row_norm_cv(U)),
        "column_cv": float(col_norm_cv(U)),
        "rms": float(rms(U)),
        "cosine": float(cosine(U, G)),
        "norms": np.stack([_histogram(U.norm(dim=1)), _histogram(U.norm(dim=0))]),
    }


def _relative(s: Tensor) -> NDArray[np.float32]:
    """Singular values over their root mean square."""
    size = s.square().mean().sqrt()
    return (s / size if size > 0 else s).numpy().astype(np.float32)


def _histogram(norms: Tensor) -> NDArray[np.float32]:
    """Density of norms over their mean; what lies beyond the range is counted in its last bin."""
    low, high = HISTOGRAM_RANGE
    width = (high - low) / BINS
    relative = (norms / norms.mean().clamp(min=1e-300)).clamp(low, high - 1e-6)
    counts = torch.histc(relative, BINS, low, high)
    return (counts / (counts.sum() * width)).numpy().astype(np.float32)


def _sinkhorn_residual(probed: Tensor) -> Mapping[str, Value]:
    """How far each half-step of SR-Sinkhorn, from the second, moves the gradient: ||X_k - X_(k-1)|| / ||X_k||."""
    assert probed.grad is not None
    G = probed.grad.double()
    G = G[G.any(1)][:, G.any(0)]  # the theorem's assumption: no row or column is zero
    _, trace = multi_normalize(G, (RowNorm(), ColumnNorm()), RESIDUAL_SWEEPS, return_trace=True)
    moves = [float((b - a).norm() / b.norm().clamp(min=1e-300)) for a, b in pairwise(trace)]
    return {"sinkhorn_residual": np.array(moves, dtype=np.float32)}


def _memory(knobs: Knobs, task: Task, names: Mapping[str, tuple[str, float]]) -> Iterator[Frame]:
    """Bytes that each optimizer keeps, counted on a float32 copy of the network after one step."""
    model = task.model().float()
    generator = seeded_generator(0)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    matrices, rest = (group["params"] for group in split_matrix_params(model))
    count = sum(p.numel() for p in matrices)
    total = sum(p.numel() for p in model.parameters())
    rest_bytes = 0
    if rest:
        adam = AdamW(rest, REST_RATE)
        adam.step()
        rest_bytes = optimizer_state_bytes(adam)
    shapes = [(p.shape[0], p.shape[1]) for p in matrices]
    counted: dict[str, dict[str, Value]] = {}
    for name, (optimizer, rate) in names.items():
        if optimizer not in counted:
            stepped, extra = matrices, 0
            if optimizer == "lora":
                stepped = split_matrix_params(adapted(task.model().float(), knobs.rank))[0]["params"]
                extra = sum(p.numel() for p in stepped)
                for p in stepped:
                    p.grad = torch.randn(p.shape, generator=generator)
            inner = matrix_optimizer(optimizer, stepped, rate, knobs)
            inner.step()
            held = optimizer_state_bytes(inner)
            # Frozen matrices have no gradients, and their adapters are weights with gradients.
            others = 8 * total + (8 * extra - 4 * count if extra else 0)
            counted[optimizer] = {
                "state_bytes": held / count,
                "state_numbers": held / 4,
                "state_formula": float(state_formula(optimizer, shapes, knobs.rank)),
                "rows": float(sum(m for m, _ in shapes)),
                "training_bytes": (others + held + rest_bytes) / total,
            }
        for seed in knobs.seed_range():
            yield Frame(0, name, seed, counted[optimizer])


def _multi_normalization(knobs: Knobs, seed: int) -> dict[str, Value]:  # noqa: ARG001
    """On a random matrix: how far the fixed point of rows and columns is from both norms, and SWAN from an instance."""
    X = torch.randn(24, 40, generator=seeded_generator(seed, 8), dtype=torch.float64)
    m, n = X.shape
    fixed, _, _ = multi_normalize_fixed_point(X, (RowNorm(), ColumnNorm()), tol=1e-14)
    lengths = torch.cat([fixed.norm(dim=1) / math.sqrt(n), fixed.norm(dim=0) / math.sqrt(m)])
    swan = swan_update(X, steps=60, beta=0.5, center=False)  # at this beta the iteration converges
    instance = multi_normalize(X, (RowNorm(), SpectralNorm()), 1)
    return {
        "fixed_point_error": float((lengths - 1).abs().max()),
        "swan_difference": float((swan - instance).abs().max()),
    }


def _distributed_plan(knobs: Knobs, seed: int) -> dict[str, Value]:
    """Newton-Schulz operations per machine for GPT-2 small, and how far a sharded step is from a whole one."""
    world, steps = knobs.world, knobs.ns_steps
    shapes = GPT2_SMALL * 12
    flops = [newton_schulz_flops(m, n, steps) for m, n in shapes]
    owners = assign_owners(shapes, world)
    plans = {
        "everywhere": [list(range(len(shapes)))] * world,
        "in order": [list(range(rank, len(shapes), world)) for rank in range(world)],
        "sorted": [[i for i, owner in enumerate(owners) if owner == rank] for rank in range(world)],
    }
    values: dict[str, Value] = {
        f"plan/{PLANS[name]}": np.array(
            [sum(flops[i] for i in mine) / 1e9 for mine in plan], dtype=np.float32
        )
        for name, plan in plans.items()
    }
    return {**values, "sharded_difference": _sharded_difference(knobs, seed)}


def newton_schulz_flops(m: int, n: int, steps: int) -> float:
    """Operations of Newton-Schulz on an (m, n) matrix: X X^T, A A and A X, twice the product of the sizes each."""
    short, long = min(m, n), max(m, n)
    return float(steps * (4 * short * short * long + 2 * short**3))


def _sharded_difference(knobs: Knobs, seed: int) -> float:
    """Largest entry by which three steps over ``world`` machines differ from three on one, on random matrices."""
    generator = seeded_generator(seed, 7)
    whole = shards = torch.randn(50, 20, generator=generator, dtype=torch.float64)
    state_whole: Mapping[str, Tensor] = {}
    state_shards: Mapping[str, Tensor] = {}
    for _ in range(3):
        g = torch.randn(50, 20, generator=generator, dtype=torch.float64)
        step = partial(simulate_sharded_step, ns_steps=knobs.ns_steps, scale=knobs.scale)
        whole, state_whole = step(whole, g, state_whole, 1)
        shards, state_shards = step(shards, g, state_shards, knobs.world)
    return float((whole - shards).abs().max())
