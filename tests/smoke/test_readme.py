"""The README's example runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_example_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(README), "exec"), {})
    epsilon = float(re.search(r"epsilon ([\d.]+)", capsys.readouterr().out)[1])
    assert 7.9 < epsilon <= 8.0
    assert (tmp_path / "runs" / "mine" / "private" / "ledger.jsonl").is_file()


def test_pictures_and_pages_of_the_readme_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        if not target.startswith("http"):
            assert (README.parent / target).exists(), target
