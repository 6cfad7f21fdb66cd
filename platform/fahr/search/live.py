"""What a sweep looks like while it runs: how far it is, the best so far, the time left.

lines = Live(total=50, metric=METRICS["survival"], names=["tau"]).lines(trials, running=2, elapsed_s=80.0)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fahr.search.metrics import Metric
from fahr.search.spaces import Value
from fahr.search.trials import Trial, commonest_error, ranked

TOP = 5


@dataclass(frozen=True)
class Live:
    total: int
    metric: Metric
    names: Sequence[str]  # of the parameters

    def lines(self, trials: Sequence[Trial], *, running: int, elapsed_s: float, fresh: int | None = None) -> list[str]:
        """`fresh`: how many of the trials ended in these seconds; the others were here before."""
        made = len(trials) if fresh is None else fresh
        states = {state: sum(each.state == state for each in trials) for state in ("done", "stopped", "failed")}
        told = ", ".join(f"{number} {state}" for state, number in states.items() if number) or "none ended yet"
        left = self.total - len(trials)
        time = f", about {duration(elapsed_s / made * left)} left" if made and left else ""
        lines = [f"tune: {len(trials)} of {self.total} trials ({told}), {running} running{time}"]
        best = ranked(trials)[:TOP]
        default = next((each for each in trials if each.number == 0), None)
        if default is not None and default not in best and default.metric is not None:
            best.append(default)
        if best:
            shown = [name for name in self.names if any(name in each.settings for each in best)]
            head = ["trial", self.metric.name if not self.metric.unit else f"{self.metric.name}, {self.metric.unit}"]
            rows = [[*head, *shown]]
            for each in best:
                name = "0 = default" if each.number == 0 else str(each.number)
                rows.append([name, f"{each.metric:.4f}", *(_shown(each.settings.get(other)) for other in shown)])
            widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
            lines += ["  " + "  ".join(f"{cell:{w}s}" for cell, w in zip(row, widths, strict=True)) for row in rows]
        error, often = commonest_error(trials)
        if often:
            lines.append(f"  {states['failed']} failed, {often} by: {error[:150]}")
        return [line.rstrip() for line in lines]


def _shown(value: Value | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.3g}"


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `2.5 h`"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
