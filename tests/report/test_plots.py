import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from sfumato.base import BadInput
from sfumato.report.plots import Chart, Series, save, svg

CHART = Chart(title="t", x_label="step", y_label="<y> & $z$ $", description='so-called "line" <x>', y_from_zero=True)
LINES = [
    Series(name="this <b>run</b>", x=[1, 2, 3], y=[1.0, 2.0, 2.5], spread=[0.1, 0.2, 0.1]),
    Series(name="level", x=[1, 3], y=[1.5, 1.5], dashed=True),
]


def test_svg_is_well_formed_and_escaped() -> None:
    text = svg(CHART, LINES, key="k")
    root = ElementTree.fromstring(text)
    assert root.attrib["aria-label"] == CHART.description
    words = "".join(root.itertext())
    assert "this <b>run</b>" in words
    assert CHART.y_label in words
    assert "<b>" not in text


def test_svg_follows_the_page() -> None:
    text = svg(CHART, LINES, key="k")
    assert "currentColor" in text
    assert "<style" not in text
    assert "#010203" not in text
    assert "DejaVu" not in text


def test_ids_do_not_clash_and_links_resolve() -> None:
    first, second = (ElementTree.fromstring(svg(CHART, LINES, key=key)) for key in ("one", "two"))
    ids = [{node.attrib["id"] for node in root.iter() if "id" in node.attrib} for root in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    links = {v[1:] for node in first.iter() for k, v in node.attrib.items() if k.endswith("href")}
    assert links
    assert links <= ids[0]


def test_equal_input_gives_equal_text() -> None:
    assert svg(CHART, LINES, key="k") == svg(CHART, LINES, key="k")


@pytest.mark.parametrize("name", ["plot.png", "plot.svg"])
def test_saved_file(tmp_path: Path, name: str) -> None:
    path = save(CHART, LINES, tmp_path / "new" / name)
    assert path.stat().st_size > 1000


def test_unequal_lengths_are_named() -> None:
    with pytest.raises(BadInput, match="'a' has 2 x and 1 y"):
        Series(name="a", x=[1, 2], y=[1])


def test_a_title_is_no_formula_and_holds_no_control_character(tmp_path: Path) -> None:
    hostile = Chart(title="$\\frac$", x_label="$x", y_label="a\x1b[31m$\\frac$", description="\u202ed")
    assert save(hostile, LINES, tmp_path / "x.svg").is_file()
    text = svg(hostile, LINES)
    assert "\x1b" not in text
    assert "\u202e" not in text
