import json
import pickle
import random

import numpy as np
import pytest
import torch
from tests.data.hospital import COLUMNS, WINDOW, build_hospital
from tests.data.test_labelled import build as build_labelled
from torch.utils.data import DataLoader

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.base.seeds import derive, generator
from sfumato.data import Columns, Decoder, Jitter, PairRows, Preprocess, TwoViews, image_folder, shapes
from sfumato.train.rows import RowRequest, Rows

STILL = Jitter(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, grey=0.0)


def encode(captions):
    """The letters of a caption, 0 on padding: a stand-in for a tokenizer."""
    ids = np.zeros((len(captions), 40), np.int64)
    for row, caption in enumerate(captions):
        ids[row, : len(caption)] = [ord(letter) for letter in caption[:40]]
    return ids


def text(ids):
    return "".join(chr(number) for number in ids if number)


def pairs_of(captioned, *, augment="crop", vary_captions=True, jitter=None):
    preprocess = Preprocess(image_size=24, augment=augment)
    return PairRows(
        captioned=captioned,
        preprocess=preprocess,
        encode=encode,
        max_tokens=40,
        vary_captions=vary_captions,
        jitter=jitter,
        text_name="input_ids",
    )


def hospital(tmp_path, num_broken=0):
    """Patient i has 1 + i % 4 pictures; a caption says which patient and visit it is of."""
    export = build_hospital(tmp_path, num_broken=num_broken)
    captioned = image_folder(export.root, export.table, columns=Columns(**COLUMNS), decoder=Decoder(window=WINDOW))
    return export, captioned


def datasets():
    scenes = shapes(6, image_size=32)
    return [
        TwoViews.suited(scenes, 24),
        TwoViews.suited(scenes, 80),  # with blur
        pairs_of(scenes, jitter=Jitter.suited(24, captions=True)),
    ]


def made(dataset, rows, num_workers=0):
    """The rows in the given order, each by its own key, as the loader of training makes them."""
    requests = [RowRequest(row, derive(bytes(32), "augment", row)) for row in rows]
    loader = DataLoader(Rows(dataset), sampler=requests, batch_size=None, num_workers=num_workers)
    return {row: made_row for row, (_, made_row) in zip(rows, loader, strict=True)}


@pytest.mark.parametrize("place", range(3))
def test_a_row_is_a_function_of_its_key_on_any_worker_and_in_any_order(place):
    dataset = datasets()[place]
    expected = made(dataset, [0, 1, 2, 3, 4, 5])
    for found in (made(dataset, [4, 0, 5, 2, 1, 3]), made(dataset, [5, 3, 1, 0, 2, 4], num_workers=2)):
        for row, views in expected.items():
            assert list(found[row]) == list(views)
            assert all(torch.equal(found[row][name], views[name]) for name in views)
    keys = {row["pixel_values"].numpy().tobytes() for row in expected.values()}
    assert len(keys) == 6


@pytest.mark.parametrize("place", range(3))
def test_no_global_generator_is_read_or_moved(place):
    dataset = datasets()[place]
    first = dataset.draw(2, generator(bytes(32)))
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    again = dataset.draw(2, generator(bytes(32)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_two_views_are_two_pictures_of_one_row():
    captioned = shapes(3, image_size=32)
    row = TwoViews.suited(captioned, 24, channels=1).draw(0, generator(bytes(32)))
    assert list(row) == ["pixel_values", "other_view"]
    assert all((view.shape, view.dtype) == ((1, 24, 24), torch.float32) for view in row.values())
    assert not torch.equal(row["pixel_values"], row["other_view"])


def test_both_views_have_the_same_law():
    """Neither view is drawn more gently: their means agree over many draws, and spread alike."""
    views = TwoViews.suited(shapes(1, image_size=32), 16)
    drawn = [views.draw(0, generator(derive(bytes(32), number))) for number in range(300)]
    means = torch.stack([torch.stack([row[name].mean() for row in drawn]) for name in ("pixel_values", "other_view")])
    assert (means[0].mean() - means[1].mean()).abs() < 4 * means.std() * (2 / 300) ** 0.5
    assert 0.8 < means[0].std() / means[1].std() < 1.25
    assert torch.corrcoef(means)[0, 1].abs() < 0.25


def test_what_suits_two_views():
    scenes = shapes(2)
    found = TwoViews.suited(scenes, 32, channels=1, scale=(0.5, 1.0))
    assert (found.preprocess.augment, found.preprocess.flip, found.preprocess.scale) == ("crop", False, (0.5, 1.0))
    assert (found.jitter.hue, found.jitter.blur) == (0.0, 0.0)
    assert TwoViews.suited(build_labelled(flip=True), 32).preprocess.flip
    assert TwoViews.suited(scenes, 32, jitter=STILL).jitter is STILL
    assert TwoViews.suited(scenes, 128).jitter.blur > 0


def test_two_equal_views_are_refused():
    with pytest.raises(BadInput, match="one picture twice"):
        TwoViews.suited(shapes(2), 32, jitter=STILL, augment="none")
    TwoViews.suited(shapes(2), 32, jitter=STILL, augment="shift")


def test_rows_of_evaluation_are_fixed():
    for dataset in datasets():
        first, again = dataset[3], dataset[3]
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["pixel_values"], dataset[4]["pixel_values"])


def test_jitter_of_captioned_rows_moves_training_pictures_only():
    scenes = shapes(3)
    plain = pairs_of(scenes, augment="none", vary_captions=False)
    jittered = pairs_of(scenes, augment="none", vary_captions=False, jitter=Jitter.suited(24, captions=True))
    one, other = (rows.draw(1, generator(bytes(32))) for rows in (plain, jittered))
    assert not torch.equal(one["pixel_values"], other["pixel_values"])
    assert torch.equal(one["input_ids"], other["input_ids"])
    assert torch.equal(plain[1]["pixel_values"], jittered[1]["pixel_values"]), "evaluation is never distorted"


def test_rows_that_cannot_be_read(tmp_path):
    export, captioned = hospital(tmp_path, num_broken=3)
    with pytest.raises(UndecodableRow):
        TwoViews.suited(captioned, 24).draw(export.broken[0], generator(bytes(32)))


def test_owners_and_manifests_are_forwarded(tmp_path):
    _, captioned = hospital(tmp_path)
    two, many = TwoViews.suited(captioned, 24), pairs_of(captioned)
    for dataset in (two, many):
        assert len(dataset) == len(captioned)
        assert [rows.tolist() for rows in dataset.owners] == [rows.tolist() for rows in captioned.owners]
        assert json.loads(json.dumps(dataset.manifest())) == dataset.manifest()
    others = [
        TwoViews.suited(captioned, 24, jitter=STILL),
        TwoViews.suited(captioned, 24, scale=(0.5, 1.0)),
        pairs_of(captioned, vary_captions=False),
        pairs_of(captioned, jitter=STILL),
    ]
    manifests = [json.dumps(dataset.manifest(), sort_keys=True) for dataset in (two, many, *others)]
    assert len(set(manifests)) == len(manifests)


def test_views_travel_to_workers():
    for dataset in datasets():
        again = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(again[1]["pixel_values"], dataset[1]["pixel_values"])
