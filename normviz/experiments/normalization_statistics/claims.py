"""What the papers of the page *Normalization statistics* claim, measured here."""

from __future__ import annotations

import math
from typing import Any

from normviz.claims import Bound, Claim, Effect, Identity, Rule
from normviz.experiments.normalization_statistics.knobs import REFERENCE, Knobs, arm_name
from normviz.measures import (
    ArmName,
    Measure,
    constant,
    derived,
    largest,
    log10,
    scalar,
    steps_to,
)

__all__ = ["CLAIMS"]

BN, LN, PN, PNV, PNV_PLAIN, NONE = (
    arm_name(n) for n in ("batch", "layer", "power", "power_v", "power_v_plain", "none")
)
UN, UNF, EMA = (arm_name(n) for n in ("unified", "unified_filtered", "ema"))
TAIL = 3
"""Evaluations that are averaged for a final validation loss."""

NATS = 0.02
"""Least difference of a loss that counts, in nats: 2 % of perplexity."""

LANGUAGE = {"task": "language"}
VISION = {"task": "vision"}
OUTLIERS = {"task": "vision", "outlier_every": lambda every: every > 0}
OUTLIERS_WORDS = "outliers switched on"


def _validation(arm: ArmName) -> Measure:
    return scalar("validation_loss", arm, window=TAIL)


def _late(name: str, arm: str) -> Measure:
    """Mean over the second half of the run."""
    return scalar(name, arm, since=0.5)


def _small(norm: str) -> ArmName:
    return lambda knobs: arm_name(norm, knobs.small_batch)


def _train_eval(arm: str) -> Measure:
    """Mean of the absolute values of the last evaluations."""
    return scalar("train_minus_eval", arm, reduce="mean_absolute", window=TAIL)


def _of_unified(name: str) -> Measure:
    """A value of the last frame of the UnifiedNorm arms, the largest over them."""
    return constant(name, reduce="max")


def _smoothing() -> Measure:
    """log10 of |GM - running| over |psi^2 - running|, means over the second half of the run."""

    def late(name: str) -> Measure:
        return derived(lambda log, knobs: _pooled(log, knobs, name))

    return log10(late("filter/smoothed_distance") / late("filter/batch_distance"))


def _pooled(log: Any, knobs: Knobs, name: str) -> dict[int, float]:
    """Mean over the second half of the run and over both UnifiedNorm arms."""
    table = log.scalars(name)
    if table.empty or table["step"].max() < knobs.steps - 1:
        return {}
    table = table[table["arm"].isin([UN, UNF]) & (table["step"] >= knobs.steps / 2)]
    return {int(s): float(v) for s, v in table["value"].groupby(table["seed"]).mean().items()}


def _steepest(arm: str) -> Measure:
    """Largest norm of dL/dX over all inputs X of norms and the whole run: the steepest place of the loss it met."""
    return scalar("input_gradient", arm, since=0.0, reduce="max")


def _share_of_updates(log: Any, knobs: Knobs) -> dict[int, float]:
    """Share of the run's updates after which LayerNorm has the plain LSTM's final smoothed training loss."""
    steps = steps_to(LN, NONE, smooth=10)(log, knobs)
    return {seed: min(value, 2.0 * knobs.steps) / knobs.steps for seed, value in steps.items()}


def _growth_difference(log: Any, knobs: Knobs) -> dict[int, float]:
    """|log10 of the growth of the cell's spread along a sequence| at the run's end, LayerNorm minus plain."""
    growth = {
        (entry.arm, entry.seed): abs(math.log10(float(entry.value[-1]) / float(entry.value[0])))
        for entry in log.arrays("cell_std_by_time")
        if entry.step >= knobs.steps and min(entry.value[0], entry.value[-1]) > 0
    }
    return {
        seed: growth[LN, seed] - growth[NONE, seed]
        for seed in log.seeds
        if (LN, seed) in growth and (NONE, seed) in growth
    }


def _loss(
    name: str,
    paper: str,
    arm: ArmName,
    baseline: ArmName | dict[str, ArmName],
    statement: str,
    figure: str,
    preset: str,
    *,
    measured: str = "",
    rule: Rule | None = None,
    given: dict[str, Any] | None = None,
    given_words: str = "",
    caveat: str = "",
) -> Claim:
    """A claim about the final validation loss of an arm against one or several others."""
    if isinstance(baseline, dict):
        measure: Any = {rival: _validation(arm) - _validation(other) for rival, other in baseline.items()}
    else:
        measure = _validation(arm) - _validation(baseline)
    return Claim(
        id=name,
        paper=paper,
        statement=statement,
        paper_figure=figure,
        measured=measured,
        measure=measure,
        rule=rule or Effect("below", floor=NATS),
        preset=preset,
        given=given or LANGUAGE,
        given_words=given_words,
        unit="nats",
        caveat=caveat,
    )


CLAIMS: tuple[Claim, ...] = (
    _loss(
        "power-beats-layer",
        "power-norm",
        PN,
        LN,
        "PowerNorm reaches a lower language-modelling loss than LayerNorm.",
        "Perplexity −5.6 on Penn Treebank and −3.0 on WikiText-103 (abstract).",
        "best-rates",
        measured="validation loss of PowerNorm minus LayerNorm, nats per character",
        caveat="The paper's margin comes from models a thousand times larger, trained for days.",
    ),
    _loss(
        "power-beats-batch",
        "power-norm",
        PN,
        BN,
        "PowerNorm is better than BatchNorm in language.",
        "35.9 against 34.4 BLEU on IWSLT14 (quoted second-hand).",
        "best-rates",
        measured="validation loss of PowerNorm minus BatchNorm, nats per character",
        caveat="PowerNorm also has the per-token group scaling that BatchNorm lacks.",
    ),
    _loss(
        "batch-worse-than-layer",
        "power-norm",
        LN,
        BN,
        "BatchNorm is worse than LayerNorm in language.",
        "34.4 against 35.5 BLEU on IWSLT14 (quoted second-hand).",
        "best-rates",
        measured="validation loss of LayerNorm minus BatchNorm, nats per character",
    ),
    _loss(
        "power-v-beats-batch",
        "power-norm",
        PNV_PLAIN,
        BN,
        "Dropping the mean (PowerNorm-V) already helps over BatchNorm in language.",
        "35.5 against 34.4 BLEU on IWSLT14 (quoted second-hand).",
        "best-rates",
        measured="validation loss of PowerNorm-V without group scaling minus BatchNorm, nats per character",
    ),
    _loss(
        "group-scaling-helps",
        "power-norm",
        PNV,
        PNV_PLAIN,
        "The per-token group scaling in front helps PowerNorm-V.",
        "Part of the paper's method; its own effect is not quoted.",
        "best-rates",
        measured="validation loss of PowerNorm-V with group scaling minus without, nats per character",
    ),
    _loss(
        "power-beats-power-v",
        "power-norm",
        PN,
        PNV,
        "Running statistics in the forward pass (PowerNorm) help over the batch's own (PowerNorm-V).",
        "35.9 against 35.5 BLEU on IWSLT14 (quoted second-hand).",
        "best-rates",
        measured="validation loss of PowerNorm minus PowerNorm-V, nats per character",
        caveat="Within a few hundred steps the running statistics have little time to pay off.",
    ),
    Claim(
        id="language-fluctuates",
        paper="power-norm",
        statement="Batch statistics fluctuate orders of magnitude more in language than in vision.",
        paper_figure="Transformer on IWSLT14 against ResNet-20 on CIFAR-10: orders of magnitude (figure).",
        measured="log10 of BatchNorm's relative variance gap on padded sentences of words over that in vision, second "
        "half of the run",
        measure=log10(_late("relative_gap/var", BN) / _late("relative_gap/var", REFERENCE)),
        rule=Effect("above", floor=0.1, bar=1.0),
        preset="words",
        given={**LANGUAGE, "tokens": "words"},
        unit="orders of magnitude",
        caveat="Both networks are tiny. The gap is taken relative to the variance itself, so that the size of the "
        "activations does not matter.",
    ),
    Claim(
        id="quadratic-mean-is-steadier",
        paper="power-norm",
        statement="The quadratic mean fluctuates less than the variance.",
        paper_figure="Figure of the quadratic mean's distance to its running value, below the variance's.",
        measured="log10 of PowerNorm-V's relative gap of the quadratic mean over BatchNorm's of the variance, second "
        "half of the run",
        measure=log10(_late("relative_gap/quadratic_mean", PNV) / _late("relative_gap/var", BN)),
        rule=Effect("below", floor=0.1),
        preset="language",
        given=LANGUAGE,
        unit="orders of magnitude",
    ),
    Claim(
        id="gradients-bounded",
        paper="power-norm",
        statement="PowerNorm's approximate backward pass keeps gradients bounded.",
        paper_figure="Theorem: the gradient is bounded (stated for the approximate backward pass).",
        measured="largest gradient norm of PowerNorm over LayerNorm's largest, over the whole run",
        measure=scalar("grad_norm", PN, since=0.0, reduce="max")
        / scalar("grad_norm", LN, since=0.0, reduce="max"),
        rule=Bound("below", 10.0),
        preset="language",
        given=LANGUAGE,
        unit="×",
        caveat="The limit of ten is ours: an unbounded gradient passes any such limit.",
    ),
    Claim(
        id="power-smaller-lipschitz",
        paper="power-norm",
        statement="PowerNorm leads to a smaller Lipschitz constant of the loss than BatchNorm.",
        paper_figure="Theorem on PowerNorm-V (abstract: a smaller Lipschitz constant for the loss).",
        measured="largest gradient of the loss in the input of a norm, over all norms and every fourth update of the "
        "run, PowerNorm-V without group scaling over BatchNorm",
        measure=_steepest(PNV_PLAIN) / _steepest(BN),
        rule=Effect("below", floor=0.05, null=1.0),
        preset="best-rates",
        given=LANGUAGE,
        unit="×",
        caveat="The largest gradient met in training is a lower bound of the constant. The theorem compares two norms "
        "in front of the same network; here each network is trained, at its own best rate.",
    ),
    Claim(
        id="power-is-used-as-trained",
        paper="power-norm",
        statement="PowerNorm's running statistics represent training better than BatchNorm's.",
        paper_figure="Qualitative: BatchNorm's test-time statistics misrepresent training.",
        measured="|training mode − eval mode| validation loss, PowerNorm minus BatchNorm",
        measure=_train_eval(PN) - _train_eval(BN),
        rule=Effect("below", floor=0.01),
        preset="language",
        given=LANGUAGE,
        unit="nats",
    ),
    Claim(
        id="layer-same-at-test",
        paper="layer-norm",
        statement="LayerNorm computes the same thing in training and at test time.",
        paper_figure="Exact by construction.",
        measured="largest |training mode − eval mode| validation loss of LayerNorm",
        measure=largest(
            scalar("train_minus_eval", LN, since=0.0, reduce="max"),
            scalar("train_minus_eval", LN, since=0.0, reduce="min") * -1.0,
        ),
        rule=Identity("below", 1e-6),
        preset="language",
        unit="nats",
    ),
    Claim(
        id="invariance-table",
        paper="layer-norm",
        statement="The invariances of batch, weight and layer norm under six transformations are those of the paper.",
        paper_figure="Table 1 of the paper: 18 entries.",
        measured="entries that agree, measured in float64",
        measure=constant("invariances_as_in_paper"),
        rule=Identity("above", 17.5),
        preset="language",
        unit="entries",
    ),
    Claim(
        id="layer-faster-in-rnn",
        paper="layer-norm",
        statement="A recurrent network with LayerNorm needs fewer updates than the plain one.",
        paper_figure="Qualitative: attentive reader, skip-thoughts, DRAW, handwriting (curves).",
        measured="updates LayerNorm needs for the plain LSTM's final training loss, over the run's updates",
        measure=derived(_share_of_updates, arms=(LN, NONE)),
        rule=Effect("below", floor=0.05, null=1.0),
        preset="recurrent",
        given={"task": "recurrent"},
        unit="of the updates",
        caveat="Each network at its own best learning rate; the plain one's is the largest of the grid, so that a "
        "still larger one might bring it closer. Updates are compared, not seconds: a normalized LSTM step costs more.",
    ),
    Claim(
        id="layer-saves-operations",
        paper="layer-norm",
        statement="LayerNorm reduces the training time of a recurrent network, its own arithmetic counted.",
        paper_figure="Abstract: can substantially reduce the training time (curves over updates and hours).",
        measured="arithmetic operations LayerNorm needs for the plain LSTM's final training loss, over those of the "
        "plain LSTM's whole run",
        measure=derived(_share_of_updates, arms=(LN, NONE))
        * (constant("operations", LN) / constant("operations", NONE)),
        rule=Effect("below", floor=0.05, null=1.0),
        preset="recurrent",
        given={"task": "recurrent"},
        unit="of the operations",
        caveat="Each network at its own best learning rate; the plain one's is the largest of the grid. Forward and "
        "backward passes are counted, not the optimizer's steps; operations, not seconds, which depend on the machine "
        "and on what else it does.",
    ),
    Claim(
        id="hidden-state-stable",
        paper="layer-norm",
        statement="LayerNorm stabilises the hidden state of a recurrent network.",
        paper_figure="Abstract: very effective at stabilizing the hidden state dynamics.",
        measured="|log10| growth of the cell's spread from the first to the last time step, LayerNorm minus No norm",
        measure=derived(_growth_difference, arms=(LN, NONE)),
        rule=Effect("below", floor=0.05),
        preset="recurrent",
        given={"task": "recurrent"},
        unit="orders of magnitude",
    ),
    _loss(
        "layer-robust-to-small-batches",
        "layer-norm",
        _small("layer"),
        _small("batch"),
        "With very small batches LayerNorm is better than BatchNorm.",
        "Permutation-invariant MNIST, batch 4 (curves).",
        "small-batches",
        measured="validation loss at the small batch, LayerNorm minus BatchNorm",
        given=VISION,
    ),
    Claim(
        id="layer-indifferent-to-batch-size",
        paper="layer-norm",
        statement="Shrinking the batch costs LayerNorm less than BatchNorm.",
        paper_figure="Permutation-invariant MNIST, batch 128 against batch 4 (curves).",
        measured="extra validation loss from the small batch, LayerNorm's minus BatchNorm's",
        measure=(_validation(_small("layer")) - _validation(LN))
        - (_validation(_small("batch")) - _validation(BN)),
        rule=Effect("below", floor=NATS),
        preset="small-batches",
        given=VISION,
        unit="nats",
    ),
    _loss(
        "layer-helps-convnets",
        "layer-norm",
        LN,
        NONE,
        "In ConvNets LayerNorm is better than no norm at all.",
        "Qualitative statement in section 6.7.",
        "small-batches",
        measured="validation loss of LayerNorm minus No norm",
        given=VISION,
    ),
    _loss(
        "batch-better-in-convnets",
        "layer-norm",
        BN,
        LN,
        "In ConvNets BatchNorm is better than LayerNorm.",
        "Qualitative statement in section 6.7.",
        "small-batches",
        measured="validation loss of BatchNorm minus LayerNorm",
        given=VISION,
        caveat="8 × 8 digits have hardly any border, which is the paper's reason.",
    ),
    _loss(
        "unified-on-par-with-layer",
        "unified-norm",
        UN,
        LN,
        "UnifiedNorm is on par with LayerNorm in language.",
        "On par on IWSLT14 translation (qualitative; the table's figures are not quoted).",
        "best-rates",
        measured="validation loss of UnifiedNorm minus LayerNorm, nats per character",
        rule=Bound("below", 0.05),
    ),
    Claim(
        id="outliers-across-layers",
        paper="unified-norm",
        statement="With BatchNorm in LayerNorm's place a transformer's activations have more extreme outliers across "
        "its layers.",
        paper_figure="Abstract: extreme outliers of activation statistics across layers (qualitative).",
        measured="log10 of the largest over the median absolute activation in front of a norm, mean over all norms and "
        "the second half of the run, on batches without the bright image, BatchNorm minus LayerNorm",
        measure=_late("outliers", BN) - _late("outliers", LN),
        rule=Effect("above", floor=0.1),
        preset="outliers",
        given={**OUTLIERS, "network": "vit"},
        given_words=OUTLIERS_WORDS,
        unit="orders of magnitude",
        caveat="Both networks are trained with the bright image in every tenth batch. The paper speaks of the "
        "statistics of a batch; measured are the values that these are taken of.",
    ),
    Claim(
        id="smoothing-steadies",
        paper="unified-norm",
        statement="The geometric mean over a window strays less from the running value than one batch does.",
        paper_figure="Fluctuation smoothing (figure, qualitative).",
        measured="log10 of |window − running| over |batch − running|, second half of the run",
        measure=_smoothing(),
        rule=Effect("below", floor=0.05),
        preset="outliers",
        unit="orders of magnitude",
        given={"norms": lambda norms: "unified" in norms or "unified_filtered" in norms},
        given_words="UnifiedNorm",
    ),
    *(
        _loss(
            name,
            "unified-norm",
            UNF,
            other,
            statement,
            figure,
            "outliers",
            measured=f"validation loss of filtered UnifiedNorm minus {other}, with injected outliers",
            given=OUTLIERS,
            given_words=OUTLIERS_WORDS,
            caveat=caveat,
        )
        for name, other, statement, figure, caveat in (
            (
                "filtration-beats-ema",
                EMA,
                "With outlier batches, filtered UnifiedNorm ends below an offline norm with a plain running mean.",
                "Other offline norms degrade or collapse (qualitative).",
                "",
            ),
            (
                "filtration-beats-batch",
                BN,
                "With outlier batches, filtered UnifiedNorm ends below BatchNorm.",
                "Qualitative.",
                "",
            ),
            (
                "collapse-without-filtration",
                UN,
                "Without filtration UnifiedNorm suffers from the same outliers.",
                "Training collapses without filtration in vision (qualitative).",
                "Six blocks of width 32; the paper's transformers have twelve blocks and more.",
            ),
        )
    ),
    _loss(
        "filtered-on-par-with-layer-in-vision",
        "unified-norm",
        UNF,
        LN,
        "Filtered UnifiedNorm is on par with LayerNorm in a vision transformer.",
        "On par in vision transformers on ImageNet (qualitative; the table's figures are not quoted).",
        "outliers",
        measured="validation loss of filtered UnifiedNorm minus LayerNorm, with injected outliers",
        rule=Bound("below", 0.05),
        given={**OUTLIERS, "network": "vit"},
        given_words=OUTLIERS_WORDS,
        caveat="The outliers make it harder than in the paper: LayerNorm cannot notice them. The limit is that of the "
        "claim on language.",
    ),
    _loss(
        "batch-collapses-in-vision",
        "unified-norm",
        BN,
        LN,
        "BatchNorm collapses or degrades in a transformer with outlier batches, LayerNorm does not.",
        "Qualitative: direct use of batch statistics in transformers degrades or collapses.",
        "outliers",
        measured="validation loss of BatchNorm minus LayerNorm, with injected outliers",
        rule=Effect("above", floor=NATS),
        given={**OUTLIERS, "network": "vit"},
        given_words=OUTLIERS_WORDS,
    ),
    Claim(
        id="fusion-is-exact",
        paper="unified-norm",
        statement="Folded into the next linear layers, UnifiedNorm gives the same outputs.",
        paper_figure="Exact by construction.",
        measured="largest difference of the trained network's logits, folded against not",
        measure=_of_unified("fused/max_difference"),
        rule=Identity("below", 1e-4),
        preset="words",
        given=LANGUAGE,
    ),
    Claim(
        id="fusion-is-faster",
        paper="unified-norm",
        statement="The folded network is faster at inference than the LayerNorm network.",
        paper_figure="About 31 % faster on GPU (abstract).",
        measured="time of a forward pass, folded UnifiedNorm over LayerNorm (median of paired repeats)",
        measure=_of_unified("fused/time_ratio"),
        rule=Effect("below", floor=0.02, null=1.0),
        preset="words",
        given=LANGUAGE,
        unit="×",
        caveat="Measured on this machine, often a CPU, where a norm is a smaller share of the time.",
    ),
    Claim(
        id="fusion-saves-memory",
        paper="unified-norm",
        statement="The folded network needs less memory at inference than the LayerNorm network.",
        paper_figure="Nearly 18 % less on GPU (abstract).",
        measured="bytes allocated in a forward pass, folded UnifiedNorm over LayerNorm",
        measure=_of_unified("fused/memory_ratio"),
        rule=Identity("below", 1.0),
        preset="words",
        given=LANGUAGE,
        unit="×",
    ),
)
