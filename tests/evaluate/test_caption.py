import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer

from sfumato.base import BadInput
from sfumato.evaluate.caption import bleu4, cider, cider_scores, words

WORDS = ["a", "the", "red", "blue", "big", "dog", "cat", "sits", "runs", "on", "mat"]
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
CORPUS = st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=2, max_size=6)

CAPTIONS = [
    "a small red circle above two large blue squares",
    "three small green rings",
    "a dog sits on the mat",
    "cat",
]
REFERENCES = [
    ["a small red circle above two large blue squares", "one red circle over blue squares"],
    ["three large green rings", "three small green rings in a row", "rings"],
    ["the dog sits on a mat", "a dog on the mat"],
    ["a cat", "the cat sits"],
]


def coco_bleu(candidates, references):
    scorer = BleuScorer(n=4)
    for candidate, truths in zip(candidates, references):
        scorer += (candidate, truths)
    return scorer.compute_score(option="closest")[0][3]


def coco_cider(candidates, references):
    scorer = CiderScorer()
    for candidate, truths in zip(candidates, references):
        scorer += (candidate, truths)
    return scorer.compute_score()[1]


def test_bleu_is_cocos_and_nltks():
    found = bleu4(CAPTIONS, REFERENCES)
    assert 0.3 < found < 0.95
    assert found == pytest.approx(coco_bleu(CAPTIONS, REFERENCES), abs=1e-6)
    # NLTK counts a 4-gram even in a caption of one word, so the last is left out
    split = [[words(t) for t in group] for group in REFERENCES[:3]]
    reference = corpus_bleu(split, [words(c) for c in CAPTIONS[:3]])
    assert bleu4(CAPTIONS[:3], REFERENCES[:3]) == pytest.approx(reference, abs=1e-12)


def test_cider_is_cocos():
    found = cider_scores(CAPTIONS, REFERENCES)
    assert found == pytest.approx(coco_cider(CAPTIONS, REFERENCES), abs=1e-9)
    assert cider(CAPTIONS, REFERENCES) == pytest.approx(found.mean())
    assert found.max() > 1


@settings(max_examples=60, deadline=None)
@given(CORPUS)
def test_both_are_cocos_on_any_corpus(corpus):
    candidates, references = [c for c, _ in corpus], [r for _, r in corpus]
    assert cider_scores(candidates, references) == pytest.approx(coco_cider(candidates, references), abs=1e-9)
    found = bleu4(candidates, references)
    if found > 0:  # COCO's code puts 1e-15 in place of zero matches
        assert found == pytest.approx(coco_bleu(candidates, references), rel=1e-6)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            split = [[words(t) for t in group] for group in references]
            assert corpus_bleu(split, [words(c) for c in candidates]) < 1e-50


def test_a_word_counts_as_often_as_one_reference_has_it():
    candidates, references = (
        ["the the cat sat on the mat"],
        [["the cat sat on the mat", "the cat sat on the mat again"]],
    )
    assert bleu4(candidates, references) == pytest.approx(coco_bleu(candidates, references), rel=1e-6)
    assert bleu4(candidates, references) < 0.9


def test_perfect_captions():
    truths = [[text] for text in CAPTIONS]
    assert bleu4(CAPTIONS, truths) == pytest.approx(1.0)
    # a text of at least four words reaches 10; one of a single word has no n-grams of three orders
    assert cider_scores(CAPTIONS, truths) == pytest.approx([10, 10, 10, 2.5])


def test_wrong_and_empty_captions_score_nothing():
    assert bleu4(["", "zebra"], [["a dog sits on"], ["a cat sits on"]]) == 0.0
    assert cider_scores(["", "zebra"], [["a dog"], ["a cat"]]).tolist() == [0.0, 0.0]


def test_a_single_picture_has_no_idf():
    assert cider(["a dog"], [["a dog"]]) == 0.0


def test_words_ignore_case_and_punctuation():
    assert words("A T-shirt; it's (blue)!  Été 3.5 cm. 3.") == ["a", "t-shirt", "it's", "blue", "été", "3.5", "cm", "3"]
    assert bleu4(["A dog, on the mat."], [["a dog on the mat"]]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a"], [], "want the same number"),
        ([], [], "want the same number"),
        (["a"], [[]], "at least one reference"),
        (["a"], ["a dog"], "list of captions"),
        (["a"], "a", "list of captions"),
    ],
)
def test_wrong_corpora_are_refused(candidates, references, message):
    for metric in (bleu4, cider_scores):
        with pytest.raises(BadInput, match=message):
            metric(candidates, references)


def test_order_matters_to_both():
    text = "a small red circle above two large blue squares"
    shuffled = " ".join(np.random.default_rng(0).permutation(text.split()))
    others = [["a dog on the mat"], ["a cat on a hat"]]
    for metric in (bleu4, cider):
        assert metric([shuffled, "x", "y"], [[text], *others]) < metric([text, "x", "y"], [[text], *others])
