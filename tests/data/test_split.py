from dataclasses import replace

import numpy as np
import pytest
from tests.data.hospital import COLUMNS, WINDOW, build_hospital

from sfumato.base.errors import BadInput
from sfumato.data import Columns, Decoder, check_disjoint, holdout, image_folder, one_per_record, shapes


@pytest.fixture
def export(tmp_path):
    return build_hospital(tmp_path, num_patients=20)


def opened(export):
    return image_folder(export.root, export.table, columns=Columns(**COLUMNS), decoder=Decoder(window=WINDOW))


def names(captioned):
    return {captioned.owner_names[captioned.owner_codes[row]] for row in captioned.selection}


def test_no_owner_stands_on_both_sides(export):
    whole = opened(export)
    train, test = holdout(whole, 0.25)
    assert test.num_records == 5
    assert train.num_records == 15
    assert len(train) + len(test) == len(whole)
    assert not names(train) & names(test)
    assert holdout(whole, 0.25)[1].selection.tolist() == test.selection.tolist()
    assert holdout(whole, 0.25, seed=1)[1].selection.tolist() != test.selection.tolist()


def test_one_owner_more_moves_at_most_one_other(export):
    whole = opened(export)
    held = names(holdout(whole, 0.25)[1])
    for record in whole.owners[:6]:
        others = np.setdiff1d(np.arange(len(whole)), record)
        assert len(held ^ names(holdout(whole.select(others), 0.25)[1])) <= 2


def test_rows_are_split_where_there_are_no_owners():
    train, test = holdout(shapes(100), 0.1)
    assert len(test) == 10
    assert len(train) == 90
    assert not set(train.selection.tolist()) & set(test.selection.tolist())


def test_shared_owners_files_and_rows_are_refused(export):
    whole = opened(export)
    train, test = holdout(whole, 0.25)
    check_disjoint(train, test)
    with pytest.raises(BadInput, match="share 1 owners"):
        check_disjoint(train, whole.select([*test.selection, train.selection[0]]))
    nobody = {"owner_codes": None, "owner_names": ()}
    with pytest.raises(BadInput, match="share 2 picture files"):
        check_disjoint(replace(whole.select([0, 1, 2]), **nobody), replace(whole.select([1, 2, 3]), **nobody))
    with pytest.raises(BadInput, match="share 3 rows"):
        check_disjoint(shapes(10).select([1, 2, 3, 4]), shapes(10).select([2, 3, 4, 5]))
    check_disjoint(shapes(10), shapes(10, split="test"))
    check_disjoint(shapes(10), shapes(10, seed=1))


def test_the_message_names_nobody(export):
    whole = opened(export)
    with pytest.raises(BadInput) as caught:
        check_disjoint(whole, whole)
    assert "P0" not in str(caught.value)
    assert "20 owners" in str(caught.value)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, 0.01, 0.99])
def test_neither_side_may_be_empty(export, fraction):
    with pytest.raises(BadInput, match="holdout"):
        holdout(opened(export), fraction)


def test_one_row_per_record(export):
    whole = opened(export)
    one = one_per_record(whole)
    assert len(one) == one.num_records == whole.num_records
    assert one.selection.tolist() == [rows[0] for rows in whole.owners]
    assert names(one) == names(whole)
    assert one_per_record(shapes(5)).selection == range(5)


def test_owners_are_compared_in_their_one_form(export):
    whole = opened(export)
    train, test = whole.select([0]), whole.select([1])
    for one, other in (("Jos\u00e9", "Jose\u0301\u200b "), ("7", "7.00"), ("10000000", "1E+07")):
        codes = np.zeros(len(whole), np.int64)
        first, second = (
            replace(part, owner_codes=codes, owner_names=(name,)) for part, name in ((train, one), (test, other))
        )
        with pytest.raises(BadInput, match="share 1 owners"):
            check_disjoint(first, second)
