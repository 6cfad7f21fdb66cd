"""Photos -> aligned faces: a deployment of CPUs, so that the networks behind it only ever see faces."""

import os
from collections.abc import Mapping, Sequence
from typing import Literal

import cv2
import numpy as np
import torch

from fahr.cohorts.synthetic import CohortOptions, jpeg, render_face
from fahr.faces import AlignedFace, Aligner, Rejection
from fahr.faces.quality import QualityGate
from fahr.images import DEFAULT_LIMITS, Limits
from fahr.scores.models import Cut
from serve.batching import Batcher, passing
from serve.metrics import Meter

Found = AlignedFace | Rejection
# Grey levels of 255, mean over the built-in face. Photos beside it in a batch move its landmarks by 1e-4 px, and so a
# pixel here and there by one level; a broken device or another cut does far more.
CHANGED = 1.0


class Aligning:
    """One aligner for each cut that the models need. Photos that wait are detected together."""

    def __init__(
        self,
        cuts: Sequence[Cut],
        *,
        batch: int = 8,
        threads: int = 0,
        device: str = "cpu",
        many_faces: Literal["reject", "largest"] = "reject",
        gate: QualityGate | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """`threads`: of torch and OpenCV; 0: as many as this machine has, where Ray gives a replica as many as the CPUs
        it reserves, which are a matter of placing it, not of its speed. The rest as of `Aligner`."""
        threads = threads or os.cpu_count() or 1
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        self._meter = Meter()
        self._batcher: Batcher[tuple[Cut, bytes], Found] = Batcher(
            self._run, batch, device=device, told=self._meter.batch
        )
        self._photo = built_in_photo()

        def made() -> tuple[dict[Cut, Aligner], list[Found]]:
            aligners = {
                cut: Aligner(
                    cut.detector, cut.size, cut.convention, many_faces=many_faces, gate=gate, limits=limits,
                    device=device,
                )
                for cut in cuts
            }  # fmt: skip
            return aligners, _aligned(aligners, [(cut, self._photo) for cut in cuts])

        self._aligners, self._expected = passing(made).result()

    async def align(self, photos: Sequence[bytes], cut: Cut) -> list[Found]:
        return await self._batcher.submit([(cut, photo) for photo in photos])

    async def check_health(self) -> None:
        """The built-in photo, before whatever waits."""
        made = await self._batcher.submit([(cut, self._photo) for cut in self._aligners], first=True)
        for now, before in zip(made, self._expected, strict=True):
            if not (_change(now, before) <= CHANGED):
                told = f"{_told(now)} now, {_told(before)} at the start: {_change(now, before):.2g} grey levels apart"
                raise RuntimeError(f"the built-in photo gives {told}, {CHANGED:g} at most; this replica is replaced")

    async def ready(self) -> bool:
        return True

    def _run(self, photos: list[tuple[Cut, bytes]]) -> list[Found]:
        return _aligned(self._aligners, photos)


def _aligned(aligners: Mapping[Cut, Aligner], photos: list[tuple[Cut, bytes]]) -> list[Found]:
    found: dict[int, Found] = {}
    for cut, aligner in aligners.items():
        mine = [number for number, (wanted, _) in enumerate(photos) if wanted == cut]
        if mine:
            made = aligner.align([photos[number][1] for number in mine])
            found |= dict(zip(mine, made, strict=True))
    return [found[number] for number in range(len(photos))]


def built_in_photo() -> bytes:
    """A JPEG of nobody, 320 px wide."""
    options = CohortOptions(size_px=320)
    drawn = render_face(seed=0, subject=1, photo=0, apparent_age=50.0, frailty=0.0, options=options)
    return jpeg(drawn.image, 90)


def _change(now: Found, before: Found) -> float:
    """Grey levels, mean; infinite for answers of two kinds."""
    if isinstance(now, Rejection) or isinstance(before, Rejection):
        same = isinstance(now, Rejection) and isinstance(before, Rejection) and now.reason == before.reason
        return 0.0 if same else float("inf")
    if now.face.shape != before.face.shape:
        return float("inf")
    return float(np.abs(now.face.astype(np.int16) - before.face).mean())


def _told(found: Found) -> str:
    return found.reason if isinstance(found, Rejection) else f"a face of {found.face.shape[0]} px"
