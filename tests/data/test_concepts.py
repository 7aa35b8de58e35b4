import pytest

from sfumato.data.concepts import concept, is_variant, plain

PEOPLE = "👋 🧑 🧑‍🚒 🧑‍🚀 🏃 🚶 🧒 🧓 👪 💏 💑 👫 🤝 🎅 🫅 🤰 💃"
OTHERS = "🇳🇴 🇫🇷 ♂ ♀ ➡ 🐱 ❤ ❤️‍🔥 ⛹ 🏌 💋 🎄 🐰 🐻 🐻‍❄️ 🏴 🏴‍☠️"
VARIANTS = "👋🏻 👩‍🚒 👫 👨‍👩‍👦 🤶 🇲🇫"


@pytest.mark.parametrize(
    "alike",
    [
        "👋 👋🏻 👋🏿",  # skin tones
        "🧑 👨 👩 👩🏽 👱 👱‍♀️ 👱🏻‍♂️ 👨‍🦰 🧑🏿‍🦲",  # gender, hair
        "🧑‍🚒 👨‍🚒 👩🏽‍🚒",  # occupations
        "🏃 🏃‍♂️ 🏃🏾‍♀️ 🏃‍➡️ 🏃🏿‍♀️‍➡️",  # activities, facing right
        "🧒 👦 👧🏽",
        "🧓 👴 👵🏿",
        "👪 👨‍👩‍👦 👩‍👩‍👧‍👧 👨‍👦 🧑‍🧑‍🧒",
        "💏 👩‍❤️‍💋‍👨 👨🏻‍❤️‍💋‍👨🏿",
        "💑 👩‍❤️‍👨 🧑🏻‍❤️‍🧑🏼",
        "👫 👬 👭🏿 🧑‍🤝‍🧑 👩🏻‍🤝‍👩🏿",
        "🤝 🤝🏽 🫱🏻‍🫲🏿",
        "🎅 🤶 🧑‍🎄 🎅🏿",
        "🫅 🤴 👸🏽",
        "🤰 🫃 🫄🏿",
        "💃 🕺🏿",
        "🇳🇴 🇸🇯 🇧🇻",
    ],
)
def test_variants_are_one_concept(alike):
    assert len({concept(map(ord, emoji)) for emoji in alike.split()}) == 1


def test_different_things_stay_apart():
    different = PEOPLE.split() + OTHERS.split()
    assert len({concept(map(ord, emoji)) for emoji in different}) == len(different)


def test_parts_alone_are_no_concept():
    assert concept([0x1F3FD]) == concept([0x1F9B0]) == ()


def test_the_style_is_not_part_of_an_emoji():
    assert plain(map(ord, "❤️")) == plain(map(ord, "❤")) == (0x2764,)


def test_the_own_emoji_of_a_concept_is_no_variant():
    assert not any(is_variant(map(ord, emoji)) for emoji in [*PEOPLE.split(), "❤️", "🇫🇷"] if emoji != "👫")
    assert all(is_variant(map(ord, emoji)) for emoji in VARIANTS.split())
