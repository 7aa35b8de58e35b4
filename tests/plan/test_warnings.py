"""Each warning appears where it should, and a sound plan has none."""

import pytest

from sfumato.plan import Example, Plan
from sfumato.plan.warnings import find
from sfumato.sampling import FixedSize, Poisson

SOUND = {
    "delta": 1e-6,
    "num_records": 100_000,
    "batch_size": 1000.0,
    "cap": None,
    "steps": 1000,
    "sampling_prob": 0.01,
    "noise_multiplier": 1.0,
    "epsilon": 4.0,
    "signal_to_noise": 1.0,
    "num_parameters": 10**6,
}


def test_a_sound_plan():
    assert find(**SOUND) == []
    unknown = dict.fromkeys(("num_records", "noise_multiplier", "epsilon", "signal_to_noise", "num_parameters"))
    assert find(**(SOUND | unknown)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"delta": 1e-5}, "publishing one whole record"),
        ({"delta": 1 / 100_000 * (1 - 1e-15)}, "publishing one whole record"),
        ({"epsilon": 10.0}, "epsilon 10.00 is 10 or more"),
        ({"noise_multiplier": 0.29}, "below 0.3"),
        ({"noise_multiplier": 0.0}, "nothing is private"),
        ({"sampling_prob": 0.51}, "51% of all steps"),
        ({"batch_size": 4.0}, "nearly empty"),
        ({"cap": 900}, "cap 900"),
        ({"signal_to_noise": 0.03}, "at 1,000,000 trainable parameters"),
        ({"signal_to_noise": 0.03, "num_parameters": None}, "at even 1,000 trainable"),
    ],
)
def test_each_oddity_is_one_sentence(changes, words):
    found = find(**(SOUND | changes))
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"delta": 0.99e-5},
        {"epsilon": 9.99},
        {"noise_multiplier": 0.3},
        {"sampling_prob": 0.5},
        {"batch_size": 8.0},
        {"cap": 1000},
        {"signal_to_noise": 0.032},
    ],
)
def test_no_warning_on_the_other_side_of_the_line(changes):
    assert find(**(SOUND | changes)) == []


def test_warnings_of_a_plan():
    poor = Plan(
        unit=Example(clip_norm=1.0),
        sampler=Poisson(num_records=100, expected_batch_size=60),
        steps=1,
        delta=0.01,
        noise_multiplier=0.25,
    )
    words = " ".join(poor.warnings)
    for part in ("delta 0.01", "is 10 or more", "below 0.3", "60% of all steps"):
        assert part in words
    fixed = Plan(unit=Example(clip_norm=1.0), sampler=FixedSize(num_records=10**5, batch_size=1000), steps=100)
    assert fixed.warnings == []  # not calibrated yet: nothing to say of its noise
    sound = Plan(
        unit=Example(clip_norm=1.0),
        sampler=Poisson(num_records=10**5, expected_batch_size=1000),
        steps=100,
        noise_multiplier=2.0,
    )
    assert sound.warnings == []
    assert "10,000,000,000 trainable" in sound.warnings_for(10**10)[0]
    assert sound.twin(2).warnings == []  # no epsilon is asked of a simulation
