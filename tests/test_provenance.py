import ast
import gc
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from types import ModuleType

import pytest

from cilkit.classes import belongs
from cilkit.files import ROOT
from cilkit.losses import masked_distillation
from cilkit.methods import LATER_METHODS, METHODS, Memory, Method
from cilkit.methods.cil import cil_loss
from cilkit.methods.lwm import balanced, confident
from cilkit.networks import NETWORKS
from cilkit.study import provenance
from cilkit.study.definitions import Definitions, without_prose
from cilkit.study.provenance import LEFT_OUT, TRAINING, code_version


def load_method(file: Path, source: str) -> Method:
    file.write_text(source)
    return load_module(file).MINE


def load_module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert code_version(None) == {"shared": shared.pop(), "method": None, "network": None}


NETWORK = '''
from torch import nn
from cilkit.networks import Segmenter

class Net(Segmenter):
    """Prose."""
    def new_encoder(self):
        return nn.Conv2d(3, 4, 1)
    def new_decoder(self, classes):
        return nn.Conv2d(4, classes, 1)  # small
'''


def test_a_network_of_your_own_has_a_version_and_those_of_the_kit_are_in_the_shared_one(
    tmp_path, monkeypatch
):
    def version(name: str, source: str) -> dict:
        (tmp_path / name).write_text(source)
        monkeypatch.setitem(NETWORKS, "mine", load_module(tmp_path / name).Net)
        return code_version(None, "mine")

    mine = version("a.py", NETWORK)
    assert mine["network"] is not None and mine["shared"] == code_version(None)["shared"]
    assert version("b.py", NETWORK.replace("Prose", "Words").replace("# small", "# tiny")) == mine
    assert version("c.py", NETWORK.replace("3, 4, 1", "3, 4, 3")) != mine
    assert code_version(None, "LRASPP")["network"] is None


def test_the_code_of_every_network_of_the_kit_decides(package):
    before = versions(package)["shared"]
    change(package, "LOW, HIGH, INNER = 40, 960, 128", "LOW, HIGH, INNER = 40, 960, 64")
    assert versions(package)["shared"] != before


def test_the_two_forms_of_cil_differ_by_their_argument_alone():
    assert METHODS["CIL"].loss.func is METHODS["CIL (w/o weights)"].loss.func
    one = replace(METHODS["CIL"], name="same")
    other = replace(METHODS["CIL (w/o weights)"], name="same")
    assert version_of(one) != version_of(other)


def definitions(package: Path) -> Definitions:
    return Definitions(package, LEFT_OUT)


SYNTAX = """
@decorate(3)
def each(a, /, b=1, *c, d: int = 2, **e) -> "None":
    '''Prose.'''
    f: list[int] = [-1.5, *c]
    with open(f"{a!r:>{b}} {d}") as g, h:
        k = lambda: None
    try:
        return {**e, "x": (yield)}, {x for x in c if x}, b"y", 1j, ...
    except* (OSError, ValueError) as error:
        raise KeyError("text") from error
    match a:
        case [1, *_] | {"z": None} if b:
            pass
"""


def test_the_version_of_a_definition_is_that_of_every_other_version_of_python():
    text = without_prose(ast.parse(SYNTAX).body[0])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "7563d8be8fb232c8"


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package that a test may change."""
    package = tmp_path / "cilkit"
    shutil.copytree(ROOT / "cilkit", package, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def versions(package: Path) -> dict[str, str]:
    """The version of all that a training computes, and those of the losses of the kit."""
    found, losses = definitions(package), [_loss_name(method) for method in METHODS.values()]
    return {"shared": found.version(*TRAINING)} | {name: found.version(name) for name in losses}


def _loss_name(method: Method) -> str:
    return getattr(method.loss, "func", method.loss).__name__


def change(package: Path, old: str, new: str) -> None:
    """Replace the only place in the package that has this text."""
    (file,) = [file for file in package.rglob("*.py") if old in file.read_text()]
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))


def test_the_copy_of_a_package_has_its_version(package):
    before = versions(package)
    assert before["shared"] == code_version(None)["shared"]
    assert len(set(before.values())) == len(before)


class Reworded(ast.NodeTransformer):
    """Other docstrings, error texts, printed lines and annotations, and one more import."""

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.returns = ast.Constant("object")
        node.body.insert(0, ast.Expr(ast.Constant("What it does, said anew.")))
        node.body.insert(1, ast.parse("import os").body[0])
        node.body.insert(2, ast.parse("print('working')").body[0])
        return node

    def visit_Raise(self, node):
        if isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            node.exc.args = [ast.Constant("another text")]
        return node


def test_reworded_errors_docstrings_and_printed_lines_change_no_version(package):
    before = versions(package)
    for file in package.rglob("*.py"):
        tree = Reworded().visit(ast.parse(file.read_text()))
        file.write_text(f"# a comment\n{ast.unparse(ast.fix_missing_locations(tree))}\n")
    assert versions(package) == before


def test_a_move_to_another_file_changes_no_version(package):
    before = versions(package)
    file = package / "losses.py"
    source = file.read_text()
    tree = ast.parse(source)
    (moved,) = [node for node in tree.body if getattr(node, "name", "") == "mean_over"]
    text = ast.get_source_segment(source, moved)
    (package / "rooms").mkdir()
    (package / "rooms" / "__init__.py").write_text("")
    (package / "rooms" / "means.py").write_text(f"from torch import Tensor\n\n\n{text}\n")
    source = source.replace(text, "from cilkit.rooms.means import mean_over")
    file.write_text(source)
    assert versions(package) == before
    file.write_text(source.replace("cilkit.rooms.means import mean_over", "cilkit import rooms"))
    (package / "rooms" / "__init__.py").write_text("from .means import mean_over\n")
    file.write_text(file.read_text().replace("mean_over(", "rooms.mean_over("))
    assert versions(package)["shared"] != before["shared"]  # cross_entropy calls it another way
    assert ("mean_over", without_prose(moved)) in definitions(package).closure("fit")


@pytest.mark.parametrize(
    ("old", "new", "counts_for"),
    [
        ("mask.sum().clamp(min=1)", "mask.sum().clamp(min=2)", "all"),  # of the losses
        ("return 100 * hits / union", "return 100 * hits / (union + 1)", "shared"),
        ("(1 - done) ** config.power", "(1 + done) ** config.power", "shared"),
        ("IN_MEMORY = 2**30", "IN_MEMORY = 2**20", "shared"),
        ("y = F.relu(self.conv3x1_1(x))", "y = F.gelu(self.conv3x1_1(x))", "shared"),
        ("entr(y).sum(dim=1)", "entr(y).mean(dim=1)", "cil_loss"),
        ("not_new = ~belongs(", "not_new = belongs(", "cil_loss"),
        ('SAME_IN_A_TABLE = ("data",', 'SAME_IN_A_TABLE = ("DATA",', "none"),
    ],
)
def test_a_changed_constant_or_operator_changes_the_versions_that_it_decides(
    package, old, new, counts_for
):
    before = versions(package)
    change(package, old, new)
    after = versions(package)
    expected = {"all": set(before), "none": set()}.get(counts_for, {counts_for})
    assert {name for name in before if after[name] != before[name]} == expected


class Mutated(ast.NodeTransformer):
    """The first number, comparison or operator of a definition that decides something, changed."""

    OPPOSITE = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Lt: ast.Gt}

    def __init__(self):
        self.done = False

    def visit(self, node):
        if self.done or isinstance(node, ast.Raise | ast.arg):
            return node
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            self.done, node.value = True, node.value + 1
        elif isinstance(node, ast.BinOp) and type(node.op) in self.OPPOSITE:
            self.done, node.op = True, self.OPPOSITE[type(node.op)]()
        return self.generic_visit(node)


def test_every_number_and_operator_in_a_definition_that_counts_is_in_its_version():
    closure = definitions(ROOT / "cilkit").closure(*TRAINING, *map(_loss_name, METHODS.values()))
    sources = {}
    for file in (ROOT / "cilkit").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            sources.setdefault(getattr(node, "name", None), []).append(node)
    changed = 0
    for name, code in closure:
        for node in sources.get(name, []):
            if without_prose(node) == code:
                mutation = Mutated()
                mutated = mutation.visit(node)
                assert (without_prose(mutated) != code) == mutation.done, name
                changed += mutation.done
    assert changed > 40


def test_what_is_left_out_is_there():
    sources = [file.read_text() for file in (ROOT / "cilkit").rglob("*.py")]
    for name in LEFT_OUT:
        assert any(f"\ndef {name}(" in s or f"\nclass {name}:" in s for s in sources), name


def test_how_a_memory_is_rated_and_chosen_counts_for_methods_that_have_one(package, monkeypatch):
    before = {name: code_version(method) for name, method in METHODS.items()}
    change(package, 'derive_seed(seed, "memory")', 'derive_seed(seed, "memories")')
    changed = definitions(package)
    monkeypatch.setattr(provenance, "package_code", lambda: changed)
    after = {name: code_version(method) for name, method in METHODS.items()}
    assert {name for name in METHODS if after[name] != before[name]} == {"LWM"}
    assert after["LWM"]["shared"] == before["LWM"]["shared"]


def test_what_a_method_of_the_kit_prepares_counts_for_it_alone(package, monkeypatch):
    known = METHODS | LATER_METHODS
    before = {name: code_version(method) for name, method in known.items()}
    change(package, "BINS = 1000", "BINS = 999")  # of the median entropies
    change(package, "math.log(len(sharing))", "math.log(1 + len(sharing))")  # of new channels
    changed = definitions(package)
    monkeypatch.setattr(provenance, "package_code", lambda: changed)
    after = {name: code_version(method) for name, method in known.items()}
    assert {name for name in known if after[name] != before[name]} == {"MiB", "PLOP"}


def test_a_name_of_two_definitions_is_refused(package):
    (package / "twin.py").write_text("def fit():\n    pass\n")
    with pytest.raises(ValueError, match="fit is defined in .*, cilkit.twin; wanted exactly one"):
        definitions(package).version("fit")
    with pytest.raises(ValueError, match="fitt is defined in no module"):
        definitions(package).version("fitt")


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


def prepared(factor: float) -> Method:
    def prepare(context):
        scale = factor * context.over_images(lambda answers: len(list(answers)))
        return lambda step: {"ce": scale * step.logits.sum()}

    return Method("prepared", equation=9, prepare=prepare)


def test_how_a_loss_is_prepared_belongs_to_the_version_of_its_method():
    assert version_of(prepared(1.0)) == version_of(prepared(1.0)) != version_of(prepared(2.0))


@pytest.mark.parametrize("needs", [{"features": ("encoder",)}, {"hidden": True}])
def test_what_a_method_is_shown_belongs_to_its_version(needs):
    assert version_of(replace(METHODS["CIL"], **needs)) != version_of(METHODS["CIL"])


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


STATEFUL = """
import torch
from torch import nn
from cilkit import METHODS, Method

FACTOR = {factor}

class Kept:
    scale = {scale}

    def __init__(self, factor):
        self.factor, self.table = factor, {{"a": torch.full((3,), float(factor))}}

    def loss(self, step):
        return {{"ce": self.factor * self.scale * sum(half(x) for x in step.logits.sum())}}

    def __call__(self, step):
        return self.loss(step)

def half(x):
    return {half} * x

class Learned(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        nn.init.constant_(self.linear.weight, factor)
        nn.init.zeros_(self.linear.bias)

    def forward(self, step):
        return {{"ce": self.linear.weight.sum() * step.logits.sum()}}

def with_default(step, factor=FACTOR):
    return {{"ce": factor * sum(half(x) for x in step.logits.sum())}}

FORMS = {{
    "bound": Kept(FACTOR).loss,
    "callable": Kept(FACTOR),
    "module": Learned(FACTOR),
    "default": with_default,
}}
MINE = Method("mine", 1, FORMS["{form}"])
"""


def stateful(form: str, factor=1, scale=1, half=0.5) -> str:
    return STATEFUL.format(form=form, factor=factor, scale=scale, half=half)


@pytest.mark.parametrize("form", ["bound", "callable", "module", "default"])
def test_a_loss_with_a_state_has_one_version_for_each_state(tmp_path, form):
    one = version_of(load_method(tmp_path / "a.py", stateful(form)))
    assert one == version_of(load_method(tmp_path / "b.py", stateful(form)))
    others = [version_of(load_method(tmp_path / "c.py", stateful(form, factor=2)))]
    if form != "module":
        others.append(version_of(load_method(tmp_path / "d.py", stateful(form, half=0.25))))
    if form in ("bound", "callable"):
        others.append(version_of(load_method(tmp_path / "e.py", stateful(form, scale=2))))
    assert one not in others and len(set(others)) == len(others)


def test_a_loss_with_a_state_or_another_method_has_the_same_version_in_every_process(tmp_path):
    sources = {"calling": CALLING} | {form: stateful(form) for form in ("bound", "module")}
    here, scripts = {}, []
    for form, source in sources.items():
        here[form] = version_of(load_method(tmp_path / f"{form}.py", source))
        scripts.append(tmp_path / f"{form}_elsewhere.py")
        said = f'print("{form}", code_version(MINE)["method"])'
        scripts[-1].write_text(
            f"{source}\nfrom cilkit.study.provenance import code_version\n{said}\n"
        )
    each = "import runpy, sys; [runpy.run_path(file, None, '__main__') for file in sys.argv[1:]]"
    done = subprocess.run(
        [sys.executable, "-c", each, *scripts], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert dict(line.split() for line in done.stdout.splitlines()) == here


def test_a_loss_that_holds_what_cannot_be_recorded_is_refused():
    def loss(step, lock=Lock()):  # noqa: B008
        return {"ce": step.logits.sum()}

    with pytest.raises(ValueError, match="refers to <unlocked .*, and a run must remember what it"):
        code_version(Method("mine", 1, loss))


def test_a_loss_of_the_kit_that_is_called_directly_counts_with_what_it_computes(
    package, monkeypatch
):
    mine = Method("mine", 9, lambda step: cil_loss(step, weighted=True))
    before = version_of(mine)
    change(package, "entr(y).sum(dim=1)", "entr(y).mean(dim=1)")
    changed = definitions(package)
    monkeypatch.setattr(provenance, "package_code", lambda: changed)
    assert version_of(mine) != before


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
