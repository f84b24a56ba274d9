# make demo    set up, convert shunted-s from Paddle to PyTorch and verify it
# make test    set up and run the tests
# make lint    ruff, mypy, import-linter, generated documents
# make bare    convert where neither torch nor paddle is installed
# make lowest  the same, with the lowest versions of the dependencies
# make wheel   install the wheel in a fresh environment and run it outside the source tree
# make golden-onnx  golden cases to ONNX in two operator sets, through onnxslim, and back
# make old     Paddle 2.6 and ONNX Runtime 1.15 with NumPy 1: load, read, run what porter writes
# make clouds  gs:// and az:// by their own clients against servers on this machine
# make coverage  lines and branches of the readers and writers that no test reaches
# make mutate  put faults into the readers, one at a time: a test must notice
# make sweep   kill the processes that write one checkpoint's shards at 50 random moments
# make bench   measure against cp and the scripts that people write
# make gpu     on a GPU machine with torch: its tests, reports and load benchmark, from .whl/
# make gallery  infer the tables for pairs of public packages again, and prove them
# make docs    write the generated documents, build the site into site/; links are checked
# make docs-serve  the same site in a browser, built again at each change
# make dist    build what is released: source distribution and wheel, checked

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
export OMP_NUM_THREADS ?= 1
# Models of public packages; what they ask for would bring torchvision, and OpenCV.
MODELS := timm paddleclas ppim rapidocr transformers tokenizers regex paddlex colorlog prettytable

.PHONY: setup demo test lint bare lowest clouds wheel dist golden-onnx old coverage mutate sweep bench gallery docs docs-serve skeletons templates fuzz gpu-wheels gpu reports clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps $(MODELS)
	touch $@

demo: setup
	mkdir -p demo
	rm -f demo/shunted-s.pdparams demo/shunted-s.pth demo/*.porter.json
	cd demo && ../$(BIN)/porter convert shunted-s --from paddle --to torch

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/*.Dockerfile
	$(BIN)/python docs/generate.py --check

bare:
	$(PYTHON) -m venv .venv-bare
	rm -rf build
	.venv-bare/bin/pip install --quiet --disable-pip-version-check -c constraints.txt . pytest pytest-timeout
	.venv-bare/bin/python -P -m pytest -p no:cacheprovider tests/bare

lowest:
	$(PYTHON) -m venv .venv-lowest
	rm -rf build
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest.txt . pytest pytest-timeout
	.venv-lowest/bin/python -P -m pytest -p no:cacheprovider tests/bare

wheel:
	$(PYTHON) .ci/wheel.py --constraint constraints.txt

dist: setup
	rm -rf dist
	$(BIN)/pip install --quiet --disable-pip-version-check build twine
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python .ci/wheel.py dist/*.whl

old:
	$(PYTHON) -m venv .venv-old
	rm -rf build
	.venv-old/bin/pip install --quiet --disable-pip-version-check -r tests/old/requirements.txt .
	.venv-old/bin/python -P -m pytest -p no:cacheprovider tests/old/test_old_paddle.py tests/old/test_old_onnxruntime.py

clouds:
	$(PYTHON) -m venv .venv-clouds
	.venv-clouds/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gs,az]' \
	    pytest pytest-timeout safetensors gcp-storage-emulator
	.venv-clouds/bin/python -m pytest -p no:cacheprovider tests/clouds

golden-onnx: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps onnxslim
	$(BIN)/python -m tests.golden.through_onnx

COVERING := tests/codecs tests/storage tests/tensors tests/commands/test_repack.py tests/commands/test_inspect.py

coverage: setup
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -q -m "not slow" $(COVERING)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

mutate: setup
	$(BIN)/python -m tests.mutate $(MODULE)

sweep: setup
	$(BIN)/python -m tests.fleet.shard_runs 50

bench: setup
	$(BIN)/python -m benchmarks

export NO_MKDOCS_2_WARNING := 1

docs: .venv-docs/.ready
	.venv-docs/bin/python docs/generate.py
	.venv-docs/bin/mkdocs build --strict

docs-serve: .venv-docs/.ready
	.venv-docs/bin/mkdocs serve

.venv-docs/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

skeletons: setup
	$(BIN)/python -m porter.frameworks.skeletons

gallery: setup
	PYTHONPATH=tests/infer/stubs $(BIN)/python -m benchmarks.gallery

templates: setup
	rm -f porter/onnx/templates/*.onnx.gz
	$(BIN)/porter export-templates --all -o porter/onnx/templates
	$(BIN)/porter export-templates --all --free-size -o porter/onnx/templates

fuzz: setup
	$(BIN)/pip install --quiet atheris
	for t in torch torch-pickle paddle safetensors npz npy onnx index; do $(BIN)/python -m tests.fuzz $$t 60 || exit 1; done

gpu-wheels: setup
	rm -rf .whl build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w .whl .
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps -d .whl \
	    --only-binary=:all: --python-version 3.12 --implementation cp \
	    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
	    $$(grep '^platformdirs==' constraints.txt)
	$(BIN)/python -m tests.gpu.published .whl/traces

gpu:
	test -d .whl || $(MAKE) gpu-wheels
	PYTHON=$(PYTHON) tests/gpu/run.sh docs/reports

reports: setup
	$(BIN)/python docs/reports/examples.py
	$(BIN)/python docs/reports/proofs.py
	$(BIN)/python docs/reports/prove.py > docs/reports/prove.md
	$(BIN)/python -m tests.verification.matrix > docs/reports/faults.md
	$(BIN)/python docs/reports/floors.py > docs/reports/floors.md

clean:
	rm -rf $(VENV) .venv-bare .venv-lowest .venv-old .venv-docs site demo build dist *.egg-info
