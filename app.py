"""The app: ``streamlit run app.py``. Workers are started with the server, so that the first visitor finds them warm."""

from streamlit import App

from normviz.ui.server import lifespan

app = App("normviz/ui/main.py", lifespan=lifespan)
