"""The experiment noun: a slug, knobs, a frame generator, figures and claims."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from normviz.catalog import PAGES, papers_of_page
from normviz.claims import Claim, Verdict
from normviz.frame import Frame, Log
from normviz.knobs import Knobs
from normviz.presets import Preset, Presets

if TYPE_CHECKING:
    from normviz.figures.board import Sheet
    from normviz.figures.figure import Figure

__all__ = ["Experiment"]


DEFAULT_ONLY = Presets([Preset("default", "Default", "All knobs as they are at first.")])
"""The presets of an experiment that names none."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """What is run, drawn and tested on one page.

    The parts that need PyTorch are loaded when frames are asked for, so that a server that only draws never does.

    Args:
        slug: name in links and on the command line.
        title: the page's title.
        question: the question the experiment answers, in one sentence.
        papers: slugs of :mod:`normviz.catalog`.
        knobs: the schema of what can be set.
        package: dotted name of the experiment's folder; its module ``frames`` holds ``frames(knobs, device)``, its
            module ``figures`` holds ``sheet(knobs)``.
        presets: named settings in the order of the story; the first is the default.
        claims: what is tested.
        divisible: whether seeds can be trained apart from each other, with the same numbers; if not, a run has one
            worker and takes no further seeds.
    """

    slug: str
    title: str
    question: str
    papers: tuple[str, ...]
    knobs: type[Knobs]
    package: str
    presets: Presets = DEFAULT_ONLY
    claims: tuple[Claim, ...] = ()
    divisible: bool = True

    @classmethod
    def for_page(
        cls,
        slug: str,
        *,
        knobs: type[Knobs],
        package: str,
        presets: Presets,
        claims: tuple[Claim, ...],
        divisible: bool = True,
    ) -> Experiment:
        """The experiment of a page of the catalog, with the page's title, question and papers."""
        page = PAGES[slug]
        papers = tuple(paper.slug for paper in papers_of_page(slug))
        return cls(
            slug=slug,
            title=page.title,
            question=page.question,
            papers=papers,
            knobs=knobs,
            package=package,
            presets=presets,
            claims=claims,
            divisible=divisible,
        )

    def frames(self, knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
        """The generator that trains and yields frames; the first frame comes before the first step.

        Args:
            knobs: an instance of :attr:`knobs`.
            device: ``"auto"`` (CUDA if there, else MPS, else CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

        Raises:
            ValueError: the device is unknown or not there.
        """
        generate: Callable[[Knobs, str], Iterator[Frame]] = import_module(f"{self.package}.frames").frames
        return generate(knobs, device)

    def setting(self, wanted: Knobs | Preset | str | None = None) -> Knobs:
        """Knobs as they are, those of a preset (or of its slug), or the defaults.

        Raises:
            KeyError: no preset has that slug; the message has the nearest.
            KnobError: a preset sets what the knobs do not allow.
        """
        if isinstance(wanted, Knobs):
            return wanted
        preset = self.presets[wanted] if isinstance(wanted, str) else wanted or self.presets.default
        return self.knobs.parse(preset.knobs)

    def sheet(self, knobs: Knobs) -> Sheet:
        """The charts of a setting: the stage and further groups; loads the charts' library when first asked."""
        make: Callable[[Knobs], Sheet] = import_module(f"{self.package}.figures").sheet
        return make(knobs)

    def figures(
        self, log: Log, knobs: Knobs, step: int | None = None, names: Iterable[str] | None = None
    ) -> dict[str, Figure]:
        """The experiment's charts for what the log holds.

        Args:
            log: the frames.
            knobs: the setting.
            step: moment that is shown; None: the newest.
            names: those that are wanted; None: all.
        """
        from normviz.figures.board import Board

        board = Board(log.view(), knobs.shown_arms(), step, knobs.total_steps(), knobs.progress())
        return self.sheet(knobs).draw(board, names)

    def verdicts(self, log: Log, knobs: Knobs) -> dict[str, Verdict]:
        """The verdict of each claim by its id."""
        view = log.view()
        return {claim.id: claim.verdict(view, knobs) for claim in self.claims}
