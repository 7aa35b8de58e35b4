"""Answers from a closed list: the log-likelihood of every candidate behind its question."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.models.captioner import evaluating
from sfumato.models.families import Rows
from sfumato.models.vlm import StartedVlm

_ROWS = 64  # rows at a time


def score_answers(
    started: StartedVlm,
    model: nn.Module,
    pictures: Sequence[np.ndarray],
    questions: Sequence[str],
    candidates: Sequence[str],
) -> Tensor:
    """Return (N, A) log-likelihood per token, in nats, of each of A candidates as the answer to each of N questions.

    The end token counts, and candidates are cut to max_answer as in training.

    Raises:
        UndecodableRow: a question or picture that cannot be fed.
    """
    pairs = [(n, answer) for n in range(len(questions)) for answer in candidates]
    found = []
    with evaluating(model):
        for start in range(0, len(pairs), _ROWS):
            part = pairs[start : start + _ROWS]
            rows = [started.family.encode(pictures[n], questions[n], answer) for n, answer in part]
            found.append(_per_token(started, model, stacked(rows, model)))
    return torch.cat(found).view(len(questions), len(candidates)) if found else torch.zeros(len(questions), 0)


def answers(
    started: StartedVlm, model: nn.Module, pictures: Sequence[np.ndarray], questions: Sequence[str]
) -> list[str]:
    """Return the greedy answer to each question, of at most max_answer tokens; raises as `score_answers`."""
    found: list[str] = []
    for start in range(0, len(questions), _ROWS):
        part = range(start, min(start + _ROWS, len(questions)))
        rows = stacked([started.family.ask(pictures[n], questions[n]) for n in part], model)
        found += started.family.generate(model, rows, max_new_tokens=started.facts["max_answer"])
    return found


def stacked(rows: Sequence[Rows], model: nn.Module) -> Rows:
    """Return rows as a batch on the model's device, floats in its type."""
    weight: Any = next(model.parameters())
    batch = {name: torch.stack([row[name] for row in rows]).to(weight.device) for name in rows[0]}
    return {name: value.to(weight.dtype) if value.is_floating_point() else value for name, value in batch.items()}


def _per_token(started: StartedVlm, model: nn.Module, batch: Rows) -> Tensor:
    labels = batch["labels"]
    logits = started.family.logits(model, batch)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
    nll = nn.functional.cross_entropy(wide, labels.flatten(), ignore_index=-100, reduction="none").view(labels.shape)
    return (-nll.sum(1) / (labels != -100).sum(1).clamp(min=1)).cpu()
