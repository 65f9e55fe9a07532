# Five verbs, the same at home and in CI. `make demo` and `make test` need Python 3.11 or newer and a package index, nothing else.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo check site test test-extras test-slow test-device docs wheel bench runtime clean

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
	$(MAKE) --no-print-directory site

# The site in site/, built strictly: a broken link or a page that nothing leads to fails. Its tools lie by themselves, as
# they need nothing of torch; what they read of the classes is written before.
site: setup .venv-docs/.ready
	$(BIN)/python docs/generate.py --api
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

.venv-docs/.ready: pyproject.toml constraints.txt
	@test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    $$($(PYTHON) -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	    print(*project['optional-dependencies']['docs'])")
	@touch $@

test: setup
	$(BIN)/python -m pytest -n 2

# Optional dependencies lie in an environment of their own, which sees what is in .venv and adds these:
EXTRAS := pandas,parquet,huggingface,augment,plots,foolbox,art,ray,slurm,tensorboard,mlflow,wandb,hub,browser,notebooks

test-extras: .venv-extras/.ready
	.venv-extras/bin/python -m pytest tests/extras tests/reports/test_page_in_browser.py tests/reproduce tests/data/test_data_sources.py tests/data/test_data_mixing.py \
	    tests/sweeps/test_on_ray.py tests/sweeps/test_on_slurm.py
	.venv-extras/bin/python -m pytest -m "slow or not slow" tests/test_pages.py tests/test_notebooks.py tests/test_wheel.py

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

# A wheel in dist/, built of what git has, and tried in an environment of its own, in a folder of its own.
wheel: setup
	rm -rf build dist && mkdir -p build/tree dist
	git archive HEAD | tar -x -C build/tree
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist build/tree
	$(BIN)/python -m pytest -m slow tests/test_wheel.py
	@ls dist

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venv-extras .venv-docs build dist site docs/api .pytest_cache .ruff_cache src/poise.egg-info
