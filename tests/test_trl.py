"""The gradient of an update against that of TRL's own trainer. Needs trl. Run: python -m pytest tests/test_trl.py"""
import logging
import os

import pytest
import torch

from conftest import sampled
from grpo import update_policy
from standin import make_r1_standin, with_lora
from train_prune import Config

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
trl = pytest.importorskip("trl", reason="trl is not installed")


def their_gradient(model, tokenizer, rollouts, adv, cfg, ref_logp, folder):
    """{parameter: gradient} of GRPOTrainer._compute_loss with loss_type dapo over the same rollouts."""
    from datasets import Dataset

    logging.getLogger("trl").setLevel(logging.ERROR)
    arguments = trl.GRPOConfig(
        output_dir=folder, per_device_train_batch_size=len(rollouts), num_generations=len(rollouts), beta=cfg.beta,
        epsilon=cfg.clip_low, epsilon_high=cfg.clip_high, loss_type="dapo", use_bias_correction_kl=False, temperature=1.0,
        report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, mask_truncated_completions=False,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": "1"}])
    rewards = lambda completions, **_: [0.0] * len(completions)  # noqa: E731 (never called)
    trainer = trl.GRPOTrainer(model=model, processing_class=tokenizer, reward_funcs=rewards, args=arguments, train_dataset=data)
    trainer.current_gradient_accumulation_steps = 1

    def padded(rows, left=False):
        width = max(map(len, rows))
        fill = [[0] * (width - len(row)) for row in rows]
        ids = [f + row if left else row + f for f, row in zip(fill, rows)]
        return torch.tensor(ids), torch.tensor([[0] * len(f) + [1] * len(r) if left else [1] * len(r) + [0] * len(f) for f, r in zip(fill, rows)])

    (prompt_ids, prompt_mask), (ids, mask) = padded([r.prompt_ids for r in rollouts], left=True), padded([r.ids for r in rollouts])
    inputs = {"prompt_ids": prompt_ids, "prompt_mask": prompt_mask, "completion_ids": ids, "completion_mask": mask}
    inputs |= {"advantages": torch.tensor(adv), "num_items_in_batch": mask.sum()}
    if ref_logp is not None:
        inputs["ref_per_token_logps"] = torch.nn.utils.rnn.pad_sequence(ref_logp, batch_first=True)
    model.zero_grad()
    trainer._compute_loss(trainer.model, inputs).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_the_gradient_is_that_of_trls_dapo_loss(tmp_path, beta):
    model, tokenizer = with_lora(make_r1_standin(tmp_path / "model", context=4096), std=0.05, load_4bit=False)
    cfg = Config(beta=beta, grad_clip=1e9)
    rollouts = sampled(model.get_base_model(), tokenizer, [[5, 6, 7], [9] * 12], 3, cap=[4, 9, 30] * 2, seed=1)
    adv, ours, ref_logp = [1.0, -0.5, 0.3, 0.0, 0.7, -2.0], {}, None

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            ours.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    update_policy(model, Spy([p for p in model.parameters() if p.requires_grad], lr=0.0), rollouts, adv, cfg, 10**6)
    if beta:
        with torch.no_grad(), model.disable_adapter():
            whole = [model(input_ids=torch.tensor([r.prompt_ids + r.ids])).logits[0].log_softmax(-1) for r in rollouts]
        ref_logp = [x[len(r.prompt_ids) - 1 : -1].gather(1, torch.tensor(r.ids)[:, None])[:, 0] for x, r in zip(whole, rollouts)]
    theirs = their_gradient(model, tokenizer, rollouts, adv, cfg, ref_logp, str(tmp_path))
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], atol=1e-6), (name, (gradient - theirs[name]).abs().max())
    assert max(g.abs().max() for g in ours.values()) > 1e-3  # so 1e-6 says something
