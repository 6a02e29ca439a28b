from __future__ import annotations

import ast
import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest

import normviz.engine
from normviz.engine.control import ControlBlock
from normviz.engine.errors import describe
from normviz.engine.protocol import (
    ProtocolError,
    decode_frames,
    encode_frames,
    read_message,
    write_message,
)
from normviz.engine.resolve import find_experiment
from normviz.frame import Frame
from tests.engine.toy import EXPERIMENT


def test_round_trip() -> None:
    frames = [
        Frame(0, "a", 0),
        Frame(1, "ä", 2, {"loss": float("inf"), "none": float("nan"), "map": np.arange(6.0).reshape(2, 3)}),
        Frame(1, "b", 2, {"loss": 0.1 + 0.2, "empty": np.zeros((0, 4))}, event="diverged"),
    ]
    stream = io.BytesIO()
    write_message(stream, {"kind": "frames", "job": 3, "text": "µ\n"}, encode_frames(frames))
    write_message(stream, {"kind": "end"})
    stream.seek(0)
    header, payload = read_message(stream)
    assert header == {"kind": "frames", "job": 3, "text": "µ\n"}
    back = decode_frames(payload)
    assert [(f.step, f.arm, f.seed, f.event) for f in back] == [
        (f.step, f.arm, f.seed, f.event) for f in frames
    ]
    for ours, theirs in zip(frames, back, strict=True):
        assert list(ours.values) == list(theirs.values)
        for name, value in ours.values.items():
            np.testing.assert_array_equal(theirs.values[name], value)
    assert read_message(stream) == ({"kind": "end"}, b"")
    assert read_message(stream) is None


def test_every_truncation_is_the_end() -> None:
    stream = io.BytesIO()
    write_message(stream, {"kind": "frames"}, b"payload")
    whole = stream.getvalue()
    for cut in range(len(whole)):
        assert read_message(io.BytesIO(whole[:cut])) is None


@pytest.mark.parametrize(
    "garbage",
    [
        b"Epoch 1/10: loss 0.3",
        struct.pack("<II", 5, 0) + b"hello",
        struct.pack("<II", 2, 0) + b"[]",
        struct.pack("<II", 2, 0) + b"\xff\xfe",
    ],
)
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_message(io.BytesIO(garbage))


def test_payload_that_is_none() -> None:
    whole = encode_frames([Frame(0, "a", 0, {"x": 1.0})])
    for payload in (b"", b"hello", whole[:100]):
        with pytest.raises(ProtocolError, match="holds no frames"):
            decode_frames(payload)


def test_no_part_of_the_engine_unpickles() -> None:
    for path in Path(normviz.engine.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", ()) if isinstance(alias, ast.alias)]
            names.append(getattr(node, "module", None) or "")
            assert not {"pickle", "cloudpickle", "marshal", "multiprocessing"} & {
                n.split(".")[0] for n in names
            }, path


def test_control_block_is_shared_and_each_number_is_for_one_job() -> None:
    server = ControlBlock()
    worker = ControlBlock(server.path)
    server.unlink()
    assert not server.path.exists()
    assert not any(worker.cancelled(job) or worker.paused(job) for job in range(1, 4))
    server.cancel(2)
    server.pause(3)
    assert [worker.cancelled(job) for job in range(1, 4)] == [False, True, False]
    assert [worker.paused(job) for job in range(1, 4)] == [False, False, True]
    server.pause(0)
    assert not worker.paused(3)
    worker.close()
    server.close()


def test_control_block_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ControlBlock(tmp_path / "none")


def test_find_experiment() -> None:
    assert find_experiment("tests.engine.toy") is EXPERIMENT
    for name in ("", "no-such-slug", "os.system", "tests.engine.nowhere", "..os", "tests.engine.toy.frames"):
        with pytest.raises(ValueError, match=r"experiment|cannot be imported"):
            find_experiment(name)


def test_describe() -> None:
    assert describe(ValueError("two\n  lines")) == "ValueError: two lines"
    assert describe(KeyError()) == "KeyError"
    assert len(describe(ValueError("x" * 10_000))) == 500
    assert os.linesep not in describe(OSError(2, "No such file", "a\nb"))
