# Shortcuts, run within the virtual environment of the README.
.PHONY: test test-slow lint repro full

test:       # the quick tests
	pytest -m "not slow"

test-slow:  # whole stages and pipelines
	pytest -m slow

lint:
	ruff check .
	ruff format --check .
	mypy

repro:
	dvc repro

full:       # the run with all conditions; git checkout HEAD params.yaml goes back to the default set
	python -m tools.settings params/full.yaml
	dvc repro
