#!/usr/bin/env bash
# ThinkPrune in rounds: measure the base, then for each cap train -> select -> next, then measure both on the test.
#
#   bash schedule.sh                                              # the toy model, CPU or GPU, minutes
#   CONFIG=config/r1_1.5b_24gb.yaml bash schedule.sh              # a night on one card
#   CAPS="200 150" OUT=out/mine SEED=1 bash schedule.sh           # other rounds, folder, seed
#   REFERENCE=start OUT=out/mine bash schedule.sh                 # select against each round's start, not the base
#   FRESH=1 bash schedule.sh                                      # move the run folder to <OUT>.old1 and begin anew
#
# Stopped or killed and called again it goes on where it was: whatever has its eval.json or its `done` is skipped.
set -euo pipefail
cd -- "$(dirname -- "$0")"

PYTHON=${PYTHON:-python}
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}  # less fragmentation on a card
CONFIG=${CONFIG:-config/toy.yaml}
case $CONFIG in -*) CONFIG=./$CONFIG ;; esac       # a name with a dash in front is no option
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }
[ -f "$CONFIG" ] || fail "CONFIG=$CONFIG does not exist"
option() {  # option NAME [DEFAULT]: a value of the config
    "$PYTHON" -c '
import sys, yaml
try:
    print(yaml.safe_load(open(sys.argv[1], encoding="utf-8")).get(sys.argv[2], sys.argv[3]))
except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
    print("error: CONFIG=%s is no YAML of options: %s" % (sys.argv[1], " ".join(str(error).split())), file=sys.stderr)
    sys.exit(2)' "$CONFIG" "$1" "${2:-}"
}
CAPS=${CAPS:-$(option caps)}                       # most to least, e.g. "4000 3000 2000"
OUT=${OUT:-out/$(basename -- "$CONFIG" .yaml)}
case $OUT in -*) OUT=./$OUT ;; esac
OUT=${OUT%/}
SEED=${SEED:-$(option seed 0)}
MODEL=$(option model out/toy_base) VAL=$(option val_data) TEST=$(option test_data)

# --- checks before anything is written
last=0
for cap in $CAPS; do
    [[ $cap =~ ^[1-9][0-9]*$ ]] || fail "CAPS=\"$CAPS\": $cap is no cap (a whole number of tokens)"
    [ "$last" = 0 ] || [ "$cap" -lt "$last" ] || fail "CAPS=\"$CAPS\": $cap is not below the round's before, $last"
    last=$cap
done
[ "$last" != 0 ] || fail "no CAPS: set them in the environment or as caps: in $CONFIG"
[ -n "$VAL" ] && [ -n "$TEST" ] || fail "$CONFIG needs val_data: and test_data:"
[[ ${REFERENCE:-base} =~ ^(base|start)$ ]] || fail "REFERENCE=$REFERENCE: base or start"
"$PYTHON" train_prune.py --config="$CONFIG" --print_config > /dev/null || exit 2  # a typo now, not in an hour
# what a run may not change when it goes on: all but comments and what only moves memory and speed
memory='rows|rollout_weights|tokens_per_micro_batch|head_chunk|gradient_checkpointing|device'
settings=$(echo "CAPS=$CAPS SEED=$SEED REFERENCE=${REFERENCE:-base}"
           sed -E 's/[[:space:]]+#.*$//' "$CONFIG" | grep -vE "^[[:space:]]*(#|$)|^($memory):")
if [ "${FRESH:-0}" != 1 ] && [ -f "$OUT/schedule.txt" ]; then
    [ "$settings" = "$(cat "$OUT/schedule.txt")" ] || fail "$OUT was made with another CONFIG, CAPS or SEED (see $OUT/schedule.txt); set OUT to a new folder"
fi

# --- one run, one folder: this shell and what it starts hold OUT/lock until the last of them ends
hold() {  # by Python, because flock(1) is not everywhere; the lock belongs to the open file 9, not to that Python
    mkdir -p "$OUT" || fail "OUT=$OUT cannot be made"
    { exec 9>> "$OUT/lock"; } 2> /dev/null || fail "OUT=$OUT cannot be written"
    "$PYTHON" -c '
import fcntl, os, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("error: OUT=%s is in use by process %s or what it started" % (sys.argv[1], open(sys.argv[1] + "/lock").read().strip()), file=sys.stderr)
    sys.exit(2)
os.ftruncate(9, 0)
os.write(9, (sys.argv[2] + "\n").encode())' "$OUT" $$ || exit 2
}
if [ "${FRESH:-0}" = 1 ] && [ -d "$OUT" ]; then
    [ -f "$OUT/schedule.txt" ] || fail "FRESH=1: $OUT is no run folder (no schedule.txt in it)"
    hold
    n=1
    while [ -e "$OUT.old$n" ]; do n=$((n + 1)); done
    mv -- "$OUT" "$OUT.old$n"
    echo "$OUT moved to $OUT.old$n"
fi
hold
trap 'code=$?; case $code in 130 | 143) echo "to go on: bash schedule.sh again, with the same settings" >&2 ;; esac' EXIT

if [ "$MODEL" = out/toy_base ]; then "$PYTHON" data/toy.py; fi
[ -f "$OUT/schedule.txt" ] || { printf '%s\n' "$settings" > "$OUT/schedule.txt.tmp"; mv -- "$OUT/schedule.txt.tmp" "$OUT/schedule.txt"; }

# Outside the rounds the prompt names the last cap: the one that the pruned model is trained under and used with.
measure() {  # measure FOLDER DATA SAMPLES [ADAPTER]
    [ -f "$OUT/$1/eval.json" ] || "$PYTHON" eval.py --like "$CONFIG" --data="$2" --samples="$3" --adapter="${4:-}" \
        --prompt_cap="$last" --seed="$SEED" --out_dir="$OUT/$1"
}

# --- the reference of every round's selection: the original model on the validation problems
measure base "$VAL" "$(option val_samples 4)"
reference="$OUT/base/eval.json"
[ "${REFERENCE:-base}" = base ] || reference=""

# --- the rounds
adapter=""
for cap in $CAPS; do
    echo "== cap $cap, from ${adapter:-the bare base}"
    "$PYTHON" train_prune.py --config="$CONFIG" --cap="$cap" --seed="$SEED" --init_adapter="$adapter" \
        --reference="$reference" --out_dir="$OUT/cap$cap"
    adapter=$("$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1], encoding="utf-8"))["selected"])' "$OUT/cap$cap/selection.json")
done

# --- before and after on the test problems, with the same prompt, seeds and sampling
if [ -n "$adapter" ] && [ ! -d "$OUT/final" ]; then
    rm -rf -- "$OUT/final.tmp"
    mkdir "$OUT/final.tmp"
    cp -- "$adapter"/adapter_* "$adapter"/nanoprune.json "$OUT/final.tmp"
    [ ! -f "$adapter/checksums.json" ] || cp -- "$adapter/checksums.json" "$OUT/final.tmp"  # read again before each use
    mv -- "$OUT/final.tmp" "$OUT/final"
fi
measure base_test "$TEST" "$(option test_samples 4)"
measure final_test "$TEST" "$(option test_samples 4)" "${adapter:+$OUT/final}"
"$PYTHON" eval.py report "$OUT"
"$PYTHON" -m analysis.plot run "$OUT"
printf 'next: python sample.py --model %q%s --cap %s --problem ...\n' "$MODEL" "${adapter:+ --adapter $(printf %q "$OUT/final")}" "$last"
