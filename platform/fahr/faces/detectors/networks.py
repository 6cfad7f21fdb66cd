"""How a RetinaFace network is run: by torch, many photos at once, or by ONNX Runtime, one by one on a CPU.

Both take photos as they are, whatever their sizes: photos of one exact size share a batch, nothing is padded, and so a
photo's faces do not depend on its neighbours.
"""

import copy
from collections.abc import Sequence
from math import exp
from typing import Literal

import cv2
import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from fahr.faces.detectors.decoding import Anchors, Found, Head, decode, decode_one, join_levels, logit
from fahr.faces.detectors.faces import Face, Floats, Pixels, equal_batches

Precision = Literal["fp32", "bf16"]
CACHED_PX = (
    512 * 1024
)  # of a batch on a CPU: beyond, its layers leave the cache, and four at 640 px take 1.25 times as long
DOUBTFUL = 0.5  # logits: a bf16 score this near to the threshold is looked at again in fp32


class TorchNetwork:
    """`network`: (B, H, W, 3) RGB -> maps of raw values, for `decode`. Its last layers are `decoding.Head`."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        anchors: Anchors,
        *,
        threshold: float,
        device: str = "cpu",
        precision: Precision = "fp32",
        batch: int = 8,
    ) -> None:
        self.name, self.anchors, self.threshold, self.batch = name, anchors, threshold, batch
        self.device = torch.device(device)
        self.exact = network.to(self.device).to(memory_format=torch.channels_last)
        self.quick = _in_bf16(self.exact) if precision == "bf16" else None
        self.seen_twice = 0  # photos that bf16 was not sure about

    @torch.inference_mode()
    def detect(self, photos: Sequence[Pixels]) -> list[list[Face]]:
        found: dict[int, list[Face]] = {}
        most_px = CACHED_PX if self.device.type == "cpu" else None
        for numbers, equal in equal_batches(photos, self.batch, most_px):
            found |= {number: each.faces() for number, each in zip(numbers, self._detect_equal(equal), strict=True)}
        return [found[number] for number in range(len(photos))]

    def _detect_equal(self, photos: Pixels) -> list[Found]:
        batch = torch.from_numpy(photos).to(self.device)
        if self.quick is None:
            return self._run(self.exact, batch.float(), logit(self.threshold))
        least = logit(self.threshold) - DOUBTFUL
        results = self._run(self.quick, batch.bfloat16(), least)
        most = 1 / (1 + exp(-least - 2 * DOUBTFUL))
        again = [number for number, found in enumerate(results) if bool((found.scores_F < most).any())]
        if again:
            exact = self._run(self.exact, batch[again].float(), logit(self.threshold))
            for number, found in zip(again, exact, strict=True):
                results[number] = found
            self.seen_twice += len(again)
        return results

    def _run(self, network: nn.Module, batch: Tensor, least_logit: float) -> list[Found]:
        return decode(join_levels(network(batch)), self.anchors, batch.shape[1], batch.shape[2], least_logit)


def _in_bf16(network: nn.Module) -> nn.Module:
    quick = copy.deepcopy(network).bfloat16()
    for layer in quick.modules():
        if isinstance(layer, Head):
            layer.float()
    return quick


class OnnxNetwork:
    """One photo at a time: here batches gain nothing, neither of small networks nor of large ones.

    `model`: the bytes of an ONNX model, (1, 3, H, W) float32 minus `mean` -> maps (1, h, w, 30) of raw values.
    """

    def __init__(
        self,
        name: str,
        model: bytes,
        anchors: Anchors,
        *,
        threshold: float,
        mean: tuple[float, float, float] = (0, 0, 0),
        threads: int = 1,
    ) -> None:
        self.name, self.anchors, self.threshold = name, anchors, threshold
        self.mean = np.array(mean, np.float32)[:, None, None]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors only
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    @torch.inference_mode()
    def detect(self, photos: Sequence[Pixels]) -> list[list[Face]]:
        return [self._detect(photo) for photo in photos]

    def _detect(self, photo: Pixels) -> list[Face]:
        height, width = photo.shape[:2]
        return decode_one(self.maps(photo), self.anchors, height, width, logit(self.threshold)).faces()

    def maps(self, photo: Pixels) -> list[Floats]:
        """(h, w, 30) a level."""
        planes = np.empty((3, *photo.shape[:2]), np.uint8)
        cv2.split(photo, list(planes))  # quicker than cv2.dnn.blobFromImage, which moves floats instead
        inputs = {"photos": np.subtract(planes, self.mean, dtype=np.float32)[None]}
        return [each[0] for each in self.session.run(None, inputs)]
