# Shortcuts, run within the virtual environment of the README.
.PHONY: test test-slow lint repro

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
