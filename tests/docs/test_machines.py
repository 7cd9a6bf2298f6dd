"""The table of chips in docs/machines.md is what `autoshard machines --markdown` prints."""

import os
from pathlib import Path

from autoshard.machine import load_catalog
from autoshard.machine.table import HEADERS, markdown, rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "machines.md"
BEGIN, END = "<!-- begin: autoshard machines --markdown -->\n", "<!-- end -->"


def test_the_table_of_chips_is_the_catalogue():
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    table, _, after = rest.partition(END)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(f"{before}{BEGIN}{markdown()}{END}{after}", encoding="utf-8")
        return
    assert table == markdown(), "run: UPDATE_DOCS=1 pytest tests/docs/test_machines.py"


def test_every_chip_has_a_row_and_every_cell_says_something():
    table = rows()
    assert {row[0].strip("`") for row in table} == set(load_catalog())
    for row in table:
        assert len(row) == len(HEADERS)
        assert all(row), row
