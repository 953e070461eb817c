#!/usr/bin/env bash
# ThinkPrune in rounds: measure the base, then for each cap train -> select -> next, then measure both on the test.
#
#   bash schedule.sh                                              # the toy model, CPU or GPU, minutes
#   CONFIG=config/r1_1.5b_24gb.yaml bash schedule.sh              # a real model on one card
#   CAPS="200 150" OUT=out/mine SEED=1 bash schedule.sh           # other rounds, folder, seed
#   CAPS="260 auto" OUT=out/mine bash schedule.sh                 # the later caps are measured; with CAPS=auto all are,
#                                                                 # and so where the config names no caps
#   MODEL=out/my_model OUT=out/mine bash schedule.sh              # another base than the config's
#   REFERENCE=start OUT=out/mine bash schedule.sh                 # select against each round's start, not the base
#   FRESH=1 bash schedule.sh                                      # move the run folder to <OUT>.old1 and begin anew
#
# If interrupted, run the same command again; what has its eval.json or its `done` is skipped. Settings may change as
# long as no finished stage depends on them: another test, or one more cap that is tighter.
set -euo pipefail
cd -- "$(dirname -- "$0")"
export PYTHON=${PYTHON:-python}

# Reads and checks CONFIG, locks the run folder, and runs this script again with CAPS, OUT, ... in its environment.
[ "${SCHEDULE:-}" = open ] || exec "$PYTHON" -m engine.schedule bash schedule.sh
trap 'case $? in 130 | 143) echo "to go on: $AGAIN" >&2 ;; esac' EXIT

if [ "$MODEL" = out/toy_base ]; then "$PYTHON" data/toy.py; fi
if [ "$MODEL" = out/search_base ]; then "$PYTHON" data/search.py; fi
"$PYTHON" -m engine.schedule check  # every file and option that is read below, before the first token

# In every evaluation the prompt names the last cap: the one that the pruned model is used with. Where tighter caps came
# later, validations go on naming the one from before. With auto they name the first, as the last is not known yet.
measure() {  # measure FOLDER DATA SAMPLES PROMPT_CAP [ADAPTER]
    [ -f "$OUT/$1/eval.json" ] || "$PYTHON" eval.py --config="$CONFIG" --model="$MODEL" --data="$2" --eval_samples="$3" \
        --prompt_cap="$4" --adapter="${5:-}" --seed="$SEED" --out_dir="$OUT/$1"
}

# --- the first cap
[ "$CAPS" != auto ] || "$PYTHON" -m engine.schedule first_cap
cap=$("$PYTHON" -m engine.schedule next)
PROMPT_CAP=${PROMPT_CAP:-$cap}

# --- the reference of every round's selection: the original model on the validation problems
measure base "$VAL" "$REFERENCE_SAMPLES" "$PROMPT_CAP"
reference="$OUT/base/eval.json"
[ "$REFERENCE" = base ] || reference=""

# --- the rounds
adapter=""
while [ -n "$cap" ]; do
    echo "== cap $cap, from ${adapter:-the bare base}"
    "$PYTHON" train_prune.py --config="$CONFIG" --model="$MODEL" --cap="$cap" --caps="$CAPS" --seed="$SEED" \
        --init_adapter="$adapter" --reference="$reference" --prompt_cap="$PROMPT_CAP" --out_dir="$OUT/cap$cap"
    adapter=$(cat -- "$OUT/cap$cap/selected")
    LAST_CAP=$cap
    cap=$("$PYTHON" -m engine.schedule next "$cap")  # of CAPS, or as the round has measured it; nothing at the end
done

# --- before and after on the test problems, with the same prompt, seeds and sampling
if [ -n "$adapter" ] && [ ! -d "$OUT/final" ]; then
    rm -rf -- "$OUT/final.tmp" && mkdir -- "$OUT/final.tmp"
    cp -- "$adapter"/adapter_* "$adapter"/nanoprune.json "$adapter"/checksums.json "$OUT/final.tmp"
    mv -- "$OUT/final.tmp" "$OUT/final"
fi
measure base_test "$TEST" "$TEST_SAMPLES" "$LAST_CAP"
measure final_test "$TEST" "$TEST_SAMPLES" "$LAST_CAP" "${adapter:+$OUT/final}"
"$PYTHON" eval.py report "$OUT"
"$PYTHON" -m analysis.plot run "$OUT"
printf 'next: python sample.py --model %q%s --cap %s --problem ...\n' "$MODEL" "${adapter:+ --adapter $(printf %q "$OUT/final")}" "$LAST_CAP"
