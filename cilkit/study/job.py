"""A job of `make study`: what Python says goes to a log, and the console gets a line if it fails.

    python -m cilkit.study.job "CIL_T2 (seed 0)" logs/CIL_T2.txt done/CIL_T2 -m cilkit.study T2 CIL

is `python -m cilkit.study T2 CIL` with its log, and with the stamp by which the graph sees its end.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

TAIL = 10_000  # bytes of a log in which its last line is looked for


def main(name: str, log: str, stamp: str, *arguments: str) -> int:
    """Run Python with these arguments, and return its exit status; leave a stamp if it is 0.

    Printed is why it failed, or that it was stopped, with its log.
    """
    with open(log, "wb") as file:
        command = [sys.executable, *arguments]
        status = subprocess.call(command, stdout=file, stderr=subprocess.STDOUT)
    if status == 0:
        Path(stamp).touch()
    else:
        say(f"{name} {_ending(status, Path(log))} (log: {log})")
    return abs(status)


def say(text: str) -> None:
    """Print whole lines, also where the line of the study is drawn (`cilkit.study.console`)."""
    print(f"{empty_line(sys.stdout)}{text}", flush=True)


def short_path(path: Path) -> str:
    """A path as it can be typed here: relative if it lies below this folder."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def empty_line(stream: TextIO) -> str:
    """What empties the last line of a terminal; "" where the stream goes elsewhere."""
    return f"\r{' ' * (shutil.get_terminal_size().columns - 1)}\r" if stream.isatty() else ""


def _ending(status: int, log: Path) -> str:
    """How a job ended that is not done: by Ctrl-C, another signal, or an error."""
    line = _last_line(log)
    if status == -signal.SIGINT or line in ("KeyboardInterrupt", "Aborted!"):  # papermill's
        return "was stopped"
    return f"FAILED: {line}" if status > 0 else f"FAILED: it was ended by signal {-status}"


def _last_line(log: Path) -> str:
    """The last line of a log that is not blank, where errors name themselves."""
    text = log.read_bytes()[-TAIL:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines()]  # also at the \r of progress bars
    return next((line for line in reversed(lines) if line), "its log is empty")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for what it runs, which ends by it
    sys.exit(main(*sys.argv[1:]))
