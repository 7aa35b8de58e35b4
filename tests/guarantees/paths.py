"""Models whose path through the layers depends on values, on the number of rows or on what came before.

Losses give one value per row; rows are batches of one, hostile ones among them. What a mechanism makes of a micro-batch
of them must be what a loop over single rows gives, or the model must be refused before the first step.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, LENGTH, WIDTH = 12, 8, 6
Batch = dict[str, Tensor]


class Words(nn.Module):
    """Token embedding, a mixing layer inside rows, and a head that subclasses apply in their own way."""

    def __init__(self, vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(vocabulary, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def hidden(self, batch: Batch) -> Tensor:
        h = self.words(batch["ids"])
        return h + torch.tanh(self.mix(h.cumsum(1)))


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
    return losses.sum(1) / (labels != -100).sum(1).clamp(min=1)


def dense(model: Words, batch: Batch) -> Tensor:
    return token_losses(model.head(model.hidden(batch)), batch["labels"])


def in_chunks(model: Words, batch: Batch) -> Tensor:
    h = model.hidden(batch)
    logits = torch.cat([model.head(part) for part in h.flatten(0, 1).split(32)])
    return token_losses(logits.view(*h.shape[:2], -1), batch["labels"])


def chosen_positions(model: Words, batch: Batch) -> Tensor:
    """The head sees labelled positions alone, packed over the rows (as with `sparse_prediction`)."""
    chosen = batch["labels"] != -100
    losses = F.cross_entropy(model.head(model.hidden(batch)[chosen]), batch["labels"][chosen], reduction="none")
    rows = torch.arange(len(chosen))[:, None].expand_as(chosen)[chosen]
    total = torch.zeros(len(chosen), dtype=losses.dtype).index_add(0, rows, losses)
    return total / chosen.sum(1).clamp(min=1)


def sorted_by_length(model: Words, batch: Batch) -> Tensor:
    lengths = (batch["labels"] != -100).sum(1)
    order = lengths.argsort(stable=True)
    logits = model.head(model.hidden(batch)[order])[order.argsort()]
    return token_losses(logits, batch["labels"])


def packed_head(model: Words, batch: Batch) -> Tensor:
    """All chosen positions of all rows side by side, filled up to a constant number of entries."""
    chosen = batch["labels"] != -100
    h = model.hidden(batch)
    flat = h.flatten(0, 1)
    index = torch.cat([chosen.flatten().nonzero().squeeze(1), (~chosen.flatten()).nonzero().squeeze(1)])
    logits = model.head(flat[index])
    back = torch.empty_like(logits).index_copy(0, index, logits)
    return token_losses(back.view(*h.shape[:2], -1), batch["labels"])


def scattered(model: Words, batch: Batch) -> Tensor:
    """Features are put where a token says so; only their total number is checked."""
    h = model.hidden(batch)
    mask = (batch["ids"] == 1)[..., None].expand_as(h)
    features = model.mix(model.words.weight[2:4]).expand(len(h), -1, -1) * batch["labels"][:, :1, None]
    if mask.sum() != features.numel():
        raise ValueError("image features and image tokens do not match")
    h = h.masked_scatter(mask, features)
    return token_losses(model.head(h), batch["labels"])


def without_a_full_mask(model: Words, batch: Batch) -> Tensor:
    """A mask of ones is left out, as transformers does: another path."""
    h = model.hidden(batch)
    mask = batch["labels"] != -100
    if not bool(mask.all()):
        h = h * mask[..., None]
    return token_losses(model.head(h), batch["labels"])


def raises_for_a_value(model: Words, batch: Batch) -> Tensor:
    if int((batch["labels"] == 7).sum()) == 3:
        raise ValueError(f"labels {batch['labels'].tolist()}")
    return dense(model, batch)


def over_labels_of_the_batch(model: Words, batch: Batch) -> Tensor:
    logits = model.head(model.hidden(batch))
    losses = F.cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none", ignore_index=-100)
    return losses.sum(1) / (batch["labels"] != -100).sum()


LOSSES: dict[str, Callable[[Any, Batch], Tensor]] = {
    function.__name__: function
    for function in (
        dense, in_chunks, chosen_positions, sorted_by_length, packed_head, scattered, without_a_full_mask,
        raises_for_a_value,
    )
}  # fmt: skip
"""Row for row functions of the row, however they are computed."""


def row(seed: int, labelled: int = LENGTH, value: int | None = None) -> Batch:
    """One row with `labelled` labels, the others ignored; or with one label throughout."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (1, LENGTH), generator=generator)
    labels = torch.randint(0, VOCABULARY, (1, LENGTH), generator=generator)
    ids[:, torch.randperm(LENGTH, generator=generator)[:2]] = 1
    if value is not None:
        labels[:] = value
    labels[:, labelled:] = -100
    return {"ids": ids, "labels": labels}


def rows(count: int) -> list[Batch]:
    return [row(seed, labelled=1 + (3 * seed) % LENGTH) for seed in range(count)]


def made_up(count: int) -> Batch:
    """Rows with two image tokens each, for models that need them."""
    made = [row(200 + number, labelled=1 + number % LENGTH) for number in range(count)]
    return {name: torch.cat([one[name] for one in made]) for name in made[0]}


HOSTILE: dict[str, Batch] = {
    "no label": row(90, labelled=0),
    "all labels": row(91),
    "one label": row(92, labelled=1),
    "label that is checked": row(93, labelled=3, value=7),
    "token out of range": {"ids": torch.full((1, LENGTH), VOCABULARY), "labels": row(94)["labels"]},
    "label out of range": {"ids": row(95)["ids"], "labels": torch.full((1, LENGTH), 99)},
    "negative token": {"ids": torch.full((1, LENGTH), -1), "labels": row(96)["labels"]},
    "five image tokens": {"ids": torch.tensor([[1, 1, 1, 1, 1, 2, 3, 4]]), "labels": row(97)["labels"]},
}


# ---------------------------------------------------------------- embeddings


def _sides(model: Words, h: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return F.normalize(torch.tanh(model.mix(h)).mean(1), dim=1), F.normalize(logits.mean(1)[:, :WIDTH], dim=1)


def embed_dense(model: Words, batch: Batch) -> tuple[Tensor, Tensor]:
    h = model.hidden(batch)
    return _sides(model, h, model.head(h))


def embed_in_chunks(model: Words, batch: Batch) -> tuple[Tensor, Tensor]:
    h = model.hidden(batch)
    logits = torch.cat([model.head(part) for part in h.flatten(0, 1).split(32)])
    return _sides(model, h, logits.view(*h.shape[:2], -1))


def embed_sorted(model: Words, batch: Batch) -> tuple[Tensor, Tensor]:
    h = model.hidden(batch)
    order = (batch["labels"] != -100).sum(1).argsort(stable=True)
    return _sides(model, h, model.head(h[order])[order.argsort()])


def embed_packed(model: Words, batch: Batch) -> tuple[Tensor, Tensor]:
    h = model.hidden(batch)
    chosen = batch["labels"] != -100
    logits = torch.zeros(*h.shape[:2], VOCABULARY, dtype=h.dtype)
    logits[chosen] = model.head(h[chosen])
    return _sides(model, h, logits + model.head.bias)


EMBEDS: dict[str, Callable[[Any, Batch], tuple[Tensor, Tensor]]] = {
    function.__name__: function for function in (embed_dense, embed_in_chunks, embed_sorted, embed_packed)
}
