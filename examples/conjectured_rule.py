"""A researcher's own clip rule: it trains, it is measured, it prints no epsilon, and its card says NOT PROVED.

    python examples/conjectured_rule.py runs/rule

The rule here lets a gradient pass whole up to C, and brings longer ones down softly, to between C and 2C. What you
believe of a rule goes into `Conjectured`: how far one record can move the sum (presence), and how far exchanging one
can (swap). Noise is drawn for what you believe. Whether it holds is then a question for a proof (write a unit, as
`Example` is one, and it gets an epsilon), or for a counter-example, which this script looks for.
"""

import logging
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sfumato as sf
from sfumato.report import build
from sfumato.train import card_facts

log = logging.getLogger("conjectured_rule")
CLIP_NORM = 1.0


def soft_clip(norms: Tensor) -> Tensor:
    """From norms (N,) to factors (N,): factor times norm is C (2 - C / norm) beyond C, so below 2C."""
    ratio = CLIP_NORM / norms
    return torch.where(norms <= CLIP_NORM, 1.0, ratio * (2.0 - ratio))


class Regression:
    """Two hundred records of eight numbers and a target; some are far out."""

    def __init__(self, num_records: int = 200) -> None:
        rng = np.random.default_rng(0)
        self.inputs = rng.standard_normal((num_records, 8)).astype(np.float32)
        self.targets = (self.inputs[:, 0] + rng.standard_t(2, num_records)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.float32]:
        return self.inputs[index], self.targets[index]

    def manifest(self) -> dict[str, object]:
        return {"name": "regression", "seed": 0}


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, targets = batch
    return F.smooth_l1_loss(model(inputs).squeeze(1), targets, reduction="none")


def largest_presence(num_norms: int = 100_000) -> float:
    """The farthest that the rule lets one record move the sum, over many norms: a test, not a proof."""
    norms = torch.logspace(-6, 12, num_norms, dtype=torch.float64)
    return float((soft_clip(norms) * norms).max())


def main(out: Path, steps: int = 30) -> dict:
    dataset = Regression()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    claimed = 2 * CLIP_NORM
    log.info("claimed presence %.3f, largest found %.6f", claimed, largest_presence())
    plan = sf.Plan(
        unit=sf.Conjectured(rule="soft clip: C (2 - C / norm) beyond C", presence=claimed, swap=2 * claimed),
        sampler=sf.Poisson(num_records=len(dataset), expected_batch_size=50),
        steps=steps,
        noise_multiplier=1.0,
    )
    with sf.PrivateGradients(model, loss_fn, plan, out=out, optimizer=optimizer, clip_factor=soft_clip) as private:
        for step, micro_batches in sf.loader(dataset, private, micro_batch_size=25):
            private.backward(step, micro_batches)
            optimizer.step()
            optimizer.zero_grad()
        try:
            _ = private.epsilon
        except sf.Refused as error:
            log.info("no epsilon: %s", error)
    card = build(
        card_facts(
            out,
            record="one row of the table",
            owner_column=None,
            public={"vocabulary": "none", "normalisation": "none", "initialisation": "random"},
            left_out={"tuning": "none", "evaluation": "none", "who_sees_what": "an example: nobody"},
        )
    )
    log.info("%s", card["sentence"])
    return card


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/rule"))
