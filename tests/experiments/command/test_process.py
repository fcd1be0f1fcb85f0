"""Ctrl-C ends a command at once, whatever it does; what it prints can be shown in any encoding."""

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.command.process import as_command, ended_by_interrupts, make_printable

ROOT = Path(__file__).parents[3]
LINE = "error: interrupted\n"
WORK = {
    "a loop": "while True: pass",
    "a wait": "import time; time.sleep(99)",
    # As a compilation: no line of Python runs, so no handler would.
    "work outside of Python": "import hashlib; hashlib.pbkdf2_hmac('md5', b'', b'', 10**9)",
    "somebody who catches all": """
while True:
    try:
        while True: pass
    except BaseException: pass
""",
}


DEFAULT = "signal.signal(signal.SIGINT, signal.default_int_handler)"


def start(work: str, before: str = DEFAULT) -> subprocess.Popen:
    """A command that does this work, when it has begun."""
    code = f"import signal\nfrom experiments.command.process import *\n{before}\n"
    code += "with as_command():\n    print('begun', flush=True)\n"
    code += "".join(f"    {line}\n" for line in work.strip().splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    time.sleep(0.1)
    assert process.poll() is None  # it is at work
    return process


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("work", WORK)
def test_an_interrupt_ends_any_work_within_seconds_in_one_line(work, times):
    process, began = start(WORK[work]), time.monotonic()
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", LINE)
    assert process.returncode == 130 and time.monotonic() - began < 5


def test_other_signals_and_ignored_interrupts_end_nothing():
    on_term = "signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True))"
    process = start("import time; time.sleep(1); print('done')", f"{DEFAULT}\n{on_term}")
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == ("told\ndone\n", "") and process.returncode == 0
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    process = start("import time; time.sleep(1); print('done')", ignore)
    process.send_signal(signal.SIGINT)  # as under nohup
    assert process.communicate(timeout=30) == ("done\n", "") and process.returncode == 0


def test_who_starts_processes_may_end_them_first():
    work = """
try:
    with raised_by_interrupts():
        while True: pass
except KeyboardInterrupt: print('ended them')
while True: pass
"""
    process = start(work)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None and process.stdout.readline() == "ended them\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", LINE) and process.returncode == 130


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    with ended_by_interrupts():
        assert (signal.getsignal(signal.SIGINT) is before) == (
            before is not signal.default_int_handler
        )
    with as_command(), as_command():
        pass
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "−0.5 … ±1 → “λ” ü"),
        ("latin-1", "-0.5 ... ±1 -> \\u201c\\u03bb\\u201d ü"),
        ("cp1252", "-0.5 … ±1 -> “\\u03bb” ü"),
        ("ascii", "-0.5 ... +-1 -> \\u201c\\u03bb\\u201d \\xfc"),
    ],
)
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_an_encoding_lacks_is_written_in_other_letters(encoding, shown, errors):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)
    make_printable(stream)
    stream.write("−0.5 … ±1 → “λ” ü")
    stream.write("\udcff")  # a byte of a path that is no text
    stream.flush()
    assert stream.buffer.getvalue() == shown.encode(encoding) + b"\xff"


def test_what_a_user_chose_for_letters_that_lack_stays():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="ignore")
    make_printable(stream)
    assert stream.errors == "ignore"
    make_printable(io.StringIO())  # nothing to encode


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_verb_ends_well_where_its_letters_cannot_be_shown(encoding, tmp_path, monkeypatch):
    from experiments import inspect_traces, record

    log = tmp_path / "läuf"
    assert record.main(["env.real_steps=60", f'path="{log}"']) == 0
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["dreaming", f'path="{log}"'])
    assert inspect_traces.main() == 0
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)
    assert "observation" in text


@pytest.mark.slow
def test_an_interrupt_ends_verbs_that_compile():
    """Ten instants of each verb; see `interrupt_runs` for thirty."""
    command = [sys.executable, "-m", "tests.experiments.interrupt_runs", "count=10"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr + ran.stdout
