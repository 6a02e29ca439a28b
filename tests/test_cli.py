from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from normviz import _cli_app, _cli_flags, cli
from normviz._cli_flags import UsageError, combinations, parse_knobs
from normviz._cli_output import RunProgress
from normviz.catalog import PAGES, PAPERS
from normviz.cli import main
from normviz.engine import RunStore, read_parquet
from normviz.experiments import SLUGS, Run, get_experiment
from normviz.frame import Frame
from normviz.uploads import read_text
from tests.app_server import is_healthy
from tests.engine.toy import EXPERIMENT as TOY
from tests.engine.toy import ToyKnobs
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
NAME = "tests.engine.toy"
REAL = "normalization-statistics"

OWN = """
from normviz.claims import Claim, by_seed
from normviz.experiments import Experiment
from normviz.knobs import Knobs, knob


class OwnKnobs(Knobs):
    steps: int = knob(4, 1, 10, label="Steps", help="Steps.")
    seeds: int = knob(2, 1, 5, label="Seeds", help="Seeds.")


def claim(id, **options):
    return Claim(id, "layer-norm", f"The claim {id}.", "In a table.", "a number", **options)


CLAIMS = (
    claim("low", measure=lambda log, knobs: by_seed(log.scalars("loss")), threshold=10.0),
    claim("high", measure=lambda log, knobs: by_seed(log.scalars("loss")), threshold=10.0, side="above", unit="nats"),
    claim("wide", measure=lambda log, knobs: {0: -1.0, 1: 1.0}),
    claim("infinite", measure=lambda log, knobs: {0: float("inf"), 1: 0.0}),
    claim("absent", measure=lambda log, knobs: {}, needs="another task"),
)
EXPERIMENT = Experiment(
    slug="own", title="Own [experiment]", question="?", papers=(), knobs=OwnKnobs, package=__name__,
    draw=lambda log, knobs, step: {}, claims=CLAIMS,
)
"""
OWN_FRAMES = """
from normviz.frame import Frame


def frames(knobs, device):
    for step in range(knobs.steps + 1):
        for seed in range(knobs.seeds):
            yield Frame(step, "only", seed, {"loss": 1.0 + seed / 10 + 1 / (1 + step)})
"""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch, data_folder: Path) -> None:
    monkeypatch.setenv("COLUMNS", "220")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The package of an experiment with claims, outside of normviz."""
    folder = tmp_path / "lab" / "own"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(OWN)
    (folder / "frames.py").write_text(OWN_FRAMES)
    (folder.parent / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        monkeypatch.delitem(sys.modules, name)
    return "lab.own"


def stored(folder: Path) -> list[tuple[str, str]]:
    store = RunStore(folder)
    rows = [(run.slug, run.status) for run in store.list()]
    store.close()
    return rows


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must be refused: code 2, one line on standard error, nothing on standard output."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("normviz: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, "one sentence"
    assert "Traceback" not in err
    return err.removeprefix("normviz: ").strip()


# -- list, help --------------------------------------------------------------------------------------------------------


def test_list_names_every_page_and_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(slug in out for slug in PAGES)
    assert all(paper.arxiv in out for paper in PAPERS.values())
    assert re.search(rf"{REAL}\s*│ built ", out)
    assert out.count("planned") == len(PAGES) - len(SLUGS)


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    pages = json.loads(capsys.readouterr().out)
    assert [page["page"] for page in pages] == list(PAGES)
    assert {page["page"] for page in pages if page["status"] == "built"} == set(SLUGS)
    assert sorted(paper["arxiv"] for page in pages for paper in page["papers"]) == sorted(
        paper.arxiv for paper in PAPERS.values()
    )


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "reproduce" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("normviz 0.")
    assert main(["run", "--help"]) == 0
    assert REAL in capsys.readouterr().out
    assert main(["run", REAL, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for control in get_experiment(REAL).knobs.controls().values():
        assert f"--{control.name.replace('_', '-')}" in text
        assert control.help[:30] in text
        if control.kind in ("int", "float", "choice", "choices"):
            assert f"Takes {control.allowed}." in text
    assert "130 interrupted" in text


@pytest.mark.parametrize("slug", SLUGS)
def test_flags_of_every_knob_give_the_knobs_back(slug: str) -> None:
    schema = get_experiment(slug).knobs
    flags: list[str] = []
    for control in schema.controls().values():
        flag = control.name.replace("_", "-")
        if control.kind == "bool":
            flags.append(f"--{flag}" if control.default else f"--no-{flag}")
        else:
            listed = control.default if isinstance(control.default, tuple) else (control.default,)
            flags += [f"--{flag}", *map(str, listed)]
    parser, _ = cli._parsers(["run", slug])
    parsed, unknown = parser.parse_known_args(["run", slug, *flags, "--device", "cpu"])
    given = _cli_flags.given_knobs(parsed)
    assert not unknown
    assert set(given) == set(schema.controls())
    assert parse_knobs(schema, given) == schema()


def test_several_options_with_spaces_or_commas() -> None:
    parser, _ = cli._parsers(["run", REAL])
    for words in (["layer", "power"], ["layer,power"], ["layer,", "power"]):
        parsed = parser.parse_args(
            ["run", REAL, "--norms", *words, "--no-reference", "--learning-rate", "5e-3"]
        )
        knobs = parse_knobs(get_experiment(REAL).knobs, _cli_flags.given_knobs(parsed)).model_dump()
        assert (knobs["norms"], knobs["reference"], knobs["learning_rate"]) == (
            ("layer", "power"),
            False,
            5e-3,
        )


def test_no_torch_before_a_run_starts() -> None:
    commands = [
        ["list"],
        ["run", REAL, "--help"],
        ["run", REAL, "--steps", "1"],
        ["run", REAL, "--out", "/nowhere/x.csv"],
        ["sweep", REAL, "--grid", "steps=1"],
        ["run", NAME, "--no-store", "--quiet"],
        ["app", "--port", "0"],
    ]
    code = (
        "import sys; from normviz.cli import main\n"
        f"codes = [main(c) for c in {commands!r}]\n"
        "heavy = {'torch', 'streamlit', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert codes == [0, 0, 2, 2, 2, 0, 2], codes"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rum"], "There is no command 'rum'. Nearest: run."),
        (["list", "--jsn"], "There is no flag --jsn. Nearest: --json."),
        (["run"], f"Name an experiment: {', '.join(SLUGS)}."),
        (
            ["run", "normalisation-statistic"],
            f"There is no experiment 'normalisation-statistic'. Nearest: {REAL}",
        ),
        (["run", "no.such.package"], "The experiment package 'no.such.package' cannot be imported"),
        (["run", REAL, "--lerning-rate", "1"], "Nearest: --learning-rate (0.0001 to 0.1)"),
        (
            ["run", REAL, "--learning-rate", "-1e-3"],
            "learning_rate = -1e-3 is not allowed: it takes 0.0001 to 0.1.",
        ),
        (["run", REAL, "--learning-rate", "nan"], "learning_rate = nan is not allowed"),
        (["run", REAL, "--steps", "5"], "steps = 5 is not allowed: it takes 10 to 1000."),
        (["run", REAL, "--steps", "ten"], "steps = ten is not allowed: it takes 10 to 1000."),
        (["run", REAL, "--steps"], "--steps needs a value: it takes 10 to 1000."),
        (["run", REAL, "--norms"], "--norms needs a value: it takes 1 or more of layer, batch"),
        (["run", REAL, "--norms", "layr", "power"], "norms = layr,power is not allowed"),
        (["run", REAL, "--norms", "layr"], "Nearest: layer."),
        (["run", REAL, "--task", "langauge"], "task = langauge is not allowed: it takes one of language"),
        (["run", REAL, "extra"], "'extra' is one argument too many."),
        (["run", REAL, "--ste", "20"], "There is no flag --ste."),
        (["run", REAL, "--out", "x.txt"], "x.txt must end in .parquet or .csv."),
        (["run", REAL, "--device", "abacus"], "device must be 'auto' or one of"),
        (["run", REAL, "--steps", "1000", "--seeds", "5", "--batch-size", "128"], "steps fit."),
        (["run", REAL, "--corpus", "nowhere.txt"], "there is no file 'nowhere.txt'."),
        (["run", REAL, "--corpus", "text-0123456789ab"], "is not on this machine: upload it again."),
        (["sweep", REAL], "A sweep needs at least one --grid"),
        (["sweep", REAL, "--grid", "steps"], "--grid takes name=value,value,…, got 'steps'."),
        (["sweep", REAL, "--grid", "steps="], "--grid takes name=value,value"),
        (["sweep", REAL, "--grid", "stepz=10"], "There is no knob 'stepz'. Nearest: steps (10 to 1000)"),
        (["sweep", REAL, "--grid", "steps=10,5"], "steps=5: steps = 5 is not allowed"),
        (["sweep", REAL, "--grid", "norms=layr"], "Nearest: layer."),
        (["sweep", REAL, "--grid", "steps=10", "--grid", "steps=20"], "--grid steps is given twice"),
        (
            ["sweep", REAL, "--grid", "steps=10", "--steps", "20"],
            "steps is given both as a flag and in --grid.",
        ),
        (["reproduce", "everything"], "There is no experiment 'everything'."),
        (["reproduce", REAL, "--seeds", "9"], f"{REAL}: seeds = 9 is not allowed: it takes 1 to 5."),
        (["reproduce", "--json", "x.csv"], "x.csv must end in .json."),
        (["app", "--port", "70000"], "--port takes 1 to 65535, got '70000'."),
        (["app", "--address", "no.such.host.invalid"], "The app cannot listen on no.such.host.invalid: "),
    ],
)
def test_refusals_name_the_nearest_and_the_range(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], data_folder: Path
) -> None:
    assert sentence in refused(capsys, *arguments)
    assert stored(data_folder) == [], "nothing was started"


def test_planned_pages_cannot_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    for slug in [slug for slug in PAGES if slug not in SLUGS][:1]:
        assert "is planned, not built yet" in refused(capsys, "run", slug)


def test_output_is_checked_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = tmp_path / "steps"
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()

    def refuse(out: Path) -> str:
        return refused(capsys, "run", NAME, "--tally", str(tally), "--out", str(out))

    assert "there is no folder" in refuse(tmp_path / "missing" / "run.csv")
    assert "there is no folder" in refuse(tmp_path / "file" / "run.csv")
    assert "is a folder" in refuse(tmp_path / "folder.csv")

    def read_only(**options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(cli.tempfile, "TemporaryFile", read_only)
    assert refuse(tmp_path / "run.csv").endswith("run.csv cannot be written: Read-only file system.")
    assert not tally.exists(), "no step was made"
    assert stored(tmp_path) == []


# -- run ---------------------------------------------------------------------------------------------------------------


def test_run_stores_and_writes(tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "run.csv"
    assert (
        main(["run", NAME, "--steps", "10", "--arms", "a", "b", "--tag", "-2.5", "--out", str(target)]) == 0
    )
    out, err = capsys.readouterr()
    assert stored(data_folder) == [("toy", "done")]
    assert re.search(r"Done in \d+\.\d s\. Run [0-9a-f]{12} is kept in ", out)
    assert "Toy: step 2 of 10, about 0 s left; loss: a 0.333, b 0.333" in err
    assert "Toy: step 10 of 10; loss: a 0.0909, b 0.0909" in err
    table = pd.read_csv(target)
    assert table["step"].tolist() == [step for step in range(11) for _ in "ab"]
    assert set(table["tag"]) == {-2.5}
    assert [path.name for path in tmp_path.glob("run*")] == [
        "run.csv",
        *(p.name for p in tmp_path.glob("runs.*")),
    ]


def test_parquet_is_the_stored_run(tmp_path: Path, data_folder: Path) -> None:
    target = tmp_path / "run.parquet"
    assert main(["run", NAME, "--steps", "3", "--out", str(target), "--quiet"]) == 0
    back = read_parquet(target, TOY)
    store = RunStore(data_folder)
    kept = store.load(back.id)
    assert back.knobs == kept.knobs == ToyKnobs(steps=3)
    assert back.log.to_table().equals(kept.log.to_table())
    store.close()


def test_no_store_and_quiet(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", NAME, "--no-store", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert stored(data_folder) == []


def test_failed_run(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "run.csv"
    assert main(["run", NAME, "--mode", "raise", "--out", str(target)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "normviz: The run failed (--traceback shows where): ArithmeticError: the loss is odd" in err
    assert "Traceback" not in err
    assert not target.exists()
    assert stored(data_folder) == [("toy", "failed")]
    assert main(["run", NAME, "--mode", "raise", "--traceback"]) == 1
    assert "_misbehave" in capsys.readouterr().err


def test_result_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Run, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "to_parquet", full)
    assert main(["run", NAME, "--out", str(tmp_path / "run.parquet")]) == 1
    assert "run.parquet could not be written: No space left on device." in capsys.readouterr().err


def test_store_that_cannot_be_written_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NORMVIZ_DATA", str(tmp_path / "file"))
    assert main(["run", NAME]) == 0
    out, err = capsys.readouterr()
    assert "could not be kept" in err
    assert "is kept" not in out + err


def _take_interrupts() -> None:
    """A job in the background of a shell is born deaf to Ctrl-C; the reader's is not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("options", [[], ["--no-store"]])
def test_ctrl_c_keeps_what_there_is(data_folder: Path, tmp_path: Path, options: list[str]) -> None:
    target = tmp_path / "run.csv"
    gate = tmp_path / "gate"
    gate.write_bytes(b"." * 300)  # the steps it can make: it waits there, however fast the machine is
    command = [sys.executable, "-m", "normviz.cli", "run", NAME, "--steps", "1000", "--gate", str(gate)]
    process = subprocess.Popen(
        [*command, "--out", str(target), *options],
        cwd=ROOT,
        preexec_fn=_take_interrupts,  # noqa: PLW1509
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = [process.stderr.readline(), process.stderr.readline()]
    assert lines[1].startswith("Toy: step 200 of 1000"), lines
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    said = re.search(r"Interrupted at step (\d+) of 1000\. (.*)", err)
    assert said is not None
    assert 200 <= int(said[1]) <= 300
    assert len(pd.read_csv(target)) == int(said[1]) + 1
    if options:
        assert said[2] == "The run is not kept (--no-store)."
    else:
        assert stored(data_folder) == [("toy", "cancelled")]
        assert re.fullmatch(rf"Run [0-9a-f]{{12}} is kept in {re.escape(str(data_folder))}\.", said[2])
    assert "Claim" not in out


def test_interrupt_before_anything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_inline", interrupt)
    assert main(["run", NAME]) == 130
    assert "Interrupted before anything was measured." in capsys.readouterr().err


def test_verdict_table(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", own, "--seeds", "3"]) == 0
    out = capsys.readouterr().out
    assert "Own [experiment] (seeds = 3)" in out, "brackets are no markup"
    rows = [line for line in out.splitlines() if line.startswith("│ The claim")]
    assert [re.search(r"(✓|✗|\?) [a-z ]*(?<! )", row)[0] for row in rows] == [  # type: ignore[index]
        "✓ reproduced",
        "✗ not reproduced",
        "? undecided",
        "? undecided",
    ]
    assert all("arXiv 1607.06450" in row and "In a table." in row for row in rows)
    estimate = sum(1.0 + seed / 10 + sum(1 / (1 + s) for s in range(5)) / 5 for seed in range(3)) / 3
    spread = 4.302653 * 0.1 / 3**0.5  # Student's t for 2 degrees of freedom
    interval = (
        f"{estimate:.3g} nats (95 % interval {estimate - spread:.3g} to {estimate + spread:.3g}, 3 seeds)"
    )
    assert interval in rows[1]
    assert "Claims: 1 reproduced, 1 not reproduced, 2 undecided." in out
    assert "1 more need another setting:\n  - another task" in out


@pytest.mark.slow
def test_real_experiment(data_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("to be or not to be, that is the question. " * 400)
    flags = ["--steps", "10", "--seeds", "1", "--norms", "layer", "--no-reference", "--corpus", str(text)]
    assert main(["run", REAL, *flags]) == 0
    out = capsys.readouterr().out
    assert "✓ reproduced" in out
    assert re.search(r"corpus = text-[0-9a-f]{12}", out)
    assert stored(data_folder) == [(REAL, "done")]


# -- a text of one's own -----------------------------------------------------------------------------------------------


def test_corpus_takes_a_file(tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = get_experiment(REAL).knobs
    text = tmp_path / "mine.txt"
    text.write_text("all happy families are alike. " * 100)
    key = parse_knobs(schema, {"corpus": str(text)}).model_dump()["corpus"]
    assert re.fullmatch(r"text-[0-9a-f]{12}", key)
    assert read_text(key) == text.read_text()
    assert parse_knobs(schema, {"corpus": key}).model_dump()["corpus"] == key
    assert parse_knobs(schema, {"corpus": "python-docs"}) == schema()
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "bad.txt").write_bytes(b"\xff" * 5000)
    (tmp_path / "long.txt").write_bytes(b"x" * 1_000_001)
    for name, sentence in (
        ("short.txt", "short.txt has 9 characters; at least 2,000"),
        ("bad.txt", "bad.txt is not UTF-8: byte 0xff at position 0"),
        ("long.txt", "long.txt has 1,000,001 bytes; at most 1,000,000"),
        (".", "there is no file '.'"),
    ):
        os.chdir(tmp_path)
        try:
            assert sentence in refused(capsys, "run", REAL, "--corpus", name)
        finally:
            os.chdir(ROOT)
    assert len(list((data_folder / "uploads").iterdir())) == 1, "nothing refused is kept"


# -- sweep, reproduce --------------------------------------------------------------------------------------------------


def test_combinations() -> None:
    schema = get_experiment(REAL).knobs
    points = list(
        combinations(schema, ["learning-rate=1e-3, 1e-2", "norms=layer,power+batch", "reference=true"])
    )
    assert points == [
        {"learning_rate": rate, "norms": norms, "reference": "true"}
        for rate in ("1e-3", "1e-2")
        for norms in (["layer"], ["power", "batch"])
    ]
    assert all(parse_knobs(schema, point).model_dump()["reference"] is True for point in points)
    assert list(combinations(schema, ["steps=10,10"])) == [{"steps": "10"}]


def test_sweep(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", NAME, "--grid", "steps=1,3", "--grid", "arms=a,a+b", "--tag", "7"]) == 0
    out, err = capsys.readouterr()
    store = RunStore(data_folder)
    runs = [store.load(run.id) for run in reversed(store.list())]
    store.close()
    dumps = [run.knobs.model_dump() for run in runs]
    assert [(d["steps"], d["arms"], d["tag"]) for d in dumps] == [
        (steps, arms, 7.0) for steps in (1, 3) for arms in (("a",), ("a", "b"))
    ]
    rows = [row for row in out.splitlines() if row.startswith(("│ 1 ", "│ 3 "))]
    assert [run.id in row and "done" in row for run, row in zip(runs, rows, strict=True)] == [True] * 4
    assert "last loss" in out
    assert "a 0.25" in rows[3]
    assert "2/4 steps=1, arms=a+b: starting" in err


def test_sweep_goes_on_after_a_failure(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", NAME, "--grid", "mode=raise,train"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"│ raise .* failed ", out)
    assert re.search(r"│ train .* done ", out)
    assert stored(data_folder) == [("toy", "done"), ("toy", "failed")]


def test_interrupted_sweep_starts_no_more(
    data_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = RunProgress.on_frame

    def interrupt(progress: RunProgress, frame: Frame) -> None:
        if frame.values["tag"] == 2.0 and frame.step == 2:
            raise KeyboardInterrupt
        taken(progress, frame)

    monkeypatch.setattr(RunProgress, "on_frame", interrupt)
    assert main(["sweep", NAME, "--grid", "tag=1,2,3"]) == 130
    out = capsys.readouterr().out
    assert re.findall(r"│ (done|interrupted|not started) ", out) == [
        "done",
        "interrupted",
        "not started",
    ]
    assert stored(data_folder) == [("toy", "cancelled"), ("toy", "done")]


def test_reproduce(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = tmp_path / "ledger.json"
    assert main(["reproduce", own, "--seeds", "4", "--json", str(ledger)]) == 0
    assert "1 reproduced, 1 not reproduced, 2 undecided" in capsys.readouterr().out
    (run,) = json.loads(ledger.read_text())["runs"]
    assert (run["experiment"], run["status"], run["knobs"]) == (
        "own",
        "done",
        {"first_seed": 0, "steps": 4, "seeds": 4},
    )
    assert run["environment"]["python"]
    assert {claim["id"]: claim["outcome"] for claim in run["claims"]} == {
        "low": "reproduced",
        "high": "not reproduced",
        "wide": "undecided",
        "infinite": "undecided",
        "absent": "undecided",
    }
    low, _, _, infinite, absent = run["claims"]
    assert low["arxiv"] == "1607.06450"
    assert list(low["per_seed"]) == ["0", "1", "2", "3"]
    assert low["low"] < low["estimate"] < low["high"] < 10
    assert (infinite["low"], infinite["per_seed"]) == (None, {"0": None, "1": 0.0})
    assert (absent["estimate"], absent["reason"]) == (None, "Not measured: needs another task.")


def test_reproduce_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    monkeypatch.setattr(cli, "SLUGS", (own, NAME))
    assert main(["reproduce", "--quiet", "--no-store"]) == 0
    assert main(["reproduce", "all", "--seeds", "2"]) == 0
    err = capsys.readouterr().err
    assert "Own [experiment]: step 4 of 4" in err
    assert "Toy: step 5 of 5" in err


# -- progress on a terminal --------------------------------------------------------------------------------------------


def test_live_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with RunProgress(console, ToyKnobs(steps=10), "Toy [x]") as progress:
        for frame in (
            Frame(0, "a", 0),
            Frame(0, "b", 0, {"other": 3.0}),
            Frame(4, "a", 0, {"loss": 2.0, "map": [1.0]}),
            Frame(4, "a", 1, {"loss": 4.0}),
            Frame(
                2,
                "b",
                0,
                {"loss": float("inf")},
                event="diverged at step 2: the training loss is inf",
                kind="diverged",
            ),
        ):
            progress.on_frame(frame)
        assert progress.step == pytest.approx((4 + 4 + 10) / 3), "a diverged network is done"
        assert progress.newest() == "loss: a 3, b inf"
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "Toy [x]" in text
    assert "step 6 of 10" in text
    assert "loss: a 3, b inf" in text


def test_plain_progress_where_nothing_can_be_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("JPY_PARENT_PID", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as environment:
            environment.delenv("JPY_PARENT_PID", raising=False)
            environment.setenv("TERM", "xterm")
            environment.setenv(name, value)
            console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
            with RunProgress(console, ToyKnobs(steps=10), "Toy") as progress:
                for step in range(11):
                    progress.on_frame(Frame(step, "a", 0, {"loss": 1.0}))
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()
        assert [line.partition(",")[0].partition(";")[0] for line in lines] == [
            "Toy: starting",
            *(f"Toy: step {step} of 10" for step in (2, 4, 6, 8, 10)),
        ]


# -- app ---------------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    commands: list[list[str]] = []
    monkeypatch.setattr(_cli_app.os, "execv", lambda path, command: commands.append(command))
    monkeypatch.setattr(_cli_app.subprocess, "call", lambda command, **options: commands.append(command) or 0)
    monkeypatch.setattr(_cli_app.os, "chdir", lambda folder: commands.append(["cd", str(folder)]))
    return commands


def test_app_starts_streamlit_in_the_checkout(executed: list[list[str]]) -> None:
    port = free_port()
    main(["app", "--port", str(port)])
    assert executed[0] == ["cd", str(ROOT)]
    assert executed[1][:5] == [sys.executable, "-m", "streamlit", "run", "app.py"]
    assert executed[1][5:] == ["--server.address", "127.0.0.1", "--server.port", str(port)]


def test_app_on_a_port_in_use(capsys: pytest.CaptureFixture[str], executed: list[list[str]]) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        sentence = refused(capsys, "app", "--port", str(port))
        said = re.fullmatch(rf"Port {port} is in use: run `normviz app --port (\d+)`\.", sentence)
        assert said is not None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", int(said[1])))
        elsewhere = refused(capsys, "app", "--port", str(port), "--address", "0.0.0.0")
        assert "`normviz app --address 0.0.0.0 --port " in elsewhere
    assert executed == []


def test_app_without_streamlit_or_pages(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    executed: list[list[str]],
) -> None:
    monkeypatch.setattr(_cli_app, "__file__", str(tmp_path / "site-packages" / "normviz" / "_cli_app.py"))
    assert "run this from a checkout" in refused(capsys, "app", "--port", str(free_port()))
    monkeypatch.setattr(_cli_app, "find_spec", lambda name: None)
    assert refused(capsys, "app") == "The app needs Streamlit: pip install 'normviz[app]'."
    assert executed == []


def test_port_that_may_not_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def trouble(address: str, port: int) -> OSError | None:
        return PermissionError(13, "Permission denied") if port < 1024 else None

    monkeypatch.setattr(_cli_app, "_trouble", trouble)
    with pytest.raises(
        UsageError, match="Port 80 may not be used by this user: run `normviz app --port 1024`"
    ):
        _cli_app.check_port("127.0.0.1", 80)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_app_serves_and_stops(data_folder: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "normviz.cli", "app", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            wait_until(lambda: is_healthy(port, server), "the server to answer", pause=0.2)
            server.send_signal(signal.SIGINT)
            said, _ = server.communicate()
            assert f"URL: http://127.0.0.1:{port}" in said
            assert "Traceback" not in said
            _cli_app.check_port("127.0.0.1", port)
        finally:
            server.kill()
