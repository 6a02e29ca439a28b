"""Pages on a reader's own data: what is trained, what a setting needs, how it is named, what it costs."""

from __future__ import annotations

import json
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
}
IMAGES: dict[str, dict[str, Any]] = {
    "evolving-layers": {"layers": ("BN-ReLU", "S0"), "batch_sizes": ("8", "64"), "steps": 20, "seeds": 1},
}
"""Pages by what they take, each with a small setting."""


def own(slug: str, **values: Any) -> Knobs:
    """The page's small setting on files that were kept just now."""
    if slug in TABLES:
        given = {**TABLES[slug], "own_table": keep_table(plants(), "plants.csv"), "target": "species"}
    else:
        given = {**IMAGES[slug], "own_images": keep_images(shapes(), "shapes.zip")}
    return get_experiment(slug).knobs.parse({"data": "own", **given, **values})


@pytest.mark.parametrize("slug", [*TABLES, *IMAGES])
def test_a_page_trains_on_own_data(slug: str, data_folder: Path) -> None:
    knobs = own(slug)
    assert knobs.missing() == ""
    experiment = get_experiment(slug)
    log = FrameLog(experiment.frames(knobs, "cpu"))
    assert log.arms == list(knobs.shown_arms().names)
    assert log.events == []
    accuracy = log.scalars("validation_accuracy").groupby("arm")["value"].last()
    assert (accuracy > 50).all(), "three classes that lie apart: better than guessing"
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
    assert schema.parse({"data": "own"}).missing().startswith("Bring a ")
    knobs = own(slug)
    for kept in (data_folder / "uploads").iterdir():
        kept.unlink()
    assert schema.parse(knobs.to_query()) == knobs
    assert "not on this machine: upload" in knobs.missing()
    assert knobs.work() > 0


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
