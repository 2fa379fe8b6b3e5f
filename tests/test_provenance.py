import importlib.util
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cilkit import provenance
from cilkit.classes import belongs
from cilkit.losses import masked_distillation
from cilkit.methods import METHODS, Method
from cilkit.provenance import SHARED_CODE, code_version


def load_method(file: Path, source: str) -> Method:
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MINE


SOURCE = '''
from cilkit.methods import Method

def loss(step):
    """What it does."""
    total = step.logits.sum()  # why
    return {"ce": 2 * total}

MINE = Method("mine", 1, loss)
'''


def test_comments_docstrings_and_layout_of_a_method_are_free(tmp_path):
    version = code_version(load_method(tmp_path / "a.py", SOURCE))
    prose = SOURCE.replace("What it does.", "Said better.").replace("  # why", "")
    layout = SOURCE.replace("2 * total}", "2\n    * total,\n    }").replace("def", "\n\n\ndef")
    plain = SOURCE.replace('    """What it does."""\n', "")
    for k, source in enumerate((prose, layout, plain)):
        assert source != SOURCE
        assert code_version(load_method(tmp_path / f"b{k}.py", source)) == version


def test_what_a_method_computes_and_what_it_is_decide_its_version(tmp_path):
    mine = load_method(tmp_path / "a.py", SOURCE)
    versions = {code_version(mine), code_version(None)}
    versions.add(code_version(load_method(tmp_path / "b.py", SOURCE.replace("2 * t", "3 * t"))))
    versions |= {code_version(replace(mine, **{field: True})) for field in ("second_decoder",)}
    versions |= {code_version(replace(mine, teacher=False)), code_version(replace(mine, name="x"))}
    versions |= {code_version(method) for method in METHODS.values()}
    assert len(versions) == 6 + len(METHODS)


def test_the_two_forms_of_cil_differ_by_their_argument_alone():
    assert METHODS["CIL"].loss.func is METHODS["CIL (w/o weights)"].loss.func
    one = replace(METHODS["CIL"], name="same")
    other = replace(METHODS["CIL (w/o weights)"], name="same")
    assert code_version(one) != code_version(other)


@pytest.mark.parametrize("module", SHARED_CODE)
def test_code_of_the_package_counts_and_its_prose_does_not(tmp_path, monkeypatch, module):
    package = tmp_path / "cilkit"
    shutil.copytree(Path(provenance.__file__).parent, package)
    before = code_version(None)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert code_version(None) == before
    file = package / f"{module}.py"
    source = file.read_text()
    first, rest = source.split('"""', 2)[1:]
    file.write_text(f'"""{first} And more."""\n# a comment\n{rest}\n\n# the end\n')
    assert code_version(None) == before
    file.write_text(f"{source}\nNEW = 1\n")
    assert code_version(None) != before


def test_modules_that_decide_no_outcome_do_not_count(tmp_path, monkeypatch):
    package = tmp_path / "cilkit"
    shutil.copytree(Path(provenance.__file__).parent, package)
    before = code_version(METHODS["CIL"])
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    for name in ("runs", "tables", "study"):
        (package / f"{name}.py").write_text("")
    assert code_version(METHODS["CIL"]) == before


def test_a_method_with_a_function_written_on_the_spot_has_a_version():
    method = Method(
        "mine", equation=1, loss=lambda step: {"ce": step.logits.sum()}, teacher=False
    )  # fmt: skip
    other = Method(
        "mine", equation=1, loss=lambda step: {"ce": step.logits.mean()}, teacher=False
    )  # fmt: skip
    assert code_version(method) == code_version(method) != code_version(other)


def scaled(factor: float) -> Method:
    def loss(step):
        return {"ce": factor * step.logits.sum()}

    return Method("scaled", equation=1, loss=loss)


def test_a_value_that_a_loss_closes_over_belongs_to_its_version():
    assert code_version(scaled(1.0)) == code_version(scaled(1.0))
    assert code_version(scaled(1.0)) != code_version(scaled(2.0))


def masked(step, mask) -> dict:
    return {"kd": masked_distillation(step.logits.log_softmax(1), step.teacher, mask(step))}


def everywhere(step):
    return ~belongs(step.labels, slice(0, 0))


def test_a_function_may_be_an_argument_of_a_loss():
    one = code_version(Method("mine", 7, partial(masked, mask=everywhere)))
    assert one == code_version(Method("mine", 7, partial(masked, mask=everywhere)))


HELPED = """
from cilkit.methods import Method

def factor():
    return 2

def loss(step):
    return {"ce": factor() * step.logits.sum()}

MINE = Method("mine", 1, loss)
"""


def test_a_function_that_a_loss_calls_belongs_to_its_version(tmp_path):
    one = code_version(load_method(tmp_path / "a.py", HELPED))
    assert one == code_version(load_method(tmp_path / "b.py", HELPED))
    assert one != code_version(
        load_method(tmp_path / "c.py", HELPED.replace("return 2", "return 3"))
    )
