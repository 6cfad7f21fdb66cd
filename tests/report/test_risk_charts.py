"""The pictures of a risk: drawn for every sample there can be, and nobody to be picked out of them."""

import cv2
import numpy as np
import pytest
from matplotlib.collections import PatchCollection

from fahr.errors import Refused
from fahr.report import risk_charts
from fahr.report.risk_charts import quartile_chart, risk_age_chart
from fahr.survival.quartiles import quartile_hazards
from survival.outcomes import people

CUTS = (-0.7, 0.0, 0.7)


def cohort(n, seed, delayed=False):
    time, event, risk, age, entry = people(n, seed, own=0.6, delayed=delayed)
    return time, event, (risk - risk.mean()) / (risk.std() or 1), age, entry


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("n", "delayed"), [(1, False), (60, True), (3000, False)])
def test_every_sample_has_its_two_pictures_and_the_same_ones_again(n, delayed):
    time, event, risk, age, entry = cohort(n, n, delayed)
    found = quartile_hazards(time, event, risk, CUTS, age=age, entry=entry)
    ways = [
        lambda: quartile_chart(time, event, risk, CUTS, found, entry=entry),
        lambda: risk_age_chart(age, risk, event),
    ]
    for way in ways:
        made = way()
        pixels = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None and min(pixels.shape[:2]) > 150 and pixels.std() > 5
    assert ways[0]() == ways[0]()


@pytest.mark.filterwarnings("error")
def test_samples_of_one_risk_or_without_events_are_drawn():
    time, event, risk, age, _ = cohort(40, 1)
    assert risk_age_chart(age, np.full(40, 0.3), event)[:4] == b"\x89PNG"
    assert risk_age_chart(np.full(40, 50.0), risk, 0 * event)[:4] == b"\x89PNG"
    assert quartile_chart(time, 0 * event, risk, CUTS)[:4] == b"\x89PNG"
    assert quartile_chart(np.full(40, 3.0), event, risk, CUTS)[:4] == b"\x89PNG"  # followed up for three days
    with pytest.raises(Refused, match="no curve to draw"):
        quartile_chart(np.zeros(40), event, risk, CUTS)
    with pytest.raises(Refused, match="of nobody"):
        risk_age_chart([], [], [])


def drawn(monkeypatch, way):
    figures = []
    monkeypatch.setattr(risk_charts, "png", lambda figure: figures.append(figure) or b"")
    way()
    return figures[0]


def test_curves_step_at_the_ends_of_months_and_few_people_are_dotted_and_not_counted(monkeypatch):
    time, event, risk, _, _ = cohort(300, 2)
    figure = drawn(monkeypatch, lambda: quartile_chart(time, event, risk, CUTS))
    above, below = figure.axes
    lines = above.get_lines()
    assert len(lines) == 8
    quarter = 1 + sum((risk > cut).astype(int) for cut in CUTS)
    for number, (dotted, solid) in enumerate(zip(lines[::2], lines[1::2], strict=True), 1):
        years, left = solid.get_xdata(), solid.get_ydata()
        np.testing.assert_allclose(years * 12, np.round(years * 12), atol=1e-9)
        mine = quarter == number
        for year, share in zip(years[::7], left[::7], strict=True):
            watched = (time[mine] >= year * 365.25).sum()
            assert np.isnan(share) == (watched < 10)
        np.testing.assert_array_equal(dotted.get_ydata()[~np.isnan(left)], left[~np.isnan(left)])
    told = [text.get_text() for text in below.texts]
    ticks = above.get_xticks()
    for number in (1, 2, 3, 4):
        for tick in ticks:
            watched = int((time[quarter == number] >= tick * 365.25).sum())
            assert (f"{watched:,}" if watched == 0 or watched > 9 else "<10") in told
    assert not [word for word in told if word.isdigit() and 4 < int(word) < 10]


def test_no_square_holds_fewer_than_ten_people_and_its_share_is_that_of_the_events_in_it(monkeypatch):
    _, event, risk, age, _ = cohort(2500, 3)
    figure = drawn(monkeypatch, lambda: risk_age_chart(age, risk, event))
    left, right = figure.axes[:2]
    counts, shares = (
        next(each for each in axes.collections if isinstance(each, PatchCollection) and each.get_array() is not None)
        for axes in (left, right)
    )
    assert len(counts.get_paths()) > 20
    for path, people_there, share in zip(counts.get_paths(), counts.get_array(), shares.get_array(), strict=True):
        (x, y), (right_end, top) = path.vertices.min(0), path.vertices.max(0)
        inside = (age >= x) & (age < right_end) & (risk >= y - 1e-12) & (risk < top - 1e-12)
        assert inside.sum() == people_there >= 10
        assert share == pytest.approx(event[inside].mean())
    # a person with many photos is one
    many = drawn(
        monkeypatch,
        lambda: risk_age_chart(np.repeat(age[:30], 50), np.repeat(risk[:30], 50), np.repeat(event[:30], 50),
                               np.repeat(np.arange(30), 50)),
    )  # fmt: skip
    assert many.axes[0].get_title(loc="left").startswith("30 people")
    assert len(many.axes) == 2  # nowhere ten of them: no scale of colours
