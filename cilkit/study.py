"""A study: one data set, preset and seed, and its runs, loaded where they exist, else trained."""

import ast
import hashlib
import inspect
import platform
import textwrap
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from cilkit import runs
from cilkit.classes import Split, Stage
from cilkit.datasets import open_data, resolve
from cilkit.methods import Method, get_method
from cilkit.runs import Run
from cilkit.train import (
    TrainConfig,
    evaluate,
    fit,
    fit_stage,
    get_config,
    make_fabric,
    used_precision,
)

# what a training computes depends on these modules, besides the file of its method
SHARED_CODE = ("classes", "datasets", "transforms", "erfnet", "losses", "metrics", "train")


class Study:
    """What every notebook opens first: the data, the configuration, and the folder of the runs.

        study = Study("toyscapes", "data/runs", "quick", seed=0)
        study.run("T1")          the model of stage T1
        study.run("T2")          single-stage training (SS) with the classes up to T2
        study.run("T2", "CIL")   CIL in stage T2; its teacher is study.run("T1")

    Relative paths start at the project folder. Runs lie in RUNS/<data>/<preset>/seed<k>/.
    """

    def __init__(
        self,
        data: str | Path = "toyscapes",
        runs: str | Path = "data/runs",
        preset: str = "quick",
        seed: int = 0,
        **changes: object,
    ):
        """`changes` replace fields of the preset's configuration, such as epochs=5.

        Give changed studies a folder of their own: runs that differ from what is asked for
        are set aside and trained again.
        """
        self.config: TrainConfig = replace(get_config(preset), **changes)
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"SEED is {seed!r}; wanted a whole number from 0")
        self.preset, self.seed = preset, seed
        self.data = open_data(data)
        self.folder = resolve(runs) / self.data.name / preset / f"seed{seed}"

    @property
    def split(self) -> Split:
        return self.data.split

    def stage(self, name: str) -> Stage:
        """The stage called `name`, such as "T2"."""
        return self.split.stage(name)

    def run(self, stage: str, method: str | Method = "SS") -> Run:
        """The run of a method in a stage: loaded if one matches, trained if not.

        A run matches if data, split, configuration, seed, teacher and the code that trained it
        are the same. One that does not is set aside, after saying in what it differs.
        """
        at = self.stage(stage)
        if at.number == 1 or method == "SS":
            return self._run(at, "SS" if at.number > 1 else at.name, None, None)
        method = get_method(method) if isinstance(method, str) else method
        teacher = self.run(self.split.before(at).name, method)
        return self._run(at, method.name, method, teacher)

    def exists(self, stage: str, method: str = "SS") -> bool:
        """Whether a finished run lies in the folder, without asking whether it matches."""
        return runs.is_finished(self.folder / runs.run_name(self.stage(stage), method))

    def _run(self, stage: Stage, name: str, method: Method | None, teacher: Run | None) -> Run:
        config = self._describe(stage, name, method, teacher)
        folder = self.folder / runs.run_name(stage, name)
        if runs.is_finished(folder):
            found = runs.load(folder)
            if not (differences := _differences(found.config, config)):
                return found
            moved = runs.set_aside(found)
            print(f"{folder.name} was trained with other {', '.join(differences)}: training again.")
            print(f"The old run lies in {moved}.")
        height = self.config.height
        if teacher is None:
            images = self.data.single_stage(stage.name, height)
            network, history = fit(images, self.config, self.seed, runs.run_name(stage, name))
        else:
            images = self.data.stage(stage.name, height=height)
            network, history = fit_stage(
                method, images, stage, teacher.network(), self.config, self.seed
            )
        test = self.data.test_set(stage.name, height)
        scores = evaluate(network, test, self.split.class_sets(stage), self.config)
        config["environment"] = self._environment()
        return runs.save(folder, network, config, history, scores, self.split)

    def _describe(
        self, stage: Stage, name: str, method: Method | None, teacher: Run | None
    ) -> dict:
        """What decides the outcome of a run, in the form in which it is saved."""
        return {
            "data": self.data.name,
            "preset": self.preset,
            "seed": self.seed,
            "method": name,
            "stage": stage.name,
            "train": _plain(asdict(self.config)),
            "split": _plain(asdict(self.split)),
            "files": self.data.fingerprint(),
            "teacher": teacher.digest() if teacher else None,
            "code": code_version(method),
        }

    def _environment(self) -> dict:
        """What a run records for the reader; it does not decide whether a run matches."""
        fabric = make_fabric(self.config)
        return {
            "cilkit": version("cilkit"),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "device": str(fabric.device),
            "precision": used_precision(self.config),
            "threads": torch.get_num_threads(),
        }


def _differences(found: dict, wanted: dict) -> list[str]:
    """Names of the fields that differ, those of `train` by their own."""
    train = [
        field
        for field in wanted["train"]
        if found.get("train", {}).get(field, ...) != wanted["train"][field]
    ]
    return train + [k for k in wanted if k != "train" and found.get(k, ...) != wanted[k]]


def code_version(method: Method | None) -> str:
    """Hash of the code that decides what a training computes; comments and docstrings are free."""
    package = Path(__file__).parent
    sources = [(package / f"{name}.py").read_text(encoding="utf-8") for name in SHARED_CODE]
    if method is not None:
        sources.append(repr((method.name, method.teacher, method.second_decoder)))
        sources.append(_source_of(method))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(_without_prose(source).encode())
    return digest.hexdigest()[:16]


def _source_of(method: Method) -> str:
    """The file of a shipped method; the function alone for one written in a notebook."""
    loss, fixed = method.loss, ""
    if isinstance(loss, partial):
        loss, fixed = loss.func, f"\n{(loss.args, sorted(loss.keywords.items()))!r}"
    module = inspect.getmodule(loss)
    if module is not None and module.__name__.startswith("cilkit."):
        return inspect.getsource(module) + fixed
    return textwrap.dedent(inspect.getsource(loss)) + fixed


def _without_prose(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[:] = body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _plain(value: object) -> object:
    """Dataclass content as JSON would give it back, so that both compare equal."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, slice):
        return [value.start, value.stop]
    return value
