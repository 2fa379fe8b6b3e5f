#!/usr/bin/env bash
# What the kit does on one GPU, by one command, within a time budget, on a machine without a network:
#
#   bash benchmarks/gpu.sh
#
#   data    what came along is unpacked: archives of CamVid in .camvid/, results of an earlier call
#   steps   steps a second in all forms of number, memory and start (benchmarks/gpu_steps.py)
#   tests   tests/test_cuda.py
#   train   all trainings of some studies, several side by side (benchmarks/gpu.py)
#
# It needs Python with torch, torchvision, pandas, scipy, matplotlib and pytest. What else is missing
# comes as wheels in .whl/ (lightning_fabric). CamVid (174 MiB) is packed before, see
# benchmarks/gpu_data.py: without loss it takes three archives in .camvid/ of at most 50 MiB. Where
# all do not fit at once, bring them by several calls to one machine:
#
#   PARTS=data bash benchmarks/gpu.sh        # with camvid-1-of-3.tar alone; again with the second
#   bash benchmarks/gpu.sh                   # with the last one
#
# Options, as environment variables:
#
#   BUDGET        seconds from the start to the last result (660)
#   SIDE_BY_SIDE  trainings at a time (4)
#   STUDIES       DATA:PRESET:SEED, in the order in which they are worked off
#                 (camvid:paper:0 toyscapes:long:0 camvid:paper:1 toyscapes:long:1 camvid:paper:2)
#   PARTS         some of: data steps tests train (all)
#   RESUME        folder with the results of an earlier call: what it finished is not done again
#   CAMVID        folder of the unpacked data set, instead of .camvid/
#   WORK          folder for data, runs and logs (cilkit-gpu in TMPDIR or /tmp)
#   OUT           folder for results (out in WORK)
#   DEVICE        cpu: on the processor, for a test
#   PYTHON        (python3)
#
# Results in OUT, at most 8 files of 16 MiB: log.txt, steps.json, scores.csv (of all finished seeds;
# `python -m cilkit.results.report OUT/scores.csv` records them), runs.tgz (all finished runs without
# their weights), weights-*.tar (the weights that trainings still need which are left).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
WORK=${WORK:-${TMPDIR:-/tmp}/cilkit-gpu}
OUT=${OUT:-$WORK/out}
PYTHON=${PYTHON:-python3}
mkdir -p "$WORK" "$OUT"
WORK=$(cd "$WORK" && pwd) OUT=$(cd "$OUT" && pwd)
SITE=$WORK/site
mkdir -p "$WORK/tmp" "$SITE"
if compgen -G '.whl/*.whl' >/dev/null; then
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$SITE" .whl/*.whl
fi
export PYTHONPATH=$PWD:$SITE PYTHONUNBUFFERED=1
if ! "$PYTHON" -c 'import importlib.metadata as m; m.version("cilkit")' 2>/dev/null; then
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)  # a run records it
  mkdir -p "$SITE/cilkit-$version.dist-info"
  printf 'Metadata-Version: 2.1\nName: cilkit\nVersion: %s\n' "$version" \
    >"$SITE/cilkit-$version.dist-info/METADATA"
fi
export WORK OUT CILKIT_HOME=$WORK TMPDIR=$WORK/tmp
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=2000000000
exec "$PYTHON" -m benchmarks.gpu
