# Two commands for a fresh machine: `make demo` and `make test`. Both make .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# tests run in parallel processes, each with one thread: faster and steadier than many threads in one
JOBS ?= 2

.PHONY: docs fuzz help demo demo-long test test-all check audit wheel wheel-test bench bench-methods clean

help:
	@echo "make demo       photos (or rendered faces) to a measured encoder and a report, about 9 minutes on two cores"
	@echo "make demo-long  the same with more faces and an hour of pre-training"
	@echo "make test       the tests, about 5 minutes on two cores"
	@echo "make test-all   the slow ones too"
	@echo "make fuzz       damaged and hostile files through every reader, some minutes; ROUNDS=, SECONDS=, ONLY="
	@echo "make docs       the documentation as a site"
	@echo "make check      lint, formatting, types, known vulnerabilities of what is installed"
	@echo "make wheel      dist/fusiform-*.whl; make wheel-test installs it in a fresh environment and asks it for a face"
	@echo "make bench      timings, side by side"
	@echo "make bench-methods  the five methods and two baselines at equal compute, three seeds, about an hour; SEEDS=5 BUDGET=4 goes on"
	@echo "Variables: PHOTOS=dir (your photos for the demo), OUT=dir (where the demo writes), PYTHON=python3.12"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fusiform needs Python 3.11 or newer; $(PYTHON) is older. Do: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/fusiform demo $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(OUT),--out "$(OUT)")

demo-long: $(STAMP)
	$(BIN)/fusiform demo --faces 20000 --epochs 160 --out "$(or $(OUT),demo-long)" $(if $(PHOTOS),--photos "$(PHOTOS)")

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS)

test-all: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) -m ''

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit.py

audit: $(STAMP)
	$(BIN)/python .ci/audit.py

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --disable-pip-version-check --progress-bar off -q --no-deps -w dist .
	@ls dist/*.whl

wheel-test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m '' tests/end_to_end/test_wheel.py

bench: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e ".[bench]"
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q --no-deps facenet-pytorch==2.6.0 # its pins exclude today's torch
	$(BIN)/python -m bench

# SEEDS and BUDGET may grow in the same OUT: what is there is not computed again
bench-methods: $(STAMP)
	$(BIN)/python -m bench.methods --out "$(or $(OUT),bench-methods)" --seeds $(or $(SEEDS),3) --budget $(or $(BUDGET),1)

# mutations blindly, then led by coverage; ONLY='picture shard' names targets
fuzz: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e '.[fuzz]'
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzzing.py --rounds $(or $(ROUNDS),1000) --seed $(or $(SEED),0) $(if $(ONLY),--only $(ONLY))
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/guided.py --seconds $(or $(SECONDS),30) $(if $(ONLY),--only $(ONLY))

docs: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
