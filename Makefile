# make install   set everything up in .venv
# make demo      set up, then run the main job on generated data
# make test      set up, then run the tests
# make lint      set up, then check style and types
# make format    put the code into the house style
# make clean     delete what the demo and the tools left
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: install demo test lint format clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up .venv: 2 GB or more, a few minutes the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)
	@echo "Ready: $$($(BIN)/pocket --version), torch $$($(BIN)/python -c 'import torch; print(torch.__version__)')."

demo: install
	@$(BIN)/pocket demo

test: install
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff check --preview --select PLW1514 .  # files are UTF-8 whatever the locale
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache
