"""The pictures of an age model: drawn for every sample there can be, and nobody to be picked out of them."""

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PatchCollection

from biomarkers.accuracy_oracle import sample
from fahr.biomarkers import age_accuracy
from fahr.report import age_charts
from fahr.report.age_charts import ages_chart, agreement_chart, groups_chart, predicted_chart, squares


def one_of_each(n):
    if n < 3:
        return np.full(n, 50.0), np.full(n, 40.0), np.arange(n)
    return sample(n, max(2, n // 2), n)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("n", "bootstraps"), [(1, 0), (2, 20), (30, 20), (400, 0), (3000, 20)])
def test_every_sample_has_its_four_pictures_and_the_same_ones_again(n, bootstraps):
    age, face_age, subject = one_of_each(n)
    sex = np.array(["f", "m", None], object)[subject % 3]
    found = age_accuracy(
        age, face_age, subjects=subject, groups={"sex": sex}, corrected=face_age if n == 400 else None,
        bootstraps=bootstraps, bin_years=1 if n == 3000 else 10,
    )  # fmt: skip
    ways = [
        lambda: predicted_chart(age, face_age, found, subject),
        lambda: agreement_chart(age, face_age, found, subject),
        lambda: ages_chart(found),
        lambda: groups_chart(found),
    ]
    for way in ways:
        made = way()
        pixels = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None and min(pixels.shape[:2]) > 150 and pixels.std() > 5
    assert ways[0]() == predicted_chart(age, face_age, found, subject)


def test_a_picture_without_groups_or_with_one_age_is_drawn():
    found = age_accuracy([50.0] * 20, np.linspace(40, 60, 20), bootstraps=0)
    for made in (groups_chart(found), ages_chart(found), predicted_chart([50.0] * 20, np.linspace(40, 60, 20), found)):
        assert made[:4] == b"\x89PNG"


def test_squares_hold_ten_people_or_are_pale_and_ten_years_wide():
    for n, people in ((30, 30), (300, 20), (2000, 1500), (30_000, 20_000)):
        age, face_age, subject = sample(n, people, n)
        found = squares(age, face_age, subject)
        assert found.people.min(initial=10) >= 10 and 10 % found.side == 0
        assert (found.corner % found.side == 0).all() and (found.pale % 10 == 0).all()
        covered = np.zeros(n, bool)
        for (x, y), people_there in zip(found.corner, found.people, strict=True):
            inside = (age >= x) & (age < x + found.side) & (face_age >= y) & (face_age < y + found.side)
            assert len(set(subject[inside])) == people_there
            covered |= inside
        for x, y in found.pale:
            inside = (age >= x) & (age < x + 10) & (face_age >= y) & (face_age < y + 10)
            assert (inside & ~covered).any()  # somebody is only there
            covered |= inside
        assert covered.all()
    assert found.side == 1  # the last and largest sample allows of the finest squares


def test_one_person_with_a_thousand_photos_is_not_shown_more_closely_than_by_decades():
    rng = np.random.default_rng(0)
    age, face_age = rng.uniform(60, 61, 1000), rng.uniform(70, 71, 1000)
    found = squares(age, face_age, np.zeros(1000, np.int64))
    assert not len(found.corner) and found.pale.tolist() == [[60, 70]]


def test_no_artist_of_a_picture_holds_a_photo(monkeypatch):
    """Lines end at decades, patches are squares: no coordinate is that of somebody's photo, the oldest's included."""
    figures = []
    monkeypatch.setattr(age_charts, "png", lambda figure: figures.append(figure) or b"")
    age, face_age, subject = sample(500, 300, 3)
    age, face_age = 0.97 * age + 0.1234, face_age + 0.0123  # nobody is of a whole number of years by chance
    found = age_accuracy(age, face_age, subjects=subject, bootstraps=20)
    predicted_chart(age, face_age, found, subject)
    agreement_chart(age, face_age, found, subject)
    theirs = np.concatenate([age, face_age, face_age - age, (age + face_age) / 2])
    seen = 0
    for figure in figures:
        axes = figure.axes[0]
        numbers = [line.get_xydata().ravel() for line in axes.lines] + [[*axes.get_xlim(), *axes.get_ylim()]]
        for collection in axes.collections:
            assert isinstance(collection, PatchCollection)
            numbers += [path.vertices.ravel() for path in collection.get_paths()]
            seen += len(collection.get_paths())
        for number in np.concatenate(numbers):
            assert np.abs(theirs - number).min() > 1e-9
        assert len(axes.collections) == 2 and not axes.images
    assert seen > 20


def test_what_is_drawn_of_bands_and_groups_is_what_was_found(monkeypatch):
    figures = []
    monkeypatch.setattr(age_charts, "png", lambda figure: figures.append(figure) or b"")
    age, face_age, subject = sample(900, 500, 4)
    race = np.where(subject < 4, "few", np.where(subject % 3, "more", "third"))
    found = age_accuracy(age, face_age, subjects=subject, groups={"race": race}, corrected=face_age + 1, bootstraps=20)
    ages_chart(found)
    above, below = figures[0].axes
    for axes, raw, corrected in ((above, "mae", "corrected_mae"), (below, "bias", "corrected_bias")):
        for container, name in zip(axes.containers, (raw, corrected), strict=True):
            dots, _, (whiskers,) = container
            told = [getattr(band, name) for band in found.bands]
            np.testing.assert_allclose(dots.get_ydata(), [each.value for each in told])
            ends = np.array([segment[:, 1] for segment in whiskers.get_segments()])
            np.testing.assert_allclose(ends, [[each.low, each.high] for each in told])
    groups_chart(found)
    left = figures[1].axes[0]
    labels = [label.get_text() for label in left.get_yticklabels()]
    shown = [cell for cell in found.groups if not cell.hidden]
    assert labels[0] == "race" and [label.split()[0] for label in labels[1:]] == ["few", "more", "third"]
    np.testing.assert_allclose(left.containers[0][0].get_xdata(), [cell.mae.value for cell in shown])
    assert len(shown) == 1 and [text.get_text() for text in left.texts] == ["<10 people", "withheld"]
    assert "(" not in labels[1] + labels[3] and labels[2] == f"more  ({shown[0].people})"


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    ages_chart(age_accuracy([30.0, 40.0, 50.0], [31.0, 41.0, 51.0], bootstraps=0))
    assert dict(matplotlib.rcParams) == before
