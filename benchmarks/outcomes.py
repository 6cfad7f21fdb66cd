"""Cox models and Kaplan-Meier curves against lifelines. Equal outputs asserted.

python benchmarks/outcomes.py [--people 50000] [--rounds 5]

Eight columns, half of the people with the event, times in whole days, so that many tie. Both read the same arrays;
lifelines gets them as the table that it wants, made beforehand. One thread each. With delayed entry lifelines takes so
long that it is timed once, in the last line.
"""

import argparse
import time

import numpy as np
import pandas as pd
from _rounds import interleave, median_range, ratios
from lifelines import CoxPHFitter, KaplanMeierFitter

from fahr.survival.cox import fit_cox
from fahr.survival.curves import kaplan_meier

COLUMNS, BAR = 8, 3.0


def cohort(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """time (days), event, entry, columns (count, 8)."""
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(count, COLUMNS))
    columns[:, -2:] = columns[:, -2:] > 0.5
    died = np.ceil(3000 * rng.exponential(np.exp(-columns @ np.linspace(-0.5, 0.5, COLUMNS))))
    left = np.ceil(3000 * rng.exponential(size=count))
    end = np.minimum(died, left)
    return end, died <= left, np.floor(end * rng.random(count) * (rng.random(count) < 0.3)), columns


def told(title: str, seconds: dict[str, list[float]]) -> None:
    faster = ratios(seconds["lifelines"], seconds["fahr"])
    met = "met" if float(np.median(faster)) >= BAR else "MISSED"
    ours = median_range([1000 * each for each in seconds["fahr"]], 1)
    print(f"{title:30s} {ours} ms; {median_range(faster)} times lifelines; bar {BAR:g} {met}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    end, event, entry, columns = cohort(options.people)
    names = [f"x{number}" for number in range(COLUMNS)]
    table = pd.DataFrame(columns, columns=names).assign(time=end, event=event, entry=entry)
    given = dict(zip(names, np.ascontiguousarray(columns.T), strict=True))
    plain = table.drop(columns="entry")

    ours = fit_cox(end, event, given)
    theirs = CoxPHFitter().fit(plain, "time", "event", fit_options={"precision": 1e-9})
    assert np.abs(ours.coefficients - theirs.params_.to_numpy()).max() < 1e-6
    assert np.abs(np.sqrt(np.diag(ours.covariance)) - theirs.standard_errors_.to_numpy()).max() < 1e-6
    curve, fitter = kaplan_meier(end, event), KaplanMeierFitter().fit(end, event)
    assert np.abs(curve.survival - fitter.survival_function_at_times(curve.time).to_numpy()).max() < 1e-9

    print(f"{options.people:,} people, {int(event.sum()):,} events, {COLUMNS} columns, {options.rounds} rounds")
    told("Cox (Efron)", interleave(
        {"fahr": lambda: fit_cox(end, event, given), "lifelines": lambda: CoxPHFitter().fit(plain, "time", "event")},
        options.rounds,
    ))  # fmt: skip
    told("Kaplan-Meier with interval", interleave(
        {"fahr": lambda: kaplan_meier(end, event), "lifelines": lambda: KaplanMeierFitter().fit(end, event)},
        options.rounds,
    ))  # fmt: skip
    started = time.perf_counter()
    late = fit_cox(end, event, given, entry=entry)
    between = time.perf_counter()
    theirs = CoxPHFitter().fit(table, "time", "event", entry_col="entry")
    whole = time.perf_counter() - between
    assert np.abs(late.coefficients - theirs.params_.to_numpy()).max() < 1e-4
    print(f"{'Cox with delayed entry, once':30s} {between - started:.2f} s; lifelines {whole:.1f} s")


if __name__ == "__main__":
    main()
