"""Cox's partial likelihood against torchsurv, lifelines, and a sum over risk sets in plain Python."""

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter

from fahr.objectives import cox_loss

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own use of torch.jit
    from torchsurv.loss.cox import neg_partial_log_likelihood

Rows = list[float]


def graded(risk: Any, *labels: Any, **options: Any) -> tuple[float, Rows]:
    scores = torch.tensor(risk, dtype=torch.float64, requires_grad=True)
    loss = cox_loss(scores, *labels, **options)
    loss.backward()
    assert scores.grad is not None
    return float(loss.detach()), scores.grad.tolist()


def by_risk_sets(risk: Rows, time: Rows, event: list[int], entry: Rows | None, ties: str) -> tuple[float, Rows]:
    """Event by event: -(r_i - log of the sum over the risk set, less the share of those who died before in the tie)."""
    terms, gradient = [], [0.0] * len(risk)
    events = [i for i in range(len(risk)) if event[i]]
    for i in events:
        tied = [j for j in events if time[j] == time[i]]
        share = tied.index(i) / len(tied) if ties == "efron" else 0.0
        weight = {j: 1 - share for j in tied}
        for j in range(len(risk)):
            if j not in weight and time[j] >= time[i] and (entry is None or entry[j] < time[i]):
                weight[j] = 1.0
        most = max(risk[j] for j in weight)
        total = math.fsum(w * math.exp(risk[j] - most) for j, w in weight.items())
        terms.append(math.log(total) + most - risk[i])
        gradient[i] -= 1 / len(events)
        for j, w in weight.items():
            gradient[j] += w * math.exp(risk[j] - most) / total / len(events)
    return math.fsum(terms) / max(len(events), 1), gradient


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[Rows, Rows, list[int], Rows | None]:
    size = draw(st.integers(0, 9))
    column = {"min_size": size, "max_size": size}
    scale = draw(st.sampled_from([1.0, 10.0, 1e4]))
    time = draw(st.lists(st.sampled_from([1.0, 2.0, 2.5, 3.0, 7.0]), **column))
    early = draw(st.none() | st.lists(st.sampled_from([0.0, 0.3, 0.9]), **column))
    return (
        [scale * each for each in draw(st.lists(st.floats(-1, 1, allow_subnormal=False), **column))],
        time,
        draw(st.lists(st.integers(0, 1), **column)),
        None if early is None else [share * at for share, at in zip(early, time, strict=True)],
    )


@settings(max_examples=200)
@given(cohorts(), st.sampled_from(["efron", "breslow"]))
def test_value_and_gradient_equal_the_sum_over_risk_sets(cohort: Any, ties: str) -> None:
    risk, time, event, entry = cohort
    value, gradient = by_risk_sets(risk, time, event, entry, ties)
    found, slopes = graded(risk, time, event, entry=entry, ties=ties)
    assert found == pytest.approx(value, rel=1e-9, abs=1e-9 * max(map(abs, risk), default=1.0))
    assert slopes == pytest.approx(gradient, rel=1e-9, abs=1e-9)


def cohort_of(size: int, seed: int, distinct: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=size), rng.integers(1, distinct, size).astype(float), rng.integers(0, 2, size)


@pytest.mark.filterwarnings("ignore:Ties in `time`")
@pytest.mark.parametrize("distinct", [4, 30, 10**9])
@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_without_delayed_entry_it_is_torchsurvs(ties: str, distinct: int) -> None:
    risk, time, event = cohort_of(200, 1, distinct)
    scores = torch.tensor(risk, requires_grad=True)
    # torchsurv adds Efron's sums up in the default type; its order of rows must be that of time
    theirs = neg_partial_log_likelihood(
        scores.float(), torch.tensor(event).bool(), torch.tensor(time).float(), ties, reduction="sum"
    ) / int(event.sum())
    theirs.backward()
    found, slopes = graded(risk, time, event, ties=ties)
    assert scores.grad is not None
    assert found == pytest.approx(float(theirs.detach()), rel=2e-6)
    assert slopes == pytest.approx(scores.grad.tolist(), abs=2e-6 * float(scores.grad.abs().max()) + 1e-8)


@pytest.mark.parametrize("delayed", [False, True])
def test_it_is_lifelines_log_likelihood_and_lowest_at_lifelines_coefficients(delayed: bool) -> None:
    """Efron, with ties: at the coefficients that lifelines fits the loss is -log L / D and the gradient vanishes."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(150, 2))
    time = np.ceil(8 * rng.exponential(np.exp(-x @ [0.7, -0.4]))) + 1
    event = (rng.random(150) < 0.7).astype(int)
    table = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "time": time, "event": event})
    entry = None
    if delayed:
        entry = np.floor(time * rng.choice([0, 0.5, 0.9], 150))
        table["entry"] = entry
    fitter = CoxPHFitter()
    fitter.fit(
        table, "time", "event", entry_col="entry" if delayed else None, fit_options={"precision": 1e-12, "step_size": 1}
    )
    beta = torch.tensor(fitter.params_.to_numpy().copy(), requires_grad=True)
    loss = cox_loss(torch.tensor(x) @ beta, time, event, entry=entry)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-fitter.log_likelihood_ / event.sum(), rel=1e-9)
    assert beta.grad is not None and float(beta.grad.abs().max()) < 1e-7
    nowhere = cox_loss(torch.zeros(150, dtype=torch.float64), time, event, entry=entry)
    ratio = 2 * float((nowhere - loss).detach()) * event.sum()
    assert ratio == pytest.approx(fitter.log_likelihood_ratio_test().test_statistic, rel=1e-6)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_gradients_equal_finite_differences_twice(ties: str) -> None:
    risk, time, event = cohort_of(12, 3, 5)
    scores = torch.tensor(risk, requires_grad=True)
    entry = 0.5 * time * (np.arange(12) % 2)
    assert torch.autograd.gradcheck(lambda r: cox_loss(r, time, event, entry=entry, ties=ties), scores)
    assert torch.autograd.gradgradcheck(lambda r: cox_loss(r, time, event, ties=ties), scores)


@pytest.mark.parametrize(("time", "event"), [([], []), ([4.0], [0]), ([1.0, 2.0], [0, 0])])
def test_without_an_event_the_loss_is_exactly_zero_with_a_graph(time: Rows, event: list[int]) -> None:
    assert graded([0.5] * len(time), time, event) == (0.0, [0.0] * len(time))


def test_an_event_that_is_alone_at_risk_teaches_nothing() -> None:
    assert graded([3.0], [4.0], [1]) == (0.0, [0.0])
    loss, gradient = graded([3.0, 1.0], [4.0, 5.0], [1, 1], entry=[0.0, 4.0])  # the other one entered that day
    assert loss == 0 and gradient == [0.0, 0.0]


def test_extreme_scores_columns_shifts_and_autocast() -> None:
    risk, time, event = cohort_of(80, 4, 20)
    value, gradient = graded(risk, time, event)
    assert graded(risk + 100, time, event)[0] == pytest.approx(value, rel=1e-10)
    mix = np.random.default_rng(0).permutation(80)
    mixed = graded(risk[mix], time[mix], event[mix])
    assert mixed[0] == pytest.approx(value) and mixed[1] == pytest.approx(np.array(gradient)[mix].tolist(), abs=1e-12)
    scores = torch.tensor(1e4 * risk).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cox_loss(scores[:, None], time, event)
    loss.backward()
    assert loss.dtype == torch.float32 and bool(loss.isfinite()) and scores.grad is not None
    assert bool(scores.grad.isfinite().all())
    expected, slopes = graded(scores.detach().double().tolist(), time, event)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert scores.grad.tolist() == pytest.approx(slopes, abs=1e-6)
