"""The experiment noun: a slug, knobs, a frame generator, figures and claims."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from normviz.catalog import PAGES, papers_of_page
from normviz.claims import Claim, Verdict
from normviz.experiments.run import Run
from normviz.figures.figure import Figure
from normviz.frame import Frame, Log
from normviz.knobs import Knobs

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Experiment"]


@dataclass(frozen=True)
class Experiment:
    """What is run, drawn and tested on one page.

    The parts that need PyTorch are loaded when frames are asked for, so that a server that only draws never does.

    Args:
        slug: name in links and on the command line.
        title: the page's title.
        question: the question the experiment answers, in one sentence.
        papers: slugs of :mod:`normviz.catalog`.
        knobs: the schema of what can be set.
        package: dotted name of the experiment's folder; its module ``frames`` holds ``frames(knobs, device)``.
        draw: maps log, knobs and the scrubbed step (None: the newest) to figures by name, in page order.
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
    draw: Callable[[Log, Any, int | None], Mapping[str, Figure]]
    claims: tuple[Claim, ...] = ()
    divisible: bool = True

    @classmethod
    def for_page(
        cls,
        slug: str,
        *,
        knobs: type[Knobs],
        package: str,
        draw: Callable[[Log, Any, int | None], Mapping[str, Figure]],
        claims: tuple[Claim, ...] = (),
    ) -> Experiment:
        """The experiment of a page of the catalog, with the page's title, question and papers."""
        page = PAGES[slug]
        papers = tuple(paper.slug for paper in papers_of_page(slug))
        return cls(slug, page.title, page.question, papers, knobs, package, draw, claims)

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

    def run(
        self,
        knobs: Knobs | None = None,
        *,
        device: str = "auto",
        on_frame: Callable[[Frame], None] | None = None,
    ) -> Run:
        """Run to the end here and now, in this process, and return what was measured.

        Args:
            knobs: default: the experiment's defaults.
            device: see :meth:`frames`.
            on_frame: called with each frame as it comes. A ``KeyboardInterrupt`` ends the run with the frames so far
                and the status ``"cancelled"``.
        """
        run = Run(self, knobs if knobs is not None else self.knobs(), device=device)
        return self._train(run, run.knobs, on_frame)

    def extend(self, run: Run, seeds: int, *, on_frame: Callable[[Frame], None] | None = None) -> Run:
        """Go on with a run that is done, here and now: train further seeds, whose frames are added to its log.

        The frames of the first seeds stay as they are; each new seed has the numbers of a run that had it from the
        beginning. An extension that is interrupted or fails leaves the run with the frames so far and that status.

        Args:
            run: a run of this experiment.
            seeds: how many more.
            on_frame: as for :meth:`run`.

        Returns:
            The same run.

        Raises:
            KnobError: the experiment does not allow so many seeds; the message has the allowed range.
            ValueError: the run has not ended as done, or the seeds cannot be trained apart.
        """
        knobs, new = run.with_more_seeds(seeds)
        run.knobs = knobs
        return self._train(run, knobs.for_seeds(new), on_frame)

    def _train(self, run: Run, knobs: Knobs, on_frame: Callable[[Frame], None] | None) -> Run:
        run.begin()
        try:
            for frame in self.frames(knobs, run.device):
                run.log.append(frame)
                if on_frame is not None:
                    on_frame(frame)
        except KeyboardInterrupt:
            run.end("cancelled")
        except BaseException as error:
            run.end("failed", f"{type(error).__name__}: {error}")
            raise
        else:
            run.end("done")
        return run

    def figures(self, log: Log, knobs: Knobs, step: int | None = None) -> dict[str, Figure]:
        """The experiment's figures for what the log holds, at the newest or at a given step."""
        return dict(self.draw(log.view(), knobs, step))

    def verdicts(self, log: Log, knobs: Knobs) -> dict[str, Verdict]:
        """The verdict of each claim by its id."""
        view = log.view()
        return {claim.id: claim.verdict(view, knobs) for claim in self.claims}
