"""Where the faces are in a photo: five detectors behind one protocol.

detector = create_detector("mtcnn")
faces = detector.detect([photo, ...])      # RGB arrays of any sizes -> the faces of each, best first
"""

from typing import Literal

from fahr.errors import Refused, nearest
from fahr.faces.detectors.faces import Detector, Face, given_face
from fahr.faces.detectors.retry import Retrying
from fahr.faces.detectors.views import InputSize

__all__ = ["DETECTORS", "Detector", "Face", "InputSize", "create_detector", "given_face"]

DETECTORS = ("retinaface", "retinaface-mobile", "mtcnn", "yunet", "given")
# Faces of a sixteenth of the longer side and more are found at the first look; the second finds half that size.
# Enlarging a small photo adds nothing to it, but landmarks of these two gain: against those of the mirrored photo,
# YuNet's eyes are off by 9.5 % of the eye distance at 250 px and 3.4 % at 640, MTCNN's by 5.6 % and 4.2 % at 400.
SIZES = {"yunet": InputSize(max_side=640, min_side=640), "mtcnn": InputSize(max_side=640, min_side=400)}
# Above all scores of portraits turned by 90, 180 or 270 degrees, below those of the same portraits upright.
# The weights of `retinaface` were not at hand: its number is a guess on the side of looking more often.
UPRIGHT_SCORES = {"retinaface": 0.998, "retinaface-mobile": 0.9985, "mtcnn": 0.98, "yunet": 0.92}


def create_detector(
    name: str,
    *,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    size: InputSize | None = None,
    retry: bool = True,
) -> Detector:
    """Exactly the detector of that name, or a refusal: which weights lie on this machine never decides.

    `given` finds nothing by itself: make faces from the manifest's landmarks with `given_face`.
    """
    if name not in DETECTORS:
        raise Refused(f"detector {name!r}: there are {', '.join(DETECTORS)}.{nearest(name, DETECTORS)}")
    if name == "given":
        raise Refused("detector 'given' takes landmarks from the manifest and cannot search a photo: name another one.")
    if precision == "bf16" and name in ("mtcnn", "yunet"):
        raise Refused(f"precision 'bf16': {name} runs in fp32 only; retinaface and retinaface-mobile run in both.")
    if device != "cpu" and name == "yunet":
        raise Refused(f"device {device!r}: yunet runs on the CPU only; choose another detector for {device}.")
    found = _create(name, device, precision)
    return Retrying(found, size or SIZES.get(name, InputSize()), upright_score=UPRIGHT_SCORES[name], retry=retry)


def _create(name: str, device: str, precision: Literal["fp32", "bf16"]) -> Detector:
    """Each is imported when it is asked for: nobody waits for the libraries of the others."""
    if name == "retinaface":
        from fahr.faces.detectors import retinaface

        return retinaface.create(device=device, precision=precision)
    if name == "retinaface-mobile":
        from fahr.faces.detectors import mobile

        return mobile.create(device=device, precision=precision)
    if name == "mtcnn":
        from fahr.faces.detectors import mtcnn

        return mtcnn.create(device=device)
    from fahr.faces.detectors import yunet

    return yunet.create()
