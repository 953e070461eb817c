#!/usr/bin/env bash
# ThinkPrune in rounds: measure the base, then for each cap train -> select -> next, then measure both on the test.
#
#   bash schedule.sh                                              # the toy model, CPU or GPU, minutes
#   CONFIG=config/r1_1.5b_24gb.yaml bash schedule.sh              # a night on one card
#   CAPS="200 150" OUT=out/mine SEED=1 bash schedule.sh           # other rounds, folder, seed
#   REFERENCE=start OUT=out/mine bash schedule.sh                 # select against each round's start, not the base
#
# Killed and called again it goes on where it was: whatever has its eval.json or its `done` is skipped.
set -euo pipefail
cd "$(dirname "$0")"

PYTHON=${PYTHON:-python}
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}  # less fragmentation on a card
CONFIG=${CONFIG:-config/toy.yaml}
fail() { echo "error: $*" >&2; exit 2; }
[ -f "$CONFIG" ] || fail "CONFIG=$CONFIG does not exist"
option() { "$PYTHON" -c 'import sys, yaml; print(yaml.safe_load(open(sys.argv[1])).get(sys.argv[2], sys.argv[3]))' "$CONFIG" "$1" "${2:-}"; }
CAPS=${CAPS:-$(option caps)}                       # most to least, e.g. "4000 3000 2000"
OUT=${OUT:-out/$(basename "$CONFIG" .yaml)}
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
"$PYTHON" train_prune.py --config "$CONFIG" --print_config > /dev/null || exit 2  # a typo now, not in an hour
# what a run may not change when it goes on: all but comments and what only moves memory and speed
memory='rows|rollout_weights|tokens_per_micro_batch|head_chunk|gradient_checkpointing|device'
settings=$(echo "CAPS=$CAPS SEED=$SEED REFERENCE=${REFERENCE:-base}"
           sed -E 's/[[:space:]]+#.*$//' "$CONFIG" | grep -vE "^[[:space:]]*(#|$)|^($memory):")
if [ -f "$OUT/schedule.txt" ]; then
    [ "$settings" = "$(cat "$OUT/schedule.txt")" ] || fail "$OUT was made with another CONFIG, CAPS or SEED (see $OUT/schedule.txt); set OUT to a new folder"
fi

if [ "$MODEL" = out/toy_base ]; then "$PYTHON" data/toy.py; fi
mkdir -p "$OUT"
[ -f "$OUT/schedule.txt" ] || { echo "$settings" > "$OUT/schedule.txt.tmp"; mv "$OUT/schedule.txt.tmp" "$OUT/schedule.txt"; }

# Outside the rounds the prompt names the last cap: the one that the pruned model is trained under and used with.
measure() {  # measure FOLDER DATA SAMPLES [ADAPTER]
    [ -f "$OUT/$1/eval.json" ] || "$PYTHON" eval.py --like "$CONFIG" --data "$2" --samples "$3" --adapter "${4:-}" \
        --prompt_cap "$last" --seed "$SEED" --out_dir "$OUT/$1"
}

# --- the reference of every round's selection: the original model on the validation problems
measure base "$VAL" "$(option val_samples 4)"
reference="$OUT/base/eval.json"
[ "${REFERENCE:-base}" = base ] || reference=""

# --- the rounds
adapter=""
for cap in $CAPS; do
    echo "== cap $cap, from ${adapter:-the bare base}"
    "$PYTHON" train_prune.py --config "$CONFIG" --cap "$cap" --seed "$SEED" --init_adapter "$adapter" \
        --reference "$reference" --out_dir "$OUT/cap$cap"
    adapter=$("$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))["selected"])' "$OUT/cap$cap/selection.json")
done

# --- before and after on the test problems, with the same prompt, seeds and sampling
if [ -n "$adapter" ] && [ ! -d "$OUT/final" ]; then
    rm -rf "$OUT/final.tmp"
    mkdir "$OUT/final.tmp"
    cp "$adapter"/adapter_* "$adapter"/nanoprune.json "$OUT/final.tmp"
    mv "$OUT/final.tmp" "$OUT/final"
fi
measure base_test "$TEST" "$(option test_samples 4)"
measure final_test "$TEST" "$(option test_samples 4)" "${adapter:+$OUT/final}"
"$PYTHON" eval.py report "$OUT"
"$PYTHON" plot.py run "$OUT"
echo "next: python sample.py --model $MODEL${adapter:+ --adapter $OUT/final} --cap $last --problem '...'"
