import gc
import importlib.util
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cilkit import provenance
from cilkit.classes import ROOT, belongs
from cilkit.losses import masked_distillation
from cilkit.methods import METHODS, Memory, Method
from cilkit.methods.lwm import balanced, confident
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


def version_of(method: Method) -> str:
    return code_version(method)["method"]


def test_what_a_method_computes_and_what_it_is_decide_its_version(tmp_path):
    mine = load_method(tmp_path / "a.py", SOURCE)
    others = [load_method(tmp_path / "b.py", SOURCE.replace("2 * t", "3 * t")), *METHODS.values()]
    changes = [
        {"name": "x"},
        {"labels": "all"},
        {"memory": Memory(balanced, 20)},
        {"memory": Memory(balanced, 21)},
        {"memory": Memory(confident, 20)},
        {"teacher": False},
        {"second_decoder": True},
        {"second_decoder": True, "freeze_encoder": True},
    ]
    others += [replace(mine, **change) for change in changes]
    assert len({version_of(method) for method in [mine, *others]}) == 1 + len(others)
    assert version_of(replace(mine, memory=Memory(balanced))) == version_of(others[-6])


def test_the_number_of_the_equation_is_free():
    assert version_of(replace(METHODS["CIL"], equation=7)) == version_of(METHODS["CIL"])


def test_all_trainings_share_a_version_beside_that_of_their_method():
    shared = {code_version(method)["shared"] for method in [None, *METHODS.values()]}
    assert len(shared) == 1
    assert code_version(None) == {"shared": shared.pop(), "method": None}


def test_the_two_forms_of_cil_differ_by_their_argument_alone():
    assert METHODS["CIL"].loss.func is METHODS["CIL (w/o weights)"].loss.func
    one = replace(METHODS["CIL"], name="same")
    other = replace(METHODS["CIL (w/o weights)"], name="same")
    assert version_of(one) != version_of(other)


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the package that a test may change, and whose code counts."""
    package = tmp_path / "cilkit"
    shutil.copytree(Path(provenance.__file__).parent, package)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    return package


@pytest.mark.parametrize("module", SHARED_CODE)
def test_code_of_the_package_counts_and_its_prose_does_not(package, module):
    before = code_version(None)
    file = package / f"{module}.py"
    source = file.read_text()
    first, rest = source.split('"""', 2)[1:]
    file.write_text(f'"""{first} And more."""\n# a comment\n{rest}\n\n# the end\n')
    assert code_version(None) == before
    file.write_text(f"{source}\nNEW = 1\n")
    assert code_version(None) != before
    assert code_version(METHODS["CIL"])["shared"] == code_version(None)["shared"]


def test_modules_that_decide_no_outcome_do_not_count(package):
    before = code_version(METHODS["CIL"])
    for name in ("runs", "tables", "claims", "study"):
        (package / f"{name}.py").write_text("")
    assert code_version(METHODS["CIL"]) == before


def test_how_a_memory_is_rated_and_chosen_counts_for_methods_that_have_one(package):
    before = {name: code_version(method) for name, method in METHODS.items()}
    file = package / "memory.py"
    file.write_text(f"{file.read_text()}\n# a comment\n")
    assert {name: code_version(method) for name, method in METHODS.items()} == before
    file.write_text(f"{file.read_text()}\nNEW = 1\n")
    after = {name: code_version(method) for name, method in METHODS.items()}
    assert {name for name in METHODS if after[name] != before[name]} == {"LWM"}
    assert after["LWM"]["shared"] == before["LWM"]["shared"]


def test_a_method_with_a_function_written_on_the_spot_has_a_version():
    method = Method(
        "mine", equation=1, loss=lambda step: {"ce": step.logits.sum()}, teacher=False
    )  # fmt: skip
    other = Method(
        "mine", equation=1, loss=lambda step: {"ce": step.logits.mean()}, teacher=False
    )  # fmt: skip
    assert code_version(method) == code_version(method) != code_version(other)


def the_first(first: int) -> Method:
    def rule(counts, confidence, size, generator):
        return list(range(first, first + size))

    return replace(METHODS["LWM"], memory=Memory(rule, 3))


def test_a_rule_of_a_memory_belongs_to_the_version_of_its_method():
    assert version_of(the_first(0)) == version_of(the_first(0)) != version_of(the_first(1))


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


CALLING = """
from cilkit import METHODS, Method

CIL = METHODS["CIL"]

def loss(step):
    return {"mkd": 0.5 * METHODS["CIL"].loss(step)["mkd"], "ce": CIL.loss(step)["ce"]}

MINE = Method("mine", 9, loss)
METHODS_TOO = {"mine": MINE}
"""


def test_a_loss_that_calls_another_method_has_the_same_version_in_every_process(tmp_path):
    here = version_of(load_method(tmp_path / "a.py", CALLING))
    script = f"{CALLING}\nfrom cilkit.provenance import code_version\nprint(code_version(MINE))"
    (tmp_path / "b.py").write_text(script)
    done = subprocess.run(
        [sys.executable, tmp_path / "b.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"'method': '{here}'" in done.stdout


def test_a_method_that_a_loss_calls_belongs_to_its_version(tmp_path):
    one = version_of(load_method(tmp_path / "a.py", CALLING))
    other = CALLING.replace('CIL = METHODS["CIL"]', 'CIL = METHODS["CIL (w/o weights)"]')
    assert one != version_of(load_method(tmp_path / "b.py", other))


def test_a_loss_may_refer_to_its_own_method(tmp_path):
    itself = CALLING.replace("0.5 *", 'len(METHODS_TOO["mine"].name) *')
    one = version_of(load_method(tmp_path / "a.py", itself))
    assert one == version_of(load_method(tmp_path / "b.py", itself))
    assert one != version_of(load_method(tmp_path / "c.py", CALLING))


def test_a_loss_without_a_source_is_refused():
    scope = {"__name__": "pasted"}
    exec("def loss(step):\n    return {}", scope)
    with pytest.raises(ValueError, match="source of loss cannot be read.*notebook cell or in a f"):
        code_version(Method("mine", 1, scope["loss"]))


@pytest.fixture
def turns():
    """Other threads have their turn whenever memory is tidied up, and that is often."""

    def turn(phase, info):
        time.sleep(0.0002)

    before = gc.get_threshold()
    gc.callbacks.append(turn)
    gc.set_threshold(500)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(turn)


def test_threads_may_ask_for_the_version_at_the_same_time(turns):
    with ThreadPoolExecutor(4) as threads:
        versions = list(threads.map(code_version, [None] * 4))
    assert versions == [code_version(None)] * 4
