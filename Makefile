# Two commands matter: `make app` opens the app, `make test` runs everything that must hold.
# Both do all set-up themselves and need only Python >= 3.11 and make (`make test` also apt, to get a Chromium).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 8501

.PHONY: app test fast lint types bench browser evidence readme docs soak clean

app: $(VENV)/app
	$(BIN)/normviz app --port $(PORT)

test: $(VENV)/dev browser lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile

fast: $(VENV)/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not browser"

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

bench: $(VENV)/dev browser
	$(BIN)/python -m benchmarks

# Runs every preset that decides a claim, with five seeds, and writes evidence/. Interrupted and started again it goes
# on with the runs that are done.
evidence: $(VENV)/app
	OMP_NUM_THREADS=1 $(BIN)/normviz reproduce all
	$(BIN)/python docs/readme_tables.py

readme: $(VENV)/app
	$(BIN)/python docs/readme_tables.py

# Faults and load at full length, about ten minutes; a short form is part of the tests.
soak: $(VENV)/dev
	$(BIN)/python -m tests.soak

# The documentation site, in build/site.
docs: $(VENV)/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

browser: $(VENV)/dev
	$(BIN)/python tests/chromium.py

$(VENV)/bin/python:
	@echo "normviz: making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/app: requirements.txt pyproject.toml | $(VENV)/bin/python
	@echo "normviz: installing PyTorch, Streamlit and what they need; the first time this is a large download"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/app
	@echo "normviz: installing what tests and checks need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache benchmarks/results
