"""The picture of a run: drawn for every run there can be, the same bytes for the same lines."""

import math
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes

from fahr.report import charts
from fahr.report.charts import SMOOTHED, loss_chart


def step(position: int, loss: float | None = 0.5) -> dict[str, Any]:
    return {"kind": "step", "position": position, "loss": loss, "learning_rate": 1e-3 * position}


BEGIN: dict[str, Any] = {"kind": "begin", "position": 0, "digest": "abc"}


def judged(position: int, loss: float | None = 0.4) -> dict[str, Any]:
    return {"kind": "judged", "position": position, "masked_loss": loss}


RUNS: dict[str, list[dict[str, Any]]] = {
    "just begun": [BEGIN],
    "nothing at all": [],
    "one step": [BEGIN, step(16)],
    "no loss was a number": [BEGIN, step(16, None), {"kind": "skipped", "position": 16, "step": 1, "culprits": [3]}],
    "judged before any line": [BEGIN, judged(16)],
    "a judgement without a number": [BEGIN, step(16), judged(16, None), judged(32)],
    "one line fewer than the mean takes": [step(n) for n in range(1, SMOOTHED)],
    "as many lines as the mean takes": [step(n) for n in range(1, SMOOTHED + 1)],
    "long": [step(n, 1 / n) for n in range(1, 3000)],
    "all the same": [step(16), step(16)],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", RUNS)
def test_every_run_has_a_picture(name: str) -> None:
    made = loss_chart(RUNS[name], "vit_tiny/16")
    pixels = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None and pixels.shape == (440, 700, 3) and pixels.std() > 5
    assert loss_chart(RUNS[name], "vit_tiny/16") == made


def lines(rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is drawn: label -> (x, y); and where vertical lines stand."""
    drawn: list[tuple[list[Axes], Any]] = []
    monkeypatch.setattr(charts, "png", lambda figure: drawn.append((figure.axes, figure)) or b"")
    loss_chart(rows, "title")
    above = drawn[0][0][0]
    found: dict[str, Any] = {line.get_label(): line.get_xydata() for line in above.lines}
    found["below"] = drawn[0][0][1].lines[0].get_xydata()
    found["vertical"] = [line.get_xdata()[0] for line in above.lines if str(line.get_label()).startswith("_")]
    found["title"] = above.get_title(loc="left")
    return found


def test_what_is_drawn_is_what_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    losses = [float(each) for each in rng.random(60)]
    rows = [BEGIN, *(step(16 * n, loss) for n, loss in enumerate(losses, 1)), judged(480, 0.3), judged(960, 0.2)]
    rows[10]["loss"] = None
    rows.insert(11, {"kind": "skipped", "position": 160, "step": 10, "culprits": [1]})
    del losses[9]
    seen = [16 * n for n in range(1, 61) if n != 10]
    found = lines(rows, monkeypatch)
    assert np.array_equal(found["of single steps"], np.column_stack([seen, losses]))
    middles = [(seen[n + SMOOTHED // 2], np.mean(losses[n : n + SMOOTHED])) for n in range(59 - SMOOTHED + 1)]
    assert np.allclose(found[f"mean of {SMOOTHED}"], middles, rtol=1e-12)
    assert np.array_equal(found["held-out faces"], [(480, 0.3), (960, 0.2)])
    assert np.array_equal(found["below"][:, 0], seen) and np.allclose(found["below"][:, 1], 1e-3 * np.array(seen))
    assert found["vertical"] == [160] and found["title"] == "title"


def test_a_judgement_without_a_number_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    found = lines([step(16), judged(16, None), judged(32, 0.1)], monkeypatch)["held-out faces"]
    assert math.isnan(found[0, 1]) and found[1, 1] == 0.1
