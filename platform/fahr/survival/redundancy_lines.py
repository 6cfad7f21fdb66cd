"""What a risk says beside age, as lines for a terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fahr.survival.redundancy import Redundancy

WIDTH = 36


def as_lines(found: "Redundancy") -> list[str]:
    left_out = f"; {found.without_age:,} more of unknown age" if found.without_age else ""
    lines = [f"risk beside age: {found.people:,} people, {found.events:,} events{left_out}"]
    if found.photos > found.people + found.without_age:
        lines.append(f"of {found.photos:,} photos each person's earliest visit, the median of its photos")
    lines.append(_row("correlation of the risk with", "Pearson", "Spearman"))
    for one in found.correlations:
        lines.append(_row(f"  {one.name}", _with(one.pearson, one.low, one.high, ".2f"), _number(one.spearman, ".2f")))
    uno = "" if found.uno_before is None else f"Uno, before {found.uno_before:,.6g}"
    lines.append(_row("concordance (ties half)", "Harrell", uno))
    sex = found.beside_sex
    more = (sex.known, sex.both) if sex is not None else ()
    for ranking in (found.age, found.risk, found.both, *more):
        by_uno = _with(ranking.uno, ranking.uno_low, ranking.uno_high, ".3f") if uno else ""
        lines.append(_row(f"  {ranking.name}", _with(ranking.value, ranking.low, ranking.high, ".3f"), by_uno))
    lines.append(_row("difference (Harrell)"))
    for gain in (found.gain, found.lead, *((sex.gain,) if sex is not None else ())):
        told = _with(gain.difference, gain.low, gain.high, "+.3f")
        lines.append(_row(f"  {gain.name}", told, _p(gain.p_value)))
    nested = found.nested + (sex.nested if sex is not None else ())
    if nested:
        lines.append("likelihood-ratio tests of nested Cox models")
    for test in nested:
        freedom = f"chi2 {test.statistic:.2f}, {test.freedom} df"
        lines.append(_row(f"  {test.name}", freedom, _p(test.p_value)))
    if found.effects:
        lines.append(f"hazard ratios; a SD of the risk is {found.risk_sd:.3g}")
    for effect in found.effects:
        lines.append(_row(f"  {effect.name}", _with(effect.ratio, effect.low, effect.high, ".2f"), _p(effect.p_value)))
    return lines + [_how(found), *found.notes]


def _how(found: "Redundancy") -> str:
    fitted = (
        f"each person's by a fit on the others, in {found.folds} folds"
        if found.folds
        else "fitted on these same people"
    )
    drawn = f"intervals of concordances from {found.bootstraps:,} resamples of the people" if found.bootstraps else ""
    return "; ".join(each for each in (f"age + risk: Cox, Efron ties, {fitted}", drawn) if each)


def _row(head: str, *cells: str) -> str:
    return (f"{head:{WIDTH}s}" + "".join(f"{cell:26s}" for cell in cells)).rstrip()


def _number(value: float | None, form: str) -> str:
    return "not defined" if value is None else f"{value:{form}}"


def _with(value: float | None, low: float | None, high: float | None, form: str) -> str:
    """`0.845 [0.801, 0.884]`"""
    ends = "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"
    return _number(value, form) + ends


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
