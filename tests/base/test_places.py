"""What is to share and what is private never become one place, and lie in the run's own folder."""

import os
from pathlib import Path

import pytest

from sfumato.base import BadInput
from sfumato.base.places import check_places

LINKS = {  # the link, below the folder of the run -> where it leads
    "export": "private",
    "private": "export",
    "private/checkpoints": "../export",
    "private/log.jsonl": "../export/progress.jsonl",
    "export/text": "../private",
    "export/hf-model/config.json": "../../private/seed",
}


def make(run: Path, link: str, to: str) -> None:
    for part in ("export/hf-model", "private"):
        if not part.startswith(link):
            (run / part).mkdir(parents=True)
    (run / link).symlink_to(to)


@pytest.mark.parametrize("link", LINKS)
def test_a_link_from_one_part_to_the_other_is_refused(link: str, tmp_path: Path) -> None:
    make(tmp_path / "run", link, LINKS[link])
    with pytest.raises(BadInput, match=f"run/{link} is a link to"):
        check_places(tmp_path / "run")


@pytest.mark.parametrize("link", LINKS)
def test_a_link_that_leads_out_is_refused(link: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for to in ("elsewhere", "missing", "run"):
        run = tmp_path / to.replace("run", "inside") / "run"
        make(run, link, str(run if to == "run" else tmp_path / to))
        with pytest.raises(BadInput, match=f"run/{link} is a link to"):
            check_places(run)


def test_a_loop_is_refused(tmp_path: Path) -> None:
    (tmp_path / "export").symlink_to("export")
    with pytest.raises(BadInput, match="is a link to"):
        check_places(tmp_path)


def test_a_run_without_such_links_passes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    check_places(run)
    for part in ("export/text", "private"):
        (run / part).mkdir(parents=True)
    (run / "export/text/a.txt").write_text("a")
    (run / "export/text/b.txt").symlink_to("a.txt")
    os.symlink(run, tmp_path / "by-another-name")
    check_places(run)
    check_places(tmp_path / "by-another-name")
