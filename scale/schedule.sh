#!/usr/bin/env bash
# schedule.sh on another engine: the same rounds, measurements and report; only the steps run elsewhere.
#
#   bash scale/schedule.sh                                                         # TRL, 2 processes, the toy
#   CONFIG=config/r1_1.5b_24gb.yaml PROCESSES=8 bash scale/schedule.sh             # TRL, 8 cards
#   ENGINE=verl CONFIG=config/r1_1.5b_24gb.yaml PROCESSES=8 bash scale/schedule.sh
#
# From the environment, besides what schedule.sh reads: ENGINE (trl or verl), PROCESSES (cards of this machine), LAUNCH
# (what starts TRL's processes), EXTRA (further options of trl_prune.py, or keys of verl).
set -euo pipefail && cd -- "$(dirname -- "$0")/.."
export PYTHON=${PYTHON:-python} ENGINE=${ENGINE:-trl} PROCESSES=${PROCESSES:-2}
case $ENGINE in trl | verl) ;; *) echo "error: ENGINE=$ENGINE: trl or verl" >&2 && exit 2 ;; esac
export OUT=${OUT:-out/$(basename "${CONFIG:-toy.yaml}" .yaml)_$ENGINE}
[ "${SCHEDULE:-}" = open ] || exec "$PYTHON" -m engine.schedule bash scale/schedule.sh
launch=${LAUNCH:-torchrun --standalone --nproc_per_node $PROCESSES}

if [ "$MODEL" = out/toy_base ]; then "$PYTHON" data/toy.py; fi
"$PYTHON" -m engine.schedule check
measure() {  # measure FOLDER DATA SAMPLES PROMPT_CAP [ADAPTER]
    [ -f "$OUT/$1/eval.json" ] || "$PYTHON" eval.py --config="$CONFIG" --model="$MODEL" --data="$2" --prompt_cap="$4" \
        --eval_samples="$3" --adapter="${5:-}" --seed="$SEED" --out_dir="$OUT/$1"
}
measure base "$VAL" "$REFERENCE_SAMPLES" "$PROMPT_CAP"
adapter="" reference=$([ "$REFERENCE" != base ] || echo "$OUT/base/eval.json")
for cap in $CAPS; do
    echo "== cap $cap on $ENGINE, from ${adapter:-the bare base}"
    data="$OUT/data$cap" steps="$OUT/cap$cap.$ENGINE"
    round=(--config="$CONFIG" --model="$MODEL" --cap="$cap" --seed="$SEED" --init_adapter="$adapter")
    [ -f "$data/export.json" ] || { rm -rf -- "$data" && "$PYTHON" -m scale.export_data "${round[@]}" --out="$data"; }
    if [ -f "$OUT/cap$cap/done" ]; then echo "cap $cap is done"
    elif [ "$ENGINE" = trl ]; then
        $launch -m scale.trl_prune "${round[@]}" --train_data="$data/train.jsonl" --out_dir="$steps" ${EXTRA:-}
    else bash scale/verl_round.sh "${round[@]}" --data="$data" --out_dir="$steps" --gpus="$PROCESSES"; fi
    "$PYTHON" -m scale.pick "${round[@]}" --checkpoints="$steps" --reference="$reference" --prompt_cap="$PROMPT_CAP" \
        --out_dir="$OUT/cap$cap"
    adapter=$(cat -- "$OUT/cap$cap/selected")
done
measure base_test "$TEST" "$TEST_SAMPLES" "$LAST_CAP"
measure final_test "$TEST" "$TEST_SAMPLES" "$LAST_CAP" "$adapter"
"$PYTHON" eval.py report "$OUT"
