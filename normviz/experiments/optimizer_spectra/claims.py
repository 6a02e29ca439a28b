"""What the papers of the page *Optimizer spectra* claim, measured here at each optimizer's best learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normviz.claims import Bound, Claim, Effect, Identity, Rule
from normviz.experiments.optimizer_spectra.best import TAIL, at_best, criterion
from normviz.experiments.optimizer_spectra.knobs import NAMES, PLANS, SPIKE_AT, Knobs
from normviz.frame import Log
from normviz.measures import Measure, absolute, array, constant, derived, log10, scalar, speed_up

__all__ = ["CLAIMS"]

NATS = 0.02
"""Least difference of a loss that counts, in nats: 2 % of perplexity."""

ORDERS = 0.1
"""Least difference of a condition number that counts, in orders of magnitude: a quarter."""

# Everything below sees the log with one arm for each optimizer, see :func:`.best.at_best`.


def _by_task(make: Callable[[str], Measure]) -> Measure:
    """A measure of the task's criterion."""
    made = {name: make(name) for name in ("loss", "validation_loss")}
    return Measure(lambda log, knobs: made[criterion(knobs)](log, knobs), made["loss"].arms)


def _final(optimizer: str) -> Measure:
    return _by_task(lambda name: scalar(name, NAMES[optimizer], window=TAIL))


def _speed_up(optimizer: str, baseline: str) -> Measure:
    return _by_task(lambda name: speed_up(NAMES[optimizer], NAMES[baseline], name, window=TAIL))


def _late(name: str, optimizer: str) -> Measure:
    """Median over the second half of the run."""
    return scalar(name, NAMES[optimizer], reduce="median", since=0.5)


def _median(name: str, optimizer: str) -> Measure:
    return scalar(name, NAMES[optimizer], reduce="median", since=0.0)


def _count(name: str, optimizer: str) -> Measure:
    return constant(name, NAMES[optimizer])


def _condition(optimizer: str, baseline: str) -> Measure:
    return log10(_late("condition", optimizer) / _late("condition", baseline))


def _losses(log: Log, arm: str, low: float, high: float) -> dict[int, NDArray[np.float64]]:
    """Training losses of an arm after the step ``low``, up to ``high``, by seed in order of the steps."""
    table = log.scalars("loss")
    table = table[(table["arm"] == arm) & (table["step"] > low) & (table["step"] <= high)]
    seeds, values = table["seed"].to_numpy(), table["value"].to_numpy(dtype=float)
    return {int(seed): values[seeds == seed] for seed in np.unique(seeds)}


def _rise(optimizer: str) -> Measure:
    """Highest training loss after the bad batch less the mean of the five before it; infinite where it diverges."""
    arm = NAMES[optimizer]

    def compute(log: Log, knobs: Knobs) -> dict[int, float]:
        at = int(SPIKE_AT * knobs.steps)
        before, after = _losses(log, arm, at - 5, at), _losses(log, arm, at, knobs.steps)
        found = {s: float(after[s].max() - before[s].mean()) for s in before.keys() & after.keys()}
        return {**found, **{seed: math.inf for name, seed in log.diverged if name == arm}}

    return derived(compute, arms=(arm,))


def _jitter(optimizer: str) -> Measure:
    """Standard deviation of the change of the logarithm of the training loss from step to step, second half."""
    arm = NAMES[optimizer]

    def compute(log: Log, knobs: Knobs) -> dict[int, float]:
        late = _losses(log, arm, knobs.steps / 2, knobs.steps)
        found = {s: float(np.diff(np.log(v)).std(ddof=1)) for s, v in late.items() if len(v) > 2}
        return {**found, **{seed: math.inf for name, seed in log.diverged if name == arm}}

    return derived(compute, arms=(arm,))


def _claim(
    id: str,
    paper: str,
    preset: str,
    measure: Measure | Mapping[str, Measure],
    rule: Rule,
    statement: str,
    paper_figure: str,
    measured: str,
    *,
    given: Mapping[str, Any] | None = None,
    unit: str = "",
    caveat: str = "",
) -> Claim:
    """A claim at best learning rates, measured where all of its optimizers are chosen."""
    rivals = {"": measure} if isinstance(measure, Measure) else measure
    optimizers = {name: key for key, name in NAMES.items()}
    arms = dict.fromkeys(str(arm) for m in rivals.values() for arm in m.arms)
    needed = frozenset(optimizers[arm] for arm in arms)
    *first, last = arms
    best = {rival: at_best(m) for rival, m in rivals.items()}
    return Claim(
        id=id,
        paper=paper,
        statement=statement,
        paper_figure=paper_figure,
        measured=measured,
        measure=best[""] if isinstance(measure, Measure) else best,
        rule=rule,
        preset=preset,
        given={"optimizers": lambda chosen: needed <= set(chosen), **(given or {})},
        given_words=f"{', '.join(first)} and {last}" if first else last,
        unit=unit,
        caveat=caveat,
    )


def _loss(
    id: str,
    paper: str,
    optimizer: str,
    rivals: str | tuple[str, ...],
    statement: str,
    paper_figure: str,
    *,
    preset: str = "text",
    rule: Rule | None = None,
    caveat: str = "",
) -> Claim:
    """A claim about the final loss of an optimizer against one or several others."""
    if isinstance(rivals, str):
        measure: Measure | dict[str, Measure] = _final(optimizer) - _final(rivals)
        against = f"minus {NAMES[rivals]}'s"
    else:
        measure = {NAMES[rival]: _final(optimizer) - _final(rival) for rival in rivals}
        against = "minus each rival's"
    return _claim(
        id,
        paper,
        preset,
        measure,
        rule or Effect("below", NATS),
        statement,
        paper_figure,
        f"final validation loss of {NAMES[optimizer]} {against}",
        given={"task": ("digits", "language")},
        unit="nats",
        caveat=caveat,
    )


HALF = "half of the paper's gain, at each optimizer's best learning rate"


def _faster(
    id: str,
    paper: str,
    optimizer: str,
    baseline: str,
    statement: str,
    paper_figure: str,
    *,
    bar: float,
    floor: float,
    time: bool = False,
) -> Claim:
    """A claim about how many times fewer steps (or how much less time) an optimizer needs than another."""
    measure = _speed_up(optimizer, baseline)
    if time:
        measure = measure * (_median("step_ms", baseline) / _median("step_ms", optimizer))
    what = (
        "the same in seconds, with the median time of a step of this run"
        if time
        else (f"{NAMES[baseline]}'s steps over those in which {NAMES[optimizer]} reaches its final loss")
    )
    return _claim(
        id,
        paper,
        "text",
        measure,
        Effect("above", floor, bar, null=1.0),
        statement,
        paper_figure,
        f"{what}; {1 + bar:.3g} is {HALF}",
        unit="×",
        caveat="Here the optimizer is a large part of a step."
        if time
        else "The paper trains networks a thousand times larger for a hundred times as many steps. The faster one's "
        "learning rate is still high when it passes the other's final loss: a shorter schedule might gain more.",
    )


CLAIMS: tuple[Claim, ...] = (
    _loss(
        "sinkgd-beats-adam",
        "multi-norm",
        "sinkgd",
        "adamw",
        "SinkGD reaches a lower loss than Adam in the same steps.",
        "Adam's evaluation perplexity with 40 % of the tokens (NeurIPS abstract).",
    ),
    _faster(
        "sinkgd-speed-up",
        "multi-norm",
        "sinkgd",
        "adamw",
        "SinkGD needs a third of Adam's steps.",
        "3 × speed-up over Adam, LLaMA up to 1B (abstract of v1).",
        bar=1.0,
        floor=0.1,
    ),
    _loss(
        "sinkgd-beats-low-rank",
        "multi-norm",
        "sinkgd",
        ("galore", "fira"),
        "SinkGD reaches a lower loss than the memory-saving optimizers GaLore and Fira.",
        "Better perplexity than the other memory-efficient optimizers on LLaMA (NeurIPS abstract, qualitative).",
    ),
    _claim(
        "sinkgd-stateless",
        "multi-norm",
        "digits",
        _count("state_bytes", "sinkgd"),
        Identity("below", 0.5),
        "SinkGD keeps no state for matrices: the memory of plain SGD.",
        "Same memory as SGD.",
        "bytes of state per matrix parameter, counted in the storage",
        unit="bytes",
    ),
    _claim(
        "sinkgd-residual-falls",
        "multi-norm",
        "digits",
        array(
            "sinkhorn_residual", NAMES["sinkgd"], lambda v: float(np.diff(v).max()), reduce="max", since=0.0
        ),
        Identity("below", 1e-5),
        "Alternating between row and column norms settles: no half-step moves further than the one before.",
        "Convergence theorem for two norms.",
        "largest increase of the residual from one half-step to the next, 20 sweeps of each probed gradient",
    ),
    _claim(
        "multi-norm-fixed-point",
        "multi-norm",
        "digits",
        _count("fixed_point_error", "sinkgd"),
        Identity("below", 1e-6),
        "The alternation reaches a matrix that is normalized in both norms, to any precision.",
        "Convergence theorem: a fixed point of both projections.",
        "largest deviation of a row or column from its length, as a share, after convergence on a random matrix",
    ),
    _claim(
        "swan-is-an-instance",
        "multi-norm",
        "digits",
        _count("swan_difference", "sinkgd"),
        Identity("below", 1e-6),
        "SWAN is one cycle over the row norm and the spectral norm.",
        "Exact (without centring, with exact whitening).",
        "largest difference of an entry on a random matrix, float64",
    ),
    _claim(
        "sinkgd-cheaper-than-swan",
        "multi-norm",
        "digits",
        _median("optimizer_ms", "sinkgd") / _median("optimizer_ms", "swan"),
        Effect("below", 0.1, null=1.0),
        "Row and column scaling is cheaper than SWAN's whitening.",
        "O(mn) against O(m²n + m³) operations per matrix.",
        "time of SinkGD's optimizer step over SWAN's, medians of this run",
    ),
    _faster(
        "swan-speed-up",
        "swan",
        "swan",
        "adamw",
        "SWAN reaches Adam's loss with half of the tokens.",
        "2 × speed-up, LLaMA 350M and 1.3B.",
        bar=0.5,
        floor=0.1,
    ),
    _loss(
        "swan-beats-adam",
        "swan",
        "swan",
        "adamw",
        "SWAN's loss is at least as low as Adam's after the same steps.",
        "Outperforms Adam on LLaMA pre-training (abstract, qualitative).",
        rule=Bound("below", NATS),
    ),
    _claim(
        "swan-memory",
        "swan",
        "digits",
        _count("training_bytes", "swan") / _count("training_bytes", "adamw"),
        Identity("below", 0.6),
        "SWAN halves the memory of weights, gradients and optimizer state.",
        "About 50 % less end-to-end memory than Adam.",
        "bytes of SWAN's weights, gradients and state over AdamW's, whole network; activations not counted",
    ),
    _loss(
        "swan-needs-whitening",
        "swan",
        "swan",
        "gradnorm",
        "Row normalization alone is worse than both operators.",
        "Ablation on language-model pre-training (qualitative).",
        preset="halves",
    ),
    _loss(
        "swan-needs-gradnorm",
        "swan",
        "swan",
        "whitening",
        "Whitening alone is worse than both operators.",
        "Ablation on language-model pre-training (qualitative).",
        preset="halves",
    ),
    _claim(
        "gradnorm-stabilizes",
        "swan",
        "halves",
        _jitter("swan") / _jitter("whitening"),
        Effect("below", 0.05, null=1.0),
        "Normalizing the rows first makes the training steadier.",
        "Qualitative: GradNorm stabilizes the gradient distributions over time.",
        "standard deviation of the step-to-step change of log training loss, second half, SWAN over Whitening alone",
        caveat="The paper shows distributions of gradients. After the row norm these are alike by construction, so "
        "the training loss is measured instead.",
    ),
    _claim(
        "whitening-counters-curvature",
        "swan",
        "matrix-equation",
        log10(_final("whitening") / _final("sgd")),
        Effect("below", ORDERS),
        "Whitening counteracts the curvature of an ill-conditioned problem.",
        "Qualitative, derived for a Hessian of a certain structure.",
        "log10 of the final loss of Whitening alone over that of plain gradient descent, condition number 100",
        given={"task": "regression"},
        unit="orders of magnitude",
    ),
    _claim(
        "swan-diagonal-throughput",
        "swan",
        "cheap-whitening",
        _median("step_ms", "swan") / _median("step_ms", "adamw"),
        Bound("below", 1.25),
        "With diagonal products SWAN's steps take about as long as Adam's.",
        "About Adam's throughput, 1.3B on 8 A100 (secondary summary).",
        "time of a whole step with SWAN (diagonal) over one with AdamW, medians of this run",
        given={"swan_scheme": "diagonal"},
        caveat="Here the optimizer is a large part of a step.",
    ),
    _faster(
        "normuon-beats-adam",
        "normuon",
        "normuon",
        "adamw",
        "NorMuon trains more efficiently than Adam.",
        "21.74 % better training efficiency, 1.1B.",
        bar=0.109,
        floor=0.05,
    ),
    _faster(
        "normuon-beats-muon",
        "normuon",
        "normuon",
        "muon",
        "NorMuon trains more efficiently than Muon.",
        "11.31 % better training efficiency, 1.1B.",
        bar=0.057,
        floor=0.025,
    ),
    _claim(
        "muon-rows-uneven",
        "normuon",
        "digits",
        _late("row_cv", "muon"),
        Bound("above", 0.2),
        "Muon's updates of a tall matrix give its neurons very uneven steps.",
        "Neuron norms of Muon's updates: highly non-uniform (figure).",
        "spread of Muon's row norms, standard deviation over mean, second half of the run",
        given={"matrix": "tall"},
    ),
    _claim(
        "normuon-rows-even",
        "normuon",
        "digits",
        _late("row_cv", "normuon") / _late("row_cv", "muon"),
        Effect("below", 0.1, 0.75, null=1.0),
        "NorMuon evens the neurons' steps out.",
        "Neuron norms of NorMuon's updates: uniform (figure).",
        "spread of NorMuon's row norms over Muon's, second half of the run",
        given={"matrix": "tall"},
    ),
    _claim(
        "muon-conditioning",
        "normuon",
        "digits",
        _condition("muon", "adamw"),
        Effect("below", ORDERS, 1.0),
        "Muon's updates are far better conditioned than Adam's.",
        "Condition numbers of Muon's updates orders of magnitude below Adam's (figure).",
        "log10 of the update's condition number, Muon's less AdamW's, second half of the run",
        unit="orders of magnitude",
    ),
    _claim(
        "normuon-keeps-conditioning",
        "normuon",
        "digits",
        _condition("normuon", "muon"),
        Bound("below", math.log10(2)),
        "NorMuon's updates are about as well conditioned as Muon's.",
        "Qualitative: it preserves the benefit of orthogonalization (abstract, figure).",
        "log10 of the update's condition number, NorMuon's less Muon's, second half of the run",
        given={"matrix": "tall"},
        unit="orders of magnitude",
        caveat="On a tall matrix even rows and a flat spectrum exclude each other. The limit is a factor of 2.",
    ),
    _claim(
        "normuon-memory",
        "normuon",
        "digits",
        absolute(
            _count("state_numbers", "normuon") - _count("state_numbers", "muon") - _count("rows", "normuon")
        ),
        Identity("below", 0.5),
        "NorMuon keeps one number per neuron more than Muon.",
        "Memory comparable to Muon's: m more numbers for an m × n matrix.",
        "|numbers in NorMuon's state less those in Muon's less the number of rows|",
        unit="numbers",
    ),
    _claim(
        "normuon-sharded",
        "normuon",
        "digits",
        _count("sharded_difference", "normuon"),
        Identity("below", 1e-10),
        "The step over several machines is the step on one.",
        "Exact by construction.",
        "largest difference of a weight after three steps, float64",
    ),
    _claim(
        "normuon-balanced",
        "normuon",
        "digits",
        array(
            f"plan/{PLANS['sorted']}",
            NAMES["normuon"],
            lambda v: float(v.max() / v.mean()),
            since=0.0,
            until=0.0,
        ),
        Identity("below", 1.05),
        "Sorted by size and dealt out, the matrices load all machines alike.",
        "Work spread evenly over the devices.",
        "operations of the busiest machine over the mean, Newton–Schulz on GPT-2 small",
    ),
    _faster(
        "conda-speed-up",
        "conda",
        "conda",
        "adamw",
        "Conda needs less than half of AdamW's steps.",
        "2 to 2.5 × AdamW's convergence speed in steps, LLaMA 60M to 1B.",
        bar=0.5,
        floor=0.1,
    ),
    _faster(
        "conda-time-speed-up",
        "conda",
        "conda",
        "adamw",
        "Conda is as much faster in time.",
        "2 to 2.5 × AdamW's convergence speed in time, LLaMA 60M to 1B.",
        bar=0.5,
        floor=0.1,
        time=True,
    ),
    _loss(
        "conda-beats-rivals",
        "conda",
        "conda",
        ("adamw", "muon", "adafactor"),
        "Conda reaches a lower loss than AdamW, Muon and Adafactor.",
        "Consistently better than AdamW, Muon, SOAP and Adafactor on LLaMA and GPT-2.",
        caveat="SOAP is not among the optimizers here.",
    ),
    _claim(
        "conda-robust-to-basis",
        "conda",
        "text",
        absolute(_final("conda") - _final("conda_once")),
        Bound("below", 0.05),
        "Conda is robust to how often its basis is renewed.",
        "Ablation over the steps between two bases (qualitative).",
        "|final validation loss with a basis renewed every so often minus with the first step's basis throughout|",
        given={"task": ("digits", "language")},
        unit="nats",
        caveat="The paper renews every 2000 steps, far more than a run here has.",
    ),
    _claim(
        "conda-conditioning",
        "conda",
        "digits",
        _condition("conda", "adamw"),
        Effect("below", ORDERS),
        "Conda's updates are better conditioned than Adam's.",
        "Better conditioned update matrices (qualitative).",
        "log10 of the update's condition number, Conda's less AdamW's, second half of the run",
        unit="orders of magnitude",
    ),
    _loss(
        "fira-beats-galore",
        "fira",
        "fira",
        "galore",
        "With the same low-rank memory Fira reaches a lower loss than GaLore.",
        "Better loss than GaLore at 7B with 8 × smaller optimizer state.",
    ),
    _claim(
        "fira-near-adam",
        "fira",
        "text",
        _final("fira") - (_final("adamw") + _final("galore")) * 0.5,
        Effect("below", NATS / 2),
        "Fira closes most of the gap between GaLore and full-rank Adam.",
        "Comparable to or better than full-rank training (abstract).",
        "final validation loss of Fira minus the middle between AdamW's and GaLore's",
        given={"task": ("digits", "language")},
        unit="nats",
    ),
    _loss(
        "fira-matches-full-rank",
        "fira",
        "fira",
        "adamw",
        "Fira's loss is comparable to or lower than that of full-rank Adam.",
        "Comparable to or better than full-rank training (abstract).",
        rule=Bound("below", NATS),
    ),
    _claim(
        "fira-factors-agree",
        "fira",
        "text",
        _late("phi_spearman", "fira"),
        Effect("above", 0.3, 0.8),
        "Adam rescales a gradient alike in the low-rank space and in full rank.",
        "Spearman correlation of the factors, column by column: 0.94 (60M) to 0.83 (1B).",
        "Spearman correlation over the columns (rows, if tall) of the matrix, second half of the run",
    ),
    _claim(
        "fira-matrix-factors-agree",
        "fira",
        "text",
        _late("phi_matrix_spearman", "fira"),
        Effect("above", 0.3, 0.8),
        "The same, matrix by matrix.",
        "Spearman correlation over matrices: 0.997 (60M) to 0.947 (1B).",
        "Spearman correlation over the network's matrices, second half of the run",
        given={"task": ("digits", "language")},
        caveat="Of three matrices (digits) a rank correlation can only be 1, 0.5, −0.5 or −1.",
    ),
    _claim(
        "fira-full-rank",
        "fira",
        "digits",
        derived(
            lambda log, knobs: {s: v / knobs.rank for s, v in _late("rank", "fira")(log, knobs).items()},
            arms=(NAMES["fira"],),
        ),
        Identity("above", 1.0),
        "Fira's updates are not confined to r directions.",
        "Full-rank training under a low-rank constraint (title).",
        "singular values of Fira's update above the rounding of the weights, over r; second half of the run",
        caveat="Most of them are small: see its spectrum and its effective rank.",
    ),
    _claim(
        "fira-memory",
        "fira",
        "digits",
        absolute(_count("state_numbers", "fira") - _count("state_formula", "fira")),
        Identity("below", 0.5),
        "Fira's state is 2 r max(m, n) + r min(m, n) + 1 numbers for an m × n matrix.",
        "GaLore's state and one number.",
        "|numbers counted in the storage less the formula|",
        unit="numbers",
    ),
    _claim(
        "fira-limiter",
        "fira",
        "bad-batch",
        _rise("fira") - _rise("fira_free"),
        Effect("below", 0.05),
        "The limiter keeps a bad batch from raising the loss.",
        "Loss spikes vanish with the norm-growth limiter (figure).",
        "largest rise of the training loss after the bad batch, with limiter less without",
        given={"task": ("digits", "language"), "spike": True},
        unit="nats",
    ),
)
