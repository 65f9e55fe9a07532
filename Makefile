# Five verbs, the same at home and in CI. `make demo` and `make test` need Python 3.11 or newer and a package index, nothing else.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo check test test-extras test-slow test-device docs bench runtime clean

setup: .venv/.developer

.venv/.user: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/.developer: .venv/.user
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,onnx]'
	@touch $@

demo: .venv/.user
	$(BIN)/poise demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: setup
	$(BIN)/python -m pytest -n 2

# Optional dependencies lie in an environment of their own, which sees what is in .venv and adds these:
EXTRAS := pandas,parquet,huggingface,augment,plots,foolbox,art,ray,slurm,tensorboard,mlflow,wandb,hub,browser

test-extras: .venv-extras/.ready
	.venv-extras/bin/python -m pytest tests/extras tests/reports/test_page_in_browser.py tests/reproduce tests/data/test_data_sources.py tests/data/test_data_mixing.py \
	    tests/sweeps/test_on_ray.py tests/sweeps/test_on_slurm.py

.venv-extras/.ready: .venv/.developer
	$(BIN)/python -m venv .venv-extras
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	    > "$$(.venv-extras/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/developer.pth"
	.venv-extras/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	# what AutoAttack in L1 is compared with, of whose requirements torch is there
	.venv-extras/bin/python -m pip install --quiet --disable-pip-version-check --no-deps pyautoattack==0.2.0
	@touch $@

# The library that the page's charts run on, in one file (needs npm): after a change of runtime/ or its versions.
runtime:
	cd runtime && npm ci --silent && node build.mjs

test-slow: setup
	$(BIN)/python -m pytest -n 2 -m slow

test-device: setup
	$(BIN)/python -m pytest -p benchmarks.pretended.plugin -m "not slow" --ignore tests/device

docs: setup
	$(BIN)/python docs/generate.py

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venv-extras build dist .pytest_cache .ruff_cache src/poise.egg-info
