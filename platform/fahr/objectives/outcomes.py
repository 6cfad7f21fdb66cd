"""What the losses accept: a score for each person, and what became of that person. n = people.

Scores stay tensors where they are. Times, events and the rest become NumPy arrays in float64 on the host, so that equal
times are equal whatever they came as, and sorting them costs the device nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fahr.errors import Refused

Floats = NDArray[np.float64]
Column = Tensor | NDArray[Any] | Sequence[Any]  # (n,) or (n, 1)


@dataclass(frozen=True)
class Outcomes:
    time: Floats  # (n,) >= 0, in the caller's unit
    event: NDArray[np.bool_]  # (n,) True = the event, False = last seen without it
    entry: Floats | None  # (n,) since when a person is observed; None: all from the start


def checked_scores(risk: Tensor) -> Tensor:
    """(n,) or (n, 1) -> (n,) with its graph, in the precision of a loss. Refused: other shapes, NaN and infinity."""
    scores = torch.as_tensor(risk)
    if not (scores.ndim == 1 or (scores.ndim == 2 and scores.shape[1] == 1)):
        raise Refused(
            f"risk of shape {tuple(scores.shape)}: one score a person is needed, (n,) or (n, 1). A difference of (n,) "
            "and (n, 1) makes (n, n): flatten both first."
        )
    return in_precision("risk", scores.reshape(-1))


def in_precision(name: str, values: Tensor) -> Tensor:
    """float64 as it is, everything else in fp32: bf16 has no digits for the difference of two scores. Refused, with the
    row: NaN and infinity."""
    values = values if values.dtype == torch.float64 else values.float()
    if not values.detach().isfinite().all():
        found = values.detach().cpu().numpy()
        bad = ~np.isfinite(found).reshape(len(found), -1).all(1)
        _refuse(name, found, bad, "must be finite", "The model diverged: lower its learning rate.")
    return values


def checked_outcomes(num_people: int, time: Column, event: Column, entry: Column | None = None) -> Outcomes:
    """Refused, with the first bad row: wrong lengths, times that are negative or not finite, events that are not 0 or
    1, people who leave before they enter."""
    times, events = numbers("time", time, num_people), numbers("event", event, num_people)
    _refuse("time", times, ~(np.isfinite(times) & (times >= 0)), "must be finite, 0 or more", "Drop or correct it.")
    _refuse("event", events, (events != 0) & (events != 1), "must be 0 or 1", "1 is death, 0 last seen alive.")
    if entry is None:
        return Outcomes(times, events == 1, None)
    entries = numbers("entry", entry, num_people)
    sound = np.isfinite(entries) & (entries >= 0)
    _refuse("entry", entries, ~sound, "must be finite, 0 or more", "0: observed from the start.")
    late = (entries > 0) & (entries >= times)
    _refuse("entry", entries, late, "must be before the time of that row", "Who was never observed adds nothing.")
    return Outcomes(times, events == 1, entries)


def numbers(name: str, values: Column, num_people: int) -> Floats:
    """(n,) or (n, 1) of anything that holds numbers -> (n,) float64."""
    try:
        array = np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, np.float64)
    except (TypeError, ValueError) as error:
        raise Refused(f"{name}: holds something that is not a number ({error}). Give one number a person.") from error
    return _flat(name, array, num_people)


def codes(name: str, values: Column, num_people: int) -> NDArray[np.int64]:
    """(n,) of any kind of name -> (n,) equal where the names are. Refused: a name that is missing."""
    array = _flat(name, np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values), num_people)
    missing = np.array([one is None or one != one for one in array.tolist()], bool)
    _refuse(name, array, missing, "must name the person", "Give photos of nobody known a name of their own.")
    return np.unique(array, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _flat(name: str, array: NDArray[Any], num_people: int) -> NDArray[Any]:
    if array.shape not in ((num_people,), (num_people, 1)):
        raise Refused(
            f"{name} of shape {array.shape}: does not fit {num_people} people. Give ({num_people},) or "
            f"({num_people}, 1)."
        )
    return array.reshape(-1)


def _refuse(name: str, values: NDArray[Any], bad: NDArray[np.bool_], rule: str, remedy: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
        raise Refused(f"{name} of row {rows[0]}: {values[rows[0]]}{more} {rule}. {remedy}")
