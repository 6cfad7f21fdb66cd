"""Aligned faces -> features, years or risk: the one scorer of jobs and endpoints.

scorer = Scorer(load("runs/age/checkpoint"), device="cuda")
scorer.predict(faces)           # (N, 112, 112, 3) uint8 RGB -> (N,) years; a survival model: risk, higher = worse
scorer.features(faces)          # (N, D) for a model that learns on top
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fahr.errors import Refused
from fahr.models.heads import Predictor
from fahr.models.normalization import unit
from fahr.models.precision import for_inference

Pixels = NDArray[np.uint8]


class Scorer:
    """One model on one device, its backbone in bf16 (or fp32) and its head in fp32.

    Every batch has the same number of rows, the last one filled up: a face gets the same score alone, in a request of
    sixteen, or among millions, since the order of the sums does not depend on its company.
    """

    def __init__(
        self, model: Predictor, *, device: str = "cpu", precision: str = "bf16", batch: int = 16, threads: int = 0
    ) -> None:
        """`threads`: of torch in this process; 0 leaves them."""
        if not isinstance(model, Predictor):
            raise Refused(
                f"task {model.architecture.task!r}: has no head to score with. Fine-tune it to age or survival first, "
                "or load it with task=... and fresh_head=True to make features."
            )
        if batch < 1:
            raise Refused(f"batch {batch}: must be at least 1.")
        if threads:
            torch.set_num_threads(threads)
        self.batch, self.device = batch, torch.device(device)
        self.task = model.architecture.task
        self.size = model.architecture.size
        self.digest: str | None = getattr(model, "digest", None)
        self.model = for_inference(model, self.device, precision)
        config = getattr(model, "config", None)
        self._mean, self._sd = 0.0, 1.0
        if self.task == "survival" and config is not None and config.risk_sd is not None:
            self._mean, self._sd = config.risk_mean or 0.0, config.risk_sd

    def reads(self, face: Pixels) -> bool:
        """Whether the model can say anything of a crop: a flat one has no answer where each crop is normalised by
        itself (FaceAge). Such a crop is refused by `predict` and `features`."""
        return self.model.normalization.reads(face)

    def predict(self, faces: Sequence[Pixels] | Pixels) -> NDArray[np.float64]:
        """(N,) years, not clipped; or risk in standard deviations of the training people (raw where unknown)."""
        return self.from_features(self.features(faces))

    def from_features(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, D) of `features` -> (N,), the head alone, in batches of the same shape too."""
        raw = np.empty(len(features))
        for start in range(0, len(features), self.batch):
            some = features[start : start + self.batch]
            padded = np.zeros((self.batch, features.shape[1]), np.float32)
            padded[: len(some)] = some
            raw[start : start + len(some)] = self._head(padded)[: len(some)]
        return (raw - self._mean) / self._sd

    @torch.inference_mode()
    def _head(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.model.predict(torch.from_numpy(features).to(self.device)).cpu().numpy()

    def features(self, faces: Sequence[Pixels] | Pixels) -> NDArray[np.float32]:
        """(N, D): what the head reads, such as CLS after the last norm."""
        made = [self._features(batch)[:number] for batch, number in self._batches(faces)]
        width = self.model.architecture.width
        return np.concatenate(made) if made else np.zeros((0, width), np.float32)

    @torch.inference_mode()
    def _features(self, batch: Tensor) -> NDArray[np.float32]:
        return self.model.features(self.model.prepare(unit(batch.to(self.device)))).cpu().numpy()

    def _batches(self, faces: Sequence[Pixels] | Pixels) -> Iterator[tuple[Tensor, int]]:
        """(batch, S, S, 3) uint8, and how many of its rows are faces."""
        for start in range(0, len(faces), self.batch):
            some = [self._checked(face, start + n) for n, face in enumerate(faces[start : start + self.batch])]
            padded = np.zeros((self.batch, self.size, self.size, 3), np.uint8)
            padded[: len(some)] = some
            yield torch.from_numpy(padded), len(some)

    def _checked(self, face: Pixels, number: int) -> Pixels:
        wanted = (self.size, self.size, 3)
        if face.shape != wanted or face.dtype != np.uint8:
            raise Refused(
                f"face {number}: is {face.dtype} of shape {face.shape}, this model reads uint8 of shape {wanted}. "
                f"Align the photos with --size {self.size}."
            )
        if not self.reads(face):
            raise Refused(
                f"face {number}: is of one value, {face.flat[0]}, from edge to edge; this model divides a crop by the "
                "spread of its own pixels. Leave the photo out."
            )
        return face
