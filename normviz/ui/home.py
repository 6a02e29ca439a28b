"""The home page: six ideas to start with, a search, and a card with a picture for every page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import streamlit as st

from normviz.catalog import PAGES, PAPERS, TOPICS, Page, papers_of_page
from normviz.claims import OUTCOMES
from normviz.evidence import read_evidence, recorded_run
from normviz.experiments import SLUGS, get_experiment
from normviz.figures.figure import Figure
from normviz.ui.charts import draw_chart
from normviz.ui.files import page_file
from normviz.ui.style import page_style
from normviz.ui.verdicts import OUTCOME_STYLE

__all__ = ["found_pages", "home_page"]

PICTURE = 130
"""Pixels of a card's picture."""


def found_pages(words: str) -> list[Page]:
    """Pages whose title, question, papers or methods contain every word of a search, in page order."""
    wanted = words.lower().split()
    return [page for page in PAGES.values() if all(word in _searched(page) for word in wanted)]


def _searched(page: Page) -> str:
    parts = [page.title, page.question, TOPICS[page.topic]]
    for paper in papers_of_page(page.slug):
        parts += [paper.title, paper.authors, str(paper.year), paper.arxiv, paper.slug.replace("-", " ")]
        parts += [method.rpartition(".")[2] for method in paper.methods]
    if page.slug in SLUGS:
        experiment = get_experiment(page.slug)
        parts += [f"{preset.name} {preset.sentence}" for preset in experiment.presets.values()]
        parts += list(experiment.knobs().shown_arms().names)
    return " ".join(parts).lower()


def home_page(title: str, promise: str, ideas: Mapping[str, tuple[str, str]]) -> None:
    """Draw the page.

    Args:
        title: of the app.
        promise: Markdown below it.
        ideas: for each idea the page that shows it and the preset's slug ("" for the default).
    """
    page_style()
    st.title(title, anchor=False)
    st.markdown(promise)
    with st.container(horizontal=True, key="ideas"):
        st.markdown("**Start here**", width="content")
        for idea, (slug, preset) in ideas.items():
            if slug in SLUGS:
                query = {"preset": preset} if preset else None
                st.page_link(page_file(slug), label=idea, icon=":material/play_circle:", query_params=query)
    words = st.text_input(
        "Search papers, methods and terms",
        key="home/search",
        max_chars=80,
        placeholder="for example: LoRA, batch size, Muon, entropy",
    )
    pages = found_pages(words)
    if not pages:
        st.info("No page has all of these words.", icon=":material/search_off:")
    for topic, name in TOPICS.items():
        listed = [page for page in pages if page.topic == topic]
        listed.sort(key=lambda page: page.slug not in SLUGS)
        if not listed:
            continue
        st.subheader(name, anchor=topic)
        with st.grid(4, min_column_width=270, gap="small", key=f"home-{topic}") as grid:
            for page in listed:
                with grid.cell(), st.container(border=True, height="stretch", key=f"card-home-{page.slug}"):
                    _card(page)
    built = sum(len(papers_of_page(slug)) for slug in SLUGS)
    st.caption(f"{built} of {len(PAPERS)} papers can be explored; the others are listed as planned.")


def _card(page: Page) -> None:
    if page.slug in SLUGS:
        st.page_link(page_file(page.slug), label=f"**{page.title}**", icon=":material/play_circle:")
        picture = _picture(page.slug)
        if picture is not None:
            draw_chart("home", picture, key=page.slug, height=PICTURE)
        st.markdown(f":small[{page.question}]")
        if counts := _counts(page.slug):
            st.markdown(f":small[{counts}]")
    else:
        st.markdown(f"**{page.title}** :gray-badge[planned]")
        st.markdown(f":small[{page.question}]")
    papers = "  \n".join(f"[{p.title}]({p.url}), {p.year}" for p in papers_of_page(page.slug))
    st.markdown(f":small[{papers}]")


@st.cache_data(show_spinner=False, max_entries=64)
def _picture(slug: str) -> Figure | None:
    """The first chart of the page's stage, from the recorded run."""
    experiment = get_experiment(slug)
    recorded = recorded_run(experiment)
    if recorded is None:
        return None
    name = next(iter(experiment.sheet(recorded.run.knobs).stage))
    return recorded.run.figures(None, [name])[name]


def _counts(slug: str) -> str:
    """The recorded verdicts in a line."""
    evidence = read_evidence(slug)
    if evidence is None:
        return ""
    identities = {claim.id for claim in get_experiment(slug).claims if claim.identity}
    tally = Counter(claim.outcome for claim in evidence.claims if claim.id not in identities)
    return " · ".join(
        f":{OUTCOME_STYLE[o][0]}[{tally[o]} {words}]" for o, words in OUTCOMES.items() if tally[o]
    )
