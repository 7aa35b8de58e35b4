from sfumato.report.metrics import chapters

RUN = {"metric": "probe", "features": "this run", "chance": 0.1}


def test_latest_step_stands_in_the_table_and_the_course_in_the_plot() -> None:
    rows = [{**RUN, "step": 400, "value": 0.8}, {**RUN, "step": 200, "value": 0.7}]
    (chapter,) = chapters([*rows, {"metric": "probe", "features": "pixels", "value": 0.75}])
    assert [(line.system, line.value) for line in chapter.lines] == [("this run", "0.800"), ("pixels", "0.750")]
    course, level = chapter.series
    assert (list(course.x), list(course.y)) == ([200, 400], [0.7, 0.8])
    assert level.dashed
    assert list(level.x) == [200, 400]


def test_one_step_makes_no_plot() -> None:
    (chapter,) = chapters([{**RUN, "step": 400, "value": 0.8}])
    assert not chapter.series


def test_a_share_is_drawn_on_the_whole_bar_and_a_count_on_the_largest() -> None:
    (share,) = chapters([{**RUN, "value": 0.8}])
    assert (share.lines[0].share, share.lines[0].chance) == (0.8, 0.1)
    (count,) = chapters([{"metric": "CIDEr", "features": name, "value": v} for name, v in (("a", 2.0), ("b", 4.0))])
    assert [line.share for line in count.lines] == [0.5, 1.0]


def test_other_columns_tell_rows_apart() -> None:
    (chapter,) = chapters([{**RUN, "shots": shots, "value": 0.1 * shots, "spread": 0.02} for shots in (1, 5)])
    assert [(line.note, line.value) for line in chapter.lines] == [
        ("shots 1", "0.100 ± 0.020"),
        ("shots 5", "0.500 ± 0.020"),
    ]


def test_intervals_units_and_words() -> None:
    rows = [{**RUN, "value": 0.8, "low": 0.79, "high": 0.81}, {"metric": "time", "value": 3, "unit": "s"}]
    words = [{"metric": "verdict", "value": "none"}, {"no": "metric"}]
    assert [c.lines[0].value for c in chapters([*rows, *words])] == ["0.800 (0.790 to 0.810)", "3 s", "none"]


def test_negative_values_have_no_bar_below_zero() -> None:
    (chapter,) = chapters([{"metric": "gain", "value": -0.5}])
    assert chapter.lines[0].share in (0.0, None)
