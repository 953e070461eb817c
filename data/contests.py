"""Contest problems from the Hugging Face hub -> out/contests/{train,val,aime24,...}.jsonl

    python data/contests.py                                # about 1.8 GB of download, once
    python data/contests.py --sources_dir my/copies        # offline: <name>.jsonl or .parquet there
    HF_ENDPOINT=https://my.mirror python data/contests.py  # or HF_HUB_OFFLINE=1 for the cache only

Each line is {"id", "problem", "answer"} and whatever else the source says of the problem. Training
is what ThinkPrune trained on, validation is AIME 2022 and 2023. Different from the authors: what
also stands in validation or a test is removed from training, and so are repetitions. The rule:

- same problem: equal normal forms (`normal`: no case, white space, punctuation, dollar signs, LaTeX
  layout commands, [asy] drawings);
- near enough to a validation or test problem: 70 % of the shorter one's word 5-grams are in both.
  This also takes reworded copies and the same problem with other numbers: a training problem less
  costs nothing, a test problem seen in training costs the result.

A file that is there is kept, and the problems in it count as held out, your own edits included.
"""
import json
import os
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from engine.files import die, run  # noqa: E402
from engine.hub import hub_answers  # noqa: E402
from engine.problems import answer_text, pick, problem_text  # noqa: E402


@dataclass
class Config:
    """Options of data/contests.py."""

    out_dir: str = "out/contests"
    """Where the problem files go."""
    sources_dir: str | None = None
    """Folder with local copies of sources, <name>.jsonl or <name>.parquet with the hub's columns;
    a source that is not there comes from the hub."""
    overwrite: bool = False
    """Write files anew that are there already."""


@dataclass
class Source:
    """One file of problems: edit the table below to bring another."""

    name: str                  # the file is <name>.jsonl; "train" is cleaned of all the others
    hub: str                   # id of the data set on the hub
    config: str | None
    split: str
    problem: str               # column; "prompt.-1.content" goes down into lists and dicts
    answer: str
    id: str | None = None      # column, else the row's number
    where: tuple = ()          # (column, pattern): only rows whose column contains it
    expect: int = 0            # problems, for a note when the hub's copy has changed
    load: dict = field(default_factory=dict)  # more arguments of load_dataset, parquet only


# Columns read off the data cards, or (*) off public code that loads the set: none of it was run
# against the hub when this was written (2026-11). A wrong column stops with the list of right ones.
EURUS = [("data_source", "==", "numina_amc_aime")]  # skips 480k rows before they reach the disk
SOURCES = [
    Source("train", "PRIME-RL/Eurus-2-RL-Data", None, "train", "prompt.-1.content",
           "reward_model.ground_truth", None, ("data_source", "^numina_amc_aime$"), 2470,
           {"filters": EURUS}),  # card; 2,470 rows: from the paper's code, not counted by us
    Source("val", "AI-MO/aimo-validation-aime", None, "train", "problem", "answer", "id",
           ("url", "/202[23]_AIME_"), 60),                                            # card, url *
    Source("aime24", "AI-MO/aimo-validation-aime", None, "train", "problem", "answer", "id",
           ("url", "/2024_AIME_"), 30),
    # AIME 2024 has been in training data for long: these two are newer.
    Source("aime25", "math-ai/aime25", None, "test", "problem", "answer", "id", (), 30),        # card
    Source("hmmt25", "MathArena/hmmt_feb_2025", None, "train", "problem", "answer", "problem_idx",
           (), 30),                                                                          # card
    Source("math500", "HuggingFaceH4/MATH-500", None, "test", "problem", "answer", "unique_id",
           (), 500),                                                         # cards of its copies
    Source("amc23", "math-ai/amc23", None, "test", "question", "answer", "id", (), 40),          # *
    Source("olympiad", "Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", "question",
           "final_answer", "id", (), 674),                       # *; text-only, open-ended, English
]

EURUS_TAIL = re.compile(r"\s*Present the answer in LaTex format: *\\boxed\{Your answer\}\s*$", re.I)
ASY = re.compile(r"\[asy\].*?(\[/asy\]|$)", re.S)
LAYOUT = re.compile(r"\\(left|right|bigg?[lr]?|displaystyle|text(bf|it|rm|sf)?|emph|operatorname"
                    r"|math(rm|bf|it|sf)|q?quad|allowbreak|limits|begin|end)(?![a-z])")
THOUSANDS = re.compile(r"(?<=\d)(,|\{,\}|\\,|,\\!)(?=\d{3}(?!\d))")
NEAR, MIN_GRAMS = 0.7, 8


# ---------------------------------------------------------------- when are two problems the same

def normal(problem: str) -> str:
    r"""The words, numbers and operators of a problem, lower case, one space between them.

    >>> normal("Find  $\\dfrac{1}{2}+x^{2}$ for\n1{,}000 \\textbf{points}.")
    'find frac 1 2 + x ^ 2 for 1000 points'
    """
    text = unicodedata.normalize("NFKC", problem).lower().replace("\u2212", "-")
    text = LAYOUT.sub(" ", THOUSANDS.sub("", ASY.sub(" ", text)))
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text)  # two-digit; between numbers it is a minus
    return " ".join(re.findall(r"[^\W\d_]+|\d+|[-+*/=<>^]", text))


def grams(text: str, n: int = 5) -> set[str]:
    words = text.split()
    return {" ".join(words[i:i + n]) for i in range(len(words) - n + 1)}


def clean(train: list[dict], held_out: dict[str, list[dict]]) -> tuple[list[dict], dict[str, int]]:
    """Training rows without held-out problems and repetitions; what was removed, by reason."""
    exact = {normal(r["problem"]): name for name, rows in held_out.items() for r in rows}
    sizes, where = {}, defaultdict(list)  # held-out text -> number of grams; gram -> held-out texts
    for text in exact:
        sizes[text] = len(grams(text))
        for gram in grams(text):
            where[gram].append(text)
    kept, removed, seen = [], Counter(), set()
    for row in train:
        text = normal(row["problem"])
        mine = grams(text)
        shared = Counter(t for gram in mine for t in where.get(gram, ()))
        near = {exact[t] for t, n in shared.items()
                if (short := min(len(mine), sizes[t])) >= MIN_GRAMS and n >= NEAR * short}
        if text in exact or near:
            removed[f"in {exact.get(text) or min(near)}"] += 1
        elif text in seen:
            removed["repeated"] += 1
        else:
            kept.append(row)
        seen.add(text)
    return kept, dict(removed)


# ---------------------------------------------------------------- one source -> rows

def to_problems(source: Source, rows) -> list[dict]:
    """Our rows, in order. Exits if one has no problem or no answer."""
    column, pattern = source.where or (None, "")
    used = {path.split(".")[0] for path in (source.problem, source.answer, source.id or "")}
    problems, n_rows, chosen = [], 0, f" with {pattern!r} in {column!r}" if column else ""
    for n_rows, row in enumerate(rows, 1):
        if column and not re.search(pattern, str(row.get(column))):
            continue
        number = len(problems) + 1
        problem = EURUS_TAIL.sub("", problem_text(pick(row, source.problem))).strip()
        answer = answer_text(pick(row, source.answer))
        for what, text, path in (("problem", problem, source.problem),
                                 ("answer", answer, source.answer)):
            if not text:
                die(f"{source.name} ({source.hub}): row {number}{chosen} has no {what} in column "
                     f"{path!r}; its columns: {', '.join(row)}. Mend the row, or the column's name "
                     "in SOURCES.")
        key = number if source.id is None else row.get(source.id, number)
        problems.append({"id": f"{source.name}-{key}", "problem": problem, "answer": answer} | {
            k: v for k, v in row.items() if k not in used | {"id"} and v is not None})
    if not problems:
        die(f"{source.name} ({source.hub}): no problem in its {n_rows} rows"
             + (f": none{chosen}." if chosen else "."))
    return problems


def load(source: Source, sources_dir: str | None):
    """Rows of one source, and where from: its file in `sources_dir` if there, else the hub."""
    from datasets import Image, load_dataset  # here: seconds to import, and HF_HUB_OFFLINE is read
    local = [path for ending in ("jsonl", "parquet") if sources_dir
             and (path := Path(sources_dir, f"{source.name}.{ending}")).exists()]
    try:
        if local:
            kind, extra = ("json", {}) if local[0].suffix == ".jsonl" else ("parquet", source.load)
            rows = load_dataset(kind, data_files=str(local[0]), split="train", **extra)
        else:
            rows = load_dataset(source.hub, source.config, split=source.split, **source.load)
    except Exception as error:  # datasets, hub, http and arrow errors share no base class
        reason = f"({type(error).__name__}: {str(error).strip()[:200]})"
        if isinstance(error, ConnectionError) and os.environ.get("HF_HUB_OFFLINE"):
            reason = "(it does not answer or is switched off, and the cache has no copy)"
        if local:
            die(f"{source.name}: cannot read {local[0]} {reason}.")
        die(f"{source.name}: cannot load {source.hub!r} from the hub {reason}. Without network: "
             f"--sources_dir FOLDER with {source.name}.jsonl or {source.name}.parquet in it, or "
             "HF_HUB_OFFLINE=1 with a filled cache; behind a mirror: HF_ENDPOINT=https://...")
    images = [name for name, kind in rows.features.items() if isinstance(kind, Image)]
    return rows.remove_columns(images), str(local[0]) if local else source.hub


def read_kept(path: Path) -> list[dict]:
    rows, number = [], 0
    try:
        with path.open(encoding="utf-8") as lines:  # not splitlines(): it also cuts at U+2028
            for number, line in enumerate(lines, 1):
                rows.append({"problem": json.loads(line)["problem"] + ""})
    except (ValueError, KeyError, TypeError):
        die(f"{path}, line {number}: not a row with a problem; mend it or --overwrite true.")
    return rows


def main(cfg: Config):
    out = Path(cfg.out_dir)
    if cfg.sources_dir and not Path(cfg.sources_dir).is_dir():
        die(f"--sources_dir {cfg.sources_dir} is not a folder.")

    # ---- 1. read: nothing is written before every source has been read
    kept = {s.name for s in SOURCES if (out / f"{s.name}.jsonl").exists() and not cfg.overwrite}
    local = {p.stem for p in Path(cfg.sources_dir).iterdir()} if cfg.sources_dir else set()
    if ({s.name for s in SOURCES} - kept - local and "HF_HUB_OFFLINE" not in os.environ
            and not hub_answers()):
        os.environ["HF_HUB_OFFLINE"] = "1"  # the cache may still have it
    files = {}
    for source in SOURCES:
        path = out / f"{source.name}.jsonl"
        if source.name in kept:
            files[source.name] = read_kept(path)
            print(f"{path}: kept, {len(files[source.name])} problems "
                  "(--overwrite true writes it anew)")
            continue
        rows, origin = load(source, cfg.sources_dir)
        files[source.name] = to_problems(source, rows)
        print(f"{source.name}: {len(files[source.name])} problems from {origin}"
              + (f" (expected {source.expect}: has the source changed?)"
                 if len(files[source.name]) != source.expect else ""))

    # ---- 2. training without test and validation problems, and without repetitions
    held_out = {name: rows for name, rows in files.items() if name != "train"}
    n_read = len(files["train"])
    files["train"], removed = clean(files["train"], held_out)
    counts = ", ".join(f"{n} {why}" for why, n in sorted(removed.items())) or "none"
    if "train" in kept and any(why.startswith("in ") for why in removed):
        die(f"{out}/train.jsonl, kept, shares problems with the held-out files ({counts}): "
             "--overwrite true writes it anew.")
    print(f"train: {len(files['train'])} of {n_read} problems stay; removed: {counts}")

    # ---- 3. write: all beside their places first, then rename
    try:
        out.mkdir(parents=True, exist_ok=True)
        new = [(out / f"{s.name}.jsonl.tmp", files[s.name]) for s in SOURCES if s.name not in kept]
        for path, rows in new:
            path.write_text("".join(json.dumps(row, ensure_ascii=False, default=str) + "\n"
                                    for row in rows), encoding="utf-8")
        for path, rows in new:
            path.replace(path.with_suffix(""))
            print(f"{path.with_suffix('')}: {len(rows)} problems")
    except OSError as error:
        die(f"--out_dir {out}: cannot write ({error}).")


if __name__ == "__main__":
    run(main, Config)
