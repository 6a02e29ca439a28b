"""What is trained on the page *Normalization statistics*.

Language: a character-level GPT of two pre-norm blocks (width 64, context 64) on Python's documentation, or one of words
on its sentences of up to 32 words, padded to one length. Vision: a ConvNet of three convolutions, or a vision
transformer of six blocks (width 32), on scikit-learn's 8 x 8 digits, MNIST-1D or MNIST; each norm once with the batch
size that was set and once with the small one. Recurrent: an LSTM (width 64, context 48) on the same text; LayerNorm
inside the cell as in its paper, any other norm on the output of a plain LSTM. All with Adam.

Every seed has its own split into training and held-out data, the same for all arms.

PowerNorm and PowerNorm-V keep the paper's per-token group scaling in front; PowerNorm-V plain has none, so that it
differs from batch norm in the quadratic mean alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normviz.data import (
    SentenceCorpus,
    SupervisedData,
    TextCorpus,
    by_seed,
    chunks,
    load_digit_source,
    load_sentences,
    seeded_generator,
)
from normviz.data.corpora import load_corpus
from normviz.data.sentences import IGNORED
from normviz.experiments.normalization_statistics.knobs import REFERENCE, Knobs, arm_name
from normviz.experiments.normalization_statistics.recorded import (
    FACTORS,
    HISTOGRAM_RANGE,
    SHIFTS,
    VIT_BLOCKS,
)
from normviz.frame import Frame, Value
from normviz.models import GPT, ConvNet, NormedRecurrent, RNNLanguageModel, SelfAttention, ViT
from normviz.norms import (
    ChannelsLast,
    LayerNormLSTM,
    fuse_into_linear,
    fuse_transformer_block,
    invariance_gaps,
    invariance_table,
    make_norm,
)
from normviz.probes import (
    ActivationHistogram,
    ActivationOutliers,
    GradientNorm,
    InputGradient,
    OutlierFiltration,
    Probe,
    StatisticsGap,
    compare_inference,
    count_operations,
)
from normviz.training import (
    Arm,
    Batch,
    Batches,
    Member,
    build_member,
    evaluation_loss,
    resolve_device,
    train,
)

__all__ = ["frames"]

WIDTH, LAYERS, HEADS, CONTEXT = 64, 2, 4, 64
CHANNELS = (16, 32, 32)
VIT_WIDTH = 32
VIT_PATCHES = {"digits": (2, 2), "mnist": (7, 7), "mnist1d": (1, 5)}
"""16 patches of a picture, 8 of a signal."""
HIDDEN, RECURRENT_CONTEXT = 64, 48
VALIDATION_BATCHES = 4
VALIDATION_WINDOWS = 64
COMPENSATION_START = 100
"""UnifiedNorm's gain compensation starts at iteration 1000 in the paper; scaled to runs of a few hundred steps."""

TOPIC_RUN = 4
"""Consecutive batches from one topic when batches are sorted."""

_INVARIANCES = {
    "batch_norm": (True, False, True, True, True, False),
    "weight_norm": (True, False, True, False, False, False),
    "layer_norm": (True, True, False, True, False, True),
}
"""Table 1 of the LayerNorm paper, columns in the order of :func:`normviz.norms.invariance_table`."""


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    build = {"language": _language, "vision": _vision, "recurrent": _recurrent}[knobs.task]
    arms, batches, validation = build(knobs, where)
    if "layer" in knobs.norms:
        for seed in knobs.seed_range():
            values: dict[str, Value] = {"invariances_as_in_paper": _invariances_as_in_paper(seed)}
            if seed == knobs.first_seed:
                values["invariance_gaps"] = _invariance_gaps(seed)
            yield Frame(0, arm_name("layer"), seed, values)
    if knobs.task == "recurrent":
        yield from _operations(arms, batches, knobs.seed_range(), where)
    trained: list[Member] = []
    yield from train(
        arms,
        knobs.seed_range(),
        batches=batches,
        steps=knobs.steps,
        device=where,
        probes=probes(knobs),
        evaluate=partial(_evaluate, validation=validation),
        eval_every=eval_every(knobs),
        on_end=trained.extend,
    )
    if knobs.task == "language":
        yield from _fused_inference(trained, knobs, where)


def probes(knobs: Knobs) -> list[Probe]:
    """What is measured around the training steps, each at its own cadence."""
    low, high = HISTOGRAM_RANGE
    middle = () if not knobs.has_vit() else tuple(f"blocks.{i}." for i in range(1, VIT_BLOCKS - 1))
    # Inside a recurrent network norms are called once for each time step: they have no one input.
    inputs: list[Probe] = (
        []
        if knobs.task == "recurrent"
        else [ActivationOutliers(_is_norm, every=4), InputGradient(_is_norm, every=4)]
    )
    return [
        StatisticsGap(every=2),
        GradientNorm(every=2),
        OutlierFiltration(every=1),
        ActivationHistogram(partial(_is_drawn, middle), every=10, low=low, high=high),
        *inputs,
    ]


def eval_every(knobs: Knobs) -> int:
    """Steps between two evaluations."""
    return max(10, knobs.steps // 8)


def _fused_inference(members: Sequence[Member], knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    """Fold every UnifiedNorm of a trained GPT into its Linears; compare logits, time and memory with LayerNorm's."""
    names = {arm_name(n) for n in ("unified", "unified_filtered")}
    layer = {m.seed: m for m in members if m.arm.name == arm_name("layer") and not m.diverged}
    tokens = torch.randint(0, 20, (knobs.batch_size, CONTEXT), generator=seeded_generator(1)).to(device)
    for member in members:
        if member.arm.name not in names or member.diverged:
            continue
        plain = copy.deepcopy(member.model).eval()
        fused = copy.deepcopy(plain)
        blocks = fused.get_submodule("blocks")
        for name, block in list(blocks.named_children()):
            setattr(blocks, name, fuse_transformer_block(block))
        head, norm = fused.get_submodule("head"), fused.get_submodule("norm_out")
        fused.head, fused.norm_out = fuse_into_linear(norm, head), nn.Identity()
        with torch.no_grad():
            difference = float((plain(tokens) - fused(tokens)).abs().max())
        values: dict[str, Value] = {"fused/max_difference": difference}
        if member.seed in layer:
            reference = copy.deepcopy(layer[member.seed].model).eval()
            values |= compare_inference(fused, reference, tokens)
        yield Frame(knobs.steps, member.arm.name, member.seed, values)


def _invariances_as_in_paper(seed: int) -> float:
    measured = invariance_table(seed=seed)
    return float(
        sum(
            a == b
            for norm, expected in _INVARIANCES.items()
            for a, b in zip(measured[norm].values(), expected, strict=True)
        )
    )


def _invariance_gaps(seed: int) -> npt.NDArray[np.float32]:
    """Largest change of an output for each normaliser, transformation and strength, on random data in float64."""
    generator = seeded_generator(seed, 2)
    shapes = ((16, 5), (8, 5), (5,), (5,))
    X, W, v, c = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    tables = [
        invariance_gaps(X, W, delta=factor, v=shift * v, c=shift * c)
        for factor, shift in zip(FACTORS, SHIFTS, strict=True)
    ]
    gaps = [[list(row.values()) for row in table.values()] for table in tables]  # (strengths, 3, 6)
    return np.moveaxis(np.asarray(gaps, np.float32), 0, -1)


def _operations(
    arms: Sequence[Arm], batches: Batches, seeds: Sequence[int], device: torch.device
) -> Iterator[Frame]:
    """Arithmetic of one update's forward and backward pass, which is the same for all updates of an arm."""
    for arm in arms:
        for seed in seeds:
            count = count_operations(partial(_pass, build_member(arm, seed, device), batches(seed, 0)))
            yield Frame(0, arm.name, seed, {"operations": float(count)})


def _pass(member: Member, batch: Batch) -> None:
    member.arm.loss(member.model, batch).backward()  # type: ignore[no-untyped-call]


def _is_norm(name: str, module: nn.Module) -> bool:  # noqa: ARG001
    """Whether a layer is a place for a norm, also where the arm has none; not the norm inside of another one."""
    return name.rpartition(".")[2] in ("norm", "norm1", "norm2", "norm_out") and not name.endswith(
        ".norm.norm"
    )


def _is_drawn(middle: tuple[str, ...], name: str, module: nn.Module) -> bool:
    """Whether a layer is a norm of a network's first or last block, or its final norm."""
    return _is_norm(name, module) and not name.startswith(middle)


class HeldOut(NamedTuple):
    """Validation data: everything at once, and batches as large as those of the training."""

    whole: Batch
    batches: list[Batch]

    @property
    def covered(self) -> bool:
        """Whether the batches, all of one size, are the whole."""
        return sum(len(batch[0]) for batch in self.batches) == len(self.whole[0])

    @classmethod
    def of(cls, tensors: Batch, size: int) -> HeldOut:
        """Shuffle by a fixed seed; keep at most :data:`VALIDATION_BATCHES` full batches of ``size``."""
        order = torch.randperm(len(tensors[0]), generator=seeded_generator(0)).to(tensors[0].device)
        shuffled = tuple(t[order] for t in tensors)
        size = min(size, len(order))
        full = [c for c in chunks(shuffled, size) if len(c[0]) == size]
        return cls(shuffled, full[:VALIDATION_BATCHES])


def _evaluate(member: Member, *, validation: Callable[[Member], HeldOut]) -> Mapping[str, Value]:
    """Validation loss with the statistics that would be used, and what the batches' own would change."""
    held_out = validation(member)
    trained = evaluation_loss(member, held_out.batches, training_mode=True)
    evaluated = evaluation_loss(member, held_out.batches)
    values: dict[str, Value] = {
        "validation_loss": evaluated if held_out.covered else evaluation_loss(member, [held_out.whole]),
        "train_minus_eval": trained - evaluated,
    }
    if isinstance(member.model, RNNLanguageModel):
        values |= _cell_statistics(member.model, held_out.batches[0][0])
    return values


def _adam(knobs: Knobs) -> Callable[..., torch.optim.Optimizer]:
    return partial(torch.optim.Adam, lr=knobs.learning_rate)


def _options(norm: str, knobs: Knobs) -> dict[str, object]:
    """Constructor options that the knobs decide, for norms over (B, T, C)."""
    if norm == "power":
        return {
            "alpha_fwd": knobs.alpha_forward,
            "alpha_bkw": knobs.alpha_backward,
            "warmup_iters": knobs.warmup,
            "groups": int(knobs.groups),
            "batch_first": True,
        }
    if norm in ("power_v", "power_v_plain"):
        return {
            "momentum": 1 - knobs.alpha_forward,
            "group_scaling": norm == "power_v",
            "groups": int(knobs.groups),
            "batch_first": True,
        }
    if norm in ("unified", "unified_filtered", "ema"):
        return {
            "window_size": knobs.window,
            "warmup_iters": max(knobs.warmup, knobs.window),
            "outlier_filtration": norm == "unified_filtered",
            "forward_smoothing": "ema" if norm == "ema" else "gm",
            "compensation_start": COMPENSATION_START,
        }
    if norm == "group":
        return {"groups": int(knobs.groups)}
    return {}


_LIBRARY_NAMES = {"unified_filtered": "unified", "ema": "unified", "power_v_plain": "power_v"}


def _make(norm: str, channels: int, knobs: Knobs) -> nn.Module:
    return make_norm(_LIBRARY_NAMES.get(norm, norm), channels, **_options(norm, knobs))


def _token_norm(norm: str, knobs: Knobs) -> Callable[[int], nn.Module] | None:
    return None if norm == "none" else lambda channels: _make(norm, channels, knobs)


def _image_norm(norm: str, knobs: Knobs) -> Callable[[int], nn.Module] | None:
    """A norm over (N, C, H, W). LayerNorm takes its statistics over C, H and W of a case, as in its paper."""
    if norm == "none":
        return None
    if norm in ("layer", "group"):
        return partial(nn.GroupNorm, 1 if norm == "layer" else int(knobs.groups))
    return lambda channels: ChannelsLast(_make(norm, channels, knobs))


def _token_loss(call: Callable[..., Tensor], batch: Batch) -> Tensor:
    tokens, targets = batch
    return cross_entropy(call(tokens).flatten(0, 1), targets.flatten())


def _class_loss(call: Callable[..., Tensor], batch: Batch) -> Tensor:
    images, labels = batch
    return cross_entropy(call(images), labels)


HeldOutOf = Callable[[int], HeldOut]
"""What is held out in the split of a seed."""


def _text(knobs: Knobs, device: torch.device, context: int) -> tuple[TextCorpus, Batches, HeldOutOf]:
    corpus = load_corpus(knobs.corpus).to(device)
    order = "topic" if knobs.sorted_batches else "shuffled"

    def batches(seed: int) -> Batches:
        split = corpus.resplit(seed)
        return split.batches(context, knobs.batch_size, order=order, topic_run=TOPIC_RUN)

    @cache
    def held_out(seed: int) -> HeldOut:
        limit = max(VALIDATION_WINDOWS, knobs.batch_size)
        windows = corpus.resplit(seed).windows("val", context, limit=limit)
        return HeldOut.of((windows.tokens, windows.targets), knobs.batch_size)

    return corpus, by_seed(batches), held_out


def _padded_token_loss(call: Callable[..., Tensor], batch: Batch) -> Tensor:
    """The loss of the real tokens; the norms are told which places are padding."""
    tokens, targets = batch
    return cross_entropy(
        call(tokens, targets == IGNORED).flatten(0, 1), targets.flatten(), ignore_index=IGNORED
    )


def _sentences(knobs: Knobs, device: torch.device) -> tuple[SentenceCorpus, Batches, HeldOutOf]:
    split = cache(lambda seed: load_sentences(knobs.corpus, seed=seed).to(device))

    @cache
    def held_out(seed: int) -> HeldOut:
        limit = max(VALIDATION_WINDOWS, knobs.batch_size)
        tokens, targets = split(seed).held_out
        return HeldOut.of((tokens[:limit], targets[:limit]), knobs.batch_size)

    return split(knobs.first_seed), by_seed(lambda seed: split(seed).batches(knobs.batch_size)), held_out


Build = tuple[list[Arm], Batches, Callable[[Member], HeldOut]]


def _language(knobs: Knobs, device: torch.device) -> Build:
    corpus: TextCorpus | SentenceCorpus
    corpus, batches, held_out = (
        _sentences(knobs, device) if knobs.tokens == "words" else _text(knobs, device, CONTEXT)
    )
    loss = _padded_token_loss if knobs.tokens == "words" else _token_loss

    def arm(norm: str) -> Arm:
        model = partial(
            GPT,
            corpus.vocab_size,
            dim=WIDTH,
            num_layers=LAYERS,
            num_heads=HEADS,
            max_length=CONTEXT,
            norm=_token_norm(norm, knobs),
            attention=partial(SelfAttention, causal=True, fused=device.type == "cpu"),
        )
        return Arm(arm_name(norm), model, _adam(knobs), loss)

    arms = [arm(norm) for norm in knobs.norms]
    validation = {a.name: held_out for a in arms}
    if knobs.reference:
        digits = _digits("digits", device)
        reference = _vision_arm(REFERENCE, "batch", knobs, digits, min(knobs.batch_size, 128))
        arms.append(reference)
        validation[REFERENCE] = _held_out_digits(digits, knobs.batch_size)
    return arms, batches, lambda member: validation[member.arm.name](member.seed)


Digits = Callable[[int], SupervisedData]
"""The digits in the split of a seed."""


def _digits(name: str, device: torch.device) -> Digits:
    return cache(lambda seed: load_digit_source(name, seed=seed).to(device))


def _held_out_digits(digits: Digits, size: int) -> HeldOutOf:
    return cache(lambda seed: HeldOut.of((digits(seed).x_test, digits(seed).y_test), size))


def _digit_batches(knobs: Knobs, digits: SupervisedData, size: int) -> Batches:
    batches = _plain_digit_batches(knobs, digits, size)
    if knobs.outlier_every == 0 or knobs.task != "vision":
        return batches

    def with_outliers(seed: int, step: int) -> Batch:
        images, labels = batches(seed, step)
        if (step + 1) % knobs.outlier_every:
            return images, labels
        factor = torch.ones(len(images), 1, 1, 1, device=images.device)
        factor[0] = knobs.outlier_factor
        return images * factor, labels

    return with_outliers


def _plain_digit_batches(knobs: Knobs, digits: SupervisedData, size: int) -> Batches:
    if not knobs.sorted_batches:
        return digits.train_batches(size)
    images, labels = digits.x_train, digits.y_train
    of_class = [torch.nonzero(labels == c).flatten().cpu() for c in range(digits.num_classes)]

    def batch(seed: int, step: int) -> Batch:
        run = seeded_generator(seed, 1, step // TOPIC_RUN)
        members = of_class[int(torch.randint(len(of_class), (), generator=run))]
        chosen = members[torch.randint(len(members), (size,), generator=seeded_generator(seed, 0, step))]
        chosen = chosen.to(images.device)
        return images[chosen], labels[chosen]

    return batch


def _vision_arm(name: str, norm: str, knobs: Knobs, digits: Digits, size: int) -> Arm:
    some = digits(knobs.first_seed)
    _, height, width = some.input_shape
    model: Callable[[], nn.Module] = partial(
        ConvNet, 1, CHANNELS, some.num_classes, norm=_image_norm(norm, knobs)
    )
    if knobs.has_vit():
        model = partial(
            ViT,
            (height, width),
            VIT_PATCHES[knobs.data],
            num_classes=some.num_classes,
            dim=VIT_WIDTH,
            num_layers=VIT_BLOCKS,
            norm=_token_norm(norm, knobs),
        )
    batches = by_seed(lambda seed: _digit_batches(knobs, digits(seed), size))
    return Arm(name, model, _adam(knobs), _class_loss, batches=batches)


def _vision(knobs: Knobs, device: torch.device) -> Build:
    digits = _digits(knobs.data, device)
    sizes: dict[int | None, int] = {None: knobs.batch_size}
    if knobs.small_batch < knobs.batch_size:
        sizes[knobs.small_batch] = knobs.small_batch
    arms: list[Arm] = []
    held_out: dict[str, HeldOutOf] = {}
    for label, size in sizes.items():
        for norm in knobs.norms:
            name = arm_name(norm, label)
            arms.append(_vision_arm(name, norm, knobs, digits, size))
            held_out[name] = _held_out_digits(digits, size)
    batches = by_seed(lambda seed: _digit_batches(knobs, digits(seed), knobs.batch_size))
    return arms, batches, lambda member: held_out[member.arm.name](member.seed)


def _recurrent(knobs: Knobs, device: torch.device) -> Build:
    corpus, batches, held_out = _text(knobs, device, RECURRENT_CONTEXT)

    def layer(norm: str, inputs: int, hidden: int) -> nn.Module:
        lstm = LayerNormLSTM(inputs, hidden, batch_first=True, normalize=norm == "layer")
        with torch.no_grad():
            for cell in lstm.cells:
                cell.get_parameter("weight_hh").mul_(knobs.recurrent_scale)
        after = _token_norm(norm, knobs) if norm != "layer" else None
        return NormedRecurrent(lstm, after(hidden) if after else None)

    def arm(norm: str) -> Arm:
        model = partial(RNNLanguageModel, corpus.vocab_size, rnn=partial(layer, norm), hidden=HIDDEN)
        return Arm(arm_name(norm), model, _adam(knobs), _token_loss)

    return [arm(norm) for norm in knobs.norms], batches, lambda member: held_out(member.seed)


def _cell_statistics(model: RNNLanguageModel, tokens: Tensor) -> dict[str, Value]:
    """Spread of the cell and size of the hidden state after each time step of one batch."""
    was_training = model.training
    model.eval()
    states = None
    spread, size = [], []
    with torch.no_grad():
        for t in range(tokens.shape[1]):
            _, states = model.run(tokens[:, t : t + 1], states)
            h, c = states[0]
            spread.append(float(c.std()))
            size.append(float(h.abs().mean()))
    model.train(was_training)
    return {
        "cell_std_by_time": np.asarray(spread, np.float32),
        "hidden_size_by_time": np.asarray(size, np.float32),
    }
