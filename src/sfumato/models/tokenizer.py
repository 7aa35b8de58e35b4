"""Text to numbers: WordPiece, from a checkpoint, from a vocabulary file, or from text that was declared public.

The vocabulary is part of what a run publishes. It may therefore come from a file, or from public text; never from the
private captions (PAPERS section 5: what a DP claim must state).
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordPiece
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sfumato.base import BadInput
from sfumato.base.reason import reason
from sfumato.base.texts import read_text
from sfumato.models.folders import locate, quiet
from sfumato.models.open_clip_door import read_open_clip_bpe

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PAD_FIELD = "sfumato_pad_id"  # in tokenizer_config.json: padding that is no special token, as open_clip's 0, its "!"
_FRAGILE = ("Mn", "Mc", "Me", "Co", "Cn")
_JOINERS = "\u200c\u200d"  # ZWNJ, ZWJ: letters of Persian words, and what makes one emoji of several
_CONTROLS = "[[\\p{Cc}\\p{Cf}\\p{Co}\\p{Cn}]&&[^\\t\\n\\r\\x{200c}\\x{200d}]]"  # what BERT drops, but for them
_LONGEST_WORD = 500  # characters: a sentence of a script without blanks (Thai, kana) is one word
IGNORED = -100  # label of a position that is not a token: transformers' and torch's convention


@dataclass(frozen=True)
class Tokenizer:
    """A transformers tokenizer with the few operations that training and evaluation need.

    Attributes:
        backend: with padding, unknown, start (`cls` or `bos`) and end (`sep` or `eos`) tokens.
    """

    backend: PreTrainedTokenizerFast

    def __post_init__(self) -> None:
        for name in ("bos_id", "eos_id"):
            if getattr(self, name) is None:
                raise BadInput(f"the tokenizer has no {'start' if name == 'bos_id' else 'end'} token ([CLS] / [SEP]).")

    @property
    def vocab_size(self) -> int:
        return len(self.backend)

    @property
    def bos_id(self) -> int:
        return _first(self.backend.cls_token_id, self.backend.bos_token_id)

    @property
    def eos_id(self) -> int:
        return _first(self.backend.sep_token_id, self.backend.eos_token_id)

    @property
    def pad_id(self) -> int:
        return _first(self.backend.init_kwargs.get(_PAD_FIELD), self.backend.pad_token_id, self.eos_id)

    @property
    def special_ids(self) -> dict[str, int]:
        """The keywords `pad_id`, `bos_id`, `eos_id` of `build`."""
        return {"pad_id": self.pad_id, "bos_id": self.bos_id, "eos_id": self.eos_id}

    @property
    def vocabulary(self) -> dict[str, int]:
        return self.backend.get_vocab()

    @property
    def digest(self) -> str:
        """Hex hash of vocabulary, rules and the special tokens' roles, for the fingerprint of a run."""
        return hashlib.sha256(f"{self.special_ids} {self.backend.backend_tokenizer.to_str()}".encode()).hexdigest()

    def same_ids(self, other: "Tokenizer | None") -> bool:
        """Whether both give every token, and every special token's role, the same number."""
        return other is not None and (self.vocabulary, self.special_ids) == (other.vocabulary, other.special_ids)

    def encode(self, captions: Sequence[str], max_tokens: int) -> Tensor:
        """Return labels (N, max_tokens) int64: the caption's tokens, the end token, then -100.

        A caption that does not fit keeps its first max_tokens - 1 tokens and the end token; `count_cut` counts these.
        The start token is not among the labels: the decoder gets it as its first input.
        """
        if max_tokens < 2:
            raise BadInput(f"max_tokens must be >= 2 (one word and the end), got {max_tokens}.")
        labels = torch.full((len(captions), max_tokens), IGNORED, dtype=torch.int64)
        for row, caption in enumerate(captions):
            ids = [*self._ids(caption)[: max_tokens - 1], self.eos_id]
            labels[row, : len(ids)] = torch.tensor(ids)
        return labels

    def decode(self, ids: Tensor) -> list[str]:
        """Return the texts of (N, L) ids, cut at the first end token, special tokens and -100 left out.

        Of what `generate` returns, drop the first column (the start token) where start and end are the same token.
        """
        return [str(self.backend.decode(self._until_end(row), skip_special_tokens=True)) for row in ids.tolist()]

    def count_tokens(self, captions: Iterable[str]) -> list[int]:
        """Return how many positions each caption takes, its end token included."""
        return [len(self._ids(caption)) + 1 for caption in captions]

    def count_cut(self, captions: Iterable[str], max_tokens: int) -> int:
        """Return how many captions `encode` would cut. On private captions the count itself is private."""
        return sum(tokens > max_tokens for tokens in self.count_tokens(captions))

    def count_unknown(self, captions: Iterable[str]) -> int:
        """Return how many captions lose something: a token outside the vocabulary, or marks that are stripped.

        On private captions the count is private.
        """
        return sum(self._loses(caption) for caption in captions)

    def encode_texts(self, texts: Sequence[str], max_tokens: int) -> Tensor:
        """Return what a text tower reads, (N, max_tokens) int64: start token, tokens, end token, then `pad_id`.

        A text that does not fit keeps its first tokens between start and end. Start and end are those of the
        tokenizer's own template where it has one (T5's, for instance, has no start token).
        """
        before, after = self._frame()
        room = max_tokens - len(before) - len(after)
        if room < 1:
            raise BadInput(
                f"max_tokens must be >= {max_tokens - room + 1} (start, one word and end), got {max_tokens}."
            )
        rows = torch.full((len(texts), max_tokens), self.pad_id, dtype=torch.int64)
        for row, text in enumerate(texts):
            ids = [*before, *self._ids(text)[:room], *after]
            rows[row, : len(ids)] = torch.tensor(ids)
        return rows

    def count_text_tokens(self, texts: Iterable[str]) -> list[int]:
        """Return how many positions each text takes in `encode_texts`, its start and end tokens included."""
        framing = sum(map(len, self._frame()))
        return [len(self._ids(text)) + framing for text in texts]

    def save(self, folder: str | Path) -> None:
        """Write a folder that `transformers.AutoTokenizer.from_pretrained` reads."""
        self.backend.save_pretrained(str(folder))

    def _ids(self, caption: str) -> list[int]:
        # One text at a time: a batch would start threads, which do not survive the fork of a loader's workers.
        try:
            return self.backend.backend_tokenizer.encode(caption, add_special_tokens=False).ids
        except TypeError:  # half a character (a lone surrogate)
            raise BadInput("a text is not whole text, or holds half a character: write it again, as UTF-8.") from None

    def _loses(self, caption: str) -> bool:
        unknown, normalizer = self.backend.unk_token_id, self.backend.backend_tokenizer.normalizer
        if unknown is not None and unknown in self._ids(caption):
            return True
        return normalizer is not None and _num_fragile(normalizer.normalize_str(caption)) < _num_fragile(caption)

    def _frame(self) -> tuple[list[int], list[int]]:
        """Return the ids before and after a text; every text ends with an end token, at which CLIP is read out."""
        bare = self._ids("a")
        framed = self.backend.backend_tokenizer.encode("a", add_special_tokens=True).ids
        if framed == bare:  # no template, as in the vocabularies built here
            return [self.bos_id], [self.eos_id]
        at = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
        return framed[:at], framed[at + len(bare) :] or [self.eos_id]

    def _until_end(self, row: list[int]) -> list[int]:
        end = row.index(self.eos_id) if self.eos_id in row else len(row)
        return [token for token in row[:end] if token != IGNORED]

    @staticmethod
    def from_vocab(file: str | Path, strip_accents: bool | None = None) -> "Tokenizer":
        """Read a WordPiece vocabulary, one token a line (BERT's `vocab.txt`); lower-cased text is expected.

        Args:
            file: its path.
            strip_accents: "café" is read as "cafe"; None: where no token of the vocabulary has a mark that this strips.

        Raises:
            BadInput: there is no such file, or it is no WordPiece vocabulary.
        """
        path = Path(file)
        if not os.path.isfile(path):
            raise BadInput(f"there is no vocabulary file {path}.")
        tokens = [line.rstrip("\r") for line in read_text(path, "the vocabulary").split("\n")]
        while tokens and not tokens[-1]:
            tokens.pop()
        lacking = [token for token in SPECIAL[:4] if token not in tokens]
        if lacking:
            raise BadInput(f"{path} is not a WordPiece vocabulary: it lacks {', '.join(lacking)}.")
        if len(set(tokens)) != len(tokens):
            raise BadInput(f"{path} lists a token twice; the line number is the token's id.")
        if strip_accents is None:
            strip_accents = not any(_has_accents(token) for token in tokens)
        return _wordpiece(tokens, _normalizer(strip_accents, joiners=any(map(_has_joiner, tokens))))

    @staticmethod
    def from_checkpoint(folder: str | Path) -> "Tokenizer":
        """Read the tokenizer of a run of sfumato or of a local transformers folder."""
        path = locate(folder)
        if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.txt", "tokenizer.model")):
            raise BadInput(f"{path} has no tokenizer: tokenizer.json or vocab.txt is missing.")
        if not (path / "tokenizer.json").is_file() and not (path / "tokenizer_config.json").is_file():
            return Tokenizer.from_vocab(path / "vocab.txt")
        try:
            with quiet():
                backend = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the tokenizers library raises bare Exception on a broken file
            raise BadInput(f"the tokenizer in {path} cannot be read: {reason(error)}.") from error
        if not isinstance(backend, PreTrainedTokenizerFast):
            raise BadInput(f"the tokenizer in {path} has no fast version (tokenizer.json), which sfumato needs.")
        backend.backend_tokenizer.no_padding()  # some checkpoints ask for both; `encode` has its own, public length
        backend.backend_tokenizer.no_truncation()
        return Tokenizer(backend)

    @staticmethod
    def of_open_clip() -> "Tokenizer":
        """Return the byte-pair vocabulary of 49,408 tokens that open_clip ships, with the same ids and padding 0.

        Ids equal `open_clip.tokenize` for text that `ftfy` leaves as it is. open_clip repairs broken encodings,
        HTML entities and typographic variants first; here curly quotes are made straight, and the rest is spelled.

        Raises:
            BadInput: open_clip is not installed.
        """
        return Tokenizer(read_open_clip_bpe(_PAD_FIELD))

    @staticmethod
    def from_public_text(
        texts: Iterable[str], vocab_size: int | None = None, *, strip_accents: bool = False
    ) -> "Tokenizer":
        """Build a vocabulary of whole words, most frequent first, from text declared public.

        Every character of the text is in the vocabulary too, alone and as a continuation, so that a word that did not
        fit, or a new one, is spelled instead of lost. Ties are broken by the alphabet: the same text gives the same
        vocabulary everywhere. Text is lower-cased and brought to Unicode's composed form (NFC), so that two ways to
        write a character are one; accents, vowel signs and tone marks stay, and joiners (ZWJ, ZWNJ) where the text has
        some.

        Args:
            texts: public text, such as caption templates filled with class names.
            vocab_size: upper bound, special tokens included; None keeps every word.
            strip_accents: leave marks out, as BERT's uncased models do ("café" is "cafe"). Scripts that write vowels
                or tones as marks, such as Devanagari and Thai, lose them.
        """
        known = list(texts)
        _check_whole(known)
        normalizer = _normalizer(strip_accents, joiners=any(map(_has_joiner, known)))
        counts = Counter(word for text in known for word in _words(text, normalizer))
        if not counts:
            raise BadInput("the public text for the vocabulary has no words.")
        characters = sorted({character for word in counts for character in word})
        inner = sorted({character for word in counts if len(word) > 1 for character in word})  # not punctuation
        spelled = [*SPECIAL, *characters, *(f"##{character}" for character in inner)]
        words = [word for word in sorted(counts, key=lambda word: (-counts[word], word)) if len(word) > 1]
        if vocab_size is not None and vocab_size < len(spelled):
            raise BadInput(
                f"vocab_size {vocab_size} is below the {len(spelled)} that special tokens and characters take."
            )
        return _wordpiece((spelled + words)[:vocab_size], normalizer)


def _first(*values: Any) -> int:
    return next((value for value in values if value is not None), None)  # pyright: ignore[reportReturnType]


def _normalizer(strip_accents: bool, *, joiners: bool = False) -> normalizers.Normalizer:
    """Return BERT's rules for text in composed form; with `joiners` these stay in words, which BERT takes them from."""
    bert = normalizers.BertNormalizer(clean_text=not joiners, lowercase=True, strip_accents=strip_accents)
    clean = [normalizers.Replace(Regex(_CONTROLS), "")] if joiners else []
    # composed again behind it: a lower-case letter may have a composed form where its capital has none
    return normalizers.Sequence([normalizers.NFC(), *clean, bert, normalizers.NFC()])


def _check_whole(texts: Sequence[str]) -> None:
    """Raise BadInput for half a character, which is no text in any encoding."""
    for number, text in enumerate(texts, 1):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadInput(
                f"the public text for the vocabulary holds half a character (a lone surrogate) in text {number}: write "
                "the text again, as UTF-8."
            ) from None


def _has_joiner(text: str) -> bool:
    return any(joiner in text for joiner in _JOINERS)


def _words(text: str, normalizer: normalizers.Normalizer) -> list[str]:
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normalizer.normalize_str(text))
    return [word for word, _ in split]


def _num_fragile(text: str) -> int:
    """Return how many characters of a text a normaliser may drop: marks, joiners, and what it does not know."""
    return sum(
        unicodedata.category(character) in _FRAGILE or character in _JOINERS
        for character in unicodedata.normalize("NFD", text)
    )


def _has_accents(token: str) -> bool:
    return any(unicodedata.category(character) == "Mn" for character in unicodedata.normalize("NFD", token))


def _wordpiece(tokens: Sequence[str], normalizer: normalizers.Normalizer) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Backend(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    present = {name: token for name, token in names.items() if token in vocabulary}
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **present))
