"""How good a masked autoencoder is, measured on faces of people that it was not trained on.

    train, held_out = sample(train_set, 2000, seed=0), sample(held_out_set, 2000, seed=0)
    judge(model, train, held_out, seed=0).to_json()     # loss, decibels, age probes, subgroups: never of one person

Two models that are judged with the same faces and seed get the same masks, whatever their decoders and the size of the
batches; their losses are comparable where `mask_ratio`, `norm_pix` and `regions` are the same too.
n = faces, S = their side in pixels, D = encoder width, N = patches.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fahr.errors import Refused
from fahr.models import MaskedAutoencoder
from fahr.models.mae import patch_statistics
from fahr.models.masking import Mask
from fahr.models.normalization import normalise, to_bytes
from fahr.models.patches import cut, pixels
from fahr.models.precision import autocast
from fahr.models.reconstructions import Reconstruction
from fahr.training.facesets import BadFace, FaceSet
from fahr.training.packed import Pixels
from fahr.training.probes import Probe, knn_probe, linear_probe
from fahr.training.sampling import Order, permuted
from fahr.training.tasks import keyed_mask

Floats = NDArray[np.float64]
FEWEST = 10  # people: nothing is told of a group of fewer
NEIGHBOURS = 20


@dataclass(frozen=True, eq=False)
class Faces:
    """`labels` may hold "age" (years, NaN = unknown), "sex" and "race" (None = unknown)."""

    pixels: Pixels  # (n, S, S, 3) RGB
    labels: Mapping[str, NDArray[Any]]  # (n,) each
    subjects: NDArray[np.object_]  # (n,) whose face it is

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
            raise Refused(f"faces of type {self.pixels.dtype} and shape {shape}: uint8 and (n, S, S, 3) are needed.")
        lengths = {"subjects": len(self.subjects)} | {name: len(column) for name, column in self.labels.items()}
        for name, length in lengths.items():
            if length != shape[0]:
                raise Refused(f"{name}: {length:,} for {shape[0]:,} faces. Give one for each face.")

    @property
    def ages(self) -> Floats:
        """(n,) years, NaN where nobody knows."""
        return np.asarray(self.labels.get("age", np.full(len(self.pixels), np.nan)), np.float64)


@dataclass(frozen=True)
class Subgroup:
    """Held-out faces that share a value. The figures are None where they would tell of fewer than 10 people."""

    group: str  # "sex", "race", or "age", whose values are decades such as "40-49"
    value: str
    faces: int
    psnr: float | None  # dB, median
    masked_loss: float | None


@dataclass(frozen=True)
class Judgement:
    faces: int
    masked_loss: float  # mean over faces and hidden patches, all of which are painted, whatever `decoded` says
    psnr: float  # dB of the hidden pixels, median over faces
    psnr_of_means: float  # the same of a painter who knows the mean colour of each hidden patch and nothing else
    linear: Probe | None
    knn: Probe | None
    why_no_probe: str  # "" where there are probes
    subgroups: tuple[Subgroup, ...]

    def to_json(self) -> dict[str, Any]:
        """Figures of groups, never one face's. A figure that is not finite is None, since JSON has no word for it."""
        told = {
            "faces": self.faces,
            "masked_loss": self.masked_loss,
            "psnr": self.psnr,
            "psnr_of_means": self.psnr_of_means,
            "linear": _told(self.linear),
            "knn": _told(self.knn),
            "why_no_probe": self.why_no_probe,
            "subgroups": [_finite(asdict(each)) for each in self.subgroups],
        }
        return _finite(told)


def _told(probe: Probe | None) -> dict[str, Any] | None:
    return None if probe is None else _finite({"mae": probe.mae, "r2": probe.r2, "chosen": probe.chosen})


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(each, float) and not math.isfinite(each) else each for key, each in values.items()}


def judge(
    model: MaskedAutoencoder, train: Faces, held_out: Faces, *, seed: int, precision: str = "bf16", batch: int = 64
) -> Judgement:
    """`train` teaches the probes; loss, decibels and errors in years are of `held_out`, whose people are others.

    `seed` decides what is hidden. `batch`: faces that are looked at together. The model is whole (not sharded), on any
    device, and is left as it was; no generator of random numbers is touched.
    """
    _check(model, train, held_out, batch)
    with torch.no_grad(), _in_eval_mode(model):
        losses, psnr, of_means = _painted(model, held_out.pixels, seed, precision, batch)
        why = _why_no_probe(train, held_out)
        linear, knn = (None, None) if why else _probes(model, train, held_out, precision, batch)
    return Judgement(
        faces=len(losses),
        masked_loss=float(losses.mean()),
        psnr=float(np.median(psnr)),
        psnr_of_means=float(np.median(of_means)),
        linear=linear,
        knn=knn,
        why_no_probe=why,
        subgroups=_subgroups(held_out, losses, psnr),
    )


def features(model: MaskedAutoencoder, faces: Pixels, *, precision: str = "bf16", batch: int = 64) -> Floats:
    """(n, 2D): the mean of the N patch tokens, then CLS, both after the last norm, from faces of which all is seen.

    Both, since pretraining asks nothing of CLS directly, and fine-tuning starts from it.
    """
    made = [np.empty((0, 2 * model.architecture.width))]
    with torch.no_grad(), _in_eval_mode(model):
        for images in _batches(model, faces, batch):
            with autocast(images.device, precision):
                tokens = model.encoder(images)
            tokens = tokens.float()
            made.append(torch.cat([tokens[:, 1:].mean(1), tokens[:, 0]], 1).cpu().double().numpy())
    return np.concatenate(made)


@contextmanager
def _in_eval_mode(model: MaskedAutoencoder) -> Iterator[None]:
    """Each module is put back into the mode that it had: some may be frozen in the midst of training."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check(model: MaskedAutoencoder, train: Faces, held_out: Faces, batch: int) -> None:
    side = model.architecture.size
    for name, faces in (("train", train), ("held_out", held_out)):
        if len(faces.pixels) and faces.pixels.shape[1] != side:
            raise Refused(
                f"{name}: faces of {faces.pixels.shape[1]} px, this model reads {side}. Align the photos to {side} px."
            )
    if not len(held_out.pixels):
        raise Refused("held_out: 0 faces, at least 1 is needed to judge by. Align photos of people left out.")
    if batch < 1:
        raise Refused(f"batch {batch}: must be at least 1.")
    if known := len(set(held_out.subjects) & set(train.subjects)):
        raise Refused(
            f"held_out: {known:,} of its people are in train too, none may be: the probes would know them. Split by "
            "person, as the manifest's column `split` does."
        )


def _batches(model: MaskedAutoencoder, faces: Pixels, batch: int) -> Iterator[Tensor]:
    """(B, 3, S, S) normalised, on the model's device."""
    device = next(model.parameters()).device
    for start in range(0, len(faces), batch):
        yield normalise(torch.from_numpy(np.ascontiguousarray(faces[start : start + batch])).to(device))


# Painting


def _painted(
    model: MaskedAutoencoder, faces: Pixels, seed: int, precision: str, batch: int
) -> tuple[Floats, Floats, Floats]:
    """Of each face (n,): the loss over its hidden patches, the dB of their pixels, and the dB of their mean colours."""
    shape, made = model.architecture, []
    for number, images in enumerate(_batches(model, faces, batch)):
        start = number * batch
        positions = torch.arange(start, start + len(images), device=images.device)
        mask, _ = keyed_mask(model, positions, seed)
        with autocast(images.device, precision):
            painted = model.paint(images, mask)
        grid = mask.removed().cpu().numpy().reshape(-1, shape.grid, shape.grid)
        hidden = grid.repeat(shape.patch, 1).repeat(shape.patch, 2)
        seen = Reconstruction(
            faces[start : start + batch], to_bytes(painted), hidden, shape.patch, model.options.norm_pix
        )
        losses = _losses(model, images, painted, mask).cpu().double().numpy()
        made.append((losses, seen.psnr(), seen.psnr_of_means()))
    losses, psnr, of_means = (np.concatenate(each) for each in zip(*made, strict=True))
    return losses, psnr, of_means


def _losses(model: MaskedAutoencoder, images: Tensor, painted: Tensor, mask: Mask) -> Tensor:
    """(B,) the loss that the model is trained by, of a picture that it painted: in patch units with `norm_pix`."""
    truth, made = (pixels(cut(each, model.architecture.patch, mask.masked)).float() for each in (images, painted))
    error = made - truth
    if model.options.norm_pix:
        error = error / patch_statistics(truth)[1]
    return error.square().mean((1, 2))


# Probes


def _why_no_probe(train: Faces, held_out: Faces) -> str:
    for name, faces in (("train", train), ("held_out", held_out)):
        if "age" not in faces.labels:
            return f"{name}: no column age"
        known = faces.ages[np.isfinite(faces.ages)]
        if len(known) < 3:
            return f"{name}: {len(known)} faces with an age, at least 3 are needed"
        if np.ptp(known) == 0:
            return f"{name}: all {len(known):,} faces are of one age"
    return ""


def _probes(model: MaskedAutoencoder, train: Faces, held_out: Faces, precision: str, batch: int) -> tuple[Probe, Probe]:
    """Linear, and the mean of the 20 nearest, or of all where train has fewer."""
    data: list[Floats] = []
    for faces in (train, held_out):
        known = np.isfinite(faces.ages)
        data += [features(model, faces.pixels[known], precision=precision, batch=batch), faces.ages[known]]
    x, y, x_test, y_test = data
    return linear_probe(x, y, x_test, y_test), knn_probe(x, y, x_test, y_test, min(NEIGHBOURS, len(y)))


# Subgroups


def _subgroups(faces: Faces, losses: Floats, psnr: Floats) -> tuple[Subgroup, ...]:
    made: list[Subgroup] = []
    for group in ("sex", "race", "age"):
        if group not in faces.labels:
            continue
        values = _decades(faces.ages) if group == "age" else _words(faces.labels[group])
        told = _told_of(values, faces.subjects)
        for value in sorted(told, key=lambda each: (len(each) if group == "age" else 0, each)):
            of_it = values == value
            number = int(of_it.sum())
            if told[value]:
                made.append(Subgroup(group, value, number, float(np.median(psnr[of_it])), float(losses[of_it].mean())))
            else:
                made.append(Subgroup(group, value, number, None, None))
    return tuple(made)


def _told_of(values: NDArray[np.object_], subjects: NDArray[np.object_]) -> dict[str, bool]:
    """Value -> whether its figures may be told, None being no value.

    Not of fewer than 10 people. And where all who are left out (unknown, or in small groups) are fewer than 10, not of
    the smallest other group either: the mean of the left-out would follow from the total and the means that are told.
    """
    people = {value: len(set(subjects[values == value])) for value in set(values) - {None}}
    told = {value: number >= FEWEST for value, number in people.items()}
    shown = {value for value in told if told[value]}
    left_out = len({who for who, value in zip(subjects, values, strict=True) if value not in shown})
    if shown and 0 < left_out < FEWEST:
        told[min(shown, key=lambda value: (people[value], value))] = False
    return told


def _words(column: NDArray[Any]) -> NDArray[np.object_]:
    """(n,) text, None where nobody knows."""
    return np.array([None if each is None or each != each else str(each) for each in column], object)


def _decades(ages: Floats) -> NDArray[np.object_]:
    """(n,) such as "40-49", None where nobody knows."""
    starts = [int(age // 10) * 10 if math.isfinite(age) else None for age in ages]
    return np.array([None if start is None else f"{start}-{start + 9}" for start in starts], object)


# Choosing faces


def sample(faces: FaceSet, most: int, seed: int) -> Faces:
    """At most `most` faces that decode, with the columns that the face set was opened with.

    People come in an order drawn by `seed`, each equally likely to come early however many photos there are of them.
    Everybody gives one face; only when all have, and more are wanted, those who can give a second one, and so on.
    """
    if most < 1:
        raise Refused(f"most {most}: at least 1 face is needed.")
    turns: Iterable[Iterator[tuple[int, Pixels]]] = (_decoded(faces, rows) for rows in _people(faces, seed))
    taken: list[tuple[int, Pixels]] = []
    while len(taken) < most:
        gave: list[Iterator[tuple[int, Pixels]]] = []
        for photos in turns:
            face = next(photos, None)
            if face is None:
                continue
            taken.append(face)
            gave.append(photos)
            if len(taken) == most:
                break
        if not gave:
            break
        turns = gave
    rows = np.array([row for row, _ in taken], np.int64)
    made = np.empty((len(taken), faces.size, faces.size, 3), np.uint8)
    for number, (_, picture) in enumerate(taken):
        made[number] = picture
    subjects = np.array(faces.table["subject_id"].take(rows).to_pylist(), object)
    return Faces(made, faces.labels(rows), subjects)


def _people(faces: FaceSet, seed: int) -> Iterator[NDArray[np.int64]]:
    """The rows of one person after the other, people and their rows in the order of `seed`."""
    encoded = faces.table["subject_id"].combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    rows = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))
    for person in Order(len(ends), seed).rows(0, len(ends)).tolist():
        own = rows[ends[person - 1] if person else 0 : ends[person]]
        many = len(own) > 1
        yield own[permuted(np.arange(len(own)), len(own), f"judging.{seed}.{person}")] if many else own


def _decoded(faces: FaceSet, rows: NDArray[np.int64]) -> Iterator[tuple[int, Pixels]]:
    for row in rows.tolist():
        try:
            picture = faces.pixels([row])[0]
        except BadFace:
            continue
        yield row, picture
