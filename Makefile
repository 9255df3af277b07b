# Two commands set everything up on a machine that has Python 3.11, 3.12 or 3.13, git and make:
#   make demo   trains MLR on a real control task and a real Atari game (minutes on two CPU cores)
#   make test   runs every test of both trees
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
TREES := DMControl Atari
.PHONY: help setup demo demo-dmcontrol demo-atari test soak lint lint-both $(TREES:%=lint-%) \
  twins doctor figures screenshots

PYTHON_VENV := ../.venv/bin/python
READY := .venv/.ready
# The demo's runs: their task or game, and what is smaller than in preset laptop.
DEMO_TASK := walker_stand
DEMO_TASK_SETTINGS := budget=20000 environment.action_repeat=4 scale.warmup_updates=1200 evaluation.every=4000
DEMO_GAME := amidar
DEMO_GAME_SETTINGS := budget=5000 agent.importance_exponent_steps=5000 evaluation.every=1000
DEMO := preset=laptop seed=1 runs_dir=runs/demo

# Both cores are used by running two files of tests at once, each with one thread; in their order, since
# xdist would leave to the end the files with the fewest tests, which are the longest.
TEST_ENV := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST_WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 18

setup: $(READY) ## .venv with all packages, and headless OpenGL (the others call it)

$(READY): .ci/setup $(wildcard $(TREES:%=%/requirements*.txt) $(TREES:%=%/constraints.txt))
	@.ci/setup

demo: $(READY) ## train and evaluate MLR on a real task and a real game, both at once
	@$(MAKE) --no-print-directory -j 2 demo-dmcontrol demo-atari
	@printf '\nBoth runs are done. Their curves:\n'
	@printf '  .venv/bin/tensorboard --logdir_spec dmcontrol:DMControl/runs/demo,atari:Atari/runs/demo\n'
	@find DMControl/runs/demo Atari/runs/demo -name eval.csv | sed 's/^/  /'

# A half of the demo: tree, word before its lines, key and name of what is played, what is smaller.
define demo-half
	cd $(1) && $(PYTHON_VENV) train.py $(3)=$(4) $(DEMO) $(5) 2>&1 | sed -u 's/^/$(2)  /'
	cd $(1) && $(PYTHON_VENV) evaluate.py runs/demo/$(4)/mlr/seed_1 --random --episodes 10 2>&1 | sed -u 's/^/$(2)  random: /'
	cd $(1) && $(PYTHON_VENV) evaluate.py runs/demo/$(4)/mlr/seed_1 --episodes 10 --video 2>&1 | sed -u 's/^/$(2)  /'
endef

demo-dmcontrol: $(READY)
	$(call demo-half,DMControl,control,task,$(DEMO_TASK),$(DEMO_TASK_SETTINGS))

demo-atari: $(READY)
	$(call demo-half,Atari,atari,game,$(DEMO_GAME),$(DEMO_GAME_SETTINGS))

# Everything is checked even when something before it failed; one failure fails the whole. Twins are
# proven equal by lint, so their tests run in one tree only; `python -m pytest` in a tree runs all.
test: $(READY) ## lint, then every test of both trees but the long ones
	@status=0; $(MAKE) --no-print-directory lint || status=1; \
	(cd .ci && $(TEST_ENV) $(PYTHON_VENV) -m pytest -q -p no:cacheprovider .) || status=1; \
	for tree in $(TREES); do \
	  printf '\n== pytest %s\n' "$$tree"; \
	  twins=; [ "$$tree" = DMControl ] || twins=--ignore=tests/twin; \
	  (cd $$tree && $(TEST_ENV) $(PYTHON_VENV) -m pytest -q $(PYTEST_WORKERS) --durations 5 $$twins) \
	    || status=1; \
	done; exit $$status

soak: $(READY) ## the long tests of both trees
	@status=0; for tree in $(TREES); do \
	  printf '\n== pytest -m soak %s\n' "$$tree"; code=0; \
	  twins=; [ "$$tree" = DMControl ] || twins=--ignore=tests/twin; \
	  (cd $$tree && $(TEST_ENV) $(PYTHON_VENV) -m pytest -q -m soak $(PYTEST_WORKERS) $$twins) || code=$$?; \
	  case $$code in 0) ;; 5) echo "no long tests in $$tree" ;; *) status=1 ;; esac; \
	done; exit $$status

lint: $(READY) ## ruff, mypy, twins, and the agreements that no common tool knows
	@$(MAKE) --no-print-directory -j 2 -k -O $(TREES:%=lint-%) lint-both

$(TREES:%=lint-%): lint-%: $(READY)
	@cd $*; status=0; ../.venv/bin/ruff check -q . || status=1; \
	../.venv/bin/ruff format --check -q . || status=1; ../.venv/bin/mypy || status=1; exit $$status

LAYERS := PYTHONPATH=DMControl:Atari .venv/bin/lint-imports --config .ci/layers.ini --no-cache --no-logo
lint-both: $(READY)
	@status=0; .venv/bin/ruff check -q --config DMControl/pyproject.toml .ci figs || status=1; \
	.venv/bin/ruff format --check -q --config DMControl/pyproject.toml .ci figs || status=1; \
	$(LAYERS) >/dev/null || { $(LAYERS); status=1; }; \
	.venv/bin/python .ci/twins.py || status=1; .venv/bin/python .ci/style.py || status=1; exit $$status

twins: $(READY) ## make Atari's twin files those of DMControl
	.venv/bin/python .ci/twins.py copy

doctor: $(READY) ## whether a run would work here, and how long it would take
	@status=0; for tree in $(TREES); do \
	  printf '\n== %s\n' "$$tree"; (cd $$tree && $(PYTHON_VENV) doctor.py) || status=1; \
	done; exit $$status

figures: $(READY) ## draw figs/*.png again
	.venv/bin/python figs/draw.py

RUNS := DMControl/runs
screenshots: $(READY) ## figs/tensorboard.png and figs/report.png again, with RUNS=folder of runs
	.venv/bin/python .ci/screenshots.py $(RUNS)
