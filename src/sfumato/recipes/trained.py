"""A run that was trained, opened again: its model, its pictures' normalisation, and what it can be asked."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sfumato import data, evaluate, models
from sfumato.base import BadInput, checksums
from sfumato.base.places import check_places
from sfumato.recipes.answering import load_answering, question_of
from sfumato.recipes.config import CONFIG, read_config
from sfumato.recipes.contrastive import read_towers, start_encoder, start_towers, write_towers
from sfumato.recipes.exported import check_export, check_target
from sfumato.recipes.frozen import Remembered
from sfumato.recipes.run import Run
from sfumato.recipes.sets import Sets

_NOT_OF_MODELS = ("*.jsonl", "metrics.json", "samples.json", "attention.json", "report.html", checksums.NAME, ".*")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run's export in evaluation mode.

    Attributes:
        run: its settings.
        loaded: what `models` read: model, tokenizer or None, normalisation.
        preprocess: the evaluation transform, the same as in training; None where the model's own processor does it.
    """

    run: Run
    loaded: Any
    preprocess: data.Preprocess | None

    @property
    def kind(self) -> str:
        """ "captioner", "towers", "encoder" or "vlm"."""
        return self.run.model.kind

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """Return features (B, D) float32 of normalised pictures (B, C, S, S): what probes and classifiers are given.

        Raises:
            BadInput: the model has no features of pictures alone.
        """
        self.normalised()
        return encoder_of(self.loaded, self.kind)(pictures)

    def normalised(self) -> data.Preprocess:
        """Return the evaluation transform.

        Raises:
            BadInput: the model answers questions, and takes pictures as they are.
        """
        if self.preprocess is None:
            raise BadInput(f"{self.run.out} answers questions: it has no features of pictures alone.")
        return self.preprocess

    def subject(self, sets: Sets) -> evaluate.Subject:
        """Return the model as what is evaluated, beside the same model at its start."""
        model, loaded = self.loaded.model, self.loaded
        if self.kind == "vlm":
            question = question_of(self.run, sets.train)
            return evaluate.answerer(model, loaded.family, max_new_tokens=self.run.asking.max_answer, question=question)
        if self.kind == "captioner":
            return evaluate.captioner(model, loaded.tokenizer)
        if self.kind == "towers":
            started, words = start_towers(self.run, sets.train)
            for one in (model, started.model):
                if isinstance(one, models.TowerPair):  # probes, zero-shot and retrieval ask for the same pictures
                    one.image = Remembered(one.image)
            return evaluate.dual_encoder(
                model,
                loaded.embed,
                lambda texts: loaded.tokenizer.encode_texts(texts, words.max_tokens),
                random_model=started.model.eval(),
            )
        return evaluate.image_encoder(model, loaded.embed, random_model=start_encoder(self.run).model.eval())


def open_trained(folder: Path) -> Trained:
    """Return the run in `folder`.

    Raises:
        BadInput: no run, no export, or a classifier, which has no encoder of its own.
        DamagedFile: a file of the export is not what was written.
    """
    run = read_config(folder)
    readers: dict[str, Callable[[Path], Any]] = {
        "captioner": models.load_export,
        "towers": lambda path: read_towers(run, path),
        "encoder": models.load_encoder,
        "vlm": lambda path: load_answering(run, path),
    }
    if run.model.kind not in readers:
        raise BadInput(f"{folder} holds a {run.model.kind}: give the run that it was trained on.")
    check_export(folder)
    loaded = readers[run.model.kind](folder)
    preprocess = None if run.model.kind == "vlm" else preprocess_of(loaded.preprocess)
    return Trained(run=run, loaded=loaded, preprocess=preprocess)


def preprocess_of(known: dict[str, Any]) -> data.Preprocess:
    """Return the evaluation transform of an export: size and normalisation are those that training used."""
    return data.Preprocess(
        image_size=known["image_size"], mean=tuple(known["mean"]), std=tuple(known["std"]), channels=known["channels"]
    )


def encoder_of(loaded: Any, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return pictures (B, C, S, S) -> features (B, D) of a loaded or started model, on its device."""
    model = loaded.model
    device = next(model.parameters()).device

    def encode(pictures: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(pictures).to(device)
        with models.evaluating(model):
            return _features(loaded, kind, pixels).float().cpu().numpy()

    return encode


def _features(loaded: Any, kind: str, pixels: Tensor) -> Tensor:
    if kind == "captioner":
        return models.embed(loaded.model, pixels)
    return loaded.embed.features(loaded.model, pixels)


def readable_rows(
    captioned: data.Captioned,
    preprocess: data.Preprocess,
    encode: Callable[[np.ndarray], np.ndarray],
    *,
    batch_size: int = 128,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return features (R, D) of every row of a set, zero where a row cannot be read, and which can, (R,) bool.

    No row is left out: the number of records is a public constant of the proof.
    """
    found = evaluate.embed(
        captioned, preprocess, {"features": encode}, batch_size=batch_size, progress=progress, what="features"
    )
    features = np.zeros((len(captioned), found.features["features"].shape[1]), np.float32)
    readable = np.zeros(len(captioned), bool)
    features[found.rows], readable[found.rows] = found.features["features"], True
    return features, readable


def class_numbers(captioned: data.Captioned, classes: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the class of each row, int64 (R,), -1 where it is none of the declared ones, and the names.

    Args:
        captioned: a set with labels.
        classes: declared public names; () takes those of a public set.

    Raises:
        BadInput: the set has no labels, or it is private and no classes are declared.
    """
    if captioned.labels is None or captioned.class_names is None:
        raise BadInput(f"{captioned.name} has no class labels: name their column with --label-column.")
    if not classes:
        if not captioned.public:
            raise BadInput("the labels are private, so their names are not looked at: list the classes with --classes.")
        return captioned.labels, captioned.class_names
    number_of = {name: number for number, name in enumerate(classes)}
    renumber = np.array([number_of.get(name, -1) for name in captioned.class_names], np.int64)
    return renumber[captioned.labels], tuple(classes)


def hand_on(folder: Path, out: Path, part: Literal["model", "encoder"] = "model") -> Path:
    """Write the model of a run, or of a captioner's export, into `out` in the form its own library loads; return `out`.

    Raises:
        BadInput: no model, a part of one that has no parts, or `out` is a place that a run uses itself.
        DamagedFile: a file of the run's export is not what was written.
    """
    check_places(folder)
    check_target(folder, out)
    with _listed(folder, out):
        return _handed_on(folder, out, part)


@contextmanager
def _listed(folder: Path, out: Path) -> Iterator[None]:
    """Keep the checksums of an export right where something is written into it."""
    export, target = Path(os.path.realpath(folder / "export")), Path(os.path.realpath(out))
    if not target.is_relative_to(export):
        yield
        return
    with checksums.replacing(export, target.relative_to(export).parts[0]):
        yield


def _handed_on(folder: Path, out: Path, part: Literal["model", "encoder"]) -> Path:
    kind = read_config(folder).model.kind if (folder / CONFIG).is_file() else "captioner"
    if kind == "captioner":
        check_export(folder)
        loaded = models.load_export(folder)
        return models.export(loaded.model, loaded.tokenizer, loaded.preprocess, out, part=part)
    if part != "model":
        raise BadInput(f"{folder} holds {kind}: --part is for captioners.")
    loaded = open_trained(folder).loaded
    if kind == "vlm":
        return _copied(folder / "export", out)
    if kind == "towers":
        return write_towers(loaded, loaded.tokenizer, loaded.preprocess, out)
    return models.export_encoder(loaded.model, loaded.preprocess, out)


def _copied(export: Path, out: Path) -> Path:
    inside = (out.name,) if out.resolve().parent == export.resolve() else ()
    left_out = shutil.ignore_patterns(*_NOT_OF_MODELS, *inside)
    return Path(shutil.copytree(export, out, ignore=left_out, dirs_exist_ok=True))
