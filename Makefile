# make demo   the main job on the built-in default, end to end; names the report it wrote
# make test   the tests
# make faults a study killed, stopped and starved of disk at random, in one process and in two; takes long
# make check  style and types
PYTHON ?= python3
VENV   ?= .venv
STUDY  ?= studies/demo
RUN     = $(VENV)/bin/python -m

DEMO_TASKS = heaviest_thing short_posts make_passive capital_city pronoun_people arithmetic fix_punctuation dates_en_de

.PHONY: demo test faults check clean

demo: $(VENV)/.installed
	$(RUN) run.study $(STUDY) --tasks $(DEMO_TASKS) \
	  --steps 25 --batch-size 4 --learning-rate 2e-3 --train-examples 500 --test-examples 64

test: $(VENV)/.test-installed
	$(RUN) pytest -n 2 --dist worksteal -m "not slow and not gpu"

faults: $(VENV)/.test-installed
	$(RUN) pytest -s tests/faults

check: $(VENV)/.test-installed
	$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --editable '.[gguf,readability]'
	touch $@

# torch is there to be compared with; tests/constraints.txt names the version the tests are known to pass with.
$(VENV)/.test-installed: pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --editable '.[dev]' --constraint tests/constraints.txt
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
