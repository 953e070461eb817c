#!/usr/bin/env bash
# Other ways to a reasoning model, on the toys; docs/reasoning.md says what each shows.
#
#   bash dev/reasoning.sh                                              # 5 experiments, 3 seeds
#   SEEDS=0 EXPERIMENTS="cold_start zero" bash dev/reasoning.sh        # less
#
# If interrupted, run the same command again; it goes on. OUT/EXPERIMENT holds seed0/METHOD/POINT, reasoning.md and the
# picture. The models are made once, with seed 0; the seeds are those of the runs.
cd "$(dirname "$0")/.."
ROOT=${OUT:-out/reasoning} EXPERIMENTS=${EXPERIMENTS:-cold_start long2short distil pipeline zero}
TOY=${TOY:-out/toy_base} PRUNED=${PRUNED:-out/toy/final}  # thinks too long; and pruned, by schedule.sh
PLAIN=${PLAIN:-out/plain_base} SMALL=${SMALL:-out/plain_small} SUMS=${SUMS:-out/sums_base}  # not taught to think yet
BUDGET=${BUDGET:-300000} STEPS=${STEPS:-8}  # tokens that a method samples; in cold_start it has so many steps instead
OUT="" CONFIG="" MODEL="" NAMED="" LOOSE="" TRAIN="" VAL=""  # of an experiment: see `use`
. dev/lab.sh
export ROOT TOY PRUNED PLAIN SMALL SUMS STEPS

use() {  # use EXPERIMENT: its folder, config and model; no cap binds but those of ThinkPrune's rounds
    OUT=$ROOT/$1 CONFIG=$ROOT/$1/config.yaml NAMED=640 LOOSE=640
    case $1 in
        cold_start | pipeline) MODEL=$PLAIN ;;
        distil) MODEL=$SMALL ;;
        long2short) MODEL=$TOY NAMED=125 ;;
        zero) MODEL=$SUMS NAMED=400 LOOSE=400 ;;
    esac
    TRAIN=$MODEL/train.jsonl VAL=$MODEL/val.jsonl
}

cold_start() {  # long and short answers to begin with, as many tokens of both, and what RL adds to each
    local kind batch part like
    use cold_start
    like="--cap $LOOSE --problems_per_step 8 --sample_tokens 0 --steps $STEPS"
    measure base/base
    for kind in long short; do
        batch=8; [ $kind = long ] || batch=72  # about as many tokens a step
        for part in _quarter _half ""; do
            sft "$kind/sft$part" "" --data "$MODEL/cold_$kind$part.jsonl" --batch "$batch"
            rl "$kind/rl$part" "$(result "$kind/sft$part")" $like
        done
        rl "$kind/cosine" "$(result "$kind/sft")" $like --reward cosine
    done
}

long2short() {  # Kimi's and DLER's ways to shorten, against ThinkPrune's rounds
    use long2short
    measure base/base
    rounds 260 180 125
    shortest
    merge merged/rounds_half "$(result rounds/cap125)" --scale 0.5
    merge merged/rounds_top25 "$(result rounds/cap125)" --keep_top 0.25 --scale 0.7
    merge merged/shortest_half "$(result shortest/sft)" --scale 0.5
}

distil() {  # a small student learns from the toy, from the pruned toy, or by RL alone
    use distil
    measure base/base
    MODEL=$TOY measure teacher/long
    MODEL=$TOY measure teacher/pruned "$PRUNED"
    MODEL=$TOY spend of_long teacher/long
    MODEL=$TOY spend of_pruned teacher/pruned --adapter "$PRUNED"
    sft of_long/sft "" --data "$OUT/seed$SEED/of_long/answers.jsonl"
    sft of_pruned/sft "" --data "$OUT/seed$SEED/of_pruned/answers.jsonl"
    rl alone/rl "" --cap "$LOOSE"
}

pipeline() {  # R1's: cold start, RL, rejection sampling and fine-tuning from the base, RL; and RL alone
    use pipeline
    measure base/base
    sft stages/1_cold "" --data "$MODEL/cold_long_half.jsonl" --batch 8
    BUDGET=$((BUDGET / 3)) rl stages/2_rl "$(result stages/1_cold)" --cap "$LOOSE" --reward r1
    BUDGET=$((BUDGET / 3)) spend stages stages/2_rl --adapter "$(result stages/2_rl)"
    sft stages/3_sft "" --data "$OUT/seed$SEED/stages/answers.jsonl"
    BUDGET=$((BUDGET / 3)) rl stages/4_rl "$(result stages/3_sft)" --cap "$LOOSE" --reward r1
    rl alone/rl "" --cap "$LOOSE" --reward r1
}

zero() {  # R1-Zero on the search toy: RL on a base that knows format and sums, and RL after a cold start on searches
    use zero
    measure base/base
    rl alone/rl "" --cap "$LOOSE" --reward r1
    sft cold/sft "" --data "$MODEL/cold_start.jsonl" --epochs 12 --batch 16 --lr 2e-3
    rl cold/rl "$(result cold/sft)" --cap "$LOOSE" --reward r1
}

# --- what is needed once
[ -d "$TOY" ] || "$PYTHON" data/toy.py --out_dir "$TOY"
[ -d "$PRUNED" ] || bash schedule.sh
[ -d "$PLAIN" ] || "$PYTHON" data/plain.py --out_dir "$PLAIN"
[ -d "$SMALL" ] || "$PYTHON" data/plain.py --size small --out_dir "$SMALL"
[ -d "$SUMS" ] || "$PYTHON" data/search.py --traces sums --out_dir "$SUMS"
for name in $EXPERIMENTS; do
    use "$name"
    mkdir -p "$OUT"
    from=config/toy.yaml; [ "$name" != zero ] || from=config/search.yaml
    sed "s|out/[a-z]*_base|$MODEL|" "$from" > "$CONFIG"
    reference
done

export -f use
all $EXPERIMENTS
for name in $EXPERIMENTS; do
    echo "== $name"
    "$PYTHON" -m analysis.reasoning "$ROOT/$name"
done
case " $EXPERIMENTS " in *" long2short "*) "$PYTHON" -m analysis.methods "$ROOT/long2short" ;; esac
