"""The Streamlit kit that all pages share; Streamlit is imported only here and in the pages."""

from normviz.ui.page import Exact, experiment_page
from normviz.ui.source import Maths

__all__ = ["Exact", "Maths", "experiment_page"]
