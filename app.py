"""The app's frame: theme, navigation over the pages that are built, one warm engine for all visitors."""

import streamlit as st

from normviz.catalog import PAGES, TOPICS
from normviz.experiments import SLUGS
from normviz.ui.server import engine, tidy_memory

st.set_page_config(page_title="normviz", page_icon=":material/ssid_chart:", layout="wide")
engine()
tidy_memory()

sections: dict[str, list[st.Page]] = {
    "": [
        st.Page("pages/home.py", title="Home", icon=":material/home:", default=True),
        st.Page("pages/runs.py", title="Runs", icon=":material/history:", url_path="runs"),
    ]
}
for page in PAGES.values():
    if page.slug in SLUGS:
        file = f"pages/{page.slug.replace('-', '_')}.py"
        entry = st.Page(file, title=page.title, url_path=page.slug)
        sections.setdefault(TOPICS[page.topic], []).append(entry)

st.navigation(sections, expanded=True).run()
