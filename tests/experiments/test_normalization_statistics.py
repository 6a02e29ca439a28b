"""The experiment behind the page: what it trains, draws and claims."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from normviz.data.sentences import IGNORED
from normviz.experiments import normalization_statistics as ns
from normviz.experiments.normalization_statistics.claims import CLAIMS
from normviz.experiments.normalization_statistics.figures import layer_names
from normviz.experiments.normalization_statistics.frames import _padded_token_loss
from normviz.experiments.normalization_statistics.knobs import NORMS, REFERENCE
from normviz.frame import Frame, FrameLog
from normviz.knobs import KnobError
from normviz.models import GPT
from normviz.norms import make_norm
from normviz.testing import log_of

CLAIM = {claim.id: claim for claim in CLAIMS}
TINY: dict[str, Any] = {
    "steps": 10,
    "seeds": 1,
    "batch_size": 4,
    "small_batch": 2,
    "reference": False,
    "warmup": 5,
}


@pytest.mark.parametrize("task", ["language", "vision", "recurrent"])
def test_every_norm_trains_on_every_task(task: str) -> None:
    run = ns.run(ns.Knobs(task=task, norms=tuple(NORMS), **TINY), device="cpu")
    assert run.status == "done"
    assert run.log.arms == list(run.knobs.shown_arms().names)
    per_member = run.log.scalars("loss").groupby(["arm", "seed"]).size()
    assert (per_member == 10).all()
    assert not run.log.events
    drawn = {name for name, figure in run.figures().items() if figure.data is not None and len(figure.data)}
    assert {
        "loss",
        "validation",
        "fluctuation",
        "train_eval",
        "activations",
        "gradients",
        "filtration",
        *(("by_operations",) if task == "recurrent" else ("steepness", "outliers")),
    } <= drawn


def test_same_seed_same_numbers() -> None:
    knobs = ns.Knobs(norms=("layer", "power"), **TINY)
    first, second = (ns.run(knobs, device="cpu").log.scalars("loss")["value"].to_numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_vision_is_shown_beside_language() -> None:
    knobs = ns.Knobs(norms=("batch",), **{**TINY, "reference": True})
    log = ns.run(knobs, device="cpu").log
    assert log.arms == ["BatchNorm", REFERENCE]
    assert set(log.scalars("gap/var")["arm"]) == {"BatchNorm", REFERENCE}
    assert set(log.scalars("relative_gap/var")["arm"]) == {"BatchNorm", REFERENCE}


def test_layer_norm_is_the_same_in_both_modes_and_batch_norm_is_not() -> None:
    log = ns.run(ns.Knobs(norms=("layer", "batch"), **TINY), device="cpu").log
    gap = log.scalars("train_minus_eval").groupby("arm")["value"].agg(lambda v: v.abs().max())
    assert gap["LayerNorm"] < 1e-6 < gap["BatchNorm"]


def test_the_vision_transformer_has_six_blocks_and_draws_the_outer_ones() -> None:
    norms = ("layer", "batch", "unified", "unified_filtered", "ema")
    knobs = ns.Knobs(task="vision", network="vit", norms=norms, **{**TINY, "small_batch": 4})
    log = ns.run(knobs, device="cpu").log
    assert log.events == []
    assert log.arms == list(knobs.shown_arms().names)
    assert {len(e.value) for e in log.arrays("gap_by_layer/var")} == {13}, (
        "two norms in each block, one at the end"
    )
    drawn = {e.value.shape[0] for e in log.arrays("activations")}
    assert drawn == {len(layer_names(knobs))} == {5}


@pytest.mark.usefixtures("small_mnist")
@pytest.mark.parametrize("data", ["mnist1d", "mnist"])
@pytest.mark.parametrize("network", ["convnet", "vit"])
def test_the_vision_task_takes_other_digits(data: str, network: str) -> None:
    """Also the layers inside, the outliers in a batch, and batches of one class."""
    knobs = ns.Knobs(
        task="vision",
        data=data,  # type: ignore[arg-type]
        network=network,  # type: ignore[arg-type]
        norms=("layer", "batch", "power"),
        sorted_batches=network == "vit",
        outlier_every=3,
        **TINY,
    )
    log = FrameLog(ns.EXPERIMENT.frames(knobs, "cpu"))
    assert not log.events
    assert log.arms == list(knobs.shown_arms().names)
    assert log.scalars("validation_loss")["value"].notna().all()
    assert knobs.work() > 0
    assert ns.Knobs(data="mnist").missing() == "", "the language task has no digits"


def test_padding_is_no_part_of_loss_or_statistics() -> None:
    """The same sentences with more padding behind them, whose tokens may be anything: same loss, same gradient."""
    torch.manual_seed(0)
    tokens, targets = torch.randint(2, 20, (3, 6)), torch.randint(2, 20, (3, 6))
    targets[0, 4:] = targets[2, 2:] = IGNORED
    more_tokens = torch.cat([tokens, torch.randint(0, 20, (3, 5))], 1)
    more_targets = torch.cat([targets, torch.full((3, 5), IGNORED)], 1)
    model = GPT(20, dim=16, num_layers=1, num_heads=2, max_length=16, norm=partial(make_norm, "batch"))
    found = []
    for batch in ((tokens, targets), (more_tokens, more_targets)):
        model.zero_grad()
        loss = _padded_token_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        weight = model.head.weight.grad  # type: ignore[union-attr]
        assert weight is not None
        found.append((loss.detach(), weight.clone()))
    torch.testing.assert_close(found[0], found[1])
    logits = model(tokens, targets == IGNORED)
    by_hand = [
        -logits[i, t].log_softmax(0)[targets[i, t]]
        for i in range(3)
        for t in range(6)
        if targets[i, t] != IGNORED
    ]
    torch.testing.assert_close(found[0][0], torch.stack(by_hand).mean().detach())


def test_words_train_with_every_norm_and_are_folded() -> None:
    knobs = ns.Knobs(tokens="words", norms=("layer", "batch", "power", "unified"), **TINY)
    log = ns.run(knobs, device="cpu").log
    assert log.events == []
    assert set(log.scalars("fused/max_difference")["arm"]) == {"UnifiedNorm"}
    assert (log.scalars("fused/max_difference")["value"] < 1e-4).all()


def test_outliers_reach_every_kth_batch_only() -> None:
    from normviz.data import load_digits
    from normviz.experiments.normalization_statistics.frames import _digit_batches

    knobs = ns.Knobs(task="vision", outlier_every=3, outlier_factor=10.0)
    plain = ns.Knobs(task="vision")
    digits = load_digits("image")
    for step in range(6):
        noisy, clean = (_digit_batches(k, digits, 4)(0, step)[0] for k in (knobs, plain))
        factor = 10.0 if step in (2, 5) else 1.0
        np.testing.assert_allclose(noisy[0], clean[0] * factor, rtol=1e-6)
        np.testing.assert_array_equal(noisy[1:], clean[1:])


def test_sorted_digit_batches_hold_one_class_for_a_while() -> None:
    from normviz.data import load_digits
    from normviz.experiments.normalization_statistics.frames import TOPIC_RUN, _digit_batches

    batches = _digit_batches(ns.Knobs(task="vision", sorted_batches=True), load_digits("image"), 8)
    labels = [batches(0, step)[1].tolist() for step in range(2 * TOPIC_RUN)]
    assert all(len(set(batch)) == 1 for batch in labels)
    assert len({batch[0] for batch in labels[:TOPIC_RUN]}) == 1


def test_fusion_is_measured_after_a_language_run() -> None:
    log = ns.run(ns.Knobs(norms=("layer", "unified"), **TINY), device="cpu").log
    assert log.final("fused/max_difference")["value"].item() < 1e-4
    assert 0 < log.final("fused/memory_ratio")["value"].item() < 1


def test_too_much_work_is_refused_with_what_fits() -> None:
    with pytest.raises(KnobError, match="the limit is 10 minutes"):
        ns.Knobs.parse({"steps": 1000, "seeds": 10, "batch_size": 128, "norms": tuple(NORMS)})


def test_invariance_table_is_counted() -> None:
    log = ns.run(ns.Knobs(norms=("layer",), **TINY), device="cpu").log
    verdict = CLAIM["invariance-table"].verdict(log, ns.Knobs(norms=("layer",), **TINY))
    assert verdict.outcome == "reproduced"
    assert verdict.estimate == 18


def test_invariance_lab_shows_the_papers_table_at_full_strength() -> None:
    log = ns.run(ns.Knobs(norms=("layer",), **TINY), device="cpu").log
    figure = ns.EXPERIMENT.figures(log, ns.Knobs(norms=("layer",)))["invariances"]
    assert figure.data is not None
    strongest = figure.data[figure.data["k"] == 20].groupby("normaliser", sort=False)["unmoved"].agg(list)
    assert strongest["batch norm"] == [True, False, True, True, True, False]
    assert strongest["weight norm"] == [True, False, True, False, False, False]
    assert strongest["layer norm"] == [True, True, False, True, False, True]
    assert figure.data.loc[figure.data["k"] == 0, "unmoved"].all()


def curves(values: dict[str, list[float]], name: str, steps: list[int] | None = None) -> FrameLog:
    """A log of one scalar, the same for seeds 0 and 1 up to 0.01 seed."""
    moments = steps or range(len(next(iter(values.values()))))
    return log_of({arm: {name: series} for arm, series in values.items()}, steps=moments, by_seed=0.01)


def test_loss_claims_average_the_last_evaluations() -> None:
    knobs = ns.Knobs(steps=30)
    values = {"PowerNorm": [9.0, 1.0, 1.1, 1.2], "LayerNorm": [9.0, 1.5, 1.6, 1.7]}
    log = curves(values, "validation_loss", [0, 10, 20, 30])
    verdict = CLAIM["power-beats-layer"].verdict(log, knobs)
    assert verdict.per_seed == pytest.approx({0: -0.5, 1: -0.5})
    assert verdict.outcome == "reproduced"
    assert not CLAIM["power-beats-layer"].verdict(log, ns.Knobs(task="vision")).measured
    unfinished = curves({arm: v[:3] for arm, v in values.items()}, "validation_loss", [0, 10, 20])
    assert not CLAIM["power-beats-layer"].verdict(unfinished, ns.Knobs(steps=60)).measured


def test_fluctuation_claim_is_in_orders_of_magnitude() -> None:
    values = {"BatchNorm": [5.0, 5.0, 1.0], REFERENCE: [5.0, 5.0, 0.01]}
    log = FrameLog(
        Frame(step, arm, seed, {"relative_gap/var": value})
        for arm, series in values.items()
        for seed in (0, 1)
        for step, value in zip((0, 4, 9), series, strict=True)
    )
    verdict = CLAIM["language-fluctuates"].verdict(log, ns.Knobs(steps=10, tokens="words"))
    assert verdict.per_seed == pytest.approx({0: 2.0, 1: 2.0})
    assert verdict.outcome == "reproduced"


def test_share_of_the_updates_that_layer_norm_needs() -> None:
    steps = np.arange(40)
    log = FrameLog(
        Frame(int(step), arm, 0, {"loss": 4 - slope * step})
        for arm, slope in (("No norm", 0.05), ("LayerNorm", 0.1))
        for step in steps
    )
    knobs = ns.Knobs(task="recurrent", norms=("layer", "none"), steps=40, seeds=1)
    verdict = CLAIM["layer-faster-in-rnn"].verdict(log, knobs)
    goal = float(np.mean(4 - 0.05 * steps[-10:]))
    smooth = [float(np.mean(4 - 0.1 * steps[max(0, i - 9) : i + 1])) for i in steps]
    i = next(i for i, value in enumerate(smooth) if value <= goal)
    exact = i - 1 + (smooth[i - 1] - goal) / (smooth[i - 1] - smooth[i])
    assert verdict.per_seed[0] == pytest.approx(exact / 40)


def test_operations_multiply_the_updates_by_what_an_update_costs() -> None:
    log = FrameLog(
        Frame(step, arm, 0, {"loss": 4 - slope * step, **({"operations": cost} if step == 0 else {})})
        for arm, slope, cost in (("No norm", 0.05, 200.0), ("LayerNorm", 0.1, 300.0))
        for step in range(40)
    )
    knobs = ns.Knobs(task="recurrent", norms=("layer", "none"), steps=40, seeds=1)
    updates, operations = (
        CLAIM[name].verdict(log, knobs).per_seed[0]
        for name in ("layer-faster-in-rnn", "layer-saves-operations")
    )
    assert operations == pytest.approx(1.5 * updates)
    figure = ns.EXPERIMENT.figures(log, knobs)["by_operations"]
    assert figure.data is not None
    drawn = figure.data[figure.data["arm"] == "LayerNorm"]
    assert drawn["x"].max() == pytest.approx(39 * 300 / 1e9)


def test_operations_are_counted_in_a_recurrent_run() -> None:
    log = ns.run(ns.Knobs(task="recurrent", norms=("layer", "none"), **TINY), device="cpu").log
    counted = log.scalars("operations").set_index("arm")["value"]
    assert 1.0 < counted["LayerNorm"] / counted["No norm"] < 2.0


def test_the_steepest_place_of_a_run_is_compared() -> None:
    values = {"PowerNorm-V plain": [1.0, 3.0, 2.0], "BatchNorm": [5.0, 1.0, 6.0]}
    knobs = ns.Knobs(steps=10, seeds=2, norms=("batch", "power_v_plain"))
    log = curves(values, "input_gradient", [0, 4, 9])
    verdict = CLAIM["power-smaller-lipschitz"].verdict(log, knobs)
    assert verdict.per_seed == pytest.approx({0: 3.0 / 6.0, 1: 3.01 / 6.01})
    assert verdict.outcome == "reproduced"


def test_outliers_are_compared_in_the_second_half_and_not_at_bright_images() -> None:
    from normviz.experiments.normalization_statistics.frames import probes
    from normviz.probes import ActivationOutliers

    setting = ns.Knobs.parse(ns.PRESETS["outliers"].knobs)
    every = next(probe.every for probe in probes(setting) if isinstance(probe, ActivationOutliers))
    assert all((step + 1) % setting.outlier_every for step in range(0, setting.steps, every))
    knobs = ns.Knobs.parse({**ns.PRESETS["outliers"].knobs, "steps": 10, "seeds": 2})
    values = {"BatchNorm": [9.0, 9.0, 1.0, 2.0], "LayerNorm": [0.0, 0.0, 0.5, 0.5]}
    verdict = CLAIM["outliers-across-layers"].verdict(curves(values, "outliers", [0, 4, 6, 9]), knobs)
    assert verdict.per_seed == pytest.approx({0: 1.0, 1: 1.0})


def test_the_cell_is_steadier_where_its_spread_grows_less() -> None:
    log = FrameLog(
        Frame(10, arm, 0, {"cell_std_by_time": np.array([1.0, 2.0, end])})
        for arm, end in (("LayerNorm", 2.0), ("No norm", 100.0))
    )
    knobs = ns.Knobs(task="recurrent", norms=("layer", "none"), steps=10, seeds=1)
    verdict = CLAIM["hidden-state-stable"].verdict(log, knobs)
    assert verdict.per_seed[0] == pytest.approx(np.log10(2.0) - 2.0)


def test_power_norm_v_plain_has_no_group_scaling() -> None:
    from normviz.experiments.normalization_statistics.frames import _make

    grouped, plain = (_make(norm, 8, ns.Knobs()) for norm in ("power_v", "power_v_plain"))
    assert "group_scaling=True" in repr(grouped)
    assert "group_scaling=False" in repr(plain)
