#!/bin/sh
# sightline and transformers in one run on the same checkpoint, cores and threads:
#
#     bench/run.sh [MODEL] [THREADS] [RUNS]
#
# MODEL is made by bench/make_checkpoint.py when it does not exist (default /tmp/llava-7b-geometry, 2.8 GB). PYTHON names an
# interpreter with torch and transformers (bench/requirements.txt). Prints tables: the
# product beside oneDNN's, then floor, time, peer's time and ratio; interventions last.
set -eu
cd "$(dirname "$0")/.."
model=${1:-/tmp/llava-7b-geometry} threads=${2:-2} runs=${3:-5}
python=${PYTHON:-python3}
[ -e /usr/include/dnnl.h ] || { echo "oneDNN is missing: apt-get install libdnnl-dev" >&2; exit 1; }
cmake -S . -B build -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build build --target bench_engine bench_branch bench_product >/dev/null
[ -f "$model/model.safetensors" ] || "$python" bench/make_checkpoint.py "$model"
results=$(mktemp -d)
build/bench/bench_product >"$results/product.txt"
build/bench/bench_engine "$model" 60 "$threads" "$runs" >"$results/engine.json"
for attention in sdpa eager; do
  "$python" bench/peer.py "$model" 60 "$threads" "$runs" "$attention" >"$results/peer-$attention.json"
done
build/bench/bench_branch "$model" 64 "$threads" "$runs" >"$results/branch.json"
for rival in hooks expert; do
  "$python" bench/peer_branch.py "$model" 64 "$threads" "$runs" "$rival" >"$results/branch-$rival.json"
done
cat "$results/product.txt"
"$python" bench/table.py "$results"
rm -r "$results"
