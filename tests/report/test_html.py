import base64
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sfumato.report import card, write_page

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """The tags, attributes and text of a page; complains about tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def page_of(run: Path) -> Page:
    return Page(write_page(run).read_text(encoding="utf-8"))


def test_page_tells_everything(run: Path, facts: dict[str, Any]) -> None:
    page = page_of(run)
    words = " ".join(page.words.split())
    for text in (
        card.build(facts)["sentence"],
        "a red square",
        "0.800 (0.790 to 0.810)",
        "raw pixels",
        "dp-cap",
        "micro",
        "3.00",
    ):
        assert text in words, text
    headings = [
        "Privacy spent",
        "What the model learned",
        "Captions of public",
        "Where the model looked",
        "Privacy card",
    ]
    assert [words.index(heading) for heading in headings] == sorted(words.index(heading) for heading in headings)
    assert "/home/clinic" not in words


def test_page_is_self_contained(run: Path) -> None:
    text = write_page(run).read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "a"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in text


def test_every_picture_has_words(run: Path) -> None:
    page = page_of(run)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")
    assert any(tag == "svg" for tag, _ in page.tags)
    assert dict(page.tags)["html"] == {"lang": "en"}


def test_ids_are_unique(run: Path) -> None:
    ids = [attributes["id"] for _, attributes in page_of(run).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_text_is_escaped(run: Path, facts: dict[str, Any], picture: str) -> None:
    export = run / "export"
    facts["public"]["vocabulary"] = facts["record"] = facts["looks"] = EVIL
    facts["looks"] = [EVIL]
    card.write(card.build(facts), export)
    entry = {"image_png_base64": picture, "overlay_png_base64": picture}
    (export / "samples.json").write_text(json.dumps([{**entry, "reference": EVIL, "generated": EVIL}]))
    (export / "attention.json").write_text(json.dumps([{**entry, "caption": EVIL}]))
    rows = [{"metric": EVIL, "features": EVIL, "value": value, "step": step} for step, value in ((1, 0.5), (2, 0.6))]
    (export / "metrics.json").write_text(json.dumps([*rows, {"metric": "b", "value": EVIL, EVIL: EVIL}]))
    (run / "run.json").write_text(json.dumps({"recipe": "<script>x", "model": {"size": "'\"><img src=x>"}}))
    renamed = run.with_name("<script>y")
    run.rename(renamed)
    text = write_page(renamed).read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert not [tag for tag, attributes in page.tags if "onerror" in attributes]
    assert all(a["src"].startswith("data:image/png") for t, a in page.tags if t == "img" and a["src"])
    assert page.words.count("alert('x')") >= 6


def test_a_stamped_run_shows_the_stamp_and_no_epsilon(run: Path, facts: dict[str, Any]) -> None:
    card.write(card.build({**facts, "stamps": ["NOT PROVED: own rule"], "epsilon": None}), run / "export")
    words = page_of(run).words
    assert "NOT PROVED: own rule" in words
    assert "Privacy spent" not in words
    assert "recognised" not in words


def test_a_run_without_card_claims_nothing(run: Path) -> None:
    (run / "export" / "card.json").unlink()
    assert "nothing is claimed" in page_of(run).words


@pytest.mark.parametrize("name", ["progress.jsonl", "metrics.json", "samples.json", "attention.json"])
def test_sections_appear_with_their_files(run: Path, name: str) -> None:
    (run / "export" / name).unlink()
    page_of(run)


def test_an_empty_run_makes_a_page(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert "Nothing else has been written" in page_of(tmp_path).words


def test_report_works_without_torch_and_opens_nothing_private_but_the_ledger(run: Path) -> None:
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "transformers"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
def watch(event, args):
    if event == "open" and "/private/" in str(args[0]) and not str(args[0]).endswith("private/ledger.jsonl"):
        raise SystemExit("opened " + str(args[0]))
sys.addaudithook(watch)
from sfumato.cli import main
sys.exit(main(["report", {str(run)!r}, "--open", "no"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file()


def test_what_is_not_seen_is_spelled_out(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    sample = {"image_png_base64": base64.b64encode(b"\x89PNG\r\n\x1a\n").decode(), "generated": "a\x1b[31m \u202e<b>"}
    (tmp_path / "export" / "samples.json").write_text(json.dumps([sample]))
    page = write_page(tmp_path).read_text(encoding="utf-8")
    assert "a\\x1b[31m \\u202e&lt;b&gt;" in page
    assert "\x1b" not in page


def test_a_full_disk_leaves_the_former_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_page(run)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left") as error:
        write_page(run)
    assert error.value.filename == str(path)
    assert path.read_bytes() == before
