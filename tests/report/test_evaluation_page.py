"""The page of an evaluation: each number printed is that of results.json and the tables, and all is inside."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from evaluation.planted import planted_place, replaced, scored, truth, write
from fahr.evaluation import Evaluation, Protocol, evaluate, read_cohort
from fahr.report import evaluation_page

NUMBER = re.compile(r"[+-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?%?")


class Page(HTMLParser):
    """Tables by name, as rows of cells; fails on what is not nested."""

    EMPTY = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[str]]] = {}
        self.images: list[dict[str, str | None]] = []
        self.words, self.open, self.here = "", [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag == "table":
            self.here = str(told["data-name"])
            assert self.here not in self.tables
            self.tables[self.here] = []
        if tag == "tr" and "tbody" in self.open:
            self.tables[self.here].append([])
        if tag == "td":
            self.tables[self.here][-1].append("")
        if tag == "img":
            self.images.append(told)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.tables[self.here][-1][-1] += data
        if "style" not in self.open:
            self.words += data


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    protocol = Protocol(bootstraps=30)
    return evaluate(read_cohort(planted_place(tmp_path_factory), protocol), protocol, {"code": "<b>&"})


@pytest.fixture(scope="module")
def folder(found: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    evaluation_page.write(str(place), found)
    return place


def matches(told: str, values: list[float]) -> bool:
    """Whether a printed number is one of the values, rounded as it is printed."""
    percent, plain = told.endswith("%"), told.rstrip("%").replace(",", "")
    digits = len(plain.partition(".")[2])
    return any(f"{100 * each if percent else each:.{digits}f}" == f"{float(plain):.{digits}f}" for each in values)


def test_every_number_of_the_page_is_that_of_the_results_and_of_the_tables(folder: Path) -> None:
    page = Page((folder / "report.html").read_text())
    told = json.loads((folder / "results.json").read_text())["tables"]
    checked = 0
    assert {"summary", "hazard_ratios", "nested_tests", "c_index", "calibration", "quartiles"} <= page.tables.keys()
    for name, rows in page.tables.items():
        assert len(rows) == len(told[name]) > 0
        for cells, row in zip(rows, told[name], strict=True):
            values = [float(each) for each in row.values() if isinstance(each, int | float)]
            texts = " ".join(str(each) for each in row.values() if isinstance(each, str))
            for cell in cells:
                for number in NUMBER.findall(cell.replace("<.001", "").replace("<10", "")):
                    ours = matches(number, values) or number in texts
                    assert ours, (name, cell, row)
                    checked += 1
    assert checked > 400
    for name, rows in told.items():
        with (folder / "tables" / f"{name}.csv").open() as file:
            kept = list(csv.DictReader(file))
        assert len(kept) == len(rows), name
        for one, other in zip(kept, rows, strict=True):
            for key, text in one.items():
                value = other.get(key)
                same = text == "" if value is None else text == str(value)
                assert same, (name, key, text, value)


def test_a_value_that_is_off_by_one_in_the_last_digit_would_be_seen(found: Evaluation) -> None:
    table = next(table for table in found.tables if table.name == "c_index")
    row = dict(table.rows[0])
    printed = table.cell(row, table.columns[3])
    row["harrell"] += 0.0011
    assert printed.split()[0] != table.cell(row, table.columns[3]).split()[0]
    assert not matches(printed.split()[0], [row["harrell"]])


def test_the_page_holds_its_pictures_and_asks_for_nothing_from_outside(folder: Path, found: Evaluation) -> None:
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,|#)", text) and "<script" not in text
    assert len(page.images) == len(list((folder / "figures").iterdir())) >= 8
    assert all(each["alt"] and int(str(each["width"])) > 300 for each in page.images)
    assert "<b>&" in page.words and "<b>&" not in text
    order = [text.index(f'id="{name}"') for name in ("summary", "quartiles", "hazards", "nested", "methods", "limits")]
    assert order == sorted(order) and "Research use only" in page.words
    for section in found.sections:
        for line in (*section.words, *section.refused, *section.warnings):
            assert line in page.words


def test_the_same_again_writes_the_same_bytes_and_forgets_what_is_no_longer_said(
    folder: Path, found: Evaluation
) -> None:
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "tables" / "of_an_earlier_run.csv").write_text("a\n")
    (folder / "figures" / "far_old.png").write_bytes(b"")
    evaluation_page.write(str(folder), found)
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_cohort_that_says_nothing_has_a_page_that_says_why(tmp_path: Path) -> None:
    table = scored(truth()).slice(0, 40)
    place = write(tmp_path / "scores", replaced(table, event=[0] * 40), rates=False)
    found = evaluate(read_cohort(place, Protocol()), Protocol())
    evaluation_page.write(str(tmp_path / "report"), found)
    page: Any = Page((tmp_path / "report" / "report.html").read_text())
    assert "Nothing could be estimated" in page.words and page.words.count("Not done.") >= 6
    assert "summary" not in page.tables and "flow" in page.tables
