from __future__ import annotations

from pathlib import Path

from normviz.engine import RunStore
from normviz.engine.keeper import Keeper
from normviz.experiments import Run
from normviz.frame import Frame
from tests.engine.toy import EXPERIMENT, ToyKnobs


def train(keeper: Keeper, run: Run, steps: int) -> None:
    for step in range(steps):
        frame = Frame(step, "a", 0, {"loss": 1.0})
        run.log.append(frame)
        keeper.add(run.id, (frame,))


def test_run_that_began_without_room_is_kept_if_there_is_room_at_its_end(tmp_path: Path) -> None:
    blocked = tmp_path / "store"
    blocked.write_text("a file where the folder should be")
    store = RunStore(blocked)
    keeper, run, lost = Keeper(store), Run(EXPERIMENT, ToyKnobs()), Run(EXPERIMENT, ToyKnobs())
    for begun in (run, lost):
        begun.begin()
        keeper.begin(begun)
        train(keeper, begun, 3)
    lost.end("done")
    keeper.end(lost)
    assert keeper.message is not None
    assert "cannot be written" in keeper.message
    blocked.unlink()
    run.end("done")
    keeper.end(run)
    assert keeper.message is None
    reader = RunStore(blocked)
    (row,) = reader.list()
    assert (row.id, row.status, row.frames) == (run.id, "done", 3)
    assert reader.load(run.id).log.to_table().equals(run.log.to_table())
