"""Writers: what TensorBoard reads back is what was logged; what Weights & Biases is given, in the order it takes."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normviz.frame import Frame, FrameLog
from normviz.writers import log_to_wandb, to_tensorboard, to_wandb

SPIKES = np.array([1.0, 2.0, np.nan, 4.0, np.inf], dtype=np.float32)


def log() -> FrameLog:
    """Two arms and two seeds; the second arm comes late, and one of its networks diverges."""
    frames = [
        Frame(step, arm, seed, {"loss": 1.0 / (1 + step + seed), "map": SPIKES * (1 + step)})
        for arm in ("layer norm", "a/b: λ = 0.5")
        for step in range(3)
        for seed in (0, 1)
    ]
    frames.append(Frame.diverged(3, "a/b: λ = 0.5", 1, "the loss is inf"))
    frames.append(
        Frame(3, "layer norm", 0, {"empty": np.array([], dtype=np.float32), "all lost": [math.nan]})
    )
    return FrameLog(frames)


# -- TensorBoard -------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TensorBoard's own imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(
            str(folder), size_guidance={"histograms": 0, "scalars": 0, "tensors": 0}
        )
        accumulator.Reload()
    return accumulator


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folders = to_tensorboard(log(), tmp_path / "runs")
    assert [str(folder.relative_to(tmp_path / "runs")) for folder in folders] == [
        "layer norm/seed 0",
        "layer norm/seed 1",
        "a%2Fb%3A %CE%BB = 0.5/seed 0",
        "a%2Fb%3A %CE%BB = 0.5/seed 1",
    ]
    for folder, seed, diverged in zip(folders, (0, 1, 0, 1), (False, False, False, True), strict=True):
        back = read(folder)
        losses = [(e.step, e.value) for e in back.Scalars("loss")]
        expected = [(step, float(np.float32(1.0 / (1 + step + seed)))) for step in range(3)]
        assert losses == expected + [(3, math.inf)] * diverged
        maps = [e.histogram_value for e in back.Histograms("map")]
        assert [(h.num, h.min, h.max, h.sum) for h in maps] == [
            (3, 1.0 + step, 4.0 * (1 + step), 7.0 * (1 + step)) for step in range(3)
        ]
        assert back.Tags()["histograms"] == ["map"], "arrays without a finite entry have no histogram"
        texts = [
            e.tensor_proto.string_val[0].decode()
            for name in back.Tags()["tensors"]
            for e in back.Tensors(name)
        ]
        assert texts == ["diverged at step 3: the loss is inf"] * diverged


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_without_arrays(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    first, *_ = to_tensorboard(log(), tmp_path, arrays=False)
    assert read(first).Tags()["histograms"] == []
    assert to_tensorboard(FrameLog(), tmp_path / "none") == []


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("torch.utils.tensorboard", "tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"^to_tensorboard needs TensorBoard: .*normviz\[tensorboard\]'\.$"):
        to_tensorboard(log(), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ImportError, match=r"^to_wandb needs wandb: pip install 'normviz\[wandb\]'\.$"):
        to_wandb(log(), project="p")


# -- Weights & Biases --------------------------------------------------------------------------------------------------


class OpenRun:
    """Takes values as Weights & Biases does: a step that lies behind the last one is refused."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: dict[tuple[str, int], Any] = {}
        self.summary: dict[str, str] = {}
        self.finished = False

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        assert step is not None
        assert not self.steps or step > self.steps[-1]
        self.steps.append(step)
        self.values |= {(name, step): value for name, value in data.items()}

    def finish(self) -> None:
        self.finished = True


def test_wandb_gets_every_value_once_in_order_of_steps() -> None:
    run = OpenRun()
    log_to_wandb(log(), run)
    assert run.steps == [0, 1, 2, 3]
    assert run.values == {
        **{
            (f"{arm}/seed {seed}/loss", step): 1.0 / (1 + step + seed)
            for arm in ("layer norm", "a/b: λ = 0.5")
            for seed in (0, 1)
            for step in range(3)
        },
        ("a/b: λ = 0.5/seed 1/loss", 3): math.inf,
    }
    assert run.summary == {"a/b: λ = 0.5/seed 1/event": "diverged at step 3: the loss is inf"}


def test_wandb_gets_histograms_of_what_is_finite() -> None:
    run = OpenRun()
    log_to_wandb(log().view({"layer norm": "renamed"}), run, histogram=lambda entries: entries.tolist())
    maps = {key: value for key, value in run.values.items() if key[0].endswith("/map")}
    assert maps == {
        (f"renamed/seed {seed}/map", step): [1.0 + step, 2.0 * (1 + step), 4.0 * (1 + step)]
        for seed in (0, 1)
        for step in range(3)
    }
    assert all(name.startswith("renamed/") for name, _ in run.values)


def test_to_wandb_opens_and_finishes_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[OpenRun, dict[str, Any]]] = []

    class Module:
        Histogram = staticmethod(len)

        @staticmethod
        def init(**options: Any) -> OpenRun:
            opened.append((OpenRun(), options))
            return opened[-1][0]

    monkeypatch.setitem(sys.modules, "wandb", Module)  # type: ignore[arg-type]
    to_wandb(log(), project="norms", mode="offline")
    ((run, options),) = opened
    assert options == {"project": "norms", "mode": "offline"}
    assert run.finished
    assert run.values["layer norm/seed 0/map", 0] == 3, "finite entries"
