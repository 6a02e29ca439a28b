"""The script that Streamlit runs for every visitor: navigation over the pages that are built.

It lies apart from the folder ``pages``: a script with such a folder beside it would be taken for an app of the older
kind, whose first visitor cannot open a page by its link.
"""

from pathlib import Path

import streamlit as st

from normviz.catalog import PAGES, TOPICS
from normviz.experiments import SLUGS
from normviz.ui.files import page_file

embedded = bool(st.context.is_embedded)
st.set_page_config(
    page_title="normviz",
    page_icon=str(Path(__file__).with_name("icon.svg")),
    layout="wide",
    initial_sidebar_state="collapsed" if embedded else "auto",
)

sections: dict[str, list[st.Page]] = {
    "": [
        st.Page(page_file("home"), title="Home", icon=":material/home:", default=True),
        st.Page(page_file("runs"), title="Runs", icon=":material/history:", url_path="runs"),
        st.Page(
            page_file("reproductions"),
            title="Reproductions",
            icon=":material/fact_check:",
            url_path="reproductions",
        ),
        st.Page(
            page_file("verdicts"),
            title="How verdicts are made",
            icon=":material/balance:",
            url_path="verdicts",
        ),
    ]
}
for page in PAGES.values():
    if page.slug in SLUGS:
        entry = st.Page(page_file(page.slug), title=page.title, url_path=page.slug)
        sections.setdefault(TOPICS[page.topic], []).append(entry)

st.navigation(sections, position="hidden" if embedded else "top").run()
