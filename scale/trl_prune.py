"""One round on TRL's GRPOTrainer, on as many processes as are started, with our prompts, reward, cap and options.

    torchrun --standalone --nproc_per_node 2 -m scale.trl_prune --config config/toy.yaml --cap 260 \
        --train_data out/toy_data/cap260/train.jsonl --out_dir out/toy_trl/cap260.trl

If interrupted, run the same command again; it resumes. Each process holds the base and the LoRA, samples whole groups
and grades them; TRL gathers the rewards and averages the gradients. scale/pick.py selects. More in docs/scale.md.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import yaml

import train_prune
from engine.files import die, explained, read_jsonl, run, write_text
from engine.policy import load_trainable
from engine.rewards import by_name
from engine.run_folder import check_folder, move_aside
from engine.templates import ends_of
from length_rewards import REWARDS
from sample import compare_prompt
from scale.rewards import refuse_own_steps, score


@dataclass
class Config(train_prune.Config):
    """Options of trl_prune.py: those of train_prune.py, and two more."""

    train_data: str = "out/export/train.jsonl"
    """File of scale/export_data.py, made for this cap."""
    micro_batch: int = 16
    """Most rollouts that a process runs forward and backward at a time: moves speed and memory, never the gradient."""
    vllm: Literal["", "colocate", "server"] = ""
    """Sample with vLLM in the training processes or on a server (`trl vllm-serve`); empty: transformers' generate."""


FREE = train_prune.FREE | {"micro_batch", "vllm", "val_data"}


def reward_function(cfg: Config, tokenizer, ends: list[int], reward_of):
    """What TRL calls with a process's rollouts, whole groups one after another, and the columns of their rows."""

    def prune(completion_ids, **columns) -> list[float]:
        names = columns.keys() - {"prompts", "completions", "trainer_state", "log_extra", "log_metric"}
        rows = [{name: columns[name][k] for name in names} for k in range(len(completion_ids))]
        return score(completion_ids, rows, tokenizer, ends, reward_of, cfg.cap, cfg.group, cfg.thinking)[0]

    return prune


def grpo_config(cfg: Config, state, ends: list[int]):
    """Our options under TRL's names; exits with status 2 where accelerate's processes cannot hold whole groups."""
    from trl import GRPOConfig
    processes, on_cpu = state.num_processes, state.device.type == "cpu"
    if cfg.problems_per_step % processes:
        die(f"--problems_per_step {cfg.problems_per_step} is no multiple of {processes} processes: groups stay whole")
    rollouts = cfg.problems_per_step * cfg.group // processes  # of a process in a step: whole groups
    micro = math.gcd(rollouts // cfg.updates_per_batch, cfg.micro_batch)
    updates = cfg.updates_per_batch * cfg.passes  # optimizer steps, which TRL counts, in a step of ours
    return GRPOConfig(
        output_dir=cfg.out_dir, seed=cfg.seed, use_cpu=on_cpu, bf16=not on_cpu, report_to="none", disable_tqdm=True,
        num_generations=cfg.group, per_device_train_batch_size=micro, steps_per_generation=rollouts // micro,
        gradient_accumulation_steps=rollouts // cfg.updates_per_batch // micro, num_iterations=cfg.passes,
        max_steps=cfg.steps * updates, save_steps=cfg.checkpoint_every * updates, logging_steps=updates,
        # the rollouts: the cap is the limit, and the model's own distribution is sampled
        max_completion_length=cfg.cap, temperature=cfg.temperature, top_p=cfg.top_p, top_k=0, repetition_penalty=1.0,
        chat_template_kwargs=cfg.template_options, use_vllm=bool(cfg.vllm), vllm_mode=cfg.vllm or "server",
        generation_kwargs={"stop_token_ids": ends} if cfg.vllm else None,
        # the loss: over the batch's tokens, cut rollouts in it (docs/trl_verl.md)
        loss_type="dapo", mask_truncated_completions=False, use_bias_correction_kl=False, beta=cfg.beta,
        scale_rewards={"group": "group", "batch": "batch", "center": "none"}[cfg.advantage],
        epsilon=cfg.clip_low, epsilon_high=cfg.clip_high, vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=cfg.importance_cap,
        learning_rate=cfg.lr, lr_scheduler_type=cfg.lr_schedule, max_grad_norm=cfg.grad_clip, weight_decay=0.0,
        adam_beta1=0.9, adam_beta2=0.95, ddp_find_unused_parameters=False,
        gradient_checkpointing={"true": True, "false": False, "auto": not on_cpu}[cfg.gradient_checkpointing],
    )  # fmt: skip


def main(cfg: Config) -> None:
    train_prune.check_options(cfg)
    refuse_own_steps(cfg)
    rows = read_jsonl(cfg.train_data)
    if not rows or any(not {"prompt", "id", "answer"} <= row.keys() or row.get("cap") != cfg.cap for row in rows):
        die(f"--train_data {cfg.train_data} is no file of scale/export_data.py for a cap of {cfg.cap}")
    with explained("", ValueError):
        reward_of = by_name(REWARDS, cfg.reward, cfg.reward_options, rows, cfg.thinking, cfg.group, cfg.cap)
    with explained("TRL is missing: pip install trl==1.16.0", ImportError):
        from trl import GRPOTrainer
    from accelerate import PartialState
    from datasets import Dataset
    from transformers.trainer_utils import get_last_checkpoint

    state, note = PartialState(cpu=not torch.cuda.is_available()), Path(cfg.out_dir) / "config.yaml"
    cfg = dataclasses.replace(cfg, device=str(state.device).removesuffix(":0"))
    with state.main_process_first():  # it writes the options, the others compare theirs
        if cfg.fresh and state.is_main_process and note.is_file():
            move_aside(note.parent)
        check_folder(note.parent, dataclasses.asdict(cfg), dataclasses.asdict(Config()), FREE)
        if not note.is_file():
            write_text(note, yaml.safe_dump(dataclasses.asdict(cfg), sort_keys=False))
    print(f"process {state.process_index + 1} of {state.num_processes} on {state.device}", flush=True)
    policy, tokenizer = load_trainable(cfg, cfg.init_adapter, "", cfg.lora_r, cfg.lora_alpha)
    compare_prompt(cfg, cfg.init_adapter)
    ends = sorted(ends_of(tokenizer, policy.get_base_model().generation_config))
    reward, args = reward_function(cfg, tokenizer, ends, reward_of), grpo_config(cfg, state, ends)
    trainer = GRPOTrainer(policy, reward, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    for p in trainer.model.parameters():  # TRL makes a LoRA over 4 bits bfloat16, in which small steps round away
        p.data = p.data.float() if p.requires_grad else p.data
    trainer.train(resume_from_checkpoint=get_last_checkpoint(cfg.out_dir))
    state.wait_for_everyone()


if __name__ == "__main__":
    run(main, Config)
