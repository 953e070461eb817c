# For dev/methods.sh and dev/reasoning.sh: runs of one method, and their tests, in $OUT/seed$SEED/METHOD/POINT.
# What is finished is skipped, so the same command goes on after a stop. Every evaluation has the prompt that names $NAMED.
set -euo pipefail
export PYTHON=${PYTHON:-python} OUT CONFIG MODEL NAMED BUDGET LOOSE TRAIN VAL
SEEDS=${SEEDS:-0 1 2}
JOBS=${JOBS:-$(getconf _NPROCESSORS_ONLN)}

quietly() {  # quietly FOLDER COMMAND...: what it prints goes to FOLDER.log
    mkdir -p -- "$(dirname -- "$1")"
    "${@:2}" >> "$1.log" 2>&1 || { tail -n 3 -- "$1.log" >&2; return 1; }
}

measure() {  # measure METHOD/POINT [ADAPTER] [FLAGS]: the test of an adapter, "" for the bare model
    local run="$OUT/seed$SEED/$1"
    [ -f "$run/test/eval.json" ] || quietly "$run" "$PYTHON" eval.py --config "$CONFIG" --model "$MODEL" \
        --adapter "${2:-}" --seed "$SEED" --prompt_cap "$NAMED" --out_dir "$run/test" "${@:3}"
}

# The last step is what counts, so no checkpoint is chosen: one short validation, and a tolerance that takes all.
rl() {  # rl METHOD/POINT FROM FLAGS: a round of train_prune.py until $BUDGET tokens are sampled, from an adapter or ""
    local run="$OUT/seed$SEED/$1"
    [ -f "$run/done" ] || quietly "$run" "$PYTHON" train_prune.py --config "$CONFIG" --model "$MODEL" --seed "$SEED" \
        --init_adapter "$2" --prompt_cap "$NAMED" --reference "$OUT/reference/eval.json" --eval_samples 1 \
        --confirm_samples 0 --tolerance 1 --problems_per_step 8 --checkpoint_every 1000 --steps 1000 \
        --sample_tokens "$BUDGET" --out_dir "$run" "${@:3}"
    [ "$(result "$1")" != "$2" ] || { echo "error: $run: no checkpoint was taken" >&2; return 1; }
    measure "$1" "$(result "$1")"
}
result() { cat -- "$OUT/seed$SEED/$1/selected"; }  # result METHOD/POINT: the adapter that a run of rl or sft ended with

rounds() {  # rounds CAP...: ThinkPrune, each cap from the round before it and with its share of the tokens
    local cap from="" share=$((BUDGET / $#))
    for cap in "$@"; do
        BUDGET=$share rl "rounds/cap$cap" "$from" --cap "$cap"
        from=$(result "rounds/cap$cap")
    done
}

sft() {  # sft METHOD/POINT FROM FLAGS: sft.py on --data FILE, from an adapter or ""
    local run="$OUT/seed$SEED/$1"
    [ -f "$run/done" ] || quietly "$run" "$PYTHON" sft.py --config "$CONFIG" --model "$MODEL" --seed "$SEED" \
        --init_adapter "$2" --prompt_cap "$NAMED" --eval_samples 1 --checkpoint_every 1000 --max_tokens 1000 --epochs 2 \
        --lr 1e-3 --out_dir "$run" "${@:3}"
    measure "$1" "$run/final"
}

answers() {  # answers FILE PROBLEMS FLAGS: 8 answers to each of these problems
    [ -f "$1" ] || quietly "$1" "$PYTHON" sample.py --model "$MODEL" --data "$2" --seed "$SEED" --samples 8 \
        --temperature 1 --top_p 1 --cap "$LOOSE" --out "$1" "${@:3}"
}

spend() {  # spend METHOD TESTED FLAGS: METHOD/answers.jsonl, which takes $BUDGET tokens by the length in TESTED's test
    local here="$OUT/seed$SEED/$1" tokens
    mkdir -p "$here"
    tokens=$("$PYTHON" -c 'import json, sys; print(round(json.load(open(sys.argv[1]))["mean_tokens"]))' \
        "$OUT/seed$SEED/$2/test/eval.json")
    head -n $((BUDGET / 8 / tokens)) "$TRAIN" > "$here/problems.jsonl"
    answers "$here/answers.jsonl" "$here/problems.jsonl" "${@:3}"
}

shortest() {  # rejection sampling: 8 answers a problem for $BUDGET tokens, then fine-tuning on the shortest right ones
    spend shortest base/base
    sft shortest/sft "" --data "$OUT/seed$SEED/shortest/answers.jsonl" --keep shortest --prompt_cap "$LOOSE"
}

merge() {  # merge METHOD/POINT ADAPTER FLAGS: the base and a part of the adapter's changes, tested in its own precision
    local here="$OUT/seed$SEED/$1"
    mkdir -p "$here"
    [ -d "$here/model" ] || quietly "$here" "$PYTHON" export.py --model "$MODEL" --adapter "$2" --data "$VAL" \
        --cap "$NAMED" --max_problems 8 --out "$here/model" "${@:3}"
    printf 'init_adapter: %s\n' "$2" > "$here/config.yaml"  # what it was made from
    MODEL=$here/model measure "$1" "" --load_4bit false
}

reference() {  # the base on the validation problems, once for all runs of $OUT, which are of one kind
    local settings="MODEL=$MODEL NAMED=$NAMED LOOSE=$LOOSE BUDGET=$BUDGET CAPS=${CAPS:-} STEPS=${STEPS:-}"
    mkdir -p -- "$OUT"
    [ -f "$OUT/settings" ] || echo "$settings" > "$OUT/settings"
    [ "$(cat -- "$OUT/settings")" = "$settings" ] ||
        { echo "error: $OUT was begun with $(cat -- "$OUT/settings"), now $settings: name another OUT" >&2; exit 2; }
    [ -f "$OUT/reference/eval.json" ] || "$PYTHON" eval.py --config "$CONFIG" --model "$MODEL" --data "$VAL" \
        --eval_samples 1 --prompt_cap "$NAMED" --out_dir "$OUT/reference"
}

all() {  # all NAME...: the functions of these names for each seed, one thread each and several at a time
    export -f quietly measure rl result rounds sft answers spend shortest merge "$@"
    for seed in $SEEDS; do for name in "$@"; do echo "$seed $name"; done; done |
        OMP_NUM_THREADS=1 xargs -r -P "$JOBS" -L 1 bash -c \
            'set -euo pipefail; export SEED=$0; started=$SECONDS; "$1"; echo "$1, seed $SEED: $((SECONDS - started)) s"'
}
