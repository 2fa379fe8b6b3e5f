"""Reference scores as data: recorded, read back, compared with a run, shown in RESULTS.md."""

import re
from dataclasses import replace

import pandas as pd
import pytest

from cilkit.methods import METHODS, SS
from cilkit.results import reference, report
from cilkit.results.claims import check
from cilkit.results.scores import by_seed, our_scores, prediction_interval
from cilkit.results.tables import comparison
from cilkit.splits import load_split
from cilkit.study.plan import plan
from cilkit.study.provenance import settings
from cilkit.training.config import PRESETS

ABOUT = {"device": "cpu", "processor": "AVX2", "precision": "32-true", "threads": 1}
ABOUT |= {"python": "3.11.7", "torch": "2.15.0", "cilkit": "0.1.0"}
PAPER = load_split("cityscapes")


@pytest.fixture
def study(make_run):
    """study(seeds) are all runs of a study of quick: CIL is at 50, every other method at 40."""

    def make(seeds=(0, 1, 2), **changes):
        found = []
        for seed in seeds:
            for planned in plan(PAPER):
                name, stage = planned.method.name, planned.stage
                sets = PAPER.class_sets(stage)
                if not planned.method.extends and name not in ("T1", SS.name):
                    sets = {stage.task: stage.new}
                miou = dict.fromkeys(sets, (50.0 if name == "CIL" else 40.0) + seed)
                config = {"train": settings(PRESETS["quick"]), "environment": ABOUT} | changes
                found.append(make_run(name, stage.name, seed, miou, **config))
        return found

    return make


@pytest.fixture
def recorded(study, tmp_path, monkeypatch):
    """The same study as the only reference there is."""
    file = tmp_path / "reference_scores.csv"
    file.write_bytes(reference.as_csv(reference.rows_of(study())))
    monkeypatch.setattr(reference, "FILE", file)
    return file


def test_what_was_recorded_is_read_back_as_the_runs_it_came_from(study, recorded):
    found, before = reference.load("toyscapes", "quick"), study()
    assert reference.measured() == [("toyscapes", "quick")]
    pd.testing.assert_frame_equal(our_scores(found), our_scores(before))
    pd.testing.assert_frame_equal(comparison("III", found), comparison("III", before))
    pd.testing.assert_frame_equal(check(found), check(before))
    assert [of[0].config["seed"] for of in by_seed(found)] == [0, 1, 2]
    assert found[0].config["environment"] == ABOUT
    assert reference.load("toyscapes", "smoke") == []


def test_a_measurement_replaces_those_of_its_data_and_preset_alone(study, recorded):
    other = study(seeds=(7,), data="camvid")
    both = reference.with_new(reference.table(), reference.rows_of(other))
    assert both.groupby("data")["seed"].unique().map(list).to_dict() == {
        "camvid": [7],
        "toyscapes": [0, 1, 2],
    }
    again = reference.with_new(both, reference.rows_of(study(seeds=(5,))))
    assert set(again[again["data"] == "toyscapes"]["seed"]) == {5}
    assert len(again[again["data"] == "camvid"]) == len(both[both["data"] == "camvid"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: [], "no finished run; give the folder"),
        (lambda found: found[:-1], "seed 2 lacks CIL T3; finish the study first"),
        (
            lambda found: [_with(run, train=settings(replace(PRESETS["quick"], epochs=3)))
                           for run in found],
            "trained with other epochs than the preset 'quick'",
        ),
        (lambda found: [*found, replace(found[0])], "a seed counts once"),
    ],
)  # fmt: skip
def test_an_unfinished_or_changed_study_is_no_reference(study, change, message):
    with pytest.raises(ValueError, match=message):
        reference.rows_of(change(study()))


def test_a_study_of_ones_own_stages_is_no_reference(make_run, write_split, tmp_path):
    own = write_split(tmp_path, "A", "B")
    with pytest.raises(ValueError, match="split of your own called 'own'"):
        reference.rows_of([make_run("T1", "A", split=own)])


def test_the_range_holds_95_of_100_further_seeds():
    low, high = prediction_interval([1.0, 2.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2)
    assert high - 2 == pytest.approx(4.3027 * (1 + 1 / 3) ** 0.5, abs=1e-3)
    assert all(map(pd.isna, prediction_interval([1.0])))


def test_a_run_is_inside_or_outside_the_range_of_the_reference(study, recorded, make_run):
    train = settings(PRESETS["quick"])
    inside = make_run("CIL", "T2", 3, {"task1": 51.0, "task12": 70.0}, train=train)
    shown = reference.compare(inside)
    assert shown["yours is"].tolist() == ["inside", "outside"]
    assert shown.loc[("CIL T2", "Task 1∪2"), ["mean", "±", "seeds"]].tolist() == [51, 1, 3]
    low, high = prediction_interval([50, 51, 52])
    assert shown["low"].tolist() == [round(low, 1)] * 2
    assert shown["high"].tolist() == [round(high, 1)] * 2


def test_beside_a_single_seed_there_is_no_range(study, tmp_path, monkeypatch, make_run):
    file = tmp_path / "reference_scores.csv"
    file.write_bytes(reference.as_csv(reference.rows_of(study(seeds=(0,)))))
    monkeypatch.setattr(reference, "FILE", file)
    run = make_run("CIL", "T2", 3, {"task1": 50.0}, train=settings(PRESETS["quick"]))
    assert reference.compare(run)["yours is"].tolist() == ["beside one seed"]


def test_the_precision_does_not_matter_and_other_settings_do(study, recorded, make_run):
    precise = settings(replace(PRESETS["quick"], precision="32-true"))
    longer = settings(replace(PRESETS["quick"], epochs=99))
    shown = reference.compare(
        [make_run("FT", "T2", 3, {"task1": 41.0}, train=precise),
         make_run("FT", "T3", 3, {"task1": 41.0}, train=longer)]
    )  # fmt: skip
    assert shown["yours is"].tolist() == ["inside", "no reference for other epochs"]


def test_where_there_is_no_reference_the_reason_stands_there(recorded, make_run, write_split):
    smoke = {"train": settings(PRESETS["smoke"]), "preset": "smoke"}
    shown = reference.compare(make_run("FT", "T2", 0, {"task1": 41.0}, **smoke))
    assert list(shown) == ["yours", "yours is"]
    assert shown["yours is"].tolist() == ["no reference for smoke on toyscapes"]
    own = write_split(recorded.parent / "own", "A", "B")
    train = settings(PRESETS["quick"])
    run = make_run("FT", "B", 0, {"task1": 41.0}, train=train, split=own)
    assert reference.compare(run)["yours is"].tolist() == ["no reference for these stages"]
    first = make_run("T1", "A", 0, {"task1": 90.0}, train=train, split=own)
    names = [name for name, _ in reference.compare([first, run]).index]
    assert names == ["A", "FT B"]  # all methods share the first stage, whatever it is called
    mine = make_run("mine", "T2", 0, {"task1": 41.0}, train=train)
    assert reference.compare(mine)["yours is"].tolist() == ["no reference for 'mine'"]


# the page


def test_the_tables_of_the_results_page_are_those_of_the_reference_scores():
    text = report.PAGE.read_text(encoding="utf-8")
    assert report.written(text) == text, "python -m cilkit.results.report writes them anew"


def test_every_measured_study_is_on_the_results_page():
    text = report.PAGE.read_text(encoding="utf-8")
    for data, preset in reference.measured():
        assert f"<!-- scores {data} {preset} -->" in text


def test_a_page_shows_scores_differences_claims_and_machine(recorded):
    blocks = ["scores toyscapes quick", "minus toyscapes quick", "measured toyscapes quick"]
    blocks += ["ledger toyscapes/quick camvid/quick", "verdicts toyscapes/quick camvid/quick"]
    page = "".join(f"<!-- {block} -->\nSTALE\n<!-- end -->\n" for block in blocks)
    text = report.written(page)
    assert "STALE" not in text and report.written(text) == text
    assert "| CIL | T1 T2 T3 | 51.0 ± 1.0 (84.5) |" in text
    assert "| FT | **-10.0 [-10.0, -10.0]** |" in text
    assert "Seeds 0, 1, 2. Device cpu (AVX2), precision `32-true`" in text
    assert (
        text.count(" holds |")
        == check(reference.load("toyscapes", "quick"))["verdict"].value_counts()["holds"]
    )
    assert re.search(r"- toyscapes, `quick`: of 19 claims \d+ hold, \d+ fail, \d+ are", text)
    assert "- camvid, `quick`: not measured yet." in text


def test_an_unknown_block_is_an_error():
    with pytest.raises(ValueError, match="a block 'scorse' in RESULTS.md; there are scores"):
        report.written("<!-- scorse toyscapes quick -->\n<!-- end -->")


def test_a_study_is_recorded_and_the_page_written_by_one_command(
    study, tmp_path, monkeypatch, capsys
):
    page, file = tmp_path / "RESULTS.md", tmp_path / "reference_scores.csv"
    page.write_text("<!-- scores toyscapes quick -->\n<!-- end -->\n", encoding="utf-8")
    file.write_text(",".join(reference.COLUMNS) + "\n")
    monkeypatch.setattr(reference, "FILE", file)
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(reference.runs, "find", lambda folder: study())
    report.main("data/runs/toyscapes/quick")
    assert "| FT | T1 T2 |" in page.read_text(encoding="utf-8")
    assert "RESULTS.md written" in capsys.readouterr().out
    monkeypatch.setattr(reference.runs, "find", lambda folder: study()[:-1])
    before = file.read_bytes()
    with pytest.raises(ValueError, match="lacks CIL T3"):
        report.main("data/runs/toyscapes/quick")
    assert file.read_bytes() == before


@pytest.fixture
def written(study, tmp_path, monkeypatch):
    """written(change) records the scores of a study that were brought in a CSV file."""
    page, file = tmp_path / "RESULTS.md", tmp_path / "reference_scores.csv"
    page.write_text("")
    file.write_text(",".join(reference.COLUMNS) + "\n")
    monkeypatch.setattr(reference, "FILE", file)
    monkeypatch.setattr(report, "PAGE", page)

    def record(change=lambda rows: rows):
        both = [reference.rows_of(study(seeds=(0, 1), data=data)) for data in ("a", "b")]
        change(pd.concat(both)).to_csv(tmp_path / "scores.csv", index=False)
        report.main(str(tmp_path / "scores.csv"))
        return both

    return record


def test_scores_that_were_brought_in_a_file_are_recorded_as_those_of_a_folder(written):
    both = pd.concat(written(), ignore_index=True)
    assert reference.measured() == [("a", "quick"), ("b", "quick")]
    code = ["code"]  # here with names of several words, where a run has a hash
    pd.testing.assert_frame_equal(reference.table().drop(columns=code), both.drop(columns=code))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:0], "no finished run"),
        (lambda rows: _without_the_last_run(rows), "seed 1 lacks CIL T3; finish the study first"),
        (lambda rows: rows.assign(settings="0"), "other settings than the preset 'quick'"),
        (lambda rows: rows.drop(columns="code"), "lacks the columns code; wanted scores"),
        (lambda rows: rows.assign(code=[f"{k} m" for k in range(len(rows))]), "differ in code"),
    ],
)
def test_a_file_is_checked_as_a_folder_is(written, change, message):
    with pytest.raises(ValueError, match=message):
        written(change)
    assert reference.table().empty


# the reference of today


def test_the_reference_scores_are_of_the_presets_as_they_are():
    for data, preset in reference.measured():
        used = set(reference.table().query("data == @data and preset == @preset")["settings"])
        today = reference.fingerprint(settings(PRESETS[preset]))
        assert used == {today}, f"{preset} has changed: measure {data} again"


def test_all_methods_have_the_same_seeds_in_the_reference():
    for data, preset in reference.measured():
        seeds = [
            {run.config["seed"] for run in reference.load(data, preset)
             if run.config["method"] == method}
            for method in (SS.name, *METHODS)
        ]  # fmt: skip
        assert all(one == seeds[0] for one in seeds)


def _with(run, **changes):
    return replace(run, config=run.config | changes)


def _without_the_last_run(rows):
    key = ["data", "seed", "method", "stage"]
    return rows[(rows[key] != rows[key].iloc[-1]).any(axis=1)]
