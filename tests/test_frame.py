from __future__ import annotations

import math
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from normviz.frame import Event, Frame, FrameLog, frames_to_table, schema, table_to_frames

# -- Frame -------------------------------------------------------------------------------------------------------------


def test_values_become_floats_and_float32_arrays() -> None:
    frame = Frame(
        3,
        "a",
        0,
        {
            "int": 2,
            "bool": True,
            "numpy": np.float32(0.5),
            "zero_d": np.array(1.5),
            "list": [1, 2],
            "array": np.arange(4, dtype=np.int64).reshape(2, 2),
            "empty": [],
        },
    )
    assert {name: value for name, value in frame.values.items() if isinstance(value, float)} == {
        "int": 2.0,
        "bool": 1.0,
        "numpy": 0.5,
        "zero_d": 1.5,
    }
    for name, shape in (("list", (2,)), ("array", (2, 2)), ("empty", (0,))):
        value = frame.values[name]
        assert isinstance(value, np.ndarray)
        assert (value.dtype, value.shape) == (np.float32, shape)


def test_a_frame_is_a_snapshot() -> None:
    array, values = np.zeros(3, dtype=np.float32), {"x": 1.0}
    frame = Frame(0, "a", 0, {"array": array, **values})
    array += 1
    assert np.asarray(frame.values["array"]).tolist() == [0, 0, 0]
    with pytest.raises(AttributeError):
        frame.step = 1  # type: ignore[misc]


@pytest.mark.parametrize("value", ["high", None, 1j, {"a": 1}, ["x"]])
def test_values_that_are_no_numbers(value: object) -> None:
    with pytest.raises(ValueError, match=r"must be a number or an array of numbers|could not convert"):
        Frame(0, "a", 0, {"loss": value})  # type: ignore[dict-item]


def test_bad_steps_and_arms() -> None:
    with pytest.raises(ValueError, match="step must be >= 0, got -1"):
        Frame(-1, "a", 0)
    with pytest.raises(ValueError, match="arm must be a non-empty name"):
        Frame(0, "", 0)


# -- FrameLog ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def log() -> FrameLog:
    return FrameLog(
        [
            Frame(0, "a", 0, {"loss": 4.0}),
            Frame(0, "b", 0, {"loss": 5.0, "map": [1.0, 2.0]}),
            Frame(1, "a", 0, {"loss": 3.0, "map": [3.0, 4.0]}),
            Frame(1, "a", 1, {"loss": 2.0}),
            Frame(2, "b", 0, {"other": 7.0, "map": [5.0, 6.0]}, event="diverged at step 2", kind="diverged"),
            Frame(4, "a", 0, {"loss": 1.0}),
        ]
    )


def test_what_a_log_knows(log: FrameLog) -> None:
    assert len(log) == 6
    assert (log.arms, log.seeds, log.last_step) == (["a", "b"], [0, 1], 4)
    assert log.progress_step == (4 + 1 + 4) / 3
    assert (log.scalar_names, log.array_names) == (["loss", "other"], ["map"])
    assert log.events == [Event(2, "b", 0, "diverged at step 2", "diverged")]
    assert repr(log) == "FrameLog(6 frames, 2 arms, last step 4)"
    assert [frame.step for frame in log.frames] == [0, 0, 1, 1, 2, 4]


def test_scalars(log: FrameLog) -> None:
    table = log.scalars("loss")
    assert table.to_dict("list") == {
        "step": [0, 0, 1, 1, 4],
        "arm": ["a", "b", "a", "a", "a"],
        "seed": [0, 0, 0, 1, 0],
        "value": [4.0, 5.0, 3.0, 2.0, 1.0],
    }
    assert log.scalars("loss") is table, "built once per new value"
    log.append(Frame(5, "c", 0, {"loss": 0.5}))
    assert log.scalars("loss")["arm"].tolist() == ["a", "b", "a", "a", "a", "c"]
    nothing = log.scalars("absent")
    assert list(nothing.columns) == ["step", "arm", "seed", "value"]
    assert nothing.empty


def test_arrays_at_a_moment(log: FrameLog) -> None:
    def seen(step: int | None) -> dict[str, tuple[int, list[float]]]:
        return {entry.arm: (entry.step, entry.value.tolist()) for entry in log.arrays("map", step)}

    assert seen(None) == {"b": (2, [5.0, 6.0]), "a": (1, [3.0, 4.0])}
    assert seen(1) == {"b": (0, [1.0, 2.0]), "a": (1, [3.0, 4.0])}
    assert seen(0) == {"b": (0, [1.0, 2.0])}, "what comes later is left out"
    assert log.arrays("absent") == []
    assert [entry.step for entry in log.array_history("map")] == [0, 1, 2]


def test_final_values(log: FrameLog) -> None:
    def final(window: int) -> dict[tuple[str, int], float]:
        table = log.final("loss", window=window)
        return {(arm, seed): value for arm, seed, value in table.itertuples(index=False)}

    assert final(1) == {("a", 0): 1.0, ("b", 0): 5.0, ("a", 1): 2.0}
    assert final(2) == {("a", 0): 2.0, ("b", 0): 5.0, ("a", 1): 2.0}
    assert log.final("absent").empty


def test_final_values_are_in_the_order_of_arms_and_seeds() -> None:
    arrived = [(0, "b", 2), (0, "a", 1), (1, "a", 10), (1, "a", 1), (1, "b", 0), (1, "b", 2)]
    log = FrameLog(Frame(step, arm, seed, {"loss": float(seed)}) for step, arm, seed in arrived)
    table = log.final("loss")
    assert list(zip(table["arm"], table["seed"], table["value"], strict=True)) == [
        ("b", 0, 0.0),
        ("b", 2, 2.0),
        ("a", 1, 1.0),
        ("a", 10, 10.0),
    ]


def test_to_dataframe(log: FrameLog) -> None:
    table = log.to_dataframe()
    assert list(table.columns) == ["step", "arm", "seed", "loss", "other"]
    assert table[["step", "arm", "seed"]].to_numpy().tolist() == [
        [0, "a", 0],
        [0, "b", 0],
        [1, "a", 0],
        [1, "a", 1],
        [2, "b", 0],
        [4, "a", 0],
    ]
    assert table["loss"].isna().tolist() == [False, False, False, False, True, False]
    assert list(FrameLog().to_dataframe().columns) == ["step", "arm", "seed"]


def test_an_empty_log() -> None:
    log = FrameLog()
    assert (len(log), log.arms, log.seeds, log.last_step, log.progress_step) == (0, [], [], 0, 0.0)
    assert log.to_table().num_rows == 0
    assert len(FrameLog.from_table(log.to_table())) == 0


def test_reading_while_another_thread_appends() -> None:
    log, problems = FrameLog(), []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            table = log.scalars("loss")
            if table["value"].tolist() != [float(step) for step in range(len(table))]:
                problems.append(len(table))
            log.to_dataframe()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for step in range(2000):
        log.append(Frame(step, f"arm {step % 5}", 0, {"loss": float(step)}))
    done.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert len(log.scalars("loss")) == 2000


# -- Arrow -------------------------------------------------------------------------------------------------------------

scalars = st.floats(allow_nan=True, allow_infinity=True)
matrices = arrays(
    np.float32, array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3), elements=st.floats(width=32)
)
frames = st.builds(
    Frame,
    step=st.integers(0, 2**40),
    arm=st.text(min_size=1, max_size=5),
    seed=st.integers(0, 9),
    values=st.dictionaries(st.text(min_size=1, max_size=5), scalars | matrices, max_size=3),
    event=st.none() | st.text(max_size=5),
)


def same(a: Frame, b: Frame) -> bool:
    if (a.step, a.arm, a.seed, a.event) != (
        b.step,
        b.arm,
        b.seed,
        b.event,
    ) or a.values.keys() != b.values.keys():
        return False
    return all(
        np.shape(a.values[n]) == np.shape(b.values[n])
        and type(a.values[n]) is type(b.values[n])
        and np.array_equal(a.values[n], b.values[n], equal_nan=True)
        for n in a.values
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(frames, max_size=6))
def test_table_round_trip(given_frames: list[Frame]) -> None:
    table = frames_to_table(given_frames)
    assert table.schema == schema()
    back = table_to_frames(table)
    assert len(back) == len(given_frames)
    assert all(map(same, back, given_frames))


def test_parts_of_a_log_join_to_the_whole(log: FrameLog) -> None:
    parts = pa.concat_tables([frames_to_table(log.frames[:2]), frames_to_table(log.frames[2:])])
    back = FrameLog.from_table(parts)
    assert all(map(same, back.frames, log.frames))
    assert back.events == log.events


def test_frames_with_nothing_in_them_are_kept() -> None:
    bare = [Frame(0, "a", 0), Frame(1, "a", 0), Frame(1, "a", 1)]
    assert [(f.step, f.arm, f.seed, dict(f.values)) for f in table_to_frames(frames_to_table(bare))] == [
        (0, "a", 0, {}),
        (1, "a", 0, {}),
        (1, "a", 1, {}),
    ]


def test_the_same_name_twice_at_one_step_stays_two_frames() -> None:
    twice = [Frame(0, "a", 0, {"loss": 1.0}), Frame(0, "a", 0, {"loss": math.nan})]
    back = table_to_frames(frames_to_table(twice))
    assert all(map(same, back, twice))
    assert len(back) == 2


def test_frames_of_one_moment_stay_apart() -> None:
    apart = [Frame(0, "a", 0), Frame(0, "a", 0, {"accuracy": 0.5}), Frame(0, "a", 0, {"loss": 1.0})]
    back = table_to_frames(frames_to_table(apart))
    assert len(back) == 3
    assert all(map(same, back, apart))


def test_a_table_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have the columns .*, got \['x'\]"):
        table_to_frames(pa.table({"x": [1]}))


def test_two_events_of_one_moment_are_both_kept() -> None:
    frames = [Frame(1, "A", 0, {"x": 1.0}, "first"), Frame(1, "A", 0, {"y": 2.0}, "second")]
    back = table_to_frames(frames_to_table(frames))
    assert [f.event for f in back] == ["first", "second"]
    assert [dict(f.values) for f in back] == [{"x": 1.0}, {"y": 2.0}]


def test_what_arrives_later_is_not_in_a_view() -> None:
    log = FrameLog([Frame(0, "a", 0, {"x": 1.0, "y": [2.0]}, "first")])
    view = log.view()
    log.append(Frame(1, "b", 1, {"x": 3.0, "y": [4.0], "z": 5.0}, "second"))
    assert (view.arms, view.seeds, view.last_step, len(view)) == (["a"], [0], 0, 1)
    assert view.scalars("x")["value"].tolist() == [1.0]
    assert [entry.value.tolist() for entry in view.array_history("y")] == [[2.0]]
    assert [event.text for event in view.events] == ["first"]
    assert (view.scalar_names, view.scalars("z").empty) == (["x"], True)


def test_a_view_renames_and_leaves_out() -> None:
    log = FrameLog(
        Frame(step, arm, 0, {"x": 10.0 * i + step, "y": [float(i)]}, f"{arm} went on")
        for step in range(2)
        for i, arm in enumerate(("a, lr 1", "a, lr 2", "b, lr 1"))
    )
    view = log.view({"b, lr 1": "b", "a, lr 2": "a", "c, lr 9": "c"})
    assert view.arms == ["b", "a"]
    assert view.scalars("x").to_numpy().tolist() == [
        [0, "a", 0, 10.0],
        [0, "b", 0, 20.0],
        [1, "a", 0, 11.0],
        [1, "b", 0, 21.0],
    ]
    assert [(e.arm, e.value.tolist()) for e in view.arrays("y")] == [("a", [1.0]), ("b", [2.0])]
    assert {e.arm for e in view.events} == {"a", "b"}
    assert view.view({"a": "A"}).scalars("x")["arm"].tolist() == ["A", "A"]
    assert view.to_dataframe().shape == (4, 4)
    with pytest.raises(ValueError, match="different names"):
        log.view({"a, lr 1": "a", "a, lr 2": "a"})


def test_a_member_that_diverged_is_known_and_counts_as_if_at_the_front() -> None:
    log = FrameLog([Frame(4, "a", 0, {"x": 1.0}), Frame.diverged(2, "b", 0, "the training loss is inf")])
    assert log.diverged == {("b", 0)}
    assert log.progress_step == 4
    assert FrameLog.from_table(log.to_table()).diverged == {("b", 0)}


def test_tables_from_before_events_had_a_kind_are_read() -> None:
    log = FrameLog([Frame(1, "a", 0, {}, "a note"), Frame.diverged(2, "a", 0, "the training loss is inf")])
    old = log.to_table().drop_columns(["kind"])
    assert [event.kind for event in FrameLog.from_table(old).events] == ["note", "diverged"]
