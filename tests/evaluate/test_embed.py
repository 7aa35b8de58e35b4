import dataclasses

import numpy as np
import pytest
from tests.evaluate.stand_ins import Plain, shades

from sfumato.base import BadInput
from sfumato.data import holdout, shapes
from sfumato.evaluate.embed import batches, check_distinct, count_shared, embed

MEANS = {"mean": lambda pictures: pictures.mean((1, 2, 3))[:, None], "corner": lambda pictures: pictures[:, 0, 0, :3]}


def test_features_are_those_of_each_picture_whatever_the_batch():
    dataset = shades(11)
    expected = dataset.images.reshape(11, -1).mean(1) / 255
    for batch_size in (1, 4, 11, 100):
        found = embed(dataset, Plain(), MEANS, batch_size=batch_size)
        assert found.features["mean"][:, 0] == pytest.approx(expected, abs=1e-6)
        assert found.features["mean"].dtype == np.float32
        assert found.features["corner"].shape == (11, 3)
        assert found.rows.tolist() == list(range(11))


def test_chosen_rows_come_in_their_order():
    dataset = shades(11)
    found = embed(dataset, Plain(), MEANS, rows=np.array([7, 2, 5]), batch_size=2)
    assert found.rows.tolist() == [7, 2, 5]
    assert found.features["mean"][:, 0] == pytest.approx(dataset.images[[7, 2, 5]].reshape(3, -1).mean(1) / 255)


def test_unreadable_rows_are_left_out_and_counted():
    dataset = shades(11, broken=frozenset({0, 1, 5}))
    found = embed(dataset, Plain(), MEANS, batch_size=2)
    assert found.rows.tolist() == [2, 3, 4, 6, 7, 8, 9, 10]
    assert found.num_unreadable == 3
    assert len(found.features["mean"]) == len(found.digests) == 8
    assert all(len(batch.rows) for batch in batches(dataset, Plain(), batch_size=2))


def test_a_set_without_a_readable_picture_is_refused():
    with pytest.raises(BadInput, match="none of 3 pictures"):
        embed(shades(3, broken=frozenset(range(3))), Plain(), MEANS)


def test_progress_is_told():
    heard = []
    embed(shades(5), Plain(), MEANS, batch_size=2, progress=lambda *told: heard.append(told), what="x")
    assert heard == [("x", 2, 5), ("x", 4, 5), ("x", 5, 5)]


def test_one_set_under_two_names_is_refused():
    train = shades(8)
    for other in (train, shades(8), dataclasses.replace(train, name="other", public=False)):
        with pytest.raises(BadInput, match="the test set is the training set"):
            check_distinct(train, other)
    check_distinct(train, shades(8, seed=1))


def test_overlapping_captioned_sets_are_refused():
    everything = shapes(20, image_size=16)
    train, test = holdout(everything, 0.25)
    check_distinct(train, test)
    with pytest.raises(BadInput, match="share 5 rows"):
        check_distinct(everything, test)
    check_distinct(shapes(20, image_size=16), shapes(20, image_size=16, split="unseen"))


def test_copied_pictures_are_counted_and_a_copied_set_refused(caplog):
    train, fresh = shades(10), shades(10, seed=1)
    mixed = dataclasses.replace(fresh, images=np.concatenate([fresh.images[:7], train.images[:3]]))
    seen = embed(train, Plain(), MEANS)
    assert count_shared(seen, embed(fresh, Plain(), MEANS)) == 0
    assert count_shared(seen, embed(mixed, Plain(), MEANS)) == 3
    assert "3 of 10" in caplog.text
    with pytest.raises(BadInput, match="all 4 test pictures"):
        count_shared(seen, embed(train, Plain(), MEANS, rows=np.arange(4)))
