"""`yunet`: OpenCV's small detector (75,856 values), made for faces of about 10 to 300 pixels."""

from collections.abc import Sequence

import cv2
import numpy as np

from fahr.faces.detectors import weights
from fahr.faces.detectors.faces import Detector, Face, Floats, Pixels, best_first

NAME = "yunet"
THRESHOLD = 0.7  # at 0.6 it sees a second face in two of 824 portraits; their true ones score 0.9 or more
OVERLAP = 0.3
MOST_CANDIDATES = 5000


class Yunet:
    """One photo at a time: OpenCV has no other way."""

    name = NAME

    def __init__(self, model: bytes, threshold: float = THRESHOLD) -> None:
        before = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns of a choice that nobody made
        try:
            buffer = np.frombuffer(model, np.uint8)
            self._detector = cv2.FaceDetectorYN.create(
                "onnx", buffer, np.empty(0, np.uint8), (320, 320), threshold, OVERLAP, MOST_CANDIDATES
            )
        finally:
            cv2.utils.logging.setLogLevel(before)

    def detect(self, photos: Sequence[Pixels]) -> list[list[Face]]:
        return [self._detect(photo) for photo in photos]

    def _detect(self, photo: Pixels) -> list[Face]:
        self._detector.setInputSize((photo.shape[1], photo.shape[0]))
        rows = self._detector.detect(np.ascontiguousarray(photo[:, :, ::-1]))[1]
        return [] if rows is None else best_first(_face(row) for row in np.asarray(rows, np.float32))


def _face(row: Floats) -> Face:
    """x, y, width, height, five points, score. It counts eyes as the person does: their right is the viewer's left."""
    box = np.concatenate([row[:2], row[:2] + row[2:4]])
    return Face(box, row[4:14].reshape(5, 2).copy(), float(row[14]))


def create(*, threshold: float = THRESHOLD) -> Detector:
    return Yunet(weights.load(weights.WEIGHTS[NAME]).data, threshold)
