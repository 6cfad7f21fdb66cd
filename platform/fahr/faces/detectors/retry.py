"""Any detector, at the size that suits it, and once more in another way for photos in which it found nothing.

What it misses, in the order in which it is looked for again: faces that fill the frame (padded), faces too small for it
(twice as large), and photos on their side or upside down (turned; the turn with the best score wins).
"""

from collections.abc import Callable, Sequence

import numpy as np

from fahr.faces.detectors import views
from fahr.faces.detectors.faces import Detector, Face, Pixels
from fahr.faces.detectors.views import InputSize, View

Look = Callable[[Pixels], View]


class Retrying:
    """The photos of one call may have any sizes. `retry` False: one look only."""

    def __init__(self, detector: Detector, size: InputSize, *, retry: bool = True) -> None:
        self.detector, self.size, self.retry = detector, size, retry

    @property
    def name(self) -> str:
        return self.detector.name

    def detect(self, photos: Sequence[Pixels]) -> list[list[Face]]:
        for photo in photos:
            if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
                raise ValueError(f"a photo has shape {photo.shape} and type {photo.dtype}; (H, W, 3) uint8 is needed")
        found = self._look(photos, lambda photo: views.whole(photo, self.size.scale(photo)))
        if self.retry:
            for looks in self._further_looks():
                missing = [number for number, faces in enumerate(found) if not faces]
                if not missing:
                    break
                again = [self._look([photos[number] for number in missing], look) for look in looks]
                for number, *results in zip(missing, *again, strict=True):
                    found[number] = max(results, key=_best_score)
        return found

    def _further_looks(self) -> list[list[Look]]:
        """Steps, each a list of ways to look: a step is taken for the photos that all before left without a face."""
        closer = InputSize(2 * self.size.max_side, 2 * self.size.max_side)
        return [
            [lambda photo: views.padded(photo, self.size.scale(photo) / 2)],
            [lambda photo: views.whole(photo, min(2.0, closer.scale(photo)))],
            [
                lambda photo, quarters=quarters: views.turned(photo, self.size.scale(photo), quarters)  # type: ignore[misc]
                for quarters in (1, 3, 2)
            ],
        ]

    def _look(self, photos: Sequence[Pixels], look: Look) -> list[list[Face]]:
        seen = [look(photo) for photo in photos]
        found = self.detector.detect([view.pixels for view in seen])
        return [[view.back(face) for face in faces] for view, faces in zip(seen, found, strict=True)]


def _best_score(faces: list[Face]) -> float:
    return faces[0].score if faces else 0.0
