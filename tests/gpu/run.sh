#!/usr/bin/env bash
# Run on a GPU machine what needs a GPU, from wheels, without a package index or a network.
#
#     tests/gpu/run.sh OUT [--device cpu] [--quick] [--no-benchmark] [--wheels FOLDER]
#
# OUT gets gpu.md, gpu.json, gpu-good.html, gpu-faulty.html, gpu-faulty.xml, gpu-speed/results.md,
# gpu-speed/results.json and gpu.log. A step that fails does not stop the next ones; the exit status
# says whether any failed. The source tree is not imported: what the steps need is copied to a
# temporary folder, and porter is installed there from its wheel (`make gpu-wheels`, which also
# records traces of models that other packages define). The benchmark needs 90 s.
# PYTHON names the interpreter; it has torch, pytest and porter's other requirements.
set -uo pipefail

out=${1:?usage: run.sh OUT [--device cpu] [--quick] [--wheels FOLDER]}
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
device=cuda variants=() traces=() rounds=3 benchmark=yes wheels=$root/.whl python=${PYTHON:-python3}
while (($#)); do
    case $1 in
        --device) device=$2; shift ;;
        --quick) variants=(--variants shunted-t,vit-tiny-p16-224) rounds=1 ;;
        --no-benchmark) benchmark=no ;;
        --wheels) wheels=$(cd "$2" && pwd); shift ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift
done
if [[ -d $wheels/traces ]] && ((!${#variants[@]})); then traces=(--traces "$wheels/traces"); fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

step() { # NAME SECONDS COMMAND…
    local name=$1 limit=$2 status=0
    shift 2
    printf '\n== %s (%s s)\n' "$name" "$SECONDS"
    timeout --kill-after=5 "$limit" "$@" || status=$?
    if ((status)); then
        printf '== %s FAILED with status %s\n' "$name" "$status"
        failed=1
    fi
}

steps() {
    step "install" 60 "$python" -m pip install --quiet --no-index --no-deps --no-cache-dir \
        --disable-pip-version-check --target "$work/site" "$wheels"/*.whl
    mkdir -p "$work/run/tests" "$work/run/docs/reports"
    cp -r "$root/tests/__init__.py" "$root/tests/gpu" "$work/run/tests/"
    cp "$root/docs/reports/gpu.py" "$work/run/docs/reports/"
    cp -r "$root/benchmarks" "$root/pyproject.toml" "$work/run/"
    cd "$work/run" || return
    export PYTHONSAFEPATH=1 PYTHONPATH=$work/site:$work/run PYTHONUNBUFFERED=1
    step "porter is the installed one" 30 "$python" -c \
        "import porter, sys; sys.exit(not porter.__file__.startswith('$work/site/'))"
    step "reports" 400 "$python" docs/reports/gpu.py --out "$out" --device "$device" \
        ${variants[@]+"${variants[@]}"} ${traces[@]+"${traces[@]}"}
    local marked=gpu
    if [[ $device == cpu ]]; then marked="not gpu"; else export PORTER_NEEDS_GPU=1; fi
    step "tests" 150 "$python" -m pytest -v --no-header --tb=short -p no:cacheprovider -m "$marked" \
        tests/gpu/test_gpu.py
    if [[ $benchmark == yes ]]; then
        step "load benchmark" 150 "$python" -m benchmarks --groups load --rounds "$rounds" \
            --out "$out/gpu-speed"
    fi
    printf '\n== done in %s s, %s\n' "$SECONDS" "$( ((failed)) && echo "with failures" || echo "all well")"
    return "$failed"
}

steps 2>&1 | tee "$out/gpu.log"
exit "${PIPESTATUS[0]}"
