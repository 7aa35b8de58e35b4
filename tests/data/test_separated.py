import pytest
from PIL import Image

from sfumato.base.errors import BadInput
from sfumato.data.table import read_table


def written(tmp_path, text, name="t.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


TWO = {"file": ["a.png", "b.png"], "text": ["one, two", "three"]}


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\nfile;text\r\na.png;one, two\r\nb.png;three\r\n",
        "\ufeffSEP=;\nfile;text\na.png;one, two\nb.png;three\n",
        '"sep=;"\nfile;text\na.png;one, two\nb.png;three\n',
        'sep=,\nfile,text\na.png,"one, two"\nb.png,three\n',
        "sep=\t\nfile\ttext\na.png\tone, two\nb.png\tthree\n",
        "sep=#\nfile#text\na.png#one, two\nb.png#three\n",
        "file|text\na.png|one, two\nb.png|three\n",
        '"file";"text"\n"a.png";"one, two"\n"b.png";"three"\n',
        "file;text;;\na.png;one, two;;\nb.png;three;;\n",  # a spreadsheet's empty columns
        'file,"text"\ra.png,"one, two"\rb.png,three\r',
        '\n\nfile,text\na.png,"one, two"\nb.png,three\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_what_spreadsheets_write(tmp_path, text, encoding):
    if encoding == "utf-16":
        text = text.lstrip("\ufeff")
    assert read_table(written(tmp_path, text, encoding=encoding)) == TWO


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("file;text, long, wide\na.png;x\nb.png;y, z\n", ["file", "text, long, wide"]),
        ("file;text, long\na.png;x\n", ["file", "text, long"]),
        ("file,text;long;wide\na.png,x;y\n", ["file", "text;long;wide"]),
        ("file|text\na.png|x, y; z\n", ["file", "text"]),
        ("file,text\na.png,x\nb.png,y\nc.png;z;z\n", None),
    ],
)
def test_the_separator_is_the_one_that_makes_rows_of_one_length(tmp_path, text, names):
    path = written(tmp_path, text)
    if names is None:
        with pytest.raises(BadInput, match=r"2 columns, but 1 row \(3\)"):
            read_table(path)
    else:
        assert list(read_table(path)) == names


def test_separators_inside_quotes_of_the_header_do_not_count(tmp_path):
    path = written(tmp_path, '"a, b, c";file;text\n1;a.png;x\n')
    assert list(read_table(path)) == ["a, b, c", "file", "text"]


def test_names_of_columns_are_cleaned(tmp_path):
    assert list(read_table(written(tmp_path, "file\u200b, Gro\u0308\u00dfe ,text\na,1,b\n"))) == [
        "file",
        "Gr\u00f6\u00dfe",
        "text",
    ]


STRAY = 'file,text\na.png,"secret one\nb.png,two\nc.png,three\nd.png,four"\ne.png,five\n'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (STRAY, 2),
        (STRAY.replace("\n", "\r\n"), 2),
        ("sep=,\n" + STRAY, 3),
        ("sep=;\n" + STRAY.replace(",", ";"), 3),
        ('text,file\none,a.png\n"secret two,b.png\nthree",c.png\n', 3),
        ('who,text,file\nAnn,"secret,a.png\nBob,x,b.png\nCid,y",c.png\n', 2),
        ('file,text\na.png,"right\nover two lines"\n\nb.png,"secret\nc.png,x"\n', 5),
        ('file,note,text\na.png,"secret\nb.png,,x\nc.png,",y\n', 2),  # in a column that no role takes
        ('file,"text\na.png,secret\nb.png,x"\nc.png,y\n', 1),  # the header's own
    ],
)
def test_a_quote_that_swallows_rows_is_refused_by_line(tmp_path, text, line):
    with pytest.raises(BadInput, match=rf"t\.csv line {line}: a quote in this row runs over") as caught:
        read_table(written(tmp_path, text))
    assert "secret" not in str(caught.value)


def test_rows_are_recognised_by_files_of_the_folder_too(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "IM0002", "PNG")
    text = 'file,text\nIM0001,"secret\nIM0002,x\nIM0003,y"\n'
    with pytest.raises(BadInput, match="line 2: a quote"):
        read_table(written(tmp_path, text), tmp_path)
    assert len(read_table(written(tmp_path, text))["file"]) == 1  # nothing says that these are files


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('file,text\na.png,x\nb.png,"secret\nc.png,y\n', 3),  # never closed
        ('file,text\na.png,"secret" more\n', 2),
        ('file,text\na.png,"x\ny"\nb.png,"secret "word" more"\n', 4),
        ('sep=,\nfile,text\na.png,"secret\n', 3),
    ],
)
def test_a_wrong_quote_is_named_by_the_line_of_its_row(tmp_path, text, line):
    with pytest.raises(BadInput, match=rf"row that begins on line {line}: a quote") as caught:
        read_table(written(tmp_path, text))
    assert "secret" not in str(caught.value)


def test_texts_of_several_lines_are_whole(tmp_path):
    path = written(tmp_path, 'file,text\na.png,"Heart, lungs:\nnormal, clear.\nSee fig. 2"\nb.png,"say ""x""\n"\n')
    assert read_table(path)["text"] == ["Heart, lungs:\nnormal, clear.\nSee fig. 2", 'say "x"\n']


def test_rows_of_another_length_are_named_by_line(tmp_path):
    with pytest.raises(
        BadInput, match=r"2 columns, but 1 row \(2\) have another number of cells; the first is on line 4"
    ):
        read_table(written(tmp_path, 'file,text\na.png,"x\ny"\nb.png,secret,z\n'))


def test_a_repeated_column_is_shown_only_where_the_line_reads_like_names(tmp_path):
    with pytest.raises(BadInput, match="several columns named 'file'"):
        read_table(written(tmp_path, "file,text,file\na,b,c\n"))
    with pytest.raises(BadInput, match="several columns of one name") as caught:
        read_table(written(tmp_path, "a.png,secret,secret\nb.png,x,y\n"))
    assert "secret" not in str(caught.value)
