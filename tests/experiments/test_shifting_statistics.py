"""The page *Shifting statistics*: its own measurements and pictures against independent derivations."""

from __future__ import annotations

import html
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normviz.data import load_mnist_sample
from normviz.experiments.shifting_statistics.alpha_mixture import mixture_figure, trade_off_figure
from normviz.experiments.shifting_statistics.batch_weights import batch_weights_figure, weight_expression
from normviz.experiments.shifting_statistics.cell_measures import (
    accuracies,
    beats_both_ends,
    best_elsewhere,
    by_alpha,
    mean_difference,
    mean_gain,
    wins,
)
from normviz.experiments.shifting_statistics.digit_table import TextRow, digit_table_figure
from normviz.experiments.shifting_statistics.grid import CELLS, GRID_ALPHAS, cells_where
from normviz.experiments.shifting_statistics.knobs import METHODS, Knobs
from normviz.experiments.shifting_statistics.layer_statistics import MixtureErrors
from normviz.experiments.shifting_statistics.lit_tasks import LOG_CONTRAST, OFFSET, lit_tasks
from normviz.experiments.shifting_statistics.pictures import ANSWERS, stream_figure
from normviz.experiments.shifting_statistics.recorded import ALPHAS
from normviz.experiments.shifting_statistics.running_distance import (
    mean_distance,
    running_means,
    true_moments,
)
from normviz.experiments.shifting_statistics.shifted_stream import Adapting
from normviz.experiments.shifting_statistics.source_network import corrupted_stream, train_source
from normviz.experiments.shifting_statistics.tasks_in_row import TaskMember, build_network
from normviz.figures import Board
from normviz.frame import Frame, FrameLog
from normviz.norms import AdaptiveBalanceBatchNorm2d, AlphaBatchNorm2d, calibrate_batchnorm

CPU = torch.device("cpu")
ALPHA, SOURCE, TBN, CORE, ENTROPY = (METHODS[k] for k in ("alpha", "source", "tbn", "core", "entropy"))


# -- pictures that the browser computes --------------------------------------------------------------------------------


def computed(rows: list[dict[str, float]], expression: str) -> list[float]:
    """What Vega makes of an expression for every row."""
    vl_convert = pytest.importorskip("vl_convert")
    spec: dict[str, Any] = {
        "data": {"values": [{"row": i, **row} for i, row in enumerate(rows)]},
        "transform": [{"calculate": f"join([datum.row, {expression}], ' ')", "as": "text"}],
        "mark": "text",
        "encoding": {"text": {"field": "text", "type": "nominal"}},
    }
    drawn = [
        html.unescape(t) for t in re.findall(r"<text[^>]*>([^<]*)</text>", vl_convert.vegalite_to_svg(spec))
    ]
    pairs = [tuple(map(float, text.split())) for text in drawn]
    assert [row for row, _ in pairs] == list(range(len(rows)))
    return [value for _, value in pairs]


@pytest.mark.parametrize("kappa", [0.0, 0.1, 0.4, 1.0])
def test_weights_of_past_batches_in_the_browser_make_the_layers_running_mean(kappa: float) -> None:
    torch.manual_seed(0)
    layer = AdaptiveBalanceBatchNorm2d(3, num_tasks=2, kappa=kappa, dtype=torch.float64)
    layer.running_mean.fill_(2.0)
    batches = [torch.randn(4, 3, 2, 2, dtype=torch.float64) + i for i in range(25)]
    for batch in batches:
        layer(batch)
    means = np.stack([batch.numpy().mean((0, 2, 3)) for batch in batches])
    rows = [{"ago": len(batches) - 1.0 - s} for s in range(len(batches))]
    weights = np.array(computed(rows, weight_expression("datum.ago", "25", str(kappa), "0.1")))
    rest = 1 - weights.sum()  # of the initial value
    np.testing.assert_allclose(weights @ means + rest * 2.0, layer.running_mean.numpy(), rtol=1e-9)
    assert -1e-12 < rest < 1
    assert rest == pytest.approx(0.0 if kappa == 0 else (1 - 0.1**kappa) * weights[0] / 0.1**kappa, abs=1e-12)


def test_the_stage_shows_as_many_batches_as_were_seen() -> None:
    knobs = Knobs(task="tasks")
    log = FrameLog([Frame(40, "BN", 0, {"loss": 1.0})])
    figure = batch_weights_figure(Board(log, knobs.shown_arms(), None, 130), knobs)
    assert figure.data is not None
    assert figure.data["arm"].tolist() == ["1"] * 26 + ["2"] * 14
    assert figure.to_svg().startswith("<svg")


def test_least_error_lies_where_the_trade_off_says() -> None:
    alpha = np.linspace(0, 1, 100_001)
    for b, n in ((0.5, 4), (0.1, 16), (1.0, 1)):
        error = alpha**2 * b**2 + (1 - alpha) ** 2 / n
        assert alpha[error.argmin()] == pytest.approx(1 / (1 + n * b * b), abs=1e-4)
    assert "least at α = 0.50" in html.unescape(trade_off_figure().to_svg())


# -- errors of the mixed mean ------------------------------------------------------------------------------------------


def test_three_numbers_give_the_mean_square_error_at_every_alpha() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)
    )
    model(torch.randn(50, 1, 8, 8))
    mixed = calibrate_batchnorm(model, 0.3).eval()
    batches = list((torch.randn(22, 1, 8, 8) * 2 + 1).split(5))  # the last one is smaller
    errors = MixtureErrors(mixed, AlphaBatchNorm2d, batches).so_far(3)

    x = torch.cat(batches)
    inputs = [[], []]  # of both norms, batch by batch
    for batch in batches:
        first = model[0](batch)
        inputs[0].append(first.detach().double().numpy())
        inputs[1].append(model[3](model[2](model[1](first))).detach().double().numpy())
    assert len(x) == 22
    for layer, norm in enumerate((model[1], model[4])):
        values = np.concatenate(inputs[layer])
        mean, deviation = values.mean((0, 2, 3)), values.std((0, 2, 3))
        source = norm.running_mean.double().numpy()
        for alpha in (0.0, 0.35, 1.0):
            per_batch = [
                (((alpha * source + (1 - alpha) * b.mean((0, 2, 3))) - mean) / deviation) ** 2
                for b in inputs[layer][:3]
            ]
            aa, ab, bb = errors[layer]
            found = alpha**2 * aa + 2 * alpha * (1 - alpha) * ab + (1 - alpha) ** 2 * bb
            assert found == pytest.approx(float(np.mean(per_batch)), rel=1e-5)


def test_the_slider_reads_the_curve() -> None:
    log = FrameLog([Frame(8, ALPHA, 0, {"mixture": np.array([[4.0, -1.0, 1.0], [0.0, 0.0, 0.25]])})])
    svg = html.unescape(mixture_figure(Board(log, Knobs().shown_arms(), None, 600), 0.5).to_svg())
    # sqrt(0.25 * 4 - 0.5 * 1 + 0.25 * 1) and sqrt(0.25 * 0.25)
    assert ">0.87<" in svg
    assert ">0.25<" in svg


# -- running statistics ------------------------------------------------------------------------------------------------


def test_distance_of_the_running_mean_in_standard_deviations() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    )
    for _ in range(3):
        model(torch.randn(10, 1, 8, 8) + 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(30, 1, 8, 8)
    found = mean_distance(running_means(model), true_moments(model, x))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "the network stays as it is"
    with torch.no_grad():
        first = model[0](x).double().numpy()
        m, v = first.mean((0, 2, 3)), first.var((0, 2, 3))
        gain, bias = (p.double().numpy()[None, :, None, None] for p in (model[1].weight, model[1].bias))
        normed = gain * (first - m[None, :, None, None]) / np.sqrt(v + 1e-5)[None, :, None, None] + bias
        second = model[3](torch.from_numpy(np.maximum(normed, 0)).float()).double().numpy()
    for layer, (values, norm) in enumerate(((first, model[1]), (second, model[4]))):
        gap = (norm.running_mean.double().numpy() - values.mean((0, 2, 3))) / values.std((0, 2, 3))
        assert found[layer] == pytest.approx(math.sqrt(float((gap**2).mean())), rel=1e-4)


def test_continual_norm_is_measured_behind_its_group_norm() -> None:
    model = build_network("cn", Knobs(task="tasks"), 0)
    x = torch.randn(12, 1, 8, 8)
    mean, var = true_moments(model, x)[0]
    values = (
        model[0].conv(x).detach().double().numpy().reshape(12, 8, 2, 64)
    )  # (samples, groups, channels, places)
    grouped = (values - values.mean((2, 3), keepdims=True)) / np.sqrt(
        values.var((2, 3), keepdims=True) + 1e-5
    )
    channels = grouped.reshape(12, 16, 64)
    np.testing.assert_allclose(mean.numpy(), channels.mean((0, 2)), atol=1e-6)
    np.testing.assert_allclose(var.numpy(), channels.var((0, 2)), rtol=1e-4)


# -- the tasks ---------------------------------------------------------------------------------------------------------


def test_every_task_has_its_own_light_in_training_and_testing() -> None:
    plain, shifted = lit_tasks("digits", 3, 0.0, CPU), lit_tasks("digits", 3, 0.7, CPU)
    for t in range(5):
        assert set(plain.y[t].tolist()) == {2 * t, 2 * t + 1}
        for before, after in ((plain.x[t], shifted.x[t]), (plain.x_test[t], shifted.x_test[t])):
            expected = np.exp(0.7 * LOG_CONTRAST[t]) * before.numpy() + 0.7 * OFFSET[t]
            np.testing.assert_allclose(after.numpy(), expected, atol=1e-5)


def test_mnist_can_take_the_place_of_the_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (5000, 784), dtype=np.uint8), np.repeat(np.arange(10), 500)
    monkeypatch.setattr("normviz.data.mnist_sample._table", lambda: table)
    load_mnist_sample.cache_clear()
    data = lit_tasks.__wrapped__("mnist", 0, 0.5, CPU)
    assert data.x[0].shape == (750, 1, 14, 14)
    assert data.look(data.x[0]).max() <= 1
    model = build_network("ada_1", Knobs(task="tasks", data="mnist"), 0)
    assert model(data.x[0][:4]).shape == (4, 10)
    stream = corrupted_stream.__wrapped__("mnist", 0, "blur", 3, "sorted", 64, CPU)
    assert stream.x.shape == (64, 1, 14, 14)
    assert 0 <= stream.pixels.min() <= stream.pixels.max() <= 1
    load_mnist_sample.cache_clear()


def test_a_pass_shows_no_digit_twice_and_another_pass_has_another_order() -> None:
    data = lit_tasks("digits", 0, 0.0, CPU)
    first, second = (
        torch.cat([data.batch(0, 52 + 26 * p + i, 52)[0] for i in range(26)]).flatten(1) for p in (0, 1)
    )
    assert len(torch.unique(first, dim=0)) >= 259  # two digits of the data set may be equal
    assert not torch.equal(first, second)


def test_arms_start_alike_and_replay_alike() -> None:
    knobs = Knobs(task="tasks", norms=("bn", "ada_04", "cn"))
    members = [TaskMember(kind, knobs, 1, CPU) for kind in knobs.kinds()]
    weights = [next(m.model.parameters()).detach().clone() for m in members]
    assert all(torch.equal(w, weights[0]) for w in weights)
    for at in (0, 1, 26, 27):
        for member in members:
            member.step(at)
    drawn = [m.buffer.drawn for m in members]
    assert all(d is not None and torch.equal(d["y"], drawn[0]["y"]) for d in drawn)
    assert not any(torch.equal(next(m.model.parameters()), w) for m, w in zip(members, weights, strict=True))


def test_frozen_weights_stand_still_while_statistics_move() -> None:
    knobs = Knobs(task="tasks", norms=("ada_1",), frozen=True)
    member = TaskMember("ada_1", knobs, 0, CPU)
    before = {k: v.clone() for k, v in member.model.state_dict().items()}
    for at in range(3):
        member.step(at)
    after = member.model.state_dict()
    parameters = {name for name, _ in member.model.named_parameters()}
    assert all(torch.equal(after[k], before[k]) == (k in parameters) for k in before if "cur_task" not in k)


# -- the stream --------------------------------------------------------------------------------------------------------


def test_an_image_has_the_same_noise_in_every_order() -> None:
    shuffled, ordered = (
        corrupted_stream("digits", 5, "gaussian_noise", 4, order, 100, CPU) for order in ("iid", "sorted")
    )
    assert ordered.y.tolist() == sorted(shuffled.y.tolist())
    assert ordered.y.tolist() != shuffled.y.tolist()
    assert {p.tobytes() for p in ordered.pixels} == {p.tobytes() for p in shuffled.pixels}
    assert np.abs(shuffled.pixels - shuffled.clean).mean() > 0.1


@pytest.fixture(scope="module")
def stream_members() -> list[Adapting]:
    knobs = Knobs(
        methods=("source", "tbn", "alpha", "core"),
        images=90,
        batch_size=20,
        source_epochs=1,
        corruption="blur",
    )
    source = train_source("digits", 7, 1, CPU)
    stream = corrupted_stream("digits", 7, "blur", 4, "iid", 90, CPU)
    state = {k: v.clone() for k, v in source.state_dict().items()}
    members = [Adapting(kind, knobs, 7, source, stream) for kind in knobs.kinds()]
    for member in members:
        for at in range(0, 90, 20):
            member.step(at)
    assert all(torch.equal(v, state[k]) for k, v in source.state_dict().items()), "the source stays as it is"
    return members


def test_the_sweep_over_alpha_has_both_ends_and_the_arms_own_alpha(stream_members: list[Adapting]) -> None:
    arms = {member.kind: member for member in stream_members}
    sweep = arms["alpha"].measured()["by_alpha"]
    for kind, alpha in (("source", 1.0), ("tbn", 0.0), ("alpha", 0.7)):
        right = int((arms[kind].logits.argmax(1) == arms[kind].stream.y).sum())
        at = ALPHAS.index(alpha)
        assert sweep[at] == pytest.approx(100 * right / 90, abs=1e-4), kind  # type: ignore[index]


def test_predictions_of_the_first_batch_know_nothing_of_core(stream_members: list[Adapting]) -> None:
    arms = {member.kind: member for member in stream_members}
    torch.testing.assert_close(arms["core"].logits[:20], arms["alpha"].logits[:20])
    assert not torch.allclose(arms["core"].logits[20:40], arms["alpha"].logits[20:40], atol=1e-5)
    assert arms["alpha"].measured()["buffers_moved"] == 0.0
    assert arms["alpha"].measured()["drift"] == 0.0
    assert float(arms["core"].measured()["drift"]) > 0  # type: ignore[arg-type]


def test_what_is_measured_of_the_newest_answers(stream_members: list[Adapting]) -> None:
    member = stream_members[0]
    values = member.measured()
    predicted = member.logits.argmax(1).numpy()
    shares = np.array([(predicted == c).mean() for c in range(10)])
    np.testing.assert_allclose(values["predicted"], shares, atol=1e-6)
    z = member.logits.double().numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    A = np.zeros((10, 10))
    for row in p:
        A += np.outer(row, row)
    np.testing.assert_allclose(values["correlation"], A / A.sum(1, keepdims=True), atol=1e-5)
    off = sum(A[i, j] / A[i].sum() for i in range(10) for j in range(10) if i != j)
    assert values["core_loss"] == pytest.approx(off / 10, abs=1e-5)


# -- counting cells ----------------------------------------------------------------------------------------------------


def grid_log(alpha: dict[int, np.ndarray], **arms: dict[int, np.ndarray]) -> FrameLog:
    names = {"source": SOURCE, "tbn": TBN, "core": CORE, "entropy": ENTROPY}
    log = FrameLog()
    for cell in range(len(CELLS)):
        for seed, table in alpha.items():
            log.append(Frame(cell, ALPHA, seed, {"accuracy": float(table[cell, 2]), "by_alpha": table[cell]}))
        for key, rows in arms.items():
            for seed, row in rows.items():
                log.append(Frame(cell, names[key], seed, {"accuracy": float(row[cell])}))
    return log


def test_alpha_is_chosen_on_the_other_seeds() -> None:
    n, k = len(CELLS), len(GRID_ALPHAS)
    rng = np.random.default_rng(0)
    tables = {seed: rng.uniform(0, 100, (n, k)).round(3) for seed in range(3)}
    low = {seed: rng.uniform(0, 100, n).round(3) for seed in range(3)}
    high = {seed: rng.uniform(0, 100, n).round(3) for seed in range(3)}
    knobs = Knobs(task="grid", seeds=3)
    log = grid_log(tables, source=high, tbn=low)
    found = beats_both_ends(range(n))(log, knobs)
    for seed in range(3):
        count = 0.0
        for cell in range(n):
            others = [np.mean([tables[s][cell, a] for s in range(3) if s != seed]) for a in range(k)]
            value = tables[seed][cell, int(np.argmax(others))]
            count += value > max(low[seed][cell], high[seed][cell])
        assert found[seed] == count
    one = Knobs(task="grid", seeds=1)
    assert math.isnan(beats_both_ends(range(n))(grid_log({0: tables[0]}, source=high, tbn=low), one)[0])
    assert best_elsewhere({0: tables[0]}, 0) is None


def test_ties_count_half_and_a_missing_cell_leaves_no_number() -> None:
    n, k = len(CELLS), len(GRID_ALPHAS)
    ours = {0: np.full(n, 50.0)}
    theirs = {0: np.where(np.arange(n) < 4, 50.0, np.where(np.arange(n) < 10, 60.0, 40.0))}
    knobs = Knobs(task="grid", seeds=1)
    log = grid_log({0: np.full((n, k), 55.0)}, core=ours, entropy=theirs, source=ours)
    assert wins(CORE, ENTROPY, range(n))(log, knobs) == {0: 2.0 + (n - 10)}
    assert mean_gain(0.9, SOURCE, range(n))(log, knobs) == {0: pytest.approx(5.0)}
    difference = np.mean(ours[0][:6] - theirs[0][:6])
    assert mean_difference(CORE, ENTROPY, range(6))(log, knobs) == {0: pytest.approx(difference)}
    short = FrameLog([frame for frame in log.frames if frame.step < n - 1])
    assert math.isnan(wins(CORE, ENTROPY, range(n))(short, knobs)[0])
    assert np.isnan(accuracies(short, CORE)[0][-1])
    assert np.isnan(by_alpha(short)[0][-1]).all()


def test_cells_are_all_combinations_once() -> None:
    assert len(set(CELLS)) == len(CELLS) == 4 * 2 * 3
    assert sorted(cells_where(orders=("sorted",)) + cells_where(orders=("iid",))) == list(range(len(CELLS)))
    assert {CELLS[i].batch for i in cells_where(batches=(4,))} == {4}


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_the_picture_says_who_reads_right() -> None:
    knobs = Knobs(methods=("source", "core"))
    looks = {"shown_labels": np.array([3.0, 5.0]), "shown_predicted": np.array([3.0, 8.0])}
    pictures = {"shown_pixels": np.zeros((2, 8, 8)), "shown_clean": np.ones((2, 8, 8))}
    log = FrameLog([Frame(8, SOURCE, 0, {**looks, **pictures})])
    figure = stream_figure(Board(log, knobs.shown_arms(), None, 600), knobs)
    assert figure.data is not None
    words = figure.data[figure.data["part"] == "word"]
    assert list(zip(words["text"], words["kind"], strict=True)) == [("3", "right"), ("8", "wrong")]
    assert "Source 1" in figure.alt
    assert (figure.data["part"] == "pixel").sum() == 2 * 2 * 64


def test_digit_table_refuses_what_it_has_no_room_for() -> None:
    options: dict[str, Any] = {"kind_names": ANSWERS, "title": "T", "look_for": "l", "alt_text": "a"}
    with pytest.raises(ValueError, match="columns = 1"):
        digit_table_figure([TextRow("r", ["1", "2"], ["right", "right"])], columns=1, **options)
    with pytest.raises(ValueError, match="kinds must be"):
        digit_table_figure([TextRow("r", ["1", "2"], ["right"])], columns=2, **options)
