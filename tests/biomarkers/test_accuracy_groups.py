"""Cells of groups: their figures, and that nothing of a few people can be read or worked out."""

import json
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog

from biomarkers.accuracy_oracle import sample
from fahr.biomarkers import age_accuracy
from fahr.biomarkers.bands import merge_bins
from fahr.biomarkers.groups import cross, hide, read_factor


def people_of(sizes):
    """Members of cells that share nobody."""
    ends = np.cumsum([0, *sizes])
    return [np.arange(a, b, dtype=np.uint32) for a, b in pairwise(ends)]


def cohort(sizes, seed=0):
    """{label: number of people} -> ages, face ages, labels: a photo each."""
    labels = np.repeat(np.array([*sizes], object), [*sizes.values()])
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 90, len(labels))
    return age, age + rng.normal(0, 5, len(labels)), labels


def told(found, names=("race",)):
    return {cell.labels if len(names) > 1 else cell.labels[0]: cell for cell in found.groups if cell.names == names}


def test_cells_have_the_figures_of_their_photos_and_the_unknown_are_a_cell_of_their_own():
    age, face_age, subject = sample(600, 250, 1)
    rng = np.random.default_rng(1)
    race = np.array(["White", "Asian", "Black", None], object)[rng.integers(0, 4, 250)][subject]
    tone = rng.integers(8, 11, 250)[subject]
    found = age_accuracy(
        age, face_age, subjects=subject, groups={"race": race, "tone": tone}, pairs=[("race", "tone")], bootstraps=0
    )
    assert [cell.labels[0] for cell in found.groups if cell.names == ("race",)] == ["Asian", "Black", "White", None]
    assert [cell.labels[0] for cell in found.groups if cell.names == ("tone",)] == ["8", "9", "10"]  # as numbers
    assert len(told(found, ("race", "tone"))) == 12
    for cell in found.groups:
        inside = np.ones(600, bool)
        for name, label in zip(cell.names, cell.labels, strict=True):
            column = {"race": race, "tone": tone}[name]
            inside &= np.array([(None if each is None else str(each)) == label for each in column])
        assert cell.hidden is None and (cell.n, cell.people) == (inside.sum(), len(set(subject[inside])))
        assert cell.mae.value == pytest.approx(np.abs(face_age - age)[inside].mean())
        assert cell.bias.value == pytest.approx((face_age - age)[inside].mean())
        assert cell.slope.value == pytest.approx(stats.linregress(age[inside], face_age[inside]).slope)
    assert [gap.names for gap in found.gaps] == [("race",), ("tone",), ("race", "tone")]
    for gap in found.gaps:
        shown = [cell.mae.value for cell in found.groups if cell.names == gap.names and None not in cell.labels]
        assert gap.gap.value == pytest.approx(max(shown) - min(shown))


def test_nan_and_none_are_unknown():
    age, face_age, _ = cohort({"all": 40})
    tone = np.where(np.arange(40) < 20, np.nan, 3.0)
    cells = told(age_accuracy(age, face_age, groups={"race": tone}, bootstraps=0))
    assert cells[None].n == 20 and cells["3.0"].n == 20


def test_people_are_counted_not_photos():
    age, face_age, race = cohort({"a": 40, "b": 100})
    subject = np.concatenate([np.arange(40) % 9, 100 + np.arange(100)])
    cells = told(age_accuracy(age, face_age, subjects=subject, groups={"race": race}, bootstraps=0))
    assert cells["a"].hidden == "<10" and cells["b"].hidden == "withheld"
    subject[0] = 50
    cells = told(age_accuracy(age, face_age, subjects=subject, groups={"race": race}, bootstraps=0))
    assert cells["a"].people == 10 and cells["a"].mae.value is not None


def test_a_hidden_cell_takes_the_smallest_shown_one_with_it():
    for sizes, hidden in (
        ({"a": 9, "b": 10, "c": 200, "d": 50}, {"a": "<10", "b": "withheld"}),
        ({"a": 3, "b": 4, "c": 200, "d": 50}, {"a": "<10", "b": "<10", "d": "withheld"}),  # together they are seven
        ({"a": 6, "b": 4, "c": 200, "d": 50}, {"a": "<10", "b": "<10"}),
        ({"a": 10, "b": 20}, {}),
        ({"a": 1, "b": 500}, {"a": "<10", "b": "withheld"}),
        ({"a": 5}, {"a": "<10"}),
        ({"a": 40, None: 2, "b": 60}, {None: "<10", "a": "withheld"}),
    ):
        age, face_age, race = cohort(sizes)
        found = age_accuracy(age, face_age, groups={"race": race}, bootstraps=20)
        cells = told(found)
        assert {label: cell.hidden for label, cell in cells.items() if cell.hidden} == hidden
        for cell in cells.values():
            figures = {cell.n, cell.people, cell.mae, cell.bias, cell.slope}
            assert figures == {None} if cell.hidden else None not in figures
        shown = [cell for cell in cells.values() if cell.hidden is None and None not in cell.labels]
        assert len(found.gaps) == (len(shown) > 1)


def test_no_number_of_a_hidden_cell_is_in_any_output():
    age, face_age, race = cohort({"few": 9, "next": 13, "a": 200, "b": 77})
    face_age[:9] = age[:9] + 34.5678
    found = age_accuracy(age, face_age, groups={"race": race}, bootstraps=20)
    error = np.abs(face_age - age)
    for inside in (race == "few", race == "next"):
        value = error[inside].mean()
        numbers = [
            number for row in found.table().to_pylist() for number in row.values() if isinstance(number, int | float)
        ]
        assert not any(abs(number - value) < 1e-3 for number in numbers)
        assert inside.sum() not in numbers
        assert f"{value:.2f}" not in "\n".join(found.lines()) and f"{value:.4f}" not in json.dumps(found.to_json())
    assert "<10" in "\n".join(found.lines()) and "withheld" in "\n".join(found.lines())


def test_public_data_may_show_everything():
    age, face_age, race = cohort({"a": 1, "b": 500})
    found = age_accuracy(age, face_age, groups={"race": race}, bootstraps=20, fewest=1)
    cells = told(found)
    assert cells["a"].mae.value == pytest.approx(abs(face_age - age)[0]) and cells["a"].mae.low is None
    assert cells["b"].mae.low is not None and found.gaps[0].gap.low is None


def reach(cell, hidden, lines, sizes):
    """The least and the most that a hidden cell's sum can be, given the lines' totals and that no sum is negative."""
    unknown = sorted(hidden)
    rows = [[float(each in line) for each in unknown] for line in lines]
    totals = [sum(sizes[each] for each in unknown if each in line) for line in lines]
    ends = []
    for sign in (1, -1):
        cost = [sign * float(each == cell) for each in unknown]
        solved = linprog(cost, A_eq=rows, b_eq=totals, bounds=(0, None))
        assert solved.status == 0
        ends.append(sign * solved.fun)
    return ends


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_no_small_cell_of_a_table_follows_from_its_margins(height, width, data):
    """Judged by linear programming: given all that is shown, a small cell's sum may still be this or that."""
    sizes = data.draw(
        st.lists(st.sampled_from([0, 1, 4, 9, 10, 11, 30, 500]), min_size=height * width, max_size=height * width)
    )
    places = [(k // width, k % width) for k, size in enumerate(sizes) if size]
    sizes = [size for size in sizes if size]
    if sum(sizes) < 20:  # nothing but the sample itself can be shown
        return
    sides = [
        [tuple(k for k, place in enumerate(places) if place[side] == each) for each in range(5)] for side in (0, 1)
    ]
    margins = [[line for line in lines if line] for lines in sides]
    shown, forced = [tuple(range(len(places)))], set()
    for lines in margins:
        gone, _ = hide(people_of([sum(sizes[k] for k in line) for line in lines]), [range(len(lines))], 10)
        forced.update(k for number in gone for k in lines[number])
        shown += [line for number, line in enumerate(lines) if number not in gone]
    hidden, safe = hide(people_of(sizes), shown, 10, sorted(forced))
    small = {k for k, size in enumerate(sizes) if size < 10}
    assert small <= hidden and forced <= hidden
    for line in shown:
        assert not 0 < sum(sizes[k] for k in line if k in hidden) < 10
    if not safe:  # empty cells are listed as hidden then: nobody knows that they are empty
        labels = [{place[side] for place in places} for side in (0, 1)]
        empty = [place for place in product(*labels) if place not in places]
        assert len(hidden) == len(sizes) and empty
        lines = [shown[0]] + [
            [k for k, place in enumerate(places + empty) if place[side] == places[line[0]][side]]
            for side, lines in enumerate(margins)
            for line in lines
            if line in shown[1:]
        ]
        shown = [[*range(len(places + empty))], *lines[1:]]
        sizes += [0] * len(empty)
        hidden = {*range(len(sizes))}
    for cell in small:
        low, high = reach(cell, hidden, shown, sizes)
        assert high - low > 0.5, (places, sizes, hidden)


def test_pairs_hide_the_cells_of_hidden_labels_and_what_would_tell_of_them():
    rng = np.random.default_rng(2)
    race = np.repeat(np.array(["a", "b", "c", "d"], object), [4, 60, 300, 300])
    sex = rng.choice(np.array(["f", "m"], object), 664)
    site = np.where(np.arange(664) == 400, "small", "large")
    age = rng.uniform(20, 90, 664)
    found = age_accuracy(
        age, age + rng.normal(0, 5, 664), groups={"sex": sex, "race": race, "site": site},
        pairs=[("sex", "race"), ("race", "site")], bootstraps=0,
    )  # fmt: skip
    assert {label for label, cell in told(found).items() if cell.hidden} == {"a", "b"}
    both = told(found, ("sex", "race"))
    assert {labels for labels, cell in both.items() if cell.hidden} == {(s, r) for s in "fm" for r in "ab"}
    # both sites are hidden by themselves, so every cell of theirs is
    assert all(cell.hidden for cell in told(found, ("race", "site")).values())


def test_empty_cells_are_listed_where_knowing_them_empty_would_tell():
    """a: 10 women and 1 man; b: 10 men. All of a less all women is that man, unless some women may be of b."""
    race = np.array(["a"] * 11 + ["b"] * 10)
    sex = np.array(["f"] * 10 + ["m"] * 11)
    age = np.linspace(20, 80, 21)
    found = age_accuracy(age, age + 1, groups={"sex": sex, "race": race}, pairs=[("sex", "race")], bootstraps=0)
    assert not any(cell.hidden for cell in found.groups if len(cell.names) == 1)
    hidden = {labels: cell.hidden for labels, cell in told(found, ("sex", "race")).items()}
    assert hidden == {("f", "a"): "withheld", ("m", "a"): "<10", ("m", "b"): "withheld", ("f", "b"): "<10"}


def test_cross_makes_the_cells_that_somebody_is_in():
    one = read_factor("x", ["b", "a", None, "b"], 4)
    both = cross(one, read_factor("y", [1, 1, 2, 2], 4))
    assert [both.labels[each] for each in both.code] == [("b", "1"), ("a", "1"), (None, "2"), ("b", "2")]
    assert len(both.labels) == 4 and both.names == ("x", "y")


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_a_column_of_which_nothing_is_known_is_one_cell_unknown(nothing):
    one = read_factor("x", np.array([nothing] * 3, object), 3)
    assert one.labels == ((None,),) and one.code.tolist() == [0, 0, 0]


def test_small_bins_of_age_join_their_neighbours():
    def merged(sizes, counted=None):
        return merge_bins(people_of(sizes), counted or [size >= 10 for size in sizes], 10)

    assert merged([50, 60, 70]) == [[0], [1], [2]]
    # 80-89 would be the one counted bin in a band: the bin-wise MAE less the others would tell it, and then the last
    assert merged([50, 60, 40, 9]) == [[0], [1, 2, 3]]
    assert merged([5, 5, 40, 50]) == [[0, 1], [2], [3]]
    assert merged([3, 12, 12, 3, 40]) == [[0, 1], [2, 3], [4]]
    assert merged([3]) == [[0]]
    assert merged([3, 2]) == [[0, 1]]
    # the same nine people in both decades
    assert merge_bins([np.arange(9, dtype=np.uint32)] * 2 + [np.arange(50, 99, dtype=np.uint32)], [True] * 3, 10) == [
        [0, 1, 2]
    ]


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_bands_are_whole_ordered_and_large_enough(sizes):
    bands = merge_bins(people_of(sizes), [size >= 10 for size in sizes], 10)
    assert [each for band in bands for each in band] == [*range(len(sizes))]
    if sum(sizes) >= 10:
        assert all(sum(sizes[each] for each in band) >= 10 for band in bands)
    inside = [each for band in bands if len(band) > 1 for each in band if sizes[each] >= 10]
    assert len(inside) != 1 or len(bands) == 1


def test_a_merged_band_is_labelled_by_its_ends_and_a_year_by_itself():
    age = np.concatenate([np.full(30, 62.0), np.full(20, 75.0), np.full(4, 88.0), np.full(25, 41.0), np.full(25, 51.0)])
    found = age_accuracy(age, age + 1, bootstraps=0)
    assert [band.label for band in found.bands] == ["40-49", "50-59", "60-89"]
    assert (found.bands[2].first_year, found.bands[2].last_year, found.bands[2].n) == (60, 89, 54)
    assert found.small_bins == ("80-89",)
    single = age_accuracy([40.5] * 10 + [41.0] * 10, [41.0] * 20, bootstraps=0, bin_years=1)
    assert [band.label for band in single.bands] == ["40", "41"]
