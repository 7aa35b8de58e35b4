"""Two towers of your own under differential privacy: groups, pairs, and a loss of similarities of your own.

    python examples/contrastive.py group runs/groups
    python examples/contrastive.py pair runs/pairs
    python examples/contrastive.py own runs/own        # a loss whose bounds nobody has proved: no epsilon

In a contrastive loss rows meet, so nothing can be clipped "per example". A group's gradient is clipped as a whole, and
a record moves its own group alone; or the gradient of every single similarity is clipped, and the loss says how far one
record can move the weights of all others.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sfumato as sf
from sfumato import data, models

log = logging.getLogger("contrastive")
NUM_RECORDS, BATCH = 2_000, 128


class Towers(nn.Module):
    """A picture and its caption as two vectors of 8 numbers."""

    def __init__(self, num_words: int) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=4), nn.GELU(), nn.Conv2d(16, 32, 3, stride=2), nn.GELU(), nn.Flatten(),
            nn.Linear(32 * 9, 8),
        )  # fmt: skip
        self.words = nn.Embedding(num_words, 8)


def embed(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of unit norm, each a function of its own record: checked on made-up rows before the first step."""
    texts = model.words(batch["input_ids"]).mean(1)
    return F.normalize(model.image(batch["pixel_values"]), dim=1), F.normalize(texts, dim=1)


def cubes(similarity: Tensor, meets: Tensor) -> Tensor:
    """A loss of one's own: one value per row, from the similarities that meet."""
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    return torch.where(meets & ~own, similarity, 0.0).pow(3).mean(1) - similarity.diagonal()


def choose(which: str) -> tuple[Any, sf.Contrast]:
    """Return the unit, which states its distance, and the loss."""
    if which == "group":
        loss = sf.InfoNCE(temperature=0.1)  # any temperature: the distance is 2C
        return sf.Group(clip_norm=1.0, num_groups=16), sf.Contrast(embed=embed, loss=loss)
    if which == "pair":
        loss = sf.InfoNCE(temperature=1.0)  # the distance grows with e^(2 / temperature)
        return sf.Pair(clip_norm=1.0, loss=loss), sf.Contrast(embed=embed, loss=loss)
    claimed = sf.ConjecturedLoss(rule="mean cube of the other similarities, minus the own one", join=9.0, exchange=12.0)
    return sf.Pair(clip_norm=1.0, loss=claimed), sf.Contrast(embed=embed, loss=claimed, value=cubes)


def main(which: str, out: Path, steps: int = 30, num_records: int = NUM_RECORDS) -> float | None:
    """Train and return epsilon, or None where nothing is proved."""
    scenes = data.shapes(num_records, image_size=32, scenes="single")
    tokenizer = models.Tokenizer.from_public_text(data.shapes_vocabulary())
    rows = data.PairRows(
        captioned=scenes,
        preprocess=data.Preprocess.suited(scenes, 32),
        encode=lambda captions: tokenizer.encode_texts(captions, 8),
        max_tokens=8,
        text_name="input_ids",
    )
    torch.manual_seed(0)
    model = Towers(tokenizer.vocab_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    unit, contrast = choose(which)
    sampler = sf.Poisson(num_records=num_records, expected_batch_size=min(BATCH, num_records // 4), cap=2 * BATCH)
    plan = sf.Plan(unit=unit, sampler=sampler, steps=steps, noise_multiplier=1.0)
    with sf.PrivateGradients(model, contrast, plan, out=out, optimizer=optimizer) as private:
        private.load(optimizer)
        for step, micro_batches in sf.loader(rows, private, micro_batch_size=64):
            private.backward(step, micro_batches)
            optimizer.step()
            optimizer.zero_grad()
        private.save(optimizer)
        epsilon = private.epsilon if unit.proved else None
    log.info("%s: epsilon %s", unit.describe(), epsilon)
    return epsilon


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = sys.argv[1:] or ["group"]
    main(arguments[0], Path(arguments[1] if len(arguments) > 1 else f"runs/contrastive-{arguments[0]}"))
