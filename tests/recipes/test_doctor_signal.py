"""The doctor's signal: on which rows it is measured, its error, its verdict."""

import math
from pathlib import Path

import pytest
import torch
from tests.recipes.test_doctor import case_of
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.plan import Example, Plan
from sfumato.recipes import doctor
from sfumato.recipes.doctor import Wish, diagnose
from sfumato.recipes.doctor_advice import advice
from sfumato.recipes.doctor_case import Asked
from sfumato.recipes.doctor_data import MADE_UP, Rows, public_rows, rows_of
from sfumato.recipes.doctor_models import open_case
from sfumato.recipes.doctor_signal import Gradient, Signal, _mean_product, chunks, first_gradient, signal_of
from sfumato.recipes.run import Data, Privacy
from sfumato.sampling import Poisson


def plan(noise: float, steps: int = 100) -> Plan:
    return Plan(
        unit=Example(clip_norm=1.0),
        sampler=Poisson(num_records=10_000, expected_batch_size=100),
        steps=steps,
        noise_multiplier=noise,
    )


def test_mean_clipped_gradient_is_that_of_all_pairs_of_rows() -> None:
    """(|S|^2 - sum |v|^2) / (n (n - 1)) is the mean of <v_i, v_j> over i != j, here row by row."""
    case = case_of(nn.Identity())
    made_up = Rows(case=case, number=12, inputs=MADE_UP, real=False)
    batches = chunks(made_up, 4)
    found = first_gradient(made_up, batches, 0.5)
    rows = []
    for batch in batches:
        for index in range(4):
            row = {"pixel_values": batch.batch["pixel_values"][index : index + 1]}
            grads = torch.autograd.grad(case.loss_fn(case.model, row).sum(), list(case.model.parameters()))  # pyright: ignore[reportCallIssue]
            flat = torch.cat([grad.flatten() for grad in grads]).double()
            rows.append(flat * min(1.0, 0.5 * (1 - 1e-3) / float(flat.norm())))
    gram = torch.stack(rows) @ torch.stack(rows).T
    expected = (gram.sum() - gram.trace()) / (12 * 11)
    assert found.mean_norm == pytest.approx(math.sqrt(max(float(expected), 0.0)), rel=1e-4)
    assert found.num_units == 12


def test_error_is_that_of_gradients_that_only_scatter() -> None:
    """Random directions: the squared estimate, cut at nothing, is as far from 0 as its error says; one direction: no
    error at all."""

    def measured(rows: Tensor) -> tuple[float, float]:
        parts = rows.split(4)
        before = [rows[: 4 * place].sum(0) for place in range(len(parts))]
        products = [float((2 * b + p.sum(0)) @ p.sum(0) - p.square().sum()) for p, b in zip(parts, before, strict=True)]
        return _mean_product(products, [len(part) for part in parts])

    generator = torch.Generator().manual_seed(0)
    found = torch.tensor([measured(torch.randn(32, 50, generator=generator)) for _ in range(400)])
    assert float(found[:, 1].square().mean().sqrt()) == pytest.approx(
        float(found[:, 0].square().mean().sqrt()), rel=0.15
    )
    mean, error = measured(torch.ones(32, 50))
    assert (mean, error) == (pytest.approx(50.0), pytest.approx(0.0, abs=1e-6))
    with pytest.raises(BadInput, match="two micro-batches"):
        _mean_product([1.0], [4])


def test_signal_sets_the_gradient_beside_the_noise_of_the_plan() -> None:
    gradient = measured(mean=0.5)
    found = signal_of(gradient, plan(2.0), 400)
    assert found.noise_norm == pytest.approx(2.0 * 1.0 / 100 * 20)
    assert found.ratio == pytest.approx(1.25)
    assert found.over_all == pytest.approx(12.5)
    assert found.largest == pytest.approx(2.5)
    assert (found.verdict, advice(found, 400, ())) == ("fine", [])


def measured(mean: float, by_chance: float = 0.0, inputs: str = "shapes") -> Gradient:
    return Gradient(
        num_units=8, mean_norm=mean, by_chance=by_chance, clipped=1.0, clip_norm=1.0, median_norm=2.0, inputs=inputs,
        real=inputs == "shapes",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "mean", "largest", "verdict"),
    [
        ("shapes", 0.05, 1.0, "hopeless"),
        ("shapes", 0.2, 1.0, "doubtful"),
        ("pictures of shapes, words made up", 0.05, 1.0, "unclear"),
        ("made-up", 0.05, 1.0, "unclear"),
        ("made-up", 0.05, 0.05, "hopeless"),
        ("made-up", 0.05, 0.2, "doubtful"),
        ("made-up", 0.5, 1.0, "fine"),
    ],
)
def test_made_up_rows_alone_prove_nothing_hopeless(inputs: str, mean: float, largest: float, verdict: str) -> None:
    found = Signal(gradient=measured(mean, inputs=inputs), noise_norm=1.0, steps=100, largest=largest)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("mean", "largest", "verdict"), [(0.0, 1.0, "unclear"), (0.0, 0.05, "hopeless"), (0.5, 1.0, "unclear")]
)
def test_what_is_within_its_error_decides_nothing(mean: float, largest: float, verdict: str) -> None:
    found = Signal(gradient=measured(mean, by_chance=0.6), noise_norm=1.0, steps=100, largest=largest)
    assert found.verdict == verdict


def test_public_pictures_are_read_and_private_ones_are_not_opened(tmp_path: Path) -> None:
    asked = Asked(model="pico", image_size=16, channels=1)
    privacy = Privacy(epsilon=None, noise_multiplier=1.0, expected_batch_size=64, steps=10)
    known = Wish(measure=False, records=1000, privacy=privacy, data=Data(spec="shapes:40"))
    found = diagnose(asked, known)
    assert found.signal is not None
    assert found.signal.gradient.inputs == "pictures of shapes (train), words made up"
    assert not found.signal.gradient.real
    secret = Wish(measure=False, records=1000, privacy=privacy, data=Data(spec=str(tmp_path / "private")))
    with pytest.raises(BadInput, match="reads no private rows"):
        diagnose(asked, secret)


def test_two_views_are_real_and_labels_of_a_classifier_are_not() -> None:
    views = open_case(Asked(model="small-conv", image_size=16))
    rows = rows_of(views, Data(spec="shapes:200"), 16)
    assert (rows.real, rows.number, rows.inputs) == (True, 192, "shapes (train)")
    with pytest.raises(BadInput, match="at least 128"):
        rows_of(views, Data(spec="shapes:100"), 16)
    with pytest.raises(BadInput, match="at most 64 rows"):
        rows_of(views, None, 65)
    labels = public_rows(open_case(Asked(model="timm:test_vit")), Data(spec="shapes:40"), 32)
    assert (labels.real, labels.inputs) == (False, "pictures of shapes (train), labels made up")


def test_signal_is_measured_on_whole_groups_two_at_a_time() -> None:
    rows = rows_of(open_case(Asked(model="small-conv", image_size=16)), None, 16)
    parts = chunks(rows, 16)
    assert (rows.number, len(parts)) == (256, 8)
    assert all(torch.unique(part.groups, return_counts=True)[1].tolist() == [16, 16] for part in parts)


def test_small_public_set_does_not_make_a_model_hopeless() -> None:
    """Eight groups of four rows gave R = 0 and "hopeless", where more rows gave R = 23."""
    asked = Asked(model="small-conv", image_size=16, train="heads")
    privacy = Privacy(epsilon=None, noise_multiplier=0.8, expected_batch_size=2048)
    found = diagnose(asked, Wish(measure=False, records=60_000, privacy=privacy, data=Data(spec="shapes:200")))
    assert found.signal is not None
    assert found.signal.verdict in ("unclear", "fine")
    assert not any("--data" in line for line in found.advice)


@pytest.mark.parametrize("spec", ["vqa2:{}", "mnist:{}", "cifar10:{}", "emoji:{}", "{}", "hf:{}"])
def test_named_folders_are_not_opened_unless_declared_public(spec: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sfumato.recipes.doctor_data.sets_of", lambda *_: pytest.fail("it was opened"))
    case = open_case(Asked(model="pico", image_size=16, channels=1))
    with pytest.raises(BadInput, match="reads no private rows"):
        public_rows(case, Data(spec=spec.format(tmp_path)), 32)


def test_pictures_are_read_before_costs_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "estimate", lambda *_, **__: pytest.fail("it was measured"))
    wish = Wish(records=1000, data=Data(spec=str(tmp_path), public=True))
    with pytest.raises(BadInput):
        diagnose(Asked(model="pico", image_size=16, channels=1), wish)


def test_group_signal_counts_groups() -> None:
    privacy = Privacy(epsilon=None, noise_multiplier=1.0, expected_batch_size=64, steps=10)
    found = diagnose(
        Asked(model="micro", kind="towers", image_size=16, group_size=4),
        Wish(measure=False, records=1000, privacy=privacy),
    )
    assert found.signal is not None
    assert found.plan is not None
    assert found.signal.gradient.num_units == 16
    assert (found.plan.presence, found.plan.divisor) == (2.0, 16.0)
