# make demo     upscale an example photograph with the bundled model, then serve the page
# make upscale  the same without the page
# make test     lint, types, tests
# make slow     the tests that take long: several processes at once, folders that are deleted in time
# make ends     the lower end of the declared versions, installed into an empty environment and tested there (minutes, some GB)
# make package  the wheel, installed with all it depends on into an empty environment and tried there
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PHOTO ?= cupscale/assets/examples/raccoon.png

.PHONY: demo upscale page test slow ends lint package clean

demo: upscale page

upscale: $(VENV)/.run
	@mkdir -p out
	$(PY) -m cupscale upscale $(PHOTO) --scale 4 --seed 7 --model tiny --out out/demo.png --overwrite

page: $(VENV)/.run
	$(PY) app.py

test: $(VENV)/.dev lint
	$(PY) -m pytest

slow: $(VENV)/.dev
	$(PY) -m pytest -m slow

ends:
	$(PYTHON) tools/ends.py out/ends

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	@rm -f cupscale/page/*.pyi  # gradio writes them when the page runs, and mypy would read them for the modules
	$(PY) -m mypy

package: $(VENV)/.dev
	$(PY) -m pytest -n 0 -m install tests/test_package.py

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml requirements-cpu.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-cpu.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) out
