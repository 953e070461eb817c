"""The stages of gpu_session.py, and what they share: each takes the session's options and returns its figures.

A stage that finds something wrong raises, most by an assertion. On a CPU (`s.rehearse`) a recorder stands in for CUDA's
graphs, and shapes are tiny.
"""

import contextlib
import dataclasses
import io
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

import grpo
import sample
import train_prune
from dev import bench_rollouts, bench_step
from dev.bench_models import random_model, shape_config
from dev.measure import clock
from engine.files import Options, parse
from engine.memory import PROMPT
from engine.logits import token_logp
from engine.rows import Requests, Rows
from engine.slots import Prefill, SlotCache, can_unroll, can_varlen, slot_attention
from sample import Sampler
from standin import let_it_answer, make_problems, make_r1_standin, with_lora

ROOT = Path(__file__).resolve().parent.parent


# ---------------------------------------------------------------------------------------- what stages share


@contextlib.contextmanager
def watched_captures():
    """Yields {"captures": CUDA graphs begun so far, "now": whether one is being captured, "replays"}.

    A graph that was kept is replayed more than the once that it is compared with the step.
    """
    seen, real, once_more = {"captures": 0, "now": False, "replays": 0}, torch.cuda.graph, torch.cuda.CUDAGraph.replay

    @contextlib.contextmanager
    def graph(*args, **kwargs):
        seen["captures"], seen["now"] = seen["captures"] + 1, True
        try:
            with real(*args, **kwargs):
                yield
        finally:
            seen["now"] = False

    def replay(self):
        seen["replays"] += 1
        once_more(self)

    with mock.patch.object(torch.cuda, "graph", graph), mock.patch.object(torch.cuda.CUDAGraph, "replay", replay):
        yield seen


def replayed(step):
    """`step` as a CUDA graph, captured after one run: a function that replays it."""
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def milliseconds(s, step, times: int) -> float:
    """Mean milliseconds of a step, after two that are not counted."""
    for _ in range(2):
        step()
    start = clock(s.device)
    for _ in range(times):
        step()
    return round(1000 * (clock(s.device) - start) / times, 3)


def rows_of(model, n: int, context: int, cap: int = 128):
    """`engine.rows.Rows` with n live rows that hold `context` tokens each, of which only the first few are computed."""
    requests = Requests([[5, 6, 7]], n, [context + cap] * n, 1.0, 1.0, 0, "", None)
    with torch.no_grad():
        rows, prefill = Rows(model, n, requests, [-1]), Prefill(model, requests.prompts)
        for row in range(n):
            rows.admit(row, row, requests, prefill)
    rows.slots.length += context - 2
    rows.slots.mask[..., : context + 1] = 0
    rows.arrange(by_band=False)
    return rows


def in_four_bits(model):
    """The model with the linear layers of its decoder in NF4, in place."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for module in list(model.get_decoder().modules()):
        for name, linear in list(module.named_children()):
            if type(linear) is torch.nn.Linear:
                made = Linear4bit(linear.in_features, linear.out_features, linear.bias is not None,
                                  compute_dtype=model.dtype, quant_type="nf4", device="meta")  # fmt: skip
                made.weight = Params4bit(linear.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                made.bias = linear.bias
                made.support_avx512bf16_for_cpu = False  # see policy.load_base
                setattr(module, name, made.to(model.device))
    return model


def command(*words: str) -> str:
    """Runs a command from the repository's root; returns the last line of its output, and fails where it fails."""
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines() or [""]
    assert done.returncode == 0, f"{' '.join(words[:3])} ended with {done.returncode}: {lines[-1]}"
    return lines[-1]


# ---------------------------------------------------------------------------------------- the stages


def versions(s) -> dict:
    """What is installed, and which way decoding goes."""
    found = {"python": sys.version.split()[0], "cuda": torch.version.cuda}
    for package in ("torch", "transformers", "peft", "bitsandbytes"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    if not s.rehearse:
        free, whole = torch.cuda.mem_get_info()
        found |= {"card": torch.cuda.get_device_name(), "capability": list(torch.cuda.get_device_capability())}
        found |= {"free_gb": round(free / 1e9, 2), "whole_gb": round(whole / 1e9, 2)}
    model = random_model("tiny", s.device)
    return found | {"can_varlen": can_varlen(model), "can_unroll": can_unroll(model)}


@torch.no_grad()
def attention(s) -> dict:
    """The slots' attention against float64, with NaN behind what each row has, eager and replayed."""
    config, width, worst = shape_config("r1_1.5b"), 96 if s.rehearse else 4096, {}
    config.num_hidden_layers = 1
    model = SimpleNamespace(config=config, device=s.device, dtype=torch.bfloat16)
    for n in (1, 8) if s.rehearse else (1, 8, 64, 105, 106, 128):
        slots = SlotCache(model, n, width, varlen=True)
        query, lengths = torch.randn(n, 12, 1, 128, device=s.device).bfloat16(), torch.randint(1, width, (n,)).tolist()
        out, right = torch.zeros_like(query).transpose(1, 2), []                 # (n, 1, heads, dim)
        for row, used in enumerate(lengths):
            k, v = torch.randn(2, 2, width, 128, device=s.device).bfloat16()     # (KV heads, width, dim) each
            k[:, used:] = v[:, used:] = float("nan")
            slots.fill(row, [(k, v)], width)
            slots.length[row] = used - 1  # `open` counts one more
            k, v = (x[:, :used].double().repeat_interleave(6, 0) for x in (k, v))
            scores = torch.einsum("hd,htd->ht", query[row, :, 0].double(), k) / 128**0.5
            right.append(torch.einsum("ht,htd->hd", scores.softmax(-1), v))

        def step() -> None:
            slots.open(n)
            out.copy_(slot_attention(None, query, slots, 0, None)[0])

        for way, run in (("eager", step), ("replayed", replayed(step))):
            out.zero_()
            run()
            error = (torch.stack(right) - out[:, 0].double()).abs().max().item()  # NaN, where one is NaN
            worst[f"{way}_{n}"] = round(error, 5)
            assert error < 0.03, f"{way}, {n} rows: off by {error}"  # bfloat16 keeps 8 bits
    return {"largest_error": worst}


def sync(s) -> dict:
    """One step that would raise wherever it waits for the card."""
    rows, n = rows_of(random_model("tiny" if s.rehearse else "100M", s.device), 16, context=8), 16
    with torch.no_grad():
        replayed(lambda: rows.step(n))  # a capture, and the recorder, refuse what would wait
        if not s.rehearse:
            torch.cuda.set_sync_debug_mode("error")
            rows.step(n)
            torch.cuda.set_sync_debug_mode("default")
    return {"waited": 0}


def graph(s) -> dict:
    """Rollouts in bfloat16 with graphs against eager ones, and their log-probs against the model's own forward."""
    policy, tokenizer = with_lora(make_r1_standin(Path(s.out_dir) / "standin"), std=0.05, load_4bit=False)
    policy = policy.to(s.device, torch.bfloat16)
    prompts, made = [[5, 6, 7, 8], [9] * 30, [11, 12]], {}
    for decode in ("eager", "graph"):
        sampler = Sampler(policy, tokenizer, Options(rollout_weights="merged"), decode=decode)
        with watched_captures() as seen:
            made[decode] = sampler.sample(prompts, 8, cap=48, seed=1)
    same = sum(a.ids == b.ids for a, b in zip(made["eager"], made["graph"]))
    gaps = []
    for r in made["graph"]:
        ids = torch.tensor([r.prompt_ids + r.ids], device=s.device)
        on = torch.arange(ids.shape[1], device=s.device)[None] >= len(r.prompt_ids)
        with torch.no_grad():
            gaps.append((token_logp(policy, ids, on, 1.0, 64).cpu() - r.logp).abs().mean().item())
    figures = {"captures": seen["captures"], "replays": seen["replays"], "same": same, "of": len(gaps)}
    figures["logp_gap"] = round(sum(gaps) / len(gaps), 5)
    # With another number of rows the card takes other kernels, which round otherwise: a few answers may part there.
    assert 0 < seen["captures"] < seen["replays"] / 2 and same > len(gaps) / 2 and figures["logp_gap"] < 0.05, figures
    return figures


def tests(s) -> dict:
    """The tests that need a card, and the sampler's. The rehearsal leaves them to the suite."""
    words = ["--version"] if s.rehearse else ["-q", "-x", "--cuda", "tests/test_cuda.py", "tests/test_sample.py"]
    return {"pytest": command(sys.executable, "-m", "pytest", *words)}


def speed(s) -> dict:
    """Milliseconds of a token step at the 1.5B shape with 2,000 tokens a row: graph, eager, and live 4-bit weights."""
    model, figures, times = random_model(s.size, s.device), {}, 1 if s.rehearse else 30
    sizes, context = ((4,), 16) if s.rehearse else ((64, 128), 2000)
    with torch.no_grad():
        for weights in ("merged", "live"):
            for n in sizes if weights == "merged" else sizes[:1]:
                rows = rows_of(model, n, context)
                eager, replay = (lambda: rows.step(n)), sample.graphed(rows.step, n, s.device, rows.state)
                figures[f"{weights}_{n}_eager_ms"] = milliseconds(s, eager, times)
                with watched_captures() as seen:
                    figures[f"{weights}_{n}_graph_ms"] = milliseconds(s, lambda: replay(n), times)
                figures[f"{weights}_{n}_kept"] = seen["replays"] > 1
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (not s.rehearse)
            with profile(activities=kinds) as seen:
                rows.step(n)
            print(seen.key_averages().table(sort_by=f"{s.device.type}_time_total", row_limit=20))
            if weights == "merged":
                model = in_four_bits(model)
    return figures


def memory(s) -> dict:
    """Most rows and peak against the plan, held to 24, 16, 12 and 8 GB; then memory that runs out in three places."""
    figures = {}
    for gb in () if s.rehearse else (24, 16, 12, 8):
        figures |= held_to(s, gb)
    return figures | runs_out(s)


def held_to(s, gb: int, tokens: int = 4096) -> dict:
    """The most rows of `tokens` tokens on so many GB, which torch is held to, against the plan."""
    torch.cuda.set_per_process_memory_fraction(min(1.0, gb * 1e9 / torch.cuda.mem_get_info()[1]))
    row = bench_rollouts.largest_rows(s.size, tokens - PROMPT, s.device)
    torch.cuda.set_per_process_memory_fraction(1.0)
    return {f"{gb}_gb_{key}": row[key] for key in ("planned_rows", "rows", "peak_to_plan")}


def runs_out(s) -> dict:
    """A real allocation that is too large, once in each place: the same answers and the same gradient must come."""
    policy, tokenizer = with_lora(make_r1_standin(Path(s.out_dir) / "standin"), std=0.05, load_4bit=False)
    policy = policy.to(s.device)
    sampler = Sampler(policy, tokenizer, Options(rollout_weights="merged"), decode="graph")
    wanted = sampler.sample([[5, 6, 7]], 16, cap=24, seed=2)
    true_step, true_logp, calls = Rows.step, grpo.token_logp, {"sampling": 0, "capture": 0, "update": 0}

    def too_much(place: str) -> None:
        calls[place] += 1
        if calls[place] == 1:
            torch.empty(2**50, dtype=torch.uint8, device=s.device)

    def one_token(rows, n: int) -> None:
        if (place == "capture") == seen["now"]:
            too_much(place)
        true_step(rows, n)

    for place in ("sampling", "capture"):
        with watched_captures() as seen, mock.patch.object(Rows, "step", one_token):
            sampler.rows = 0
            got = sampler.sample([[5, 6, 7]], 16, cap=24, seed=2)
        assert calls[place] > 1 and sampler.rows == 14, f"{place}: {calls}, {sampler.rows} rows"
        assert [r.ids for r in got] == [r.ids for r in wanted], f"{place}: other answers"

    def logp(*args, **kwargs):
        too_much("update")
        return true_logp(*args, **kwargs)

    cfg, adv = train_prune.Config(beta=0.0), [1.0, -1.0] * 8
    gradients = []
    for function in (true_logp, logp):
        trained = [p for p in policy.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.0)
        with mock.patch.object(grpo, "token_logp", function):
            gradients.append(grpo.update_policy(policy, optimizer, wanted, adv, cfg, 10**6)[0]["grad"])
    assert calls["update"] > 1 and abs(gradients[1] / gradients[0] - 1) < 1e-3, gradients
    return {"recovered": calls}


def step(s) -> dict:
    """bench.py step: a whole training step at the 24 GB config's sizes, peak against plan."""
    words = "--only ours --setting nf4 --model_size tiny --problems 2 --group 2 --cap 8 --repeats 1 --peaks false"
    words = words if s.rehearse else "--device cuda --run_config config/r1_1.5b_24gb.yaml --limit_gb 24 --repeats 1"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        bench_step.step(parse(bench_step.Config, args=words.split()))
    print(said.getvalue())
    return json.loads(said.getvalue().splitlines()[-1])["rows"][0]


def rounds(s) -> dict:
    """train_prune.py on a stand-in: a round that breaks off at its second step and goes on, then one with a KL."""
    out = Path(s.out_dir)
    model = make_r1_standin(out / "trained")
    let_it_answer(model)
    rows = [row | {"answer": "7"} for row in make_problems(4)]
    (out / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"train_data": str(out / "problems.jsonl"), "val_data": str(out / "problems.jsonl"), "steps": 2}
    options |= {"checkpoint_every": 1, "problems_per_step": 2, "group": 4, "eval_samples": 2, "reference_samples": 2}
    options |= {"reward": "repetition", "reward_options": {"size": 1, "penalty": 1.0}, "confirm_samples": 2}
    options |= {"eval_cap": 24, "model": model, "device": s.device.type}
    first = train_prune.Config(**options, cap=24, beta=0.0, fresh=True, out_dir=str(out / "round1"))
    real, calls = train_prune.update_policy, []

    def breaks_off(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    with mock.patch.object(train_prune, "update_policy", breaks_off), contextlib.suppress(KeyboardInterrupt):
        train_prune.main(first)
    train_prune.main(dataclasses.replace(first, fresh=False))
    more = {"cap": 16, "beta": 0.1, "init_adapter": str(out / "round1/step0002"), "out_dir": str(out / "round2")}
    train_prune.main(dataclasses.replace(first, **more))
    found = {}
    for name in ("round1", "round2"):
        log = (out / name / "log.csv").read_text().splitlines()
        found[name] = {k: dict(zip(log[0].split(","), log[-1].split(",")))[k] for k in ("step", "logp_gap", "grad")}
    assert [found[name]["step"] for name in found] == ["2", "2"] and len(calls) == 2, found
    return found


def toy(s) -> dict:
    """The main job. The rehearsal only reads its settings: the whole job is a test of its own."""
    if s.rehearse:
        return {"settings": command("env", f"OUT={s.out_dir}/toy", sys.executable, "-m", "engine.schedule", "true")}
    command("env", f"OUT={s.out_dir}/toy", "FRESH=1", f"PYTHON={sys.executable}", "bash", "schedule.sh")
    summary = json.loads((ROOT / s.out_dir / "toy" / "summary.json").read_text())
    return {key: summary[key] for key in ("tokens_ratio", "pass@1_change", "seconds")}


# In order, with the most seconds that each may take.
STAGES = [(versions, 60), (attention, 60), (sync, 60), (graph, 60), (tests, 120), (speed, 120), (memory, 120)]
STAGES += [(step, 180), (rounds, 90), (toy, 300)]
