"""Pages on a reader's own data: what is trained, what a setting needs, how it is named, what it costs."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normviz.experiments import get_experiment
from normviz.experiments.self_normalizing import classical
from normviz.experiments.self_normalizing.classical import classical_accuracies
from normviz.experiments.self_normalizing.recorded import FOREST, SVM
from normviz.frame import FrameLog
from normviz.knobs import Knobs
from normviz.own_images import keep_images
from normviz.own_tables import keep_table
from tests.own_files import plants, shapes

TABLES: dict[str, dict[str, Any]] = {
    "self-normalizing": {"arms": ("snn", "relu_bn"), "depth": 2, "width": 16, "steps": 60, "seeds": 1},
    "residual-depth": {"methods": ("inv", "layernorm"), "depth": 4, "steps": 80, "seeds": 1},
    "schedule-refinement": {"task": "digits", "schedules": ("flat",), "rates": 1, "steps": 60, "seeds": 1},
    "adaptive-batch-size": {"task": "digits", "arms": ("small", "norm"), "samples": 2000, "seeds": 1},
}
IMAGES: dict[str, dict[str, Any]] = {
    "evolving-layers": {"layers": ("BN-ReLU", "S0"), "batch_sizes": ("8", "64"), "steps": 20, "seeds": 1},
    "shifting-statistics": {
        "methods": ("source", "tbn", "alpha"),
        "images": 64,
        "seeds": 1,
        "batch_size": 16,
    },
    "federated-pruning": {
        "arms": ("fedtiny", "dense"),
        "clients": 2,
        "rounds": 4,
        "pool_size": 2,
        "seeds": 1,
    },
}
"""Pages by what they take, each with a small setting."""


def own(slug: str, **values: Any) -> Knobs:
    """The page's small setting on files that were kept just now."""
    if slug in TABLES:
        given = {**TABLES[slug], "own_table": keep_table(plants(), "plants.csv"), "target": "species"}
    else:
        given = {**IMAGES[slug], "own_images": keep_images(shapes(100), "shapes.zip")}
    return get_experiment(slug).knobs.parse({"data": "own", **given, **values})


@pytest.mark.parametrize("slug", [*TABLES, *IMAGES])
def test_a_page_trains_on_own_data(slug: str, data_folder: Path) -> None:
    knobs = own(slug)
    assert knobs.missing() == ""
    experiment = get_experiment(slug)
    log = FrameLog(experiment.frames(knobs, "cpu"))
    assert log.arms == list(knobs.shown_arms().names)
    assert log.events == []
    name = "accuracy" if "accuracy" in log.scalar_names else "validation_accuracy"
    accuracy = log.scalars(name).groupby("arm")["value"].max()
    whole = 1 if slug == "federated-pruning" else 100
    assert (accuracy > 0.5 * whole).all(), "three classes that lie apart: better than guessing"
    assert all(experiment.figures(log, knobs).values())


@pytest.mark.parametrize("slug", [*TABLES, *IMAGES])
def test_link_store_and_notebook_name_the_file(slug: str, data_folder: Path) -> None:
    knobs = own(slug)
    schema = type(knobs)
    query = knobs.to_query()
    assert query["data"] == "own"
    assert schema.parse(query) == knobs, "the link"
    assert schema.parse(json.loads(knobs.key())) == knobs, "the store"
    without = {name: value for name, value in query.items() if name != "data"}
    assert schema.parse(without) == knobs, "a file that is given says that data is one's own"
    other = schema.parse({**query, "data": "digits"})
    assert not {"own_table", "own_images", "target"} & set(other.to_query()), "no use for them"
    assert "own" not in schema().key()


@pytest.mark.parametrize("slug", [*TABLES, *IMAGES])
def test_a_setting_whose_file_is_not_here_is_valid_and_cannot_run(slug: str, data_folder: Path) -> None:
    schema = get_experiment(slug).knobs
    knobs = own(slug)
    bare = {n: v for n, v in knobs.to_query().items() if n not in ("own_table", "own_images", "target")}
    assert schema.parse(bare).missing().startswith("Bring a ")
    for kept in (data_folder / "uploads").iterdir():
        kept.unlink()
    assert schema.parse(knobs.to_query()) == knobs
    assert "not on this machine: upload" in knobs.missing()
    assert knobs.work() > 0


@pytest.mark.parametrize("task", ["grid", "tasks"])
def test_the_other_stories_of_shifting_statistics(task: str, data_folder: Path) -> None:
    ten = keep_images(shapes(180, 10), "ten.zip")
    knobs = own("shifting-statistics", task=task, own_images=ten, norms=("bn", "ada_1"), source_epochs=1)
    assert knobs.missing() == ""
    first = list(islice(get_experiment("shifting-statistics").frames(knobs, "cpu"), 30))
    assert {frame.arm for frame in first} == set(knobs.shown_arms().names)


def test_images_that_are_too_few_for_a_page_are_counted(data_folder: Path) -> None:
    key = own("shifting-statistics").pictures()  # type: ignore[attr-defined]
    for slug, values, sentence in (
        (
            "shifting-statistics",
            {"images": 151},
            f"The images {key} are 300; at least 302 are needed here. Or lower the stream length: ",
        ),
        ("shifting-statistics", {"task": "tasks"}, f"The images {key} have 3 classes; here at least 10 are"),
        (
            "federated-pruning",
            {"clients": 4},
            f"The images {key} are 300; at least 347 are needed here. Or lower",
        ),
    ):
        assert own(slug, **values).missing().startswith(sentence)
    assert own("shifting-statistics", images=150).missing() == ""
    many = keep_images(shapes(20, 11), "shapes.zip")
    assert "have 11 classes; here at most 10" in own("federated-pruning", own_images=many).missing()


def test_charts_show_the_classes_that_are_there(data_folder: Path) -> None:
    knobs = own("shifting-statistics")
    experiment = get_experiment("shifting-statistics")
    log = FrameLog(experiment.frames(knobs, "cpu"))
    figures = experiment.figures(log, knobs)
    for name in ("predicted", "correlation"):
        data = figures[name].data
        assert data is not None
        assert set(data["column"]) == {"0", "1", "2"}, name
    assert figures["digits"].title == "The newest images, and what is read"
    knobs = own("federated-pruning", rounds=3)
    experiment = get_experiment("federated-pruning")
    labels = experiment.figures(FrameLog(experiment.frames(knobs, "cpu")), knobs)["labels"]
    assert labels.title == "Who has which classes"
    assert labels.data is not None
    assert set(labels.data["digit"]) == {0, 1, 2}


def test_a_class_that_is_not_there_has_no_accuracy(data_folder: Path) -> None:
    log = FrameLog(get_experiment("federated-pruning").frames(own("federated-pruning", rounds=3), "cpu"))
    recall = log.arrays("recall")[-1].value
    assert np.isfinite(recall[:3]).all()
    assert np.isnan(recall[3:]).all()


@pytest.mark.parametrize("slug", ["schedule-refinement", "adaptive-batch-size"])
def test_a_file_means_the_task_that_uses_it(slug: str, data_folder: Path) -> None:
    schema = get_experiment(slug).knobs
    table = {"own_table": keep_table(plants(), "plants.csv"), "target": "species"}
    assert schema.parse(table).to_query()["task"] == "digits"
    other = schema().model_dump()["task"]
    assert schema.parse({**table, "task": other}).model_dump()["task"] == other
    assert schema.parse({"data": "own"}).missing() == "", "another task has no use for it"


def test_a_first_batch_must_fit(data_folder: Path) -> None:
    few = keep_table(plants(60), "plants.csv")
    sentence = own("adaptive-batch-size", own_table=few, initial_batch=64).missing()
    assert sentence == "Of 60 examples too few are left for a first batch of 64: lower it."
    assert own("adaptive-batch-size", own_table=few, initial_batch=32).missing() == ""


def test_a_page_that_takes_both_trains_on_images_too(data_folder: Path) -> None:
    key = keep_images(shapes(), "shapes.zip")
    knobs = own("residual-depth", own_table="", target="", own_images=key, steps=20)
    assert knobs.missing() == ""
    log = FrameLog(get_experiment("residual-depth").frames(knobs, "cpu"))
    assert set(log.scalars("validation_accuracy")["arm"]) == set(knobs.shown_arms().names)
    assert own("residual-depth", own_images=key) != own("residual-depth"), "images go before a table"
    assert own("residual-depth", task="expansion", target="").missing() == "", "it has no data"
    wide = own("residual-depth", own_images=key)
    assert wide.work() > own("residual-depth").work(), "784 values instead of 4"


def test_a_target_that_is_no_column_is_named(data_folder: Path) -> None:
    assert (
        "there is no column 'specie'. Nearest: species" in own("self-normalizing", target="specie").missing()
    )
    assert own("self-normalizing", target="").missing().endswith("that is classified: colour, species.")
    assert own("self-normalizing", target="colour").missing() == ""


def test_estimates_grow_with_the_rows_of_a_table(data_folder: Path) -> None:
    few = own("self-normalizing", classical=True)
    many = own("self-normalizing", classical=True, own_table=keep_table(plants(9000), "plants.csv"))
    assert many.work() > 1.5 * few.work()
    assert own("self-normalizing", data="digits").work() < few.work()


def test_what_is_fitted_beside_networks_takes_part_of_many_rows(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most that are fitted, in the shares of the classes; the test examples are all there."""
    from sklearn.svm import SVC

    from normviz.data import load_own_table

    data = load_own_table(keep_table(plants(400), "plants.csv"), "species")
    fitted: list[np.ndarray] = []
    fit = SVC.fit

    def recorded(self: SVC, x: np.ndarray, y: np.ndarray, **more: Any) -> SVC:
        fitted.append(np.bincount(y))
        return fit(self, x, y, **more)

    monkeypatch.setattr(SVC, "fit", recorded)
    monkeypatch.setattr(classical, "MOST_ROWS", 90)
    monkeypatch.setattr(classical, "TREES", 20)
    found = classical_accuracies(data, 0)
    assert fitted[-1].tolist() == [30, 30, 30], "the fit to all that were drawn, after the folds"
    assert all(found[name] > 60 for name in (SVM, FOREST))
