"""A study: one data set, preset and seed, and its runs, loaded where they exist, else trained."""

from dataclasses import asdict, replace
from pathlib import Path

from filelock import FileLock

from cilkit import runs
from cilkit.classes import Split, Stage
from cilkit.datasets import open_data, resolve
from cilkit.methods import Method, get_method
from cilkit.provenance import code_version, environment
from cilkit.runs import Run
from cilkit.train import TrainConfig, evaluate, fit, fit_stage, get_config


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
        if isinstance(method, str) and method != "SS":
            method = get_method(method)
        if at.number == 1 or method == "SS":
            return self._run(at, "SS" if at.number > 1 else at.name, None, None)
        teacher = self.run(self.split.before(at).name, method)
        return self._run(at, method.name, method, teacher)

    def exists(self, stage: str, method: str = "SS") -> bool:
        """Whether a finished run lies in the folder, without asking whether it matches."""
        return runs.is_finished(self.folder / runs.run_name(self.stage(stage), method))

    def _run(self, stage: Stage, name: str, method: Method | None, teacher: Run | None) -> Run:
        config = self._describe(stage, name, method, teacher)
        folder = self.folder / runs.run_name(stage, name)
        if (found := self._matching(folder, config)) is not None:
            return found
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):  # freed by the system if we crash
            if (found := self._matching(folder, config)) is not None:
                return found  # another process has trained it while we waited
            if runs.is_finished(folder):
                differences = ", ".join(_differences(runs.load(folder).config, config))
                print(f"{folder.name} was trained with other {differences}: training again.")
                print(f"The old run lies in {runs.set_aside(folder)}.")
            return self._train(folder, config, stage, method, teacher)

    def _matching(self, folder: Path, config: dict) -> Run | None:
        """The run in a folder, if it is there and nothing that decides its outcome differs."""
        if not runs.is_finished(folder):
            return None
        found = runs.load(folder)
        return None if _differences(found.config, config) else found

    def _train(
        self, folder: Path, config: dict, stage: Stage, method: Method | None, teacher: Run | None
    ) -> Run:
        height = self.config.height
        if teacher is None:
            images = self.data.single_stage(stage.name, height)
            network, history = fit(images, self.config, self.seed, folder.name)
        else:
            images = self.data.stage(stage.name, height=height)
            network, history = fit_stage(
                method, images, stage, teacher.network(), self.config, self.seed
            )
        test = self.data.test_set(stage.name, height)
        scores = evaluate(network, test, self.split.class_sets(stage), self.config)
        config["environment"] = environment(self.config)
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
            "train": _plain(asdict(replace(self.config, workers=0))),  # they change no weight
            "split": _plain(asdict(self.split)),
            "files": self.data.fingerprint(),
            "teacher": teacher.digest() if teacher else None,
            "code": code_version(method),
        }


def _differences(found: dict, wanted: dict) -> list[str]:
    """Names of the fields that differ, those of `train` by their own."""
    train = [
        field
        for field in wanted["train"]
        if found.get("train", {}).get(field, ...) != wanted["train"][field]
    ]
    return train + [k for k in wanted if k != "train" and found.get(k, ...) != wanted[k]]


def _plain(value: object) -> object:
    """Dataclass content as JSON would give it back, so that both compare equal."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, slice):
        return [value.start, value.stop]
    return value
