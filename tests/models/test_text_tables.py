"""Tables: worked by hand, and the same whatever is in the cells and wherever they are printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from edgepress.models.text_tables import table_text

CELLS = st.text(st.characters(blacklist_categories=("Cs",)), max_size=12)


def test_figures_stand_to_the_right_and_words_to_the_left():
    rows = [("conv", "1,234", "3.5 %", "12 kB", "9/10"), ("a longer one", None, "-1 %", "", "10/10")]
    assert table_text(("layer", "MACs", "share", "file", "right"), rows).splitlines() == [
        "layer          MACs  share   file  right",
        "conv          1,234  3.5 %  12 kB   9/10",
        "a longer one      -   -1 %         10/10",
    ]


def test_a_sentence_that_begins_with_a_number_is_no_figure():
    assert (
        table_text(("note", "b"), [("2 of 3 are right", "x"), ("none", "y")]).splitlines()[2] == "none              y"
    )


def test_without_rows_the_headings_are_left():
    assert table_text(("a", "b"), []) == "a  b"


def test_nothing_is_cut_and_nothing_is_interpreted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    text = table_text(("a", "b"), [("[bold]x[/] :smile: \x1b[31m\n", "y" * 500)])
    assert text.splitlines()[1] == "[bold]x[/] :smile: ?[31m?  " + "y" * 500


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5))
def test_every_line_is_one_row_with_its_columns_in_place(rows: list[tuple[str, str, str]]):
    lines = table_text(("a", "b", "|"), [(*row[:2], "|") for row in rows]).splitlines()
    assert len(lines) == len(rows) + 1
    assert len({cell_len(line) for line in lines}) == 1
    assert all(line.endswith("|") and line == line.rstrip() for line in lines)


def test_a_table_without_end_is_cut_and_says_so():
    lines = table_text(("a", "b"), [(str(n), "x") for n in range(20_000)]).splitlines()
    assert len(lines) == 1002
    assert lines[1000].split() == ["999", "x"]
    assert lines[-1] == "... and 19,000 more rows; JSON has them all"
    assert "more rows" not in table_text(("a",), [("x",)] * 1000)
