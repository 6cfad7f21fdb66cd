"""The pictures of survival analyses: drawn for every sample there can be, and nobody to be picked out of them."""

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes

from fahr.errors import Refused
from fahr.report.survival_charts import (
    curves_chart,
    effects_chart,
    forest_chart,
    incidence_chart,
    schoenfeld_chart,
)
from fahr.survival.competing import cumulative_incidence
from fahr.survival.cox import fit_cox
from fahr.survival.curves import kaplan_meier
from fahr.survival.design import Term
from fahr.survival.models import cox_model
from fahr.survival.proportionality import proportional_hazards
from fahr.survival.rank_tests import log_rank
from fahr.survival.subgroups import Subgroup, subgroup_forest
from survival.outcomes import people


def drawn(made):
    pixels = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None and min(pixels.shape[:2]) > 100 and pixels.std() > 5


def table(n=300):
    time, event, risk, age, _ = people(n, 3, own=0.6)
    sex = np.where(np.arange(n) < 6, "other", np.where(np.arange(n) % 2, "female", "male"))
    return {"follow_up_days": time, "event": event, "risk": risk, "age": age, "sex": sex}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [1, 9, 300])
def test_curves_are_drawn_of_any_number_of_groups_and_people(n):
    time, event, *_ = people(n, n)
    for groups in (1, 3, 6):
        group = np.arange(n) % groups
        curves = {f"g{k}": kaplan_meier(time[group == k], event[group == k] == 1) for k in range(groups)}
        test = log_rank(time, event, group).test if n > groups > 1 and event.any() else None
        drawn(curves_chart(curves, test))
    if event.any():
        drawn(incidence_chart(cumulative_incidence(time, event)))
    with pytest.raises(Refused, match="nobody was followed up"):
        curves_chart({"nobody": kaplan_meier(np.zeros(0), np.zeros(0, bool))})


@pytest.mark.filterwarnings("error")
def test_forests_and_models_are_drawn_and_small_cells_are_only_named(monkeypatch):
    rows, said = table(), []
    write = Axes.text
    monkeypatch.setattr(
        Axes, "text", lambda self, x, y, words, *a, **k: said.append(words) or write(self, x, y, words, *a, **k)
    )
    forest = subgroup_forest(rows, Term("risk", per="sd"), ["sex", Subgroup("age", cuts=(50.0,))], adjust=["age"])
    drawn(forest_chart(forest))
    assert "<10 / <10" in said and said.count("not told") == 1 and "    other" in said
    drawn(effects_chart(cox_model(rows, ["risk", "age", "sex"])))


@pytest.mark.filterwarnings("error")
def test_a_coefficient_along_time_is_a_mean_of_ten_events_at_least(monkeypatch):
    rows, bars = table(), []
    draw = Axes.errorbar
    monkeypatch.setattr(Axes, "errorbar", lambda self, x, *a, **k: bars.append(x) or draw(self, x, *a, **k))
    for n, most in ((300, 12), (40, 4), (12, 0)):
        bars.clear()
        columns = {name: rows[name][:n] for name in ("age", "risk")}
        fit = fit_cox(rows["follow_up_days"][:n], rows["event"][:n] == 1, columns)
        drawn(schoenfeld_chart(proportional_hazards(fit), "age"))
        assert sum(len(each) for each in bars) <= min(most, fit.events // 10)
    with pytest.raises(Refused, match="'agee' is none of age, risk"):
        schoenfeld_chart(proportional_hazards(fit), "agee")
