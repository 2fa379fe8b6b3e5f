import pytest

from cilkit.classes import Split, Stage
from cilkit.methods import CIL, FIRST_STAGE, LWM, METHODS, NEW_TEACHER, SS
from cilkit.splits import load_split
from cilkit.study.plan import plan, planned_run


def split(*names: str) -> Split:
    """A split of one class a stage."""
    stages = tuple(
        Stage(name, k + 1, slice(0, k), slice(k, k + 1), (f"city{k}",))
        for k, name in enumerate(names)
    )
    return Split("own", "cityscapes", (), (), stages, ("tested",))


def names(*stages: str, methods=None) -> list[str]:
    methods = [SS, *METHODS.values()] if methods is None else methods
    return [run.name for run in plan(split(*stages), methods)]


def test_the_plan_of_the_paper_has_its_19_trainings():
    found = plan(load_split())
    assert len(found) == 19
    assert found[0].method == FIRST_STAGE and found[0].name == "T1"
    assert {run.name for run in found if run.method == NEW_TEACHER} == {
        "LWM_teacher_T2",
        "LWM_teacher_T3",
    }


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
def test_a_plan_has_a_training_of_each_method_in_each_stage_of_any_name(count):
    stages = [f"stage_{'ABCDEFGHIJKL'[k]}" for k in range(count)]
    found = names(*stages)
    later = count - 1
    assert len(found) == len(set(found)) == 1 + later * (len(METHODS) + 2)
    assert found[0] == "stage_A"
    assert {f"CIL_{stage}" for stage in stages[1:]} <= set(found)


def test_each_training_comes_after_those_that_it_needs():
    seen = []
    for run in plan(split("A", "B", "C")):
        assert all(needed.name in seen for needed in run.needs), run.name
        seen.append(run.name)


def test_some_methods_alone_have_a_plan():
    assert names("A", "B", "C", methods=[SS]) == ["A", "SS_B", "SS_C"]
    assert names("A", "B", methods=[CIL]) == ["A", "CIL_B"]
    assert names("A", "B", methods=[LWM]) == ["A", "LWM_teacher_B", "LWM_B"]
    assert names("A", "B", methods=[]) == ["A"]


def test_the_teacher_of_a_run_is_the_method_in_the_stage_before():
    own = split("A", "B", "C")
    run = planned_run(own, own.stages[2], CIL)
    assert [run.name, run.teacher.name, run.teacher.teacher.name] == ["CIL_C", "CIL_B", "A"]
    assert run.new_teacher is None and planned_run(own, own.stages[2], SS).needs == ()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (("CIL_B", "B"), "T1 in stage 'CIL_B' and CIL in stage 'B' would share the folder CIL_B"),
        (("logs", "B"), "T1 in stage 'logs' would have the folder logs, in which the kit keeps"),
        (("Notebooks", "B"), "would have the folder Notebooks"),
    ],
)
def test_runs_that_would_share_a_folder_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        plan(split(*stages))
