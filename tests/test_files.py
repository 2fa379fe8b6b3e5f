import subprocess
import sys
from pathlib import Path

import pytest

from cilkit.files import ROOT, write_atomic


def test_a_file_is_there_whole_or_as_it_was_before(tmp_path, monkeypatch):
    file = tmp_path / "table.csv"
    write_atomic(file, b"first")
    real = Path.write_bytes

    def half(path, content):
        real(path, content[:2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "write_bytes", half)
        write_atomic(file, b"second")
    assert file.read_bytes() == b"first" and list(tmp_path.iterdir()) == [file]
    write_atomic(file, b"second")
    assert file.read_bytes() == b"second" and list(tmp_path.iterdir()) == [file]


def test_a_home_that_is_a_file_is_named(tmp_path):
    home = tmp_path / "notes.txt"
    home.touch()
    command = [sys.executable, "-c", "import cilkit.files"]
    done = subprocess.run(
        command, cwd=ROOT, env={"CILKIT_HOME": str(home)}, capture_output=True, text=True
    )
    assert f"CILKIT_HOME is '{home}', which is a file; wanted a folder" in done.stderr
