import subprocess
import sys

import pytest

import cilkit


def test_every_name_is_there_and_no_other():
    assert all(getattr(cilkit, name) is not None for name in cilkit.__all__)
    assert set(cilkit.__all__) <= set(dir(cilkit))
    with pytest.raises(ImportError, match="Studdy"):
        from cilkit import Studdy  # noqa: F401


def test_a_training_need_not_wait_for_what_draws():
    # Lightning imports torchmetrics where it is installed, as for the tests, and that matplotlib
    code = (
        "import sys; sys.modules['torchmetrics'] = None; "
        "import cilkit.study; print('matplotlib' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]


def test_importing_the_package_alone_imports_nothing_heavy():
    code = "import sys, cilkit; print('torch' in sys.modules, 'cilkit.study' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
