"""The bootstrap against a loop over resampled rows, judged by lifelines and by the definition."""

import numpy as np
import pytest
from lifelines.utils import concordance_index

from fahr.errors import Refused
from fahr.survival import bootstrap_concordance, concordance
from fahr.survival.plain import draw
from survival.pair_oracle import all_pairs, cohort, random_case, value_of


@pytest.fixture(params=["compiled", "plain"])
def way(request, monkeypatch):
    monkeypatch.setenv("FAHR_NO_NUMBA", "1" if request.param == "plain" else "0")
    return request.param


def drawn_rows(cluster, seed, resample):
    """The rows of a resample, each cluster as often as it was drawn."""
    counts = draw(seed, resample, int(cluster.max()) + 1).astype(int)
    return np.repeat(np.arange(len(cluster)), counts[cluster])


@pytest.mark.parametrize("ties", [False, True])
def test_it_equals_a_lifelines_loop_over_the_same_resamples(way, ties):
    time, event, risk = cohort(120, 3, ties=ties)
    risk = np.round(risk, 6)  # lifelines ties only what is equal
    found = bootstrap_concordance(time, event, risk, samples=60, seed=11)
    for resample, value in enumerate(found.values):
        rows = drawn_rows(np.arange(120), 11, resample)
        assert value == pytest.approx(concordance_index(time[rows], -risk[rows], event[rows]), abs=1e-12)
    assert found.value == concordance(time, event, risk).value
    assert [found.low, found.high] == pytest.approx(np.quantile(found.values, [0.025, 0.975]).tolist())
    assert found.standard_error == pytest.approx(np.std(found.values, ddof=1))


def test_every_resample_is_the_definition_on_its_rows_in_hundreds_of_cases(way):
    rng = np.random.default_rng(12)
    undefined = defined = 0
    for number in range(250):
        case = random_case(rng)
        n = len(case["time"])
        cluster = rng.integers(0, max(1, n // 2), n) if n and rng.random() < 0.5 else None
        found = bootstrap_concordance(**case, clusters=cluster, samples=5, seed=number)
        kept = np.flatnonzero(case.get("weights", np.ones(n)) > 0)
        if not len(kept):
            assert np.isnan(found.value) and found.without_pair == 5
            continue
        rows_of = {name: column[kept] for name, column in case.items()}
        groups = cluster if cluster is not None else case.get("subject", np.arange(n))
        codes = np.unique(first_seen(groups)[kept], return_inverse=True)[1]
        for resample, value in enumerate(found.values):
            rows = drawn_rows(codes, number, resample)
            some = {name: column[rows] for name, column in rows_of.items()}
            # copies of a row are no pair by their equal times; copies of a subject are that subject
            oracle = all_pairs(some["time"], some["event"], some["risk"], some.get("entry"), some.get("subject"))
            expected = value_of(oracle, some.get("weights", np.ones(len(rows))))
            assert value == pytest.approx(expected, abs=1e-12, nan_ok=True)
            undefined += np.isnan(value)
            defined += not np.isnan(value)
        assert found.without_pair == np.isnan(found.values).sum()
    assert undefined > 100 and defined > 300


def first_seen(groups):
    """Where each group appears first: clusters are numbered in that order."""
    return np.array([np.argmax(groups == each) for each in groups], int)


def test_threads_change_nothing_to_the_bit_and_neither_does_the_number_of_resamples(way):
    time, event, risk = cohort(300, 4, ties=True)
    subject = np.arange(300) // 2
    options = {"subject": subject, "entry": time - 1, "weights": 0.1 + np.arange(300) % 7, "seed": 5}
    one = bootstrap_concordance(time, event, risk, samples=83, threads=1, **options)
    for threads in (2, 3):
        other = bootstrap_concordance(time, event, risk, samples=83, threads=threads, **options)
        np.testing.assert_array_equal(one.values, other.values)
    fewer = bootstrap_concordance(time, event, risk, samples=21, threads=2, **options)
    np.testing.assert_array_equal(one.values[:21], fewer.values)
    other = bootstrap_concordance(time, event, risk, samples=83, **{**options, "seed": 6})
    assert not np.isin(one.values, other.values).any()


def test_compiled_and_plain_draw_the_same_and_find_the_same(monkeypatch):
    time, event, risk = cohort(500, 5)
    for kind in ("harrell", "uno"):
        found = []
        for switch in ("0", "1"):
            monkeypatch.setenv("FAHR_NO_NUMBA", switch)
            found.append(bootstrap_concordance(time, event, risk, samples=40, seed=2**63 - 1, kind=kind).values)
        np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-12)


def test_draws_are_uniform_and_resamples_differ():
    counts = np.array([draw(0, resample, 50) for resample in range(4000)])
    assert (counts.sum(1) == 50).all()
    # each count is binomial(50, 1/50): mean 1, variance 0.98, correlation -1/49 between clusters
    assert np.abs(counts.mean(0) - 1).max() < 4.5 * np.sqrt(0.98 / 4000)
    assert counts.var(0).mean() == pytest.approx(0.98, abs=0.02)
    assert np.corrcoef(counts[:-1].ravel(), counts[1:].ravel())[0, 1] == pytest.approx(0, abs=0.01)
    assert len({tuple(each) for each in counts}) == 4000


def test_its_spread_is_that_of_the_jackknife_and_of_new_cohorts():
    values, errors = zip(
        *((f.value, f.standard_error) for f in (concordance(*cohort(200, s)) for s in range(300))), strict=True
    )
    found = bootstrap_concordance(*cohort(200, 1), samples=2000)
    assert found.standard_error == pytest.approx(errors[1], rel=0.1)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)


def test_drawing_subjects_whole_sees_that_copies_bring_no_information():
    # every person photographed four times, with the same outcome and almost the same risk
    time, event, risk = cohort(150, 6)
    rng = np.random.default_rng(6)
    four = {
        "time": np.repeat(time, 4),
        "event": np.repeat(event, 4),
        "risk": np.repeat(risk, 4) + rng.normal(0, 0.01, 600),
    }
    subject = np.repeat([f"p{k}" for k in range(150)], 4)
    single = bootstrap_concordance(time, event, risk).standard_error
    whole = bootstrap_concordance(**four, subject=subject)
    apart = bootstrap_concordance(**four, subject=subject, clusters=np.arange(600))
    assert whole.standard_error == pytest.approx(single, rel=0.12)
    assert apart.standard_error < 0.65 * single  # what forgetting the subject would claim
    assert concordance(**four, subject=subject).standard_error == pytest.approx(whole.standard_error, rel=0.12)


def test_a_cohort_in_which_few_resamples_have_a_pair_says_so():
    found = bootstrap_concordance([1, 2, 3], [1, 0, 0], [2.0, 1.0, 3.0], samples=2000)
    # a pair needs row 0, and one more: 1 - P(no row 0) - P(only row 0) = 1 - 8/27 - 1/27
    assert found.without_pair / 2000 == pytest.approx(9 / 27, abs=0.04)
    assert 0 <= found.low <= found.high <= 1
    empty = bootstrap_concordance([1, 2], [0, 0], [1, 2], samples=10)
    assert empty.without_pair == 10 and np.isnan([empty.value, empty.low, empty.high, empty.standard_error]).all()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"samples": 0}, "samples: 0"),
        ({"confidence": 1.0}, "confidence: 1.0"),
        ({"seed": -1}, "seed: -1"),
        ({"threads": 0}, "threads: 0"),
        ({"clusters": ["a"]}, "clusters: has 1 values for 3 rows"),
        ({"clusters": ["a", "b", None]}, "clusters: row 2 is missing"),
        ({"entry": [0, 9, 0]}, "entry: row 1"),
    ],
)
def test_what_cannot_be_resampled_is_refused(option, sentence):
    with pytest.raises(Refused, match=sentence):
        bootstrap_concordance([1, 2, 3], [1, 0, 1], [3, 2, 1], **option)
