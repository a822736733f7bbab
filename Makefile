# Two commands: `make quickstart` sets up and runs the main job, `make test` sets up and runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What is installed is compiled when it is first imported: most of its 14 000 files never are.
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test check setup clean
quickstart: $(STAMP)
	$(BIN)/hwprune quickstart $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

# Style, types and the one-way layer order.
check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	PYTHONPATH=. $(BIN)/lint-imports --no-cache

setup: $(STAMP)

# torchvision's compiled part needs a torch of its own build; its model definitions do not, so it is
# installed without dependencies, for tests and benchmarks only.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable ".[dev]"
	$(PIP) --no-deps torchvision==0.28.0
	touch $(STAMP)

clean:
	rm -rf $(VENV) quickstart-out
