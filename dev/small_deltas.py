"""How much of a small LoRA reaches rollouts that are sampled in bfloat16, and how far these are from training.

    python dev/small_deltas.py        # half a minute on one core

A random Qwen2 of 5M parameters (std 0.02) in NF4, computed in bfloat16, with a LoRA of r 32 and alpha 64. AdamW moves
its B at lr 1.5e-5, along gradients of a fixed direction in noise of three times its size. "Share" is the part of the
LoRA's change that is found again, <found, change> / <change, change>: in the weights of the merged copy (base and LoRA
rounded twice: the base, then the sum; or once: the sum), in the outputs of the trainer's layers, and in the log-probs
of random tokens (change: as in float32). "Gap" is the mean difference of a log-prob between copy and trainer.
"""

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from peft import LoraConfig, get_peft_model

from dev.bench_models import save_random_model
from engine import policy as p
from engine.files import Options


def share(found: torch.Tensor, change: torch.Tensor) -> float:
    """The part of a change that is found again: 1 is all of it, 0 none."""
    return ((found * change).sum() / (change * change).sum()).item()


def logp(model, ids: torch.Tensor) -> torch.Tensor:
    """(B * (T - 1),) log-prob of each token, as the update computes it."""
    return p.token_logp(model, ids, torch.ones_like(ids, dtype=torch.bool), 1.0, 512)


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        vocab, _ = save_random_model("5M", torch.device("cpu"), folder)
        lora = LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
        bases = [p.load_base(Options(model=folder, device="cpu", dtype=t)) for t in ("bfloat16", "float32")]
        policy, exact = (get_peft_model(base, lora).train() for base in bases)
    layers = {n.removeprefix("base_model.model."): m for n, m in policy.named_modules() if hasattr(m, "base_layer")}
    rounded = {name: p.full_weight(layer).bfloat16().float() for name, layer in layers.items()}  # the trainer's base
    once, twice, ids = p.merged_copy(policy), p.merged_copy(policy), torch.randint(vocab, (16, 64))
    begin = [logp(m, ids) for m in (twice, once, policy)]
    exact_begin, B = logp(exact, ids), [x for name, x in policy.named_parameters() if "lora_B" in name]
    aim = [torch.randn_like(x) for x in B]
    optimizer = torch.optim.AdamW(B, lr=1.5e-5, betas=(0.9, 0.95), weight_decay=0.0)
    print("| steps | weights: twice, once | trainer's layers | log-probs: twice, once, trainer | gap: twice, once |")
    print("|---|---|---|---|---|")
    for step in range(1, 191):
        for x, direction in zip(B, aim):
            x.grad = direction + 3 * torch.randn_like(x)
        optimizer.step()
        if step not in (1, 10, 30, 190):
            continue
        exact.load_state_dict({k: v for k, v in policy.state_dict().items() if "lora_" in k}, strict=False)
        p.refresh_copy(once, policy)
        found = []
        for name, layer in layers.items():
            delta, old, x = layer.get_delta_weight("default"), rounded[name], torch.randn(256, layer.in_features)
            twice.get_submodule(name).weight.copy_(old + delta)
            weights = [copy.get_submodule(name).weight.float() - old for copy in (twice, once)]
            x = x.bfloat16()
            live = share(layer(x).float() - x.float() @ old.T, x.float() @ delta.T)
            found.append([share(weights[0], delta), share(weights[1], delta), live])
        w, change = torch.tensor(found).mean(0), logp(exact, ids) - exact_begin
        now = [logp(m, ids) for m in (twice, once, policy)]
        moved = ", ".join(f"{share(a - b, change):.0%}" for a, b in zip(now, begin))
        gap = ", ".join(f"{(a - now[2]).abs().mean():.1e}" for a in now[:2])
        print(f"| {step} | {w[0]:.0%}, {w[1]:.0%} | {w[2]:.0%} | {moved} | {gap} |", flush=True)


if __name__ == "__main__":
    main()
