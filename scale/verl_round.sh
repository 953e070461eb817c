#!/usr/bin/env bash
# One round on verl: its main_ppo with GRPO, a LoRA, our reward manager and the cap as its response limit.
#
#   bash scale/verl_round.sh --config config/r1_1.5b_24gb.yaml --cap 4000 --data out/r1_data --out_dir out/r1.verl --gpus 8
#
# The options are those of scale/verl_keys.py. DRY=1 prints verl's composed options and stops. EXTRA holds further keys
# of verl, as in EXTRA="actor_rollout_ref.rollout.gpu_memory_utilization=0.7". Needs verl and vLLM (scale/README.md).
# If interrupted, run the same command again: verl resumes from its newest checkpoint.
set -euo pipefail
cd -- "$(dirname -- "$0")/.."
PYTHON=${PYTHON:-python}

keys=$("$PYTHON" -m scale.verl_keys "$@")
mapfile -t keys <<<"$keys"
read -ra extra <<<"${EXTRA:-}"
[ -z "${DRY:-}" ] || exec "$PYTHON" -m verl.trainer.main_ppo --cfg job "${keys[@]}" ${extra[@]+"${extra[@]}"}
"$PYTHON" -m verl.trainer.main_ppo "${keys[@]}" ${extra[@]+"${extra[@]}"}

# --- verl saves shards: write each checkpoint's adapter in PEFT's form, for scale/pick.py
folder=$(printf '%s\n' "${keys[@]}" | sed -n 's/^trainer.default_local_dir=//p')
for step in "$folder"/global_step_*; do
    [ -d "$step/lora_adapter" ] ||
        "$PYTHON" -m verl.model_merger merge --backend fsdp --local_dir "$step/actor" --target_dir "$step"
done
