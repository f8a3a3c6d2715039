# make test    sets up .venv, then lint, types and tests: all that a fresh clone needs
# make test-fast  the tests without those that train, search whole recordings or run a ROS graph
# make env     the environment alone
# make demo    a sample recording, a map of it, the ROS 2 node on a second drive, a report
# make lowest  the tests again, with the lowest versions that setup.py names (Python 3.10)
# make mutants every fifth small fault put into tracker, geometry and conversions: do tests notice?
# make docs    the pages as a site in site/
#
# PYTHON=python3.12      another interpreter, 3.10 to 3.12
# PIP_ARGS="..."         more for pip; `--extra-index-url` with PyTorch's index of CPU wheels saves
#                        the CUDA libraries where the usual index offers torch only with them
# EXTRAS=dev,demo        without the ROS wheels

SHELL := /bin/sh
VENV ?= .venv
PIP_ARGS ?=
EXTRAS ?= dev,ros,demo
PYTEST_ARGS ?=
# As many files of tests at a time as there are cores, at most eight.
PARALLEL ?= -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
# Which faults, as patterns of mutmut's names (module.function__mutmut_number); '*' takes all.
MUTANTS ?= *__mutmut_*[27]
MUTANTS_LIMIT ?= 3h
BIN := $(VENV)/bin
UV_INSTALL = $(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest $(PIP_ARGS)
STAMP := $(VENV)/.installed
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && { echo $$p; break; }; done)
SOURCES := crossfire_core crossfire_ros test launch tools setup.py

# Files whose tests take more than two seconds of a CPU in all (pytest --durations=0).
SLOW := adjustment cli cli_doctor docs_run encoding evaluation evaluation_official \
	evaluation_peers evidence export extension gpu gpu_check joining \
	mapping_poses neural_map own_parts packaging patches place \
	place_training pose_correction pretraining recordings_bag recordings_calibration \
	recordings_check recordings_check_folders recordings_check_real recordings_convert \
	recordings_damaged recordings_merges recordings_messages recordings_real recordings_rig \
	ros_files ros_map ros_node ros_play ros_process ros_situations sample stand_in_gpu tiling \
	tracker training waiting

.PHONY: env lint types test test-fast mutants lowest demo docs clean

env: $(STAMP)

$(STAMP): setup.py constraints.txt $(wildcard tools/tf2_msgs/*)
	@test -x $(BIN)/python || test -n "$(PYTHON)" || \
		{ echo "Python 3.10, 3.11 or 3.12 is needed: name one with PYTHON=..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[$(EXTRAS)]'
	@case ",$(EXTRAS),$$(uname -sm)" in *,ros,*"Linux x86_64") \
		echo "building tf2_msgs, which the ROS wheels lack"; \
		$(BIN)/python -m pip install --quiet $(PIP_ARGS) ./tools/tf2_msgs || \
		echo "tf2_msgs cannot be built (it takes a C compiler): tests of the node are skipped" >&2;; \
	esac
	@touch $@

lint: env
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/ruff format --check $(wildcard $(SOURCES))

types: env
	$(BIN)/mypy

test: env lint types
	@$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

test-fast: env
	@$(BIN)/python -m pytest -q $(PARALLEL) $(SLOW:%=--ignore=test/test_%.py) $(PYTEST_ARGS)

lowest:
	test -x $(VENV)-lowest/bin/python || $(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet $(PIP_ARGS) uv
	$(UV_INSTALL) --resolution lowest-direct -e '.[demo]'
	$(UV_INSTALL) -e '.[dev]'
	@$(VENV)-lowest/bin/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

mutants: env
	OMP_NUM_THREADS=1 timeout $(MUTANTS_LIMIT) $(BIN)/mutmut run '$(MUTANTS)'
	$(BIN)/mutmut results

demo: env
	@$(BIN)/crossfire demo demo $(DEMO_ARGS)

docs: env
	$(BIN)/python -m crossfire_core.config_reference > docs/configuration.md
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --site-dir site

clean:
	rm -rf $(VENV) $(VENV)-lowest build install log dist site mutants *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
