"""The plan of a study: which trainings it takes, and which of them come before which.

It follows from the split of the data, with any number of stages of any name, and from the methods.
`Study`, the graph of `make study`, the machine check and the tables all use it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cilkit.classes import Split, Stage
from cilkit.methods import FIRST_STAGE, METHODS, NEW_TEACHER, SS, Method

RESERVED = ("done", "logs", "notebooks", "superseded")  # beside the runs of a seed


@dataclass(frozen=True)
class PlannedRun:
    """One training: a method in a stage, and the runs that it needs.

    `teacher` is the run of the stage before, `new_teacher` that of the new classes alone, eq. (6).
    """

    stage: Stage
    method: Method
    teacher: "PlannedRun | None" = None
    new_teacher: "PlannedRun | None" = None

    @property
    def name(self) -> str:
        """The name of its folder: that of the first stage, such as "T1", or "CIL_T2"."""
        return run_name(self.stage, self.method.name)

    @property
    def models(self) -> dict[str, "PlannedRun"]:
        """The runs that it is made from, by what they are to it: "teacher", "new_teacher"."""
        roles = {"teacher": self.teacher, "new_teacher": self.new_teacher}
        return {role: run for role, run in roles.items() if run is not None}

    @property
    def needs(self) -> tuple["PlannedRun", ...]:
        """The runs that must be there before it."""
        return tuple(self.models.values())


def planned_run(split: Split, stage: Stage, method: Method) -> PlannedRun:
    """The training of a method in a stage; in the first stage it is that of all methods.

    Raises ValueError for a second teacher of the first stage, all of whose classes are new.
    """
    if stage.number == 1:
        return PlannedRun(stage, FIRST_STAGE)
    if not method.extends:
        return PlannedRun(stage, method)
    teacher = planned_run(split, split.before(stage), method)
    if method.memory is None:
        return PlannedRun(stage, method, teacher)
    return PlannedRun(stage, method, teacher, PlannedRun(stage, NEW_TEACHER))


def plan(split: Split, methods: Iterable[Method] = (SS, *METHODS.values())) -> list[PlannedRun]:
    """All trainings of some methods on a data set, each once and after those that it needs.

    Raises ValueError if the folder of one would have the name of another's, or of a folder in
    which the kit keeps other things, which the name of a stage decides.
    """
    found: dict[str, PlannedRun] = {}

    def add(run: PlannedRun) -> None:
        for needed in run.needs:
            add(needed)
        if (other := found.setdefault(run.name, run)) != run:
            raise ValueError(
                f"{_in_words(other)} and {_in_words(run)} would share the folder {run.name}; name "
                "a stage otherwise in the split file"
            )
        if run.name.lower() in RESERVED:
            raise ValueError(
                f"{_in_words(run)} would have the folder {run.name}, in which the kit keeps other "
                "things; name the stage otherwise in the split file"
            )

    add(planned_run(split, split.stages[0], FIRST_STAGE))
    for method in methods:
        for stage in split.stages[1:]:
            add(planned_run(split, stage, method))
    return list(found.values())


def _in_words(run: PlannedRun) -> str:
    return f"{run.method.name} in stage {run.stage.name!r}"


def run_name(stage: Stage, method: str) -> str:
    """Folder name of a run: "T1" for the first stage, which all methods share, else "CIL_T2"."""
    return stage.name if stage.number == 1 else f"{as_file(method)}_{stage.name}"


def as_file(method: str) -> str:
    """The name of a method as a part of a file name."""
    return re.sub(r"\W+", "_", method.replace("w/o", "wo")).strip("_")
