"""What the tests share: the scripts on the path, the course option, and the data folder beside the repository."""
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# Before torch is imported: with two threads, tensors as small as these mostly wait. `pytest -n` has other cores busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption("--reward", default=str(ROOT / "reward.py"), metavar="FILE",
                     help="grade this file's reward functions instead of ours (tests/test_reward.py)")
    parser.addoption("--cuda", action="store_true", help="let tests see the card (tests/test_cuda.py)")


def pytest_configure(config):
    if not config.getoption("--cuda"):  # the others compare float32 on a CPU, and `--device auto` would take a card
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def reward(request):
    """The module under test: our reward.py, or a student's file given with --reward."""
    path = Path(request.config.getoption("--reward")).resolve()
    if not path.is_file():
        pytest.exit(f"--reward {path}: no such file", returncode=2)
    if path == ROOT / "reward.py":
        import reward
        return reward
    spec = importlib.util.spec_from_file_location("reward_under_test", path)
    module = sys.modules["reward_under_test"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shared_rows():
    """Reads one JSONL file of ../shared/data; skips where that folder is missing (it is no part of the repository)."""
    def read(name: str) -> list[dict]:
        path = ROOT.parent / "shared" / "data" / name
        if not path.is_file():
            pytest.skip(f"{path} is missing: test data that is not part of the repository")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return read


@pytest.fixture(autouse=True)
def functions_are_left_as_they_were():
    """What a recorder or a test puts in place of a card's functions must be gone after it.

    A monkeypatch inside `recorder()` is undone after the recorder has ended, and so puts the stand-in back for good.
    On a CPU nobody sees that; on a card the next test decodes with it.
    """
    def now() -> dict:
        places = {name: sys.modules.get(name) for name in PATCHED}
        if "torch" in sys.modules:
            places["torch.ops.aten"] = sys.modules["torch"].ops.aten  # no module of its own
        return {f"{at}.{name}": getattr(place, name) for at, place in places.items() if place for name in PATCHED[at]}

    before = now()
    yield
    after = now()
    assert [name for name in before if after[name] is not before[name]] == []


PATCHED = {
    "torch.cuda": ("graph", "CUDAGraph", "graph_pool_handle", "current_stream", "set_stream", "set_device",
                   "device_count", "is_available", "get_device_capability", "get_device_name", "get_device_properties",
                   "mem_get_info", "memory_allocated", "synchronize"),
    "torch.ops.aten": ("_flash_attention_forward",), "sample": ("graphed",), "engine.draw": ("on_cuda", "MANY"),
    "engine.rows": ("can_varlen",), "engine.slots": ("rows_that_fill", "can_varlen"), "engine.memory": ("free_bytes",),
    "torch.nn.attention.varlen": ("varlen_attn",),
    "torch.nn.functional": ("scaled_dot_product_attention",),
}  # fmt: skip
WARM = """
import os
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from dev.faults import import_all
from dev.faults_fork import launcher

import_all()
with launcher(Path(sys.argv[2])):
    print("ready", flush=True)
    sys.stdin.read()
os._exit(0)  # what torch and the others do at their end takes seconds
"""


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory):
    """Path of a stand-in for `python` that runs a script in a fork with the slow imports behind it.

    The forks come from a process of its own, not from pytest's, which may have threads. Elsewhere than on Linux it is
    the real one.
    """
    if sys.platform != "linux":
        yield sys.executable
        return
    folder = tmp_path_factory.mktemp("warm")
    words = [sys.executable, "-c", WARM, str(ROOT), str(folder)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield str(folder / "python")
        process.stdin.close()


def sampled(model, tokenizer, prompts, samples=1, *, rows=128, end_ids=None, decode="auto", **more):
    """Rollouts of a model as it stands, through `Sampler`."""
    from engine.files import Options
    from sample import Sampler

    options = Options(rows=rows, rollout_weights="live")
    return Sampler(model, tokenizer, options, decode=decode, end_ids=end_ids).sample(prompts, samples, **more)


def refusal(capsys, work) -> str:
    """The one line with which `work` stops the process, status 2."""
    with pytest.raises(SystemExit) as stop:
        work()
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and len(error.splitlines()) == 1
    return error
