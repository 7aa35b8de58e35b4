"""Caption metrics over a corpus: BLEU-4 and CIDEr-D, in short code that is tested against pycocoevalcap.

Both compare words, so both depend on how a text is cut into words: see `words`.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from sfumato.base import BadInput

MAX_ORDER = 4
CIDER_SIGMA = 6.0  # width, in words, of CIDEr-D's penalty for a wrong length
_WORD = re.compile(r"\d+\.\d+|\w+(?:['\u2019\-]\w+)*")

Ngram = tuple[str, ...]


def words(text: str) -> list[str]:
    """Return the lower-case words of a text; punctuation is dropped, inner apostrophes and hyphens stay.

    COCO's own evaluation cuts by the Stanford PTB tokenizer (Java), which also splits "don't" into "do n't" and keeps
    signs such as "%": on plain captions both give the same words.

    >>> words("A T-shirt, blue.")
    ['a', 't-shirt', 'blue']
    """
    return _WORD.findall(text.lower())


def bleu4(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return corpus BLEU-4 in [0, 1]: brevity * (p1 p2 p3 p4)^(1/4), p_k the clipped k-gram precision of the corpus.

    The brevity penalty takes for each caption the reference of the closest length (ties: the shorter). No
    smoothing: without a single common 4-gram in the corpus BLEU-4 is 0.

    Args:
        candidates: N generated captions.
        references: for each, one or more true captions.

    Raises:
        BadInput: the two lengths differ, N = 0, or a picture has no reference.

    Source: Papineni et al., ACL 2002.
    """
    _check(candidates, references)
    matched, guessed = np.zeros(MAX_ORDER), np.zeros(MAX_ORDER)
    length = reference_length = 0
    for candidate, truths in zip(candidates, references, strict=True):
        tokens, truth_tokens = words(candidate), [words(truth) for truth in truths]
        length += len(tokens)
        reference_length += min((abs(len(truth) - len(tokens)), len(truth)) for truth in truth_tokens)[1]
        allowed: Counter[Ngram] = Counter()
        for truth in truth_tokens:
            allowed |= _ngrams(truth)
        for ngram, count in _ngrams(tokens).items():
            matched[len(ngram) - 1] += min(count, allowed[ngram])
            guessed[len(ngram) - 1] += count
    if not matched.all():
        return 0.0
    brevity = min(0.0, 1.0 - reference_length / length)
    return math.exp(brevity + float(np.log(matched / guessed).mean()))


def cider_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return CIDEr-D of each caption, shape (N,), in [0, 10]; a corpus's CIDEr-D is their mean.

    10 times the mean over n-gram orders 1..4 and references of the clipped cosine between tf-idf vectors, times
    exp(-(difference of lengths)^2 / (2 * 6^2)). The idf is that of the references of this corpus, so scores of
    different test sets do not compare, and with a single picture every idf is 0.

    Args and errors: as `bleu4`.

    Source: Vedantam et al., CVPR 2015, with the clipping and the length penalty of the COCO evaluation.
    """
    _check(candidates, references)
    truths = [[_ngrams(words(truth)) for truth in group] for group in references]
    frequency = Counter(ngram for group in truths for ngram in set().union(*group))
    log_n = math.log(len(truths))
    scores = np.zeros(len(truths))
    for row, (candidate, group) in enumerate(zip(candidates, truths, strict=True)):
        guess = _tf_idf(_ngrams(words(candidate)), frequency, log_n)
        scores[row] = 10.0 * np.mean([_similarity(guess, _tf_idf(truth, frequency, log_n)) for truth in group])
    return scores


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the corpus's CIDEr-D, the mean of `cider_scores`."""
    return float(cider_scores(candidates, references).mean())


def _check(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if isinstance(references, str) or any(isinstance(group, str) for group in references):
        raise BadInput("references must hold a list of captions for each picture, not a bare string.")
    if len(candidates) != len(references) or len(candidates) == 0:
        raise BadInput(f"{len(candidates)} captions and {len(references)} references: want the same number, >= 1.")
    if not all(len(group) for group in references):
        raise BadInput("every picture needs at least one reference caption.")


def _ngrams(tokens: Sequence[str]) -> Counter[Ngram]:
    orders = range(1, MAX_ORDER + 1)
    return Counter(tuple(tokens[i : i + n]) for n in orders for i in range(len(tokens) - n + 1))


def _tf_idf(counts: Counter[Ngram], frequency: Counter[Ngram], log_n: float) -> tuple[dict[Ngram, float], int]:
    """Return the weight of each n-gram and the text's length in bigrams (COCO's count; as good as words)."""
    weights = {ngram: count * (log_n - math.log(max(1, frequency[ngram]))) for ngram, count in counts.items()}
    return weights, sum(count for ngram, count in counts.items() if len(ngram) == 2)


def _similarity(guess: tuple[dict[Ngram, float], int], truth: tuple[dict[Ngram, float], int]) -> float:
    (guess_weights, guess_length), (truth_weights, truth_length) = guess, truth
    dot, guess_norm, truth_norm = np.zeros(MAX_ORDER), np.zeros(MAX_ORDER), np.zeros(MAX_ORDER)
    for ngram, weight in guess_weights.items():
        order, truth_weight = len(ngram) - 1, truth_weights.get(ngram, 0.0)
        dot[order] += min(weight, truth_weight) * truth_weight
        guess_norm[order] += weight**2
    for ngram, weight in truth_weights.items():
        truth_norm[len(ngram) - 1] += weight**2
    norm = np.sqrt(guess_norm * truth_norm)
    cosine = np.divide(dot, norm, out=np.zeros(MAX_ORDER), where=norm > 0)
    return float(cosine.mean() * math.exp(-((guess_length - truth_length) ** 2) / (2 * CIDER_SIGMA**2)))
