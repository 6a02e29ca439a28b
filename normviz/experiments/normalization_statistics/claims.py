"""What the papers of the page *Normalization statistics* claim, measured here."""

from __future__ import annotations

import math

from normviz.claims import Claim, Measure, by_seed, paired_difference
from normviz.experiments.normalization_statistics.knobs import REFERENCE, Knobs, arm_name
from normviz.frame import Log

__all__ = ["CLAIMS"]

BN, LN, PN, PNV, NONE = (arm_name(n) for n in ("batch", "layer", "power", "power_v", "none"))
UN, UNF, EMA = (arm_name(n) for n in ("unified", "unified_filtered", "ema"))
TAIL = 3
"""Evaluations that are averaged for a final validation loss."""


def _validation(task: str, arm: str, baseline: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        if knobs.task != task:
            return {}
        return paired_difference(log, "validation_loss", arm, baseline, window=TAIL)

    return measure


def _mean_gap(log: Log, name: str, arm: str) -> dict[int, float]:
    """Mean over the second half of the run of a gap, for each seed."""
    table = log.scalars(f"gap/{name}")
    return by_seed(table[(table["arm"] == arm) & (table["step"] >= log.last_step / 2)])


def _orders(numerator: dict[int, float], denominator: dict[int, float]) -> dict[int, float]:
    shared = numerator.keys() & denominator.keys()
    return {s: math.log10(numerator[s] / denominator[s]) for s in shared if numerator[s] > 0 < denominator[s]}


def _language_over_vision(log: Log, knobs: Knobs) -> dict[int, float]:
    if knobs.task != "language":
        return {}
    return _orders(_mean_gap(log, "var", BN), _mean_gap(log, "var", REFERENCE))


def _quadratic_under_variance(log: Log, knobs: Knobs) -> dict[int, float]:
    if knobs.task != "language":
        return {}
    return _orders(_mean_gap(log, "quadratic_mean", PNV), _mean_gap(log, "var", BN))


def _updates_saved(log: Log, knobs: Knobs) -> dict[int, float]:
    """Updates that LN needs to reach the plain network's final smoothed training loss, minus the plain network's."""
    if knobs.task != "recurrent":
        return {}
    table = log.scalars("loss")
    saved: dict[int, float] = {}
    for seed in log.seeds:
        curves = {
            arm: table[(table["arm"] == arm) & (table["seed"] == seed)]
            .set_index("step")["value"]
            .rolling(10, min_periods=1)
            .mean()
            for arm in (LN, NONE)
        }
        if any(len(curve) < 20 for curve in curves.values()):
            continue
        target = float(curves[NONE].iloc[-1])
        reached = curves[LN][curves[LN] <= target]
        saved[seed] = float(reached.index[0] - curves[NONE].index[-1]) if len(reached) else math.inf
    return saved


def _small(knobs: Knobs, norm: str) -> str:
    return arm_name(norm, knobs.small_batch)


def _small_batch_race(log: Log, knobs: Knobs) -> dict[int, float]:
    if knobs.task != "vision":
        return {}
    layer, batch = _small(knobs, "layer"), _small(knobs, "batch")
    return paired_difference(log, "validation_loss", layer, batch, window=TAIL)


def _batch_size_penalty(log: Log, knobs: Knobs) -> dict[int, float]:
    """LN's extra validation loss from the small batch, minus BN's."""
    if knobs.task != "vision":
        return {}
    layer = paired_difference(log, "validation_loss", _small(knobs, "layer"), LN, window=TAIL)
    batch = paired_difference(log, "validation_loss", _small(knobs, "batch"), BN, window=TAIL)
    return {seed: layer[seed] - batch[seed] for seed in layer.keys() & batch.keys()}


def _layer_train_eval(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    table = log.scalars("train_minus_eval")
    largest = table[table["arm"] == LN].groupby("seed")["value"].agg(lambda v: v.abs().max())
    return by_seed(largest.reset_index())


def _train_eval_gap(log: Log, knobs: Knobs) -> dict[int, float]:
    """|train - eval| of PowerNorm minus that of BatchNorm, over the last evaluations."""
    if knobs.task != "language":
        return {}
    table = log.scalars("train_minus_eval")
    absolute = table.assign(value=table["value"].abs())
    tail = absolute.groupby(["arm", "seed"]).tail(TAIL).groupby(["arm", "seed"])["value"].mean()
    return {
        s: float(tail[PN, s] - tail[BN, s])
        for s in log.seeds
        if (PN, s) in tail.index and (BN, s) in tail.index
    }


def _invariances(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    return by_seed(log.scalars("invariances_as_in_paper"))


def _of_unified(name: str) -> Measure:
    """A value of the last frame of the UnifiedNorm arms, the largest over them, for each seed."""

    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        table = log.scalars(name)
        table = table[table["arm"].isin([UN, UNF])]
        return by_seed(table.groupby("seed")["value"].max().reset_index())

    return measure


def _smoothing(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    """log10 of |GM - running| over |psi^2 - running|, means over the second half of the run."""
    means: list[dict[int, float]] = []
    for name in ("filter/smoothed_distance", "filter/batch_distance"):
        table = log.scalars(name)
        table = table[table["arm"].isin([UN, UNF]) & (table["step"] >= log.last_step / 2)]
        means.append(by_seed(table))
    return _orders(means[0], means[1])


def _with_outliers(arm: str, baseline: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        if knobs.task != "vision" or knobs.outlier_every == 0:
            return {}
        return paired_difference(log, "validation_loss", arm, baseline, window=TAIL)

    return measure


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="power-beats-layer",
        paper="power-norm",
        statement="PowerNorm reaches a lower language-modelling loss than LayerNorm.",
        paper_figure="Perplexity −5.6 on Penn Treebank and −3.0 on WikiText-103 (abstract).",
        measured="validation loss of PowerNorm minus LayerNorm, nats per character",
        measure=_validation("language", PN, LN),
        unit="nats",
        needs="the language task with LayerNorm and PowerNorm",
        caveat="The paper's margin comes from models a thousand times larger, trained for days.",
    ),
    Claim(
        id="power-v-beats-batch",
        paper="power-norm",
        statement="Dropping the mean (PowerNorm-V) already helps over BatchNorm in language.",
        paper_figure="35.5 against 34.4 BLEU on IWSLT14 (quoted second-hand).",
        measured="validation loss of PowerNorm-V minus BatchNorm, nats per character",
        measure=_validation("language", PNV, BN),
        unit="nats",
        needs="the language task with BatchNorm and PowerNorm-V",
    ),
    Claim(
        id="power-beats-power-v",
        paper="power-norm",
        statement="Running statistics in the forward pass (PowerNorm) help over the batch's own (PowerNorm-V).",
        paper_figure="35.9 against 35.5 BLEU on IWSLT14 (quoted second-hand).",
        measured="validation loss of PowerNorm minus PowerNorm-V, nats per character",
        measure=_validation("language", PN, PNV),
        unit="nats",
        needs="the language task with PowerNorm and PowerNorm-V",
        caveat="Within a few hundred steps the running statistics have little time to pay off.",
    ),
    Claim(
        id="language-fluctuates",
        paper="power-norm",
        statement="Batch statistics fluctuate orders of magnitude more in language than in vision.",
        paper_figure="Transformer on IWSLT14 against ResNet-20 on CIFAR-10: orders of magnitude (figure).",
        measured="log10 of BatchNorm's variance gap in language over that in vision, second half of the run",
        measure=_language_over_vision,
        threshold=1.0,
        side="above",
        unit="orders of magnitude",
        needs="the language task with BatchNorm and vision beside it",
        caveat="Both networks are tiny and their activations have different scales.",
    ),
    Claim(
        id="quadratic-mean-is-steadier",
        paper="power-norm",
        statement="The quadratic mean fluctuates less than the variance.",
        paper_figure="Figure of the quadratic mean's distance to its running value, below the variance's.",
        measured="log10 of PowerNorm-V's quadratic-mean gap over BatchNorm's variance gap, second half of the run",
        measure=_quadratic_under_variance,
        unit="orders of magnitude",
        needs="the language task with BatchNorm and PowerNorm-V",
    ),
    Claim(
        id="power-is-used-as-trained",
        paper="power-norm",
        statement="PowerNorm's running statistics represent training better than BatchNorm's.",
        paper_figure="Qualitative: BatchNorm's test-time statistics misrepresent training.",
        measured="|training mode − eval mode| validation loss, PowerNorm minus BatchNorm",
        measure=_train_eval_gap,
        unit="nats",
        needs="the language task with BatchNorm and PowerNorm",
    ),
    Claim(
        id="layer-same-at-test",
        paper="layer-norm",
        statement="LayerNorm computes the same thing in training and at test time.",
        paper_figure="Exact by construction.",
        measured="largest |training mode − eval mode| validation loss of LayerNorm",
        measure=_layer_train_eval,
        threshold=1e-6,
        unit="nats",
        exact=True,
        needs="LayerNorm and at least one evaluation",
    ),
    Claim(
        id="invariance-table",
        paper="layer-norm",
        statement="The invariances of batch, weight and layer norm under six transformations are those of the paper.",
        paper_figure="Table 1 of the paper: 18 entries.",
        measured="entries that agree, measured in float64",
        measure=_invariances,
        threshold=17.5,
        side="above",
        unit="entries",
        exact=True,
        needs="LayerNorm",
    ),
    Claim(
        id="layer-faster-in-rnn",
        paper="layer-norm",
        statement="A recurrent network with LayerNorm needs fewer updates than the plain one.",
        paper_figure="Qualitative: attentive reader, skip-thoughts, DRAW, handwriting (curves).",
        measured="updates LayerNorm needs for the plain LSTM's final training loss, minus the plain LSTM's",
        measure=_updates_saved,
        unit="updates",
        needs="the recurrent task with LayerNorm and No norm",
        caveat="Updates are compared, not seconds: a normalized LSTM step costs more here.",
    ),
    Claim(
        id="layer-robust-to-small-batches",
        paper="layer-norm",
        statement="With very small batches LayerNorm is better than BatchNorm.",
        paper_figure="Permutation-invariant MNIST, batch 4 (curves).",
        measured="validation loss at the small batch, LayerNorm minus BatchNorm",
        measure=_small_batch_race,
        unit="nats",
        needs="the vision task with LayerNorm and BatchNorm",
    ),
    Claim(
        id="layer-indifferent-to-batch-size",
        paper="layer-norm",
        statement="Shrinking the batch costs LayerNorm less than BatchNorm.",
        paper_figure="Permutation-invariant MNIST, batch 128 against batch 4 (curves).",
        measured="extra validation loss from the small batch, LayerNorm's minus BatchNorm's",
        measure=_batch_size_penalty,
        unit="nats",
        needs="the vision task with LayerNorm and BatchNorm",
    ),
    Claim(
        id="layer-helps-convnets",
        paper="layer-norm",
        statement="In ConvNets LayerNorm is better than no norm at all.",
        paper_figure="Qualitative statement in section 6.7.",
        measured="validation loss of LayerNorm minus No norm",
        measure=_validation("vision", LN, NONE),
        unit="nats",
        needs="the vision task with LayerNorm and No norm",
    ),
    Claim(
        id="batch-better-in-convnets",
        paper="layer-norm",
        statement="In ConvNets BatchNorm is better than LayerNorm.",
        paper_figure="Qualitative statement in section 6.7.",
        measured="validation loss of BatchNorm minus LayerNorm",
        measure=_validation("vision", BN, LN),
        unit="nats",
        needs="the vision task with LayerNorm and BatchNorm",
        caveat="8 × 8 digits have hardly any border, which is the paper's reason.",
    ),
    Claim(
        id="unified-on-par-with-layer",
        paper="unified-norm",
        statement="UnifiedNorm is on par with LayerNorm in language.",
        paper_figure="On par on IWSLT14 translation (qualitative; the table's figures are not quoted).",
        measured="validation loss of UnifiedNorm minus LayerNorm, nats per character",
        measure=_validation("language", UN, LN),
        threshold=0.05,
        unit="nats",
        needs="the language task with LayerNorm and UnifiedNorm",
    ),
    Claim(
        id="smoothing-steadies",
        paper="unified-norm",
        statement="The geometric mean over a window strays less from the running value than one batch does.",
        paper_figure="Fluctuation smoothing (figure, qualitative).",
        measured="log10 of |window − running| over |batch − running|, second half of the run",
        measure=_smoothing,
        unit="orders of magnitude",
        needs="UnifiedNorm",
    ),
    Claim(
        id="filtration-beats-ema",
        paper="unified-norm",
        statement="With outlier batches, filtered UnifiedNorm ends below an offline norm with a plain running mean.",
        paper_figure="Other offline norms degrade or collapse (qualitative).",
        measured="validation loss of filtered UnifiedNorm minus Offline EMA, with injected outliers",
        measure=_with_outliers(UNF, EMA),
        unit="nats",
        needs="the vision task with outliers, filtered UnifiedNorm and Offline EMA",
    ),
    Claim(
        id="filtration-beats-batch",
        paper="unified-norm",
        statement="With outlier batches, filtered UnifiedNorm ends below BatchNorm.",
        paper_figure="Qualitative.",
        measured="validation loss of filtered UnifiedNorm minus BatchNorm, with injected outliers",
        measure=_with_outliers(UNF, BN),
        unit="nats",
        needs="the vision task with outliers, filtered UnifiedNorm and BatchNorm",
    ),
    Claim(
        id="collapse-without-filtration",
        paper="unified-norm",
        statement="Without filtration UnifiedNorm suffers from the same outliers.",
        paper_figure="Training collapses without filtration in vision (qualitative).",
        measured="validation loss of filtered UnifiedNorm minus unfiltered, with injected outliers",
        measure=_with_outliers(UNF, UN),
        unit="nats",
        needs="the vision task with outliers and both UnifiedNorm arms",
        caveat="Three convolutions hardly collapse; the paper's networks are transformers of many layers.",
    ),
    Claim(
        id="fusion-is-exact",
        paper="unified-norm",
        statement="Folded into the next linear layers, UnifiedNorm gives the same outputs.",
        paper_figure="Exact by construction.",
        measured="largest difference of the trained network's logits, folded against not",
        measure=_of_unified("fused/max_difference"),
        threshold=1e-4,
        exact=True,
        needs="the language task with UnifiedNorm, run to its end",
    ),
    Claim(
        id="fusion-is-faster",
        paper="unified-norm",
        statement="The folded network is faster at inference than the LayerNorm network.",
        paper_figure="About 31 % faster on GPU (abstract).",
        measured="time of a forward pass, folded UnifiedNorm over LayerNorm (median of paired repeats)",
        measure=_of_unified("fused/time_ratio"),
        threshold=1.0,
        unit="×",
        needs="the language task with LayerNorm and UnifiedNorm, run to its end",
        caveat="Measured on this machine, often a CPU, where a norm is a smaller share of the time.",
    ),
    Claim(
        id="fusion-saves-memory",
        paper="unified-norm",
        statement="The folded network needs less memory at inference than the LayerNorm network.",
        paper_figure="Nearly 18 % less on GPU (abstract).",
        measured="bytes allocated in a forward pass, folded UnifiedNorm over LayerNorm",
        measure=_of_unified("fused/memory_ratio"),
        threshold=1.0,
        unit="×",
        exact=True,
        needs="the language task with LayerNorm and UnifiedNorm, run to its end",
    ),
)
