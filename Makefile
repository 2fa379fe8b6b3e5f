# Two commands: `make study` and `make test`. Each sets up .venv by itself.
DATA ?= toyscapes
PRESET ?= quick
SEED ?= 0
RUNS ?= data/runs
PYTHON ?= python3

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
READY := .venv/ready

# a name that is mistyped, as in `make study SED=1`, would otherwise be ignored
GIVEN := $(foreach name,$(.VARIABLES),$(if $(findstring command,$(origin $(name))),$(name)))
STRANGE := $(filter-out DATA PRESET SEED RUNS FIGURES PYTHON,$(filter-out -%,$(GIVEN)))
ifneq ($(STRANGE),)
$(error unknown variable $(STRANGE); choose from DATA PRESET SEED RUNS FIGURES PYTHON)
endif

.PHONY: study site test lab bench constraints

# Execute the notebooks in order and print Tables II and III. What is done is not done again.
study: $(READY)
	$(BIN)/python -m snakemake --cores all --nolock --rerun-incomplete --quiet rules host \
		--config "DATA=$(DATA)" "PRESET=$(PRESET)" "SEED=$(SEED)" "RUNS=$(RUNS)"

# The executed notebooks, README and API reference as a static site in data/site
site: study
	$(BIN)/python -m book "DATA=$(DATA)" "RUNS=$(RUNS)" "PRESET=$(PRESET)" "SEED=$(SEED)"

test: $(READY)
	$(BIN)/python -m pytest

# JupyterLab on this machine only, in notebooks/
lab: $(READY)
	$(BIN)/python -m jupyterlab --ip=127.0.0.1 --notebook-dir=notebooks

# What the kit costs, beside plain PyTorch; FIGURES="step losses" measures only these
bench: $(READY)
	$(BIN)/python -m benchmarks $(FIGURES)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 ..."; exit 1; }
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python "$(PYTHON)" .venv && \
		uv pip install --quiet --python .venv -c constraints.txt -e ".[study,site,test]"; \
	else \
		$(PYTHON) -m venv .venv && \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[study,site,test]"; \
	fi
	@$(BIN)/python -c "import pathlib; pathlib.Path('$(READY)').touch()"

# Pin the newest versions that fit pyproject.toml (needs uv)
constraints:
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--no-annotate --no-header --no-emit-index-url --quiet --output-file constraints.txt
