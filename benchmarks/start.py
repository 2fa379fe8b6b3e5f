"""What `import cilkit` costs beside `import torch`."""

import subprocess
import sys

from benchmarks.timing import Row, interleaved


def imports(repeats: int = 5) -> list[Row]:
    """Fresh interpreters, in turn."""

    def run(line: str) -> None:
        subprocess.run([sys.executable, "-c", line], check=True)

    time = interleaved(
        {"torch": lambda: run("import torch"), "cilkit": lambda: run("import torch, cilkit")},
        repeats,
    )
    return [
        Row("import torch", time["torch"], "s"),
        Row("import cilkit, over import torch", time["cilkit"] - time["torch"], "s", 0.3),
        Row("import cilkit / import torch", time["cilkit"] / time["torch"], "x"),
    ]
