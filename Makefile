# Two commands: `make study` and `make test`. Each sets up .venv by itself.
PROFILE ?= local
PYTHON ?= python3

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
READY := .venv/ready
TESTED := .venv/ready-to-test
# what notebooks need, without Snakemake and Sphinx
LAB := .venv/ready-for-lab
ENOUGH := $(if $(wildcard $(READY)),$(READY),$(LAB))
# PyTorch without CUDA where no NVIDIA GPU is found: some GB less. On macOS and Windows, PyPI's is
ifeq ($(shell uname -s 2>/dev/null)$(shell command -v nvidia-smi 2>/dev/null),Linux)
CPU_ONLY := UV_TORCH_BACKEND=$${UV_TORCH_BACKEND:-cpu}
endif

# of a study; what is not given is as in the Snakefile
OPTIONS := DATA PRESET SEED SEEDS METHODS RUNS
# of a pack, beside these
PACKED := FILE SMALL HALF IMAGES
# a name that is mistyped, as in `make study SED=1`, would otherwise be ignored
KNOWN := $(OPTIONS) $(PACKED) PROFILE FIGURES PYTHON
GIVEN := $(foreach name,$(.VARIABLES),$(if $(findstring command,$(origin $(name))),$(name)))
STRANGE := $(filter-out $(KNOWN),$(filter-out -%,$(GIVEN)))
ifneq ($(STRANGE),)
$(error unknown variable $(STRANGE); choose from $(KNOWN))
endif
PROFILES := $(patsubst data/profiles/%/config.yaml,%,$(wildcard data/profiles/*/config.yaml))
ifeq ($(filter $(PROFILES),$(PROFILE)),)
$(error unknown PROFILE $(PROFILE); choose from $(PROFILES), or add data/profiles/$(PROFILE)/config.yaml)
endif

define LINE_BREAK


endef
$(foreach name,$(OPTIONS) $(PACKED),$(if $(findstring $(LINE_BREAK),$(value $(name))),\
	$(error $(name) has a line break in it; make hands on one line: rename the folder)))
# each as it was typed: make reads no $ in it, and the shell nothing at all
TYPED = $(foreach name,$(1),$(if $(filter-out undefined,$(origin $(name))),$\
	'$(name)=$(subst ','\'',$(value $(name)))'))
CHOSEN = $(call TYPED,$(OPTIONS))
SNAKEMAKE = $(BIN)/python -m cilkit.study.batch --profile data/profiles/$(PROFILE)
CONFIG = $(if $(strip $(CHOSEN)),--config $(CHOSEN))
EXECUTOR := $(shell sed -n 's/^executor: *//p' data/profiles/$(PROFILE)/config.yaml)
INSTALL = $(BIN)/python -m pip install snakemake-executor-plugin-$(EXECUTOR)

# What glibc frees it keeps for the next batch: 5 to 20 % of a training. Values of your own stay
MALLOC_MMAP_THRESHOLD_ ?= 1000000000
MALLOC_TRIM_THRESHOLD_ ?= 2000000000
export MALLOC_MMAP_THRESHOLD_ MALLOC_TRIM_THRESHOLD_
# in a container, often; JupyterLab stays on this machine, with a token
ALLOW_ROOT := $(if $(filter 0,$(shell id -u 2>/dev/null)),--allow-root)

.PHONY: study graph report site class pack unpack test lab bench constraints

# Execute the notebooks and print Tables II and III, for each data set, preset and seed that is
# asked for: SEEDS=0,1,2 METHODS=CIL,LWOF PROFILE=slurm. What is done is not done again.
study: $(READY)
ifneq ($(EXECUTOR),)
	@$(BIN)/python -c "import snakemake_executor_plugin_$(subst -,_,$(EXECUTOR))" 2>/dev/null || { \
		echo "PROFILE=$(PROFILE) needs a plugin. To install it: $(INSTALL)"; exit 1; }
endif
	$(SNAKEMAKE) $(if $(EXECUTOR),,--logger study) $(CONFIG)

# The jobs of such a study and what waits for what, as a picture
graph: $(READY)
	$(SNAKEMAKE) $(CONFIG) --dag mermaid-js | $(BIN)/python data/graph.py data/graph.png

# What a finished study took, and its tables and figures, as one HTML file
report: $(READY)
	$(SNAKEMAKE) $(CONFIG) --report data/report.html

# The executed notebooks, README and API reference as a static site in data/site
site: study
	$(BIN)/python -m book $(CHOSEN)

# The finished runs of a study as one file, to hand out: SEEDS=0,1 SMALL=yes HALF=yes FILE=...
pack: $(READY)
	$(BIN)/python -m cilkit.study.pack $(call TYPED,$(OPTIONS) $(PACKED))

# The runs of such a file into place, so that nothing is trained again: FILE=...
unpack: $(ENOUGH)
	$(BIN)/python -m cilkit.study.unpack $(call TYPED,$(OPTIONS) $(PACKED))

# Notebooks for students and for the instructor, and a lecture as slides, in class/
class: $(READY)
	$(BIN)/python -m book.class_edition $(CHOSEN)

test: $(TESTED)
	$(BIN)/python -m pytest

# JupyterLab on this machine only, in notebooks/; executed ones are below data/runs
lab: $(ENOUGH)
	$(BIN)/python -m jupyterlab --ip=127.0.0.1 $(ALLOW_ROOT) \
		--ServerApp.root_dir=. --ServerApp.preferred_dir=notebooks

# What the kit costs, beside plain PyTorch; FIGURES="step losses" measures only these
bench: $(READY)
	$(BIN)/python -m benchmarks $(FIGURES)

# without what only the tests need: Lightning would import torchmetrics in each process
$(READY): EXTRAS := [study,site]
$(TESTED): EXTRAS := [study,site,test]
$(TESTED): ALSO := $(READY)
PACKAGES = -c constraints.txt -e ".$(EXTRAS)"
$(LAB) $(READY) $(TESTED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 ..."; exit 1; }
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python "$(PYTHON)" .venv && \
		{ $(CPU_ONLY) uv pip install --quiet --python .venv $(PACKAGES) || \
			{ [ -n "$(CPU_ONLY)" ] && echo "now with PyTorch as PyPI has it, for GPUs too" && \
				uv pip install --quiet --python .venv $(PACKAGES); }; }; \
	else \
		$(PYTHON) -m venv .venv && \
		$(BIN)/python -m pip install --quiet $(PACKAGES); \
	fi
	@$(BIN)/python -c "import pathlib; [pathlib.Path(f).touch() for f in '$@ $(ALSO)'.split()]"

# Pin the newest versions that fit pyproject.toml (needs uv)
constraints:
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--no-annotate --no-header --no-emit-index-url --quiet --output-file constraints.txt
