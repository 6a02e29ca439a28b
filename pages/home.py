"""Home: what normviz is, and the map of the 31 papers."""

import streamlit as st

from normviz.catalog import PAGES, PAPERS, TOPICS, papers_of_page
from normviz.experiments import SLUGS
from normviz.ui.files import page_file

st.title("normviz")
st.markdown(
    "#### See what normalization, optimizers, schedules, attention, adapters and reweighting do while a network trains."
)
built = [slug for slug in PAGES if slug in SLUGS]
st.markdown(
    "Open a page and small networks start to train in front of you, on this machine. Move a knob and they train anew. "
    "Every page sets what a paper claims beside what was measured in that run, and says so when it does not hold here."
)
papers_built = sum(len(papers_of_page(slug)) for slug in built)
st.caption(f"{papers_built} of {len(PAPERS)} papers can be explored; the others are listed as planned.")

for topic, name in TOPICS.items():
    st.header(name, anchor=topic)
    pages = [page for page in PAGES.values() if page.topic == topic]
    pages.sort(key=lambda page: page.slug not in built)
    for start in range(0, len(pages), 3):
        for cell, page in zip(st.columns(3), pages[start : start + 3], strict=False):
            with cell.container(border=True, height="stretch"):
                if page.slug in built:
                    st.page_link(
                        page_file(page.slug), label=f"**{page.title}**", icon=":material/play_circle:"
                    )
                else:
                    st.markdown(f"**{page.title}** :gray-badge[planned]")
                st.markdown(page.question)
                listed = "  \n".join(f"[{p.title}]({p.url}), {p.year}" for p in papers_of_page(page.slug))
                st.markdown(f":small[{listed}]")
