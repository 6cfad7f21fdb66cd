"""People whose age, deviation, frailty, aging rate and fate are known, by the million.

Planted truth, all independent: age at the first photo (20 to 90 years), `dev_ref` (deviation at the first photo)
N(0, 5 years), `frailty` N(0, 1), `aging_rate` lognormal with mean 1 and SD 0.4. The hazard, per year, is

    h(t) = h0 exp(ln2 (age(t) - 60)/10 + ln1.15 dev_ref/10 + 0.7 frailty + b_rate (aging_rate - 1))

with attained age age(t), so follow-up may start at any photo: a Cox model with (age at that photo, dev_ref, frailty,
aging_rate), `follow_up_days` and `entry_days` of that photo estimates exactly ln2/10, ln1.15/10, 0.7 and b_rate.
Covariates (sex, race, tumour site, ECOG, smoking, alcohol, stage, intent) go with age and frailty as in a clinic, but
have no effect of their own: beside the four planted terms their true coefficient is 0.

What changes the target, so that nobody chases a bias that is theirs: a Cox coefficient shrinks when a term that matters
is left out (it is not collapsible) or measured with noise. With lifelines and n = 2,000, ln1.15 = .140 per decade of
deviation comes out .120 without frailty in the model, and .075 when face age carries 5 years of noise (here, with the
default options and 200,000 people: .109 and .074; the longer the follow-up, the more it shrinks). A covariate that
goes with frailty takes up part of frailty's effect when frailty is left out. Leave `entry_days`
out and people count as observed on days on which their death would have gone unseen.

Time between photos is never read from the future: photos are planned, and one that falls on or after the day of death
or last contact was never taken. So `photos_per_subject` is the most a person can have.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fahr.cohorts.synthetic.covariates import clinic
from fahr.cohorts.synthetic.options import CohortOptions
from fahr.cohorts.synthetic.streams import stream
from fahr.days import DAYS_PER_YEAR
from fahr.errors import Refused

Floats = npt.NDArray[np.float64]
Days = npt.NDArray[np.int64]

AGE_LOG_HAZARD_PER_YEAR = np.log(2) / 10
DEVIATION_LOG_HAZARD_PER_YEAR = np.log(1.15) / 10
FRAILTY_LOG_HAZARD = 0.7
DEVIATION_SD_YEARS = 5.0
RATE_SD = 0.4
YOUNGEST, OLDEST = 20.0, 90.0
TRUTH_COLUMNS = (
    "photo_id", "subject_id", "age", "apparent_age", "dev_ref", "deviation", "frailty", "aging_rate", "log_hazard",
)  # fmt: skip
_CLOSING_DAY = int(np.datetime64("2024-01-01", "D").astype(np.int64))  # days since 1970-01-01
# Days between photos: the three bands of the aging rate, and some on either side of them.
_INTERVALS = ((1, 9, 0.05), (10, 365, 0.35), (366, 730, 0.25), (731, 1460, 0.25), (1461, 2200, 0.10))


@dataclass(frozen=True)
class People:
    """One entry a subject. Days count from the first photo; `first_day` counts from 1970-01-01."""

    age_years: Floats
    dev_ref_years: Floats
    frailty: Floats
    aging_rate: Floats
    log_hazard: Floats  # at the first photo, of the hazard per year
    first_day: Days
    entry_day: Days  # under observation after this day
    last_day: Days  # death or last contact, always after entry_day
    event: npt.NDArray[np.bool_]
    covariates: dict[str, pa.Array]


@dataclass(frozen=True)
class Truth:
    """`manifest` is what a study would hold, `truth` what nobody could know; both a row a photo, in the same order."""

    manifest: pa.Table
    truth: pa.Table
    people: People
    subject: Days  # index into people, a row a photo
    number: Days  # 0 for a subject's first photo


def log_hazard(age: Floats, dev_ref: Floats, frailty: Floats, rate: Floats, options: CohortOptions) -> Floats:
    """Natural logarithm of the hazard per year at an attained age in years."""
    value: Floats = (
        np.log(options.baseline_hazard_per_year)
        + AGE_LOG_HAZARD_PER_YEAR * (age - 60)
        + DEVIATION_LOG_HAZARD_PER_YEAR * dev_ref
        + FRAILTY_LOG_HAZARD * frailty
        + options.rate_log_hazard * (rate - 1)
    )
    return value


def death_years(log_hazard_at_0: Floats, entry_years: Floats, exponential: Floats) -> Floats:
    """Years from time 0 to death, given life at `entry_years`, from unit exponentials.

    Inverts the cumulated hazard H(t) = h(0) (exp(g t) - 1) / g at H(entry) + exponential, g = ln2/10 a year.
    """
    g = AGE_LOG_HAZARD_PER_YEAR
    at_death = np.exp(g * entry_years) + g * exponential * np.exp(-log_hazard_at_0)
    years: Floats = np.log(at_death) / g
    return years


def make_people(subjects: int, *, seed: int = 0, options: CohortOptions | None = None) -> People:
    """`subjects` independent people. The first n of a larger cohort with the same seed are the same n people."""
    options = options or CohortOptions()
    if seed < 0:
        raise Refused(f"seed={seed}: a seed is a whole number, 0 or more. Choose one.")
    if subjects < 1:
        raise Refused(f"subjects={subjects}: a cohort holds at least 1 person. Ask for 1 or more.")
    return _people(subjects, seed, options, _drop_out_per_year(options))


def _people(subjects: int, seed: int, options: CohortOptions, drop_out_per_year: float) -> People:
    age_days = np.rint(_ages(subjects, seed, options) * DAYS_PER_YEAR).astype(np.int64)
    age = age_days / DAYS_PER_YEAR
    dev_ref = DEVIATION_SD_YEARS * stream(seed, "deviation").standard_normal(subjects)
    frailty = stream(seed, "frailty").standard_normal(subjects)
    log_sd = np.sqrt(np.log1p(RATE_SD**2))  # a lognormal with mean 1 and SD s has log-SD sqrt(ln(1 + s^2))
    rate = np.exp(log_sd * stream(seed, "rate").standard_normal(subjects) - log_sd**2 / 2)
    risk = log_hazard(age, dev_ref, frailty, rate, options)

    accrual = max(1, round(options.accrual_years * DAYS_PER_YEAR))
    after_start = stream(seed, "accrual").integers(0, accrual, subjects)
    whole = accrual + max(2, round(options.follow_up_years * DAYS_PER_YEAR))
    close = whole - after_start  # days to the closing date, at least 2
    late = stream(seed, "late").random(subjects) < options.delayed_entry_share
    delay = options.delayed_entry_mean_days * stream(seed, "delay").standard_exponential(subjects)
    entry = np.minimum(np.where(late, np.ceil(delay), 0), close // 2).astype(np.int64)

    # Drawn given life at entry, not drawn and discarded: discarding would make the cohort healthier than N(0, 1).
    exponential = stream(seed, "death").standard_exponential(subjects)
    death = np.ceil(death_years(risk, entry / DAYS_PER_YEAR, exponential) * DAYS_PER_YEAR)
    stays = stream(seed, "drop-out").standard_exponential(subjects)
    with np.errstate(divide="ignore"):
        gone = entry + np.ceil(stays * (DAYS_PER_YEAR / np.float64(drop_out_per_year)))
    death = np.maximum(death, entry + 1)
    censored = np.maximum(np.minimum(gone, close), entry + 1)
    return People(
        age_years=age,
        dev_ref_years=dev_ref,
        frailty=frailty,
        aging_rate=rate,
        log_hazard=risk,
        first_day=_CLOSING_DAY - close,
        entry_day=entry,
        last_day=np.minimum(death, censored).astype(np.int64),
        event=death <= censored,
        covariates=clinic(age, frailty, seed),
    )


def _ages(subjects: int, seed: int, options: CohortOptions) -> Floats:
    ages = stream(seed, "age")
    # Beta(2, 3.6): mean 45 years, 1.6 % over 75
    unit = ages.random(subjects) if options.age_shape == "uniform" else ages.beta(2.0, 3.6, subjects)
    return YOUNGEST + (OLDEST - YOUNGEST) * unit


@lru_cache(maxsize=64)
def _drop_out_per_year(options: CohortOptions) -> float:
    """The rate of random censoring that gives `event_share` in expectation; 0.2 % is the error of its own sample.

    It depends on the options alone, so a cohort's seed moves its people but not the world they live in.
    """
    people, seed = 50_000, 0

    def share(rate: float) -> float:
        return float(_people(people, seed, options, rate).event.mean())

    most = share(0.0)
    if options.event_share > most:
        raise Refused(
            f"event_share={options.event_share:g}: with baseline_hazard_per_year={options.baseline_hazard_per_year:g}, "
            f"follow_up_years={options.follow_up_years:g} and {options.age_shape} ages the hazard allows at most "
            f"{most:.3f}. Ask for less, follow up longer or raise the baseline hazard."
        )
    low, high = 0.0, 1.0
    while share(high) > options.event_share:
        low, high = high, 2 * high
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) > options.event_share else (low, middle)
    return (low + high) / 2


def plan_photos(
    people: People, photos_per_subject: int, *, seed: int, options: CohortOptions
) -> tuple[Days, Days, Days]:
    """Subject, number and day (after the subject's first photo) of every photo taken, by subject and day."""
    if photos_per_subject < 1:
        raise Refused(f"photos_per_subject={photos_per_subject}: everybody has a first photo. Ask for 1 or more.")
    n = len(people.age_years)
    day = np.zeros((n, photos_per_subject), np.int64)
    low, high, share = (np.array(column) for column in zip(*_INTERVALS, strict=True))
    for k in range(1, photos_per_subject):
        draws = stream(seed, "interval", k)
        band = np.searchsorted(np.cumsum(share)[:-1], draws.random(n), side="right")
        gap = draws.integers(low[band], high[band] + 1)
        day[:, k] = day[:, k - 1] + np.where(draws.random(n) < options.same_day_share, 0, gap)
    # Decided by the calendar and by who is still there, never by how long somebody will yet live.
    subject, number = np.nonzero(day < people.last_day[:, None])
    return subject, number, day[subject, number]


def make_truth(
    subjects: int, *, photos_per_subject: int = 1, seed: int = 0, options: CohortOptions | None = None
) -> Truth:
    """A cohort without its images, a row a photo; a million people take a few seconds."""
    options = options or CohortOptions()
    people = make_people(subjects, seed=seed, options=options)
    subject, number, day = plan_photos(people, photos_per_subject, seed=seed, options=options)
    first = people.first_day[subject]
    birth = first - np.rint(people.age_years[subject] * DAYS_PER_YEAR).astype(np.int64)
    age = (first + day - birth) / DAYS_PER_YEAR
    rate = people.aging_rate[subject]
    deviation = people.dev_ref_years[subject] + (rate - 1) * (day / DAYS_PER_YEAR)
    subject_id = _identifiers(subject, "s", 7)
    photo_id = pc.binary_join_element_wise(subject_id, _identifiers(number, "p", 1), "-")
    truth = pa.table(
        {
            "photo_id": photo_id,
            "subject_id": subject_id,
            "age": age,
            "apparent_age": age + deviation,
            "dev_ref": people.dev_ref_years[subject],
            "deviation": deviation,
            "frailty": people.frailty[subject],
            "aging_rate": rate,
            "log_hazard": people.log_hazard[subject] + AGE_LOG_HAZARD_PER_YEAR * (day / DAYS_PER_YEAR),
        }
    )
    uri = pc.binary_join_element_wise(pa.scalar("photos/"), photo_id, pa.scalar(".jpg"), "")
    manifest = pa.table(
        {
            "photo_id": photo_id,
            "uri": uri,
            "subject_id": subject_id,
            "taken_on": _dates(first + day),
            "birth_date": _dates(birth),
            "age": age,
            **{name: people.covariates[name].take(pa.array(subject)) for name in ("sex", "race", "site")},
            "follow_up_days": (people.last_day[subject] - day).astype(float),
            "entry_days": np.maximum(people.entry_day[subject] - day, 0).astype(float),
            "event": people.event[subject].astype(np.int8),
            **{
                name: values.take(pa.array(subject))
                for name, values in people.covariates.items()
                if name not in ("sex", "race", "site")
            },
        }
    )
    return Truth(manifest, truth, people, subject, number)


def _identifiers(numbers: Days, prefix: str, width: int) -> pa.Array:
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width=width, padding="0")
    return pc.binary_join_element_wise(pa.scalar(prefix), digits, "")


def _dates(days: Days) -> pa.Array:
    return pa.array(days.astype(np.int32), pa.int32()).cast(pa.date32())
