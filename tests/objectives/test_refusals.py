"""Wrong input is told by name, row, rule and remedy; an option without effect is told too."""

from typing import Any

import numpy as np
import pytest
import torch

from fahr.errors import Refused
from fahr.objectives import cox_loss, discrete_time_loss, ranking_loss

LOSSES: dict[str, Any] = {
    "ranking": ranking_loss,
    "cox": cox_loss,
    "hazard": lambda risk, time, event, **more: discrete_time_loss(
        torch.stack([risk] * 2, 1), time, event, [0, 2, 4], **more
    ),
}
GOOD: dict[str, Any] = {"time": [1.0, 2.0, 3.0], "event": [1, 0, 1]}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"time": [1.0, float("nan"), 3.0]}, r"time of row 1: nan must be finite, 0 or more"),
        ({"time": [1.0, 2.0, -0.5]}, r"time of row 2: -0\.5 must be"),
        ({"time": [float("inf"), 2.0, -1.0]}, r"time of row 0: inf \(and 1 more rows\) must"),
        ({"time": ["soon", 2.0, 3.0]}, r"time: holds something that is not a number"),
        ({"time": [1.0, 2.0]}, r"time of shape \(2,\): does not fit 3 people"),
        ({"time": np.ones((3, 3))}, r"time of shape \(3, 3\)"),
        ({"time": np.ones((1, 3))}, r"time of shape \(1, 3\)"),
        ({"event": [0, 2, 1]}, r"event of row 1: 2\.0 must be 0 or 1"),
        ({"event": [0, 1, 0.5]}, r"event of row 2: 0\.5"),
        ({"event": [None, 1, 0]}, r"event of row 0: nan"),
        ({"event": [1, 0, 1, 0]}, r"event of shape \(4,\)"),
        ({"entry": [0.0, -1.0, 0.0]}, r"entry of row 1: -1\.0 must be finite, 0 or more"),
        ({"entry": [0.0, 0.0, float("nan")]}, r"entry of row 2: nan"),
        ({"entry": [0.0, 2.0, 0.0]}, r"entry of row 1: 2\.0 must be before the time"),
    ],
)
def test_a_bad_outcome_is_refused_with_its_row(loss: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=told):
        LOSSES[loss](torch.zeros(3), **GOOD | changes)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_refused_with_its_row(loss: str, bad: float) -> None:
    with pytest.raises(Refused, match=rf"of row 2: .*{str(bad).strip('-')}.* must be finite"):
        LOSSES[loss](torch.tensor([0.0, 1.0, bad]), **GOOD)


@pytest.mark.parametrize("loss", ["ranking", "cox"])
@pytest.mark.parametrize("shape", [(3, 3), (1, 3), (3, 1, 1), ()])
def test_scores_that_are_not_one_a_person_are_refused(loss: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(Refused, match=r"risk of shape \(.*one score a person"):
        LOSSES[loss](torch.zeros(shape), **GOOD)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "logisitc"}, r"kind 'logisitc': not one of logistic, .* Did you mean 'logistic'\?"),
        ({"tau": 0.0}, r"tau 0\.0: must be above 0"),
        ({"tau": float("nan")}, r"tau nan"),
        ({"margin": -1.0, "kind": "hinge"}, r"margin -1\.0: must be 0 or more"),
        ({"weight": "ipwc"}, r"weight 'ipwc': .*Did you mean 'ipcw'\?"),
        ({"weight": "ipcw"}, r"weight 'ipcw' with censoring=None: .*Give censoring"),
        ({"weight": "gap"}, r"weight 'gap' with gap_unit=None: .*365\.25 for days"),
        ({"weight": "gap", "gap_unit": 0.0}, r"gap_unit=0\.0"),
        ({"weight": "ipcw", "censoring": lambda t: t + 0.5}, r"censoring gave 1\.5 at time 1, row 0: a share between"),
        ({"weight": "ipcw", "censoring": lambda t: t * np.nan}, r"censoring gave nan"),
        ({"weight": "ipcw", "censoring": lambda t: 0.5}, r"censoring gave shape \(\) for 1 times"),
        ({"subject": ["a", None, "b"]}, r"subject of row 1: None must name the person"),
        ({"subject": [1.0, 2.0, float("nan")]}, r"subject of row 2: nan"),
        ({"subject": ["a", "b"]}, r"subject of shape \(2,\)"),
    ],
)
def test_a_bad_option_is_refused_with_what_is_possible(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=told):
        ranking_loss(torch.zeros(3), **GOOD | changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"margin": 2.0}, "margin has no effect with kind='logistic'"),
        ({"gap_unit": 365.25}, "gap_unit has no effect with weight='none'"),
        ({"censoring": np.ones_like}, "censoring has no effect with weight='none'"),
    ],
)
def test_an_option_without_effect_warns_at_the_callers_line(changes: dict[str, Any], told: str) -> None:
    with pytest.warns(UserWarning, match=told) as caught:
        ranking_loss(torch.zeros(3), **GOOD | changes)
    assert caught[0].filename == __file__


def test_other_ways_of_ties_and_edges_that_do_not_rise_are_refused() -> None:
    with pytest.raises(Refused, match=r"ties 'efrom': .*Did you mean 'efron'\?"):
        cox_loss(torch.zeros(3), **GOOD, ties="efrom")
    for edges in ([0, 2, 2], [1, 2], [0], [0, float("nan")], [[0, 1]]):
        with pytest.raises(Refused, match=r"edges .*rising times, the first 0"):
            discrete_time_loss(torch.zeros(3, max(len(edges) - 1, 1)), **GOOD, edges=edges)
    for shape in ((3, 3), (3,), (3, 2, 1)):
        with pytest.raises(Refused, match=r"hazard_logits of shape .*3 edges make \(n, 2\)"):
            discrete_time_loss(torch.zeros(shape), **GOOD, edges=[0, 2, 4])
