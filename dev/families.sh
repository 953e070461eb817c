#!/usr/bin/env bash
# The toy pruned for one short round with each reward of length_rewards.py: a table of validation tokens and pass@1.
#
#   bash schedule.sh && bash dev/families.sh                          # 3 seeds, about 15 minutes on 2 CPU cores
#   SEEDS=0 FAMILIES="kimi gr3" bash dev/families.sh                  # less
#
# If interrupted, run the same command again; it resumes.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHON=${PYTHON:-python} OUT=${OUT:-out/families}
SEEDS=${SEEDS:-0 1 2}
JOBS=${JOBS:-$(getconf _NPROCESSORS_ONLN)}
FAMILIES=${FAMILIES:-$("$PYTHON" -c 'import length_rewards; print(*length_rewards.REWARDS)')}
export base=out/toy/base/eval.json  # of bash schedule.sh: the reference of every round
[ -f "$base" ] || { echo "error: $base is missing: run bash schedule.sh first" >&2; exit 2; }

one() {  # one FAMILY SEED
    local options='{}' advantage=group
    # This reward compares with what a reference model scores: the base, on its validation problems.
    [ "$1" != o1_pruner ] || options=$("$PYTHON" -c 'import json, sys; e = json.load(open(sys.argv[1]))
print(json.dumps({"ref_tokens": e["mean_tokens"], "ref_accuracy": e["pass@1"]}))' "$base")
    [ "$1" != efficient ] || advantage=center
    "$PYTHON" train_prune.py --config config/toy.yaml --cap 180 --steps 10 --checkpoint_every 10 --problems_per_step 8 \
        --reward "$1" --reward_options "$options" --advantage "$advantage" --reference "$base" \
        --tolerance 1.0 --seed "$2" --out_dir "$OUT/$1-$2" > /dev/null
    echo "$1, seed $2: done" >&2
}
export -f one
# One thread each, several at a time: a model this small does not gain from a second core.
for seed in $SEEDS; do for family in $FAMILIES; do echo "$family $seed"; done; done |
    OMP_NUM_THREADS=1 xargs -P "$JOBS" -L 1 bash -c 'set -euo pipefail; one "$@"' _

"$PYTHON" - "$OUT" "$base" $FAMILIES <<'END'
import glob, json, statistics, sys

def mean(values, digits=0):  # with its standard error over the seeds
    error = f" +- {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{error}"

base = json.load(open(sys.argv[2]))
print("| family | tokens, each seed | pass@1 %, each seed | mean tokens +- SE | mean pass@1 % +- SE |\n|---|---|---|---|---|")
print(f"| (base) | | | {base['mean_tokens']:.0f} | {100 * base['pass@1']:.1f} |")
for family in sys.argv[3:]:
    runs = [json.load(open(p)) for p in sorted(glob.glob(f"{sys.argv[1]}/{family}-*/step0010/eval.json"))]
    tokens, right = [r["mean_tokens"] for r in runs], [100 * r["pass@1"] for r in runs]
    each = " ".join(f"{t:.0f}" for t in tokens), " ".join(f"{r:.1f}" for r in right)
    print(f"| {family} | {each[0]} | {each[1]} | {mean(tokens)} | {mean(right, 1)} |")
END
