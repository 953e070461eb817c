"""Our options as verl's keys, a line each, for scale/verl_round.sh.

    python -m scale.verl_keys --config config/toy.yaml --cap 260 --data out/toy_data/cap260 --out_dir out/cap260.verl

One YAML file drives every engine; docs/trl_verl.md says which convention is which. Checked against verl 0.9.1.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import train_prune
from engine.files import die, explained, note, read_json, run
from engine.rewards import by_name
from length_rewards import REWARDS
from scale.rewards import needs_group, refuse_own_steps


@dataclass
class Config(train_prune.Config):
    """Options of verl_keys.py: those of train_prune.py, the export and the machines."""

    data: str = "out/export"
    """Folder of scale/export_data.py, made for this cap."""
    gpus: int = 8
    """GPUs of a machine."""
    nodes: int = 1
    """Machines."""


def verl_keys(cfg: Config, longest_prompt: int, n_problems: int) -> dict:
    """{verl's key: value} of one round.

    Args:
        longest_prompt: Tokens of the longest prompt. n_problems: Of the export.
    """
    tokens = max(cfg.tokens_per_micro_batch, longest_prompt + cfg.cap)
    actor, rollout, model = (f"actor_rollout_ref.{name}" for name in ("actor", "rollout", "model"))
    keys = {
        # the data: prompts are rendered by verl with the model's template
        "data.train_files": f"{cfg.data}/train.parquet",
        "data.val_files": f"{cfg.data}/train.parquet",  # verl wants one; scale/pick.py validates
        "data.train_batch_size": cfg.problems_per_step,
        "data.max_prompt_length": longest_prompt,
        "data.max_response_length": cfg.cap,
        "data.seed": cfg.seed,
        # the rollouts
        f"{rollout}.name": "vllm",
        f"{rollout}.n": cfg.group,
        f"{rollout}.temperature": cfg.temperature,
        f"{rollout}.top_p": cfg.top_p,
        f"{rollout}.top_k": -1,
        f"{rollout}.seed": cfg.seed,
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.load_format": "safetensors",  # a LoRA needs the base's weights there
        f"{rollout}.calculate_log_probs": True,
        # the reward: from token ids, strict
        "reward.reward_manager.source": "importlib",
        "reward.reward_manager.name": "PruneRewardManager",
        "reward.reward_manager.module.path": str(Path(__file__).resolve().with_name("verl_reward.py")),
        # the model and its LoRA
        f"{model}.path": cfg.model,
        f"{model}.lora_rank": cfg.lora_r,
        f"{model}.lora_alpha": cfg.lora_alpha,
        f"{model}.target_modules": "all-linear",
        f"{model}.lora_adapter_path": cfg.init_adapter or "null",
        f"{model}.enable_gradient_checkpointing": cfg.gradient_checkpointing != "false",
        # advantage and loss
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": cfg.advantage == "group",
        "algorithm.use_kl_in_reward": False,
        "algorithm.rollout_correction.rollout_is": "token",
        "algorithm.rollout_correction.rollout_is_threshold": cfg.importance_cap,
        f"{actor}.loss_agg_mode": "token-mean",
        f"{actor}.clip_ratio_low": cfg.clip_low,
        f"{actor}.clip_ratio_high": cfg.clip_high,
        f"{actor}.clip_ratio_c": 1000.0,  # no dual clip
        f"{actor}.use_kl_loss": cfg.beta > 0,
        f"{actor}.kl_loss_coef": cfg.beta,
        f"{actor}.kl_loss_type": "low_var_kl",
        f"{actor}.entropy_coeff": 0,
        f"{actor}.ppo_mini_batch_size": cfg.problems_per_step // cfg.updates_per_batch,
        f"{actor}.ppo_epochs": cfg.passes,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": tokens,
        # the optimizer
        f"{actor}.optim.lr": cfg.lr,
        f"{actor}.optim.lr_scheduler_type": cfg.lr_schedule,
        f"{actor}.optim.betas": "[0.9,0.95]",
        f"{actor}.optim.weight_decay": 0.0,
        f"{actor}.grad_clip": cfg.grad_clip,
        # the round
        "trainer.total_training_steps": cfg.steps,
        "trainer.total_epochs": cfg.steps * cfg.problems_per_step // n_problems + 1,
        "trainer.save_freq": cfg.checkpoint_every,
        "trainer.test_freq": -1,
        "trainer.val_before_train": False,
        "trainer.n_gpus_per_node": cfg.gpus,
        "trainer.nnodes": cfg.nodes,
        "trainer.logger": "[console,tensorboard]",
        "trainer.project_name": "nanoprune",
        "trainer.experiment_name": f"cap{cfg.cap}",
        "trainer.default_local_dir": cfg.out_dir,
    }
    return keys | {f"+data.apply_chat_template_kwargs.{key}": value for key, value in cfg.template_options.items()}


def check(cfg: Config) -> dict:
    """The export's figures; exits with status 2 for what verl could not train as asked."""
    train_prune.check_options(cfg)
    refuse_own_steps(cfg)
    about = read_json(Path(cfg.data) / "export.json")
    for key in ("cap", "reward", "reward_options", "model", "thinking"):
        if about.get(key) != getattr(cfg, key):
            die(f"--data {cfg.data} was exported with {key} {about.get(key)}, not {getattr(cfg, key)}")
    row = {"ref_tokens": cfg.cap / 2, "ref_accuracy": 0.5, "answer": ""}
    with explained("", ValueError):
        reward_of = by_name(REWARDS, cfg.reward, cfg.reward_options, [row], cfg.thinking, cfg.group, cfg.cap)
        alone = not needs_group(reward_of, cfg.cap, row)
    if not alone:
        die(f"--reward {cfg.reward} compares the rollouts of a group, and verl scores each alone: take TRL")
    if cfg.advantage == "batch":
        die("--advantage batch is not in verl: take group or center, or TRL")
    if cfg.problems_per_step > about["n_problems"]:
        die(f"--problems_per_step {cfg.problems_per_step} exceeds the {about['n_problems']} problems of {cfg.data}")
    if cfg.init_adapter and cfg.beta > 0:
        note("with a LoRA, verl's KL is to the bare base, not to the round's start")
    if cfg.load_4bit:
        note("verl keeps the base in 16 bits: --load_4bit is not read")
    return about


def main(cfg: Config) -> None:
    about = check(cfg)
    for key, value in verl_keys(cfg, about["longest_prompt"], about["n_problems"]).items():
        print(f"{key}={json.dumps(value) if isinstance(value, bool) else value}")


if __name__ == "__main__":
    run(main, Config)
