"""What the papers of the page *Optimizer spectra* claim, measured here at each optimizer's best learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from normviz.claims import Claim, Measure, by_seed
from normviz.experiments.optimizer_spectra.best import TAIL, best_log, criterion
from normviz.experiments.optimizer_spectra.knobs import NAMES, PLANS, SPIKE_AT, Knobs
from normviz.frame import Log

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CLAIMS", "speed_up"]

BestMeasure = Callable[[Log, Knobs], dict[int, float]]


def _best(measure: BestMeasure) -> Measure:
    def on_members(log: Log, knobs: Knobs) -> dict[int, float]:
        return measure(best_log(log, knobs), knobs)

    return on_members


# ------------------------------------------------------------------------------------------------ measured numbers


def _curves(log: Log, knobs: Knobs, arm: str) -> dict[int, tuple[list[int], list[float]]]:
    """Steps and values of the criterion, by seed."""
    table = log.scalars(criterion(knobs))
    table = table[table["arm"] == arm]
    curves: dict[int, tuple[list[int], list[float]]] = {}
    for step, seed, value in zip(*(table[c].tolist() for c in ("step", "seed", "value")), strict=True):
        steps, values = curves.setdefault(seed, ([], []))
        steps.append(step)
        values.append(value)
    return curves


def _reached(steps: list[int], values: list[float], target: float) -> float:
    """The step at which a curve first is at or below the target, interpolated; inf if never."""
    for i, value in enumerate(values):
        if value <= target:
            if i == 0 or values[i - 1] <= value:
                return float(steps[i])
            share = (values[i - 1] - target) / (values[i - 1] - value)
            return steps[i - 1] + share * (steps[i] - steps[i - 1])
    return math.inf


def speed_up(log: Log, knobs: Knobs, arm: str, baseline: str) -> dict[int, float]:
    """By seed, the baseline's steps over those that ``arm`` needs for the baseline's final loss.

    Where ``arm`` never gets there, the other way round: the share of its own steps after which the baseline has what
    ``arm`` has at the end (below 1).
    """
    ours, theirs = _curves(log, knobs, arm), _curves(log, knobs, baseline)
    found: dict[int, float] = {}
    for seed in ours.keys() & theirs.keys():
        (steps, values), (base_steps, base_values) = ours[seed], theirs[seed]
        if len(values) < TAIL or len(base_values) < TAIL:
            continue
        target, own = float(np.mean(base_values[-TAIL:])), float(np.mean(values[-TAIL:]))
        if not (math.isfinite(target) and math.isfinite(own)):
            continue
        needed = _reached(steps, values, target)
        if own <= target and math.isfinite(needed):
            found[seed] = base_steps[-1] / max(needed, 1.0)
        else:
            found[seed] = min(_reached(base_steps, base_values, own), base_steps[-1]) / steps[-1]
    return found


def _speed_up(arm: str, baseline: str) -> Measure:
    return _best(lambda log, knobs: speed_up(log, knobs, NAMES[arm], NAMES[baseline]))


def _time_speed_up(arm: str, baseline: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        ours, theirs = (_median(log, "step_ms", NAMES[a]) for a in (arm, baseline))
        steps = speed_up(log, knobs, NAMES[arm], NAMES[baseline])
        return {s: steps[s] * theirs[s] / ours[s] for s in steps.keys() & ours.keys() & theirs.keys()}

    return _best(measure)


def _loss_difference(arm: str, baseline: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        ours, theirs = (_final(log, knobs, NAMES[a]) for a in (arm, baseline))
        return {s: ours[s] - theirs[s] for s in ours.keys() & theirs.keys()}

    return _best(measure)


def _final(log: Log, knobs: Knobs, arm: str) -> dict[int, float]:
    return {
        seed: float(np.mean(values[-TAIL:]))
        for seed, (_, values) in _curves(log, knobs, arm).items()
        if len(values) >= TAIL
    }


def _late(log: Log, name: str, arm: str) -> dict[int, float]:
    """Median over the second half of the run, by seed."""
    table = log.scalars(name)
    return _medians(table[(table["arm"] == arm) & (table["step"] >= log.last_step / 2)])


def _median(log: Log, name: str, arm: str) -> dict[int, float]:
    """Median over the run, by seed."""
    table = log.scalars(name)
    return _medians(table[table["arm"] == arm])


def _medians(table: pd.DataFrame) -> dict[int, float]:
    medians = table.groupby("seed")["value"].median()
    return dict(zip(medians.index.to_numpy(dtype=int).tolist(), medians.tolist(), strict=True))


def _ratio(name: str, arm: str, baseline: str, *, late: bool = True, orders: bool = False) -> Measure:
    """Ratio of two arms' medians of a scalar, or its decadic logarithm."""

    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        take = _late if late else _median
        ours, theirs = (take(log, name, NAMES[a]) for a in (arm, baseline))
        shared = [s for s in ours.keys() & theirs.keys() if theirs[s] > 0 and ours[s] > 0]
        return {s: math.log10(ours[s] / theirs[s]) if orders else ours[s] / theirs[s] for s in shared}

    return _best(measure)


def _value(name: str, arm: str) -> Measure:
    return _best(lambda log, knobs: _late(log, name, NAMES[arm]))  # noqa: ARG005


def _tall(measure: Measure) -> Measure:
    """Only where the matrix under the microscope has at least twice as many rows as columns."""
    return lambda log, knobs: measure(log, knobs) if knobs.matrix == "tall" else {}


def _numbers(log: Log, name: str, arm: str) -> dict[int, float]:
    table = log.scalars(name)
    return by_seed(table[table["arm"] == NAMES[arm]])


def _stateless(arm: str) -> Measure:
    return _best(lambda log, knobs: _numbers(log, "state_bytes", arm))  # noqa: ARG005


def _formula_error(arm: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        held, formula = (_numbers(log, name, arm) for name in ("state_numbers", "state_formula"))
        return {s: abs(held[s] - formula[s]) for s in held.keys() & formula.keys()}

    return _best(measure)


def _extra_per_row(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    """|numbers that NorMuon keeps beyond Muon's, less one for each row|."""
    ours, theirs = (_numbers(log, "state_numbers", a) for a in ("normuon", "muon"))
    rows = _numbers(log, "rows", "normuon")
    return {s: abs(ours[s] - theirs[s] - rows[s]) for s in ours.keys() & theirs.keys()}


def _memory_ratio(arm: str, baseline: str) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        ours, theirs = (_numbers(log, "training_bytes", a) for a in (arm, baseline))
        return {s: ours[s] / theirs[s] for s in ours.keys() & theirs.keys()}

    return _best(measure)


def _gap_share(log: Log, knobs: Knobs) -> dict[int, float]:
    """(Fira - AdamW) / (GaLore - AdamW) in final loss, where GaLore is worse than AdamW."""
    fira, galore, adam = (_final(log, knobs, NAMES[a]) for a in ("fira", "galore", "adamw"))
    return {
        s: (fira[s] - adam[s]) / (galore[s] - adam[s])
        for s in fira.keys() & galore.keys() & adam.keys()
        if galore[s] > adam[s]
    }


def _rank_gain(log: Log, knobs: Knobs) -> dict[int, float]:
    """Singular values of Fira's update above the rounding of the weights, over GaLore's limit r."""
    return {s: v / knobs.rank for s, v in _late(log, "rank", NAMES["fira"]).items()}


def _spike_rise(log: Log, knobs: Knobs) -> dict[int, float]:
    """Largest rise of the training loss after the bad batch, with the limiter less without."""
    if not knobs.spike:
        return {}
    ours, free = (_rise(log, knobs, NAMES[a]) for a in ("fira", "fira_free"))
    return {s: ours[s] - free[s] for s in ours.keys() & free.keys()}


def _rise(log: Log, knobs: Knobs, arm: str) -> dict[int, float]:
    at = int(SPIKE_AT * knobs.steps)
    table = log.scalars("loss")
    table = table[table["arm"] == arm]
    before = by_seed(table[(table["step"] <= at) & (table["step"] > at - 5)])
    after = table[table["step"] > at].groupby("seed")["value"].max()
    worst = dict(zip(after.index.to_numpy(dtype=int).tolist(), after.tolist(), strict=True))
    return {s: worst[s] - before[s] for s in worst.keys() & before.keys()}


def _residual_increases(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    """Largest increase of SR-Sinkhorn's residual from one half-step to the next, over the probes of the run."""
    worst: dict[int, float] = {}
    for entry in log.array_history("sinkhorn_residual"):
        if len(entry.value) > 1:
            rise = float(np.max(np.diff(entry.value.astype(float))))
            worst[entry.seed] = max(worst.get(entry.seed, -math.inf), rise)
    return worst


def _imbalance(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    """Largest share of a machine over the mean, in the plan of NorMuon."""
    return {
        entry.seed: float(entry.value.max() / entry.value.mean())
        for entry in log.arrays(f"plan/{PLANS['sorted']}")
    }


def _sharded(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    return by_seed(log.scalars("sharded_difference"))


# ---------------------------------------------------------------------------------------------------------- claims

HALF = "half of the paper's gain, at each optimizer's best learning rate"
LOSS = "in nats (matrix equation: as a share of ‖C‖²)"
SCALE = "The paper trains networks a thousand times larger for a hundred times as many steps."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="sinkgd-beats-adam",
        paper="multi-norm",
        statement="SinkGD reaches a lower loss than Adam in the same steps.",
        paper_figure="Adam's evaluation perplexity with 40 % of the tokens (NeurIPS abstract).",
        measured=f"final loss of SinkGD minus AdamW's, {LOSS}",
        measure=_loss_difference("sinkgd", "adamw"),
        needs="SinkGD and AdamW",
    ),
    Claim(
        id="sinkgd-speed-up",
        paper="multi-norm",
        statement="SinkGD needs a third of Adam's steps.",
        paper_figure="3 × speed-up over Adam, LLaMA up to 1B (abstract of v1).",
        measured=f"AdamW's steps over those in which SinkGD reaches its final loss; 2 is {HALF}",
        measure=_speed_up("sinkgd", "adamw"),
        threshold=2.0,
        side="above",
        unit="×",
        needs="SinkGD and AdamW",
        caveat=SCALE,
    ),
    Claim(
        id="sinkgd-stateless",
        paper="multi-norm",
        statement="SinkGD keeps no state for matrices: the memory of plain SGD.",
        paper_figure="Same memory as SGD.",
        measured="bytes of state per matrix parameter, counted in the storage",
        measure=_stateless("sinkgd"),
        threshold=0.5,
        unit="bytes",
        exact=True,
        needs="SinkGD",
    ),
    Claim(
        id="sinkgd-residual-falls",
        paper="multi-norm",
        statement="Alternating between row and column norms settles: no half-step moves further than the one before.",
        paper_figure="Convergence theorem for two norms.",
        measured="largest increase of the residual from one half-step to the next, 20 sweeps of each probed gradient",
        measure=_best(_residual_increases),
        threshold=1e-5,
        exact=True,
        needs="SinkGD",
    ),
    Claim(
        id="sinkgd-cheaper-than-swan",
        paper="multi-norm",
        statement="Row and column scaling is cheaper than SWAN's whitening.",
        paper_figure="O(mn) against O(m²n + m³) operations per matrix.",
        measured="time of SinkGD's optimizer step over SWAN's, medians of this run",
        measure=_ratio("optimizer_ms", "sinkgd", "swan", late=False),
        threshold=1.0,
        needs="SinkGD and SWAN",
    ),
    Claim(
        id="swan-speed-up",
        paper="swan",
        statement="SWAN reaches Adam's loss with half of the tokens.",
        paper_figure="2 × speed-up, LLaMA 350M and 1.3B.",
        measured=f"AdamW's steps over those in which SWAN reaches its final loss; 1.5 is {HALF}",
        measure=_speed_up("swan", "adamw"),
        threshold=1.5,
        side="above",
        unit="×",
        needs="SWAN and AdamW",
        caveat=SCALE,
    ),
    Claim(
        id="swan-memory",
        paper="swan",
        statement="SWAN halves the memory of weights, gradients and optimizer state.",
        paper_figure="About 50 % less end-to-end memory than Adam.",
        measured="bytes of SWAN's weights, gradients and state over AdamW's, whole network; activations not counted",
        measure=_memory_ratio("swan", "adamw"),
        threshold=0.6,
        exact=True,
        needs="SWAN and AdamW",
    ),
    Claim(
        id="swan-needs-whitening",
        paper="swan",
        statement="Row normalization alone is worse than both operators.",
        paper_figure="Ablation on language-model pre-training (qualitative).",
        measured=f"final loss of SWAN minus that of GradNorm alone, {LOSS}",
        measure=_loss_difference("swan", "gradnorm"),
        needs="SWAN and GradNorm",
    ),
    Claim(
        id="swan-needs-gradnorm",
        paper="swan",
        statement="Whitening alone is worse than both operators.",
        paper_figure="Ablation on language-model pre-training (qualitative).",
        measured=f"final loss of SWAN minus that of Whitening alone, {LOSS}",
        measure=_loss_difference("swan", "whitening"),
        needs="SWAN and Whitening",
    ),
    Claim(
        id="swan-diagonal-throughput",
        paper="swan",
        statement="With diagonal products SWAN's steps take about as long as Adam's.",
        paper_figure="About Adam's throughput, 1.3B on 8 A100 (secondary summary).",
        measured="time of a whole step with SWAN (diagonal) over one with AdamW, medians of this run",
        measure=lambda log, knobs: (
            _ratio("step_ms", "swan", "adamw", late=False)(log, knobs)
            if knobs.swan_scheme == "diagonal"
            else {}
        ),
        threshold=1.25,
        needs="SWAN with the diagonal scheme, and AdamW",
        caveat="Here the optimizer is a large part of a step.",
    ),
    Claim(
        id="normuon-beats-adam",
        paper="normuon",
        statement="NorMuon trains more efficiently than Adam.",
        paper_figure="21.74 % better training efficiency, 1.1B.",
        measured=f"AdamW's steps over those in which NorMuon reaches its final loss; 1.11 is {HALF}",
        measure=_speed_up("normuon", "adamw"),
        threshold=1.109,
        side="above",
        unit="×",
        needs="NorMuon and AdamW",
        caveat=SCALE,
    ),
    Claim(
        id="normuon-beats-muon",
        paper="normuon",
        statement="NorMuon trains more efficiently than Muon.",
        paper_figure="11.31 % better training efficiency, 1.1B.",
        measured=f"Muon's steps over those in which NorMuon reaches its final loss; 1.06 is {HALF}",
        measure=_speed_up("normuon", "muon"),
        threshold=1.057,
        side="above",
        unit="×",
        needs="NorMuon and Muon",
        caveat=SCALE,
    ),
    Claim(
        id="muon-rows-uneven",
        paper="normuon",
        statement="Muon's updates of a tall matrix give its neurons very uneven steps.",
        paper_figure="Neuron norms of Muon's updates: highly non-uniform (figure).",
        measured="spread of Muon's row norms, standard deviation over mean, second half of the run",
        measure=_tall(_value("row_cv", "muon")),
        threshold=0.2,
        side="above",
        needs="Muon, and the tall matrix under the microscope",
    ),
    Claim(
        id="normuon-rows-even",
        paper="normuon",
        statement="NorMuon evens the neurons' steps out.",
        paper_figure="Neuron norms of NorMuon's updates: uniform (figure).",
        measured="spread of NorMuon's row norms over Muon's, second half of the run",
        measure=_tall(_ratio("row_cv", "normuon", "muon")),
        threshold=0.25,
        needs="NorMuon and Muon, and the tall matrix under the microscope",
    ),
    Claim(
        id="muon-conditioning",
        paper="normuon",
        statement="Muon's updates are far better conditioned than Adam's.",
        paper_figure="Condition numbers of Muon's updates orders of magnitude below Adam's (figure).",
        measured="log10 of the update's condition number, Muon's less AdamW's, second half of the run",
        measure=_ratio("condition", "muon", "adamw", orders=True),
        threshold=-1.0,
        unit="orders of magnitude",
        needs="Muon and AdamW",
    ),
    Claim(
        id="normuon-memory",
        paper="normuon",
        statement="NorMuon keeps one number per neuron more than Muon.",
        paper_figure="Memory comparable to Muon's: m more numbers for an m × n matrix.",
        measured="|numbers in NorMuon's state less those in Muon's less the number of rows|",
        measure=_best(_extra_per_row),
        threshold=0.5,
        unit="numbers",
        exact=True,
        needs="NorMuon and Muon",
    ),
    Claim(
        id="normuon-sharded",
        paper="normuon",
        statement="The step over several machines is the step on one.",
        paper_figure="Exact by construction.",
        measured="largest difference of a weight after three steps, float64",
        measure=_sharded,
        threshold=1e-10,
        exact=True,
        needs="NorMuon",
    ),
    Claim(
        id="normuon-balanced",
        paper="normuon",
        statement="Sorted by size and dealt out, the matrices load all machines alike.",
        paper_figure="Work spread evenly over the devices.",
        measured="operations of the busiest machine over the mean, Newton–Schulz on GPT-2 small",
        measure=_imbalance,
        threshold=1.05,
        exact=True,
        needs="NorMuon",
    ),
    Claim(
        id="conda-speed-up",
        paper="conda",
        statement="Conda needs less than half of AdamW's steps.",
        paper_figure="2 to 2.5 × AdamW's convergence speed in steps, LLaMA 60M to 1B.",
        measured=f"AdamW's steps over those in which Conda reaches its final loss; 1.5 is {HALF}",
        measure=_speed_up("conda", "adamw"),
        threshold=1.5,
        side="above",
        unit="×",
        needs="Conda and AdamW",
        caveat=SCALE,
    ),
    Claim(
        id="conda-time-speed-up",
        paper="conda",
        statement="Conda is as much faster in time.",
        paper_figure="2 to 2.5 × AdamW's convergence speed in time, LLaMA 60M to 1B.",
        measured=f"the same in seconds, with the median time of a step of this run; 1.5 is {HALF}",
        measure=_time_speed_up("conda", "adamw"),
        threshold=1.5,
        side="above",
        unit="×",
        needs="Conda and AdamW",
        caveat="Here the optimizer is a large part of a step.",
    ),
    Claim(
        id="conda-beats-muon",
        paper="conda",
        statement="Conda reaches a lower loss than Muon.",
        paper_figure="Consistently better than AdamW, Muon, SOAP and Adafactor on LLaMA and GPT-2.",
        measured=f"final loss of Conda minus Muon's, {LOSS}",
        measure=_loss_difference("conda", "muon"),
        needs="Conda and Muon",
    ),
    Claim(
        id="conda-conditioning",
        paper="conda",
        statement="Conda's updates are better conditioned than Adam's.",
        paper_figure="Better conditioned update matrices (qualitative).",
        measured="log10 of the update's condition number, Conda's less AdamW's, second half of the run",
        measure=_ratio("condition", "conda", "adamw", orders=True),
        unit="orders of magnitude",
        needs="Conda and AdamW",
    ),
    Claim(
        id="fira-beats-galore",
        paper="fira",
        statement="With the same low-rank memory Fira reaches a lower loss than GaLore.",
        paper_figure="Better loss than GaLore at 7B with 8 × smaller optimizer state.",
        measured=f"final loss of Fira minus GaLore's, same rank, {LOSS}",
        measure=_loss_difference("fira", "galore"),
        needs="Fira and GaLore",
    ),
    Claim(
        id="fira-near-adam",
        paper="fira",
        statement="Fira closes most of the gap between GaLore and full-rank Adam.",
        paper_figure="Comparable to or better than full-rank training (abstract).",
        measured="(Fira − AdamW) / (GaLore − AdamW) in final loss",
        measure=_best(_gap_share),
        threshold=0.5,
        needs="Fira, GaLore and AdamW, and a GaLore that is worse than AdamW",
    ),
    Claim(
        id="fira-factors-agree",
        paper="fira",
        statement="Adam rescales a gradient alike in the low-rank space and in full rank.",
        paper_figure="Spearman correlation of the factors, column by column: 0.94 (60M) to 0.83 (1B).",
        measured="Spearman correlation over the columns (rows, if tall) of the matrix, second half of the run",
        measure=_value("phi_spearman", "fira"),
        threshold=0.8,
        side="above",
        needs="Fira",
    ),
    Claim(
        id="fira-matrix-factors-agree",
        paper="fira",
        statement="The same, matrix by matrix.",
        paper_figure="Spearman correlation over matrices: 0.997 (60M) to 0.947 (1B).",
        measured="Spearman correlation over the network's matrices, second half of the run",
        measure=_value("phi_matrix_spearman", "fira"),
        threshold=0.8,
        side="above",
        needs="Fira on digits or text",
        caveat="Of three matrices (digits) a rank correlation can only be 1, 0.5, −0.5 or −1.",
    ),
    Claim(
        id="fira-full-rank",
        paper="fira",
        statement="Fira's updates are not confined to r directions.",
        paper_figure="Full-rank training under a low-rank constraint (title).",
        measured="singular values of Fira's update above the rounding of the weights, over r; second half of the run",
        measure=_best(_rank_gain),
        threshold=1.0,
        side="above",
        exact=True,
        needs="Fira",
        caveat="Most of them are small: see its spectrum and its effective rank.",
    ),
    Claim(
        id="fira-memory",
        paper="fira",
        statement="Fira's state is 2 r max(m, n) + r min(m, n) + 1 numbers for an m × n matrix.",
        paper_figure="GaLore's state and one number.",
        measured="|numbers counted in the storage less the formula|",
        measure=_formula_error("fira"),
        threshold=0.5,
        unit="numbers",
        exact=True,
        needs="Fira",
    ),
    Claim(
        id="fira-limiter",
        paper="fira",
        statement="The limiter keeps a bad batch from raising the loss.",
        paper_figure="Loss spikes vanish with the norm-growth limiter (figure).",
        measured=f"largest rise of the training loss after the bad batch, with limiter less without, {LOSS}",
        measure=_best(_spike_rise),
        needs="one bad batch, Fira and Fira without limiter",
    ),
)
