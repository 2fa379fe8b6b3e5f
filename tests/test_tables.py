import numpy as np
import pandas as pd
import pytest

from cilkit import tables
from cilkit.tables import TABLES, TASKS, as_text, comparison, highlight, our_scores, paper_scores

TITLES = ["Task 1", "Task 2", "Task 1∪2", "Task 3", "Task 1∪2∪3"]


def tidy(*rows: tuple) -> pd.DataFrame:
    """Scores as runs.scores gives them, from (seed, method, stage, task, miou)."""
    columns = ["data", "preset", "seed", "method", "stage", "task", "miou"]
    return pd.DataFrame([("toyscapes", "quick", *row) for row in rows], columns=columns)


@pytest.fixture
def scores():
    return tidy(
        (0, "T1", "T1", "task1", 90.0),
        (0, "CIL", "T3", "task123", 60.0),
        (0, "CIL", "T2", "task12", 50.0),
        (1, "CIL", "T2", "task12", 53.0),
        (0, "CIL", "T2", "task1", 80.0),
        (0, "FT", "T2", "task12", 20.0),
        (0, "SS", "T2", "task12", 70.0),
        (0, "CIL (w/o weights)", "T2", "task12", 55.0),
        (0, "mine", "T2", "task12", 99.0),
    )


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


def test_our_scores_are_averaged_over_seeds(scores):
    ours = our_scores(scores)
    assert ours.loc[("T2", "CIL"), "task12"] == 51.5
    assert ours.loc[("T2", "CIL"), "task1"] == 80.0
    assert np.isnan(ours.loc[("T2", "CIL"), "task2"])
    assert list(ours) == TASKS


# side by side


def test_a_comparison_has_the_rows_that_were_run_in_the_papers_order(scores):
    assert list(comparison("II", scores).index) == [
        ("T1, T2", "SS"),
        ("T1, T2", "FT"),
        ("T1, T2", "CIL"),
        ("T1, T2, T3", "CIL"),
    ]
    assert list(comparison("III", scores).index) == [
        ("T1, T2", "CIL (w/o weights)"),
        ("T1, T2", "CIL"),
        ("T1, T2, T3", "CIL"),
    ]


def test_a_comparison_shows_ours_beside_the_papers_for_each_task(scores):
    table = comparison("II", scores)
    assert list(table) == [(task, source) for task in TITLES for source in ("ours", "paper")]
    ours, paper = ("Task 1∪2", "ours"), ("Task 1∪2", "paper")
    assert table.loc[("T1, T2", "CIL"), [ours, paper]].tolist() == [51.5, 67.7]
    assert table.loc[("T1, T2", "FT"), [ours, paper]].tolist() == [20.0, 29.2]
    assert table.loc[("T1, T2, T3", "CIL"), ("Task 1∪2∪3", "ours")] == 60.0
    assert table.loc[("T1, T2, T3", "CIL"), ("Task 1∪2∪3", "paper")] == 62.2


def test_what_is_not_there_is_nan_in_a_comparison(scores):
    table = comparison("II", scores)
    at_t2 = table.loc[("T1, T2", "CIL")]
    assert at_t2[["Task 3", "Task 1∪2∪3"]].isna().all()
    assert np.isnan(at_t2[("Task 2", "ours")]) and at_t2[("Task 2", "paper")] == 63.9


def test_a_comparison_without_runs_is_empty():
    table = comparison("III", tidy())
    assert len(table) == 0
    assert list(table) == [(task, source) for task in TITLES for source in ("ours", "paper")]


def test_as_text_has_one_decimal_and_a_dash_for_what_is_missing(scores):
    lines = as_text(comparison("II", scores)).splitlines()
    cil = next(line for line in lines if "CIL" in line)  # T1, T2: the stage may be in a line above
    assert cil.split()[-10:] == ["80.0", "85.5", "–", "63.9", "51.5", "67.7", *"––––"]
    assert "nan" not in "".join(lines).lower()


def marks(table: pd.DataFrame, column: tuple) -> dict[tuple, str]:
    """The marks of a column as the notebook shows them: row -> style."""
    styler = highlight(table)._compute()
    rows, at = list(table.index), list(table).index(column)
    return {rows[i]: dict(style) for (i, j), style in styler.ctx.items() if j == at and style}


BOLD, UNDERLINED = {"font-weight": "bold"}, {"text-decoration": "underline"}


def test_the_best_is_bold_and_the_second_underlined_in_each_block_without_ss(scores):
    table = comparison("II", scores)
    assert marks(table, ("Task 1∪2", "ours")) == {
        ("T1, T2", "CIL"): BOLD,  # 51.5; SS has 70, out of competition
        ("T1, T2", "FT"): UNDERLINED,  # 20
    }
    assert marks(table, ("Task 1∪2", "paper")) == {
        ("T1, T2", "CIL"): BOLD,  # 67.7
        ("T1, T2", "FT"): UNDERLINED,  # 29.2
        ("T1, T2, T3", "CIL"): BOLD,  # alone in its block
    }
    assert marks(table, ("Task 3", "ours")) == {}


def test_the_notebooks_table_has_one_decimal_and_a_dash_for_what_is_missing(scores):
    html = highlight(comparison("II", scores)).to_html()
    assert ">51.5<" in html and ">–<" in html
    assert "nan" not in html.lower()


def test_the_command_prints_both_tables_of_a_folder(scores, monkeypatch, capsys, tmp_path):
    asked = []
    monkeypatch.setattr(tables.runs, "scores", lambda folder: asked.append(folder) or scores)
    tables.main(str(tmp_path))
    second, third = capsys.readouterr().out.split("Table III")
    assert asked == [tmp_path]
    assert "Table II:" in second and "FT" in second and "w/o weights" not in second
    assert "w/o weights" in third and "51.5" in third


def test_a_folder_without_runs_prints_two_empty_tables(capsys, tmp_path):
    tables.main(str(tmp_path))
    assert capsys.readouterr().out.count("Empty DataFrame") == 2
