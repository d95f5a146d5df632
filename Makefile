# make demo   the main job on the built-in default, end to end; names the report it wrote
# make test   the tests
# make faults a study killed, stopped and starved of disk at random, in one process and in two; takes long
# make recipes the published recipes at small scale, on real data, in $(RECIPES); takes an hour or more, and can go on later
# make check  style and types
# make docs   the pages in docs/ as a site, in site/
PYTHON ?= python3
VENV   ?= .venv
STUDY  ?= studies/demo
RECIPES ?= studies/recipes
MARKS  ?= not slow and not gpu and not long
RUN     = $(VENV)/bin/python -m

.PHONY: demo test faults recipes check docs clean

demo: $(VENV)/.installed
	$(RUN) run.study $(STUDY) --recipe demo

test: $(VENV)/.test-installed
	$(RUN) pytest -n 2 --dist worksteal -m "$(MARKS)"

faults: $(VENV)/.test-installed
	$(RUN) pytest -s tests/faults

recipes: $(VENV)/.test-installed
	LORAJAX_RECIPES=$(RECIPES) $(RUN) pytest -s -m long tests/recipes

check: $(VENV)/.test-installed
	$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

docs: $(VENV)/.docs-installed
	$(RUN) mkdocs build --strict

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --editable '.[gguf,readability]'
	touch $@

# torch is there to be compared with; tests/constraints.txt names the version the tests are known to pass with.
$(VENV)/.test-installed: pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --editable '.[dev]' --constraint tests/constraints.txt
	touch $@

$(VENV)/.docs-installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --editable '.[docs,gguf,readability]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
