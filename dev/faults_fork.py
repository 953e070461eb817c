"""Commands run in forks that have the slow imports behind them, watched and killed, and judged by how they end."""

import contextlib
import fcntl
import json
import os
import re
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OURS = ("analysis", "data", "engine")  # folders whose lines a traceback is cut down to, beside the root itself


class Run(NamedTuple):
    """What one forked command left."""

    status: int
    """Exit status; minus the signal that killed it; -1000 where it was stopped as too slow."""
    output: str
    seconds: float


# ---------------------------------------------------------------------------------------- running a script in a fork


def run_as_main(argv: list[str]) -> int:
    """Runs `python argv...` (a script of the repository, -m MODULE or -c CODE) here; returns its exit status."""
    try:
        if argv[0] == "-c":
            sys.argv = ["-c", *argv[2:]]
            exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
        elif argv[0] == "-m":
            sys.argv, sys.path[0] = ["-m", *argv[2:]], os.getcwd()
            sys.modules.pop(argv[1], None)  # imported before the fork: runpy would warn that it runs a second copy
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = list(argv), str(Path(argv[0]).resolve().parent)
            runpy.run_path(argv[0], run_name="__main__")
        status = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return status


def start(argv: list, output: Path, prepare: Callable[[], None] | None = None) -> int:
    """Forks a child that leads its own process group and runs the command; returns its process id.

    Args:
        argv: Script (relative to the repository), or -m and a module; then the arguments.
        output: File that takes stdout and stderr.
        prepare: Called in the child before the script, to break something there.
    """
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.chdir(ROOT)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        status = 1
        try:
            if prepare:
                prepare()
            status = run_as_main([str(a) for a in argv])
        finally:
            os._exit(status)
    with contextlib.suppress(OSError):  # the child does the same; whoever is first
        os.setpgid(pid, pid)
    return pid


def finish(pid: int, output: Path, limit: float = 120.0) -> Run:
    """Waits for the child and for whatever it started, and returns what it left."""
    began, status = time.monotonic(), None
    while status is None:
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
        elif time.monotonic() - began > limit:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            status = -1000
        else:
            time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):  # graders that outlive their parent for a moment
        os.killpg(pid, signal.SIGKILL)
    return Run(status, output.read_text(encoding="utf-8", errors="replace"), time.monotonic() - began)


def call(argv: list, output: Path, prepare: Callable[[], None] | None = None, limit: float = 120.0) -> Run:
    """start and finish."""
    return finish(start(argv, output, prepare), output, limit)


def wrong_exit(run: Run, allowed: tuple[int, ...]) -> str:
    """What is wrong with how a command ended ('' for nothing): it may say `error: ...` in one line, never a traceback.

    Args:
        allowed: Exit statuses that are in order; 1 and 2 need the line, which what to do next may follow.
    """
    lines = [line for line in run.output.splitlines() if line.strip()]
    if run.status == -1000:
        return "hangs"
    if "Traceback (most recent call last)" in run.output:
        places = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', run.output)
        ours = [p for p in places if (ROOT / p[0]).parent in (ROOT, *(ROOT / name for name in OURS))] or places
        where = f"{Path(ours[-1][0]).name}:{ours[-1][1]} {ours[-1][2]}" if ours else "?"
        kinds = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", line)]
        return f"traceback: {(kinds or lines)[-1][:150]} at {where}"
    if run.status < 0:
        return f"died by signal {-run.status}"
    if run.status not in allowed:
        return f"exit status {run.status}: {lines[-1][:150] if lines else 'silent'}"
    # reward.py is handed in on its own and speaks as argparse does: `reward.py: ...`
    told = [i for i, line in enumerate(lines) if re.match(r"(\w+\.py: )?error: |reward\.py: ", line)]
    if run.status in (1, 2) and (len(told) != 1 or told[0] < len(lines) - 3):
        last = lines[-1][:150] if lines else "silent"
        return f"exit status {run.status} without one line `error: ...` at the end: {last}"
    return ""


# ---------------------------------------------------------------------------------------- at a file operation


def watch(folder: Path, pattern: str, act: Callable[[int], None]) -> None:
    """Calls act(n) just before the n-th (from 1) file operation under `folder` whose path matches `pattern`.

    Python reports each open, rename, mkdir, remove, ... before it happens; what C++ and Rust write (tensors) goes
    unseen, but lies between two that are.
    """
    prefix, seen, busy = str(folder.resolve()) + os.sep, 0, False

    def hook(event: str, args: tuple) -> None:
        nonlocal seen, busy
        if busy or not (event == "open" or event.startswith(("os.", "shutil."))):
            return
        paths = [os.fspath(a) for a in args[:2] if isinstance(a, (str, os.PathLike))]
        if any(re.search(pattern, p) and os.path.abspath(p).startswith(prefix) for p in paths):
            seen, busy = seen + 1, True  # busy: what `act` does to files is no operation of the script
            try:
                act(seen)
            finally:
                busy = False

    sys.addaudithook(hook)


def kill_at(folder: Path, pattern: str, number: int) -> Callable[[], None]:
    """For `prepare`: SIGKILL just before that operation."""
    return lambda: watch(folder, pattern, lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == number else None)


def add_one(note: Path) -> None:
    """Adds a byte to a file: a count that outlives the process."""
    with open(note, "ab") as file:
        file.write(b".")


# ---------------------------------------------------------------------------------------- a stand-in for `python`

# Stands in for `python` in schedule.sh: hands its arguments, descriptors and process group to the server of `serve`,
# and ends as the command does that is run there. Both are killed with their group, as one real process would be.
LAUNCHER = """\
import json, os, socket, sys
fds = []
for fd in range(10):  # a lock that the shell holds on an open file goes along
    try:
        fds += [fd] if os.get_inheritable(fd) else []
    except OSError:
        pass
s = socket.socket(socket.AF_UNIX)
s.connect({address!r})
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ), os.getpgrp(), fds]).encode()
socket.send_fds(s, [len(request).to_bytes(8, "big") + request], fds)
status = s.recv(1)
os._exit(status[0] if status else 137)
"""


def serve(address: str) -> None:
    """Answers each launcher with the exit status of its command, run in a fork; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks that answer
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            try:
                answer(client)
            finally:
                os._exit(0)
        client.close()


def answer(client: socket.socket) -> None:
    """Runs one launcher's command in a fork that may turn into another program (exec), and sends its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    data, fds, _, _ = socket.recv_fds(client, 1 << 20, 10)
    while len(data) < 8 + int.from_bytes(data[:8], "big"):
        data += client.recv(1 << 20)
    argv, folder, env, group, targets = json.loads(data[8:])
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            client.close()
            take_over(fds, targets)
            os.setpgid(0, group)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(env)
            status = run_as_main(argv)
        finally:
            os._exit(status)
    for fd in fds:  # a lock is held by the command and what it starts, not by us
        os.close(fd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    client.send(bytes([code if code >= 0 else 128 - code]))


def take_over(fds: list[int], targets: list[int]) -> None:
    """Gives received descriptors the numbers that they had at the launcher, and closes what else is open."""
    # Out of the way first: a received number may be another one's target.
    fds = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds]
    os.closerange(3, 100)
    for fd, target in zip(fds, targets):
        os.dup2(fd, target)
        os.close(fd)


@contextlib.contextmanager
def launcher(work: Path):
    """Yields the path of an executable that behaves as `python`, without the seconds of imports."""
    with tempfile.TemporaryDirectory(prefix="faults") as folder:  # a socket's path may have about 100 bytes, no more
        address, path = f"{folder}/socket", work / "python"
        (work / "launcher.py").write_text(LAUNCHER.format(address=address))
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{work / "launcher.py"}" "$@"\n')
        path.chmod(0o755)
        pid = os.fork()
        if pid == 0:
            serve(address)
        try:
            while not os.path.exists(address):
                time.sleep(0.01)
            yield path
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
