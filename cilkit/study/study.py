"""A study: one data set, preset and seed, and its runs, loaded where they exist, else trained.

    python -m cilkit.study T3 CIL DATA=toyscapes PRESET=paper SEED=1

does the same for one run; see `cilkit.study.__main__`.
"""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from cilkit import files
from cilkit.checks import check_path, check_seed
from cilkit.classes import Split, Stage, channels_of
from cilkit.data.images import LabelledImages
from cilkit.data.label_check import check_labels
from cilkit.data.scenes import open_data
from cilkit.files import resolve
from cilkit.methods import NEW_TEACHER, SS, Method, get_method, trainable
from cilkit.study import runs
from cilkit.study.parameters import check_injected
from cilkit.study.plan import PlannedRun, plan, planned_run, run_name
from cilkit.study.provenance import code_version, environment, plain, settings
from cilkit.study.runs import Run
from cilkit.training import distributed
from cilkit.training.checkpoint import FileCheckpoint
from cilkit.training.config import TrainConfig, differences, get_config
from cilkit.training.evaluation import evaluate, make_fabric
from cilkit.training.loop import Monitor
from cilkit.training.memory import check_size, choose, rate
from cilkit.training.stage import fit, fit_stage
from cilkit.training.timing import decided, timed

SAME_FOR_ALL_METHODS = ("data", "preset", "seed", "train", "split", "files")
# what a network disk answers that does not know flock(2)
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


class Study:
    """What every notebook opens first: the data, the configuration, and the folder of the runs.

        study = Study("toyscapes", "data/runs", "quick", seed=0)
        study.run("T1")          the model of stage T1
        study.run("T2")          single-stage training (SS) with the classes up to T2
        study.run("T2", "CIL")   CIL in stage T2; its teacher is study.run("T1")
        study.run("T2", "MiB")   MiB, PLOP and ILT are not the paper's
        study.memory("T1")       the images of T1 that LWM remembers

    Relative paths start at the project folder. Runs lie in RUNS/<data>/<preset>/seed<k>/.
    Under torchrun all processes call the same methods. Rank 0 alone decides whether a run is there,
    prints, and writes; all ranks read DATA and RUNS.
    """

    def __init__(
        self,
        data: str | Path = "toyscapes",
        runs: str | Path = "data/runs",
        preset: str = "quick",
        seed: int = 0,
        show: Callable[[str, pd.DataFrame], None] | None = None,
        **changes: object,
    ):
        """`changes` replace fields of the preset's configuration, such as epochs=5.

        Give changed studies a folder of their own: runs that differ from what is asked for
        are set aside and trained again. show(name, history) is called after each epoch of each
        training, such as `widgets.show_training()`.
        """
        check_injected()
        check_seed(seed)
        check_path("RUNS", runs)
        self.config: TrainConfig = get_config(preset, **changes)
        self.settings = settings(self.config)  # as its runs record them
        self.preset, self.seed, self.show = preset, seed, show
        if distributed.launched_world_size() > 1:
            make_fabric(self.config)  # connects them, before anything takes time
        self.data = distributed.on_rank0(partial(open_data, data))
        plan(self.split)  # a ValueError if two runs would share a folder
        self.folder = resolve(runs) / self.data.name / preset / f"seed{seed}"
        check_folder(runs, self.folder)
        self.config = distributed.on_rank0(self._decided)

    def _decided(self) -> TrainConfig:
        """The precision and the memory format of the runs there are; else as far as is known."""
        return decided(self.config, runs.environments(self.folder))

    @property
    def split(self) -> Split:
        return self.data.split

    def stage(self, name: str) -> Stage:
        """The stage called `name`, such as "T2"."""
        return self.split.stage(name)

    def run(self, stage: str, method: str | Method = "SS") -> Run:
        """The run of a method in a stage: loaded if one matches, trained if not.

        A run matches if data, split, configuration, seed, teachers and the code that trained it
        are the same. One that does not is set aside, after saying in what it differs.
        """
        return self._run(planned_run(self.split, self.stage(stage), _as_method(method)))

    def new_teacher(self, stage: str) -> Run:
        """The second teacher of LWM: a model trained on the new classes of a stage alone."""
        return self.run(stage, NEW_TEACHER)  # of the first stage, all classes are new

    def ratings(self, stage: str, method: str | Method = "LWM") -> pd.DataFrame:
        """The ratings by which LWM chooses its memory of a stage: a row for each image."""
        model = self.run(stage, method)
        images = self._new_images(stage)
        return distributed.on_rank0(lambda: rate(images, model.network(), self.config))

    def memory(self, stage: str, method: str | Method = "LWM") -> LabelledImages:
        """The images that a method remembers of a stage, with the labels of that stage.

        Its own run in the stage rates them.
        """
        method = _as_method(method)
        if method.memory is None:
            raise ValueError(
                f"{method.name} has no memory; give it one: replace(method, memory=Memory(...))"
            )
        kept = choose(self.ratings(stage, method), method.memory, self.seed)
        return self._new_images(stage).subset(kept)

    def exists(self, stage: str, method: str = "SS") -> bool:
        """Whether a finished run lies in the folder, without asking whether it matches."""
        return runs.is_finished(self.folder / run_name(self.stage(stage), method))

    def mismatches(self) -> dict[str, list[str]]:
        """The finished runs of this study by name, each with what keeps `run` from loading it.

        That is a list of fields, empty for a run that matches. The definition of a method that this
        kit does not know is not compared.
        """
        known = {run.name: run for run in plan(self.split, trainable().values())}
        found = {run.folder.name: run for run in self.found()}
        return {
            name: differences(run.config, self._wanted(run, known.get(name), found))
            for name, run in found.items()
        }

    def found(self) -> list[Run]:
        """The finished runs of this study, without asking whether they match."""
        return [run for run in runs.find(self.folder) if run.folder.parent == self.folder]

    def _wanted(self, run: Run, planned: PlannedRun | None, found: Mapping[str, Run]) -> dict:
        """The configuration with which a run would be trained now, from the runs there are."""
        if planned is not None:
            needed = planned.models.items()
            models = {role: found[of.name] for role, of in needed if of.name in found}
            return self._describe(planned, models)
        first = self._describe(planned_run(self.split, self.split.stages[0], SS), {})
        wanted = {key: first[key] for key in SAME_FOR_ALL_METHODS}
        code, teacher = run.config.get("code"), run.config.get("teacher")
        own = code if isinstance(code, dict) else {}  # of an older kit it is one text
        wanted["code"] = own | {"shared": first["code"]["shared"]}
        digests = {None, *(model.digest() for model in found.values())}
        wanted["teacher"] = teacher if teacher in digests else "a run that is not here"
        return wanted

    def _new_images(self, stage: str) -> LabelledImages:
        return self.data.stage(stage, "new", self.config.height)

    def _run(self, planned: PlannedRun) -> Run:
        if planned.method.memory is not None:  # before anything is trained for it
            for earlier in self.split.earlier(planned.stage):
                check_size(planned.method.memory, len(self.data.images(earlier)))
        models = {role: self._run(needed) for role, needed in planned.models.items()}
        config = distributed.on_rank0(lambda: self._describe(planned, models))
        folder = self.folder / planned.name
        found, _ = distributed.on_rank0(lambda: _matching(folder, config))
        if found is not None:
            return found
        with _exclusive(folder):
            found, differ = distributed.on_rank0(lambda: _matching(folder, config))
            if found is not None:
                return found  # another process has trained it while we waited
            if differ and distributed.is_rank0():
                names = ", ".join(differ)
                print(f"{folder.name} was trained with other {names}: training again.")
            return self._train(planned, models, config, folder)

    def _train(
        self, planned: PlannedRun, models: Mapping[str, Run], config: dict, folder: Path
    ) -> Run:
        distributed.on_rank0(lambda: check_labels(self.data))
        self.config = distributed.on_rank0(lambda: timed(self._decided()))
        method, stage, height = planned.method, planned.stage, self.config.height
        labels = "all" if method.extends else method.labels  # of the classes that it has learned
        learned = stage.visible(labels)
        sets = self.split.class_sets(stage).items()
        known = set(channels_of(learned))
        sets = {task: classes for task, classes in sets if known.issuperset(channels_of(classes))}
        config["environment"] = environment(self.config) | _rounded_teachers(models, folder.name)
        checkpoint = FileCheckpoint(folder.with_name(f".{folder.name}.checkpoint"), config)
        monitored = self.data.monitor_set(stage.name, height, labels)
        observers = {"monitor": Monitor(monitored, sets, self.show), "checkpoint": checkpoint}
        images = self.data.stage(stage.name, method.labels, height, method.hidden)
        if method.images == "all":
            images = self.data.single_stage(stage.name, height)
        with _report_interrupt(checkpoint):
            if method.extends:
                earlier = self.split.earlier(stage) if method.memory is not None else ()
                network, history = fit_stage(
                    method,
                    images,
                    stage,
                    config=self.config,
                    seed=self.seed,
                    memory=[self.memory(before.name, method) for before in earlier],
                    **{role: run.network() for role, run in models.items()},
                    **observers,
                )
            else:
                network, history = fit(
                    images, self.config, self.seed, folder.name, **observers, method=method
                )
        test = self.data.test_set(stage.name, height, labels=labels)
        scores = evaluate(network, test, sets, self.config)
        result = (network, config, history, scores)
        return distributed.on_rank0(lambda: self._save(folder, checkpoint, *result))

    def _save(self, folder: Path, checkpoint: FileCheckpoint, *result: object) -> Run:
        if runs.is_finished(folder):  # not before there is a better one
            print(f"The old run lies in {files.set_aside(folder)}.")
        run = runs.save(folder, *result, self.split)
        checkpoint.remove()
        return run

    def _describe(self, planned: PlannedRun, models: Mapping[str, Run]) -> dict:
        """What decides the outcome of a run, in the form in which it is saved."""
        return {
            "data": self.data.name,
            "preset": self.preset,
            "seed": self.seed,
            "method": planned.method.name,
            "stage": planned.stage.name,
            "train": self.settings,
            "split": plain(_recorded(self.split)),
            "files": self.data.fingerprint(),
            "teacher": None,
            "new_teacher": None,
            **{role: run.digest() for role, run in models.items()},
            "code": code_version(planned.method, self.config.network),
        }


def _rounded_teachers(models: Mapping[str, Run], name: str) -> dict[str, str]:
    """What a run records if its teachers have rounded weights, or were trained from such."""
    for run in models.values():
        if rounded := run.rounded or run.config.get("environment", {}).get("teacher_weights"):
            if run.rounded and distributed.is_rank0():
                print(
                    f"The weights of {run.folder.name} are rounded to {rounded}; {name} is trained "
                    "from them and records it, so no table mixes it with runs that are not"
                )
            return {"teacher_weights": rounded}
    return {}


def _as_method(method: str | Method) -> Method:
    if isinstance(method, Method):
        return method
    known = trainable()
    return known[method] if isinstance(method, str) and method in known else get_method(method)


def check_folder(runs: str | Path, folder: Path) -> None:
    """A ValueError if a folder in RUNS is none, and cannot be made."""
    if not next(path for path in (folder, *folder.parents) if path.exists()).is_dir():
        raise ValueError(f"RUNS is {runs!r}, which is a file; wanted a folder, or a new name")


def _matching(folder: Path, config: dict) -> tuple[Run | None, list[str]]:
    """The run in a folder if it matches a configuration, else None and the fields that differ."""
    if not runs.is_finished(folder):
        return None, []
    found = runs.load(folder)
    differ = differences(found.config, config)
    return (None if differ else found), differ


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of a run, so that no other process trains it; an OSError if that fails.

    Under torchrun rank 0 holds the lock. While it waits, all ranks meet once a minute, so that
    none of them times out.
    """
    file, waits = folder.with_name(f".{folder.name}.lock"), False
    lock = FileLock(file)  # freed by the system if we crash
    while not distributed.on_rank0(lambda: _acquired(lock, folder.parent)):
        if not waits and distributed.is_rank0():
            print(f"{folder.name}: another process trains it; waiting. If none does, delete {file}")
        waits = True
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock, folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=60)
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:  # the latter: filelock, on ENOSYS
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            why = f"nothing can be written to {folder} ({error}); choose RUNS where you may write"
        else:
            why = (
                f"the disk of {folder} has no file locks ({error}), which keep two processes from "
                "training one run; choose RUNS on another disk, such as one of this machine"
            )
        raise OSError(why) from error
    return True


@contextmanager
def _report_interrupt(checkpoint: FileCheckpoint) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if checkpoint.file.is_file() and distributed.is_rank0():
            print(
                "Stopped. What was trained is kept: run the cell again, and it goes on from there."
            )
        raise


def _recorded(split: Split) -> dict:
    """A split without what it lets pass, which decides no outcome, and what it does not have."""
    recorded = asdict(split)
    del recorded["absent"]
    if split.background is None:  # as an older kit recorded it
        del recorded["background"]
    return recorded
