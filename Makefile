# make demo: train GuidedSAC on MountainCarContinuous-v0 with the bundled supervisor (no key needed)
# make results: run all studies of benchmark/studies/, rebuild their tables and the paper's figures (days)
# make figure-N: figure N of the paper, 3 to 7, with the studies behind it
# QUICK=1 behind either: the same with few seeds and steps, into runs/quick/ (minutes a figure, about an hour for all)
# make test: run all tests        make lint: ruff        make docs: the site, into site/ (a broken link is an error)
# make test-real-model: the supervisor with a real llama.cpp server and a small model (builds the server: some minutes)
PYTHON ?= python3
VENV := .venv
# --no-compile: Python compiles a module where it is first imported, and most never are (half of the time)
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile
# of `make test`, also on two cores: the tests often wait, for a process or a deadline
WORKERS := 4

ifeq ($(wildcard $(VENV)/bin/python),)
ifneq ($(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 11))'),True)
$(error Python 3.11 or newer is needed, and $(PYTHON) is $(shell $(PYTHON) --version 2>&1): make PYTHON=python3.12 takes another)
endif
endif

.PHONY: demo results results-quick figure-3 figure-4 figure-5 figure-6 figure-7 test test-real-model lint docs

demo: $(VENV)/installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python guided_sac_continuous.py --env-id MountainCarContinuous-v0 --supervisor bundled \
		--total-timesteps 5000 --eval-frequency 1000 --eval-episodes 20 --save-model

results: $(VENV)/installed-benchmark
	$(VENV)/bin/python -m benchmark.results $(if $(QUICK),--quick)

results-quick:
	$(MAKE) results QUICK=1

figure-3 figure-4 figure-5 figure-6 figure-7: $(VENV)/installed-benchmark
	$(VENV)/bin/python -m benchmark.results --figure $(@:figure-%=%) $(if $(QUICK),--quick)

test: $(VENV)/installed-tests
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "not alone and not real_model"
	$(VENV)/bin/python -m pytest -m alone $$(grep -rl --include="test_*.py" "mark.alone" tests)

test-real-model: $(VENV)/bin/llama-server
	$(VENV)/bin/python -m pytest -m real_model

lint: $(VENV)/installed-tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements.txt
	touch $@

$(VENV)/installed-benchmark: benchmark/requirements.txt $(VENV)/installed
	$(INSTALL) -r benchmark/requirements.txt
	touch $@

$(VENV)/installed-docs: docs/requirements.txt | $(VENV)/bin/python
	$(INSTALL) -r docs/requirements.txt
	touch $@

$(VENV)/installed-tests: tests/requirements.txt $(VENV)/installed-benchmark $(VENV)/installed-docs
	$(INSTALL) -r tests/requirements.txt
	touch $@

# llama.cpp's own server, from the sources that its Python binding carries
LLAMA_VERSION := 0.3.36
LLAMA := $(VENV)/llama_cpp_python-$(LLAMA_VERSION)

$(VENV)/bin/llama-server: tests/requirements-real-model.txt | $(VENV)/installed-tests
	$(INSTALL) -r tests/requirements-real-model.txt
	$(VENV)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
		--dest $(VENV) llama-cpp-python==$(LLAMA_VERSION)
	tar -xzf $(LLAMA).tar.gz -C $(VENV)
	$(VENV)/bin/cmake -S $(LLAMA)/vendor/llama.cpp -B $(LLAMA)/build -DBUILD_SHARED_LIBS=OFF \
		-DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
	$(VENV)/bin/cmake --build $(LLAMA)/build --target llama-server --parallel 2
	cp $(LLAMA)/build/bin/llama-server $@
