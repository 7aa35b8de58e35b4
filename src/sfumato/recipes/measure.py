"""Evaluate a run and write what may be shown of it."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato import data, evaluate, models
from sfumato.base import BadInput, checksums
from sfumato.base.errors import UndecodableRow
from sfumato.base.files import PRIVATE_MODE, write_whole
from sfumato.base.places import check_places
from sfumato.recipes import classifier
from sfumato.recipes.config import read_config
from sfumato.recipes.run import Run
from sfumato.recipes.sets import sets_of
from sfumato.recipes.trained import class_numbers, open_trained, readable_rows

log = logging.getLogger(__name__)

_SAMPLES, _ATTENTION = 12, 4


def evaluate_run(
    folder: Path,
    *,
    suites: Sequence[str] | None = None,
    limit: int | None = None,
    max_pixels: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate the exported model of a run and return the results.

    What rests on private pictures goes to private/metrics.json alone; the rest to export/metrics.json, with sample
    captions and attention of a captioner where the evaluation data is public.

    Args:
        folder: of the run.
        suites: names of `evaluate.SUITES`; None: all that suit the model (of a captioner probe, few-shot, zero-shot and
            captions). A classifier has one measure of its own, its accuracy.
        limit: use at most so many pictures of each set.
        max_pixels: larger pictures count as unreadable; None: as in training.
        progress: called with (what, done, of how many).

    Raises:
        BadInput: no run, nothing held out, or an unknown suite.
    """
    if suites is not None:
        evaluate.check_suites(suites)
    check_places(folder)
    run = _limited(read_config(folder), max_pixels)
    sets = sets_of(run.data, run.model.image_size)
    if sets.test is None:
        raise BadInput(
            f"{folder} held nothing out: train with --holdout 0.1, or evaluate a data set with a test split."
        )
    if run.model.kind == "classifier":
        results = _classified(folder, run, sets.test, limit, progress)
    else:
        trained = open_trained(folder)
        subject = trained.subject(sets)
        results = evaluate.run_suite(
            subject,
            trained.preprocess,
            sets.train,
            sets.test,
            suites=suites or evaluate.suites_for(subject),
            limit=limit,
            unseen_set=sets.unseen,
            progress=progress,
        )
    _write(folder, results)
    if sets.test.public and run.model.kind == "captioner":
        write_samples(folder, max_pixels)
    return results


def _limited(run: Run, max_pixels: int | None) -> Run:
    return run if max_pixels is None else replace(run, data=replace(run.data, max_pixels=max_pixels))


def _classified(
    folder: Path,
    run: Run,
    test: data.Captioned,
    limit: int | None,
    progress: Callable[[str, int, int], None] | None,
) -> dict[str, Any]:
    """Return the accuracy of a classifier beside that of its most frequent answer, in the form of `run_suite`."""
    saved = classifier.load(folder)
    trained = open_trained(saved.encoder)
    chosen = test if limit is None else test.select(evaluate.subset(len(test), limit, 0))
    numbers, names = class_numbers(chosen, saved.classes)
    features, readable = readable_rows(chosen, trained.normalised(), trained.features, progress=progress)
    counts = readable & (numbers >= 0)
    if not counts.any():
        raise BadInput(f"no picture of {test.name} can be read and is of a declared class.")
    with torch.no_grad():
        logits = saved.model(torch.from_numpy(classifier.unit_rows(features[counts]))).numpy()
    found = evaluate.zero_shot(logits, numbers[counts], names).to_json()
    found |= {"majority": float(np.bincount(numbers[counts]).max() / counts.sum()), "private": not test.public}
    return {"private": not test.public, "seed": 0, "num_test": int(counts.sum()), "suites": {"classify": found}}


def _write(folder: Path, results: dict[str, Any]) -> None:
    _shown(folder, "metrics.json", evaluate.shareable(results))
    if results["private"]:
        private = folder / "private"
        private.mkdir(mode=0o700, exist_ok=True)
        write_whole(private / "metrics.json", json.dumps(results, indent=1) + "\n", PRIVATE_MODE)


def _shown(folder: Path, name: str, content: Any) -> None:
    """Write a file of figures into a run's export, whole or not at all."""
    export = folder / "export"
    with checksums.replacing(export, name):
        write_whole(export / name, json.dumps(content, indent=1) + "\n")


def write_samples(folder: Path, max_pixels: int | None = None) -> list[dict[str, str]]:
    """Write public held-out pictures with their captions, and where the words look, into export/; return the former.

    Raises:
        BadInput: the run holds no captioner.
    """
    check_places(folder)
    trained = open_trained(folder)
    run, loaded, preprocess = _limited(trained.run, max_pixels), trained.loaded, trained.normalised()
    sets = sets_of(run.data, run.model.image_size)
    if trained.kind != "captioner":
        raise BadInput(f"{folder} holds {trained.kind}, which write no captions.")
    assert sets.test is not None
    assert sets.test.public
    chosen = np.linspace(0, len(sets.test) - 1, 4 * _SAMPLES).astype(int)
    examples, seen = [], []
    for index in chosen:
        try:
            example = sets.test[int(index)]
        except UndecodableRow:
            continue
        seen.append(preprocess.evaluate(example["image"]))
        examples.append({**example, "image": data.preview(example["image"])})
        if len(examples) == _SAMPLES:
            break
    pictures = torch.stack(seen)
    texts = models.generate_captions(loaded.model, loaded.tokenizer, pictures)
    samples = [
        {"image_png_base64": data.png_base64(e["image"]), "reference": e["caption"], "generated": text}
        for e, text in zip(examples, texts, strict=True)
    ]
    _shown(folder, "samples.json", samples)
    attention = [
        _attention(loaded, example["image"], picture, text)
        for example, picture, text in zip(examples[:_ATTENTION], pictures, texts, strict=False)
    ]
    _shown(folder, "attention.json", [a for a in attention if a])
    return samples


def _attention(loaded: models.Loaded, image: np.ndarray, picture: torch.Tensor, text: str) -> dict[str, str] | None:
    """Return the picture and the same picture lit where the caption's words look; None without a square of tokens."""
    limit = loaded.model.generation_config.max_new_tokens  # the positions that the decoder knows
    max_tokens = min(limit, max(2, loaded.tokenizer.count_tokens([text])[0]))
    weights = models.cross_attention(loaded.model, picture[None], loaded.tokenizer.encode([text], max_tokens))
    tokens = weights[0].mean(0)
    side = int(len(tokens) ** 0.5)
    if side * side != len(tokens):
        tokens, side = tokens[-(side * side) :], side  # a leading class token is left out
    heat = tokens.view(side, side).float().numpy()
    return {
        "image_png_base64": data.png_base64(image),
        "overlay_png_base64": data.png_base64(data.light_up(image, heat)),
        "caption": text,
    }
