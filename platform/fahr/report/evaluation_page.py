"""The report of an evaluation: `report.html`, which holds its pictures and works offline, beside `figures/*.png`,
`tables/*.csv` and `results.json` with the same numbers.

write("out/report", evaluate(cohort, protocol))      # gives the page's location
"""

import base64
import json
import struct
from dataclasses import dataclass
from typing import Any

from fahr import store
from fahr.biomarkers import BANDS
from fahr.evaluation import Evaluation, Section, Table
from fahr.report import evaluation_charts as charts
from fahr.report.page import rendered
from fahr.report.prediction_charts import calibration_chart

FOLDED = 12  # rows: a longer table is opened by whoever wants it


@dataclass(frozen=True)
class Picture:
    file: str
    png: bytes
    words: str  # for who cannot see it
    dpi: int = charts.DPI

    @property
    def wide(self) -> bool:  # drawn for a desk: a phone shows it moved sideways, not made small
        return self.dpi != charts.DPI

    @property
    def data(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @property
    def width(self) -> int:  # CSS pixels: 100 an inch
        return int(struct.unpack(">I", self.png[16:20])[0]) * 100 // self.dpi

    @property
    def height(self) -> int:
        return int(struct.unpack(">I", self.png[20:24])[0]) * 100 // self.dpi


@dataclass(frozen=True)
class Shown:
    """A table as a page has it."""

    name: str
    title: str
    heads: tuple[tuple[str, bool], ...]  # and whether numbers stand below
    rows: tuple[tuple[str, ...], ...]

    @property
    def folded(self) -> bool:
        return len(self.rows) > FOLDED

    @classmethod
    def of(cls, table: Table) -> "Shown":
        heads = tuple((column.words, column.form != "text") for column in table.columns)
        return cls(table.name, table.title, heads, tuple(
            tuple(table.cell(row, column) for column in table.columns) for row in table.rows
        ))  # fmt: skip


def write(folder: str, found: Evaluation) -> str:
    """Tables and pictures, then results.json, then the page. The same input, the same bytes; what an earlier run left
    there and this one has not is deleted."""
    pictures = {section.name: pictures_of(section) for section in found.sections}
    made = {store.join("tables", f"{table.name}.csv"): table.csv() for table in found.tables if table.rows}
    made |= {store.join("figures", each.file): each.png for some in pictures.values() for each in some}
    _forget(folder, made)
    for name, data in made.items():
        store.write_bytes(store.join(folder, name), data)
    told = json.dumps(found.to_json(), indent=1, allow_nan=False)
    store.write_bytes(store.join(folder, "results.json"), (told + "\n").encode())
    place = store.join(folder, "report.html")
    store.write_bytes(place, page(found, pictures).encode())
    return place


def page(found: Evaluation, pictures: dict[str, list[Picture]]) -> str:
    sections: list[dict[str, Any]] = [
        {
            "name": section.name, "heading": section.heading, "words": section.words, "refused": section.refused,
            "warnings": section.warnings, "pictures": pictures.get(section.name, []),
            "tables": [Shown.of(table) for table in section.tables if table.printed and table.rows],
        }
        for section in found.sections
    ]  # fmt: skip
    return rendered(
        "evaluation_page.html", found=found, summary=Shown.of(found.summary), sections=sections, refusals=sum(
            len(section.refused) for section in found.sections),
        settings={name: _told(value) for name, value in found.settings.items() if value not in (None, [], ())},
    )  # fmt: skip


def _told(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_told(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _forget(folder: str, made: dict[str, bytes]) -> None:
    for kind, ending in (("tables", ".csv"), ("figures", ".png")):
        try:
            there = [each.location for each in store.list_files(store.join(folder, kind))]
        except store.Missing:
            continue
        for location in there:
            if location.endswith(ending) and store.join(kind, store.name(location)) not in made:
                store.delete(location)


def pictures_of(section: Section) -> list[Picture]:
    """Of what there is to draw."""
    drawn = section.drawn
    found = []
    if "curves" in drawn and any(curve.last > 0 for curve in drawn["curves"].values()):
        told = "Kaplan-Meier curves by quartile of the risk, with the number watched"
        found.append(Picture("survival.png", charts.quarters_chart(drawn["curves"], drawn.get("test")), told))
    if drawn.get("forest"):
        told = "Hazard ratios with their intervals, as in the table below"
        found.append(Picture("hazard_ratios.png", charts.ratios_chart(drawn["forest"]), told))
    if drawn.get("c_index"):
        told = "Concordances with their intervals, as in the table below"
        found.append(Picture("c_index.png", charts.concordance_chart(drawn["c_index"]), told))
    if drawn.get("fad"):
        told = "How many people have which deviation"
        found.append(Picture("fad.png", charts.bins_chart(drawn["fad"], "FAD, years", {"in step": 0.0}), told))
    for band in BANDS:
        rows = [row for row in drawn.get("far", []) if row["measure"] == band.name]
        if rows:
            words = f"FAR {band.name}, years a year"
            lines = {"in step": 1.0} | ({"high above": band.cutoff} if band.cutoff != 1 else {})
            told = f"How many people have which aging rate, band {band.name}"
            found.append(Picture(f"far_{band.name}.png", charts.bins_chart(rows, words, lines), told))
    if "calibration" in drawn:
        told = "Observed share against predicted chance"
        found.append(Picture("calibration.png", calibration_chart(drawn["calibration"]), told, dpi=100))
    return found
