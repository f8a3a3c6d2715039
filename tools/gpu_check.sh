#!/bin/sh
# Everything that only a GPU can show, in one go; builds and installs nothing.
#
#   tools/gpu_check.sh [OUTPUT_FOLDER]
#
# Each step is a process of its own with a time limit, so that one that crashes or hangs hides no
# other: every test that needs a GPU, the golden vectors, training for 60 s on a sample recording
# (which takes the extra [demo]) and, where $CROSSFIRE_DATA has it, on RedKitchen, and the time of
# a localization with every backend. What each step printed lies in OUTPUT_FOLDER; all figures are
# in gpu_check.json there.
# Without a GPU the golden vectors alone are compared, on the CPU; the JSON names what did not run.
# Exit status: 0 all passed, 1 something failed, 77 nothing failed, but there is no GPU,
# 2 this Python lacks torch.

set -u
cd "$(dirname "$0")/.." || exit 1
OUT=${1:-gpu_check}
DATA=${CROSSFIRE_DATA:-../shared/data}
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi

GPU=1
"$PYTHON" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else 77)'
case $? in
    0) ;;
    77) GPU=0; echo "no GPU: torch sees no CUDA device here, so what needs one does not run" >&2 ;;
    *) echo "$PYTHON cannot load torch: name another one with PYTHON=..." >&2; exit 2 ;;
esac

mkdir -p "$OUT"
rm -f "$OUT"/*.json
: > "$OUT/steps.txt"

# attempt NAME SECONDS COMMAND...: its exit status and duration become a line of steps.txt
attempt() {
    if [ $GPU -eq 0 ]; then
        echo "$1 77 0" >> "$OUT/steps.txt"
    else
        anywhere "$@"
    fi
}
anywhere() {
    name=$1 limit=$2 start=$(date +%s)
    shift 2
    echo "== $name"
    timeout -k 10 "$limit" "$@" > "$OUT/$name.log" 2>&1
    status=$?
    [ $status -eq 0 ] || echo "FAILED ($status): see $OUT/$name.log" >&2
    echo "$name $status $(($(date +%s) - start))" >> "$OUT/steps.txt"
}
crossfire() {
    name=$1 limit=$2
    shift 2
    attempt "$name" "$limit" "$PYTHON" -c 'from crossfire_core.cli import main; main()' "$@"
}
# train_and_time NAME MAPPING QUERY: 60 s of training, errors on other images, times
train_and_time() {
    crossfire "train-$1" 300 train "$2" -o "$OUT/$1.map" --minutes 1 --device cuda
    crossfire "evaluate-$1" 300 evaluate "$OUT/$1.map" "$3" --device cuda \
        --json "$OUT/evaluate-$1.json"
    for backend in tinycudann triton torch; do
        crossfire "speed-$1-$backend" 600 speed "$OUT/$1.map" "$2" --device cuda --backend $backend \
            -o "$OUT/speed-$1-$backend.png" --json "$OUT/speed-$1-$backend.json"
    done
}

for test in $(sed -n 's/^def \(test_[a-z_0-9]*\).*/\1/p' test/test_gpu.py); do
    attempt "$test" 600 "$PYTHON" -m pytest -q test/test_gpu.py -k "$test"
done
anywhere golden 300 "$PYTHON" tools/golden_vectors.py compare test/golden/encoding.npz \
    "$OUT/golden.json"
if [ -e "$DATA/tcnn_golden.npz" ]; then
    anywhere golden-tcnn 300 "$PYTHON" tools/golden_vectors.py compare "$DATA/tcnn_golden.npz" \
        "$OUT/golden-tcnn.json"
fi
[ -e "$OUT/sample/mapping_bag" ] || crossfire sample 900 sample "$OUT/sample"
train_and_time room "$OUT/sample/mapping_bag" "$OUT/sample/query_bag"
if [ -e "$DATA/redkitchen/mapping_bag" ]; then
    train_and_time redkitchen "$DATA/redkitchen/mapping_bag" "$DATA/redkitchen/query_bag"
fi
exec "$PYTHON" tools/gpu_figures.py "$OUT"
