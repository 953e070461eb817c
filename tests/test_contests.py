"""data/contests.py on stand-ins with the hub's columns and on real problems; no network.

    python -m pytest tests/test_contests.py
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "data"))
import contests  # noqa: E402

REAL = ROOT.parent / "shared/data"
NAMES = ["train", "val", "aime24", "aime25", "hmmt25", "math500", "amc23", "olympiad"]
TAIL = "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"
AOPS = "https://artofproblemsolving.com/wiki/index.php/"


def eurus(problem, answer, source="numina_amc_aime"):
    return {"data_source": source, "ability": "math", "extra_info": {"index": 0, "split": "x"},
            "prompt": [{"content": "[ASSESS] ...", "role": "system"},
                       {"content": problem + TAIL, "role": "user"}],
            "reward_model": {"ground_truth": answer, "style": "rule"}}


def aime(id, year, problem, answer):
    return {"id": id, "problem": problem, "solution": "...", "answer": answer,
            "url": f"{AOPS}{year}_AIME_I_Problems/Problem_{id + 1}"}


VAL = ("A bug walks on the edges of a cube and never turns back at once. Find the number of walks "
       "of length $8$ that start and end at the same vertex.")
AIMO = [aime(0, 2022, VAL, "90"), aime(1, 2023, "Find $3 + 4$.", "007"),
        aime(2, 2024, "Find $5 \\cdot 6$.", "30")]
SOURCES = {
    "train": [
        eurus("Find $1+1$.", "2"),
        eurus("find $1 + 1$", "2"),                                        # repeated
        eurus("Print the input.", "{}", "codecontests"),                   # another source
        eurus("Find $5\\cdot6$", "30"),                                    # AIME 2024
        eurus(VAL.replace("$8$", "$10$"), "225"),  # near AIME 2022
        eurus("Find $1-1$.", "0"),                                         # differs by one sign
        eurus("What is half of \\$5?", "\\$2.50")],
    "val": AIMO, "aime24": AIMO,
    "aime25": [{"problem": "Find $6 + 6$.", "answer": "12", "id": "0"}],
    "hmmt25": [{"problem_idx": 1, "problem": "Find $\\frac{1}{2}$ of $9$.", "answer": "\\frac{9}{2}",
                "problem_type": ["Algebra"]}],
    "math500": [{"problem": "Find $2^3$.", "solution": "...", "answer": "8", "subject": "Algebra",
                 "level": 1, "unique_id": "test/algebra/1.json"}],
    "amc23": [{"id": 0, "question": "Find $9 - 2$.", "answer": 7.0, "url": AOPS}],
    "olympiad": [{"id": 1606, "question": "Find all $x$.", "solution": ["..."], "context": None,
                  "final_answer": ["$2$", "$3$"], "image_1": None, "is_multiple_answer": True}],
}


def write(folder, ending, **changed):
    """The sources as files; `changed` replaces the rows of one."""
    folder.mkdir(exist_ok=True)
    for name, rows in (SOURCES | changed).items():
        if ending == "parquet":
            table = Dataset.from_list(rows)
            if name == "olympiad":
                table = table.cast_column("image_1", Image())
            table.to_parquet(folder / f"{name}.parquet")
        else:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def run(tmp_path, **options):
    contests.main(contests.Config(out_dir=str(tmp_path / "out"), **options))
    return {name: read(tmp_path / "out" / f"{name}.jsonl") for name in NAMES}


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(contests, "hub_answers", lambda: pytest.fail("asked for the network"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_sources_become_problem_files(tmp_path, capsys, ending):
    files = run(tmp_path, sources_dir=str(write(tmp_path / "src", ending)))
    assert [(r["problem"], r["answer"]) for r in files["train"]] == [
        ("Find $1+1$.", "2"), ("Find $1-1$.", "0"), ("What is half of \\$5?", "\\$2.50")]
    assert files["train"][0]["data_source"] == "numina_amc_aime"
    assert "prompt" not in files["train"][0] and "reward_model" not in files["train"][0]
    assert [(r["id"], r["answer"]) for r in files["val"]] == [("val-0", "90"), ("val-1", "007")]
    assert [(r["id"], r["answer"]) for r in files["aime24"]] == [("aime24-2", "30")]
    assert [(r["id"], r["answer"]) for r in files["aime25"]] == [("aime25-0", "12")]
    assert [(r["id"], r["answer"]) for r in files["hmmt25"]] == [("hmmt25-1", "\\frac{9}{2}")]
    assert files["math500"][0]["id"] == "math500-test/algebra/1.json"
    assert files["math500"][0]["subject"] == "Algebra"
    assert (files["amc23"][0]["problem"], files["amc23"][0]["answer"]) == ("Find $9 - 2$.", "7")
    assert files["olympiad"][0]["answer"] == "2, 3"
    assert not {"context", "image_1"} & set(files["olympiad"][0])   # nothing empty, no images
    ids = [r["id"] for rows in files.values() for r in rows]
    assert len(set(ids)) == len(ids)
    said = capsys.readouterr().out
    assert "train: 3 of 6 problems stay; removed: 1 in aime24, 1 in val, 1 repeated" in said
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_no_problem_of_any_test_stays_in_training(tmp_path, capsys):
    held_out = [row.get("problem") or row["question"] for name in NAMES[1:] for row in SOURCES[name]]
    train = [eurus("Find $1+1$.", "2"), *(eurus(text.upper(), "1") for text in sorted(set(held_out)))]
    files = run(tmp_path, sources_dir=str(write(tmp_path / "src", "jsonl", train=train)))
    assert [row["problem"] for row in files["train"]] == ["Find $1+1$."]
    said = capsys.readouterr().out
    assert all(f"1 in {name}" in said for name in NAMES[2:]) and "2 in val" in said


def test_files_that_are_there_are_kept_and_held_out(tmp_path, capsys):
    folder = str(write(tmp_path / "src", "jsonl"))
    run(tmp_path, sources_dir=folder)
    own = tmp_path / "out/val.jsonl"
    own.write_text('{"id": "mine", "problem": "FIND $1 - 1$", "answer": "0"}\n')
    with pytest.raises(SystemExit):          # the kept training file now has a validation problem
        run(tmp_path, sources_dir=folder)
    assert "shares problems with the held-out files (1 in val)" in capsys.readouterr().err
    (tmp_path / "out/train.jsonl").unlink()
    files = run(tmp_path, sources_dir=folder)
    assert f"{own}: kept, 1 problems (--overwrite true" in capsys.readouterr().out
    assert files["val"][0]["id"] == "mine" and "Find $1-1$." not in str(files["train"])
    assert len(run(tmp_path, sources_dir=folder, overwrite=True)["val"]) == 2
    own.write_text('{"problem": "a\u2028b"}\n{"answer": "1"}\n', encoding="utf-8")
    with pytest.raises(SystemExit):
        run(tmp_path, sources_dir=folder)
    assert f"{own}, line 2: not a row with a problem" in capsys.readouterr().err


@pytest.mark.parametrize("name, rows, said", [
    ("amc23", [{"id": 0, "question": "Find 1.", "answer": "1"},
               {"id": 1, "question": "Find 2.", "answer": None}], "row 2 has no answer"),
    ("amc23", [{"id": 0, "question": "  ", "answer": "1"}], "row 1 has no problem"),
    ("amc23", [{"problem": "Find 1.", "answer": "1"}], "columns: problem, answer"),
    ("train", [eurus("", "1")], "row 1 with '^numina_amc_aime$' in 'data_source' has no problem"),
    ("val", [aime(0, 2024, "Find 1.", "1")], "none with '/202[23]_AIME_' in 'url'"),
])
def test_bad_rows_name_source_and_row_and_write_nothing(tmp_path, capsys, name, rows, said):
    folder = write(tmp_path / "src", "jsonl", **{name: rows})
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, sources_dir=str(folder))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
    last = error.splitlines()[-1]                                   # after the progress bars
    assert last.startswith(f"error: {name} (") and said in last


def test_no_network_is_one_line(tmp_path):
    """All but one source are local: the hub is asked for that one only, and nothing is written."""
    folder = write(tmp_path / "src", "parquet")
    (folder / "amc23.parquet").unlink()
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, ROOT / "data/contests.py", "--out_dir", tmp_path / "out",
         "--sources_dir", folder], env=env, cwd=tmp_path, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert "Traceback" not in done.stderr and last.startswith("error: amc23: cannot load")
    for word in ("'math-ai/amc23'", "--sources_dir", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        assert word in last


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "no-such-address"])
def test_hub_that_does_not_answer_is_found_out_at_once(tmp_path, endpoint):
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, ROOT / "data/contests.py"], env=env, cwd=tmp_path,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "'PRIME-RL/Eurus-2-RL-Data'" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--sources", "x"], ["--overwrite", "maybe"], ["--typo", "1"],
                                    ["--sources_dir", "no/such/folder"]])
def test_bad_options_stop(tmp_path, option):
    done = subprocess.run([sys.executable, ROOT / "data/contests.py", *option], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("a, b", [
    ("Find $x^2$.", "find  x^{2}"), ("$\\dfrac{1}{2}$", "\\(\\frac{1}{2}\\)"),
    ("a two-digit number", "A two digit number!"), ("$1,\\!000$ or 2,000", "1000 or $2{,}000$"),
    ("\\left( \\textbf{A} \\right)\\, ,", "(A)"), ("See [asy] draw(1); [/asy] it", "See it"),
    ("$3 \u2212 2$", "$3-2$"), ("$A_1, \\allowbreak A_2$", "$A_1,A_2$")])
def test_same_problem(a, b):
    assert contests.normal(a) == contests.normal(b)


@pytest.mark.parametrize("a, b", [("$3+2$", "$3-2$"), ("$x^{12}$", "$x^{1}2$"), ("$a<b$", "$a>b$"),
                                  ("$\\frac{1}{2}$", "$\\binom{1}{2}$"), ("10,20", "1020")])
def test_other_problem(a, b):
    assert contests.normal(a) != contests.normal(b)


@pytest.mark.skipif(not (REAL / "aime_train.jsonl").exists(), reason=f"no real problems at {REAL}")
def test_real_problems():
    """918 AIME problems: 3 of AIME22/23 (a signature, a drawing, a reworded line) and 10 of
    MATH-500 come back in them, none of AIME24 and AMC23. Each of the 13 was read by eye."""
    train = read(REAL / "aime_train.jsonl")
    held_out = {n: read(REAL / f"{n}.jsonl")
                for n in ("aime2022", "aime2023", "aime2024", "amc23", "math500")}
    kept, removed = contests.clean(train, held_out)
    assert (len(train), len(kept)) == (918, 905)
    assert removed == {"in aime2022": 2, "in aime2023": 1, "in math500": 10}
    gone = {r["id"] for r in train} - {r["id"] for r in kept}
    assert {"aimetrain-938", "aimetrain-939", "aimetrain-958"} <= gone
    # Put AIME24 and validation in themselves, retyped: every one of them is found.
    retyped = [{"problem": r["problem"].upper().replace("$", " ") + " ~ A. Solver"}
               for n in ("aime2022", "aime2023", "aime2024") for r in held_out[n]]
    assert contests.clean(kept + retyped, held_out)[0] == kept
