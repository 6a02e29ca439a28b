"""The app: ``streamlit run app.py``. Workers are started with the server, so that the first visitor finds them warm."""

import sys

from starlette.middleware import Middleware
from streamlit import App

from normviz.ui.files import VISITOR_FILE
from normviz.ui.front import ServerAddress
from normviz.ui.origin import SameOrigin
from normviz.ui.server import lifespan
from normviz.ui.visitor import VisitorCookie
from normviz.variables import VariableError, check_variables

try:
    check_variables()
except VariableError as error:
    sys.exit(f"normviz: {error}")

app = App(
    VISITOR_FILE,
    lifespan=lifespan,
    middleware=[Middleware(SameOrigin), Middleware(VisitorCookie), Middleware(ServerAddress)],
)
