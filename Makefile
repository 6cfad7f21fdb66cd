# Two commands: `make demo` (the whole story on synthetic people) and `make test`.
# They need python3 (3.11 to 3.13), make and a package index; everything else comes into .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# What is compiled is kept between runs, kernels and modules; nothing of ours is written outside the repository.
unexport PYTHONDONTWRITEBYTECODE
export NUMBA_CACHE_DIR := $(CURDIR)/.cache/numba
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
# Tests run beside Ray's processes: threads that wait give the core away (docs/training.md).
test faults evidence: export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo serve test lint faults evidence bench lock clean
help:
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

$(READY): requirements.lock pyproject.toml .ci/environment.py
	@$(PYTHON) .ci/environment.py
	@touch $@

demo: $(READY) ## the whole story on synthetic people; PHOTOS=dir scores a folder of yours with its models
	@$(BIN)/python jobs/demo.py $(if $(PHOTOS),--photos "$(PHOTOS)")

serve: $(READY) ## the HTTP service on 127.0.0.1:8000, with the demo's models (made first where they are not there)
	@test -d out/demo/models/survival || $(BIN)/python jobs/demo.py
	@$(BIN)/python -m serve --models out/demo/models/age out/demo/models/survival \
		--results out/cohorts --data-roots out/demo

test: $(READY) ## all tests that fit 20 minutes on two cores, in two processes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadscope --durations=25 -m "not faults and not evidence"

faults: $(READY) ## kills, outages, load, jobs submitted to a Ray of their own: half an hour at most
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=25 -m faults

evidence: $(READY) ## many seeds, long fuzz, load: hours; figures go to docs/log.md
	@$(BIN)/python -m pytest -q -s -m evidence --timeout=0

lint: $(READY) ## format, style and strict types
	@$(BIN)/ruff format --check -q . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy

# The rivals that are not ours to depend on, on top of what .venv has.
.venv-bench/.ready: $(READY)
	@$(BIN)/uv venv -q --clear --python $(BIN)/python .venv-bench
	@$(BIN)/uv pip install -q --python .venv-bench/bin/python litserve==0.2.19
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'), '$(CURDIR)/platform', sep='\n')" \
		> "$$(.venv-bench/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/project.pth"
	@touch $@

bench: $(READY) .venv-bench/.ready ## every ratio against a rival, in one interleaved run each; a table of them in benchmarks/results
	@$(BIN)/python benchmarks/_all.py

lock: $(READY) ## resolve requirements.lock anew, for 3.11 to 3.13 and every system
	@$(BIN)/uv pip compile -q --universal --generate-hashes --upgrade --extra dev --python-version 3.11 \
		--custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean: ## remove the environments and all caches; out/ stays, with what was made
	rm -rf .venv .venv-bench .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
