PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: quickstart test lint bench results clean

quickstart: $(INSTALLED)  ## a small study end to end, on the embedded default corpus
	@echo "Training 16 small models, which takes some minutes on two cores"
	$(BIN)/moe-study run quickstart --scale smoke --home moe-runs
	@$(BIN)/moe-study report quickstart --scale smoke --home moe-runs -o moe-runs/quickstart.html > /dev/null
	@echo
	@echo "What to look at next:"
	@echo "  the report, in a browser         moe-runs/quickstart.html"
	@echo "  MLflow's and Optuna's pages      $(BIN)/moe-study ui --home moe-runs"
	@echo "  the table again                  $(BIN)/moe-study table quickstart --home moe-runs"
	@echo "  a study of your own              $(BIN)/moe-study new my_study"
	@echo "  from here to a verdict           docs/tutorial.md"

test: $(INSTALLED) lint  ## contracts, lint and the whole suite
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

bench: $(INSTALLED)  ## every benchmark, and docs/benchmarks.md from what they print
	$(BIN)/python benchmarks/render.py

results: $(INSTALLED)  ## docs/results from the exports beside its pages
	$(BIN)/python docs/result_tables.py
	$(BIN)/python docs/claims_page.py

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv, which takes some minutes and says little"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv
