from __future__ import annotations

import json
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from normviz.experiments import SLUGS, get_experiment
from normviz.knobs import Control, KnobError, Knobs, knob


class Toy(Knobs):
    rate: float = knob(0.01, 1e-4, 1.0, label="Rate", help="Step size.", log=True, section="Training")
    steps: int = knob(50, 10, 100, label="Steps", help="Updates.", unit="updates", step=10)
    width: int = knob(8, 1, 64, label="Width", help="Units.")
    sort: bool = knob(False, label="Sort", help="In order.")
    task: Literal["text", "image"] = knob("text", label="Task", help="What.", labels={"text": "Text!"})
    norms: tuple[Literal["layer", "batch", "power"], ...] = knob(("layer",), label="Norms", help="Which.")
    pair: tuple[Literal["x", "y"], ...] = knob(("x", "y"), label="Pair", help="Two.", min_choices=2)
    name: str = knob("", high=5, label="Name", help="Free text.")

    work_limit = 3000

    def work(self) -> float:
        return float(self.steps * self.width)


def test_controls_say_everything_about_a_knob() -> None:
    controls = Toy.controls()
    assert list(controls) == ["rate", "steps", "width", "sort", "task", "norms", "pair", "name", "first_seed"]
    assert controls["rate"] == Control(
        "rate", "float", 0.01, "Rate", "Step size.", section="Training", low=1e-4, high=1.0, log=True
    )
    assert {name: control.kind for name, control in controls.items()} == {
        "rate": "float",
        "steps": "int",
        "width": "int",
        "sort": "bool",
        "task": "choice",
        "norms": "choices",
        "pair": "choices",
        "name": "text",
        "first_seed": "int",
    }
    assert [name for name, control in controls.items() if control.hidden] == ["first_seed"]
    assert (controls["steps"].step, controls["steps"].unit) == (10, "updates")
    assert controls["task"].options == ("text", "image")
    assert (controls["task"].option_label("text"), controls["task"].option_label("image")) == (
        "Text!",
        "image",
    )
    assert {name: control.allowed for name, control in controls.items()} == {
        "rate": "0.0001 to 1",
        "steps": "10 to 100 updates",
        "width": "1 to 64",
        "sort": "true or false",
        "task": "one of text, image",
        "norms": "1 or more of layer, batch, power",
        "pair": "2 or more of x, y",
        "name": "text of at most 5 characters",
        "first_seed": "0 to 999999",
    }


def test_parse_takes_text_and_typed_values() -> None:
    text = {"rate": "1e-2", "steps": "20", "sort": "true", "norms": "batch,power", "name": "abc"}
    typed = {"rate": 1e-2, "steps": 20, "sort": True, "norms": ["batch", "power"], "name": "abc"}
    assert (
        Toy.parse(text) == Toy.parse(typed) == Toy(steps=20, sort=True, norms=("batch", "power"), name="abc")
    )
    assert Toy.parse({}) == Toy()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rate": "2"}, "rate = 2 is not allowed: it takes 0.0001 to 1."),
        ({"rate": float("nan")}, "rate = nan is not allowed"),
        ({"rate": "inf"}, "rate = inf is not allowed"),
        ({"steps": "9"}, "steps = 9 is not allowed: it takes 10 to 100 updates."),
        ({"steps": "10.5"}, "steps = 10.5 is not allowed"),
        ({"steps": None}, "steps = None is not allowed"),
        ({"sort": "perhaps"}, "sort = perhaps is not allowed: it takes true or false."),
        ({"task": "txt"}, "task = txt is not allowed: it takes one of text, image. Nearest: text."),
        ({"norms": "layr,btch"}, "Nearest: layer, batch."),
        ({"norms": ""}, "norms =  is not allowed: it takes 1 or more of layer, batch, power."),
        ({"pair": "x"}, "pair = x is not allowed: it takes 2 or more of x, y."),
        ({"name": "too long"}, "name = too long is not allowed: it takes text of at most 5 characters."),
        ({"rat": 1}, "There is no knob 'rat'. Nearest: rate"),
        ({"zzzz": 1}, "There is no knob 'zzzz'."),
        (
            {"steps": 100, "width": 64},
            "This setting takes about 2 hours on one core; the limit is 50 minutes. Any one of these changes is "
            "enough: steps = 46, width = 30.",
        ),
    ],
)
def test_refusals(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(KnobError) as caught:
        Toy.parse(values)
    assert sentence in str(caught.value)


def test_every_refused_knob_has_its_sentence() -> None:
    with pytest.raises(KnobError) as caught:
        Toy.parse({"rate": 5, "steps": 0, "widht": 3})
    for part in ("rate = 5", "steps = 0", "There is no knob 'widht'"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [[["layer"]], [{"a": 1}], [["layer"], "batch"], [[]], [None], {"layer": 1}, (("x",),), [["x"], ["y"]]],
)
@pytest.mark.parametrize("name", ["norms", "pair", "steps", "rate", "name", "task", "sort"])
def test_values_that_hold_other_values_are_refused(name: str, value: object) -> None:
    with pytest.raises(KnobError, match=rf"^{name} = .* is not allowed: it takes "):
        Toy.parse({name: value})
    knobs, rejections = Toy.parse_leniently({name: value})
    assert knobs == Toy()
    assert [rejection.name for rejection in rejections] == [name]


def test_names_that_are_no_text_are_refused() -> None:
    with pytest.raises(KnobError, match=r"There is no knob 1\. There is no knob None"):
        Toy.parse({1: 2, None: 3})  # type: ignore[dict-item]


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(KnobError) as caught:
        Toy.parse({"task": "x" * 10_000})
    assert len(str(caught.value)) < 200


def test_lenient_parsing_replaces_what_is_refused_and_says_so() -> None:
    knobs, rejections = Toy.parse_leniently(
        {"rate": "7", "steps": "20", "nrms": "layer", "norms": "layer,what"}
    )
    assert knobs == Toy(steps=20)
    assert [(r.name, r.value) for r in rejections] == [
        ("nrms", "layer"),
        ("rate", "7"),
        ("norms", "layer,what"),
    ]
    assert all(r.sentence.endswith(".") for r in rejections)
    knobs, rejections = Toy.parse_leniently({"steps": "100", "width": "64", "rate": "0.5"})
    assert knobs == Toy(), "a setting that is too much work as a whole is replaced as a whole"
    assert [r.name for r in rejections] == ["work"]
    assert Toy.parse_leniently({}) == (Toy(), [])


def test_knobs_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        Toy().steps = 20  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Toy(stepz=20)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="the limit is"):
        Toy(steps=100, width=64)


def test_defaults_are_checked_too() -> None:
    class Wrong(Knobs):
        steps: int = knob(5, 10, 20, label="Steps", help="Out of its bounds.")

    with pytest.raises(ValidationError):
        Wrong()


def test_optional_knobs_are_refused() -> None:
    class Optional(Knobs):
        steps: int | None = knob(5, 1, 20, label="Steps", help="Steps.")

    with pytest.raises(TypeError, match="give every knob a default"):
        Optional.controls()


def test_query_has_what_differs_and_key_has_all() -> None:
    knobs = Toy(rate=0.1 + 0.2, sort=True, norms=("power", "layer"), name="a b")
    assert knobs.to_query() == {
        "rate": "0.30000000000000004",
        "sort": "true",
        "norms": "power,layer",
        "name": "a b",
    }
    assert Toy().to_query() == {}
    assert Toy(steps=20).key() == Toy.parse({"steps": "20"}).key() != Toy().key()
    assert set(json.loads(knobs.key())) == set(Toy.model_fields) - {"first_seed"}
    assert (Toy().total_steps(), Knobs().total_steps()) == (50, 0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "rate": st.floats(1e-4, 1.0),
            "steps": st.integers(10, 100),
            "width": st.integers(1, 30),
            "sort": st.booleans(),
            "task": st.sampled_from(["text", "image"]),
            "norms": st.lists(st.sampled_from(["layer", "batch", "power"]), min_size=1, unique=True),
            "name": st.text(max_size=5),
        },
    )
)
def test_a_link_gives_the_same_knobs_back(values: dict[str, object]) -> None:
    knobs = Toy.parse(values)
    assert Toy.parse(knobs.to_query()) == knobs
    assert Toy.parse(json.loads(knobs.key())) == knobs


@pytest.mark.parametrize("slug", SLUGS)
def test_every_experiments_knobs(slug: str) -> None:
    schema = get_experiment(slug).knobs
    default = schema()
    assert schema.parse(default.to_query()) == default
    assert 0 < default.work() <= schema.work_limit
    assert default.total_steps() > 0
    for control in schema.controls().values():
        assert control.label
        assert control.help.endswith(".")
        if control.kind in ("int", "float"):
            assert control.low is not None
            assert control.high is not None
            assert control.low <= control.default <= control.high
            for beyond in (control.low - 1, control.high + 1):
                with pytest.raises(KnobError, match=f"{control.name} = "):
                    schema.parse({control.name: beyond})
        if control.kind == "choices":
            everything, _ = schema.parse_leniently({control.name: control.options})
            assert isinstance(everything, schema)


def test_a_choice_given_twice_counts_once() -> None:
    from normviz.experiments.normalization_statistics import Knobs as Real

    assert Real.parse({"norms": "layer,layer,batch"}).norms == ("layer", "batch")


class Seeded(Knobs):
    seeds: int = knob(2, 1, 5, label="Seeds", help="Repetitions.")


def test_seeds_count_from_the_first() -> None:
    assert list(Toy().seed_range()) == [0]
    assert list(Seeded(seeds=3, first_seed=100).seed_range()) == [100, 101, 102]


def test_a_part_of_a_run_has_the_same_setting() -> None:
    whole = Seeded(seeds=3, first_seed=7)
    part = whole.for_seeds([9])
    assert list(part.seed_range()) == [9]
    assert part == whole.for_seeds([9])
    assert part.key() == whole.key()
    assert part.first_seed == 7
    assert list(whole.seed_range()) == [7, 8, 9]
    with pytest.raises(ValueError, match=r"seeds must be one or more of 7 to 9, got \[10\]"):
        whole.for_seeds([10])


def test_runs_from_before_a_hidden_knob_are_found() -> None:
    assert "first_seed" not in Seeded().key()
    assert "first_seed" in Seeded(first_seed=1).key()


class Later(Knobs):
    """Knobs of which one came after runs were recorded."""

    old: int = knob(3, 1, 9, label="Old", help="There from the start.")
    new: Literal["a", "b"] = knob("a", label="New", help="Came later.", added=True)


def test_runs_from_before_an_added_knob_are_found() -> None:
    assert json.loads(Later(old=4).key()) == {"old": 4}
    assert json.loads(Later(new="b").key()) == {"old": 3, "new": "b"}
    assert "new" in [name for name, control in Later.controls().items() if not control.hidden]
