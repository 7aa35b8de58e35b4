"""What trains in the doctor's eyes, and what it says may train instead."""

from dataclasses import replace

import pytest
from tests.models.vlms import FOLDERS

from sfumato.recipes.doctor import Wish, diagnose
from sfumato.recipes.doctor_advice import Choice, advice, fewer
from sfumato.recipes.doctor_case import Asked
from sfumato.recipes.doctor_models import open_case
from sfumato.recipes.doctor_signal import Gradient, Signal
from sfumato.recipes.run import Adapter, Privacy

LOOK = Wish(measure=False)
VIT = "timm:test_vit"
RESNET = "timm:resnet10t"


def names(asked: Asked) -> set[str]:
    return {name for name, p in open_case(asked).model.named_parameters() if p.requires_grad}


# ---------------------------------------------------------------- timm


def test_of_timm_heads_and_last_blocks_are_what_timm_calls_so() -> None:
    heads, last = (names(Asked(model=VIT, train=train)) for train in ("heads", "last-1"))
    assert heads == {"head.weight", "head.bias"}
    blocks = {name.split(".")[1] for name in last if name.startswith("blocks.")}
    assert len(blocks) == 1
    assert {"norm.weight", "norm.bias"} | heads < last
    assert names(Asked(model=VIT, train="bias")) == {n for n in names(Asked(model=VIT)) if n.endswith(".bias")}
    assert "has only" in str(diagnose(Asked(model=VIT, train="last-99"), LOOK).refusal)


@pytest.mark.every(2)
@pytest.mark.parametrize("train", ["lora", "dora"])
def test_of_timm_adapters_train_alone(train: str) -> None:
    asked = Asked(model=VIT, train=train, adapter=Adapter(rank=2, frozen_dtype="bfloat16"))
    found = diagnose(asked, LOOK)
    assert (found.refusal, found.frozen_types) == (None, ("bfloat16",))
    assert found.seen is not None
    assert all(".lora_" in use.name for use in found.seen.uses)


def test_frozen_batch_norm_stays_frozen_and_keeps_its_statistics() -> None:
    asked = Asked(model=RESNET, image_size=32, batch_norm="frozen")
    for train in ("all", "heads", "last-1"):
        assert not {name for name in names(replace(asked, train=train)) if ".bn" in name}
    kept = open_case(Asked(model=RESNET, image_size=32))
    fewer(kept)
    assert all(int(b) == 0 for name, b in kept.model.named_buffers() if name.endswith("num_batches_tracked"))


def test_learned_tokens_and_layers_that_are_not_there_are_refused() -> None:
    assert "lora or dora, got" in str(diagnose(Asked(model=VIT, train="prompt"), LOOK).refusal)
    assert "all-linear" in str(diagnose(Asked(model=RESNET, image_size=32, train="lora"), LOOK).refusal)


# ---------------------------------------------------------------- what may train instead


@pytest.mark.parametrize(
    "asked",
    [
        Asked(model="pico", image_size=16, channels=1),
        Asked(model="micro", kind="towers", image_size=16),
        Asked(model="small-conv", image_size=16, channels=1),
        Asked(model=VIT),
        Asked(model=RESNET, image_size=32, batch_norm="group"),
    ],
)
def test_what_is_offered_opens_and_trains_so_many(asked: Asked) -> None:
    case = open_case(asked)
    before = {name: p.requires_grad for name, p in case.model.named_parameters()}
    offered = fewer(case)
    assert {name: p.requires_grad for name, p in case.model.named_parameters()} == before
    assert {"--train heads", "--train last-1"} <= {choice.flags for choice in offered}
    assert [choice.parameters for choice in offered] == sorted((c.parameters for c in offered), reverse=True)
    for choice in offered:
        assert numbers(asked, choice) == choice.parameters, choice


def numbers(asked: Asked, choice: Choice) -> int:
    _, train, *rest = choice.flags.split()
    adapter = Adapter(rank=int(rest[1])) if rest else Adapter()
    case = open_case(replace(asked, train=train, adapter=adapter))
    return sum(p.numel() for p in case.model.parameters() if p.requires_grad)


def test_offers_of_an_answering_model_open_and_train_so_many(tmp_path) -> None:
    FOLDERS["llava"](tmp_path / "llava")
    asked = Asked(model=str(tmp_path / "llava"), max_question=6, max_answer=4)
    offered = {choice.flags: choice for choice in fewer(open_case(asked))}
    assert set(offered) == {
        "--train heads", "--train last-1", "--train bias", "--train lora --rank 8", "--train lora --rank 1",
    }  # fmt: skip
    for choice in offered.values():
        assert numbers(asked, choice) == choice.parameters, choice
    wider = replace(asked, train="lora", adapter=Adapter(rank=4))
    again = {choice.flags: choice.parameters for choice in fewer(open_case(wider))}
    assert again["--train lora --rank 1"] == offered["--train lora --rank 1"].parameters
    assert "--train lora --rank 8" not in again


def test_captioners_are_not_told_of_lora() -> None:
    assert not [choice for choice in fewer(open_case(Asked(model="pico", image_size=16))) if "lora" in choice.flags]


def signal(largest: float, mean: float = 0.1, inputs: str = "shapes", **more) -> Signal:
    gradient = Gradient(
        num_units=8, mean_norm=mean, by_chance=0.0, clipped=1.0, clip_norm=1.0, median_norm=2.0, inputs=inputs,
        real=inputs == "shapes",
    )  # fmt: skip
    return Signal(gradient=replace(gradient, **more), noise_norm=1.0, steps=100, largest=largest)


def test_advice_brings_the_signal_where_it_should_be() -> None:
    choices = (Choice(flags="--train last-1", parameters=2250), Choice(flags="--train heads", parameters=900))
    first, named, last = advice(signal(1.0), 9000, choices)
    assert first == ("train at most 1,000 parameters, or take 3.0 times the batch from as many times the records")
    assert "--train last-1 (2,250 parameters, 2.0 times less noise);" in named
    assert "--train heads (900 parameters, 3.2 times less noise, few enough)" in named
    assert "pre-training" in last


def test_advice_where_nothing_is_few_enough_names_the_batch_that_it_takes_with_the_fewest() -> None:
    choices = (Choice(flags="--train last-1", parameters=4000), Choice(flags="--train heads", parameters=2250))
    said = advice(signal(1.0), 9000, choices)
    assert "few enough" not in said[1]
    assert said[2] == "none of these is few enough: with --train heads also take 1.5 times the batch"
    assert "a smaller model" in advice(signal(1.0), 9000, ())[1]
    assert not advice(signal(1.0), 1, ())[0].startswith("train at most")
    assert "at least 3.0 times" in advice(signal(0.1, inputs="made-up"), 9000, ())[0]


def test_advice_suffices_where_it_is_followed() -> None:
    """1.01 times the batch is not "1.0 times the batch"."""
    choices = (Choice(flags="--train heads", parameters=2250),)
    assert "take 1.1 times the batch" in advice(signal(1.0, mean=3 / 1.01 / 10), 9000, choices)[0]
    assert "also take 1.3 times" in advice(signal(1.0, mean=3 / 2.42 / 10), 9000, choices)[2]


def test_few_that_are_clipped_ask_for_a_lower_clip_norm_first() -> None:
    first, *_ = advice(signal(1.0, clipped=0.1, median_norm=0.123), 9000, ())
    assert first.startswith("lower --clip-norm to about 0.12,")
    assert "10% are clipped" in first
    assert not any("clip-norm" in line for line in advice(signal(1.0), 9000, ()))


@pytest.mark.parametrize("inputs", ["shapes", "pictures of shapes (train), words made up", "made-up"])
def test_advice_names_public_pictures_only_where_none_were_read(inputs: str) -> None:
    found = signal(1.0, inputs=inputs, by_chance=0.2)
    assert found.verdict == "unclear"
    assert any("--data" in line for line in advice(found, 9000, ())) == (inputs == "made-up")


def test_hopeless_model_is_told_what_its_own_training_takes() -> None:
    privacy = Privacy(epsilon=None, noise_multiplier=50.0, expected_batch_size=16, steps=5)
    found = diagnose(Asked(model="pico", image_size=16, channels=1), Wish(measure=False, records=1000, privacy=privacy))
    assert found.signal is not None
    assert found.signal.verdict == "hopeless"
    assert any("--train heads" in line and "lora" not in line for line in found.advice)
