import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from tests.data.hospital import COLUMNS, WINDOW, build_hospital

from sfumato.base.errors import Refused, UndecodableRow
from sfumato.data import Columns, Decoder, image_folder, shapes
from sfumato.data.captioned import digest_of


@pytest.fixture
def export(tmp_path):
    return build_hospital(tmp_path)


@pytest.fixture
def hospital(export):
    return image_folder(export.root, export.table, columns=Columns(**COLUMNS), decoder=Decoder(window=WINDOW))


def test_a_hospital_export(export, hospital):
    assert len(hospital) == export.num_rows
    assert hospital.num_records == export.num_patients
    broken = []
    for index in range(len(hospital)):
        try:
            row = hospital[index]
        except UndecodableRow:
            broken.append(index)
            continue
        assert row["image"].shape == (48, 48, 1)
        assert row["image"].dtype == np.float32
        assert row["caption"].endswith("lung")
        bright = row["image"][:, :, 0] > 150
        assert (np.argwhere(bright)[:, 1].mean() < 24) == ("left" in row["caption"])
    assert tuple(broken) == export.broken
    assert len(broken) == 3


def test_owners_are_records_with_their_rows(export, hospital):
    owners = hospital.owners
    assert len(owners) == export.num_patients
    assert [len(rows) for rows in owners] == [1 + patient % 4 for patient in range(12)]
    assert np.concatenate(owners).tolist() == list(range(export.num_rows))
    shuffled = hospital.select(np.random.default_rng(0).permutation(len(hospital)))
    assert sorted(np.concatenate(shuffled.owners).tolist()) == list(range(export.num_rows))
    for rows in shuffled.owners:
        names = {hospital.owner_names[hospital.owner_codes[shuffled.selection[row]]] for row in rows}
        assert len(names) == 1
        assert rows.tolist() == sorted(rows.tolist())


def test_without_an_owner_column_a_row_is_a_record(export):
    plain = image_folder(
        export.root, export.table, columns=Columns(image="file", caption="text"), decoder=Decoder(window=WINDOW)
    )
    assert plain.owners is None
    assert plain.num_records == export.num_rows


def test_private_captions_give_no_vocabulary(hospital):
    with pytest.raises(Refused, match="private"):
        hospital.captions()
    with pytest.raises(Refused, match="private"):
        hospital.to_spell()
    assert next(shapes(3).captions()) == shapes(3)[0]["caption"]


def test_neither_manifest_nor_repr_holds_contents(hospital):
    for text in (json.dumps(hospital.manifest()), repr(hospital)):
        assert "lung" not in text
        assert "P0001" not in text


def test_the_manifest_follows_what_the_data_is(export, tmp_path):
    def manifest(decoder=None, columns=None):
        found = image_folder(
            export.root, export.table, columns=columns or Columns(**COLUMNS), decoder=decoder or Decoder(window=WINDOW)
        )
        return found.manifest()

    before = manifest()
    assert manifest() == before
    assert json.loads(json.dumps(before)) == before
    assert manifest(Decoder(window=(0, 1000))) != before
    assert manifest(columns=Columns(image="file", caption="text")) != before
    text = export.table.read_text()
    export.table.write_text(text.replace("small", "large", 1))
    assert manifest() != before
    export.table.write_text(text)
    assert manifest() == before
    picture = next(export.root.glob("*/*.png"))
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert manifest() != before


def test_select_composes(hospital):
    some = hospital.select([5, 3, 8]).select([2, 0])
    assert some.selection.tolist() == [8, 5]
    assert some.manifest() != hospital.manifest()
    many = shapes(10**12).select(range(10**11, 10**12)).select(range(5, 10))
    assert many.selection == range(10**11 + 5, 10**11 + 10)
    assert many[0]["caption"] == shapes(10**12)[10**11 + 5]["caption"]


def test_sets_travel_to_workers(hospital):
    for captioned in (hospital, shapes(10)):
        again = pickle.loads(pickle.dumps(captioned))
        assert again.manifest() == captioned.manifest()
        assert np.array_equal(again[0]["image"], captioned[0]["image"])


def test_an_undeclared_depth_found_while_training_is_an_undecodable_row(export, hospital):
    """The file was exchanged after the headers were read: the run must not stop because of one record."""
    from PIL import Image

    plain = hospital.rows.pictures.source(0)
    Image.new("RGB", (48, 48)).save(plain, "PNG")
    eight_bits = [row for row in range(len(hospital)) if row == 0]
    assert hospital.select(eight_bits)[0]["image"].shape == (48, 48, 3)
    blind = image_folder(export.root, export.table, columns=Columns(**COLUMNS), decoder=Decoder(window=WINDOW))
    object.__setattr__(blind.rows.decoder, "window", None)
    with pytest.raises(UndecodableRow):
        blind.draw(1, np.random.default_rng(0))


def test_digests_keep_parts_apart():
    assert digest_of(["ab", "c"]) != digest_of(["a", "bc"])
    assert digest_of(["a", "b"]) != digest_of(["b", "a"])
    assert digest_of(["a", ""]) != digest_of(["a"])


def test_all_captions_of_a_row(hospital):
    some = hospital.select([5, 3])
    assert some.captions_of(1) == hospital.captions_of(3) == (hospital.rows.texts_of[3][0],)
    assert shapes(3).captions_of(2) == (shapes(3)[2]["caption"],)
    with pytest.raises(IndexError, match="asked for number 2"):
        some.captions_of(2)


def test_a_vocabulary_can_spell_the_captions_of_classes(hospital):
    public = replace(hospital, public=True)
    told = list(public.captions())
    assert list(replace(public, class_captions=("a new one", told[0])).to_spell()) == [*told, "a new one"]
