"""What certification on made-up rows must see, and honest models that it must not refuse.

Couplings of rows that show for some values alone: behind random numbers, among large integers, below the tolerance of
low precision; and paths that depend on values where the precision is low.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers as tf
from tests.guarantees import paths
from tests.norms import (
    cases,
    cases_models,  # noqa: F401  registers its cases
)
from torch import Tensor, nn

from sfumato import norms
from sfumato.base import Refused

Batch = dict[str, Tensor]
BF16 = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
N, D = 8, 16


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(D, 16), nn.Tanh(), nn.Linear(16, 3))


def batch(num_rows: int = N) -> Batch:
    return {"x": torch.randn(num_rows, D), "y": torch.arange(num_rows) % 3}


def scored(model: Any, x: Tensor, given: Batch) -> Tensor:
    return 100 * F.cross_entropy(model(x), given["y"], reduction="none")


# ---------------------------------------------------------------- random numbers


def gated(gate: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]) -> Callable[[Any, Batch], Tensor]:
    """Return a loss of rows whose entries are exchanged for those of `other` where a random number says so."""

    def loss(model: Any, given: Batch) -> Tensor:
        x = given["x"]
        return scored(model, torch.where(gate(x), other(x), x), given)

    return loss


def next_row(x: Tensor) -> Tensor:
    return x.roll(1, 0)


def mean_row(x: Tensor) -> Tensor:
    return x.mean(0, keepdim=True).expand_as(x)


def mixed(x: Tensor) -> Tensor:
    return 0.5 * x + 0.5 * x.flip(0)


def by_mean_of_mask(model: Any, given: Batch) -> Tensor:
    keep = (torch.rand_like(given["x"]) > 0.2).float()
    return scored(model, given["x"] * keep / keep.mean(), given)


RANDOM = {
    "swap noise": gated(lambda x: torch.rand_like(x) < 0.15, next_row),
    "mean noise": gated(lambda x: torch.rand_like(x) < 0.3, mean_row),
    "rare noise": gated(lambda x: torch.rand_like(x) < 1e-3, mean_row),
    "mixed rows": gated(lambda x: torch.rand(len(x), 1) < 0.4, mixed),
    "all low": gated(lambda x: (torch.rand(len(x), 1) < 0.02).all(), mixed),
    "high": gated(lambda x: torch.rand_like(x) > 0.97, next_row),
    "normal, positive": gated(lambda x: torch.randn(len(x), 1) > 1.5, mixed),
    "normal, negative": gated(lambda x: torch.randn(len(x), 1) < -1.5, mixed),
    "integers, one": gated(lambda x: torch.randint(0, 2, (len(x), 1)) == 1, mixed),
    "integers, zero": gated(lambda x: torch.randint(0, 9, (len(x), 1)) == 0, mixed),
    "bernoulli": gated(lambda x: torch.empty(len(x), 1).bernoulli_(0.02) > 0, mixed),
    "no bernoulli": gated(lambda x: torch.bernoulli(torch.full_like(x, 0.9)) == 0, mixed),
    "dropped": gated(lambda x: F.dropout(torch.ones_like(x), 0.1) == 0, mixed),
    "permuted": gated(lambda x: torch.rand_like(x) < 0.15, lambda x: x[torch.randperm(len(x))]),
    "mean of a mask": by_mean_of_mask,
}


@pytest.mark.parametrize("loss", RANDOM.values(), ids=RANDOM)
def test_couplings_behind_random_numbers_are_refused(loss: Any) -> None:
    with pytest.raises(Refused):
        norms.prepare(net(), loss, batch())


class Attending(nn.Module):
    """Attention with dropout, on tokens of which some are left out at random, with dropout behind it."""

    def __init__(self, batch_first: bool, share: float) -> None:
        super().__init__()
        self.batch_first, self.share = batch_first, share
        self.token = nn.Parameter(torch.randn(4))
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=batch_first)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), 4, 4)
        hidden = torch.rand(x.shape[:2], device=x.device) < self.share
        x = torch.where(hidden[..., None], self.token, x)
        x = x if self.batch_first else x.transpose(0, 1)
        x = x + F.dropout(self.attention(x, x, x, need_weights=False)[0], 0.1)
        return self.head(x.mean(1 if self.batch_first else 0))


class Kept(nn.Module):
    """Keeps a part of the tokens, those with the smallest random numbers (masked autoencoders)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.view(len(x), 4, 4))
        order = torch.rand(len(x), 4, device=x.device).argsort(1)[:, :2]
        return self.head(x.gather(1, order[..., None].expand(-1, -1, 6)).tanh().mean(1))


class Depth(nn.Module):
    """Residual branches that are left out for some rows."""

    def __init__(self, drop: Callable[[float], nn.Module], share: float) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(D, D), nn.Linear(D, 3)
        self.drop = drop(share)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.drop(self.first(x).tanh()))


def masked_tokens_alone(model: Any, given: Batch) -> Tensor:
    """The loss is that of positions that a random number chose, none perhaps."""
    chosen = torch.rand_like(given["x"]) < 0.15
    errors = (model[1].weight.sum(0) * given["x"].masked_fill(chosen, 0.0) - given["x"]).square() * chosen
    return errors.sum(1) / chosen.sum(1) + scored(model, given["x"], given)


HONEST: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: Attending(True, 0.15),
    "attention, rows second": lambda: Attending(False, 0.4),
    "tokens kept": Kept,
    "timm's drop path": lambda: Depth(lambda share: timm.layers.drop.DropPath(share), 0.1),
    "transformers' drop path": lambda: Depth(tf.models.beit.modeling_beit.BeitDropPath, 0.5),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(D, 3)),
    "dropout of channels": lambda: nn.Sequential(nn.Unflatten(1, (4, 2, 2)), nn.Dropout2d(0.2), nn.Flatten(), net()),
    "alpha dropout": lambda: nn.Sequential(nn.Flatten(), nn.AlphaDropout(0.1), nn.Linear(D, 3)),
}


@pytest.mark.every(3)
@pytest.mark.parametrize("autocast", [None, BF16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("build", HONEST.values(), ids=HONEST)
def test_draws_of_each_row_pass(build: Callable[[], nn.Module], autocast: Any) -> None:
    before = torch.get_rng_state()
    norms.prepare(build(), lambda m, given: scored(m, given["x"], given).float(), batch(), autocast=autocast)
    torch.manual_seed(0)
    assert before.shape == torch.get_rng_state().shape


def test_a_loss_that_is_finite_for_some_draws_passes() -> None:
    norms.prepare(net(), masked_tokens_alone, batch())


@pytest.mark.every(2)
@pytest.mark.parametrize("name", ["bert", "vit", "captioner_with_checkpointing", "swin", "gpt2", "timm_convnext"])
def test_models_in_training_mode_pass(name: str) -> None:
    model, loss_fn, given = cases.build(name, torch.float32)
    norms.prepare(model.train(), loss_fn, given, unused="zero")


# ---------------------------------------------------------------- integers without a table


def logistic(model: Any, x: Tensor, given: Batch) -> Tensor:
    return 100 * F.binary_cross_entropy_with_logits(model(x)[:, 0], given["y"], reduction="none")


def by_the_largest(model: Any, given: Batch) -> Tensor:
    x = given["x"].float()
    return logistic(model, x / x.max().clamp(min=1), given)


def by_the_mean(model: Any, given: Batch) -> Tensor:
    x = given["x"].float()
    return logistic(model, x / x.mean().clamp(min=1), given)


def scaled_if_large(model: Any, given: Batch) -> Tensor:
    x = given["x"].float()
    return logistic(model, x / 255 if x.max() > 1 else x, given)


def marked(threshold: int) -> Callable[[Any, Batch], Tensor]:
    def loss(model: Any, given: Batch) -> Tensor:
        x = given["x"]
        return logistic(model, x.float().clamp(max=300) / 255, given) * (1 + (x > threshold).any())

    return loss


def integers(dtype: torch.dtype) -> Batch:
    return {"x": torch.zeros(N, D, dtype=dtype), "y": torch.zeros(N)}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int32, torch.int8])
@pytest.mark.parametrize("loss", [by_the_largest, by_the_mean, scaled_if_large, marked(9), marked(100)])
def test_integers_of_a_batch_are_refused(loss: Any, dtype: torch.dtype) -> None:
    with pytest.raises(Refused, match="depend on each other"):
        norms.prepare(net(), loss, integers(dtype))


def test_a_large_integer_that_others_feel_is_refused() -> None:
    with pytest.raises(Refused, match="depend on each other"):
        norms.prepare(net(), marked(60_000), integers(torch.int64))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_pictures_and_counts_pass(dtype: torch.dtype) -> None:
    norms.prepare(net(), lambda m, given: logistic(m, given["x"].float() / 255, given), integers(dtype))
    norms.prepare(net(), lambda m, given: logistic(m, given["x"].float().log1p(), given), integers(dtype))


def test_what_counts_positions_is_not_tried_at_large_values() -> None:
    seen = []

    def loss(model: Any, given: Batch) -> Tensor:
        seen.append(int(given["x"].max()))
        length = torch.arange(seen[-1] + 1).sum()
        return logistic(model, given["x"].float() / 255 + 0 * length, given)

    norms.prepare(net(), loss, integers(torch.int64))
    assert max(seen) <= 10_000


# ---------------------------------------------------------------- tolerance


def flagged(k: float) -> Callable[[Any, Batch], Tensor]:
    """Hidden entries move by `k` where any row of the batch is positive throughout."""

    def loss(model: Any, given: Batch) -> Tensor:
        h = torch.tanh(model[1](given["x"])) - k * (given["x"] > 0).all(1).any().float()
        return 100 * F.cross_entropy(model[3](h).float(), given["y"], reduction="none")

    return loss


@pytest.mark.parametrize("k", [0.03, 0.003])
@pytest.mark.parametrize("how", ["autocast", "bfloat16", "float32"])
def test_small_couplings_are_refused(how: str, k: float) -> None:
    model = net().bfloat16() if how == "bfloat16" else net()
    given = batch()
    given["x"] = given["x"].bfloat16() if how == "bfloat16" else given["x"]
    with pytest.raises(Refused, match="depend on each other"):
        norms.prepare(model, flagged(k), given, autocast=BF16 if how == "autocast" else None)


@pytest.mark.parametrize("k", [1e-3, 1e-4])
def test_very_small_couplings_are_refused_in_float32(k: float) -> None:
    with pytest.raises(Refused, match="depend on each other"):
        norms.prepare(net(), flagged(k), batch(64))


class Uncopied(nn.Sequential):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("not to be copied")


def test_a_model_that_cannot_be_copied_passes() -> None:
    model = Uncopied(*net())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    norms.prepare(model, lambda m, given: scored(m, given["x"], given), batch())
    norms.prepare(model, lambda m, given: scored(m, given["x"], given).float(), batch(), autocast=BF16)
    with pytest.raises(Refused, match="depend on each other"):
        norms.prepare(model, flagged(0.03), batch(), autocast=BF16)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# ---------------------------------------------------------------- paths under low precision


@pytest.mark.parametrize("name", ["without_a_full_mask", "chosen_positions", "sorted_by_length"])
def test_paths_that_depend_on_values_are_refused_in_low_precision(name: str) -> None:
    loss = paths.LOSSES[name]
    norms.prepare(paths.Words(), loss, norms.joined(paths.rows(N)))
    with pytest.raises(Refused, match=r"a row's path must not depend on its values.*Use float32"):
        norms.prepare(paths.Words(), loss, norms.joined(paths.rows(N)), autocast=BF16)
    norms.prepare(paths.Words(), loss, paths.row(0), autocast=BF16)  # a row by itself moves no other


def test_a_mask_that_transformers_leaves_out_is_refused_in_low_precision() -> None:
    model, loss_fn, given = cases.build("t5", torch.float32)
    with pytest.raises(Refused, match=r"mask of ones.*four dimensions"):
        norms.prepare(model, loss_fn, given, unused="zero", autocast=BF16)


SINGLE_PATH = ["vit", "captioner", "captioner_eager_attention", "gpt2", "clip", "llama_grouped_query", "timm_vit"]


@pytest.mark.every(2)
@pytest.mark.parametrize("name", [*SINGLE_PATH, "bert_masked_language_model_tied", "blip_vqa", "swin"])
def test_models_of_one_path_pass_in_low_precision(name: str) -> None:
    model, loss_fn, given = cases.build(name, torch.float32)
    norms.prepare(model.eval(), loss_fn, given, unused="zero", autocast=BF16)


@pytest.mark.every(2)
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_padded_encoder_passes_in_low_precision(name: str) -> None:
    model, loss_fn, given = cases.build(name, torch.float32)

    def kept(model: Any, given: Batch) -> Tensor:
        return loss_fn(model, {**given, "mask": given["mask"].bool()[:, None, None, :]})

    norms.prepare(model.eval(), kept, given, unused="zero", autocast=BF16)


# ---------------------------------------------------------------- inputs


def test_a_model_may_read_its_inputs_by_numpy() -> None:
    def loss(model: Any, given: Batch) -> Tensor:
        return scored(model, torch.from_numpy(given["x"].numpy().copy()), given)

    norms.prepare(net(), loss, batch())
