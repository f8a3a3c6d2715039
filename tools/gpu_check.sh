#!/bin/sh
# Everything that only a GPU can show, in one go; builds and installs nothing.
#
#   tools/gpu_check.sh [OUTPUT_FOLDER] [RECORDING]
#
# Runs the tests that need a GPU, writes golden vectors of the parameter layout as every backend
# on this GPU sees them, and trains and measures speed on RECORDING (by default a sample recording
# that is made on the spot, which takes the extra [demo]).
# Exit status: 0 all passed, 1 something failed, 77 there is no GPU and nothing was checked.

set -u
cd "$(dirname "$0")/.." || exit 1
OUT=${1:-gpu_check}
RECORDING=${2:-}
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no GPU: torch sees no CUDA device here, so nothing was run and nothing is shown" >&2
    exit 77
fi

failed=0
attempt() {
    echo "== $1"
    shift
    "$@" || { echo "FAILED: $*" >&2; failed=1; }
}
crossfire() { "$PYTHON" -c 'from crossfire_core.cli import main; main()' "$@"; }

mkdir -p "$OUT"
"$PYTHON" -c 'import torch; print(torch.cuda.get_device_name(), "torch", torch.__version__)' |
    tee "$OUT/device.txt"
attempt "tests on the GPU" "$PYTHON" -m pytest -q test/test_gpu.py test/test_encoding.py
attempt "golden vectors" "$PYTHON" tools/golden_vectors.py "$OUT/encoding.npz"
if [ -z "$RECORDING" ]; then
    RECORDING=$OUT/sample/mapping_bag
    [ -e "$RECORDING" ] || attempt "sample recording" crossfire sample "$OUT/sample"
fi
attempt "training" crossfire train "$RECORDING" --map "$OUT/gpu.map" --minutes 1 --device cuda
attempt "speed" crossfire benchmark --speed --map "$OUT/gpu.map" --recording "$RECORDING" \
    --device cuda --work "$OUT" --json "$OUT/speed.json"
echo "results are in $OUT"
exit $failed
