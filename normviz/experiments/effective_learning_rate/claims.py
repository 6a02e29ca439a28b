"""What the paper of the page *Effective learning rate* claims, measured here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from normviz.claims import Claim, Measure, by_seed
from normviz.experiments.effective_learning_rate.knobs import (
    DECAY,
    FRESH,
    GLOBAL,
    LAYERWISE,
    NAP,
    NONE,
    REMEDIES,
    REPLAY,
    SWEEP,
    Knobs,
    Variant,
    normed,
    rate_name,
)
from normviz.frame import Log

__all__ = ["CLAIMS", "LATE", "late_and_first"]

LATE = 5
"""Phases at the end that are averaged; a run must have at least one more."""

Pair = tuple[float, float]


def late_and_first(log: Log, arm: str) -> dict[int, Pair]:
    """For each seed of a finished run the mean accuracy of the last phases, and that of the first phase, in percent.

    Seeds that stopped early (diverged) or have too few phases are left out.
    """
    table = log.scalars("phase_accuracy")
    table = table[table["arm"] == arm]
    whole = log.scalars("phase_accuracy")["step"].max()
    found: dict[int, Pair] = {}
    for seed, phases in table.groupby("seed"):
        values = phases.sort_values("step")["value"].to_numpy()
        if len(values) > LATE and phases["step"].max() == whole:
            found[int(str(seed))] = (float(values[-LATE:].mean()), float(values[0]))
    return found


def _when(task: str, measure: Callable[[Log, Knobs], Mapping[int, float]]) -> Measure:
    def guarded(log: Log, knobs: Knobs) -> Mapping[int, float]:
        return measure(log, knobs) if knobs.task == task else {}

    return guarded


def _largest(log: Log, name: str, arm: str) -> dict[int, float]:
    """Largest value over the run, for each seed."""
    table = log.scalars(name)
    table = table[table["arm"] == arm]
    return by_seed(table.groupby("seed")["value"].max().reset_index())


def _difference(arm: str) -> Measure:
    """Largest difference of logits, where the settings promise exactness."""

    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        if knobs.every > 1 or knobs.project_output:
            return {}
        return _largest(log, "difference", arm)

    return _when("equivalence", measure)


def _law(name: str) -> Measure:
    return _when("equivalence", lambda log, knobs: _largest(log, name, normed(knobs)))


def _global_against_none(log: Log, knobs: Knobs) -> dict[int, float]:
    """Mean |accuracy - NaP's| at the ends of the phases, with one global factor over without rescaling."""
    table = log.scalars("phase_accuracy").pivot_table(index=["seed", "step"], columns="arm", values="value")
    plain = normed(knobs)
    if not {NAP, GLOBAL, plain} <= set(table.columns):
        return {}
    apart = table[[GLOBAL, plain]].sub(table[NAP], axis=0).abs().groupby("seed").mean()
    ratio = (apart[GLOBAL] / apart[plain])[apart[plain] > 0]
    return by_seed(ratio.rename("value").reset_index())


def _rates(log: Log, knobs: Knobs, arm: str) -> pd.DataFrame:
    """Effective over set rates of all hidden layers: columns ``step``, ``seed``, ``layer``, ``value``."""
    tables = [log.scalars(f"elr/{layer}").assign(layer=layer) for layer in range(1, knobs.layers() + 1)]
    table = pd.concat(tables, ignore_index=True)
    return table[table["arm"] == arm]


def _fall(log: Log, knobs: Knobs) -> dict[int, float]:
    """First over last effective rate, geometric mean over the hidden layers."""
    table = _rates(log, knobs, normed(knobs)).sort_values("step")
    ends = table.groupby(["seed", "layer"])["value"].agg(["first", "last"])
    logs = pd.Series(np.log(ends["first"] / ends["last"]), index=ends.index).groupby("seed").mean()
    return {int(str(seed)): float(np.exp(value)) for seed, value in logs.items()}


def _stray(log: Log, knobs: Knobs) -> dict[int, float]:
    """Largest relative departure of NaP's effective rates from the rate that was set."""
    if knobs.every > 1:
        return {}
    table = _rates(log, knobs, NAP)
    table = table.assign(value=(table["value"] - 1).abs())
    return by_seed(table.groupby("seed")["value"].max().reset_index())


def _keeps(arm: str) -> Measure:
    """Last phases over first phase."""

    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        return {s: late / first for s, (late, first) in late_and_first(log, arm).items()}

    return _when("memorisation", measure)


def _gain(log: Log, knobs: Knobs) -> dict[int, float]:
    nap, plain = late_and_first(log, NAP), late_and_first(log, normed(knobs))
    return {s: nap[s][0] - plain[s][0] for s in nap.keys() & plain.keys()}


def _gain_at_best(log: Log, knobs: Knobs) -> dict[int, float]:
    """As :func:`_gain`, each arm at the rate with its highest mean over seeds; rates at which it diverged are out."""
    best: dict[str, dict[int, Pair]] = {}
    for arm in (NAP, normed(knobs)):
        names = [rate_name(Variant(arm), knobs, factor) for factor in (1.0, *SWEEP)]
        by_rate = [found for name in names if (found := late_and_first(log, name))]
        if not by_rate:
            return {}
        best[arm] = max(by_rate, key=lambda found: float(np.mean([late for late, _ in found.values()])))
    nap, plain = best[NAP], best[normed(knobs)]
    return {s: nap[s][0] - plain[s][0] for s in nap.keys() & plain.keys()}


def _gain_of_sweep(log: Log, knobs: Knobs) -> Mapping[int, float]:
    return _gain_at_best(log, knobs) if knobs.sweep else {}


def _spread(log: Log, knobs: Knobs) -> dict[int, float]:
    """Standard deviation over remedies (and none) with NaP, over the same without."""
    if len(knobs.remedies) < 2:
        return {}
    spreads: list[dict[int, float]] = []
    for base in (NAP, normed(knobs)):
        arms = [base, *(f"{base}, {REMEDIES[r]}" for r in knobs.remedies)]
        by_arm = [late_and_first(log, arm) for arm in arms]
        shared = set.intersection(*(set(found) for found in by_arm))
        spreads.append({s: float(np.std([found[s][0] for found in by_arm])) for s in shared})
    with_nap, without = spreads
    return {s: with_nap[s] / without[s] for s in with_nap.keys() & without.keys() if without[s] > 0}


def _dormant(log: Log, knobs: Knobs) -> dict[int, float]:
    """Share of dormant units over the second half of the run, with a norm minus without, in points."""
    table = log.scalars("dormant")
    means = table[table["step"] >= knobs.total_steps() / 2].groupby(["arm", "seed"])["value"].mean()
    plain = normed(knobs)
    return {
        s: float(means[plain, s] - means[NONE, s])
        for s in log.seeds
        if (plain, s) in means.index and (NONE, s) in means.index
    }


def _dead_unit(with_norm: bool) -> Measure:
    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        arm = normed(knobs) if with_norm else NONE
        table = log.scalars("dead_unit_gradient")
        return by_seed(table[table["arm"] == arm])

    return measure


def _control(log: Log, knobs: Knobs) -> dict[int, float]:
    """|NaP - norm only| of the test accuracy, mean of the last evaluations, in points."""
    final = log.final("accuracy", window=3)
    values = {(arm, int(s)): float(v) for arm, s, v in final.itertuples(index=False)}
    plain = normed(knobs)
    return {
        s: abs(values[NAP, s] - values[plain, s])
        for s in log.seeds
        if (NAP, s) in values and (plain, s) in values
    }


def _cycle_returns(log: Log, knobs: Knobs, arm: str, cycle: int) -> dict[int, float]:
    """Mean return over the games of one cycle (0 is the first, -1 the last), for each seed."""
    table = log.scalars("game_return")
    table = table[table["arm"] == arm]
    visit = table["step"] // knobs.task_steps - 1
    wanted = cycle % knobs.cycles
    of_cycle = table[visit // knobs.tasks == wanted]
    whole = of_cycle.groupby("seed")["value"].agg(["mean", "size"])
    whole = whole[whole["size"] == knobs.tasks]
    return {int(str(seed)): float(mean) for seed, mean in whole["mean"].items()}


def _returns(arm: str, baseline: str | None, cycles: int = 1) -> Measure:
    """Mean return in the last of at least ``cycles`` cycles, ``arm`` minus ``baseline`` (None: norm only)."""

    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        if knobs.cycles < cycles:
            return {}
        ours = _cycle_returns(log, knobs, arm, -1)
        theirs = _cycle_returns(log, knobs, baseline or normed(knobs), -1)
        return {s: ours[s] - theirs[s] for s in ours.keys() & theirs.keys()}

    return _when("games", measure)


FOUND_IN_DIGESTS = "Figure, from public digests of the paper; no number is confirmed."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="implicit-decay",
        paper="nap",
        statement="In a normalized network the weights grow, and the effective learning rate decays unasked.",
        paper_figure="lr / ‖W‖² under SGD; derived, and shown for cyclic random labels.",
        measured="first over last effective learning rate of the norm-only network, mean over hidden layers",
        measure=_when("memorisation", _fall),
        threshold=1.5,
        side="above",
        unit="×",
        needs="the memorisation task with Norm only",
        caveat="At a small learning rate or in a short run weights hardly grow.",
    ),
    Claim(
        id="constant-rate",
        paper="nap",
        statement="With projection the effective learning rate is the one that was set.",
        paper_figure="Exact by construction.",
        measured="largest relative departure of NaP's effective rate, over steps and hidden layers",
        measure=_when("memorisation", _stray),
        threshold=1e-5,
        exact=True,
        needs="the memorisation task with NaP, projected after every step",
    ),
    Claim(
        id="gradient-is-orthogonal",
        paper="nap",
        statement="The gradient of a scale-invariant weight is orthogonal to the weight.",
        paper_figure="Derived.",
        measured="largest |cosine| of gradient and weight over steps and layers, double precision",
        measure=_law("law/cosine"),
        threshold=1e-8,
        exact=True,
        needs="the equivalence task",
    ),
    Claim(
        id="norm-growth",
        paper="nap",
        statement="Each SGD step adds lr² ‖gradient‖² to the weight's squared length, so it never shrinks.",
        paper_figure="Derived.",
        measured="largest error of the predicted squared length, relative to it",
        measure=_law("law/growth"),
        threshold=1e-9,
        exact=True,
        needs="the equivalence task",
    ),
    Claim(
        id="layerwise-equals-nap",
        paper="nap",
        statement="Without projection, but with each layer's rate raised as its weights grow, training is the same.",
        paper_figure=f"Curves on top of each other. {FOUND_IN_DIGESTS}",
        measured="largest difference of the logits from NaP's over the whole run, plain SGD, double precision",
        measure=_difference(LAYERWISE),
        threshold=1e-5,
        exact=True,
        needs="the equivalence task, hidden layers projected after every step",
    ),
    Claim(
        id="replay-equals-unprojected",
        paper="nap",
        statement="NaP with the recorded implicit schedule is the normalized network without projection.",
        paper_figure="The other direction of the same equivalence.",
        measured="largest difference of the logits from the norm-only network's over the whole run",
        measure=_difference(REPLAY),
        threshold=1e-5,
        exact=True,
        needs="the equivalence task, hidden layers projected after every step",
    ),
    Claim(
        id="global-nearly",
        paper="nap",
        statement="One global factor nearly matches NaP; no rescaling does not.",
        paper_figure=FOUND_IN_DIGESTS,
        measured="mean distance from NaP's accuracy at the ends of the phases, global factor over no rescaling",
        measure=_when("equivalence", _global_against_none),
        threshold=1.0,
        unit="×",
        needs="the equivalence task",
        caveat="Accuracies are compared: logits of two runs that have once parted do not come together again.",
    ),
    Claim(
        id="dead-unit-hears",
        paper="nap",
        statement="Behind a norm even a dead unit gets a gradient, so it can come back.",
        paper_figure="Units recover from spikes of death after label resets (figure).",
        measured="gradient of a dead unit's weights in the normalized network, relative to its layer's mean",
        measure=_dead_unit(True),
        side="above",
        exact=True,
        needs="a network with a norm that has scale and offset",
    ),
    Claim(
        id="dead-unit-is-deaf",
        paper="nap",
        statement="Without a norm a dead unit's gradient is zero.",
        paper_figure="Derived.",
        measured="gradient of a dead unit's weights without a norm, relative to its layer's mean",
        measure=_dead_unit(False),
        threshold=1e-30,
        exact=True,
        needs="the network without norm",
    ),
    Claim(
        id="nap-keeps-learning",
        paper="nap",
        statement="With NaP a network learns the labels of a late phase as well as those of the first.",
        paper_figure=f"Constant over many label resets, CIFAR-10. {FOUND_IN_DIGESTS}",
        measured=f"NaP's accuracy, mean of the last {LATE} phases over the first phase",
        measure=_keeps(NAP),
        threshold=0.88,
        side="above",
        needs=f"the memorisation task with NaP and more than {LATE} phases",
    ),
    Claim(
        id="norm-free-degrades",
        paper="nap",
        statement="Without norm a network loses the ability to learn new labels.",
        paper_figure=f"Degrades over many label resets, CIFAR-10. {FOUND_IN_DIGESTS}",
        measured=f"accuracy without norm, mean of the last {LATE} phases over the first phase",
        measure=_keeps(NONE),
        threshold=0.88,
        needs=f"the memorisation task with No norm and more than {LATE} phases",
    ),
    Claim(
        id="nap-over-norm",
        paper="nap",
        statement="After many resets NaP learns more than the norm alone, at the same learning rate.",
        paper_figure=f"Higher accuracy, MLP and CNN, random labels. {FOUND_IN_DIGESTS}",
        measured=f"accuracy of the last {LATE} phases, NaP minus norm only, at the learning rate that is set",
        measure=_when("memorisation", _gain),
        threshold=5.0,
        side="above",
        unit="points",
        needs=f"the memorisation task with NaP and Norm only and more than {LATE} phases",
        caveat="An unlucky rate for one of the two decides this: see the sweep.",
    ),
    Claim(
        id="nap-over-norm-at-best",
        paper="nap",
        statement="The same with each of the two at its own best learning rate.",
        paper_figure=f"Higher accuracy, MLP and CNN, random labels. {FOUND_IN_DIGESTS}",
        measured=f"accuracy of the last {LATE} phases, NaP minus norm only, each at its best rate of the sweep",
        measure=_when("memorisation", _gain_of_sweep),
        threshold=5.0,
        side="above",
        unit="points",
        needs=f"the memorisation task with the sweep, NaP and Norm only and more than {LATE} phases",
        caveat="The best rate is chosen by the same phases that are then compared, for both alike.",
    ),
    Claim(
        id="remedies-become-alike",
        paper="nap",
        statement="NaP makes the remedies against lost plasticity differ less.",
        paper_figure=f"The spread between methods shrinks, MLP and CNN. {FOUND_IN_DIGESTS}",
        measured=f"spread over remedies of the accuracy in the last {LATE} phases, with NaP over without",
        measure=_when("memorisation", _spread),
        threshold=1.0,
        unit="×",
        needs=f"the memorisation task with two or more remedies, with NaP too, and more than {LATE} phases",
    ),
    Claim(
        id="norm-wakes-units",
        paper="nap",
        statement="A network with norm has fewer dormant units after many resets than one without.",
        paper_figure="Qualitative: MNIST, labels reset every 1000 steps.",
        measured="dormant units in the second half of the run, norm only minus no norm",
        measure=_when("memorisation", _dormant),
        unit="points",
        needs="the memorisation task with Norm only and No norm",
    ),
    Claim(
        id="stationary-control",
        paper="nap",
        statement="On a stationary task NaP does no harm.",
        paper_figure="CIFAR-10, ImageNet-1k, a 400M transformer: no worse; table values are not confirmed.",
        measured="|test accuracy of NaP − norm only|",
        measure=_when("stationary", _control),
        threshold=1.0,
        unit="points",
        needs="the stationary task with NaP and Norm only",
    ),
    Claim(
        id="games-need-decay",
        paper="nap",
        statement="With projection an agent needs an explicit decay of the learning rate to do better.",
        paper_figure=f"Rainbow, 5 Atari games. {FOUND_IN_DIGESTS}",
        measured="mean return in the last cycle, NaP with decay minus NaP at a constant rate",
        measure=_returns(DECAY, NAP),
        side="above",
        needs="the games with NaP, at a constant rate and with decay",
    ),
    Claim(
        id="games-nap-over-norm",
        paper="nap",
        statement="In a sequence of games NaP does better the second time round than the norm alone.",
        paper_figure="10 Atari games × 20M frames, played twice (400M frames); curves.",
        measured="mean return in the last cycle, NaP minus norm only",
        measure=_returns(NAP, None, cycles=2),
        side="above",
        needs="the games with NaP and Norm only, two cycles or more",
        caveat="Here the weights grow by a few percent only, so there is little decay to undo.",
    ),
    Claim(
        id="games-like-fresh",
        paper="nap",
        statement="On the second cycle NaP learns like a fresh network.",
        paper_figure="10 Atari games × 20M frames, played twice (400M frames); curves.",
        measured="mean return in the last cycle, NaP minus a network that is new in every game",
        measure=_returns(NAP, FRESH, cycles=2),
        threshold=-0.1,
        side="above",
        needs="the games with NaP and Fresh net, two cycles or more",
        caveat="Returns lie between −1 and 1.",
    ),
)
