"""How fast a face ages: years of face age per year of the calendar. 1 keeps step with it.

found = face_aging_rate([61.2, 65.0], ["2020-03-01", "2022-03-01"], repeatability_sd=2.0)
found.face_aging_rate, found.standard_error, found.band, found.high, found.reason
rates = aging_rates(face_age, taken_on, subject_id, age=age, repeatability_sd=sd, prior=prior)   # many people at once

Photos of one day count by their median. Of two days: the difference of face age over the time between; of more: the
slope by least squares, each day weighing as the variance of its median asks. Whoever follows people up by it starts the
clock at `last_taken_on` (docs/aging_rate.md). N = photos, V = visits, P = people.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fahr.biomarkers.aging_rate_prior import Prior, shrink
from fahr.biomarkers.aging_rate_results import BANDS, AgingRates, FaceAgingRate, Mode, Reason
from fahr.biomarkers.bias import read_people, read_raw
from fahr.biomarkers.copies import counted_photos, read_digests
from fahr.biomarkers.deviation import Flags, Floats, read_ages, refuse_rows
from fahr.biomarkers.visits import UNKNOWN, read_days, visit_medians
from fahr.days import DAYS_PER_YEAR
from fahr.errors import Refused
from fahr.survival.people import Ints

YOUNGEST_YEARS = 20.0  # whoever is not older is still growing up
# Variance of the median of m normal numbers, m = 1 to 16, of one. Beyond, a photo adds 2 / pi of a photo.
_MEDIAN_VARIANCE = (
    1.0, 0.5, 0.448671, 0.2982, 0.286834, 0.214743, 0.210447, 0.168181,
    0.166101, 0.138327, 0.137162, 0.117516, 0.116799, 0.102168, 0.101695, 0.090376,
)  # fmt: skip
_REASONS: tuple[Reason, ...] = get_args(Reason)  # the first that applies is told


def face_aging_rate(
    face_ages: ArrayLike,
    dates: ArrayLike,
    *,
    repeatability_sd: float | None = None,
    prior: Prior | None = None,
    mode: Mode = "slope",
) -> FaceAgingRate:
    """Of one person. (N,) raw face ages in years and their days, in order of time; two or more.

    repeatability_sd: of the face age of one photo, in years, from repeats of one day (`fit_repeatability`); without it
    there is no standard error. prior: by band, for the shrunken rate. mode "replicate": first and last day only. Photos
    of one day, 1 to 9 days apart or more than 1,460 have no rate but a reason.
    """
    shown = read_raw("face_aging_rate", face_ages)
    refuse_rows("face_ages", shown, np.isnan(shown), "is unknown", "Leave the photo out.")
    if len(shown) < 2:
        raise Refused(
            f"{len(shown)} photos: a rate needs at least 2, of different days. Add an older or a newer photo."
        )
    days = read_days(dates, len(shown))
    texts = np.where(days == UNKNOWN, np.datetime64("NaT"), days.astype("datetime64[D]"))
    refuse_rows("dates", texts, days == UNKNOWN, "is unknown", "Give the day of the photo, or leave the photo out.")
    back = np.r_[False, days[1:] < days[:-1]]
    refuse_rows(
        "dates", texts, back, "lies before the day of the photo before it",
        "Give the photos from the oldest to the newest, each with its own day.",
    )  # fmt: skip
    return aging_rates(
        shown, texts, np.zeros(len(shown), np.int64), repeatability_sd=repeatability_sd, prior=prior, mode=mode
    )[0]


def aging_rates(
    face_age: ArrayLike,
    dates: ArrayLike,
    subjects: ArrayLike,
    *,
    age: ArrayLike | None = None,
    model: ArrayLike | None = None,
    source: ArrayLike | None = None,
    repeatability_sd: float | None = None,
    prior: Prior | None = None,
    mode: Mode = "slope",
) -> AgingRates:
    """Of everybody with two or more dated photos, in any order. (N,) each; the other arguments as of `face_aging_rate`.

    A face age that is nan is that of a rejected photo. Where they are given: `age` by the calendar refuses people of 20
    years or less at the first photo, `model` (digests) people seen by two models, `source` (digests of the photos'
    bytes) has copies count once.
    """
    _check(repeatability_sd, prior, mode)
    shown = read_raw("aging_rates", face_age)
    rows = len(shown)
    person, day = read_people(subjects, rows), read_days(dates, rows)
    ages = np.full(rows, np.nan) if age is None else read_ages(age, rows)
    model_of, source_of = read_digests("model", model, rows), read_digests("source", source, rows)
    dated = day != UNKNOWN
    several = np.bincount(person[dated], minlength=rows) >= 2  # by person: those that have a row
    kept = np.flatnonzero(dated & several[person])
    person = (np.cumsum(several) - 1)[person[kept]]
    first = np.full(int(several.sum()), rows)
    np.minimum.at(first, person, kept)
    day, ages, model_of = day[kept], ages[kept], model_of[kept]
    counts = counted_photos(person, day, source_of[kept])
    seen = _Seen.of(np.where(counts, shown[kept], np.nan), day, person, len(first))
    rate, unit_variance = seen.slopes(mode)
    interval = seen.last_day - seen.first_day
    reason = seen.reasons(_young(ages, day, person, seen.first_day), _several(model_of, seen.has_value, person))
    return _told(first, seen, interval, reason, rate, unit_variance, repeatability_sd, prior)


def _told(
    first: Ints, seen: "_Seen", interval: Ints, reason: NDArray[np.object_], rate: Floats, unit_variance: Floats,
    repeatability_sd: float | None, prior: Prior | None,
) -> AgingRates:  # fmt: skip
    rated = np.array([each is None for each in reason], bool)
    number = np.searchsorted([band.last_day for band in BANDS], interval).clip(max=len(BANDS) - 1)
    band = np.array([each.name for each in BANDS], object)[number]
    high = (rate > np.array([each.cutoff for each in BANDS])[number]).astype(object)
    band[~rated] = high[~rated] = None
    rate = np.where(rated, rate, np.nan)
    error = np.where(rated, np.sqrt(unit_variance), np.nan) * (repeatability_sd or np.nan)
    return AgingRates(
        first,
        seen.first_day.astype("datetime64[D]"),
        seen.last_day.astype("datetime64[D]"),
        interval,
        band,
        rate,
        error,
        np.full(len(rate), np.nan) if prior is None else shrink(rate, error, band, prior),
        high,
        reason,
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """The visits of people, by person and day: those with a face age. A person may have none."""

    has_value: Flags  # (rows,)
    first_day: Ints  # (P,) of the visits with a face age; of a person with fewer than two, of all dated photos
    last_day: Ints
    all_one_day: Flags  # (P,)
    visits: Ints  # (P,)
    person: Ints  # (V,)
    day: Ints
    face_age: Floats
    weight: Floats  # (V,) of how many photos the median is worth

    @staticmethod
    def of(values: Floats, day: Ints, person: Ints, people: int) -> "_Seen":
        order = np.lexsort((day, person))
        ends = np.searchsorted(person[order], np.arange(people + 1))
        first, last = day[order[ends[:-1]]], day[order[ends[1:] - 1]]
        all_one_day = first == last
        found = visit_medians(values, person, day.astype("datetime64[D]"))
        valued = np.flatnonzero(found.photos > 0)
        row = found.first[valued]
        by_day = np.lexsort((day[row], person[row]))
        valued, row = valued[by_day], row[by_day]
        visits = np.bincount(person[row], minlength=people)
        end = np.cumsum(visits)
        enough = visits >= 2
        first[enough] = day[row[(end - visits)[enough]]]
        last[enough] = day[row[end[enough] - 1]]
        return _Seen(
            ~np.isnan(values), first, last, all_one_day, visits, person[row], day[row], found.medians[valued],
            photos_of_median(found.photos[valued]),
        )  # fmt: skip

    def slopes(self, mode: Mode) -> tuple[Floats, Floats]:
        """(P,) rates, and their variance if that of one photo were 1; nan for people with fewer than two visits."""
        people = len(self.visits)
        rate, variance = np.full(people, np.nan), np.full(people, np.nan)
        end = np.cumsum(self.visits)
        two = self.visits >= 2 if mode == "replicate" else self.visits == 2
        first, last = (end - self.visits)[two], end[two] - 1
        years = (self.day[last] - self.day[first]) / DAYS_PER_YEAR
        rate[two] = (self.face_age[last] - self.face_age[first]) / years
        variance[two] = (1 / self.weight[first] + 1 / self.weight[last]) / years**2
        if mode == "slope" and (more := self.visits > 2).any():
            rate[more], variance[more] = (each[more] for each in self._least_squares())
        return rate, variance

    def _least_squares(self) -> tuple[Floats, Floats]:
        def added(values: Floats) -> Floats:
            return np.asarray(np.bincount(self.person, values, minlength=len(self.visits)), np.float64)

        time = (self.day - self.first_day[self.person]) / DAYS_PER_YEAR
        with np.errstate(invalid="ignore", divide="ignore"):
            total = added(self.weight)
            time = time - (added(self.weight * time) / total)[self.person]
            # from the mean, so that nothing is lost to the size of the ages
            value = self.face_age - (added(self.weight * self.face_age) / total)[self.person]
            square = added(self.weight * time**2)
            return added(self.weight * time * value) / square, 1 / square

    def reasons(self, young: Flags, several_models: Flags) -> NDArray[np.object_]:
        """(P,) None where nothing speaks against a rate."""
        interval = self.last_day - self.first_day
        applies: dict[Reason, Flags] = {
            "same_day": self.all_one_day,
            "rejected_photo": self.visits < 2,
            "other_model": several_models,
            "age_20_or_less": young,
            "interval_too_short": interval < BANDS[0].first_day,
            "interval_too_long": interval > BANDS[-1].last_day,
        }
        found = np.full(len(interval), None, object)
        for reason in reversed(_REASONS):
            found[applies[reason]] = reason
        return found


def photos_of_median(photos: Ints) -> Floats:
    """(V,) how many single photos the median of so many is worth, where errors are independent and normal."""
    listed = len(_MEDIAN_VARIANCE)
    beyond = np.maximum(photos - listed + 1, 0) // 2  # steps of two: even numbers of photos do better than odd ones
    return np.asarray(1 / np.array(_MEDIAN_VARIANCE)[photos - 2 * beyond - 1] + beyond * 4 / np.pi)


def _young(ages: Floats, day: Ints, person: Ints, first_day: Ints) -> Flags:
    """(P,) 20 years or less at the first photo, by the known age nearest to it; False where none is known."""
    away = day - first_day[person]
    known = np.flatnonzero(~np.isnan(ages))
    order = known[np.lexsort((ages[known], np.abs(away[known]), person[known]))]
    new = np.r_[True, person[order][1:] != person[order][:-1]] if len(order) else np.zeros(0, bool)
    nearest = order[new]
    young = np.zeros(len(first_day), bool)
    young[person[nearest]] = ages[nearest] - away[nearest] / DAYS_PER_YEAR <= YOUNGEST_YEARS
    return young


def _several(model_of: Ints, has_value: Flags, person: Ints) -> Flags:
    """(P,) whether face ages of one person came from several models."""
    told = has_value & (model_of >= 0)
    least, most = np.full((2, int(person.max(initial=-1)) + 1), -1)
    most[person[told]] = least[person[told]] = model_of[told]  # of each person, some photo's
    np.minimum.at(least, person[told], model_of[told])
    np.maximum.at(most, person[told], model_of[told])
    return np.asarray(least < most)


def _check(repeatability_sd: float | None, prior: Prior | None, mode: Any) -> None:
    if repeatability_sd is not None and not (isfinite(repeatability_sd) and repeatability_sd > 0):
        raise Refused(
            f"repeatability_sd: {repeatability_sd} must be finite and above 0, in years. See fit_repeatability."
        )
    if prior is not None and repeatability_sd is None:
        raise Refused("prior: shrinks by the standard error, which repeatability_sd tells. Give both, or neither.")
    if mode not in get_args(Mode):
        raise Refused(f"mode: {mode!r} must be one of {', '.join(get_args(Mode))}.")
