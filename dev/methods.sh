#!/usr/bin/env bash
# Ways to shorten the search toy (data/search.py), each with the same number of sampled tokens: docs/methods.md.
#
#   bash dev/methods.sh                                    # 3 seeds, about an hour on 2 CPU cores
#   SEEDS=0 METHODS="rounds kimi" bash dev/methods.sh      # less
#
# If interrupted, run the same command again; it goes on. OUT holds seed0/METHOD/POINT, and methods.md with the picture.
cd "$(dirname "$0")/.."
OUT=${OUT:-out/methods} CONFIG=${CONFIG:-config/search.yaml} MODEL=${MODEL:-out/search_base}
TRAIN=$MODEL/train.jsonl VAL=$MODEL/val.jsonl
CAPS=${CAPS:-160 120 100} TIGHT=${TIGHT:-60} LOOSE=${LOOSE:-400}  # the rounds; below the deepest search; never binds
NAMED=${NAMED:-100} BUDGET=${BUDGET:-60000}  # the cap in every test's prompt; tokens that each method samples
. dev/lab.sh
export CAPS TIGHT

base() { measure base/base; }

in_rounds() { rounds $CAPS; }

one_shot() {  # each cap at once, and one that has no room for a deep search
    for cap in $CAPS $TIGHT; do rl "one_shot/cap$cap" "" --cap "$cap"; done
}

auto() {  # measured caps: a whole schedule, whose rounds have a third of the tokens each
    local run="$OUT/seed$SEED/auto.run" cap
    mkdir -p "$run"
    grep -v '^\(steps\|checkpoint_every\|problems_per_step\|caps\|.*_samples\):' "$CONFIG" > "$run.yaml"
    printf '%s\n' 'steps: 1000' 'checkpoint_every: 1000' 'problems_per_step: 8' 'cap_problems: 64' 'eval_samples: 1' \
        'reference_samples: 1' 'confirm_samples: 0' 'test_samples: 1' "sample_tokens: $((BUDGET / 3))" >> "$run.yaml"
    [ -f "$run/run/summary.md" ] || quietly "$run" env CONFIG="$run.yaml" CAPS=auto OUT="$run/run" bash schedule.sh
    mkdir -p "$OUT/seed$SEED/auto"
    # The caps differ from seed to seed, so only the last round is a point.
    cap=$(cd "$run/run" && printf '%s\n' cap* | sed 's/cap//' | sort -n | head -n 1)
    ln -sfn "$(realpath -- "$run/run/cap$cap")" "$OUT/seed$SEED/auto/last"
    measure auto/last "$(cat -- "$run/run/cap$cap/selected")"
}

# DLER and DA-DLER as in config/toy_dler.yaml, with groups of 8 as all others here have.
like_dler() {
    rl "$1" "" --advantage batch --clip_high 0.28 --updates_per_batch 8 --resample_dead 3 --lr 3.5e-4 "${@:2}"
}
dler() { local cap; for cap in $CAPS; do like_dler "dler/cap$cap" --cap "$cap"; done; }
da_dler() { local cap; for cap in $CAPS; do like_dler "da_dler/cap$cap" --cap "$cap" --reward tiered; done; }
dot() {
    local cap
    for cap in $CAPS; do
        rl "dot/cap$cap" "" --cap "$cap" --reward dot --reward_options '{"alpha": 1.5, "overrun": 8}'
    done
}

# From here on no cap binds.
gfpo() { local k; for k in 2 4; do rl "gfpo/keep$k" "" --cap "$LOOSE" --keep_shortest "$k"; done; }
weighted() {  # weighted REWARD OPTION "VALUES" FLAGS: one reward with several weights or targets
    local value
    for value in $3; do
        rl "$1/$2$value" "" --cap "$LOOSE" --reward "$1" --reward_options "{\"$2\": $value}" "${@:4}"
    done
}
kimi() { weighted kimi weight "0.3 1.0"; }
efficient() { weighted efficient alpha "0.1 0.4" --advantage center; }
shorterbetter() { weighted shorterbetter beta "0.001 0.004"; }
gr3() { weighted gr3 alpha "0.33 1.0"; }
l1_max() { weighted l1_max target "120 95"; }
laser() { weighted laser target "120 95"; }

# --- without RL; `shortest` stands in dev/lab.sh
merged() {  # DLER's merging: the largest quarter of the rounds' changes, times 0.7
    merge merged/top25 "$(result "rounds/cap${CAPS##* }")" --keep_top 0.25 --scale 0.7
}

forced() {  # budget forcing of the base
    local here="$OUT/seed$SEED/forced"
    [ -f "$here/budget_forcing.json" ] || quietly "$here" "$PYTHON" -m analysis.budget "$OUT/seed$SEED/base/base/test" \
        --budgets "[20, 40, 60, 80, 110, 140, 200]" --out_dir "$here"
}

OTHERS="one_shot auto dler da_dler dot gfpo kimi efficient shorterbetter gr3 l1_max laser shortest merged forced"
METHODS=${METHODS:-rounds $OTHERS}
export -f weighted like_dler
[ -d "$MODEL" ] || "$PYTHON" data/search.py
reference
all base
case " $METHODS " in *" rounds "*) all in_rounds ;; esac  # merged needs them
all ${METHODS//rounds/}
"$PYTHON" -m analysis.methods "$OUT" --by depth
