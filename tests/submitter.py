"""A cluster in miniature, for the tests: jobs run in processes that their submitter does not own.

python submitter.py FOLDER submit [more of Snakemake's] SCRIPT     prints the number of the job
python submitter.py FOLDER status NUMBER                           running, success or failed
"""

import subprocess
import sys
from pathlib import Path


def submit(folder: Path, script: str) -> int:
    """Start a script in a session of its own, which outlives us and leaves its exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.sh"))) + 1
    job = folder / f"{number}.sh"
    job.write_bytes(Path(script).read_bytes())  # as clusters do
    output = (folder / f"{number}.out").open("wb")
    command = 'sh "$1.sh"; echo $? > "$1.tmp"; mv "$1.tmp" "$1.status"'
    subprocess.Popen(
        ["sh", "-c", command, "job", folder / str(number)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    return number


def status(folder: Path, number: str) -> str:
    left = folder / f"{number}.status"
    if not left.is_file():
        return "running"
    return "success" if left.read_text().strip() == "0" else "failed"


if __name__ == "__main__":
    folder, act, *words = sys.argv[1:]
    print({"submit": submit, "status": status}[act](Path(folder), words[-1]))
