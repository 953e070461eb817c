"""Grades a student's reward.py: `python grade.py theirs.py` prints a table and writes theirs.grade.json.

Needs cases.json and latex.py in its own folder, and mpmath; the solution is not needed and should not lie here.
The student's code runs in a process of its own, with time limits. It gets one input at a time over a pipe, never an
expected value, and answers in JSON. The values are compared here, types included.

The student's code is NOT in a sandbox: it may read and delete whatever you may, this folder included. With
`--docker IMAGE` it runs in a container without network that sees only the submission and latex.py (see course.md).

Exit status: 0 graded, 1 all points lost (it does not import, or a veto on the whole), 2 wrong use.
"""
import argparse
import ast
import ctypes
import hashlib
import json
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
IMPORT_SECONDS, TOTAL_SECONDS = 30.0, 900.0
STRIKES = {"Timeout": 5, "Ended": 1, "OutOfTurn": 1}                    # at 10, the rest of an exercise is not run
LONGEST_REPLY = 1 << 21
HANDOUT_IMPORTS = set("argparse atexit collections concurrent decimal faulthandler fractions functools itertools json"
                      " latex math mpmath os queue re string subprocess sys typing unicodedata resource".split())

# The student's process. It keeps the two pipes for itself and turns whatever the student prints into nothing.
CHILD = r"""
import importlib, json, os, sys
requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
null = os.open(os.devnull, os.O_RDWR)
for stream in (0, 1, 2):
    os.dup2(null, stream)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
except (ImportError, ValueError, OSError):
    pass                               # Windows has no such limit; macOS may refuse it (untried)
sys.path.insert(0, os.getcwd())
for line in requests:
    request = json.loads(line)
    try:
        function = getattr(importlib.import_module("reward"), request["call"] or "__name__")
        text = json.dumps({"id": request["id"], "value": request["call"] and function(*request["args"])})
    except BaseException as error:     # SystemExit, too
        text = json.dumps({"id": request["id"], "error": type(error).__name__, "text": str(error)[:200]})
    print(text, file=replies, flush=True)
"""


class Student:
    """The submission in a folder of its own, and the process that runs it; a new one starts after each crash."""

    def __init__(self, file: Path, docker: str, seconds: float):
        self.folder = tempfile.mkdtemp(prefix="grade_")
        os.chmod(self.folder, 0o755)                   # a container's user must read it
        shutil.copy(file, Path(self.folder, "reward.py"))
        shutil.copy(HERE / "latex.py", self.folder)
        self.files, self.process, self.seconds, self.docker = set(os.listdir(self.folder)), None, seconds, docker
        self.end = time.monotonic() + TOTAL_SECONDS

    def start(self) -> dict:
        python = [sys.executable]
        if self.docker:
            python = ["docker", "run", "--rm", "-i", "--init", "--network", "none", "--memory", "4g", "--pids-limit",
                      "64", "--ulimit", "cpu=120", "--cap-drop", "ALL", "--user", "65534", "--workdir", "/exercise",
                      "--volume", f"{self.folder}:/exercise:ro", self.docker, "timeout", "900", "python"]
        keep = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "HOME") if name in os.environ}
        self.process = subprocess.Popen(
            [*python, "-P", "-c", CHILD], cwd=self.folder, env=keep | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        return self.exchange("", [], IMPORT_SECONDS)

    def call(self, name: str, *args) -> dict:
        """Returns {"value": ...} or {"error": kind, "text": ...}."""
        if time.monotonic() > self.end:
            return {"error": "NotRun", "text": "it does not import, or all its time is spent"}
        if self.process is None:
            reply = self.start()
            if "error" in reply:
                return reply
        return self.exchange(name, args, self.seconds)

    def exchange(self, name: str, args, seconds: float) -> dict:
        """Sends one request; what does not answer it in time, or not in its turn, is killed."""
        process, secret, lines = self.process, secrets.token_hex(8), queue.Queue()

        def talk():                                    # a thread: both the pipes may block
            try:
                process.stdin.write(json.dumps({"id": secret, "call": name, "args": args}).encode() + b"\n")
                process.stdin.flush()
                lines.put(process.stdout.readline(LONGEST_REPLY))
            except (OSError, ValueError):
                lines.put(b"")
        threading.Thread(target=talk, daemon=True).start()
        try:
            line = lines.get(timeout=seconds)
            reply = json.loads(line)
            if isinstance(reply, dict) and reply.get("id") == secret and ("value" in reply) != ("error" in reply):
                return reply
            reply = {"error": "OutOfTurn", "text": "something else than this call wrote the reply"}
        except queue.Empty:
            reply = {"error": "Timeout", "text": f"no answer after {seconds:g} s"}
        except (ValueError, RecursionError):
            reply = {"error": "Ended", "text": "the process ended, or its reply was no JSON"}
        self.kill()
        return reply

    def kill(self) -> None:
        if os.name == "posix":
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.kill()
        self.process.wait()
        self.process = None

    def close(self) -> list[str]:
        """Ends the process; returns what is wrong with how it ended."""
        wrong = []
        if self.process is not None:
            self.process.stdin.close()
            try:
                self.process.wait(timeout=5.0 + self.seconds)
            except subprocess.TimeoutExpired:
                wrong.append("did not end when its input ended (a thread, or an exit handler?)")
            left = orphans() - {self.process.pid}
            if left:
                wrong.append(f"left {len(left)} process(es) running")
            self.kill()
        while left := orphans():                       # their children become ours, so again
            for pid in left:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        if new := set(os.listdir(self.folder)) ^ self.files:
            wrong.append(f"made or deleted files: {', '.join(sorted(new))}")
        shutil.rmtree(self.folder, ignore_errors=True)
        return wrong


def adopt_orphans() -> None:
    """Linux: processes that a student leaves behind become our children; /proc hides our memory."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(36, 1, 0, 0, 0)                          # PR_SET_CHILD_SUBREAPER
        prctl(4, 0, 0, 0, 0)                           # PR_SET_DUMPABLE


def orphans() -> set[int]:
    """Our child processes; found on Linux only."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat") if sys.platform == "linux" else ():
        try:
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:                                # it has just ended
            continue
        if int(parent) == os.getpid():
            found.add(int(stat.parent.name))
    return found


def same(reply: dict, want) -> bool:
    """Equal in type and value; a wanted exception is {"error": its name}."""
    if isinstance(want, dict):
        return reply.get("error") == want["error"]
    return "value" in reply and type(reply["value"]) is type(want) and reply["value"] == want


def share(yes: list[bool], no: list[bool]) -> float:
    """Share of the yes cases that are right, plus that of the no cases, minus 1: a constant or a coin earns 0."""
    return max(0.0, sum(yes) / len(yes) + sum(no) / len(no) - 1)


def exercise(student: Student, plan: dict) -> dict:
    """Runs all cases of one exercise, then its bombs."""
    failed, groups, right, strikes = [], {}, 0, 0

    def ask(group, call, args, want) -> bool:
        nonlocal strikes
        reply = {"error": "NotRun", "text": "after 2 timeouts or 10 crashes"}
        if strikes < 10:
            reply = student.call(call, *args)
            strikes += STRIKES.get(reply.get("error"), 0)
        if not same(reply, want):
            got = repr(reply["value"])[:200] if "value" in reply else f"{reply['error']}: {reply.get('text')}"
            failed.append({"group": group, "call": call, "args": repr(args)[:200], "want": want, "got": got})
        return same(reply, want)

    for group, cases in plan["groups"].items():
        answers = {True: [], False: []}
        for args, want in cases:
            answers[bool(want) and not isinstance(want, dict)].append(ask(group, plan["call"], args, want))
        groups[group] = round(share(answers[True], answers[False]), 3)
        right += sum(answers[True] + answers[False])
    strikes = 0
    bombs = [ask("bombs", bomb["call"], [bomb["before"] + bomb["text"] * bomb["times"] + bomb["after"], *bomb["more"]],
                 bomb["want"]) for bomb in plan["bombs"]]
    points = plan["points"] * sum(groups.values()) / len(groups) if all(bombs) else 0.0
    return {"points": round(points, 1), "of": plan["points"], "right": right,
            "cases": sum(map(len, plan["groups"].values())), "bombs": len(bombs), "bombs_failed": bombs.count(False),
            "groups": groups, "failed": failed}


def look_at(source: str) -> list[str]:
    """Lines that a teacher should read: modules that the handout does not import, and ways to reach others."""
    notes = []
    for node in ast.walk(ast.parse(source)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
        notes += [f"line {node.lineno}: import {n}" for n in names if n.split(".")[0] not in HANDOUT_IMPORTS]
        name = getattr(node, "id", None) or getattr(node, "attr", "")
        if name in ("exec", "eval", "__import__", "_getframe", "_exit", "getppid", "import_module", "__globals__"):
            notes.append(f"line {node.lineno}: {name}")
    return sorted(set(notes))


def grade(file: Path, docker: str = "", seconds: float = 10.0) -> dict:
    """Returns the result; the keys are those of the result file."""
    plan = json.loads((HERE / "cases.json").read_text(encoding="utf-8"))
    files = {path: path.read_bytes() for path in (HERE / "grade.py", HERE / "cases.json", HERE / "latex.py", file)}
    source, vetoes, notes = files[file], [], []
    student = Student(file, docker, seconds)
    reply = student.start()
    try:
        if "error" in reply:
            vetoes.append(f"does not import: {reply['error']}: {reply.get('text')}")
            student.end = 0.0                          # nothing more is run: every case fails
        else:
            notes = look_at(source.decode("utf-8", "replace"))
        exercises = {name: exercise(student, part) for name, part in plan.items()}
    finally:
        vetoes += student.close()
    if any(not path.is_file() or path.read_bytes() != was for path, was in files.items()):
        vetoes.append("files of the grader, or the submission, changed meanwhile")
    total = 0.0 if vetoes else round(sum(part["points"] for part in exercises.values()), 1)
    return {"file": file.name, "sha256": hashlib.sha256(source).hexdigest(), "total": total, "vetoes": vetoes,
            "notes": notes, "exercises": exercises}


def table(result: dict) -> str:
    lines = [f"{'exercise':10}{'points':>12}{'right':>12}   bombs"]
    for name, part in result["exercises"].items():
        bombs = f"{part['bombs_failed']} of {part['bombs']} failed{': no points' * (part['bombs_failed'] > 0)}"
        lines.append(f"{name:10}{part['points']:>6} of {part['of']:2}{part['right']:>6} of {part['cases']:3}   {bombs}")
    lines += [f"lost all points: {veto}" for veto in result["vetoes"]]
    lines += [f"please read {note}" for note in result["notes"]]
    most = sum(part["of"] for part in result["exercises"].values())
    return "\n".join([*lines, f"{'total':10}{result['total']:>6} of {most}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the student's reward.py, under any name")
    parser.add_argument("--out", type=Path, help="the result file; default: beside the submission, .grade.json in place of .py")
    parser.add_argument("--failed", action="store_true", help="print each failed case, too")
    parser.add_argument("--seconds", type=float, default=10.0, help="limit for one call; default 10")
    parser.add_argument("--docker", default="", metavar="IMAGE", help="run the student's code in this image")
    options = parser.parse_args()
    if not options.file.is_file():
        parser.exit(2, f"error: {options.file}: no such file\n")
    out = options.out or options.file.with_suffix(".grade.json")
    out.unlink(missing_ok=True)                        # no old result stands there if we are killed
    adopt_orphans()
    result = grade(options.file.resolve(), options.docker, options.seconds)
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, part in result["exercises"].items() if options.failed else ():
        for case in part["failed"]:
            print(f"{name}, {case['group']}: {case['call']}{case['args']} must be {case['want']!r}, is {case['got']}")
    print(table(result))
    print(f"written: {out}")
    return int(bool(result["vetoes"]))


if __name__ == "__main__":
    sys.exit(main())
