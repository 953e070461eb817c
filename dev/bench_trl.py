"""TRL's side of `bench.py step`: its GRPOTrainer on our models, prompts, rewards and lengths (pip install trl)."""

import contextlib
import io
import logging
import math
import os
import tempfile
from collections.abc import Callable

import torch

from dev.bench_models import LONGEST_PROMPT, word_tokenizer
from dev.measure import clock
from engine.policy import load_policy, pick_dtype


def trl_steps(
    cfg, device, prompts, lengths: list[int], rewards: list[float], steps: int, after: Callable[[float], None]
) -> None:
    """Runs GRPOTrainer for some steps.

    What both sides share: base and its loader, tokenizer, prompts, LoRA, rate, lengths, rewards. A logits processor
    makes TRL's rollouts end where ours do; micro-batches are 16 rollouts, near our 4096 tokens, and on a card as many
    as surely fit into our tokens with their padding. A card computes in 16 bits on both sides.

    Args:
        cfg: `train_prune.Config`.
        rewards: Of each rollout, by place.
        after: Called after each step with its seconds (of the CPU, or on a card of the wall), outside the clock.
    """
    quiet_trl()
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOTrainer

    model, _ = load_policy(cfg)
    model.train()
    tokenizer = word_tokenizer(model.config.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=lambda completions, **_: rewards[: len(completions)],
            args=grpo_config(cfg, device, folder, len(lengths), steps),
            train_dataset=Dataset.from_list([{"prompt": tokenizer.decode(p)} for p in prompts]),
            peft_config=LoraConfig(
                r=cfg.lora_r, lora_alpha=cfg.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        for p in trainer.model.parameters():  # TRL turns a LoRA over 4 bits to bfloat16; ours is float32
            if p.requires_grad:
                p.data = p.data.float()
        trainer.model.generate = forced(trainer.model.generate, lengths)
        trainer.add_callback(step_clock(device, after))
        with contextlib.redirect_stdout(io.StringIO()):  # its last log line
            trainer.train()


def quiet_trl() -> None:
    """Keeps TRL's and transformers' remarks out of the bench's lines; to be called before TRL is imported."""
    import transformers

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    logging.getLogger("trl").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()


def grpo_config(cfg, device, folder: str, n: int, steps: int):
    """Our options in TRL's names; `n` rollouts a step."""
    from trl import GRPOConfig

    card, dtype = device.type == "cuda", pick_dtype(cfg.dtype, device)
    fit = max(1, cfg.tokens_per_micro_batch // (cfg.cap + LONGEST_PROMPT))
    micro = math.gcd(n, 2 ** int(math.log2(fit)) if card else 16)
    return GRPOConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=n // micro,
        num_generations=cfg.group,
        max_completion_length=cfg.cap,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=cfg.beta,
        learning_rate=cfg.lr,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=cfg.grad_clip,
        gradient_checkpointing=card and cfg.gradient_checkpointing != "false",
        bf16=card and dtype == torch.bfloat16,
        fp16=card and dtype == torch.float16,
        use_cpu=not card,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_vllm=False,
    )


def forced(generate, lengths: list[int]):
    """A model's `generate` whose responses end after exactly these numbers of tokens."""
    from transformers import LogitsProcessorList

    def forced_generate(input_ids, **more):
        width, wanted = input_ids.shape[1], torch.tensor(lengths, device=input_ids.device)

        def force(ids, scores):
            ending = ids.shape[1] - width + 1 >= wanted
            scores[:, :2] = -torch.inf  # neither padding nor the end by chance
            scores[ending] = -torch.inf
            scores[ending, 1] = 0.0
            return scores

        out = generate(input_ids=input_ids, logits_processor=LogitsProcessorList([force]), **more)
        made = int((out[:, width:] != 0).sum())
        if made != sum(lengths):
            raise RuntimeError(f"TRL made {made} tokens instead of {sum(lengths)}")
        return out

    return forced_generate


def step_clock(device, after: Callable[[float], None]):
    """A callback that calls `after` with the seconds of each step."""
    from transformers import TrainerCallback

    class StepClock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            self.start = clock(device)

        def on_step_end(self, *args, **kwargs):
            after(clock(device) - self.start)

    return StepClock()
