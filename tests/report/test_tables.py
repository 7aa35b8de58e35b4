import io

from rich.console import Console

from sfumato.report import tables

ROWS = [{"probe": "pixels", "accuracy": 0.842}, {"probe": "[red]x[/red]\x1b[31m", "accuracy": None, "note": "a|b"}]


def test_markdown_escapes_and_keeps_one_line_per_row() -> None:
    lines = tables.markdown(ROWS).splitlines()
    assert lines[1] == "| --- | ---: | --- |"
    assert lines[3] == r"| \[red\]x\[/red\]\\x1b\[31m |  | a\|b |"
    assert len(lines) == 4


def test_columns_can_be_chosen() -> None:
    assert tables.markdown(ROWS, ["accuracy"]).splitlines()[0] == "| accuracy |"


def test_terminal_table_reads_no_markup_and_passes_no_escape_code() -> None:
    stream = io.StringIO()
    Console(file=stream, width=80, force_terminal=False).print(tables.table(ROWS, title="[b]t[/b]"))
    shown = stream.getvalue()
    assert "[red]x[/red]" in shown
    assert "[b]t[/b]" in shown
    assert "\x1b" not in shown


def test_no_rows_make_an_empty_table() -> None:
    assert tables.columns_of([]) == []
    assert tables.table([]).row_count == 0
