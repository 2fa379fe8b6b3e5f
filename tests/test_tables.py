import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cilkit.classes import Split
from cilkit.methods import LATER_METHODS, METHODS, Memory
from cilkit.methods.lwm import balanced
from cilkit.results.__main__ import in_short, main
from cilkit.results.scores import (
    confidence_interval,
    is_papers,
    methods_of,
    our_scores,
    paired,
    paper_scores,
    split_of,
    standard_deviation,
)
from cilkit.results.tables import (
    TABLES,
    after_the_paper,
    as_text,
    between_tasks,
    by_task,
    comparison,
    decision_gap,
    differences,
    forgetting,
    highlight,
    label_ledger,
    missing_runs,
    one_seed,
    style_differences,
)
from cilkit.splits import load_split
from cilkit.study import runs
from cilkit.study.plan import plan
from cilkit.study.runs import Run, maker

TASKS = ["task1", "task2", "task12", "task3", "task123"]
TITLES = ["Task 1", "Task 2", "Task 1∪2", "Task 3", "Task 1∪2∪3"]


@pytest.fixture
def split() -> Split:
    return load_split("cityscapes")


@pytest.fixture
def found(make_run) -> list[Run]:
    return [
        make_run("T1", "T1", 0, {"task1": 90.0}),
        make_run("CIL", "T3", 0, {"task123": 60.0}),
        make_run("CIL", "T2", 0, {"task12": 50.0, "task1": 80.0}),
        make_run("CIL", "T2", 1, {"task12": 53.0}),
        make_run("FT", "T2", 0, {"task12": 20.0}),
        make_run("SS", "T2", 0, {"task12": 70.0}),
        make_run("CIL (w/o weights)", "T2", 0, {"task12": 55.0}),
        make_run("LWM teacher", "T2", 0, {"task2": 77.0}),
        make_run("mine", "T2", 0, {"task12": 99.0}),
    ]


# the paper's figures


@pytest.mark.parametrize(
    ("stage", "method", "miou"),
    [
        ("T2", "SS", [87.7, 66.1, 70.7]),
        ("T2", "FT", [37.0, 59.7, 29.2]),
        ("T2", "FE", [86.2, 45.4, 44.8]),
        ("T2", "LWOF", [85.4, 62.8, 57.2]),
        ("T2", "LWM", [85.9, 61.4, 62.5]),
        ("T2", "Michieli", [87.0, 59.7, 66.4]),
        ("T2", "CIL (w/o weights)", [85.5, 65.8, 68.8]),
        ("T2", "CIL", [85.5, 63.9, 67.7]),
        ("T3", "SS", [88.1, 65.6, 70.8, 63.8, 64.4]),
        ("T3", "FT", [24.8, 18.0, 10.8, 56.5, 10.4]),
        ("T3", "FE", [86.2, 45.4, 44.8, 37.4, 30.3]),
        ("T3", "LWOF", [84.0, 52.6, 48.8, 64.5, 43.5]),
        ("T3", "LWM", [83.9, 57.4, 61.1, 62.0, 52.6]),
        ("T3", "Michieli", [86.5, 60.5, 66.6, 54.5, 58.7]),
        ("T3", "CIL (w/o weights)", [83.9, 52.7, 61.1, 67.9, 59.5]),
        ("T3", "CIL", [84.5, 57.8, 64.0, 68.4, 62.2]),
    ],
)
def test_the_papers_scores_are_those_of_tables_ii_and_iii(stage, method, miou):
    row = paper_scores().loc[(stage, method)]
    assert row.dropna().tolist() == miou
    assert list(row.dropna().index) == TASKS[: len(miou)]


def test_the_papers_scores_are_the_eight_methods_of_both_tables_at_t2_and_t3():
    methods = {*TABLES["II"][1], *TABLES["III"][1]}
    assert set(paper_scores().index) == {(s, m) for s in ("T2", "T3") for m in methods}
    assert len(paper_scores()) == 16


# ours


def test_our_scores_are_averaged_over_seeds(found):
    ours = our_scores(found)
    assert ours.loc[("T2", "CIL"), "task12"] == 51.5
    assert ours.loc[("T2", "CIL"), "task1"] == 80.0
    assert np.isnan(ours.loc[("T2", "CIL"), "task2"])
    assert list(ours) == TASKS


def test_the_spread_of_seeds_is_the_sample_standard_deviation(make_run):
    found = [make_run("CIL", "T2", seed, {"task12": 50.0 + seed}) for seed in (0, 1, 5)]
    found += [make_run("FT", "T2", 0, {"task12": 20.0, "task1": 30.0})]
    sd = standard_deviation(found)
    assert sd.loc[("T2", "CIL"), "task12"] == pytest.approx(((4 + 1 + 9) / 2) ** 0.5)  # mean 52
    assert sd.loc[("T2", "FT")].isna().all()  # one seed has none
    assert list(sd) == TASKS and list(sd.index) == list(our_scores(found).index)


MIXED = [{"preset": "paper"}, {"data": "camvid"}, {"train": {"epochs": 9, "batch": 2}}]
MIXED += [{"code": {"shared": "89ab", "method": "FE"}}, {"split": {"name": "mine"}}]


@pytest.mark.parametrize("changes", MIXED, ids=lambda changes: next(iter(changes)))
@pytest.mark.parametrize(
    "table",
    [
        our_scores,
        forgetting,
        lambda found: comparison("II", found),
        lambda found: between_tasks(found, load_split()),
        lambda found: paired(found, "T2", "task12", "CIL"),
        differences,
    ],
    ids=["our_scores", "forgetting", "comparison", "between_tasks", "paired", "differences"],
)
def test_no_table_mixes_configurations(found, make_run, table, changes):
    named = "epochs" if "train" in changes else next(iter(changes))
    with pytest.raises(ValueError, match=f"runs/seed0/FE_T2 differ in {named}; a table holds"):
        table([*found, make_run("FE", "T2", **changes)])


# side by side


@pytest.mark.parametrize("table", TABLES)
def test_a_comparison_has_all_rows_of_the_paper_in_its_order_and_then_ones_own(found, table):
    methods = {
        "II": ["SS", "FT", "FE", "CIL"],
        "III": ["LWOF", "LWM", "Michieli", "CIL (w/o weights)", "CIL"],
    }[table]
    for some, own in ((found, ["mine"]), (found[:1], []), ([], [])):
        rows = [(s, method) for s in ("T1, T2", "T1, T2, T3") for method in methods + own]
        assert list(comparison(table, some).index) == rows


def test_methods_of_ones_own_are_those_that_no_table_of_the_paper_has(found, make_run):
    more = [*found, make_run("another", "T3"), make_run("mine", "T3", 1)]
    assert methods_of(more) == ["SS", *METHODS, "another", "mine"]
    assert methods_of([]) == ["SS", *METHODS]


def test_later_methods_have_a_table_of_their_own(found, make_run):
    later = [make_run(name, "T2", 0, {"task12": 40.0 + k}) for k, name in enumerate(LATER_METHODS)]
    for table in TABLES:
        pd.testing.assert_frame_equal(comparison(table, found + later), comparison(table, found))
    rows = after_the_paper(found + later)
    assert list(rows.index.unique("method")) == ["SS", "Michieli", "CIL", "ILT", "MiB", "PLOP"]
    at_t2 = rows.loc["T1, T2"]["Task 1∪2"]
    assert at_t2["ours"].dropna().to_dict() == {
        **{"SS": 70, "CIL": 51.5, "ILT": 40, "MiB": 41, "PLOP": 42}
    }
    assert at_t2["paper"].dropna().to_dict() == {"SS": 70.7, "Michieli": 66.4, "CIL": 67.7}


@pytest.mark.parametrize("table", TABLES)
def test_a_method_of_ones_own_has_our_numbers_and_none_of_the_paper(found, table):
    row = comparison(table, found).loc[("T1, T2", "mine")]
    assert row[("Task 1∪2", "ours")] == 99.0
    assert row.xs("paper", level=1).isna().all()


def test_a_comparison_shows_ours_beside_the_papers_for_each_task(found):
    table = comparison("II", found)
    sources = ("ours", "±", "paper")
    assert list(table) == [(task, source) for task in TITLES for source in sources]
    spreads = table.xs("±", axis=1, level=1).stack().dropna()
    assert spreads.to_dict() == {("T1, T2", "CIL", "Task 1∪2"): pytest.approx(3 / 2**0.5)}
    ours, paper = ("Task 1∪2", "ours"), ("Task 1∪2", "paper")
    assert table.loc[("T1, T2", "CIL"), [ours, paper]].tolist() == [51.5, 67.7]
    assert table.loc[("T1, T2", "FT"), [ours, paper]].tolist() == [20.0, 29.2]
    assert table.loc[("T1, T2, T3", "CIL"), ("Task 1∪2∪3", "ours")] == 60.0
    assert table.loc[("T1, T2, T3", "CIL"), ("Task 1∪2∪3", "paper")] == 62.2


def test_a_comparison_of_one_seed_has_no_column_of_spreads(found):
    one = [run for run in found if run.config["seed"] == 0]
    sources = ("ours", "paper")
    assert list(comparison("II", one)) == [(task, s) for task in TITLES for s in sources]
    assert "±" not in highlight(comparison("II", one)).to_html()


def test_a_comparison_shows_spreads_where_its_own_methods_have_several_seeds(make_run):
    found = [make_run("LWM", "T2", seed, {"task12": 50.0 + seed}) for seed in (0, 1)]
    found += [make_run("T1", "T1", seed, {"task1": 90.0 + seed}) for seed in (0, 1)]
    assert "±" not in comparison("II", found).columns.get_level_values(1)
    assert "±" in comparison("III", found).columns.get_level_values(1)


def test_what_is_not_there_is_nan_in_a_comparison(found):
    table = comparison("II", found)
    at_t2 = table.loc[("T1, T2", "CIL")]
    assert at_t2[["Task 3", "Task 1∪2∪3"]].isna().all()
    assert np.isnan(at_t2[("Task 2", "ours")]) and at_t2[("Task 2", "paper")] == 63.9
    ours = table.xs("ours", axis=1, level=1)
    assert ours.loc[("T1, T2", "FE")].isna().all() and ours.notna().to_numpy().sum() == 6


@pytest.mark.parametrize("table", TABLES)
def test_a_comparison_without_runs_is_the_papers_table(table):
    alone = comparison(table, [])
    assert alone.xs("ours", axis=1, level=1).isna().all(axis=None)
    stages = {"T1, T2": "T2", "T1, T2, T3": "T3"}
    for stage, method in alone.index:
        paper = alone.loc[(stage, method)].xs("paper", level=1)
        wanted = paper_scores().loc[(stages[stage], method)]
        assert paper.tolist() == pytest.approx(wanted.tolist(), nan_ok=True)


def test_as_text_has_one_decimal_and_a_dash_for_what_is_missing(found):
    lines = as_text(comparison("II", found)).splitlines()
    cil = next(line for line in lines if "CIL" in line)  # T1, T2: the stage may be in a line above
    task1, task2, task12 = ["80.0", "–", "85.5"], ["–", "–", "63.9"], ["51.5", "2.1", "67.7"]
    assert cil.split()[-15:] == [*task1, *task2, *task12, *"––––––"]
    assert "nan" not in "".join(lines).lower()


def marks(table: pd.DataFrame, column: tuple) -> dict[tuple, str]:
    """The marks of a column as the notebook shows them: row -> style."""
    styler = highlight(table)._compute()
    rows, at = list(table.index), list(table).index(column)
    styles = {rows[i]: dict(style) for (i, j), style in styler.ctx.items() if j == at and style}
    looks = {"font-weight": "bold", "text-decoration": "underline"}
    return {
        row: next(look for name, look in looks.items() if style.get(name) == look)
        for row, style in styles.items()
    }


def test_the_best_is_bold_and_the_second_underlined_in_each_block_without_ss(found):
    table = comparison("II", found)
    assert marks(table, ("Task 1∪2", "ours")) == {
        ("T1, T2", "mine"): "bold",  # 99
        ("T1, T2", "CIL"): "underline",  # 51.5; SS has 70, out of competition
    }
    assert marks(table, ("Task 1∪2", "±")) == {}
    assert marks(table, ("Task 1∪2", "paper")) == {
        ("T1, T2", "CIL"): "bold",  # 67.7
        ("T1, T2", "FE"): "underline",  # 44.8
        ("T1, T2, T3", "CIL"): "bold",  # 64.0
        ("T1, T2, T3", "FE"): "underline",  # 44.8
    }
    assert marks(table, ("Task 3", "ours")) == {}


def test_the_notebooks_table_has_one_decimal_and_a_dash_for_what_is_missing(found):
    html = highlight(comparison("II", found)).to_html()
    assert ">51.5<" in html and ">± 2.1<" in html and ">–<" in html
    assert "nan" not in html.lower()


# what is missing


def test_each_method_that_is_missing_is_named_with_its_stages_and_its_notebook(found):
    only = [run for run in found if run.config["seed"] == 0]
    assert missing_runs(only) == [
        "SS in T3: run 05_train_t1",
        "FT in T3: run study.run('T3', 'FT')",
        "FE in T2 and T3: run study.run('T3', 'FE')",
        "LWOF in T2 and T3: run study.run('T3', 'LWOF')",
        "LWM in T2 and T3: run study.run('T3', 'LWM')",
        "Michieli in T2 and T3: run study.run('T3', 'Michieli')",
        "CIL (w/o weights) in T3: run 10_cil",
        "mine in T3: run study.run('T3', ...) with that method",
        *one_seed(only),
    ]


def test_a_run_that_some_seeds_lack_is_named_with_these_seeds(make_run):
    methods, stages = ["SS", *METHODS], ("T2", "T3")
    found = [make_run(m, stage, seed) for m in methods for stage in stages for seed in (0, 1, 4)]
    assert missing_runs(found) == []
    gone = {("CIL", "T3", 1), ("FE", "T2", 0), ("FE", "T2", 4), ("FE", "T3", 0), ("FE", "T3", 4)}
    kept = [
        run
        for run in found
        if tuple(run.config[field] for field in ("method", "stage", "seed")) not in gone
    ]
    assert missing_runs(kept) == [
        "FE in T2 and T3, SEED 0, 4: run study.run('T3', 'FE')",
        "CIL in T3, SEED 1: run 10_cil",
    ]


def test_nothing_is_missing_where_every_method_has_run_and_everything_where_none_has(make_run):
    methods = ["SS", *METHODS]
    everything = [make_run(method, stage) for method in methods for stage in ("T2", "T3")]
    assert missing_runs(everything) == one_seed(everything)
    assert [line.split(" in T2 and T3: ")[0] for line in missing_runs([])] == methods


def test_one_seed_is_told_how_to_get_more_and_several_or_none_are_not(make_run):
    (line,) = one_seed([make_run("FT", "T2", 7), make_run("FT", "T3", 7)])
    assert line.startswith("one seed, 7: no spread and no interval; make study SEEDS=0,1,2")
    assert one_seed([make_run("FT", "T2", 7), make_run("FT", "T2", 8)]) == []
    assert one_seed([]) == []


def test_the_command_prints_both_tables_of_a_folder_and_how_to_fill_them(
    found, monkeypatch, capsys, tmp_path
):
    asked = []
    monkeypatch.setattr(runs, "find", lambda folder: asked.append(folder) or found)
    main(str(tmp_path))
    second, third = capsys.readouterr().out.split("Table III")
    assert asked == [str(tmp_path)]
    assert "Table II:" in second and "FT" in second and "w/o weights" not in second
    assert "w/o weights" in third and "51.5" in third
    lines = missing_runs(found) + in_short(found)
    assert third.splitlines()[-len(lines) :] == lines
    assert "ours, mean and standard deviation (±) of seeds 0, 1, beside" in second
    assert "Paired differences" in third and "minus SS" in third and "NA" not in third


def test_the_end_says_what_came_out_in_two_lines(make_run):
    reached = {"SS": (60.0, 70.0), "FT": (20.0, 10.0), "CIL": (55.0, 40.0)}
    found = [
        make_run(method, "T3", seed, {"task123": value})
        for method, values in reached.items()
        for seed, value in enumerate(values)
    ]
    found += [make_run("T1", "T1", seed, {"task1": 90.0}) for seed in (0, 1)]
    found += [make_run("FT", "T2", seed, {"task1": 40.0}) for seed in (0, 1)]
    first, second = in_short(found)
    assert first.endswith("all classes after T3 in %, best first: SS 65.0 | CIL 47.5 | FT 15.0")
    # FT forgets; CIL is close to SS with one seed of two
    assert second == "Of the paper's 19 claims, 1 hold here, 1 are undecided, 17 lack a run"
    assert in_short(found[-2:]) == in_short([]) == []


def test_the_command_prints_the_table_of_later_methods_where_there_are_any(
    found, make_run, monkeypatch, capsys
):
    for more, wanted in (([], False), ([make_run("PLOP", "T3")], True)):
        monkeypatch.setattr(runs, "find", lambda folder, more=more: found + more)
        main("runs")
        printed = capsys.readouterr().out
        assert ("After the paper." in printed) == ("MiB" in printed.split("Paired")[0]) == wanted


def test_the_command_prints_no_differences_of_one_seed(found, monkeypatch, capsys):
    one = [run for run in found if run.config["seed"] == 0]
    monkeypatch.setattr(runs, "find", lambda folder: one)
    main("runs")
    printed = capsys.readouterr().out
    assert "Paired" not in printed and "±" not in printed and "one seed, 0" in printed


def test_a_folder_without_runs_prints_the_papers_scores_and_how_to_fill_the_tables(
    capsys, tmp_path
):
    main(str(tmp_path))
    printed = capsys.readouterr().out
    assert "62.2" in printed and printed.splitlines()[-8:] == missing_runs([])


# paired differences


@pytest.fixture
def trials(make_run):
    """trials({"CIL": [60, 61], "FT": [50, None]}) are runs of T3: a score a seed, None: not run."""

    def trials(scores: dict[str, list[float | None]], task: str = "task123") -> list[Run]:
        return [
            make_run(method, "T3", seed, {task: float(value)})
            for method, values in scores.items()
            for seed, value in enumerate(values)
            if value is not None
        ]

    return trials


def test_an_interval_is_students_by_hand():
    # mean 5, standard deviation 1, standard error 1 / sqrt 3, and t(0.975, 2) = 4.302653
    found = confidence_interval([4, 5, 6])
    assert found == {
        "mean": 5,
        "low": pytest.approx(5 - 4.302653 / 3**0.5, abs=1e-5),
        "high": pytest.approx(5 + 4.302653 / 3**0.5, abs=1e-5),
        "seeds": 3,
    }


def test_one_value_has_a_mean_and_no_interval_and_none_has_neither():
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert confidence_interval([4.5]) == {"mean": 4.5, "low": nan, "high": nan, "seeds": 1}
    assert confidence_interval([]) == {"mean": nan, "low": nan, "high": nan, "seeds": 0}


def test_a_paired_difference_by_hand(trials):
    found = trials({"CIL": [60, 70, 50], "LWM": [64, 75, 56], "FT": [20, 32, 8]})
    table = paired(found, "T3", "task123", "CIL")
    assert list(table) == ["mean", "low", "high", "seeds"]
    assert list(table.index) == ["SS", *METHODS]
    half = 4.302653 / 3**0.5  # of 4, 5, 6: the scores spread by ten points, the differences by one
    assert table.loc["LWM"].tolist() == pytest.approx([5, 5 - half, 5 + half, 3], abs=1e-5)
    # -40, -38, -42: mean -40, standard error 2 / sqrt 3
    wanted = [-40, -40 - 2 * half, -40 + 2 * half, 3]
    assert table.loc["FT"].tolist() == pytest.approx(wanted, abs=1e-5)


score_in_percent = st.floats(0, 100, allow_subnormal=False)  # the kit counts them as zero
seeds_of_two = st.lists(st.tuples(score_in_percent, score_in_percent), min_size=2, max_size=8)


@given(seeds_of_two)
def test_paired_differences_are_those_of_an_independent_t_test(make_run, both):
    found = [
        make_run(method, "T3", seed, {"task123": score})
        for seed, scores in enumerate(both)
        for method, score in zip(("CIL", "FT"), scores, strict=True)
    ]
    ours = paired(found, "T3", "task123", "CIL").loc["FT"]
    cil, ft = zip(*both, strict=True)
    if np.std(np.subtract(ft, cil)) > 1e-6:  # else the interval is a point, or rounding
        wanted = stats.ttest_rel(ft, cil).confidence_interval(0.95)
        assert ours["low"] == pytest.approx(wanted.low, abs=1e-6)
        assert ours["high"] == pytest.approx(wanted.high, abs=1e-6)
    assert ours["mean"] == pytest.approx(np.mean(ft) - np.mean(cil), abs=1e-9)


@given(seeds_of_two)
def test_a_method_minus_itself_is_0_and_turning_a_difference_round_turns_its_sign(make_run, both):
    found = [
        make_run(method, "T3", seed, {"task123": score})
        for seed, scores in enumerate(both)
        for method, score in zip(("CIL", "FT"), scores, strict=True)
    ]
    to_cil, to_ft = (paired(found, "T3", "task123", m) for m in ("CIL", "FT"))
    assert to_cil.loc["CIL"].tolist() == to_ft.loc["FT"].tolist() == [0, 0, 0, len(both)]
    one, other = to_cil.loc["FT"], to_ft.loc["CIL"]
    assert [one["mean"], one["low"], one["high"]] == pytest.approx(
        [-other["mean"], -other["high"], -other["low"]], abs=1e-9
    )


def test_the_order_of_the_runs_does_not_matter(trials):
    found = trials({"CIL": [60, 70, 50], "LWM": [64, 75, 56], "mine": [1, 2, 3]})
    mixed = random.Random(1).sample(found, len(found))
    for one, other in ((found, mixed), (found, found[::-1])):
        pd.testing.assert_frame_equal(differences(one), differences(other))


def test_a_seed_in_which_one_of_both_is_missing_does_not_count(trials):
    found = trials({"CIL": [60, 70, None, 50], "LWM": [64, None, 99, 56], "FE": [None, 1, 2, None]})
    table = paired(found, "T3", "task123", "CIL")
    assert table.loc["LWM", ["mean", "seeds"]].tolist() == [5, 2]  # of 4 and 6
    assert table.loc["FE", ["mean", "seeds"]].tolist() == [1 - 70, 1]
    assert table.loc["FE", ["low", "high"]].isna().all()
    assert table.loc["SS", "seeds"] == 0 and np.isnan(table.loc["SS", "mean"])


def test_a_score_that_was_not_measured_counts_as_missing(make_run):
    scores = {"CIL": [60.0, float("nan")], "FT": [50.0, 40.0]}
    found = [
        make_run(method, "T3", seed, {"task123": value})
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    assert paired(found, "T3", "task123", "CIL").loc["FT", ["mean", "seeds"]].tolist() == [-10, 1]


def test_only_the_stage_and_the_task_that_were_asked_for_are_compared(make_run):
    found = [
        make_run(method, stage, 0, {"task12": score, "task1": 1.0})
        for method, stage, score in (
            ("CIL", "T2", 60.0), ("FT", "T2", 50.0), ("CIL", "T3", 30.0), ("FT", "T3", 1.0)
        )
    ]  # fmt: skip
    assert paired(found, "T2", "task12", "CIL").loc["FT", "mean"] == -10
    assert paired(found, "T3", "task12", "CIL").loc["FT", "mean"] == -29
    assert paired(found, "T3", "task1", "CIL").loc["FT", "mean"] == 0


def test_differences_are_those_of_the_cross_task_scores_to_cil_and_ss(make_run):
    found = [
        make_run(method, stage, seed, {task: score + seed})
        for stage, task, plus in (("T2", "task12", 0), ("T3", "task123", 1))
        for method, score in (("SS", 80.0), ("CIL", 60.0), ("mine", 50.0 + plus))
        for seed in (0, 1)
    ]
    table = differences(found)
    assert list(table.index.names) == ["score", "method"]
    assert list(table.index.unique(0)) == ["Task 1∪2 after T2", "Task 1∪2∪3 after T3"]
    assert list(table.index.unique(1)) == ["SS", *METHODS, "mine"]
    columns = ["mean", "low", "high", "seeds"]
    assert list(table) == [(f"minus {r}", c) for r in ("CIL", "SS") for c in columns]
    mine = table.xs("mine", level="method")
    assert mine[("minus CIL", "mean")].tolist() == [-10, -9]
    assert mine[("minus SS", "mean")].tolist() == [-30, -29]
    assert table.xs("CIL", level="method")["minus CIL"].isna().all(axis=None)
    assert list(differences(found, ["mine"])) == [("minus mine", c) for c in columns]


def cells(table: pd.DataFrame) -> tuple[list[str], dict[tuple, list[str]], set[tuple]]:
    """What the notebook shows of differences: headers, cells by row, and the rows in bold."""
    styler = style_differences(table)._compute()
    shown = styler._translate(sparse_index=False, sparse_cols=False)
    headers = [
        c["display_value"] for c in shown["head"][1] if c["is_visible"] and c["type"] == "th"
    ]
    rows = {
        row: [c["display_value"] for c in line if c["is_visible"] and c["type"] == "td"]
        for row, line in zip(table.index, shown["body"], strict=True)
    }
    return headers, rows, {(table.index[i], j) for (i, j), style in styler.ctx.items() if style}


def test_the_notebooks_differences_are_signed_and_bold_where_the_interval_does_not_hold_0(trials):
    found = trials({"CIL": [60, 60, 60], "LWM": [64, 65, 66], "FE": [61, 58, 63], "FT": [9, 8, 7]})
    _, rows, bold = cells(differences(found, ["CIL"]))
    last = "Task 1∪2∪3 after T3"
    assert rows[(last, "LWM")] == ["+5.0", "+2.5", "+7.5", "3"]
    assert rows[(last, "CIL")] == ["–"] * 4 and rows[(last, "SS")] == ["–", "–", "–", "0"]
    assert bold == {((last, "LWM"), 0), ((last, "FT"), 0)}


def test_the_notebooks_differences_of_one_seed_have_no_interval(trials):
    table = differences(trials({"CIL": [60], "LWM": [64]}), ["CIL"])
    headers, rows, bold = cells(table)
    assert headers[-2:] == ["mean", "seeds"] and not bold
    assert rows[("Task 1∪2∪3 after T3", "LWM")] == ["+4.0", "1"]


def test_without_runs_every_difference_is_unknown():
    table = differences([])
    assert (table[[("minus CIL", "seeds")]].dropna() == 0).all(axis=None)
    assert table[[("minus CIL", "mean"), ("minus SS", "low")]].isna().all(axis=None)
    style_differences(table).to_html()


# forgetting


def test_forgetting_is_the_score_now_minus_the_score_when_learned(make_run):
    lost = forgetting(
        [
            make_run("T1", "T1", 0, {"task1": 90.0}),
            make_run("CIL", "T2", 0, {"task1": 84.0, "task2": 60.0, "task12": 1.0}),
            make_run("CIL", "T3", 0, {"task1": 91.0, "task2": 52.0, "task3": 5.0}),
            make_run("FT", "T2", 0, {"task1": 30.0, "task2": 55.0}),
            make_run("LWOF", "T3", 0, {"task1": 70.0, "task2": 20.0}),
            make_run("SS", "T2", 0, {"task1": 95.0, "task2": 65.0}),
        ]
    )
    assert list(lost) == [("Task 1", "after T2"), ("Task 1", "after T3"), ("Task 2", "after T3")]
    assert list(lost.index) == list(METHODS)
    assert lost.loc["CIL"].tolist() == [-6, 1, -8]
    assert lost.loc["FT"].tolist() == pytest.approx([-60, np.nan, np.nan], nan_ok=True)
    assert lost.loc["LWOF"].tolist() == pytest.approx([np.nan, -20, np.nan], nan_ok=True)
    assert lost.loc["LWM"].isna().all()


def test_forgetting_is_averaged_over_seeds(make_run):
    found = [
        make_run(method, stage, seed, {"task1": score})
        for method, stage, scores in (("T1", "T1", (90.0, 80.0)), ("FT", "T2", (30.0, 40.0)))
        for seed, score in enumerate(scores)
    ]
    assert forgetting(found).loc["FT", ("Task 1", "after T2")] == -50  # of -60 and -40


def test_a_method_of_ones_own_forgets_in_a_row_of_its_own(make_run):
    scores = (("T1", "T1", 90.0), ("mine", "T2", 85.0), ("LWM teacher", "T2", 1.0))
    found = [make_run(method, stage, 1, {"task1": score}) for method, stage, score in scores]
    found.append(make_run("T1", "T1", 0, {"task1": 90.0}))
    lost = forgetting(found)
    assert list(lost.index) == [*METHODS, "mine"]
    assert lost.loc["mine", ("Task 1", "after T2")] == -5


def test_forgetting_without_runs_is_unknown():
    assert forgetting([]).isna().all(axis=None)


# between tasks


def test_a_confusion_matrix_by_task_adds_up_the_classes_of_each(split):
    names = ["road", "sky", "building", "pole", "car"]
    rows = [
        [1, 2, 3, 4, 5],
        [6, 7, 8, 9, 10],
        [11, 12, 13, 14, 15],
        [16, 17, 18, 19, 20],
        [21, 22, 23, 24, 25],
    ]
    counts = by_task(pd.DataFrame(rows, names, names), split)
    assert list(counts.index) == list(counts) == ["S1", "S2", "S3"]
    assert counts.to_numpy().tolist() == [
        [1 + 2 + 6 + 7, 3 + 4 + 8 + 9, 5 + 10],
        [11 + 12 + 16 + 17, 13 + 14 + 18 + 19, 15 + 20],
        [21 + 22, 23 + 24, 25],
    ]


def confused(
    make_run, split, method: str, seed: int, stage: str, counts: list[list[int]], of: Split = None
) -> Run:
    """A run whose pixels are all of the first class of each task, and predicted so."""
    classes = split.stage(stage).seen
    everything = list(split.class_sets(split.stage(stage)))[-1]
    firsts = [split.names(part.new)[0] for part in split.stages[: split.stage(stage).number]]
    matrix = pd.DataFrame(0, split.names(classes), split.names(classes))
    matrix.loc[firsts, firsts] = counts
    run = make_run(method, stage, seed, split=of or load_split())
    run.scores["confusion"] = {everything: matrix.to_numpy().tolist()}
    run.scores["iou"] = {everything: dict.fromkeys(split.names(classes))}
    return run


def test_errors_between_tasks_are_shares_of_the_labelled_pixels_of_a_task(make_run, split):
    runs = [
        confused(make_run, split, "CIL", 0, "T2", [[8, 2], [3, 1]]),
        confused(make_run, split, "FT", 0, "T2", [[1, 9], [0, 5]]),
        confused(make_run, split, "SS", 0, "T2", [[4, 0], [1, 3]]),
        confused(make_run, split, "mine", 0, "T2", [[1, 1], [3, 1]]),
        confused(make_run, split, "CIL", 0, "T3", [[6, 1, 1], [0, 4, 4], [5, 0, 5]]),
        make_run("T1", "T1"),
        make_run("LWM teacher", "T2"),
    ]
    for run in runs[-2:]:
        run.scores["confusion"] = {"task2": [[1]]}
    after = between_tasks(runs, split, "T2")
    assert list(after.index) == ["SS", "FT", "CIL", "mine"]
    assert list(after) == [("S1 as", "S2"), ("S2 as", "S1")]
    assert after.to_numpy().tolist() == [[0, 25], [90, 0], [20, 75], [50, 75]]
    last = between_tasks(runs, split)
    assert list(last.index) == ["CIL"]
    assert last.loc["CIL"].to_dict() == {
        ("S1 as", "S2"): 12.5,
        ("S1 as", "S3"): 12.5,
        ("S2 as", "S1"): 0,
        ("S2 as", "S3"): 50,
        ("S3 as", "S1"): 50,
        ("S3 as", "S2"): 0,
    }


def test_errors_between_tasks_add_up_the_pixels_of_all_seeds(make_run, split):
    counts = [[[1, 0], [0, 1]], [[0, 9], [0, 1]]]
    runs = [confused(make_run, split, "CIL", seed, "T2", one) for seed, one in enumerate(counts)]
    assert between_tasks(runs, split, "T2").loc["CIL"].tolist() == [90, 0]


# who sees what


def test_the_ledger_of_labels_says_what_each_method_sees_in_each_stage(split):
    ledger = label_ledger(split)
    new_only = ["D1 with S1", "D2 with S2", "D3 with S3"]
    memory = [
        "D1 with S1",
        "D2 with S2 + 20 of D1 with S1",
        "D3 with S3 + 20 of D1 with S1 + 20 of D2 with S2",
    ]
    assert list(ledger) == ["T1", "T2", "T3"]
    assert {method: row.tolist() for method, row in ledger.iterrows()} == {
        "SS": ["D1 with S1", "D1∪D2 with S1∪S2", "D1∪D2∪D3 with S1∪S2∪S3"],
        "FT": new_only,
        "FE": new_only,
        "LWOF": new_only,
        "LWM": memory,
        "Michieli": ["D1 with S1", "D2 with S1∪S2", "D3 with S1∪S2∪S3"],
        "CIL (w/o weights)": new_only,
        "CIL": new_only,
    }
    assert list(ledger.index) == ["SS", *METHODS]


def test_the_ledger_of_labels_reads_the_methods_it_is_given(split):
    mine = replace(METHODS["LWM"], name="mine", labels="all", memory=Memory(balanced, 7))
    ledger = label_ledger(split, [mine])
    assert list(ledger.index) == ["SS", "mine"]
    assert ledger.loc["mine", "T2"] == "D2 with S1∪S2 + 7 of D1 with S1"


def test_forgetting_is_taken_within_a_seed(make_run):
    found = [
        make_run("T1", "T1", 0, {"task1": 90.0}),
        make_run("T1", "T1", 1, {"task1": 70.0}),
        make_run("FT", "T2", 0, {"task1": 30.0}),
    ]
    assert forgetting(found).loc["FT", ("Task 1", "after T2")] == -60


# other stages than the paper's

OWN = {
    2: ["A", "B"],
    3: ["base", "signs", "people"],
    5: ["A", "B", "C", "D", "E"],
    12: [f"S{k}" for k in range(1, 13)],
}


@pytest.fixture(params=OWN, ids=lambda count: f"{count} stages")
def own(request, write_split, tmp_path) -> Split:
    """Splits of some stages, of which none is called as in the paper."""
    return write_split(tmp_path, *OWN[request.param])


@pytest.fixture
def trained(make_run):
    """trained(split, 1) are all runs of a study with seed 1: 10 k in each k-th task, + the seed."""

    def trained(split: Split, seed: int = 0) -> list[Run]:
        made = []
        for planned in plan(split):
            labels = "all" if planned.method.extends else planned.method.labels
            first = planned.stage.visible(labels).start
            sets = split.class_sets(planned.stage)
            scores = {t: 10.0 * k + seed for k, t in enumerate(sets) if sets[t].start >= first}
            made.append(make_run(planned.method.name, planned.stage.name, seed, scores, split))
        return made

    return trained


def test_a_run_gives_its_split_back(make_run, own):
    assert make_run("T1", own.stages[0].name, split=own).split == own
    assert split_of([make_run("CIL", own.stages[1].name, split=own)]) == own
    assert make_run("T1", "T1").split == load_split() == split_of([])


def test_the_papers_split_is_known_by_its_stages_and_their_classes(split, own):
    assert is_papers(split) and is_papers(replace(split, name="mine", test_cities=("ulm",)))
    assert not is_papers(own) and not is_papers(load_split("camvid"))
    assert not is_papers(replace(split, stages=split.stages[:2]))
    renamed = (replace(split.stages[0], name="A"), *split.stages[1:])
    assert not is_papers(replace(split, stages=renamed))


def test_the_first_stage_is_no_method_whatever_its_name(make_run, own):
    found = [make_run("T1", own.stages[0].name, split=own)]
    found.append(make_run("CIL", own.stages[1].name, split=own))
    assert methods_of(found) == ["SS", *METHODS]
    old = make_run(own.stages[0].name, own.stages[0].name, split=own)  # as an older kit named it
    assert methods_of([old, *found[1:]]) == ["SS", *METHODS]


def test_nothing_of_a_whole_study_is_missing_and_of_an_empty_one_each_notebook(own, trained):
    found = trained(own)
    assert missing_runs(found) == one_seed(found)
    first = [run for run in found if run.config["stage"] == own.stages[0].name]
    *lines, last = missing_runs(first)
    later = [stage.name for stage in own.stages[1:]]
    assert [line.split(" in ")[0] for line in lines] == ["SS", *METHODS]
    for line in lines:
        method, rest = line.split(" in ")
        where, _, what = rest.partition(": run ")
        assert where.replace(" and ", ", ").split(", ") == later
        assert what == maker(method, later[-1], later[0])


@pytest.mark.parametrize("table", TABLES)
def test_a_comparison_has_a_block_for_each_stage_and_no_paper(own, trained, table):
    rows = comparison(table, [*trained(own, 0), *trained(own, 1)])
    methods, names = TABLES[table][1], [stage.name for stage in own.stages]
    blocks = [f"{names[0]}, {names[1]}", f"{names[0]}, {names[1]}, {names[-1]}"][: len(names) - 1]
    if len(names) > 3:
        blocks = [*blocks[:1], f"{names[0]}, …, {names[-1]}"]
    shown = list(rows.index.unique("stages"))
    assert len(shown) == len(names) - 1 and [shown[0], shown[-1]] == [blocks[0], blocks[-1]]
    assert list(rows.index.unique("method")) == methods
    assert list(rows.columns.unique(1)) == ["ours", "±"]
    assert rows.columns.unique(0).size == 2 * len(names) - 1
    last = rows.loc[(shown[-1], "CIL")].xs("ours", level=1)
    assert last.tolist() == [10 * k + 0.5 for k in range(2 * len(names) - 1)]
    assert rows.loc[(shown[0], "CIL")].notna().sum() == 6
    highlight(rows).to_html()


def test_differences_and_forgetting_are_those_of_each_stage(own, trained):
    found = [*trained(own, 0), *trained(own, 1)]
    table, count = differences(found), len(own.stages)
    assert len(table.index.unique(0)) == count - 1
    assert table.index.unique(0)[-1].endswith(f" after {own.stages[-1].name}")
    assert (table.xs("FT", level="method")["minus SS"]["seeds"] == 2).all()
    lost = forgetting(found)
    wanted = [(then.number, now.name) for then in own.stages for now in own.stages[then.number :]]
    assert list(lost) == [(f"Task {number}", f"after {name}") for number, name in wanted]
    assert (lost == 0).all(axis=None) and list(lost.index) == list(METHODS)


def test_scores_come_in_the_order_of_the_stages(own, trained):
    ours = our_scores(trained(own))
    assert list(ours.index.unique("stage")) == [stage.name for stage in own.stages]
    assert list(ours) == own.tasks


def test_the_paper_has_no_score_for_other_stages(own, split):
    table = paper_scores(own)
    assert list(table) == own.tasks and table.isna().all(axis=None)
    assert list(table.loc[own.stages[1].name].index) == ["SS", *METHODS]
    pd.testing.assert_frame_equal(paper_scores(split), paper_scores())


def test_errors_between_tasks_are_those_after_the_last_stage(make_run, own):
    counts = np.eye(len(own.stages), dtype=int).tolist()
    last = own.stages[-1].name
    table = between_tasks([confused(make_run, own, "CIL", 0, last, counts, own)], own)
    assert table.shape == (1, len(own.stages) * (len(own.stages) - 1))
    assert (table == 0).all(axis=None)


def test_the_ledger_of_many_stages_names_the_ends(write_split, tmp_path):
    ledger = label_ledger(write_split(tmp_path, *OWN[12]))
    assert ledger.loc["SS", "S12"] == "D1∪…∪D12 with S1∪…∪S12"
    assert ledger.loc["LWM", "S12"] == "D12 with S12 + 20 of D1 with S1 + … + 20 of D11 with S11"


def test_the_command_prints_other_stages_without_the_paper(own, trained, monkeypatch, capsys):
    found = [*trained(own, 0), *trained(own, 1)]
    monkeypatch.setattr(runs, "find", lambda folder: found)
    main("runs")
    printed = capsys.readouterr().out
    assert "paper" not in printed and "T2" not in printed and "run 0" not in printed
    assert f"after {own.stages[-1].name}" in printed


def test_a_split_of_one_stage_has_nothing_to_compare(
    make_run, write_split, tmp_path, monkeypatch, capsys
):
    one = write_split(tmp_path, "A")
    found = [make_run("T1", "A", seed, {"task1": 50.0}, one) for seed in (0, 1)]
    assert comparison("II", found).empty and differences(found).empty
    assert missing_runs(found) == [] and forgetting(found).empty
    monkeypatch.setattr(runs, "find", lambda folder: found)
    main("runs")
    assert capsys.readouterr().out.startswith("One stage alone: no class set was learned after")


def test_the_decision_gap_is_the_weighted_mean_of_single_tasks_minus_the_joint_score(make_run):
    miou = {"task1": 80.0, "task2": 40.0, "task12": 50.0}  # 5 and 6 classes
    found = [make_run("T1", "T1", 0, {"task1": 90.0}), make_run("CIL", "T2", 0, miou)]
    found += [make_run("SS", "T2", 0, dict.fromkeys(miou, 70.0))]
    gap = decision_gap(found)
    assert gap.loc["CIL", "after T2"] == pytest.approx((5 * 80 + 6 * 40) / 11 - 50)
    assert gap.loc["SS", "after T2"] == pytest.approx(0)
    assert gap["after T3"].isna().all() and list(gap.index[:2]) == ["SS", "FT"]
