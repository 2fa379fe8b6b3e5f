"""Which definitions of the package a function depends on, read from the source, by name.

A run records the code that made it (`cilkit.study.provenance`). Only what the code computes counts.
A function that moves to another file, another import, a docstring, a comment, an annotation, the
text of an error or of a printed line changes nothing; a constant or an operator does.
"""

import ast
import hashlib
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from threading import Lock

PARSING = Lock()  # two threads that parse at once break ast.parse of Python 3.11
SAYS = ("print", "warn")  # functions that only tell the reader something

Place = tuple[str, str]  # module, and the name of a definition at its top level


class Definitions:
    """All functions, classes and constants at the top level of a package's modules."""

    def __init__(self, package: Path, leave_out: Collection[str] = ()):
        """`leave_out` are definitions that decide nothing, such as checks and what is recorded."""
        self._left_out = set(leave_out)
        self._code: dict[Place, str] = {}
        self._versions: dict[tuple[str, ...], str] = {}
        self._found: dict[Place, ast.AST] = {}
        self._imported: dict[Place, Place] = {}  # (module, name) -> where the name is from
        self._modules = {_module(file, package): file for file in sorted(package.rglob("*.py"))}
        for module, file in self._modules.items():
            tree = parse(file.read_text(encoding="utf-8"))
            is_package = file.name == "__init__.py"
            self._found |= {(module, name): node for node in tree.body for name in _names(node)}
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom):
                    source = _absolute(node, module, is_package)
                    for alias in node.names:
                        here = (module, alias.asname or alias.name)
                        self._imported[here] = (source, alias.name)

    def version(self, *names: str) -> str:
        """A hash of these definitions and of all in the package that they refer to, in turn.

        Raises ValueError for a name that no module, or more than one, defines.
        """
        if names not in self._versions:  # each run of a study asks for the same ones
            digest = hashlib.sha256()
            for name, code in self.closure(*names):
                digest.update(f"{name}\n{code}\n".encode())
            self._versions[names] = digest.hexdigest()[:16]
        return self._versions[names]

    def closure(self, *names: str) -> list[tuple[str, str]]:
        """The definitions that `version` hashes: each name, and its code without the prose."""
        todo = [self._place(name) for name in names]
        seen: dict[Place, str] = {}
        while todo:
            place = todo.pop()
            if place not in seen and place[1] not in self._left_out:
                if place not in self._code:
                    self._code[place] = without_prose(self._found[place])
                seen[place] = self._code[place]
                todo += self._referred(place)
        return sorted((name, code) for (_, name), code in seen.items())

    def _place(self, name: str) -> Place:
        places = [place for place in self._found if place[1] == name]
        if len(places) != 1:
            where = ", ".join(module for module, _ in places) or "no module"
            raise ValueError(f"{name} is defined in {where}; wanted exactly one module")
        return places[0]

    def _referred(self, place: Place) -> Iterator[Place]:
        """The definitions that one refers to, in annotations too, but not in error texts."""
        module, _ = place
        for node in _walk(self._found[place]):
            found = None
            if isinstance(node, ast.Name):
                found = self._resolve(module, node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                of = self._imported.get((module, node.value.id))  # such as a module of the package
                if of is not None and ".".join(of) in self._modules:
                    found = self._resolve(".".join(of), node.attr)
            if found is not None:
                yield found

    def _resolve(self, module: str, name: str) -> Place | None:
        """Where a name that a module uses is defined; None if that is not in the package."""
        while (module, name) not in self._found:
            if (module, name) not in self._imported:
                return None
            module, name = self._imported[(module, name)]
        return module, name


@cache
def parse(source: str) -> ast.Module:
    """The syntax tree of a source; not to be changed."""
    with PARSING:
        return ast.parse(source)


def _module(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    above = parts[: len(parts) - node.level + is_package]
    return ".".join([*above, *([node.module] if node.module else [])])


def _names(node: ast.stmt) -> list[str]:
    """The names that a statement at the top level of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [part.id for t in targets if t for part in ast.walk(t) if isinstance(part, ast.Name)]


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, without docstrings, printed lines and error texts.

    Quoted annotations are parsed.
    """
    yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _only_says(child):
                continue
            quoted = name in ("annotation", "returns") and isinstance(child, ast.Constant)
            if quoted and isinstance(child.value, str):
                child = parse(child.value)
            if isinstance(child, ast.Raise | ast.Call) and (kind := _error(child)) is not None:
                child = kind
            yield from _walk(child)


def _only_says(node: ast.AST) -> bool:
    """Whether a statement is a docstring, or only prints or warns."""
    if not isinstance(node, ast.Expr):
        return False
    if isinstance(node.value, ast.Constant):
        return True
    called = node.value.func if isinstance(node.value, ast.Call) else None
    return getattr(called, "id", getattr(called, "attr", None)) in SAYS


def _error(node: ast.Raise | ast.Call) -> ast.expr | None:
    """The kind of error that is raised or made, without its text; None if it is no error."""
    called = node.exc if isinstance(node, ast.Raise) else node
    if not isinstance(called, ast.Call) or not isinstance(called.func, ast.Name):
        return None
    is_error = isinstance(node, ast.Raise) or called.func.id.endswith("Error")
    return called.func if is_error else None


def without_prose(node: ast.AST) -> str:
    """The code of a definition as text, without all that does not decide what it computes."""
    return _as_text(_Plain().visit(parse_again(node)))


def _as_text(node: object) -> str:
    """A syntax tree as `ast.dump` of Python 3.11 writes it, in every version of Python.

    Later ones leave out empty lists and have type parameters, and a run must match in all of them.
    """
    if isinstance(node, list):
        return f"[{', '.join(map(_as_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = {name: getattr(node, name, None) for name in node._fields}
    written = [
        f"{name}={_as_text(part)}"
        for name, part in parts.items()
        if (part is not None or getattr(type(node), name, ...) is not None)  # None, if optional
        and (name, part) != ("type_params", [])
    ]
    return f"{type(node).__name__}({', '.join(written)})"


def parse_again(node: ast.AST) -> ast.AST:
    """A copy of a syntax tree, to be changed."""
    with PARSING:
        return ast.parse(ast.unparse(node))


class _Plain(ast.NodeTransformer):
    """Leaves out imports, docstrings, annotations, printed lines and the texts of errors."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if getattr(node, "body", ...) == []:
            node.body = [ast.Pass()]
        return node

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _only_says(node) else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        kind = _error(node)
        return node if kind is None else ast.Raise(kind)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        kind = _error(node)
        return self.generic_visit(node) if kind is None else ast.Call(kind, [], [])

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)
