"""What is trained and measured on the page *Attention entropy*.

Pixels: the digits or MNIST's, resized, every pixel a token, by a vision transformer with mean pooling, positions from
N(0, 0.5^2). Text: the next character by a small GPT. No convolution and no rotary embedding: the arms differ in the
attention kernel alone. All with AdamW. Every seed has its own split into training and held-out data, the same for all
arms. Before the training the entropy of random queries against their norm, after it time and memory of the attention
by itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, scaled_dot_product_attention

from normviz.data import SupervisedData, TextWindows, by_seed, load_digit_source
from normviz.data.corpora import load_corpus
from normviz.experiments.attention_entropy.closed_forms import (
    Attend,
    entropy_by_norm,
    explicit_softmax,
    exponent,
    growth,
    slope_error,
)
from normviz.experiments.attention_entropy.kernels import LinearKernel, RecurrentKernel
from normviz.experiments.attention_entropy.knobs import Knobs, arm_name
from normviz.experiments.attention_entropy.recorded import FUSED, HEAD_DIM, MAP_SIDE, lengths
from normviz.frame import Frame, Value
from normviz.models import GPT, SelfAttention, ViT
from normviz.probes import AttentionEntropy, attention_rows
from normviz.training import Arm, Batch, Batches, Member, evaluation_loss, resolve_device, train

__all__ = ["frames"]

HEADS = 2
SNAPSHOTS = 20
"""Measurements of entropy in a run."""
EVALUATIONS = 6
"""Measurements on held-out data in a run, beside the first."""
VALIDATION_WINDOWS = 64


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    yield from (Frame(0, arm_name(kind), seed) for kind in knobs.kinds for seed in knobs.seed_range())
    for kind in knobs.kinds:
        for seed in knobs.seed_range():
            values: dict[str, Value] = {
                "entropy_by_norm": entropy_by_norm(kind, seed, **_constants(kind, knobs))
            }
            if kind == "softmax":
                values["slope_error"] = slope_error(seed)
            yield Frame(0, arm_name(kind), seed, values)
    arms, batches, evaluate = (_pixels if knobs.task == "pixels" else _text)(knobs, where)
    trained: list[Member] = []
    yield from train(
        arms,
        knobs.seed_range(),
        batches=batches,
        steps=knobs.steps,
        device=where,
        probes=[AttentionEntropy(_is_attention, max(1, knobs.steps // SNAPSHOTS), examples=8)],
        evaluate=evaluate,
        eval_every=max(5, knobs.steps // EVALUATIONS),
        on_end=trained.extend,
    )
    if knobs.task == "text":
        yield from _generation(trained, knobs.steps)
    yield from _time_and_memory(knobs, where)


def _constants(kind: str, knobs: Knobs) -> dict[str, Any]:
    nala = kind.startswith("nala")
    return {"lam": knobs.lam, "tau": knobs.tau, "alpha": knobs.alpha} if nala else {}


def _is_attention(name: str, module: nn.Module) -> bool:  # noqa: ARG001
    return isinstance(module, SelfAttention)


def _attention(kind: str, knobs: Knobs, causal: bool, on_cpu: bool, dim: int, heads: int) -> SelfAttention:
    kernel = None
    if kind != "softmax":
        kernel = LinearKernel(kind, heads, dim // heads, causal=causal, **_constants(kind, knobs))
    return SelfAttention(dim, heads, causal=causal, kernel=kernel, fused=on_cpu)


Build = tuple[list[Arm], Batches, Callable[[Member], Mapping[str, Value]]]


def _arm(kind: str, model: Callable[[], nn.Module], loss: Callable[..., Tensor], knobs: Knobs) -> Arm:
    return Arm(arm_name(kind), model, partial(torch.optim.AdamW, lr=knobs.learning_rate), loss)


def _pixels(knobs: Knobs, device: torch.device) -> Build:
    side = int(knobs.side)

    @cache
    def digits(seed: int) -> SupervisedData:
        return resized_digits(knobs.data, side, seed).to(device)

    def arm(kind: str) -> Arm:
        model = partial(
            ViT,
            side,
            1,
            num_classes=digits(knobs.first_seed).num_classes,
            dim=int(knobs.width),
            num_layers=knobs.depth,
            num_heads=HEADS,
            attention=partial(_attention, kind, knobs, False, device.type == "cpu"),
        )
        return _arm(kind, model, _class_loss, knobs)

    def evaluate(member: Member) -> Mapping[str, Value]:
        held_out = digits(member.seed)
        model = member.model.eval()
        with torch.no_grad():
            logits = model(held_out.x_test)
        model.train()
        right = (logits.argmax(-1) == held_out.y_test).float().mean()
        return {
            "validation_loss": float(cross_entropy(logits, held_out.y_test)),
            "accuracy": 100 * float(right),
            **_map(member, held_out.x_test[:1], knobs),
        }

    batches = by_seed(lambda seed: digits(seed).train_batches(knobs.batch_size))
    return [arm(kind) for kind in knobs.kinds], batches, evaluate


def resized_digits(name: str, side: int, seed: int) -> SupervisedData:
    """Digits in the split of a seed, (1, side, side); averaged where they shrink, interpolated where they grow.

    Args:
        name: which digits, of those that are pictures.
        side: pixels in a row.
        seed: of the split.
    """
    data = load_digit_source(name, "image", seed=seed)
    if data.input_shape[-1] == side:
        return data
    resize = partial(interpolate, size=(side, side), mode="bilinear", antialias=True)
    return replace(data, x_train=resize(data.x_train), x_test=resize(data.x_test))


def _text(knobs: Knobs, device: torch.device) -> Build:
    corpus = load_corpus(knobs.corpus).to(device)

    @cache
    def held_out(seed: int) -> TextWindows:
        return corpus.resplit(seed).windows("val", knobs.context, limit=VALIDATION_WINDOWS)

    def arm(kind: str) -> Arm:
        model = partial(
            GPT,
            corpus.vocab_size,
            dim=int(knobs.width),
            num_layers=knobs.depth,
            num_heads=HEADS,
            max_length=knobs.context,
            attention=partial(_attention, kind, knobs, True, device.type == "cpu"),
        )
        return _arm(kind, model, _token_loss, knobs)

    def evaluate(member: Member) -> Mapping[str, Value]:
        windows = held_out(member.seed)
        loss = evaluation_loss(member, [(windows.tokens, windows.targets)])
        return {"validation_loss": loss, **_map(member, windows.tokens[:1], knobs)}

    batches = by_seed(lambda seed: corpus.resplit(seed).batches(knobs.context, knobs.batch_size))
    return [arm(kind) for kind in knobs.kinds], batches, evaluate


def _class_loss(call: Callable[..., Tensor], batch: Batch) -> Tensor:
    images, labels = batch
    return cross_entropy(call(images), labels)


def _token_loss(call: Callable[..., Tensor], batch: Batch) -> Tensor:
    tokens, targets = batch
    return cross_entropy(call(tokens).flatten(0, 1), targets.flatten())


def _map(member: Member, example: Tensor, knobs: Knobs) -> dict[str, Value]:
    """The attention map of the first block for one example, mean over heads; drawn for the first seed only."""
    if member.seed != knobs.first_seed:
        return {}
    inputs: list[Tensor] = []
    layer = next(m for m in member.model.modules() if isinstance(m, SelfAttention))
    handle = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        with torch.no_grad():
            member.model(example)
            q, k, weights, _ = attention_rows(layer, inputs[0])
            whole = weights(q, k)[0].mean(0)  # (N, N)
    finally:
        handle.remove()
    return {"attention_map": pooled(whole.float().cpu().numpy())}


def pooled(weights: np.ndarray, side: int = MAP_SIDE) -> np.ndarray:
    """At most ``side`` rows and columns: neighbouring queries averaged, the weights of neighbouring keys added."""
    n = len(weights)
    edges = np.arange(0, n, math.ceil(n / side))
    counts = np.diff(np.append(edges, n))
    summed = np.add.reduceat(np.add.reduceat(weights, edges, axis=0), edges, axis=1)
    return np.asarray(summed / counts[:, None], np.float32)


def _generation(members: Sequence[Member], step: int) -> Iterator[Frame]:
    """Largest difference of the logits, token by token through the recurrent state against the whole sequence."""
    for member in members:
        model = member.model
        first = next(m for m in model.modules() if isinstance(m, SelfAttention))
        kernel = first.kernel
        if member.diverged or not isinstance(kernel, LinearKernel) or not kernel.kind.startswith("nala"):
            continue
        assert isinstance(model, GPT)
        model = copy.deepcopy(model).eval()
        vocabulary = model.token_embedding.num_embeddings
        tokens = torch.arange(model.max_length, device=next(model.parameters()).device)[None] % vocabulary
        with torch.no_grad():
            whole = model(tokens)
            for module in model.modules():
                if isinstance(module, SelfAttention):
                    assert isinstance(module.kernel, LinearKernel)
                    module.kernel = RecurrentKernel(module.kernel.feature_map)
            pieces = []
            for t in range(tokens.shape[1]):
                position = torch.tensor([t], device=tokens.device)
                x = model.token_embedding(tokens[:, t : t + 1]) + model.position_embedding(position)
                for block in model.blocks:
                    x = block(x)
                assert model.head is not None
                pieces.append(model.head(model.norm_out(x)))
        gap = float((torch.cat(pieces, 1) - whole).abs().max())
        yield Frame(step, member.arm.name, member.seed, {"generation_gap": gap})


def _time_and_memory(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    """Attention by itself, one head, both directions, without gradient."""
    timed: dict[str, Attend] = {}
    for kind in knobs.kinds:
        if kind == "softmax":
            timed[arm_name(kind)] = explicit_softmax
            timed[FUSED] = scaled_dot_product_attention
        else:
            timed[arm_name(kind)] = LinearKernel(kind, 1, HEAD_DIM, **_constants(kind, knobs)).to(device)
    at = lengths(int(knobs.longest))
    for seed in knobs.seed_range():
        for name, attend in timed.items():
            seconds, size = growth(attend, at, HEAD_DIM, seed, device)
            yield Frame(
                knobs.steps,
                name,
                seed,
                {
                    "seconds_by_length": seconds,
                    "bytes_by_length": size,
                    "time_exponent": exponent(at, seconds),
                    "memory_exponent": exponent(at, size),
                },
            )
