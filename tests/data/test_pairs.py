import json
import pickle

import numpy as np
import pytest
import torch
from tests.data.hospital import COLUMNS, WINDOW, build_hospital
from tests.data.test_idx import write_idx

from sfumato import models
from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data import (
    Columns,
    Decoder,
    PairRows,
    Preprocess,
    fashion_mnist,
    image_folder,
    padded,
    shapes,
    shapes_vocabulary,
)

calls: list[str] = []


def encode(captions):
    """Length of each word, -100 on padding: a stand-in for a tokenizer."""
    calls.extend(captions)
    ids = np.full((len(captions), 12), -100, np.int64)
    for row, caption in enumerate(captions):
        lengths = [len(word) for word in caption.split()][:12]
        ids[row, : len(lengths)] = lengths
    return ids


def pairs(captioned, **settings):
    preprocess = Preprocess(image_size=32, augment="crop")
    return PairRows(
        **{"captioned": captioned, "preprocess": preprocess, "encode": encode, "max_tokens": 12, **settings}
    )


def test_rows_have_constant_shapes():
    rows = pairs(shapes(20))
    for index in range(20):
        for row in (rows[index], rows.draw(index, np.random.default_rng(0))):
            assert list(row) == ["pixel_values", "labels"]
            assert (row["pixel_values"].shape, row["pixel_values"].dtype) == ((3, 32, 32), torch.float32)
            assert (row["labels"].shape, row["labels"].dtype) == ((12,), torch.int64)
    assert rows[0]["labels"].tolist() == encode([rows.captioned[0]["caption"]])[0].tolist()


def test_draw_is_a_function_of_its_generator():
    rows = pairs(shapes(3))
    one, again, other = (rows.draw(1, np.random.default_rng(seed))["pixel_values"] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(rows[1]["pixel_values"], rows.preprocess.evaluate(rows.captioned[1]["image"]))


def test_a_caption_is_encoded_once_and_never_shared():
    rows = pairs(shapes(1))
    calls.clear()
    first = rows[0]["labels"]
    expected = first.clone()
    first.fill_(7)
    assert torch.equal(rows.draw(0, np.random.default_rng(0))["labels"], expected)
    assert len(calls) == 1


def test_an_encoder_of_another_length_is_refused():
    with pytest.raises(BadInput, match=r"\(1, 8\) ids, got \(1, 12\)"):
        pairs(shapes(1), max_tokens=8)
    tensors = pairs(shapes(1), encode=lambda captions: torch.from_numpy(encode(captions)))
    assert tensors[0]["labels"].shape == (12,)


def test_owners_and_manifest_are_forwarded(tmp_path):
    export = build_hospital(tmp_path)
    hospital = image_folder(export.root, export.table, columns=Columns(**COLUMNS), decoder=Decoder(window=WINDOW))
    rows = pairs(hospital)
    assert len(rows.owners) == export.num_patients
    assert json.loads(json.dumps(rows.manifest())) == rows.manifest()
    assert rows.manifest() != pairs(hospital, preprocess=Preprocess(image_size=32, augment="none")).manifest()
    with pytest.raises(UndecodableRow) as caught:
        rows.draw(export.broken[0], np.random.default_rng(0))
    assert "P0" not in str(caught.value)
    assert rows[next(i for i in range(4) if i not in export.broken)]["pixel_values"].shape == (3, 32, 32)


def test_rows_travel_to_workers():
    rows = pickle.loads(pickle.dumps(pairs(shapes(3))))
    assert rows[2]["labels"].shape == (12,)


def test_fixed_captions_do_not_vary(tmp_path):
    """Rows with several captions: the templates of an IDX set."""
    for split, count in (("train", 6), ("t10k", 6)):
        write_idx(tmp_path / f"{split}-images-idx3-ubyte", np.zeros((count, 28, 28), np.uint8))
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))
    many = pairs(fashion_mnist("train", tmp_path))
    fixed = pairs(many.captioned, vary_captions=False)
    drawn = [
        tuple(rows.draw(1, np.random.default_rng(n))["labels"].tolist()) for rows in (many, fixed) for n in range(20)
    ]
    assert len(set(drawn[:20])) > 1
    assert set(drawn[20:]) == {tuple(fixed[1]["labels"].tolist())}
    assert fixed.manifest() != many.manifest()


def test_input_ids_are_padded_with_the_pad_id():
    ids = padded(encode, pad_id=0)
    rows = pairs(shapes(2), encode=ids, text_name="input_ids")
    found = rows.draw(0, np.random.default_rng(0))
    assert list(found) == list(rows[0]) == ["pixel_values", "input_ids"]
    words = [len(word) for word in rows.captioned[0]["caption"].split()][:12]
    assert found["input_ids"].tolist() == words + [0] * (12 - len(words))
    assert found["input_ids"].dtype == torch.int64
    started = pairs(shapes(2), encode=padded(encode, pad_id=0, start_id=99), text_name="input_ids", max_tokens=13)
    assert started[0]["input_ids"].tolist() == [99, *found["input_ids"].tolist()]
    assert rows.manifest() != pairs(shapes(2)).manifest()


def test_labels_are_no_input_ids():
    with pytest.raises(BadInput, match=r"pad input_ids .* see `padded`"):
        pairs(shapes(1), text_name="input_ids")
    with pytest.raises(BadInput, match="labels, input_ids, got 'text'"):
        pairs(shapes(1), text_name="text")
    tensors = padded(lambda captions: torch.from_numpy(encode(captions)), pad_id=0)
    assert pairs(shapes(1), encode=tensors, text_name="input_ids")[0]["input_ids"].min() == 0


def test_a_tokenizer_of_this_library_makes_input_ids():
    words = models.Tokenizer.from_public_text(shapes_vocabulary())
    ids = padded(lambda texts: words.encode(texts, 15), pad_id=words.pad_id, start_id=words.bos_id)
    rows = pairs(shapes(2, scenes="single"), encode=ids, text_name="input_ids", max_tokens=16)
    found = rows[1]["input_ids"].tolist()
    length = 2 + len(rows.captioned[1]["caption"].split())
    assert (found[0], found[length - 1], found[length]) == (words.bos_id, words.eos_id, words.pad_id)
    assert words.decode(rows[1]["input_ids"][None, 1:]) == [rows.captioned[1]["caption"]]
