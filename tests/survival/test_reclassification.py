"""Whether people move the right way: against R, the table of the paper, and hand."""

import numpy as np
import pytest

from fahr.errors import Refused
from fahr.survival import discrimination_improvement, net_reclassification
from fahr.survival.plain import draw
from survival.predictions import breast, chance, of_r, planted, standing

PARTS = ("events", "nonevents", "event_up", "event_down", "nonevent_up", "nonevent_down")


@pytest.mark.parametrize(("kind", "cuts"), [("category", (0.3, 0.5)), ("continuous", None)])
def test_it_is_what_r_finds(kind, cuts):
    time, event, before, after, _ = breast()
    asked = of_r()["reclassification"]
    found = net_reclassification(time, event, before, after, 730, cuts=cuts, samples=0)
    for name in PARTS:
        assert getattr(found, name).value == pytest.approx(asked[kind][name], abs=1e-10)
    assert found.total.value == pytest.approx(asked[kind]["events"] + asked[kind]["nonevents"], abs=1e-10)
    if cuts:
        assert [list(row) for row in found.table] == asked["table"]
    else:
        assert found.table is None


def test_the_improvement_is_what_r_finds():
    time, event, before, after, _ = breast()
    found = discrimination_improvement(time, event, before, after, 730, samples=0)
    assert found.value.value == pytest.approx(of_r()["reclassification"]["idi"], abs=1e-10)
    assert found.after.value == pytest.approx(of_r()["reclassification"]["slope_after"], abs=1e-10)
    assert found.value.value == pytest.approx(found.after.value - found.before.value)


def test_it_prints_the_digits_of_pencina_and_others_for_hdl():
    """Table II of Pencina et al. 2008, Statistics in Medicine 27:157: NRI 0.121, z 3.616; nobody is censored."""
    events = np.array([[39, 15, 0], [4, 87, 14], [0, 3, 21]])
    others = np.array([[1959, 142, 0], [148, 703, 31], [1, 25, 72]])
    typical = np.array([0.03, 0.1, 0.3])
    old, new = (each.ravel() for each in np.meshgrid(typical, typical, indexing="ij"))
    before, after = (
        np.concatenate([np.repeat(each, table.ravel()) for table in (events, others)]) for each in (old, new)
    )
    died = np.arange(len(before)) < events.sum()
    found = net_reclassification(np.where(died, 5.0, 11.0), died, before, after, 10, cuts=(0.06, 0.2), samples=0)
    assert f"{found.total.value:.3f}" == "0.121"
    moved = (found.event_up.value + found.event_down.value) / events.sum()
    moved += (found.nonevent_up.value + found.nonevent_down.value) / others.sum()
    assert f"{found.total.value / np.sqrt(moved):.3f}" == "3.616"
    assert found.table == tuple(tuple(row) for row in (events + others).tolist())
    assert (found.people_up, found.people_down) == (29 + 173, 7 + 174)
    assert found.event_up.value == pytest.approx(29 / 183, abs=1e-12)


def test_a_censored_case_by_hand():
    # up: died 1, lost 2, died 3, alive: S(4) = 3/4 * 1/2; down: died 2, three alive: 3/4; all: 7/8 * 6/7 * 4/5
    time, event = [1, 2, 3, 9, 2, 9, 9, 9], [1, 0, 1, 0, 1, 0, 0, 0]
    before = [0.2, 0.2, 0.2, 0.2, 0.6, 0.6, 0.6, 0.6]
    after = [0.3, 0.3, 0.3, 0.3, 0.5, 0.5, 0.5, 0.5]
    found = net_reclassification(time, event, before, after, 4, samples=0)
    left = 7 / 8 * 6 / 7 * 4 / 5
    up, down = 3 / 4 / 2, 3 / 4
    assert found.event_up.value == pytest.approx(0.5 * (1 - up) / (1 - left), abs=1e-15)
    assert found.nonevent_down.value == pytest.approx(0.5 * down / left, abs=1e-15)
    assert found.events.value == pytest.approx(0.5 * (down - up) / (1 - left), abs=1e-15)
    categories = net_reclassification(time, event, before, after, 4, cuts=[0.3, 0.55], samples=0)  # 0.3 is above 0.3
    assert categories.total.value == found.total.value and categories.table == ((0, 4, 0), (0, 0, 0), (0, 4, 0))


def test_with_delayed_entry_people_count_for_what_they_stand_for():
    time, event, score, entry = planted(300, 2, ties=True, delayed=True)
    rng = np.random.default_rng(0)
    old, new = chance(rng.normal(size=len(time)), 0.5), chance(score, 0.5)
    stands = standing(time, event, entry, 0.5)
    found = discrimination_improvement(time, event, old, new, 0.5, entry=entry, samples=0)
    case, control = stands * (time <= 0.5), stands * (time > 0.5)
    gap = new - old
    assert found.value.value == pytest.approx(case @ gap / case.sum() - control @ gap / control.sum(), abs=1e-12)
    moved = net_reclassification(time, event, old, new, 0.5, entry=entry, samples=0)
    up, curve = new > old, 1.0
    for moment in np.unique(time[(event == 1) & (time <= 0.5) & up]):
        at_risk = (up & (entry < moment) & (time >= moment)).sum()
        curve *= 1 - (up & (time == moment) & (event == 1)).sum() / at_risk
    assert moved.event_up.value == pytest.approx(stands[up].sum() * (1 - curve) / case.sum(), abs=1e-12)


def test_no_change_is_no_improvement_and_a_better_model_is_one():
    time, event, score, _ = planted(1_500, 3)
    new = chance(score, 0.5)
    same = net_reclassification(time, event, new, new, 0.5, samples=20)
    assert (same.total.value, same.people_up, same.people_down, same.total.high) == (0, 0, 0, 0)
    assert discrimination_improvement(time, event, new, new, 0.5, samples=0).value.value == 0
    flat = np.full(len(time), 1 - np.exp(-0.5))
    better = net_reclassification(time, event, flat, new, 0.5, samples=100)
    back = net_reclassification(time, event, new, flat, 0.5, samples=100)
    assert better.events.low > 0 and better.nonevents.low > 0
    assert back.total.value == pytest.approx(-better.total.value, abs=1e-12)
    assert discrimination_improvement(time, event, flat, new, 0.5, samples=100).value.low > 0


def test_a_resample_is_the_statistic_of_the_people_drawn():
    time, event, score, _ = planted(150, 4)
    who = np.arange(150) // 3
    old, new = chance(0.3 * score, 0.5), chance(score, 0.5)
    both = [
        (net_reclassification, lambda each: each.values[5], ("event_up", "event_down", "nonevent_up")),
        (discrimination_improvement, lambda each: each.values[5], ("value", "before", "after")),
    ]
    rows = np.repeat(np.arange(150), draw(1, 5, 50)[who].astype(int))
    for way, values, names in both:
        found = way(time, event, old, new, 0.5, subject=who, samples=8, seed=1)
        again = way(time[rows], event[rows], old[rows], new[rows], 0.5, samples=0)
        np.testing.assert_allclose(values(found)[:3], [getattr(again, name).value for name in names], atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cuts": []}, "cuts"),
        ({"cuts": [0.5, 0.2]}, "and rise"),
        ({"cuts": [0.2, 1.0]}, "must lie between 0 and 1"),
        ({"after": np.full(6, 2.0)}, "after: row 0 has 2.0"),
        ({"before": np.full(6, -1.0)}, "before: row 0 has -1.0"),
        ({"horizon": 0.5}, "nobody had the event by 0.5"),
        ({"after": [0.6, 0.6, 0.4, 0.4, 0.4, 0.4], "horizon": 4}, "of the 2 who moved up"),
    ],
)
def test_what_cannot_be_judged_is_refused(changes, sentence):
    given = {
        "time": [1, 2, 3, 9, 9, 9],
        "event": [1, 0, 1, 0, 0, 1],
        "before": np.full(6, 0.5),
        "after": np.full(6, 0.4),
    }
    with pytest.raises(Refused, match=sentence):
        net_reclassification(**{**given, "horizon": 4, **changes})
