"""Words to numbers and back."""

import multiprocessing
import pickle
import unicodedata

import open_clip
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from sfumato.base import BadInput
from sfumato.models import Tokenizer

TEXT = ["A small red circle, above two blue squares.", "an ankle-boot", "a red circle"]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.from_public_text(TEXT)


def vocabulary_file(path, tokens=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "circle", "##s", "a")):
    path.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return path


def test_labels_are_tokens_end_and_padding(words) -> None:
    labels = words.encode(["a red circle", "red"], 6)
    ids = words.vocabulary
    assert labels.dtype == torch.int64
    assert labels.tolist() == [
        [ids["a"], ids["red"], ids["circle"], ids["[SEP]"], -100, -100],
        [ids["red"], ids["[SEP]"], -100, -100, -100, -100],
    ]
    assert words.special_ids == {"pad_id": 0, "bos_id": 2, "eos_id": 3}


def test_case_and_punctuation(words) -> None:
    assert torch.equal(words.encode(["A RED Circle,"], 6), words.encode(["a red circle ,"], 6))
    assert words.decode(words.encode(["A RED circle, an ankle-boot."], 12)) == ["a red circle, an ankle - boot."]


def test_decode_stops_at_the_end_and_skips_padding_and_start(words) -> None:
    red, end, start = words.vocabulary["red"], words.eos_id, words.bos_id
    assert words.decode(torch.tensor([[start, red, end, red], [red, red, -100, -100]])) == ["red", "red red"]
    assert words.decode(torch.tensor([[end, red, 0, 0]])) == [""]


def test_what_is_cut_is_counted_and_still_ends(words) -> None:
    long = "a red circle above two blue squares"
    assert words.count_tokens([long, "red"]) == [8, 2]
    assert words.count_cut([long, "red"], 8) == 0
    assert words.count_cut([long, "red"], 7) == 1
    row = words.encode([long], 4)[0]
    assert row[-1] == words.eos_id
    assert (row >= 0).all()
    with pytest.raises(BadInput, match="max_tokens"):
        words.encode(["red"], 1)


def test_new_words_are_spelled_and_new_characters_counted(words) -> None:
    assert words.decode(words.encode(["rebcul"], 12)) == ["rebcul"]  # no such word, its letters are known
    assert words.count_unknown(["rebcul", "zebra", "a red circle"]) == 1  # z is not


def test_vocabulary_is_a_function_of_the_text(words) -> None:
    again = Tokenizer.from_public_text(iter(reversed(TEXT)))
    assert again.vocabulary == words.vocabulary
    assert again.digest == words.digest
    assert Tokenizer.from_public_text([*TEXT, "zebra"]).digest != words.digest
    tokens = sorted(words.vocabulary, key=words.vocabulary.__getitem__)
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokens.index("circle") < tokens.index("above")  # frequent words first
    assert "##," not in tokens


def test_a_bound_keeps_the_frequent_words(words) -> None:
    small = Tokenizer.from_public_text(TEXT, vocab_size=words.vocab_size - 3)
    assert small.vocab_size == words.vocab_size - 3
    assert "red" in small.vocabulary
    assert "two" not in small.vocabulary
    assert small.decode(small.encode(["two red"], 10)) == ["two red"]
    with pytest.raises(BadInput, match="special tokens and characters"):
        Tokenizer.from_public_text(TEXT, vocab_size=20)
    with pytest.raises(BadInput, match="no words"):
        Tokenizer.from_public_text(["  "])


def test_save_and_load_with_and_without_sfumato(words, tmp_path) -> None:
    words.save(tmp_path)
    again = Tokenizer.from_checkpoint(tmp_path)
    assert again.digest == words.digest
    assert torch.equal(again.encode(TEXT, 20), words.encode(TEXT, 20))
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain("a red circle")["input_ids"] == words.encode(["a red circle"], 4)[0, :3].tolist()
    assert plain.pad_token_id == 0


def test_vocab_file(tmp_path) -> None:
    words = Tokenizer.from_vocab(vocabulary_file(tmp_path / "vocab.txt"))
    assert words.encode(["a red CIRCLES"], 6).tolist() == [[8, 5, 6, 7, 3, -100]]
    assert torch.equal(Tokenizer.from_checkpoint(tmp_path).encode(["red"], 3), words.encode(["red"], 3))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [(("red", "blue"), "lacks \\[PAD\\]"), (("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "a"), "twice")],
)
def test_broken_vocab_file(tmp_path, tokens, message) -> None:
    with pytest.raises(BadInput, match=message):
        Tokenizer.from_vocab(vocabulary_file(tmp_path / "vocab.txt", tokens))


def test_missing_and_broken_folders(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"no vocabulary file .*v\.txt"):
        Tokenizer.from_vocab(tmp_path / "v.txt")
    with pytest.raises(BadInput, match="no checkpoint folder"):
        Tokenizer.from_checkpoint(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"tokenizer\.json or vocab\.txt is missing"):
        Tokenizer.from_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read"):
        Tokenizer.from_checkpoint(tmp_path)


def test_padding_and_truncation_of_the_checkpoint_are_not_ours(words, tmp_path) -> None:
    words.save(tmp_path)
    backend = AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_checkpoint(tmp_path)
    assert again.count_tokens(["a red circle above"]) == [5]


def _encode(tokenizer: Tokenizer) -> list[list[int]]:
    return tokenizer.encode(["a red circle"], 6).tolist()


def test_works_in_a_loader_worker(words) -> None:
    assert _encode(pickle.loads(pickle.dumps(words))) == _encode(words)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_encode, (words,)) == _encode(words)


TOWER_TEXTS = (
    "a photo of a Bag!",
    "hello  world's 12 it's!",
    "«été» naïve ☃ 東京 don't",
    "! ! wow...",
    "tabs\tand\nnew lines",
    "it\u2019s \u201cquoted\u201d",
    "",
    "word " * 100,
)


def test_what_a_text_tower_reads_begins_ends_and_is_padded() -> None:
    words = Tokenizer.from_public_text(["a red bag"])
    start, end, pad = words.bos_id, words.eos_id, words.pad_id
    red, bag = (words.vocabulary[word] for word in ("red", "bag"))
    found = words.encode_texts(["red bag", "", "red red bag bag bag"], 5)
    assert found.dtype == torch.int64
    assert found.tolist() == [[start, red, bag, end, pad], [start, end, pad, pad, pad], [start, red, red, bag, end]]
    assert words.count_text_tokens(["red bag", "", "red red bag bag bag"]) == [4, 2, 7]
    with pytest.raises(BadInput, match="max_tokens must be >= 3"):
        words.encode_texts(["red"], 2)


def test_start_and_end_survive_a_folder(tmp_path) -> None:
    words = Tokenizer.from_public_text(["a red bag"])
    words.save(tmp_path)
    read = Tokenizer.from_checkpoint(tmp_path)
    assert torch.equal(read.encode_texts(["a red bag"], 8), words.encode_texts(["a red bag"], 8))


def test_a_tokenizer_with_a_template_keeps_to_it() -> None:
    """T5, and with it SigLIP, has no start token; a template of the start alone still gets an end."""
    for single, want in (
        ("$A [SEP]", "word end"),
        ("[CLS] $A", "start word end"),
        ("[CLS] $A [SEP]", "start word end"),
    ):
        words = Tokenizer.from_public_text(["word"])
        special = [("[CLS]", words.bos_id), ("[SEP]", words.eos_id)]
        words.backend.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=special)
        names = {"start": words.bos_id, "word": words.vocabulary["word"], "end": words.eos_id}
        ids = [names[name] for name in want.split()]
        assert words.encode_texts(["word"], 4)[0].tolist() == (ids + [words.pad_id] * 4)[:4]
        assert words.count_text_tokens(["word"]) == [len(ids)]


@pytest.mark.parametrize("length", [77, 8])
def test_open_clips_vocabulary_gives_open_clips_ids(length: int, tmp_path) -> None:
    tokenizer = Tokenizer.of_open_clip()
    want = open_clip.tokenize(list(TOWER_TEXTS), context_length=length)
    tokenizer.save(tmp_path)
    for words in (tokenizer, Tokenizer.from_checkpoint(tmp_path)):
        assert torch.equal(words.encode_texts(TOWER_TEXTS, length), want)
        assert (words.vocab_size, words.pad_id, words.bos_id, words.eos_id) == (49408, 0, 49406, 49407)
        assert words.decode(want[:1, 1:]) == ["a photo of a bag !"]
    assert tokenizer.digest == words.digest


SCRIPTS = (
    "Ich möchte Käse",
    "हिंदी में लिखा है",
    "ภาษาไทยที่นี่",
    "か が ガ ぱ",
    "tiếng Việt",
    "עִבְרִית",
    "العَرَبِيَّة",
    "क़लम",
    "한국어",
    "J\u030cames İstanbul",
)


def _said(words: Tokenizer, text: str) -> str:
    return words.decode(words.encode([text], 200))[0]


def test_marks_of_every_script_stay_and_two_ways_to_write_are_one() -> None:
    """möchte was mochte, か was が, and Hindi and Thai lost their vowels."""
    words = Tokenizer.from_public_text(SCRIPTS)
    for text in SCRIPTS:
        composed, apart = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
        assert torch.equal(words.encode([composed], 200), words.encode([apart], 200))
        assert _said(words, apart) == unicodedata.normalize("NFC", text.lower())
        assert words.count_unknown([composed, apart]) == 0
    apart = Tokenizer.from_public_text([unicodedata.normalize("NFD", text) for text in SCRIPTS])
    assert apart.digest == words.digest


def test_marks_survive_a_folder(tmp_path) -> None:
    words = Tokenizer.from_public_text(SCRIPTS)
    words.save(tmp_path)
    again = Tokenizer.from_checkpoint(tmp_path)
    assert again.digest == words.digest
    assert _said(again, SCRIPTS[1]) == SCRIPTS[1]
    assert (
        AutoTokenizer.from_pretrained(tmp_path)(SCRIPTS[2])["input_ids"]
        == words.encode([SCRIPTS[2]], 9)[0, :1].tolist()
    )


def test_stripping_is_a_choice_and_what_it_loses_is_counted(tmp_path) -> None:
    words = Tokenizer.from_public_text(SCRIPTS, strip_accents=True)
    assert _said(words, "Möchte") == "mochte"
    marked = [text for text in SCRIPTS if text != "한국어"]
    assert words.count_unknown([*marked, "mochte", "한국어"]) == len(marked)
    words.save(tmp_path)
    assert Tokenizer.from_checkpoint(tmp_path).count_unknown(["möchte", "mochte"]) == 1


def test_scripts_and_marks_that_the_public_text_lacks_are_counted() -> None:
    words = Tokenizer.from_public_text(["a mochte cafe", "ไทย"])
    assert words.count_unknown(["mochte cafe", "möchte", "ελληνικά", "हिंदी", "ที่", "\ue000 cafe"]) == 5


def test_a_sentence_without_blanks_is_spelled() -> None:
    """A word of more than 100 characters was one unknown token; Thai writes no blanks."""
    words = Tokenizer.from_public_text(["ที่ นี่"])
    long = "ที่นี่" * 60
    assert words.count_unknown([long]) == 0
    assert words.decode(words.encode([long], 500)) == [long]


def test_a_vocabulary_file_keeps_its_marks(tmp_path) -> None:
    plain = Tokenizer.from_vocab(vocabulary_file(tmp_path / "plain.txt"))
    assert plain.encode(["réd"], 3).tolist() == plain.encode(["red"], 3).tolist()
    assert plain.count_unknown(["réd", "red"]) == 1
    marked = vocabulary_file(tmp_path / "marked.txt", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "réd"))
    words = Tokenizer.from_vocab(marked)
    assert words.encode(["re\u0301d"], 3).tolist() == [[5, 3, -100]]
    assert Tokenizer.from_vocab(marked, strip_accents=True).encode(["réd"], 3).tolist() == [[4, 3, -100]]


def test_a_tokenizer_saved_with_former_rules_keeps_them(tmp_path) -> None:
    from tokenizers import normalizers

    words = Tokenizer.from_public_text(["mochte a"])
    words.backend.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.save(tmp_path)
    assert _said(Tokenizer.from_checkpoint(tmp_path), "möchte a") == "mochte a"


FAMILY, PERSIAN = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"


@pytest.mark.parametrize("word", [FAMILY, PERSIAN])
def test_joiners_of_the_public_text_stay(word, tmp_path):
    tokenizer = Tokenizer.from_public_text([f"a {word}", "a cat\u00ad \x07here\u200b", "one\ttwo"])
    tokenizer.save(tmp_path)
    for built in (tokenizer, Tokenizer.from_checkpoint(tmp_path)):
        assert built.decode(built.encode([f"A {word}"], 9)) == [f"a {word}"]
        assert built.decode(built.encode(["a cat here one two"], 12)) == ["a cat here one two"]
        assert built.decode(built.encode(["a c\u00adat\u200b here\x07"], 12)) == ["a cat here"]
        assert built.count_unknown([f"a {word}", "a cat"]) == 0
    assert word in tokenizer.vocabulary
    assert word.replace("\u200d", "").replace("\u200c", "") not in tokenizer.vocabulary


def test_joiners_that_the_public_text_lacks_count_as_lost():
    apart = FAMILY.replace("\u200d", " ")
    tokenizer = Tokenizer.from_public_text([f"a {apart} cat", "\U0001f468\U0001f469\U0001f467"])
    assert tokenizer.count_unknown([f"a {FAMILY}", "a cat"]) == 1
    assert tokenizer.decode(tokenizer.encode([f"a {FAMILY}"], 9)) == ["a \U0001f468\U0001f469\U0001f467"]


def test_joiners_of_a_vocabulary_file_stay(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", PERSIAN]), encoding="utf-8")
    tokenizer = Tokenizer.from_vocab(path)
    assert tokenizer.decode(tokenizer.encode([PERSIAN], 4)) == [PERSIAN]


def test_half_a_character_is_a_sentence():
    with pytest.raises(BadInput, match=r"half a character .* in text 2"):
        Tokenizer.from_public_text(["a cat", "\ud800 secret"])
    tokenizer = Tokenizer.from_public_text(["a cat"])
    with pytest.raises(BadInput, match="half a character") as caught:
        tokenizer.encode(["\ud800 secret"], 5)
    assert "secret" not in str(caught.value)
    with pytest.raises(BadInput, match="no vocabulary file"):
        Tokenizer.from_vocab("x" * 5000)
