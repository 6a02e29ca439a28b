"""What is trained on the page *Self-normalizing networks*.

An MLP of many equal layers on a standardised table, plain gradient descent, once per arm: SELU with LeCun weights
(without dropout, with alpha dropout, with ordinary dropout, with He weights), ReLU with He weights behind batch norm,
behind layer norm, with weight norm and alone, ReLU with LeCun weights, tanh with LeCun weights. Arms whose name does
not mention dropout have none. Every seed has its own split into training and held-out examples, the same for all arms.
Before the first step, what needs no training is measured: the theorems on their grids, 64 fresh layers, and what alpha
dropout does to a SELU's output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import weight_norm

from normviz.data import (
    SupervisedData,
    by_seed,
    load_digit_source,
    load_own_table,
    load_table,
    seeded_generator,
)
from normviz.digit_sources import DIGIT_SOURCES
from normviz.experiments.self_normalizing.classical import classical_accuracies
from normviz.experiments.self_normalizing.knobs import Knobs, arm_name
from normviz.experiments.self_normalizing.recorded import HISTOGRAM_RANGE, drawn_layers
from normviz.experiments.self_normalizing.theorems import theorem_values
from normviz.frame import Frame, Value
from normviz.models import MLP
from normviz.norms import SELU, AlphaDropout, lecun_normal_, make_norm, selu
from normviz.probes import ActivationHistogram, GradientNorm, LayerGradients, LayerMoments
from normviz.training import Arm, Batch, Member, resolve_device, train

__all__ = ["frames"]

SNAPSHOTS = 40
"""Measurements of every layer in a run."""
FRESH_LAYERS, FRESH_WIDTH, FRESH_VARIANCE = 64, 256, 1.44
"""The fresh network of the convergence check: depth, width, variance of its inputs."""


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    first = knobs.shown_arms().names[0]
    for seed in knobs.seed_range():
        yield Frame(0, first, seed)
    exact = theorem_values()
    for seed in knobs.seed_range():
        yield Frame(0, first, seed, {**exact, **_fresh_layers(seed), **_dropped(seed, knobs)})

    data = cache(lambda seed: _load(knobs, seed).to(where))
    if knobs.classical:
        for seed in knobs.seed_range():
            yield Frame(0, first, seed, classical_accuracies(data(seed), seed))
    some = data(knobs.first_seed)
    batch_size = min(knobs.batch_size, len(some.x_train))
    every = max(1, knobs.steps // SNAPSHOTS)
    drawn = {f"blocks.{layer - 1}.norm" for layer in drawn_layers(knobs.depth)}
    yield from train(
        [
            _arm(kind, depth, arm_name(kind, depth if depth != knobs.depth else None), knobs, some)
            for depth in knobs.depths()
            for kind in knobs.arms
        ],
        knobs.seed_range(),
        batches=by_seed(lambda seed: data(seed).train_batches(batch_size)),
        steps=knobs.steps,
        device=where,
        probes=[
            LayerMoments(_is_block, every),
            LayerGradients(_is_hidden_linear, every),
            GradientNorm(every),
            ActivationHistogram(
                lambda name, _: name in drawn, 2 * every, low=HISTOGRAM_RANGE[0], high=HISTOGRAM_RANGE[1]
            ),
        ],
        evaluate=partial(_evaluate, data=data),
        eval_every=max(5, knobs.steps // 20),
    )


def _load(knobs: Knobs, seed: int) -> SupervisedData:
    if knobs.data == "own":
        data = load_own_table(knobs.own_table, knobs.target, seed=seed)
    elif knobs.data in DIGIT_SOURCES:
        data = load_digit_source(knobs.data, "flat", scaling="pixel", seed=seed)
    else:
        data = load_table(knobs.data, seed=seed)
    scale = knobs.input_scale
    return replace(data, x_train=scale * data.x_train, x_test=scale * data.x_test)


def _is_block(name: str, module: nn.Module) -> bool:  # noqa: ARG001
    return name.startswith("blocks.") and name.count(".") == 1


def _is_hidden_linear(name: str, module: nn.Module) -> bool:  # noqa: ARG001
    return name.startswith("blocks.") and name.endswith(".linear")


def _arm(kind: str, depth: int, name: str, knobs: Knobs, data: SupervisedData) -> Arm:
    alpha, scale = knobs.selu()
    activation: Callable[[], nn.Module] = partial(SELU, alpha, scale)
    if kind == "snn_alpha":
        kept = AlphaDropout(
            knobs.dropout, fixed_mean=knobs.fixed_mean, fixed_var=knobs.fixed_var, alpha_prime=-scale * alpha
        )
        activation = lambda: nn.Sequential(SELU(alpha, scale), kept)  # noqa: E731 - without state: one for all layers
    network = partial(MLP, data.input_shape[0], [knobs.width] * depth, data.num_classes)
    models: dict[str, Callable[[], nn.Module]] = {
        "snn": partial(network, activation=activation, init="lecun"),
        "snn_alpha": partial(network, activation=activation, init="lecun"),
        "snn_dropout": partial(network, activation=activation, init="lecun", dropout=knobs.dropout),
        "snn_he": partial(network, activation=activation, init="he"),
        "relu_bn": partial(network, norm=partial(make_norm, "batch")),
        "relu_ln": partial(network, norm=partial(make_norm, "layer")),
        "relu_wn": lambda: weight_normed(network()),
        "relu": network,
        "relu_lecun": partial(network, init="lecun"),
        "tanh": partial(network, activation="tanh", init="lecun"),
    }
    return Arm(name, models[kind], partial(torch.optim.SGD, lr=knobs.learning_rate), _class_loss)


def weight_normed(network: MLP) -> MLP:
    """The network with each hidden unit's weights as g v / |v|, from the same start (Salimans and Kingma, 2016)."""
    for block in network.blocks:
        weight_norm(block.get_submodule("linear"))
    return network


def _class_loss(call: Callable[..., Tensor], batch: Batch) -> Tensor:
    inputs, labels = batch
    return cross_entropy(call(inputs), labels)


def _evaluate(member: Member, *, data: Callable[[int], SupervisedData]) -> Mapping[str, Value]:
    held_out = data(member.seed)
    model = member.model.eval()
    with torch.no_grad():
        logits = model(held_out.x_test)
    model.train()
    return {
        "validation_loss": float(cross_entropy(logits, held_out.y_test)),
        "validation_accuracy": 100 * float((logits.argmax(-1) == held_out.y_test).float().mean()),
    }


def _fresh_layers(seed: int) -> dict[str, Value]:
    """Distance from (0, 1) after 64 random layers of the standard SELU, from inputs of variance 1.44."""
    generator = seeded_generator(seed, 0)
    x = FRESH_VARIANCE**0.5 * torch.randn(FRESH_WIDTH, FRESH_WIDTH, generator=generator)  # (examples, units)
    for _ in range(FRESH_LAYERS):
        weight = lecun_normal_(torch.empty(FRESH_WIDTH, FRESH_WIDTH), generator)
        x = selu(x @ weight.T)
    var, mean = torch.var_mean(x, correction=0)
    return {"fresh/distance": float(torch.maximum(mean.abs(), (var - 1).abs()))}


def _dropped(seed: int, knobs: Knobs) -> dict[str, Value]:
    """Change of the variance of a standard SELU's output by alpha dropout."""
    generator = seeded_generator(seed, 1)
    x = selu(torch.randn(1 << 18, generator=generator))
    dropped = AlphaDropout(knobs.dropout, generator=generator)(x)
    return {"dropout/alpha": float((dropped.var() - x.var()).abs())}
