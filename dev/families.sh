#!/usr/bin/env bash
# The toy pruned for one short round with each reward family, 3 seeds: a table of validation tokens and pass@1.
#   bash schedule.sh && bash dev/families.sh        # about 15 minutes on 2 cores; SEEDS="0" FAMILIES="kimi gr3" for less
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHON=${PYTHON:-python} OUT=${OUT:-out/families}
SEEDS=${SEEDS:-0 1 2} JOBS=${JOBS:-$(nproc)}
FAMILIES=${FAMILIES:-thinkprune $("$PYTHON" -c 'import length_rewards as r; print(*r.FAMILIES)')}
base=out/toy/base/eval.json  # of bash schedule.sh: the reference of every round
[ -f "$base" ] || { echo "error: $base is missing: run bash schedule.sh first" >&2; exit 2; }

one() {  # one FAMILY SEED
    local options='{}' advantage=group
    # what the base scores on its validation problems, as the reference samples that this family wants
    [ "$1" != o1_pruner ] || options=$("$PYTHON" -c 'import json, sys; e = json.load(open(sys.argv[1]))
print(json.dumps({"ref_tokens": e["mean_tokens"], "ref_accuracy": e["pass@1"]}))' "$base")
    [ "$1" != efficient ] || advantage=center
    "$PYTHON" train_prune.py --config config/toy.yaml --cap 180 --steps 10 --checkpoint_every 10 --problems_per_step 8 \
        --reward "$1" --reward_options "$options" --advantage "$advantage" --reference "$base" \
        --tolerance 1.0 --seed "$2" --out_dir "$OUT/$1-$2" > /dev/null
    echo "$1, seed $2: done" >&2
}
export -f one
export base
# One thread each and several at a time: a model this small does not gain from a second core.
for seed in $SEEDS; do for family in $FAMILIES; do echo "$family $seed"; done; done |
    OMP_NUM_THREADS=1 xargs -P "$JOBS" -L 1 bash -c 'set -euo pipefail; one "$@"' _

"$PYTHON" - "$OUT" "$base" $FAMILIES <<'END'
import glob, json, statistics, sys
base = json.load(open(sys.argv[2]))
bar = lambda v, d=0: f"{statistics.mean(v):.{d}f}" + (f" +- {statistics.stdev(v) / len(v) ** 0.5:.{d}f}" if len(v) > 1 else "")
print("| family | tokens, each seed | pass@1 %, each seed | mean tokens +- SE | mean pass@1 % +- SE |\n|---|---|---|---|---|")
print(f"| (base) | | | {base['mean_tokens']:.0f} | {100 * base['pass@1']:.1f} |")
for family in sys.argv[3:]:
    runs = [json.load(open(p)) for p in sorted(glob.glob(f"{sys.argv[1]}/{family}-*/step0010/eval.json"))]
    tokens, right = [r["mean_tokens"] for r in runs], [100 * r["pass@1"] for r in runs]
    print(f"| {family} | {' '.join(f'{t:.0f}' for t in tokens)} | {' '.join(f'{r:.1f}' for r in right)} | {bar(tokens)} | {bar(right, 1)} |")
END
