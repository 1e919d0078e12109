PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: quickstart test lint bench clean

quickstart: $(INSTALLED)  ## a small study end to end, on the embedded default corpus
	$(BIN)/moe-study run quickstart --scale smoke --home moe-runs
	@echo
	@echo "The table again:        $(BIN)/moe-study table quickstart"
	@echo "MLflow's page:          $(BIN)/mlflow server --backend-store-uri sqlite:///moe-runs/mlflow.db --port 5000"
	@echo "Optuna Dashboard:       $(BIN)/optuna-dashboard sqlite:///moe-runs/optuna.db --port 8080"

test: $(INSTALLED) lint  ## contracts, lint and the whole suite
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv
