"""What a benchmark printed -> rows: each ratio with its range, each difference with its interval, each verdict.

rows = parse("align", printed)
said = held(read_claims(), rows)        # each ratio that was promised, or is told in README or docs: still so?
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

CLAIMS = Path(__file__).with_name("claims.yaml")
NUMBER = r"(?:\d[\d,]*\.?\d*|\.\d+)"
RANGE = rf"(?P<middle>{NUMBER}) \[(?P<low>{NUMBER})-(?P<high>{NUMBER})\]"
RATIO = re.compile(rf"{RANGE}(?P<kind>x| times| of)(?!\w)\s*(?P<than>.*?)(?=;|\(|,? bar |$)")
PLAIN = re.compile(rf"ours is (?P<middle>{NUMBER}) (?P<kind>times|of) that")
SHARE = re.compile(r"(?P<middle>\d+)% of the peak")
SIGNED = r"[+-]\d+\.?\d*"
INTERVAL = rf"\[(?P<low>{SIGNED}), (?P<high>{SIGNED})\]"
DIFFERENCE = re.compile(rf"(?P<middle>{SIGNED}) (?P<unit>\S+) {INTERVAL}")
BAR = re.compile(r"bar (\d*\.?\d+)")
VERDICT = re.compile(r"(?:[:,;)\]]|x|\d|MB|y|%|O\(n\)) +(met|MISSED|inside|NOT inside)\b|^verdict: (parity|no parity)$")
HEAD = re.compile(r"^(?P<title>.*): [\d,]+ \S+, \d+ interleaved rounds?, median \[range\]$")  # of _rounds.table
_RANGE = rf"{NUMBER} \[{NUMBER}-{NUMBER}\]"
RATE = re.compile(rf"^  (?P<name>.*?) {{2,}}{_RANGE} \S+/s(?:   ours is (?P<ratio>{_RANGE}x))?$")
OURS = re.compile(
    rf"^(?P<name>.*?) {{2,}}.*\bours is (?P<middle>{NUMBER})(?: \[(?P<low>{NUMBER})-(?P<high>{NUMBER})\])?x$"
)
SKIPPED = re.compile(r"^(?:skipped|not run)\b[: ]*(.*)$|^(.*), so not measured$")

GOOD = ("met", "inside", "parity")


@dataclass(frozen=True)
class Row:
    """One figure of a run."""

    benchmark: str
    what: str  # headings above it, and the line's own words
    kind: Literal["ratio", "difference", "verdict", "note"]
    middle: float | None = None  # of a ratio its median; above 1 ours is the faster, or the larger share
    low: float | None = None
    high: float | None = None
    bar: float | None = None  # as the benchmark printed it
    met: bool | None = None
    line: str = ""

    def reading(self) -> str:
        if self.middle is None:
            return self.line if self.kind == "note" else ""
        sign = "+" if self.kind == "difference" else ""
        told = [f"{each:{sign}.4g}" for each in (self.middle, self.low, self.high) if each is not None]
        joined = ", " if self.kind == "difference" else "-"
        return told[0] if len(told) == 1 else f"{told[0]} [{joined.join(told[1:])}]"


def parse(benchmark: str, printed: str) -> list[Row]:
    """All rows of what `benchmark` printed, in order."""
    rows: list[Row] = []
    headings: dict[int, str] = {}
    lines = printed.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number].rstrip()
        if head := HEAD.match(line):
            block = _block(lines[number + 1 :])
            rows += _table(benchmark, head["title"], block)
            headings = {0: head["title"]}
            number += 1 + len(block)
            continue
        number += 1
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        headings = {depth: each for depth, each in headings.items() if depth < indent}
        above = " / ".join(headings[depth] for depth in sorted(headings))
        if (row := _row(benchmark, above, line.strip())) is not None:
            rows.append(row)
        else:
            headings[indent] = line.strip().rstrip(":")
    return rows


def _block(lines: Sequence[str]) -> list[re.Match[str]]:
    found = []
    for line in lines:
        rate = RATE.match(line.rstrip())
        if rate is None:
            break
        found.append(rate)
    return found


def _table(benchmark: str, title: str, block: Iterable[re.Match[str]]) -> list[Row]:
    """Of _rounds.table: the way without a ratio is ours."""
    block = list(block)
    ours = next((each["name"].strip() for each in block if not each["ratio"]), "ours")
    rows = []
    for each in block:
        if each["ratio"]:
            ratio = RATIO.search(each["ratio"])
            assert ratio
            what = f"{title}: {ours} against {each['name'].strip()}"
            rows.append(Row(benchmark, what, "ratio", *_numbers(ratio), line=each.string.strip()))
    return rows


def _row(benchmark: str, above: str, line: str) -> Row | None:
    """A line that holds a figure or a verdict; None: a heading, or what is told beside."""
    if skipped := SKIPPED.match(line):
        return Row(benchmark, above or "all", "note", line=f"not run: {(skipped[1] or skipped[2] or '').strip()}")
    verdict, bar = VERDICT.search(line), BAR.search(line)
    met = None if verdict is None else (verdict[1] or verdict[2]) in GOOD
    more: dict[str, Any] = {"bar": float(bar[1]) if bar else None, "met": met, "line": line}
    before = f"{above}: " if above else ""
    if ours := OURS.match(line):
        return Row(benchmark, f"{before}against {ours['name']}", "ratio", *_numbers(ours), **more)
    for form in (RATIO, PLAIN, SHARE):
        if found := form.search(line):
            named = found.groupdict()
            word = "of" if (named.get("kind") or "of").strip() == "of" else "against"
            than = (named.get("than") or "").strip()
            what = f"{before}{_words(line[: found.start()])}{f' {word} {than}' if than else ''}"
            return Row(benchmark, what, "ratio", *_numbers(found), **more)
    if difference := DIFFERENCE.search(line):
        what = f"{before}{_words(line[: difference.start()])}, {difference['unit']}"
        return Row(benchmark, what, "difference", *_numbers(difference), **more)
    return Row(benchmark, before + _words(line), "verdict", **more) if verdict else None


def _words(text: str) -> str:
    """Without the milliseconds and marks that stand before a ratio."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(rf"(?:{NUMBER}(?: \[{NUMBER}-{NUMBER}\])? ms)?[:;,(]*$", "", text)
    return text.strip(" :;,(")


def _numbers(found: re.Match[str]) -> tuple[float | None, float | None, float | None]:
    named = found.groupdict()
    low, middle, high = (
        None if named.get(key) is None else float(named[key].replace(",", "")) for key in ("low", "middle", "high")
    )
    return middle, low, high


# Claims


@dataclass(frozen=True)
class Claim:
    """A ratio that was promised (`bar`), or that README or docs tell (`said`: file -> its words)."""

    what: str
    benchmark: str
    row: str  # a regular expression that finds its row in `Row.what`
    bar: float | None = None
    at_most: bool = False  # less is better
    end: Literal["middle", "low", "high"] = "middle"  # what has to reach the bar
    said: Mapping[str, str] | None = None


def read_claims(place: Path = CLAIMS) -> list[Claim]:
    return [Claim(**each) for each in yaml.safe_load(place.read_text())]


@dataclass(frozen=True)
class Held:
    """What became of a claim in a run."""

    claim: Claim
    row: Row | None  # None: nothing in this run is about it
    met: bool | None  # the bar; None: there is none
    still: bool | None  # what is told is not better than this run: its median is not beyond the range that is told


def held(claims: Iterable[Claim], rows: Sequence[Row]) -> list[Held]:
    return [_held(claim, rows) for claim in claims]


def _held(claim: Claim, rows: Sequence[Row]) -> Held:
    found = [row for row in rows if row.benchmark == claim.benchmark and re.search(claim.row, row.what)]
    if len(found) > 1:
        raise ValueError(f"claims.yaml: {claim.what}: {claim.row!r} fits {[row.what for row in found]}. Fit one.")
    row = found[0] if found else None
    if row is None or row.middle is None:
        return Held(claim, row, row.met if row else None, None)

    def reaches(value: float | None, wanted: float) -> bool:
        return value is not None and (value <= wanted if claim.at_most else value >= wanted)

    met = row.met if claim.bar is None else reaches(getattr(row, claim.end), claim.bar)
    told = [_told_end(words, claim.at_most) for words in (claim.said or {}).values()]
    return Held(claim, row, met, all(reaches(row.middle, each) for each in told) if told else None)


def _told_end(words: str, at_most: bool) -> float:
    """The worse end of the range that is told; where no range is, nine tenths of the figure."""
    if ranged := re.search(RANGE, words) or re.search(INTERVAL, words):
        return float(ranged["high" if at_most else "low"])
    plain = re.search(NUMBER, words)
    if plain is None:
        raise ValueError(f"claims.yaml: {words!r} holds no figure")
    return float(plain[0]) * (1.1 if at_most else 0.9)


# The page


def page(
    title: str, machine: Sequence[str], rows: Sequence[Row], claims: Sequence[Held], ran: Mapping[str, str]
) -> str:
    """Markdown. `ran`: benchmark -> how it ended."""
    yes = {True: "yes", False: "**NO**", None: ""}
    lines = [f"# {title}", "", *machine, "", "## Promised, or told in README and docs", ""]
    lines += [
        "| benchmark | what | bar | measured | met | told | still so |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in claims:
        claim, row = each.claim, each.row
        bar = _bar(claim.bar if claim.bar is not None or row is None else row.bar)
        bar = f"at most {bar}" if bar and claim.at_most else bar
        told = "; ".join(f"{words} ({file})" for file, words in (claim.said or {}).items())
        measured = row.reading() if row else f"not measured: {ran.get(claim.benchmark, 'not run')}"
        cells = [claim.benchmark, claim.what, bar, measured, yes[each.met], told, yes[each.still]]
        lines.append(_cells(cells))
    lines += [
        "",
        "## All that was measured",
        "",
        "| benchmark | what | measured | bar | met |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, how in ran.items():
        own = [row for row in rows if row.benchmark == name]
        if how != "ended" or not own:
            lines.append(_cells([name, "", how if how != "ended" else "ended, prints no ratio", "", ""]))
        lines += [_cells([name, row.what, row.reading(), _bar(row.bar), yes[row.met]]) for row in own]
    return "\n".join(lines) + "\n"


def _bar(bar: float | None) -> str:
    return "" if bar is None else f"{bar:g}"


def _cells(cells: Iterable[str]) -> str:
    return "| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |"


def plain(rows: Sequence[Row], claims: Sequence[Held]) -> dict[str, Any]:
    """The same as plain values."""
    return {"rows": [asdict(row) for row in rows], "claims": [asdict(each) for each in claims]}
