"""What is wrong with a manifest, collected rule by rule and told in one message."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from fahr.errors import Refused

SHOWN = 20  # rows told for each broken rule
_LONGEST_VALUE = 80  # characters of an offending cell that are shown


@dataclass(frozen=True)
class Rule:
    """What is asked of a column (None: of the file), and what to do where it is not so."""

    column: str | None
    text: str
    remedy: str


@dataclass(frozen=True)
class Problem:
    """One cell, row or file that breaks a rule. `row` is what a spreadsheet shows: the header is row 1."""

    file: str
    row: int | None
    column: str | None
    value: str | None  # as it stands in the file; None where the cell is empty or no cell is meant
    rule: str
    remedy: str
    note: str = ""


class ManifestError(Refused):
    """The manifest is refused whole. `problems` holds up to 20 rows of each broken rule, `total` counts all of them."""

    def __init__(self, problems: Iterable[Problem], counts: Mapping[Rule, int]) -> None:
        self.problems = tuple(problems)
        self.counts = dict(counts)
        self.total = sum(self.counts.values())
        super().__init__(_message(self.problems, self.counts))

    def __reduce__(self) -> tuple[type["ManifestError"], tuple[tuple[Problem, ...], dict[Rule, int]]]:
        return ManifestError, (self.problems, self.counts)  # so that it survives the way home from a worker


class Collector:
    """Problems by rule, at most `SHOWN` of each kept, all of them counted."""

    def __init__(self) -> None:
        self.counts: dict[Rule, int] = {}
        self._shown: dict[Rule, list[Problem]] = {}

    def add(self, rule: Rule, file: str, row: int | None, value: object = None, note: str = "") -> None:
        shown = self._shown.setdefault(rule, [])
        self.counts[rule] = self.counts.get(rule, 0) + 1
        if len(shown) < SHOWN:
            text = None if value is None else str(value)
            shown.append(Problem(file, row, rule.column, text, rule.text, rule.remedy, note))

    def room(self, rule: Rule) -> int:
        """How many more problems of this rule would be shown."""
        return SHOWN - len(self._shown.get(rule, ()))

    def add_unshown(self, rule: Rule, count: int) -> None:
        if count > 0:
            self.counts[rule] = self.counts.get(rule, 0) + count

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(problem for shown in self._shown.values() for problem in shown)

    def check(self) -> None:
        """Raise `ManifestError` if anything was collected."""
        if self.counts:
            raise ManifestError(self.problems, self.counts)


def refusal(file: str, text: str, remedy: str, *, row: int | None = None, column: str | None = None) -> ManifestError:
    """A single fault that keeps the file from being read at all."""
    rule = Rule(column, text, remedy)
    return ManifestError([Problem(file, row, column, None, text, remedy)], {rule: 1})


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`; unlike `fahr.errors.nearest`, capitals, blanks and marks do not count."""
    folded = {_fold(other): other for other in known}
    close = get_close_matches(_fold(name), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def _fold(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _message(problems: tuple[Problem, ...], counts: Mapping[Rule, int]) -> str:
    """A line for a single fault; otherwise a paragraph a rule, each row on a line of its own."""
    if len(problems) == 1 and len(counts) == 1 and problems[0].row is None:
        return f"{problems[0].file}: {_sentence(problems[0].column, problems[0].rule, problems[0].remedy)}"
    files = list(dict.fromkeys(problem.file for problem in problems))
    where = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more files"
    faults = sum(counts.values())
    lines = [
        f"{where}: refused whole: {len(counts)} rule{'s' * (len(counts) > 1)} broken "
        f"in {faults:,} place{'s' * (faults > 1)}. Rows are counted as a spreadsheet shows them: the header is row 1."
    ]
    for rule, count in counts.items():
        lines += ["", _sentence(rule.column, rule.text, rule.remedy)]
        shown = [p for p in problems if (p.column, p.rule, p.remedy) == (rule.column, rule.text, rule.remedy)]
        lines += [line for line in map(_line, shown) if line]
        if count > len(shown):
            lines.append(f"  and {count - len(shown):,} more")
    return "\n".join(lines)


def _sentence(column: str | None, rule: str, remedy: str) -> str:
    return f"{column} {rule}. {remedy}" if column else f"{rule}. {remedy}"


def _line(problem: Problem) -> str:
    if problem.row is None:
        return f"  {problem.file}"
    value = "empty" if problem.value is None else repr(problem.value)
    if len(value) > _LONGEST_VALUE:
        value = value[:_LONGEST_VALUE] + "..."
    cell = f"{problem.column} {value}" if problem.column else value
    return f"  {problem.file} row {problem.row:,}: {cell}{', ' + problem.note if problem.note else ''}"
