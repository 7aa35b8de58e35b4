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
from sfumato.data import Columns, Decoder, Jitter, PairRows, Preprocess, TwoViews, ViewRows, image_folder, shapes
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


def views_of(captioned, num_views=4, *, augment="crop", vary_captions=True, **settings):
    preprocess = Preprocess(image_size=24, augment=augment)
    pairs = PairRows(
        captioned=captioned,
        preprocess=preprocess,
        encode=encode,
        max_tokens=40,
        vary_captions=vary_captions,
        text_name="input_ids",
    )
    return ViewRows(pairs=pairs, num_views=num_views, **settings)


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
        views_of(scenes, jitter=Jitter.suited(24, captions=True)),
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


def test_views_with_captions_have_one_shape():
    row = views_of(shapes(3), 3).draw(1, generator(bytes(32)))
    assert (row["pixel_values"].shape, row["pixel_values"].dtype) == ((3, 3, 24, 24), torch.float32)
    assert (row["input_ids"].shape, row["input_ids"].dtype) == ((3, 40), torch.int64)
    assert len({view.numpy().tobytes() for view in row["pixel_values"]}) == 3
    assert {text(ids) for ids in row["input_ids"].tolist()} == {shapes(3)[1]["caption"][:40]}


def test_views_take_different_captions_as_far_as_they_go():
    captioned = build_labelled(templates=("a {label}", "the {label}", "{label}"))
    seen = set()
    for seed in range(30):
        row = views_of(captioned, 4).draw(0, np.random.default_rng(seed))
        texts = [text(ids) for ids in row["input_ids"].tolist()]
        assert set(texts[:3]) == {"a owl", "the owl", "owl"}
        assert texts[3] == texts[0]
        seen.add(texts[0])
    assert seen == {"a owl", "the owl", "owl"}
    fixed = views_of(captioned, 4, vary_captions=False).draw(0, np.random.default_rng(0))
    assert {text(ids) for ids in fixed["input_ids"].tolist()} == {"a owl"}


def test_views_across_the_rows_of_a_record(tmp_path):
    """Each view is a picture with its own caption: told by the pixels of the row that the caption is of."""
    _, captioned = hospital(tmp_path)
    views = views_of(captioned, 4, augment="none", across_rows=True)
    still = Preprocess(image_size=24, augment="none")
    for rows in views.owners:
        index = int(rows[-1])
        drawn = views.draw(index, generator(derive(bytes(32), index)))
        shown = []
        for pixels, ids in zip(drawn["pixel_values"], drawn["input_ids"].tolist(), strict=True):
            match = [row for row in rows if torch.equal(pixels, still.evaluate(captioned[row]["image"]))]
            assert len(match) == 1
            assert text(ids) == captioned[match[0]]["caption"]
            shown.append(int(match[0]))
        assert shown[0] == index
        assert set(shown) == set(rows)  # at most four rows, four views


def test_rows_that_cannot_be_read(tmp_path):
    export, captioned = hospital(tmp_path, num_broken=3)
    views = views_of(captioned, 4, augment="none", across_rows=True)
    for rows in views.owners:
        whole = [int(row) for row in rows if row not in export.broken]
        for row in set(rows.tolist()) - set(whole):
            with pytest.raises(UndecodableRow):
                views.draw(row, generator(bytes(32)))
        if whole:
            assert views.draw(whole[0], generator(bytes(32)))["pixel_values"].shape == (4, 3, 24, 24)
    with pytest.raises(UndecodableRow):
        TwoViews.suited(captioned, 24).draw(export.broken[0], generator(bytes(32)))


def test_owners_and_manifests_are_forwarded(tmp_path):
    _, captioned = hospital(tmp_path)
    two, many = TwoViews.suited(captioned, 24), views_of(captioned, 2)
    for dataset in (two, many):
        assert len(dataset) == len(captioned)
        assert [rows.tolist() for rows in dataset.owners] == [rows.tolist() for rows in captioned.owners]
        assert json.loads(json.dumps(dataset.manifest())) == dataset.manifest()
    others = [
        TwoViews.suited(captioned, 24, jitter=STILL),
        TwoViews.suited(captioned, 24, scale=(0.5, 1.0)),
        views_of(captioned, 3),
        views_of(captioned, 2, across_rows=True),
        views_of(captioned, 2, jitter=STILL),
    ]
    manifests = [json.dumps(dataset.manifest(), sort_keys=True) for dataset in (two, many, *others)]
    assert len(set(manifests)) == len(manifests)


def test_views_travel_to_workers():
    for dataset in datasets():
        again = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(again[1]["pixel_values"], dataset[1]["pixel_values"])


def test_wrong_settings_are_named():
    scenes = shapes(2)
    with pytest.raises(BadInput, match="num_views must be >= 1"):
        views_of(scenes, 0)
    with pytest.raises(BadInput, match="across_rows needs"):
        views_of(scenes, 2, across_rows=True)
    with pytest.raises(BadInput, match="num_views 2 without augmentation"):
        views_of(scenes, 2, augment="none", vary_captions=False, jitter=STILL)
    views_of(scenes, 1, augment="none", vary_captions=False)
