#!/usr/bin/env bash
# What a GPU does, in under 9 minutes: tests on the device, then steps, influence and scoring against TRL, by value.
#
#   benchmarks/gpu.sh [FOLDER]           figures and logs; default: runs/gpu. A run that is cut off leaves what it has
#   SIZE=tiny benchmarks/gpu.sh          the same commands on a CPU with a tiny model, to see that they run
#   PYTHON=... WHEELS=FOLDER ...         another interpreter; packages that it lacks, as wheels
#   benchmarks/gpu.sh wheels FOLDER      fetches those that a machine with torch, transformers, lightning and peft lacks
#
# FOLDER/results.json has the figures of all parts, FOLDER/parts.txt how each ended.
set -u
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

if [ "${1:-}" = wheels ]; then
    folder=${2:?benchmarks/gpu.sh wheels FOLDER}
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" \
        'trl==1.16.0' 'datasets>=4.7' 'dill' 'multiprocess' 'hydra-core>=1.3.5,<1.4' 'omegaconf>=2.3,<2.4' 'antlr4-python3-runtime==4.9.*'
    exit
fi

size=${SIZE:-full}
budget=${BUDGET:-530} # seconds of all parts
out=$(mkdir -p "${1:-runs/gpu}" && cd "${1:-runs/gpu}" && pwd)
began=$(date +%s)
cd "$here/.." || exit
if [ -n "${WHEELS:-}" ]; then
    packages=$(mktemp -d)
    for wheel in "$WHEELS"/*.whl; do "$python" -m zipfile -e "$wheel" "$packages"; done
    export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

# part NAME SECONDS COMMAND...: with a limit of its own, and none once the budget is spent
part() {
    local name=$1 limit=$2 left=$((budget - ($(date +%s) - began))) start status
    shift 2
    if [ "$left" -lt 15 ]; then
        echo "$name: left out, the time is up" | tee -a "$out/parts.txt"
        return
    fi
    start=$(date +%s)
    timeout -k 5 "$((limit < left ? limit : left))" "$@" >"$out/$name.log" 2>&1
    status=$?
    echo "$name: exit status $status, $(($(date +%s) - start)) s" | tee -a "$out/parts.txt"
    tail -n 12 "$out/$name.log"
    gather
}

gather() {
    "$python" - "$out" <<'PYTHON'
import json, sys
from pathlib import Path

folder = Path(sys.argv[1])
found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if path.name != "results.json"}
(folder / "results.json").write_text(json.dumps(found, indent=2) + "\n")
PYTHON
}

step() { # NAME SECONDS OPTIONS...
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" "$python" benchmarks/gpu_step.py --json "$out/$name.json" "$@"
}

: >"$out/parts.txt"
{ nvidia-smi || true; "$python" -c 'import peft, torch, transformers, lightning as l; print(torch.__version__, transformers.__version__, l.__version__, peft.__version__, torch.cuda.is_available())'; } >"$out/machine.log" 2>&1
tail -n 1 "$out/machine.log"

if [ "$size" = tiny ]; then
    part tests 400 "$python" -m pytest -q -p no:cacheprovider -o filterwarnings= tests/test_devices.py -k "not sharded"
    tiny=(--size tiny --short --batch 8)
    step dpo_half 200 "${tiny[@]}" --variants ours,trl_best
    step dpo_half_profile 200 "${tiny[@]}" --variants ours,ours_apart,trl_default,profile
    step dpo_large_lora 200 "${tiny[@]}" --lora --variants ours,trl_best
    step dpo_large 200 "${tiny[@]}" --variants ours,trl_best_checkpointed
    step sft_half 200 "${tiny[@]}" --kind sft --variants ours,trl_best
    step sft_half_lora 200 "${tiny[@]}" --kind sft --lora --variants ours,trl_best
    part influence 300 "$python" benchmarks/influence.py --size tiny --short --json "$out/influence.json"
    part scoring 200 "$python" benchmarks/scoring.py --size tiny --short --json "$out/scoring.json"
else
    part tests 110 "$python" -m pytest -q -p no:cacheprovider -o filterwarnings= tests/test_devices.py
    step dpo_half 140 --size 0.5b --variants ours,trl_best
    step dpo_half_profile 70 --size 0.5b --repeats 1 --variants ours,ours_apart,trl_default,profile
    step dpo_large_lora 70 --size 1.5b --lora --repeats 1 --steps 8 --variants ours,trl_best
    step dpo_large 80 --size 1.5b --repeats 1 --steps 8 --variants ours,trl_best_checkpointed
    step sft_half 50 --size 0.5b --kind sft --repeats 1 --variants ours,trl_best
    step sft_half_lora 50 --size 0.5b --kind sft --lora --repeats 1 --variants ours,trl_best
    part influence 50 "$python" benchmarks/influence.py --size h512 --repeats 1 --json "$out/influence.json"
    part scoring 40 "$python" benchmarks/scoring.py --size h512 --repeats 1 --json "$out/scoring.json"
fi
echo "figures: $out/results.json"
