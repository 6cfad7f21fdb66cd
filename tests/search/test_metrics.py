"""By what trials are judged, against other ways to work it out; who is kept aside; whether one is better."""

import numpy as np
import pyarrow as pa
import pytest

from fahr.biomarkers import age_accuracy
from fahr.errors import Refused
from fahr.search.metrics import METRICS, compared
from fahr.search.people import folds, part
from fahr.search.trials import Trial
from fahr.search.winner import Finalist, choose, optimism
from fahr.survival import bootstrap_concordance, compare_concordance, concordance

RNG = np.random.default_rng(11)
PEOPLE = 240
PERSON = np.repeat(np.arange(PEOPLE), 2)
AGES = RNG.uniform(20, 80, PEOPLE)[PERSON]
DAYS = np.ceil(RNG.exponential(1000, PEOPLE))[PERSON]
EVENT = RNG.integers(0, 2, PEOPLE)[PERSON]
TABLE = pa.table({
    "photo_id": [f"p{n}" for n in range(2 * PEOPLE)], "subject_id": [f"s{n}" for n in PERSON], "age": AGES,
    "follow_up_days": DAYS, "event": EVENT,
})  # fmt: skip
GOOD = -np.log(DAYS) + RNG.normal(0, 1, 2 * PEOPLE)
POOR = RNG.normal(0, 1, 2 * PEOPLE)
SURVIVAL, AGE = METRICS["survival"], METRICS["age"]


def first_photos(values: np.ndarray) -> np.ndarray:
    """The median of a person's two photos of one day."""
    return values.reshape(PEOPLE, 2).mean(1)


def test_c_is_of_people_and_its_error_that_of_the_concordance() -> None:
    found = SURVIVAL.measured(TABLE, GOOD)
    alone = concordance(DAYS[::2], EVENT[::2], first_photos(GOOD))
    assert found.value == pytest.approx(alone.value) and found.score == pytest.approx(1 - alone.value)
    assert found.standard_error == pytest.approx(alone.standard_error)


def test_cross_validated_risks_are_compared_within_a_fold_alone() -> None:
    fold = folds(TABLE, "survival", 3, seed=0)
    shifted = GOOD + 1000.0 * fold  # each fold's head has a scale of its own: it must not matter
    assert SURVIVAL.measured(TABLE, shifted, fold).value == pytest.approx(SURVIVAL.measured(TABLE, GOOD, fold).value)
    counts = [concordance(DAYS[own][::2], EVENT[own][::2], GOOD[own].reshape(-1, 2).mean(1))
              for own in (fold == each for each in range(3))]  # fmt: skip
    pooled = sum(each.concordant for each in counts) / sum(each.comparable for each in counts)
    assert SURVIVAL.measured(TABLE, GOOD, fold).value == pytest.approx(pooled)


def test_the_error_of_ages_is_the_average_of_bins_and_its_standard_error_that_of_the_bootstrap() -> None:
    shown = AGES + RNG.normal(0, 1 + AGES / 20)
    found = AGE.measured(TABLE, shown)
    alone = age_accuracy(AGES, shown, subjects=np.array(TABLE["subject_id"].to_pylist(), object), bootstraps=2000)
    told = alone.errors.binwise_mae
    assert found.value == found.score == pytest.approx(told.value)
    assert found.standard_error == pytest.approx((told.high - told.low) / 3.92, rel=0.1)
    drawn = AGE.resampled(TABLE, shown, 2000, 0)
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx([told.low, told.high], abs=1e-9)


def test_a_handful_of_people_is_judged_by_the_plain_error_and_nobody_comparable_is_refused() -> None:
    few = TABLE.slice(0, 8)
    assert AGE.measured(few, AGES[:8] + 3).value == pytest.approx(3)
    alive = few.set_column(few.column_names.index("event"), "event", pa.array([0] * 8))
    with pytest.raises(Refused, match="nobody of the people judged can be compared"):
        SURVIVAL.measured(alive, GOOD[:8])


def test_two_settings_are_compared_on_the_same_resamples_of_people() -> None:
    found = compared(SURVIVAL, TABLE, [GOOD], [POOR], samples=400, seed=3)
    alone = compare_concordance(DAYS[::2], EVENT[::2], first_photos(GOOD), first_photos(POOR), samples=400, seed=3)
    assert (found.difference.value, found.difference.low, found.difference.high) == pytest.approx(
        (alone.difference, alone.low, alone.high)
    )
    own = bootstrap_concordance(DAYS[::2], EVENT[::2], first_photos(GOOD), samples=400, seed=3)
    assert (found.first.low, found.first.high) == pytest.approx((own.low, own.high))
    assert found.first_is_better(SURVIVAL) is True
    assert compared(SURVIVAL, TABLE, [POOR], [GOOD], samples=400, seed=3).first_is_better(SURVIVAL) is False
    same = compared(SURVIVAL, TABLE, [GOOD], [GOOD], samples=50, seed=0)
    assert (same.difference.low, same.difference.high, same.first_is_better(SURVIVAL)) == (0, 0, False)


def test_seeds_are_averaged_as_metrics_and_not_as_an_ensemble() -> None:
    noisy = [GOOD + RNG.normal(0, 2, 2 * PEOPLE) for _ in range(4)]
    found = compared(SURVIVAL, TABLE, noisy, [POOR], samples=0, seed=0)
    each = np.mean([SURVIVAL.measured(TABLE, one).value for one in noisy])
    assert found.first.value == pytest.approx(each) and found.first_is_better(SURVIVAL) is None
    assert SURVIVAL.measured(TABLE, np.mean(noisy, axis=0)).value > each + 0.01


def test_a_face_that_does_not_decode_is_left_out_of_both_sides() -> None:
    holes = GOOD.copy()
    holes[:2] = np.nan
    found = compared(SURVIVAL, TABLE, [holes], [POOR], samples=0, seed=0)
    assert found.second.value == pytest.approx(SURVIVAL.measured(TABLE.slice(2), POOR[2:]).value)


def test_people_kept_aside_are_whole_alike_and_the_same_on_every_machine() -> None:
    parts = part(TABLE, "survival", aside=0.25, seed=0)
    assert not set(PERSON[parts.pool]) & set(PERSON[parts.aside])
    assert sorted([*parts.pool, *parts.aside]) == list(range(2 * PEOPLE))
    assert len(parts.aside) == pytest.approx(0.25 * 2 * PEOPLE, abs=6)
    assert EVENT[parts.aside].mean() == pytest.approx(EVENT.mean(), abs=0.03)
    order = RNG.permutation(2 * PEOPLE)
    again = part(TABLE.take(pa.array(order)), "survival", aside=0.25, seed=0)
    assert set(order[again.aside]) == set(parts.aside)
    assert set(part(TABLE, "survival", aside=0.25, seed=1).aside) != set(parts.aside)
    with pytest.raises(Refused, match="at least 8 are needed on either side"):
        part(TABLE.slice(0, 60), "survival", aside=0.25, seed=0)


def run(metric: float | None, seed: int = 1) -> Trial:
    return Trial(0, {}, seed, "done" if metric is not None else "failed", metric, 0.01,
                 None if metric is None else 1 - metric, error="" if metric is not None else "it broke")  # fmt: skip


def test_the_winner_is_chosen_over_seeds_and_of_equals_the_default() -> None:
    lucky = Finalist(7, {"tau": 2.0}, (run(0.9), run(0.6), run(0.6)))
    steady = Finalist(3, {"tau": 1.0}, (run(0.72), run(0.72), run(0.72)))
    broken = Finalist(5, {"tau": 9.0}, (run(0.99), run(None), run(0.99)))
    default = Finalist(0, {}, (run(0.72), run(0.72), run(0.72)))
    assert choose([lucky, steady, broken]).number == 3
    assert choose([lucky, steady, broken, default]).number == 0
    with pytest.raises(Refused, match="every finalist failed with some seed .it broke"):
        choose([broken])


def test_optimism_is_what_it_promised_and_did_not_keep() -> None:
    chosen = Finalist(1, {}, (run(0.75), run(0.77)))
    held = compared(SURVIVAL, TABLE, [GOOD], [POOR], samples=100, seed=0).first
    found = optimism(SURVIVAL, chosen, held)
    assert found.value == pytest.approx(0.76 - held.value)
    assert (found.low, found.high) == pytest.approx((0.76 - held.high, 0.76 - held.low))
    assert optimism(AGE, Finalist(1, {}, (run(5.0),)), held).value == pytest.approx(held.value - 5.0), "an error"
