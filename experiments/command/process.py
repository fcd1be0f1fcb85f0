"""This process as a command: Ctrl-C ends it at once, and all that it prints can be shown.

with as_command():
    sys.exit(main())
"""

import codecs
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # exit code after Ctrl-C: 128 + SIGINT
SHOW_CURSOR = b"\x1b[?25h\r\n"  # progress bars hide it
# What our texts use beyond ASCII, for terminals that cannot show it.
PLAIN = {"−": "-", "–": "-", "—": "-", "×": "x", "≤": "<=", "≥": ">=", "±": "+-", "→": "->"}
PLAIN |= {"…": "...", "·": ".", "σ": "sigma", "κ": "kappa"}


@contextmanager
def as_command() -> Iterator[None]:
    """The body is all that this process is for. Only its main thread may call this."""
    for stream in (sys.stdout, sys.stderr):
        make_printable(stream)
    with ended_by_interrupts():
        yield


@contextmanager
def ended_by_interrupts(line: str = "error: interrupted") -> Iterator[None]:
    """Ctrl-C ends this process at once with exit code 130 and one line on stderr, whatever it does.

    Python would wait for the end of a compilation, and an exception raised in the middle of one is
    swallowed or ends in a crash when JAX is torn down. So a thread of its own ends the process, as
    kill -9 would: what is on disk is whole at every instant, so a run goes on from there. Where
    Ctrl-C is ignored (nohup), or handled by somebody else, it stays so.
    """
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if before is not signal.default_int_handler or not is_main:
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGINT, lambda *_: None)  # so that its number is written to the pipe
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_when_told, args=(reader, line), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGINT, before)
        os.close(writer)  # ends the thread


@contextmanager
def raised_by_interrupts() -> Iterator[None]:
    """Ctrl-C raises `KeyboardInterrupt`, as in other programs: for those who started processes,
    which they then end."""
    before, woken = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.set_wakeup_fd(woken)


def _end_when_told(reader: int, line: str) -> None:
    while numbers := os.read(reader, 64):
        if signal.SIGINT in numbers:
            if os.isatty(2):
                os.write(2, SHOW_CURSOR)
            os.write(2, f"{line}\n".encode() if line else b"")
            os._exit(INTERRUPTED)
    os.close(reader)


def make_printable(stream: object) -> None:
    """Let a text stream print everything: what its encoding lacks in plain letters, or escaped."""
    errors = getattr(stream, "errors", None)
    if errors in ("strict", "surrogateescape", "backslashreplace"):
        codecs.register_error("dreaming", plain)
        stream.reconfigure(errors="dreaming")  # type: ignore


def plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """A handler of `codecs`: the first letter that cannot be encoded, in others.

    A byte of a path that is no text (a lone surrogate) stays that byte.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter, after = error.object[error.start], error.start + 1
    if 0xDC80 <= ord(letter) <= 0xDCFF:
        return bytes([ord(letter) - 0xDC00]), after
    return PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode(), after
