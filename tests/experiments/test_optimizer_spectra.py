"""The page *Optimizer spectra*: what is trained and counted, the best learning rates, verdicts, charts."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from normviz.experiments.optimizer_spectra import EXPERIMENT, Knobs
from normviz.experiments.optimizer_spectra import frames as trained
from normviz.experiments.optimizer_spectra.best import best_log, chosen_members, final_losses, members_by_arm
from normviz.experiments.optimizer_spectra.claims import CLAIMS
from normviz.experiments.optimizer_spectra.fira import Shadow
from normviz.experiments.optimizer_spectra.frames import (
    GPT2_SMALL,
    WATCHED,
    _conditioned,
    _histogram,
    _sinkhorn_residual,
    _spectra,
    newton_schulz_flops,
)
from normviz.experiments.optimizer_spectra.knobs import (
    CENTRES,
    NAMES,
    PLANS,
    OptimizerName,
    learning_rates,
    member_name,
    split_member,
)
from normviz.experiments.optimizer_spectra.maps import A, B, C, map_figures
from normviz.experiments.optimizer_spectra.optimizers import (
    SPIKE,
    Watched,
    matrix_optimizer,
    state_formula,
)
from normviz.experiments.rank_correlation import kendall, spearman
from normviz.frame import Frame, FrameLog
from normviz.optim import FiraAdamW
from normviz.optim.newton_schulz import MUON_COEFFICIENTS
from normviz.probes import UpdateRecord, optimizer_state_bytes
from normviz.testing import merged
from tests.experiments.optimizer_logs import log_at

ALL = get_args(OptimizerName)
TINY: dict[str, Any] = {"steps": 20, "seeds": 1, "grid": "1", "batch_size": 8}
SHAPES = [(128, 64), (64, 128), (64, 64)]
"""The matrices of the digits' network."""


# ---- knobs


def test_every_optimizer_has_a_name_and_a_learning_rate_for_each_task() -> None:
    assert set(NAMES) == set(ALL)
    for task, centres in CENTRES.items():
        assert set(centres) == set(ALL) - {"fira_free", "conda_once"}
        assert learning_rates(Knobs(task=task), "fira_free") == learning_rates(Knobs(task=task), "fira")


def test_learning_rates_are_powers_of_three_around_the_centre() -> None:
    assert learning_rates(Knobs(grid="1"), "adamw") == [0.015]
    assert learning_rates(Knobs(grid="3", lr_factor=2.0), "adamw") == [0.01, 0.03, 0.09]
    assert learning_rates(Knobs(grid="5"), "muon") == [0.0033, 0.01, 0.03, 0.09, 0.27]
    assert learning_rates(Knobs(grid="3", task="regression"), "sgd") == [3.3, 10.0, 30.0]


def test_members_names_come_apart_again() -> None:
    for optimizer in ALL:
        for rate in (3e-05, 0.067, 0.4, 30.0):
            assert split_member(member_name(optimizer, rate)) == (NAMES[optimizer], rate)


def test_work_is_limited_and_the_advice_fits() -> None:
    heavy = {"optimizers": ALL, "grid": "5", "seeds": 10, "steps": 600, "batch_size": 256, "task": "language"}
    with pytest.raises(ValidationError, match="steps = ") as refused:
        Knobs(**heavy)
    fits = int(str(refused.value).split(" steps = ")[1].split(",")[0].split(".")[0])
    assert Knobs(**{**heavy, "steps": fits}).work() <= Knobs.work_limit


# ---- what is trained


MATRICES = {"digits": "tall", "regression": "square", "language": "wide"}
MOMENTS = 4
"""Measurements of the spectrum in the short runs, at the steps 0, 5, 10 and 15."""


@pytest.fixture(scope="module")
def logs() -> dict[str, tuple[Knobs, FrameLog]]:
    """A short run of each task with every optimizer."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained, "PROBES", MOMENTS)
        for task, matrix in MATRICES.items():
            knobs = Knobs(task=task, matrix=matrix, optimizers=ALL, **TINY, spike=task == "digits")
            found[task] = knobs, FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    return found


@pytest.mark.parametrize("data", ["mnist1d", "mnist"])
@pytest.mark.usefixtures("small_mnist")
def test_other_digits_take_the_place_of_the_small_ones(data: str) -> None:
    few = ("adamw", "muon", "galore", "lora")
    for matrix in ("tall", "square", "wide"):
        knobs = Knobs(data=data, matrix=matrix, optimizers=few, **TINY)
        out, into = (
            trained._digits(knobs, torch.device("cpu"))
            .model()
            .get_parameter(trained.watched_name(knobs))
            .shape
        )
        assert {"tall": out > into, "square": out == into, "wide": out < into}[matrix]
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    assert not log.events
    assert set(log.members.values()) == {20}
    assert {entry.value.shape for entry in log.arrays("update_spectrum")} == {(64,)}
    assert Knobs(task="language", data=data).missing() == ""


@pytest.mark.parametrize("task", MATRICES)
def test_every_optimizer_trains_on_every_task(task: str, logs: dict[str, tuple[Knobs, FrameLog]]) -> None:
    knobs, log = logs[task]
    assert log.arms == [member_name(name, learning_rates(knobs, name)[0]) for name in ALL]
    assert log.events == []
    loss = log.scalars("loss")
    assert (loss.groupby("arm").size() == knobs.steps).all()
    for arm, table in loss.groupby("arm"):
        assert table["value"].iloc[:3].min() > table["value"].iloc[-3:].min(), arm
    assert (log.scalars("step_ms")["value"] > log.scalars("optimizer_ms")["value"]).all()
    assert (log.scalars("optimizer_ms")["value"] > 0).all()
    side = {"digits": 64, "regression": 48, "language": 64}[task]
    for name in ("gradient_spectrum", "update_spectrum"):
        entries = log.arrays(name)
        assert len(entries) == len(ALL)
        for entry in entries:
            assert entry.value.shape == (side,)
            assert np.mean(entry.value.astype(float) ** 2) == pytest.approx(1, rel=1e-4)
            assert (np.diff(entry.value) <= 1e-6).all()
    assert (log.scalars("validation_loss").empty) == (task == "regression")
    for name in ("condition", "effective_rank", "row_cv", "cosine", "rms"):
        table = log.scalars(name)
        moving = table[~(table["arm"].str.startswith("SOAP") & (table["step"] == table["step"].min()))]
        assert len(table) - len(moving) == 1  # SOAP's first step moves nothing
        assert np.isfinite(moving["value"]).all(), name


@pytest.mark.parametrize("task", MATRICES)
def test_what_each_update_is_known_for(task: str, logs: dict[str, tuple[Knobs, FrameLog]]) -> None:
    knobs, log = logs[task]
    best = best_log(log, knobs)

    def of(name: str, arm: str) -> np.ndarray:
        table = best.scalars(name)
        return table[table["arm"] == NAMES[arm]]["value"].to_numpy()

    assert of("cosine", "sgd") == pytest.approx(np.ones(MOMENTS), abs=2e-3)
    assert of("rank", "galore").max() <= knobs.rank
    assert of("effective_rank", "galore").max() <= knobs.rank + 1e-6
    assert of("rms", "sinkgd") == pytest.approx(np.ones(MOMENTS), abs=0.02)  # both norms hold: RMS 1
    assert of("column_cv", "sinkgd").max() < 0.02  # columns are scaled last
    if task != "digits":  # there dead ReLUs leave rows without a gradient
        assert of("row_cv", "gradnorm").max() < 0.02
    assert of("effective_rank", "muon").min() > of("effective_rank", "sgd").max()
    phi = of("phi_spearman", "fira")
    assert len(phi) == MOMENTS
    assert np.abs(phi).max() <= 1
    assert len(of("phi_matrix_spearman", "fira")) == (0 if task == "regression" else MOMENTS)


def test_diverged_members_stop_and_others_go_on() -> None:
    knobs = Knobs(
        task="regression", optimizers=("sgd", "muon"), **{**TINY, "grid": "5", "steps": 200}, lr_factor=10.0
    )
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    diverged = {e.arm for e in log.events if e.text.startswith("diverged")}
    assert "SGD, lr 900" in diverged
    losses = final_losses(log, knobs)
    assert all(losses[arm][0] == math.inf for arm in diverged)
    assert len(log.scalars("loss")["step"][log.scalars("loss")["arm"] == "Muon, lr 10"]) == 200


def test_one_bad_gradient_is_multiplied() -> None:
    W = nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))
    b = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    watched = Watched(torch.optim.SGD([W], 1.0), torch.optim.SGD([b], 1.0), {"probed": W}, spike=1)
    moved = []
    for _ in range(3):
        before = W.detach().clone(), b.detach().clone()
        W.grad, b.grad = torch.ones_like(W), torch.ones_like(b)
        watched.step()
        moved.append((float((before[0] - W)[0, 0].detach()), float((before[1] - b)[0].detach())))
    assert moved == [(1, 1), (SPIKE, SPIKE), (1, 1)]
    assert watched.seconds > 0


def test_a_bad_batch_comes_after_60_percent(logs: dict[str, tuple[Knobs, FrameLog]]) -> None:
    knobs, log = logs["digits"]
    calm = FrameLog(
        EXPERIMENT.frames(knobs.model_copy(update={"spike": False, "optimizers": ("sgd",)}), "cpu")
    )
    (arm,) = calm.arms
    a, b = (t[t["arm"] == arm]["value"].to_numpy() for t in (calm.scalars("loss"), log.scalars("loss")))
    assert (a[:13] == b[:13]).all()  # the step at 12 = 0.6 x 20 shows in the loss of the next batch
    assert a[13] != b[13]


def test_the_matrix_equation_has_its_condition_number() -> None:
    X = _conditioned(7, torch.Generator().manual_seed(0)).numpy()
    s = np.linalg.svd(X, compute_uv=False)
    np.testing.assert_allclose(s, 10 ** np.linspace(0, -2, 7), rtol=1e-10)


def test_the_watched_matrices_have_the_shapes_they_are_named_after(
    logs: dict[str, tuple[Knobs, FrameLog]],
) -> None:
    for task in ("digits", "language"):
        build = {"digits": trained._digits, "language": trained._language}[task]
        model = build(logs[task][0], torch.device("cpu")).model()
        for kind, name in WATCHED[task].items():
            m, n = model.get_parameter(name).shape
            assert {"tall": m >= 2 * n, "square": m == n, "wide": n >= 2 * m}[kind]
    assert [trained.SIDES[k] for k in ("tall", "square", "wide")] == [(64, 32), (48, 48), (32, 64)]


# ---- measures


def test_spectra_of_a_known_update() -> None:
    U = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    record = UpdateRecord(
        torch.ones(3, 2).double() + 0.5 * U, torch.ones(3, 2).double(), U, 0.5, 1.0, "before"
    )
    values = _spectra(record)
    size = math.sqrt((16 + 9) / 2)
    np.testing.assert_allclose(values["update_spectrum"], [4 / size, 3 / size], rtol=1e-6)
    assert values["condition"] == pytest.approx(4 / 3)
    assert values["stable_rank"] == pytest.approx(25 / 16)
    p, q = 16 / 25, 9 / 25
    assert values["effective_rank"] == pytest.approx(math.exp(-p * math.log(p) - q * math.log(q)))
    assert values["rank"] == 2
    lengths = np.array([3.0, 4.0, 0.0])
    assert values["row_cv"] == pytest.approx(lengths.std() / lengths.mean())
    assert values["column_cv"] == pytest.approx(0.5 / 3.5)
    assert values["cosine"] == pytest.approx(1)
    assert values["rms"] == pytest.approx(5 / math.sqrt(6))


def test_singular_values_below_the_rounding_of_the_weights_count_as_zero() -> None:
    U = torch.diag(torch.tensor([1.0, 1e-9], dtype=torch.float64))
    after = torch.ones(2, 2, dtype=torch.float32)
    record = UpdateRecord((after.double() + 0.01 * U).float(), after, U, 0.01, 1.0, "before")
    from_zero = UpdateRecord(
        torch.zeros(2, 2).double(), -torch.diag(torch.tensor([1, 1e-17])).double(), U, 1.0, 1.0, "before"
    )
    for values in (_spectra(record), _spectra(from_zero)):
        assert values["rank"] == 1
        assert values["condition"] == 1


def test_equal_norms_are_one_needle_in_the_histogram() -> None:
    density = _histogram(torch.full((50,), 7.0, dtype=torch.float64) * (1 + 1e-12 * torch.arange(50)))
    assert (density > 0).sum() == 1
    assert density.sum() * 2.5 / len(density) == pytest.approx(1)
    assert 2.5 * (int(density.argmax()) + 0.5) / len(density) == pytest.approx(1, abs=0.05)
    beyond = _histogram(torch.tensor([0.0] * 9 + [10.0]))
    assert beyond[-1] > 0


def test_residuals_of_sinkgd_equal_a_numpy_loop() -> None:
    W = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    W.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    W.grad[2] = 0  # a dead neuron is left out
    found = _sinkhorn_residual(W)["sinkhorn_residual"]
    X = np.delete(W.grad.numpy(), 2, 0)
    m, n = X.shape
    halves = [X]
    for _ in range(20):
        X = X * math.sqrt(n) / np.linalg.norm(X, axis=1, keepdims=True)
        halves.append(X)
        X = X * math.sqrt(m) / np.linalg.norm(X, axis=0, keepdims=True)
        halves.append(X)
    moves = [np.linalg.norm(b - a) / np.linalg.norm(b) for a, b in pairwise(halves[1:])]
    np.testing.assert_allclose(found[: len(moves)], moves, rtol=1e-4, atol=1e-12)


def test_rank_correlations_by_hand() -> None:
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 30.0, 20.0, 40.0])
    assert spearman(a, b) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert kendall(a, b) == pytest.approx((5 - 1) / 6)
    assert spearman(a, -a) == pytest.approx(-1)
    assert math.isnan(spearman(a[:1], b[:1]))
    assert math.isnan(kendall(a[:1], b[:1]))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_the_shadow_is_full_rank_adam_and_sees_the_limiter(shape: tuple[int, int]) -> None:
    W = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    knobs = Knobs(rank=2, gap=1, gamma=1.0)
    fira = matrix_optimizer("fira", [W], 0.01, knobs)
    assert isinstance(fira, FiraAdamW)
    shadow = Shadow(fira, W)
    generator = torch.Generator().manual_seed(1)
    m = v = np.zeros(shape)
    norms, free, held = [], [], 0
    for step in range(5):
        W.grad = torch.randn(shape, generator=generator, dtype=torch.float64) * (4.0 if step == 3 else 1.0)
        fira.step()
        shadow.update()
        g = W.grad.numpy()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        values = shadow.values()
        axis = 1 if shape[0] >= shape[1] else 0
        full = np.linalg.norm(m / (np.sqrt(v) + 1e-6), axis=axis) / np.linalg.norm(g, axis=axis)
        np.testing.assert_allclose(values["phi"][1], full, rtol=1e-4)
        norms.append(values["residual"])
        free.append(values["residual_unlimited"])
    for step in range(1, 5):
        assert norms[step] == pytest.approx(min(free[step], norms[step - 1]), rel=1e-6)  # gamma = 1
        held += free[step] > norms[step - 1]
    assert values["limiter_share"] == pytest.approx(held / 4)
    assert held >= 1


# ---- memory, counted by hand


@pytest.mark.parametrize("name", ALL)
def test_bytes_of_state_are_the_papers_formulas(name: str) -> None:
    r = 8
    by_hand = {
        "adamw": sum(2 * m * n + 1 for m, n in SHAPES),
        "muon": 128 * 64 + 64 * 128 + 64 * 64,
        "normuon": 20480 + 128 + 64 + 64,
        "conda": 2 * 20480 + 3 * 64 * 64,
        "conda_once": 2 * 20480 + 3 * 64 * 64,
        "adafactor": sum(m + n + 1 for m, n in SHAPES),
        "galore": 2 * r * (128 + 128 + 64) + 3 * r * 64,
        "fira": 2 * r * 320 + 3 * r * 64 + 3,
        "fira_free": 2 * r * 320 + 3 * r * 64 + 3,
        "soap": 2 * 20480 + 2 * (2 * (128 * 128 + 64 * 64) + 2 * 64 * 64),
        "lora": 2 * r * (192 + 192 + 128) + 2 * 3,
    }.get(name, 0)
    assert state_formula(name, SHAPES, r) == by_hand
    factors = [side for m, n in SHAPES for side in ((r, n), (m, r))]
    matrices = [nn.Parameter(torch.zeros(shape)) for shape in (factors if name == "lora" else SHAPES)]
    for p in matrices:
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    optimizer = matrix_optimizer(name, matrices, 0.01, Knobs(rank=r))
    optimizer.step()
    assert optimizer_state_bytes(optimizer) == 4 * by_hand


def test_memory_of_the_whole_network(logs: dict[str, tuple[Knobs, FrameLog]]) -> None:
    knobs, log = logs["digits"]
    bytes_of = {split_member(a)[0]: v for a, v in log.final("training_bytes")[["arm", "value"]].values}
    total, rest = 20480 + 256 + 650, 256 + 650  # biases, and the output layer
    adam_rest = 8 * rest + 4 * 5  # three biases, output weight and bias: a counter each
    assert bytes_of["SGD"] == pytest.approx((8 * total + adam_rest) / total)
    assert bytes_of["AdamW"] == pytest.approx((16 * total + 4 * 8) / total)
    factors, r = 512 * 8, 8  # three matrices with (m + n) r numbers each, sides 512 in all
    trained_numbers = rest + factors
    assert bytes_of["LoRA"] == pytest.approx(
        (4 * (total + factors) + 12 * trained_numbers + 4 * (5 + 6)) / total
    )
    assert r == knobs.rank


def test_the_plan_is_counted_by_hand(logs: dict[str, tuple[Knobs, FrameLog]]) -> None:
    knobs, log = logs["digits"]

    def flops(m: int, n: int) -> float:
        k, length = min(m, n), max(m, n)
        return 5 * (2 * k * k * length + 2 * k**3 + 2 * k * k * length)

    assert newton_schulz_flops(3072, 768, 5) == flops(3072, 768)
    total = 12 * sum(flops(m, n) for m, n in GPT2_SMALL) / 1e9
    works = {key: log.arrays(f"plan/{name}")[0].value for key, name in PLANS.items()}
    np.testing.assert_allclose(works["everywhere"], np.full(knobs.world, total), rtol=1e-6)
    # With four matrices a block and four machines, each machine gets one kind of matrix.
    np.testing.assert_allclose(works["in order"], [12e-9 * flops(m, n) for m, n in GPT2_SMALL], rtol=1e-6)
    assert works["sorted"].sum() == pytest.approx(total, rel=1e-6)
    assert works["sorted"].max() < works["in order"].max()
    assert (log.scalars("sharded_difference")["value"] < 1e-10).all()


# ---- the best learning rate


def test_final_losses_are_means_of_the_last_three() -> None:
    log = log_at("validation_loss", {"adamw": {0: [9, 3, 2, 1], 1: [5, 4]}, "muon": {0: [7]}})
    log.append(Frame(3, "Muon, lr 1", 1, {}, event="diverged at step 3: loss is inf", kind="diverged"))
    log.append(Frame(3, "AdamW, lr 1", 1, {}, event="was moved to another place"))
    assert final_losses(log, Knobs()) == {
        "AdamW, lr 1": {0: 2.0, 1: 4.5},
        "Muon, lr 1": {0: 7.0, 1: math.inf},
    }
    assert final_losses(log, Knobs(task="regression")) == {"Muon, lr 1": {1: math.inf}}


def test_the_best_log_shows_the_lowest_mean_over_seeds() -> None:
    log = log_at(
        "validation_loss",
        {
            "AdamW, lr 0.3": {0: [1.0], 1: [9.0]},
            "AdamW, lr 0.1": {0: [3.0], 1: [3.5]},
            "AdamW, lr 0.9": {0: [0.1]},
            "Muon, lr 0.2": {0: [2.0]},
        },
    )
    log.extend(
        [
            Frame(
                4,
                "AdamW, lr 0.9",
                1,
                {"loss": math.inf},
                event="diverged at step 4: loss is inf",
                kind="diverged",
            ),
            Frame(4, "AdamW, lr 0.1", 1, {"loss": 5.0, "norms": np.ones((2, 3))}, event="kept"),
            Frame(4, "Muon, lr 0.2", 0, {"norms": np.zeros((2, 3))}),
        ]
    )
    assert members_by_arm(log) == {
        "AdamW": ["AdamW, lr 0.1", "AdamW, lr 0.3", "AdamW, lr 0.9"],
        "Muon": ["Muon, lr 0.2"],
    }
    best = best_log(log, Knobs(seeds=2))
    assert chosen_members(log, Knobs(seeds=2)) == {"AdamW": "AdamW, lr 0.1", "Muon": "Muon, lr 0.2"}
    assert best.arms == ["AdamW", "Muon"]
    assert (best.seeds, best.last_step) == ([0, 1], 4)
    assert best.scalars("loss").values.tolist() == [[4, "AdamW", 1, 5.0]]
    assert best.scalars("validation_loss")["value"].tolist() == [3.0, 3.5, 2.0]
    assert [(a.arm, a.seed) for a in best.arrays("norms")] == [("AdamW", 1), ("Muon", 0)]
    assert [(e.arm, e.text) for e in best.events] == [("AdamW", "kept")]


def test_before_anything_is_measured_and_where_all_diverge_the_middle_is_shown() -> None:
    members = ["Fira, no limiter, lr 9", "Fira, no limiter, lr 1", "Fira, no limiter, lr 3"]
    log = FrameLog(Frame(0, member, 0) for member in members)
    assert chosen_members(log, Knobs()) == {"Fira, no limiter": "Fira, no limiter, lr 3"}
    log.extend(
        Frame(2, member, 0, {}, event="diverged at step 2: loss is nan", kind="diverged")
        for member in members
    )
    assert chosen_members(log, Knobs()) == {"Fira, no limiter": "Fira, no limiter, lr 3"}


def test_the_best_log_is_made_once_for_each_state_of_the_log() -> None:
    log = log_at("validation_loss", {"adamw": {0: [1.0]}})
    first = best_log(log, Knobs())
    assert best_log(log, Knobs()) is first
    assert best_log(log, Knobs(task="regression")) is not first
    log.append(Frame(1, "AdamW, lr 1", 0, {"validation_loss": 0.5}))
    assert best_log(log, Knobs()).scalars("validation_loss")["value"].tolist() == [1.0, 0.5]


def test_verdicts_of_a_short_run(logs: dict[str, tuple[Knobs, FrameLog]]) -> None:
    knobs, log = logs["digits"]
    found = EXPERIMENT.verdicts(log, knobs)
    missing = {id for id, v in found.items() if not v.per_seed}
    retrained = {"conda-half-the-steps", "swan-half-the-steps", "sinkgd-half-the-steps"}
    assert missing == {"swan-diagonal-throughput", "whitening-counters-curvature", *retrained}
    for claim in CLAIMS:
        if claim.identity:
            assert found[claim.id].outcome == "reproduced", claim.id


# ---- figures


def test_figures_of_partial_and_full_logs(logs: dict[str, tuple[Knobs, FrameLog]]) -> None:
    for knobs, full in logs.values():
        names = list(EXPERIMENT.sheet(knobs).drawers)
        assert {"plan", "sinkhorn", "factors", "limiter"} < set(names)
        begun = sum(len(list(f.values)) == 0 for f in full.frames)
        counts = {"digits": (begun + 30,), "language": (len(full) // 2,)}.get(knobs.task, ())
        for count in counts:
            # Arms with memory alone, arms of which some had no step yet.
            partial_log = FrameLog(full.frames[:count])
            assert list(EXPERIMENT.figures(partial_log, knobs, 5)) == names
            EXPERIMENT.verdicts(partial_log, knobs)
        drawn = EXPERIMENT.figures(full, knobs)
        assert list(drawn) == names
        assert all(len(figure.data) for figure in drawn.values())
        assert all("nothing is measured" not in figure.alt for figure in drawn.values())
        for name in ("loss", "geometry", "time", "grid", "rank"):
            assert set(drawn[name].data["arm"]) == set(knobs.shown_arms().names), name
        early = EXPERIMENT.figures(full, knobs, 7, names=("update_spectrum", "geometry"))
        assert early["update_spectrum"].moment == "step 5"
        assert len(early["geometry"].data) < len(drawn["geometry"].data)


def test_an_arm_without_its_first_step_is_left_out_of_the_time_chart() -> None:
    knobs = Knobs(optimizers=("adamw", "muon"))
    losses = log_at("validation_loss", {"adamw": {0: [3, 2]}, "muon": {0: [3]}}, every=10)
    log = merged(losses, log_at("step_ms", {"adamw": {0: [4.0, 6.0]}}))
    data = EXPERIMENT.figures(log, knobs)["time"].data
    assert data[["arm", "x"]].values.tolist() == [["AdamW", 0.0], ["AdamW", 10 * 5.0 / 1e3]]


def test_the_grid_shows_every_rate_and_marks_its_ends() -> None:
    log = log_at(
        "validation_loss",
        {
            "AdamW, lr 0.1": {0: [3.0], 1: [4.0]},
            "AdamW, lr 0.3": {0: [2.0], 1: [2.0]},
            "AdamW, lr 0.9": {0: [math.nan], 1: [500.0]},
            "Muon, lr 0.1": {0: [1.0]},
            "Muon, lr 0.3": {0: [2.0]},
        },
    )
    figure = EXPERIMENT.figures(log, Knobs(optimizers=("adamw", "muon")))["grid"]
    rows = figure.data[["arm", "x", "mean", "low", "high"]].values.tolist()
    assert rows == [
        ["AdamW", 0.1, 3.5, 3.0, 4.0],
        ["AdamW", 0.3, 2.0, 2.0, 2.0],
        ["Muon", 0.1, 1.0, 1.0, 1.0],
        ["Muon", 0.3, 2.0, 2.0, 2.0],
    ]
    assert "Best so far: AdamW 0.3, Muon 0.1 (at the end of its grid)." in figure.alt
    alone = log_at("validation_loss", {"AdamW, lr 0.1": {0: [3.0]}})
    assert "at the end" not in EXPERIMENT.figures(alone, Knobs(optimizers=("adamw",)))["grid"].alt


def test_optional_figures_come_with_their_optimizers() -> None:
    names = set(EXPERIMENT.figures(FrameLog(), Knobs(optimizers=("adamw", "sgd"))))
    assert names.isdisjoint({"plan", "sinkhorn", "factors", "limiter"})


def test_memory_bars_are_bytes_with_the_formula_beside_them(
    logs: dict[str, tuple[Knobs, FrameLog]],
) -> None:
    knobs, log = logs["digits"]
    data = EXPERIMENT.figures(log, knobs)["memory"].data.set_index("arm")
    assert data["value"].to_dict() == pytest.approx(data["expected"].to_dict())
    assert data.loc["Muon", "value"] == 4.0
    assert data.loc["SinkGD", "value"] == 0.0


def test_the_map_of_a_singular_value_says_what_the_iterations_do() -> None:
    assert (A, B, C) == MUON_COEFFICIENTS
    x = np.geomspace(0.003, 1, 2000)
    for _ in range(5):
        x = A * x + B * x**3 + C * x**5
    y = np.geomspace(0.003, 1, 2000)
    for _ in range(10):
        y = 0.8 * y * (3 - y * y)
    text = map_figures()["map"].alt
    assert "between 0.68 and 1.2" in text
    assert (round(x.min(), 2), round(x.max(), 1)) == (0.68, 1.2)
    assert "between 0.56 and 1.6" in text
    assert (round(y.min(), 2), round(y.max(), 1)) == (0.56, 1.6)


def test_a_shorter_schedule_ends_early_for_all_but_adamw() -> None:
    given = {"steps": 20, "seeds": 2, "grid": "1", "optimizers": ("adamw", "muon")}
    logs = {share: FrameLog(EXPERIMENT.frames(Knobs(**given, shorter=share), "cpu")) for share in (1.0, 0.5)}
    half, whole = (logs[share].scalars("rms") for share in (0.5, 1.0))
    muon = half["arm"].str.startswith("Muon")
    assert (half[muon & (half["step"] >= 10)]["value"] == 0).all()
    assert (half[muon & (half["step"] < 10)]["value"] > 0).all()
    assert half[~muon]["value"].tolist() == whole[~muon.to_numpy()]["value"].tolist()
    assert logs[0.5].scalars("validation_loss").groupby(["arm", "seed"])["value"].last().notna().all()
