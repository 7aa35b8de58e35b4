"""The metadata of a folder that `datasets` reads is held to the rules of our own tables."""

import gc

import datasets
import pytest
from tests.data.test_hub import COLOURS, picture

from sfumato.base.errors import BadInput
from sfumato.data import Columns, hugging_face, image_folder

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # datasets leaves CSVs open


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    gc.collect()


def folder_of(tmp_path, text, name="metadata.csv", below=""):
    folder = tmp_path / "set"
    place = folder / below
    place.mkdir(parents=True)
    for number in range(3):
        (place / f"{number}.png").write_bytes(picture(COLOURS[number]))
        (place / f"IM{number}").write_bytes(picture(COLOURS[number]))
    (place / name).write_text(text)
    return folder


HEAD = "file_name,text,owner\n"
WRONG = {
    "stray quote": (HEAD + '0.png,"a,1\n1.png,b",2\n2.png,c,3\n', "a quote in this row runs over the rows that follow"),
    "without endings": (HEAD + 'IM0,"a,1\nIM1,b",2\nIM2,c,3\n', "a quote in this row runs over the rows that follow"),
    "open to the end": (HEAD + '0.png,a,1\n1.png,"b,2\n2.png,c,3\n', "quote"),
    "behind a blank": (HEAD + '0.png, "a,1\n1.png, b",2\n2.png,c,3\n', "is still in quotes|is no valid table"),
    "owner twice": ("file_name,text,owner,owner\n0.png,a,1,8\n1.png,b,2,8\n", "several columns named 'owner'"),
    "text twice": ("file_name,text,owner,text\n0.png,a,1,8\n1.png,b,2,8\n", "several columns named 'text'"),
    "a short row": (HEAD + "0.png,a,1\n1.png,b\n", "another number of cells"),
    "no name": ("file_name,text,owner,\n0.png,a,1,x\n1.png,b,2,y\n", "column 4 has no name"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("below", ["", "train"])
def test_a_wrong_metadata_csv_is_refused_as_a_table_is(tmp_path, case, below):
    text, words = WRONG[case]
    folder = folder_of(tmp_path, text, below=below)
    with pytest.raises(BadInput, match=words) as caught:
        hugging_face(folder, columns=Columns(owner="owner"))
    assert "IM1" not in str(caught.value)
    assert case == "behind a blank" or "metadata.csv" in str(caught.value)
    (folder / below / "metadata.csv").rename(folder / below / "t.csv")
    with pytest.raises(BadInput):
        image_folder(folder / below, folder / below / "t.csv", columns=Columns(owner="owner"))


@pytest.mark.parametrize("below", ["", "train"])
def test_quotes_left_in_a_nested_metadata_csv_are_found(tmp_path, below):
    folder = folder_of(tmp_path, HEAD + '0.png,"a cat",1\n1.png, "a secret",2\n', below=below)
    with pytest.raises(BadInput, match=r"the caption is still in quotes, or has an open one, in 1 row \(2\)"):
        hugging_face(folder)


def test_what_is_right_is_read(tmp_path):
    text = HEAD + '0.png,"a, b\nc ""d""",1\n\n1.png,b,007\n2.png,"IM1 is, not here",7\n'
    found = hugging_face(folder_of(tmp_path, text), columns=Columns(owner="owner"))
    assert [rows.tolist() for rows in found.owners] == [[0], [1, 2]]
    assert found[0]["caption"] == 'a, b c "d"'


def test_a_key_twice_in_a_metadata_jsonl_is_refused(tmp_path):
    text = '{"file_name": "0.png", "text": "a", "owner": "1", "owner": "2"}\n'
    folder = folder_of(tmp_path, text, "metadata.jsonl")
    with pytest.raises(BadInput, match=r"metadata.jsonl line 1 has a key twice"):
        hugging_face(folder, columns=Columns(owner="owner"))
