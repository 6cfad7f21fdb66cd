"""The pictures of chances: drawn for every sample there can be, with what they say, and nobody to be picked out."""

import cv2
import numpy as np
import pytest

from fahr.errors import Refused
from fahr.report import prediction_charts
from fahr.report.prediction_charts import calibration_chart, decision_chart
from fahr.survival import decision_curve, judge_calibration
from survival.predictions import chance, planted


def drawn(monkeypatch, way):
    figures = []
    monkeypatch.setattr(prediction_charts, "png", lambda figure: figures.append(figure) or b"")
    way()
    return figures[0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("n", "delayed"), [(25, False), (400, True)])
def test_every_sample_has_its_two_pictures_and_the_same_ones_again(n, delayed):
    time, event, score, entry = planted(n, 1, delayed=delayed)
    chances = chance(score, 0.5)
    found = judge_calibration(time, event, chances, 0.5, entry=entry, samples=20)
    curve = decision_curve(time, event, chances, 0.5, entry=entry, samples=20)
    for way in (lambda: calibration_chart(found), lambda: decision_chart({"face": curve})):
        made = way()
        pixels = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None and min(pixels.shape[:2]) > 150 and pixels.std() > 5
        assert way() == made


@pytest.mark.filterwarnings("error")
def test_samples_without_resamples_without_a_slope_or_with_two_chances_are_drawn():
    time, event, score, _ = planted(60, 2)
    two = judge_calibration(time, event, np.where(score > 0, 0.5, 0.3), 0.5, samples=0)
    assert calibration_chart(two)[:4] == b"\x89PNG"
    parted = judge_calibration(np.arange(1.0, 31), np.ones(30), np.linspace(0.9, 0.1, 30), 20.5, samples=0)
    assert calibration_chart(parted)[:4] == b"\x89PNG"
    assert decision_chart({"a": decision_curve(time, event, chance(score, 0.5), 0.5, samples=0)})[:4] == b"\x89PNG"


def test_the_points_are_groups_of_ten_and_the_curve_is_the_one_that_was_found(monkeypatch):
    time, event, score, _ = planted(95, 3)
    found = judge_calibration(time, event, chance(score, 0.5), 0.5, samples=20)
    axes = drawn(monkeypatch, lambda: calibration_chart(found)).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    points = lines["groups, Kaplan-Meier"]
    assert len(points.get_xdata()) == len(found.groups) == 9
    np.testing.assert_allclose(points.get_ydata(), [each.observed for each in found.groups])
    np.testing.assert_allclose(lines["smooth curve"].get_ydata(), [each.observed.value for each in found.curve])
    assert lines["smooth curve"].get_xdata().max() < chance(score, 0.5).max()


def test_thresholds_that_few_reach_are_not_drawn_and_curves_of_other_people_are_refused(monkeypatch):
    time, event, score, _ = planted(300, 4)
    one = decision_curve(time, event, chance(score, 0.5), 0.5, samples=10)
    line = drawn(monkeypatch, lambda: decision_chart({"face": one})).axes[0].get_lines()[2]
    known = np.isfinite(line.get_ydata())
    np.testing.assert_array_equal(known, np.array(one.flagged) >= 10)
    np.testing.assert_allclose(line.get_ydata()[known], np.array([each.value for each in one.model])[known])
    other = decision_curve(time[:200], event[:200], chance(score[:200], 0.5), 0.5, samples=0)
    with pytest.raises(Refused, match="b: is of 200 people"):
        decision_chart({"a": one, "b": other})
    with pytest.raises(Refused, match="none to draw"):
        decision_chart({})
    with pytest.raises(Refused, match="7 are more than the 6"):
        decision_chart({str(number): one for number in range(7)})
