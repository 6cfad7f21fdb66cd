"""Ages: what a head says in years, and how wrong that is. B = faces, K = outputs of the head, k = 0..122 years.

losses = age_loss("l1", outputs, ages)     # (B, K), (B,) in years -> (B,), one loss a face
face_age = years(outputs, "value")         # (B, K) -> (B,) in years

    loss           head          K     the loss of a face, e = years - age
    l1             value         1     |e|: the default, as in FaceAge
    huber          value         1     e^2 / (2 delta) up to |e| = delta, |e| - delta / 2 beyond
    distribution   distribution  123   KL(t || softmax) + |e|, t a Gaussian around the age (Gao et al. 2018, DLDL-v2)
    ordinal        ordinal       122   cross-entropies of "older than k", summed (Niu et al. 2016, OR-CNN)
    gaussian       gaussian      2     -log density of N(mean, sd) at the age (Nix and Weigend 1994)

Everything runs in fp32, or in float64 where the outputs are, also under autocast: bf16 makes 61.3 years 61.25. A face's
loss depends on no other face, so that neither micro-batches nor workers change it. docs/age.md tells which to take.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fahr.errors import Refused, nearest
from fahr.objectives.outcomes import Column, numbers

OLDEST = 122  # years: nobody is known to have grown older
HEADS: dict[str, int] = {"value": 1, "distribution": OLDEST + 1, "ordinal": OLDEST, "gaussian": 2}
LOSSES: dict[str, str] = {
    "l1": "value",
    "huber": "value",
    "distribution": "distribution",
    "ordinal": "ordinal",
    "gaussian": "gaussian",
}
DELTA = 1.0  # years: ages are given in whole years, so an error below one is mostly the label's own rounding
SD = 2.0  # years: what label distribution learning commonly takes where raters gave no spread
SD_RANGE = (1.0, 40.0)  # years, of the gaussian head: no face tells an age to 1, and all ages alike have sd 35
_FIRST_SD = 10.0  # years, the narrowest first distribution: ages far off must start with a probability to learn from

Floats = NDArray[np.float64]


def years(outputs: Tensor, head: str) -> Tensor:
    """(B, K) -> (B,) years, the expectation; never clipped for `value` and `gaussian`, in 0..122 for the others.

    `ordinal` sums the 122 probabilities, where the papers count those above one half: a sum has fractions of a year.
    """
    values = _outputs(outputs, head)
    with torch.autocast(values.device.type, enabled=False):
        if head == "distribution":
            return _expectation(values.softmax(1))
        if head == "ordinal":
            return values.sigmoid().sum(1)
        return values[:, 0]


def gaussian_sd(outputs: Tensor) -> Tensor:
    """(B, 2) of the gaussian head -> (B,) its sd in years, within SD_RANGE whatever the output: no loss can explode by
    an sd near 0, none be bought by one without bound."""
    raw = _outputs(outputs, "gaussian")[:, 1]
    with torch.autocast(raw.device.type, enabled=False):
        least, most = SD_RANGE
        return least + (most - least) * raw.sigmoid()


def age_loss(
    kind: str, outputs: Tensor, ages: Column, *, delta: float | None = None, sd: float | None = None
) -> Tensor:
    """(B, K) of the head LOSSES[kind], (B,) or (B, 1) ages in 0..122 years -> (B,), in years or nats (docs/age.md).

    `delta`, of `huber`: years at which it turns from square to straight (1). `sd`, of `distribution`: years, the width
    of the Gaussian around a label (2). Outputs that are not finite give losses that are not: the step names the faces.
    """
    if kind not in LOSSES:
        raise Refused(f"loss {kind!r}: not one of {', '.join(LOSSES)}.{nearest(kind, LOSSES)}")
    delta = _option("delta", delta, "huber", kind, DELTA)
    sd = _option("sd", sd, "distribution", kind, SD)
    values = _outputs(outputs, LOSSES[kind])
    labels = torch.from_numpy(_labels(ages, len(values))).to(values)
    with torch.autocast(values.device.type, enabled=False):
        if kind == "distribution":
            return _divergence(values, labels, sd) + (years(values, "distribution") - labels).abs()
        if kind == "ordinal":
            # Which part of the year above k was lived: 1[age > k] for whole years, and always of sum `age`.
            older = (labels[:, None] - _ages(values)[:-1]).clamp(0, 1)
            return functional.binary_cross_entropy_with_logits(values, older, reduction="none").sum(1)
        error = values[:, 0] - labels
        if kind == "gaussian":
            spread = gaussian_sd(values)
            return (error / spread).square() / 2 + spread.log() + math.log(2 * math.pi) / 2
        if kind == "huber":  # divided by delta: its slope is that of l1, and so is the learning rate
            return torch.where(error.abs() < delta, error.square() / (2 * delta), error.abs() - delta / 2)
        return error.abs()


def first_biases(head: str, mean_age: float, sd: float) -> Tensor:
    """(K,) fp32: with them, and weights of 0, a head says `mean_age` years of everyone, from the first step on.

    `sd` (years): that of the training ages. The gaussian head starts with it; distribution and ordinal start with a
    Gaussian so wide (10 years at least), cut to 0..122 and tilted until its mean is `mean_age`.
    """
    _known(head)
    if not 0 <= mean_age <= OLDEST:
        raise Refused(f"mean age {mean_age}: must be in 0..{OLDEST} years. Drop the labels outside.")
    if not 0 <= sd < math.inf:
        raise Refused(f"sd {sd} of the ages: must be a finite number of years, 0 or more.")
    if head == "value":
        return torch.tensor([mean_age], dtype=torch.float32)
    if head == "gaussian":
        least, most = SD_RANGE
        share = (min(max(sd, least + 1), most - 1) - least) / (most - least)  # off the ends, where slopes vanish
        return torch.tensor([mean_age, math.log(share / (1 - share))], dtype=torch.float32)
    # The ends themselves would need infinite logits.
    logs = _tilted(min(max(mean_age, 0.25), OLDEST - 0.25), max(sd, _FIRST_SD))
    if head == "distribution":
        return torch.from_numpy(logs).float()
    younger = np.logaddexp.accumulate(logs)[:-1]  # log P(age <= k), k = 0..121
    older = np.logaddexp.accumulate(logs[::-1])[::-1][1:]  # log P(age > k)
    return torch.from_numpy(older - younger).float()


def _tilted(mean: float, sd: float) -> Floats:
    """(123,) log-probabilities proportional to -(k - mean)^2 / (2 sd^2) + tilt x k, of expectation `mean` exactly."""
    ages = np.arange(OLDEST + 1, dtype=np.float64)

    def logs(tilt: float) -> Floats:
        raw = -((ages - mean) ** 2) / (2 * sd**2) + tilt * ages
        return np.asarray(raw - np.logaddexp.reduce(raw))

    low, high = -20.0, 20.0  # an expectation rises with its tilt: halve until floats end
    for _ in range(100):
        tilt = (low + high) / 2
        low, high = (tilt, high) if np.exp(logs(tilt)) @ ages < mean else (low, tilt)
    return logs(tilt)


def _divergence(logits: Tensor, labels: Tensor, sd: float) -> Tensor:
    """(B,) nats: KL of the softmax from a Gaussian around each label, at the ages 0..122 and of sum 1 there."""
    wanted = (-((_ages(logits) - labels[:, None]) / sd).square() / 2).log_softmax(1)
    return (wanted.exp() * (wanted - logits.log_softmax(1))).sum(1)


def _expectation(probabilities: Tensor) -> Tensor:
    return (probabilities * _ages(probabilities)).sum(1)


def _ages(like: Tensor) -> Tensor:
    """(123,)"""
    return torch.arange(OLDEST + 1, dtype=like.dtype, device=like.device)


def _outputs(outputs: Tensor, head: str) -> Tensor:
    """(B, K) in fp32, float64 as it is."""
    _known(head)
    if outputs.ndim != 2 or outputs.shape[1] != HEADS[head]:
        raise Refused(
            f"outputs of shape {tuple(outputs.shape)}: the head {head!r} gives (B, {HEADS[head]}). Pass what "
            "Predictor.outputs gives, of the head that the loss is for."
        )
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _labels(ages: Column, num_faces: int) -> Floats:
    """(B,) in years, on the host: a look at a number on a device would wait for all work before it."""
    labels = numbers("age", ages, num_faces)
    bad = np.flatnonzero(~((labels >= 0) & (labels <= OLDEST)))  # NaN as well
    if len(bad):
        more = f" (and {len(bad) - 1} more rows)" if len(bad) > 1 else ""
        raise Refused(f"age of row {bad[0]}: {labels[bad[0]]}{more} must be in 0..{OLDEST} years. Drop or correct it.")
    return labels


def _known(head: str) -> None:
    if head not in HEADS:
        raise Refused(f"head {head!r}: not one of {', '.join(HEADS)}.{nearest(head, HEADS)}")


def _option(name: str, value: float | None, owner: str, kind: str, default: float) -> float:
    if value is None:
        return default
    if kind != owner:
        raise Refused(f"{name}={value}: the loss {kind!r} has no {name}. Leave it out, or take {owner!r}.")
    if not 0 < value < math.inf:
        raise Refused(f"{name}={value}: must be a finite number of years above 0; the default is {default:g}.")
    return value
