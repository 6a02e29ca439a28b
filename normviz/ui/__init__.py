"""The Streamlit kit that all pages share; Streamlit is imported only here and in the pages."""

from normviz.ui.page import experiment_page
from normviz.ui.source import Maths

__all__ = ["Maths", "experiment_page"]
