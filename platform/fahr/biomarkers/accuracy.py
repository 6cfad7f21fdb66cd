"""How good an age model is: its errors, with what is known of their uncertainty.

found = age_accuracy(age, face_age, subjects=subject_id, groups={"sex": sex, "race": race})
print("\\n".join(found.lines()))                         # found.to_json(), found.table()
age_accuracy(age, face_age, bootstraps=0).binwise_mae   # a few ms for 10,000 faces: for early stopping

error = face age - age at the photo, years: above 0 the face is read too old. N = photos.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fahr.biomarkers.accuracy_results import AgeAccuracy
from fahr.biomarkers.bands import age_bins
from fahr.biomarkers.bias import read_people, read_raw
from fahr.biomarkers.deviation import Floats, read_ages, read_years, refuse_rows
from fahr.biomarkers.estimates import FEWEST, Sums, judge_bands, judge_errors, judge_groups, judge_mean, name_bins
from fahr.biomarkers.groups import cross, read_factor
from fahr.biomarkers.measures import CORRECTED, OF_A_GROUP, summands
from fahr.biomarkers.resample import Layer, make_layer, resample
from fahr.errors import Refused, nearest

__all__ = ["AgeAccuracy", "age_accuracy"]


def age_accuracy(
    age: ArrayLike,
    face_age: ArrayLike,
    *,
    subjects: ArrayLike | None = None,
    groups: Mapping[str, ArrayLike] | None = None,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    corrected: ArrayLike | None = None,
    apparent: tuple[ArrayLike, ArrayLike] | None = None,
    bootstraps: int = 1000,
    seed: int = 0,
    bin_years: int = 10,
    pairs: Sequence[tuple[str, str]] = (),
    fewest: int = FEWEST,
    threads: int | None = None,
) -> AgeAccuracy:
    """Errors of face_age (N,) raw, never clipped, against age (N,) by the calendar, 0 to 122 years, all known.

    subjects (N,) whose photo it is; without, every photo is a person of its own. groups: name -> (N,) labels, None
    where unknown; pairs: names of two groups whose intersections are judged too. low, high (N,): prediction intervals.
    corrected (N,): bias-corrected face ages. apparent: mean and SD (N,) of the ages that raters gave. bin_years: 10, 5
    or 1 are usual. fewest: people of whom something is shown; 1 only for public data.

    Intervals: percentiles of `bootstraps` resamples of the people, 1,000 or for publication 10,000; 0 gives none. None
    either of fewer than 10 people, or of what less than 90 % of the resamples define. All follows from sums that a
    person adds to a cell (`fahr.biomarkers.resample`), and equals what resampled rows would give.
    """
    names = [*(groups or {})]
    _check_options(bootstraps, seed, bin_years, fewest, threads, names, pairs)
    ages, shown, extras = _read(age, face_age, low, high, corrected, apparent)
    person = read_people(subjects, len(ages))
    people = int(person.max()) + 1
    factors = [read_factor(name, labels, len(ages)) for name, labels in (groups or {}).items()]
    factors += [cross(factors[names.index(one)], factors[names.index(other)]) for one, other in pairs]
    bins = age_bins(ages, bin_years)

    columns = summands(ages, shown, **extras)
    table = np.stack(list(columns.values()))
    layers = [make_layer(bins.code, person, table)]
    layers += [make_layer(each.code, person, table[: len(OF_A_GROUP)]) for each in factors]
    binned, *grouped = _sums(layers, [*columns], people, bootstraps, seed, threads)
    total = binned.added()
    counted, small = name_bins(binned, bins)
    cells, gaps = judge_groups(factors, grouped, [layer.members() for layer in layers[1:]], fewest)
    return AgeAccuracy(
        n=len(ages), people=people, bootstraps=bootstraps, seed=seed, bin_years=bin_years, fewest=fewest,
        errors=judge_errors(total, binned, people),
        corrected=judge_errors(total, binned, people, CORRECTED) if corrected is not None else None,
        epsilon_error=judge_mean(total, "epsilon", people),
        coverage=judge_mean(total, "covered", people),
        width=judge_mean(total, "width", people),
        bands=judge_bands(binned, bins, layers[0].members(), fewest),
        counted_bins=counted, small_bins=small, groups=cells, gaps=gaps,
    )  # fmt: skip


def _sums(
    layers: Sequence[Layer], names: Sequence[str], people: int, bootstraps: int, seed: int, threads: int | None
) -> list[Sums]:
    """Of each layer. All columns of a layer have their names at the beginning of `names`."""
    if not bootstraps:
        return [Sums.of(layer, names[: len(layer.values)], None) for layer in layers]
    drawn = resample(layers, people=people, samples=bootstraps, seed=seed, threads=threads)
    return [Sums.of(layer, names[: len(layer.values)], each) for layer, each in zip(layers, drawn, strict=True)]


# Reading


def _check_options(
    bootstraps: int,
    seed: int,
    bin_years: int,
    fewest: int,
    threads: int | None,
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
) -> None:
    if bootstraps < 0:
        raise Refused(f"bootstraps: {bootstraps} must be 0 for no intervals, or more; 1,000 is usual.")
    if not 0 <= seed < 2**63:
        raise Refused(f"seed: {seed} must be a whole number from 0 to 2**63 - 1.")
    if bin_years != int(bin_years) or not 1 <= bin_years <= 122:
        raise Refused(f"bin_years: {bin_years} must be a whole number of years from 1 to 122; 10, 5 and 1 are usual.")
    if fewest < 1:
        raise Refused(f"fewest: {fewest} must be at least 1; {FEWEST} is usual, 1 is for public data.")
    if threads is not None and threads < 1:
        raise Refused(f"threads: {threads} must be at least 1, or None for all cores.")
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1]:
            raise Refused(f"pairs: {pair!r} must be two different names of groups. Give such as ('sex', 'race').")
        for name in pair:
            if name not in names:
                raise Refused(
                    f"pairs: {name!r} is no group.{nearest(name, names)} Give two of {sorted(names)}, or add it."
                )


def _read(
    age: ArrayLike,
    face_age: ArrayLike,
    low: ArrayLike | None,
    high: ArrayLike | None,
    corrected: ArrayLike | None,
    apparent: tuple[ArrayLike, ArrayLike] | None,
) -> tuple[Floats, Floats, dict[str, Any]]:
    """Ages, face ages, and the arguments of `summands` that were given: every value known."""
    ages = read_ages(age)
    if not len(ages):
        raise Refused("age: is empty. Give at least one photo with its age.")
    shown = read_raw("age_accuracy", face_age)
    _all_known("age", ages, len(ages))
    _all_known("face_age", shown, len(ages))

    def years(name: str, values: ArrayLike) -> Floats:
        return _all_known(name, np.asarray(read_years(name, values, len(ages))), len(ages))

    extras: dict[str, Any] = {}
    if corrected is not None:
        extras["corrected"] = years("corrected", corrected)
    if (low is None) != (high is None):
        raise Refused(f"{'high' if high is None else 'low'}: is missing. Give both ends of the interval, or neither.")
    if low is not None and high is not None:
        ends = years("low", low), years("high", high)
        refuse_rows("low", ends[0], ends[0] > ends[1], "lies above high", "Exchange the two.")
        extras["interval"] = ends
    if apparent is not None:
        mean, sd = years("apparent mean", apparent[0]), years("apparent SD", apparent[1])
        remedy = "One rater has no SD: leave such photos out."
        refuse_rows("apparent SD", sd, sd <= 0, "must be above 0", remedy)
        extras["apparent"] = mean, sd
    return ages, shown, extras


def _all_known(name: str, values: Floats, rows: int) -> Floats:
    if len(values) != rows:
        raise Refused(f"{name}: has {len(values):,} values for {rows:,} photos. Give one value a photo.")
    refuse_rows(name, values, np.isnan(values), "is unknown", "Leave the photo out.")
    return values
