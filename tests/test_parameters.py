"""What stands on a command line, read before anything is done with it."""

import pytest

from cilkit.study.parameters import parse, several


def test_a_list_is_its_items_and_whole_numbers_are_numbers():
    assert several("SEEDS", "0, 1,12") == [0, 1, 12]
    assert several("SEEDS", 3) == [3]
    assert several("METHODS", "CIL (w/o weights),CIL") == ["CIL (w/o weights)", "CIL"]
    assert several("DATA", "toyscapes,../my data") == ["toyscapes", "../my data"]
    assert several("SEEDS", "-1,1.5") == ["-1", "1.5"]  # for check_seed to refuse


@pytest.mark.parametrize("given", ["", ",", "0,", ",0", "0,,1", "0, ,1"])
def test_a_list_with_nothing_between_two_commas_is_refused(given):
    with pytest.raises(ValueError, match="with an empty item; wanted SEEDS=a,b"):
        several("SEEDS", given)


@pytest.mark.parametrize("given", ["1,0,1", "1,01", "1, 1"])
def test_a_list_with_an_item_there_twice_is_refused(given):
    with pytest.raises(ValueError, match="with 1 in it twice; give it once"):
        several("SEEDS", given)


def test_parameters_are_read_as_make_takes_them():
    assert parse(["SEED=7", "DATA=my=data", "PRESET=smoke"]) == {
        "SEED": 7,
        "DATA": "my=data",
        "PRESET": "smoke",
    }
    assert parse([]) == {}
