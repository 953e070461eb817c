#!/usr/bin/env bash
# The toy pruned for one short round with each reward family, 3 seeds: a table of validation tokens and pass@1.
#   bash dev/families.sh                    # about 25 minutes on 2 cores; SEEDS="0" FAMILIES="kimi gr3" for less
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python} OUT=${OUT:-out/families} SEEDS=${SEEDS:-0 1 2}
FAMILIES=${FAMILIES:-thinkprune $("$PYTHON" -c 'import families; print(*families.FAMILIES)')}

for family in $FAMILIES; do
    options='{}' advantage=group
    # what the toy's base scores on its validation problems, as the reference samples that this family wants
    [ "$family" != o1_pruner ] || options='{"ref_tokens": 314, "ref_accuracy": 0.84}'
    [ "$family" != efficient ] || advantage=center
    for seed in $SEEDS; do
        "$PYTHON" train_prune.py --config config/toy.yaml --cap 180 --steps 10 --checkpoint_every 10 --problems_per_step 8 \
            --reward "$family" --reward_options "$options" --advantage "$advantage" --reference out/toy/base/eval.json \
            --tolerance 1.0 --seed "$seed" --out_dir "$OUT/$family-$seed" > /dev/null
    done
done
"$PYTHON" - "$OUT" $FAMILIES <<'EOF'
import glob, json, statistics, sys
print("| family | tokens, each seed | pass@1 %, each seed | mean tokens +- SE | mean pass@1 +- SE |\n|---|---|---|---|---|")
for family in sys.argv[2:]:
    runs = [json.load(open(p)) for p in sorted(glob.glob(f"{sys.argv[1]}/{family}-*/step0010/eval.json"))]
    tokens, right = [r["mean_tokens"] for r in runs], [100 * r["pass@1"] for r in runs]
    bar = lambda v: f"{statistics.mean(v):.1f}" + (f" +- {statistics.stdev(v) / len(v) ** 0.5:.1f}" if len(v) > 1 else "")
    print(f"| {family} | {' '.join(f'{t:.0f}' for t in tokens)} | {' '.join(f'{r:.1f}' for r in right)} | {bar(tokens)} | {bar(right)} |")
EOF
