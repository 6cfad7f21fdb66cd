"""The model behind LitServe, as its pages show it. Its own module, since the processes that LitServe starts load it."""

import os
from typing import Any

import litserve as ls
import numpy as np
import torch
from fastapi import Request

from fahr.faces.rows import decode
from fahr.models import load
from fahr.scoring import Scorer


class Api(ls.LitAPI):
    def __init__(self, place: str, path: str, batch: int) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=0.005, api_path=path)
        self.place = place

    def setup(self, device: str) -> None:
        torch.set_num_threads(os.cpu_count() or 1)
        self.scorer = Scorer(load(self.place), batch=self.max_batch_size)

    def decode_request(self, request: Request) -> np.ndarray:
        pixels, why = decode(np.frombuffer(request["photo"].file.read(), np.uint8))
        assert pixels is not None, why
        return pixels

    def predict(self, faces: Any) -> list[float]:
        self.scorer.batch = len(faces)
        return [float(each) for each in self.scorer.predict(list(faces))]

    def encode_response(self, output: float) -> dict[str, float]:
        return {"face_age": output}


def serve_with(place: str, port: int, path: str, batch: int) -> None:
    server = ls.LitServer(Api(place, path, batch), accelerator="cpu")
    server.run(host="127.0.0.1", port=port, generate_client_file=False)
