"""A job of `make study`: what Python says goes to a log, and the console gets whole lines.

    python -m cilkit.study.job "CIL_T2 (seed 0)" logs/CIL_T2.txt done/CIL_T2 -m cilkit.study T2 CIL

is `python -m cilkit.study T2 CIL` with its log, and with the stamp by which the graph sees its end.
"""

import signal
import subprocess
import sys
from pathlib import Path

TAIL = 10_000  # bytes of a log in which its last line is looked for


def main(name: str, log: str, stamp: str, *arguments: str) -> int:
    """Run Python with these arguments, and return its exit status; leave a stamp if it is 0.

    Printed are the name of the job when it begins, and when it is done or why it failed.
    """
    print(f"{name} begins", flush=True)
    with open(log, "wb") as file:
        command = [sys.executable, *arguments]
        status = subprocess.call(command, stdout=file, stderr=subprocess.STDOUT)
    if status == 0:
        Path(stamp).touch()
        print(f"{name} is done", flush=True)
    else:
        print(f"{name} {_ending(status, Path(log))} (log: {log})", flush=True)
    return abs(status)


def _ending(status: int, log: Path) -> str:
    """How a job ended that is not done: by Ctrl-C, another signal, or an error."""
    line = _last_line(log)
    if status == -signal.SIGINT or line == "KeyboardInterrupt":
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
