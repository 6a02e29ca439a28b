"""Home: what normviz is, and the map of the 31 papers."""

from normviz.ui.home import home_page

PROMISE = """
Open a page and small networks start to train in front of you, on this machine. Move a knob and they train anew.
Every page sets what a paper claims beside what was measured in that run, and says so when it does not hold here.
"""

IDEAS = {
    "Normalization statistics": ("normalization-statistics", ""),
    "Effective learning rate": ("effective-learning-rate", ""),
    "Path counts": ("residual-depth", ""),
    "Attention entropy": ("attention-entropy", ""),
    "Optimizer spectra": ("optimizer-spectra", ""),
    "Reweighting curves": ("sample-reweighting", ""),
}

home_page("normviz", PROMISE, IDEAS)
