from __future__ import annotations

import subprocess
import sys
import time
from itertools import count

import pytest

from tests import waiting
from tests.waiting import wait_until

BUSY = "while True: pass"
ASLEEP = "import time; time.sleep(600)"


@pytest.fixture
def child(request: pytest.FixtureRequest) -> subprocess.Popen[bytes]:
    with subprocess.Popen([sys.executable, "-c", request.param]) as process:
        yield process
        process.kill()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "QUIET", 1.0)
    monkeypatch.setattr(waiting, "_LOOK", 0.05)


def after(seconds: float) -> float:
    return time.monotonic() + seconds


def test_returns_when_the_condition_holds() -> None:
    looks = count()
    wait_until(lambda: next(looks) == 3)
    assert next(looks) == 4


def test_nothing_moves() -> None:
    with pytest.raises(AssertionError, match=r"nothing has moved for 1 s while waiting for rain"):
        wait_until(lambda: False, "rain")


@pytest.mark.parametrize("child", [ASLEEP], indirect=True)
def test_process_that_sleeps_is_no_movement(child: subprocess.Popen[bytes]) -> None:
    with pytest.raises(AssertionError, match="nothing has moved"):
        wait_until(lambda: False)


@pytest.mark.parametrize("child", [BUSY], indirect=True)
def test_process_that_works_is_waited_for(child: subprocess.Popen[bytes]) -> None:
    end = after(3.0)
    wait_until(lambda: time.monotonic() > end)


@pytest.mark.parametrize("child", [BUSY], indirect=True)
def test_work_is_bounded(child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WORK", 0.5)
    with pytest.raises(AssertionError, match=r"0\.5 s of CPU time were used"):
        wait_until(lambda: False)


def test_progress_is_movement() -> None:
    steps, end = count(), after(3.0)
    wait_until(lambda: time.monotonic() > end, progress=lambda: next(steps))
