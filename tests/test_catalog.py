"""The catalog against itself, the experiments, the pages and the methods that it names."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from normviz.catalog import PAGES, PAPERS, TOPICS, Page, Paper, get_paper, papers_of_page
from normviz.experiments import SLUGS, get_experiment

ROOT = Path(__file__).parents[1]
OTHER_PAGES = {"home", "runs", "reproductions", "verdicts"}


def module_name(slug: str) -> str:
    return slug.replace("-", "_")


def has_module(paper: Paper) -> bool:
    """Whether the paper's own module, or its topic's, has been written."""
    topics = {method.split(".")[1] for method in paper.methods}
    return any(find_spec(f"normviz.{topic}.{module_name(paper.slug)}") is not None for topic in topics)


def test_thirty_one_papers() -> None:
    assert len(PAPERS) == 31
    assert all(slug == paper.slug for slug, paper in PAPERS.items())
    assert all(slug == page.slug for slug, page in PAGES.items())
    assert len({paper.title for paper in PAPERS.values()}) == 31
    assert len({method for paper in PAPERS.values() for method in paper.methods}) == sum(
        len(paper.methods) for paper in PAPERS.values()
    )


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_paper(paper: Paper) -> None:
    number = re.fullmatch(r"(\d\d)(0[1-9]|1[0-2])\.(\d{4,5})", paper.arxiv)
    assert number is not None
    assert 2000 + int(number[1]) == paper.year
    assert len(number[3]) == (5 if paper.year >= 2015 else 4), "arXiv counts in five digits since 2015"
    assert paper.url == f"https://arxiv.org/abs/{paper.arxiv}"
    assert paper.page in PAGES
    assert paper.topic in TOPICS
    assert paper.methods
    assert all(re.fullmatch(r"normviz\.[a-z]+\.\w+", method) for method in paper.methods)
    assert re.fullmatch(r"[a-z0-9-]+", paper.slug)
    assert paper.authors


def test_arxiv_numbers_are_different() -> None:
    assert len({paper.arxiv for paper in PAPERS.values()}) == len(PAPERS)


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_page(page: Page) -> None:
    assert re.fullmatch(r"[a-z-]+", page.slug)
    assert page.topic in TOPICS
    assert page.question.endswith("?")
    papers = papers_of_page(page.slug)
    assert papers, "a page without a paper"
    assert all(paper.page == page.slug for paper in papers)


def test_every_topic_has_a_page() -> None:
    assert {page.topic for page in PAGES.values()} == set(TOPICS)


def test_get_paper_names_the_nearest() -> None:
    assert get_paper("power-norm") is PAPERS["power-norm"]
    with pytest.raises(ValueError, match="Did you mean 'power-norm'"):
        get_paper("powernorm")


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_methods_can_be_imported(paper: Paper) -> None:
    if paper.page not in SLUGS and not has_module(paper):
        pytest.skip("not written yet")
    for method in paper.methods:
        package, _, name = method.rpartition(".")
        found = getattr(import_module(package), name)
        assert callable(found)
        assert name in import_module(package).__all__


@pytest.mark.parametrize("slug", SLUGS)
def test_experiment_of_a_page(slug: str) -> None:
    experiment, page = get_experiment(slug), PAGES[slug]
    assert (experiment.slug, experiment.title, experiment.question) == (slug, page.title, page.question)
    assert experiment.papers == tuple(paper.slug for paper in papers_of_page(slug))
    assert experiment.package == f"normviz.experiments.{module_name(slug)}"
    assert {claim.paper for claim in experiment.claims} == set(experiment.papers), "every paper has a claim"
    assert len({claim.id for claim in experiment.claims}) == len(experiment.claims)
    for claim in experiment.claims:
        assert claim.statement.endswith(".")
        assert claim.paper_figure
        assert claim.measured
    assert (ROOT / "pages" / f"{module_name(slug)}.py").is_file()


def test_pages_and_experiments_are_listed() -> None:
    assert [slug for slug in PAGES if slug in SLUGS] == list(SLUGS), "in page order"
    pages = {path.stem for path in (ROOT / "pages").glob("*.py")}
    assert pages - OTHER_PAGES <= {module_name(slug) for slug in PAGES}


def test_unknown_experiments() -> None:
    with pytest.raises(
        ValueError,
        match=r"There is no experiment 'normalization-statistic'\. Nearest: normalization-statistics",
    ):
        get_experiment("normalization-statistic")
