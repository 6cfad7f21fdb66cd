"""Any detector, at the size that suits it, and once more in another way for photos that it was not sure of.

No face: looked for again as one that fills the frame (padded), then as one too small for it (twice as large). No face
yet, or none with a score that upright faces have: in the photo turned three ways, and the best score wins. Turning only
where nothing was found would not do: detectors find most faces in photos on their side, with a fair score,
and put the landmarks of an upright face on them.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fahr.faces.detectors import views
from fahr.faces.detectors.faces import Detector, Face, Pixels
from fahr.faces.detectors.views import InputSize, View

Look = Callable[[Pixels], View]


class Retrying:
    """The photos of one call may have any sizes.

    `upright_score`: from here on a face is taken for upright without turning the photo. `retry` False: one look.
    """

    def __init__(self, detector: Detector, size: InputSize, *, upright_score: float, retry: bool = True) -> None:
        self.detector, self.size, self.upright_score, self.retry = detector, size, upright_score, retry

    @property
    def name(self) -> str:
        return self.detector.name

    def detect(self, photos: Sequence[Pixels]) -> list[list[Face]]:
        for photo in photos:
            if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
                raise ValueError(f"a photo has shape {photo.shape} and type {photo.dtype}; (H, W, 3) uint8 is needed")
        found: list[list[Face]] = [[] for _ in photos]
        self._improve(found, photos, [self._whole])
        if self.retry:
            self._improve(found, photos, [self._padded])
            self._improve(found, photos, [self._larger])
            self._improve(found, photos, [self._turned(quarters) for quarters in (1, 3, 2)], self.upright_score)
        return found

    def _whole(self, photo: Pixels) -> View:
        return views.whole(photo, self.size.scale(photo))

    def _padded(self, photo: Pixels) -> View:
        return views.padded(photo, self.size.scale(photo) / 2)

    def _larger(self, photo: Pixels) -> View:
        return views.whole(photo, self.size.scale(photo) * 2)

    def _turned(self, quarters: int) -> Look:
        return lambda photo: views.turned(photo, self.size.scale(photo), quarters)

    def _improve(
        self, found: list[list[Face]], photos: Sequence[Pixels], looks: Sequence[Look], enough: float = 0.0
    ) -> None:
        """`found`, in place: for photos without a face, or with none above `enough`, the best that the looks show."""
        poor = [number for number, faces in enumerate(found) if not faces or faces[0].score < enough]
        if not poor:
            return
        again = [self._look([photos[number] for number in poor], look) for look in looks]
        for number, *results in zip(poor, *again, strict=True):
            found[number] = max([found[number], *results], key=_best_score)

    def _look(self, photos: Sequence[Pixels], look: Look) -> list[list[Face]]:
        seen = [look(photo) for photo in photos]
        found = self.detector.detect([view.pixels for view in seen])
        return [[view.back(face) for face in faces] for view, faces in zip(seen, found, strict=True)]


def _best_score(faces: list[Face]) -> float:
    return faces[0].score if faces else 0.0
