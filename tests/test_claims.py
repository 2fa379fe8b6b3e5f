import math

import pandas as pd
import pytest

from cilkit.methods import METHODS
from cilkit.results.claims import CLAIMS, Claim, check, highlight, not_judged, paper_table
from cilkit.splits import load_split
from cilkit.study.runs import Run, maker


@pytest.fixture
def runs_of(make_run):
    """runs_of(table, seed) are runs with the scores of a table indexed by (stage, method)."""

    def runs_of(table: pd.DataFrame, seed: int = 0) -> list[Run]:
        return [
            make_run(method, stage, seed, row.dropna().to_dict())
            for (stage, method), row in table.iterrows()
        ]

    return runs_of


def changed(*changes: tuple[str, str, str, float]) -> pd.DataFrame:
    """The paper's table with other scores, each given as (method, stage, task, score)."""
    table = paper_table()
    for method, stage, task, score in changes:
        assert not math.isnan(table.loc[(stage, method), task])
        table.loc[(stage, method), task] = score
    return table


def row(ledger: pd.DataFrame, start: str) -> pd.Series:
    """The row of the one claim that starts so."""
    (found,) = [index for index, claim in ledger["claim"].items() if claim.startswith(start)]
    return ledger.loc[found]


# the paper's own tables


def test_all_claims_hold_on_the_papers_own_tables(runs_of):
    ledger = check(runs_of(paper_table()))
    assert list(ledger["claim"]) == [claim.sentence for claim in CLAIMS]
    assert set(ledger["verdict"]) == {"holds"} and (ledger["paper"] > 0).all()
    assert ledger["margin"].tolist() == pytest.approx(ledger["paper"].tolist())
    assert set(ledger["seeds"]) == {1} and set(ledger["missing"]) == {""}
    assert ledger[["low", "high"]].isna().all(axis=None)


def test_the_papers_table_for_claims_adds_task_1_of_t1_from_fe():
    table = paper_table()
    assert table.loc[("T1", "T1"), "task1"] == table.loc[("T2", "FE"), "task1"] == 86.2
    assert table.loc[("T1", "T1")].drop("task1").isna().all() and len(table) == 17


AGAINST = [  # claim, a score of the paper that is changed, and the margin that this leaves
    ("FT forgets", ("FT", "T2", "task1", 80.0), 86.2 - 80 - 10),
    ("FE keeps Task 1", ("FE", "T2", "task1", 80.0), 5 - 6.2),
    ("FE keeps Task 1", ("FE", "T2", "task1", 92.0), 5 - 5.8),
    ("FE cannot learn Task 2", ("FE", "T2", "task2", 50.0), 59.7 - 50 - 10),
    ("FT and FE both fail across tasks", ("FT", "T2", "task12", 61.0), 70.7 - 61 - 10),
    ("FT and FE both fail across tasks", ("FE", "T2", "task12", 65.0), 70.7 - 65 - 10),
    ("CIL is much better than FT and FE", ("FT", "T3", "task123", 60.0), 62.2 - 60 - 10),
    ("CIL is much better than FT and FE", ("FE", "T3", "task123", 53.0), 62.2 - 53 - 10),
    ("LWOF is good at each task alone", ("LWOF", "T2", "task1", 82.0), 5 - 5.7),
    ("LWOF is good at each task alone", ("LWOF", "T2", "task2", 61.0), 5 - 5.1),
    ("LWOF is poor across tasks", ("LWOF", "T2", "task12", 61.0), 70.7 - 61 - 10),
    ("LWM mends that", ("LWM", "T2", "task12", 57.0), 57 - 57.2),
    ("LWM does so at similar", ("LWM", "T2", "task1", 91.0), 5 - 5.6),
    ("LWM does so at similar", ("LWM", "T2", "task2", 57.0), 5 - 5.8),
    ("Michieli is the best", ("LWOF", "T2", "task1", 87.5), 87 - 87.5),
    ("Michieli is the best", ("LWM", "T2", "task1", 87.5), 87 - 87.5),
    ("Michieli is the best", ("CIL (w/o weights)", "T2", "task1", 88.0), 87 - 88),
    ("Michieli is the best", ("CIL", "T2", "task1", 88.0), 87 - 88),
    ("Michieli is the worst", ("LWOF", "T2", "task2", 59.0), 59 - 59.7),
    ("Michieli is the worst", ("LWM", "T2", "task2", 59.0), 59 - 59.7),
    ("Michieli is the worst", ("CIL (w/o weights)", "T2", "task2", 58.0), 58 - 59.7),
    ("Michieli is the worst", ("CIL", "T2", "task2", 58.0), 58 - 59.7),
    ("Michieli, with labels for all", ("LWOF", "T2", "task12", 68.0), 66.4 - 68),
    ("Michieli, with labels for all", ("LWM", "T2", "task12", 67.0), 66.4 - 67),
    ("CIL (w/o weights), with new", ("Michieli", "T2", "task12", 69.0), 68.8 - 69),
    ("CIL is better than Michieli", ("Michieli", "T3", "task123", 63.0), 62.2 - 63),
    ("CIL is better than LWOF and LWM", ("LWOF", "T3", "task123", 63.0), 62.2 - 63),
    ("CIL is better than LWOF and LWM", ("LWM", "T3", "task123", 63.0), 62.2 - 63),
    ("The entropy weights cost", ("CIL", "T2", "task12", 69.0), 68.8 - 69),
    ("They cost only a little", ("CIL", "T2", "task12", 63.0), 5 - 5.8),
    ("The entropy weights pay", ("CIL", "T3", "task123", 59.0), 59 - 59.5),
    ("CIL after two extensions", ("CIL", "T3", "task123", 59.0), 5 - 5.4),
]


@pytest.mark.parametrize(("start", "change", "margin"), AGAINST)
def test_a_claim_does_not_hold_once_a_score_is_turned_against_it(runs_of, start, change, margin):
    found = row(check(runs_of(changed(change))), start)
    assert found["verdict"] == "does not hold" and margin < 0
    assert found["margin"] == pytest.approx(margin)
    assert found["paper"] == row(check(runs_of(paper_table())), start)["margin"] > 0


def test_every_claim_is_turned_against_itself():
    starts = {start for start, _, _ in AGAINST}
    turned = {c.sentence for c in CLAIMS for start in starts if c.sentence.startswith(start)}
    assert turned == {claim.sentence for claim in CLAIMS} and len(starts) == len(CLAIMS)


def test_a_draw_is_no_win(runs_of):
    found = row(check(runs_of(changed(("LWM", "T2", "task12", 57.2)))), "LWM mends that")
    assert (found["margin"], found["verdict"]) == (0, "does not hold")


# what has not been run


@pytest.mark.parametrize("method", ["T1", "SS", *METHODS])
def test_a_claim_about_what_has_not_been_run_names_the_notebook(runs_of, method):
    without = paper_table().drop(method, level="method")
    ledger = check(runs_of(without))
    missing = ledger[ledger["verdict"] == "not run"]
    assert len(missing) > 0 and (ledger["verdict"] == "holds").sum() == len(ledger) - len(missing)
    for what in missing["missing"]:
        stage = what.removeprefix(f"{method} in ").split()[0]
        assert what == f"{method} in {stage} ({maker(method, stage, 'T2')})"
    assert missing["missing"].str.startswith(f"{method} in T").all()
    assert missing[["margin", "low", "high"]].isna().all(axis=None)
    assert set(missing["seeds"]) == {0} and (missing["paper"] > 0).all()


def test_a_stage_or_a_task_that_is_missing_is_not_run_either(runs_of):
    no_t3 = check(runs_of(paper_table().drop("T3", level="stage")))
    assert row(no_t3, "CIL is better than Michieli")["missing"] == "CIL in T3 (10_cil)"
    assert row(no_t3, "FT forgets")["verdict"] == "holds"
    no_score = changed(("LWM", "T2", "task12", math.nan))
    assert row(check(runs_of(no_score)), "LWM mends")["missing"] == "LWM in T2 (08_lwm)"


def test_without_any_run_nothing_is_decided_and_the_paper_is_still_there():
    ledger = check([])
    assert set(ledger["verdict"]) == {"not run"} and set(ledger["seeds"]) == {0}
    assert set(ledger["missing"]) == {"no run at all (make study)"}
    assert (ledger["paper"] > 0).all() and len(ledger) == len(CLAIMS)


# several seeds

OURS = Claim(
    "CIL is better than FT in Task 1∪2.",
    "here",
    lambda s: s("CIL", "T2", "task12") - s("FT", "T2", "task12"),
)


@pytest.fixture
def seeds(make_run):
    """seeds(4, 5, 6) are runs of three seeds in which CIL is 4, 5 and 6 points better than FT."""

    def seeds(*margins: float) -> list[Run]:
        return [
            make_run(method, "T2", seed, {"task12": score})
            for seed, margin in enumerate(margins)
            for method, score in (("CIL", 50 + 2 * seed + margin), ("FT", 50 + 2 * seed))
        ]

    return seeds


@pytest.mark.parametrize(
    ("margins", "verdict", "mean", "half"),
    [
        # standard error of the mean 1 / sqrt 3, and t(0.975, 2) = 4.303
        ((4, 5, 6), "holds", 5, 4.302653 / 3**0.5),
        ((-4, -5, -6), "does not hold", -5, 4.302653 / 3**0.5),
        ((1, 2, 3), "undecided", 2, 4.302653 / 3**0.5),
        ((-1, -2, -3), "undecided", -2, 4.302653 / 3**0.5),
        # standard error 2, and t(0.975, 1) = 12.706
        ((2, 6), "undecided", 4, 2 * 12.706205),
        ((5, 5), "holds", 5, 0),
        ((0, 0), "undecided", 0, 0),
        # standard error sqrt(20 / 3) / 2 = 1.291, and t(0.975, 3) = 3.182
        ((1, 3, 5, 7), "undecided", 4, 3.182446 * 1.2909944),
        ((2, 4, 6, 8), "holds", 5, 3.182446 * 1.2909944),
    ],
)
def test_several_seeds_give_a_mean_and_its_interval_by_students_t(
    seeds, margins, verdict, mean, half
):
    (found,) = check(seeds(*margins), [OURS]).to_dict("records")
    assert found["verdict"] == verdict and found["seeds"] == len(margins)
    assert found["margin"] == pytest.approx(mean)
    assert found["low"] == pytest.approx(mean - half, abs=1e-5)
    assert found["high"] == pytest.approx(mean + half, abs=1e-5)
    assert found["paper"] == pytest.approx(67.7 - 29.2)


def test_a_margin_is_taken_within_a_seed_and_not_between_seeds(make_run):
    """The better one is 3 above CIL in one seed and 2 in the other; both means are below it."""
    scores = {"CIL": (60.0, 60.0), "LWOF": (63.0, 50.0), "LWM": (50.0, 62.0)}
    found = [
        make_run(method, "T2", seed, {"task12": of_seed[seed]})
        for method, of_seed in scores.items()
        for seed in (0, 1)
    ]
    best = Claim(
        "The better one of LWOF and LWM is above CIL.",
        "here",
        lambda s: max(s(m, "T2", "task12") for m in ("LWOF", "LWM")) - s("CIL", "T2", "task12"),
    )
    assert check(found, [best])["margin"].tolist() == [2.5]


def test_a_seed_in_which_a_score_is_missing_does_not_count(seeds):
    found = seeds(4, 90)[:3]  # FT of seed 1 has not been run
    (one,) = check(found, [OURS]).to_dict("records")
    assert (one["seeds"], one["margin"], one["verdict"], one["missing"]) == (1, 4, "holds", "")
    assert math.isnan(one["low"]) and math.isnan(one["high"])
    (none,) = check([found[0], found[2]], [OURS]).to_dict("records")
    assert (none["seeds"], none["verdict"], none["missing"]) == (
        0,
        "not run",
        "FT in T2 (06_ft_fe)",
    )


# what must not be mixed


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"preset": "paper"}, "preset"),
        ({"data": "camvid"}, "data"),
        ({"train": {"epochs": 9, "batch": 2}}, "epochs"),
        ({"code": {"shared": "89ab", "method": "FT"}}, "code"),
        ({"split": {"name": "mine"}}, "split"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_claims_are_not_checked_on_mixed_configurations(make_run, changes, field, seed):
    found = [make_run("CIL", "T2", 0, {"task12": 60.0})]
    found.append(make_run("FT", "T2", seed, {"task12": 50.0}, **changes))
    with pytest.raises(ValueError, match=f"FT_T2 differ in {field}; a table holds runs of one"):
        check(found)


# for the notebook


def cells(ledger: pd.DataFrame) -> tuple[list[str], list[list[str]], dict]:
    """What the notebook shows: the headers, the cells row by row, and the styles."""
    styler = highlight(ledger)._compute()
    shown = styler._translate(sparse_index=False, sparse_cols=False)
    headers = [cell["display_value"] for cell in shown["head"][0] if cell["is_visible"]]
    rows = [[c["display_value"] for c in line if c["is_visible"]] for line in shown["body"]]
    return headers, rows, styler.ctx


def test_the_notebooks_ledger_has_signed_margins_and_what_does_not_hold_in_bold(runs_of):
    ledger = check(runs_of(changed(("LWM", "T2", "task12", 57.0))))
    headers, rows, styles = cells(ledger)
    assert headers == ["claim", "place", "paper", "verdict", "margin", "seeds"]
    at = [claim.startswith("LWM mends") for claim in ledger["claim"]].index(True)
    assert rows[at][2:5] == ["+5.3", "does not hold", "-0.2"]
    bold = {place[0] for place, style in styles.items() if ("font-weight", "bold") in style}
    assert bold == {at}


def test_the_notebooks_ledger_says_what_to_run_and_shows_intervals_of_several_seeds(seeds, runs_of):
    headers, rows, _ = cells(check(seeds(4, 5, 6), [OURS, CLAIMS[0]]))
    assert headers[3:] == ["verdict", "margin", "low", "high", "seeds", "to run"]
    assert rows[0][3:] == ["holds", "+5.0", "+2.5", "+7.5", "3", ""]
    assert rows[1][3:] == ["not run", "–", "–", "–", "0", "T1 in T1 (05_train_t1)"]


def test_a_claim_about_a_method_of_ones_own_has_no_margin_in_the_paper(make_run):
    mine = Claim(
        "Mine is better than CIL.",
        "here",
        lambda s: s("mine", "T2", "task12") - s("CIL", "T2", "task12"),
    )
    cil = make_run("CIL", "T2", 0, {"task12": 50.0})
    ledger = check([make_run("mine", "T2", 0, {"task12": 60.0}), cil], [mine])
    assert ledger["verdict"].tolist() == ["holds"] and ledger["paper"].isna().all()
    assert "study.run('T2', 'mine')" in check([cil], [mine])["missing"][0]
    highlight(ledger).to_html()


# other stages than the paper's


def test_the_papers_claims_are_not_judged_on_other_stages_and_one_sentence_says_why(
    make_run, write_split, tmp_path
):
    split = write_split(tmp_path, "A", "B")
    found = [make_run("FT", "B", 0, {"task1": 20.0}, split)]
    assert not_judged(found) == (
        "The paper's claims are not judged here: they are about the 3 stages T1, T2, T3, and this "
        "split has 2: A, B."
    )
    ledger = check(found)
    assert ledger.empty and list(ledger) == list(check([]))
    highlight(ledger).to_html()


@pytest.mark.parametrize("name", ["cityscapes", "camvid"])
def test_they_are_judged_where_the_stages_are_called_as_in_the_paper(make_run, name):
    table, split = paper_table(), load_split(name)
    found = [
        make_run(method, stage, 0, row.dropna().to_dict(), split)
        for (stage, method), row in table.iterrows()
    ]
    ledger = check(found)
    assert not_judged(found) == not_judged([]) == ""
    assert len(ledger) == len(CLAIMS) and set(ledger["verdict"]) == {"holds"}


def test_a_claim_of_ones_own_may_be_about_stages_of_ones_own(make_run, write_split, tmp_path):
    split = write_split(tmp_path, *"ABCDE")
    found = [
        make_run(method, "E", 0, {"task12345": score}, split)
        for method, score in (("CIL", 50.0), ("FT", 20.0))
    ]
    mine, other = (
        Claim("CIL is above FT.", "here", lambda s, at=at: s("CIL", *at) - s("FT", *at))
        for at in (("E", "task12345"), ("T3", "task123"))
    )
    ledger = check(found, [mine, other])
    assert ledger["verdict"].tolist() == ["holds", "not run"]
    assert ledger["margin"][0] == 30 and math.isnan(ledger["paper"][0])
    assert ledger["missing"][1] == "no stage T3 in this split, which has A, B, C, D, E"
