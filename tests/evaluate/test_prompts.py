import dataclasses

import numpy as np
import pytest
from tests.evaluate.stand_ins import shades

from sfumato.base import BadInput
from sfumato.data import shapes
from sfumato.evaluate.bench import NotApplicableError
from sfumato.evaluate.prompts import PROMPTS, class_embeddings, prompts_of


@dataclasses.dataclass
class Told:
    class_names: tuple | None = None
    class_captions: tuple | None = None
    templates: tuple | None = None


def test_class_names_are_filled_into_the_built_in_prompts():
    found = prompts_of(Told(class_names=("cat", "owl")))
    assert found.texts[0][:2] == ("a cat", "a photo of a cat")
    assert found.texts[1][:2] == ("an owl", "a photo of an owl")
    assert [len(texts) for texts in found.texts] == [len(PROMPTS)] * 2
    assert found.told == {"method": "prompt ensemble", "prompts": list(PROMPTS)}
    assert prompts_of(shades(2)).texts[1][0] == "a light"


def test_a_sets_own_templates_come_before_its_captions_and_these_before_the_built_in():
    names, captions = ("cat", "owl"), ("a tame cat", "a wise owl")
    found = prompts_of(Told(class_names=names, class_captions=captions, templates=("my {label}", "the {label}")))
    assert found.texts == (("my cat", "the cat"), ("my owl", "the owl"))
    assert found.told == {"method": "prompt ensemble", "prompts": ["my {label}", "the {label}"]}
    found = prompts_of(Told(class_names=names, class_captions=captions))
    assert found.texts == (("a tame cat",), ("a wise owl",))
    assert found.told == {"method": "class captions", "captions": list(captions)}
    assert len(prompts_of(shapes(2, image_size=16)).texts) == 36
    assert prompts_of(Told(class_captions=captions, templates=("my {label}",))).texts == (
        ("a tame cat",),
        ("a wise owl",),
    )


def test_without_names_there_is_nothing_to_ask():
    with pytest.raises(NotApplicableError, match="no class names"):
        prompts_of(Told(templates=("my {label}",)))


def test_templates_that_name_no_class_are_refused():
    with pytest.raises(BadInput, match=r"must hold \{label\}"):
        prompts_of(Told(class_names=("cat",), templates=("a picture",)))


def test_a_class_is_the_unit_mean_of_its_unit_prompts():
    texts = np.array([[[1.0, 0.0], [0.0, 5.0]], [[-3.0, 0.0], [-1.0, 0.0]]])  # lengths do not weigh
    half = np.sqrt(0.5)
    assert class_embeddings(texts) == pytest.approx(np.array([[half, half], [-1, 0]]))


def test_prompts_that_cancel_or_diverge_are_refused():
    with pytest.raises(BadInput, match="cancel"):
        class_embeddings(np.array([[[1.0, 2.0], [-1.0, -2.0]]]))
    with pytest.raises(BadInput, match="diverged"):
        class_embeddings(np.array([[[1.0, np.nan]]]))
