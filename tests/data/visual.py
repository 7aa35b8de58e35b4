"""Visual questions in the files that VQA2.0 has, made up and small: for tests that need them from end to end.

Each picture shows one flat colour; questions ask which, and whether it is red. Ten people answer, and now and then one
of them is wrong. Everything is a function of `seed`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


@dataclass(frozen=True, kw_only=True)
class Vqa2Files:
    """What was written: the folder, and of the split its two files, its pictures and their number."""

    root: Path
    questions: Path
    annotations: Path
    images: Path
    num_images: int


def build_vqa2(
    root: Path, *, split: str = "train", num_images: int = 4, first_image: int = 1, seed: int = 0
) -> Vqa2Files:
    """Write one split below `root` under the names that VQA2.0 gives its files."""
    rng = np.random.default_rng(seed)
    images = root / f"{split}2014"
    images.mkdir(parents=True)
    asked: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    for image in range(first_image, first_image + num_images):
        colour = list(COLOURS)[int(rng.integers(3))]
        Image.new("RGB", (12, 8), COLOURS[colour]).save(images / f"COCO_{split}2014_{image:012d}.jpg")
        _ask(asked, told, image, "What color is it?", "other", colour, rng)
        _ask(asked, told, image, "Is it red?", "yes/no", "yes" if colour == "red" else "no", rng)
    questions = root / f"v2_OpenEnded_mscoco_{split}2014_questions.json"
    annotations = root / f"v2_mscoco_{split}2014_annotations.json"
    questions.write_text(json.dumps({"data_subtype": f"{split}2014", "questions": asked}))
    annotations.write_text(json.dumps({"data_subtype": f"{split}2014", "annotations": told[::-1]}))
    return Vqa2Files(root=root, questions=questions, annotations=annotations, images=images, num_images=num_images)


def _ask(
    asked: list[dict[str, Any]],
    told: list[dict[str, Any]],
    image: int,
    question: str,
    answer_type: str,
    answer: str,
    rng: np.random.Generator,
) -> None:
    number = 10 * image + len(asked) % 2
    asked.append({"image_id": image, "question": question, "question_id": number})
    said = [answer] * 10
    said[0] = "maybe" if rng.integers(2) else answer  # the first, so that the commonest is another one
    told.append(
        {
            "question_id": number,
            "image_id": image,
            "question_type": " ".join(question.lower().split()[:2]),
            "answer_type": answer_type,
            "multiple_choice_answer": answer,
            "answers": [
                {"answer": text, "answer_confidence": "yes", "answer_id": place + 1} for place, text in enumerate(said)
            ],
        }
    )
