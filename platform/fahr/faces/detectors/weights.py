"""Detector weights by name: found, or downloaded, and checked by their digest before anything is made of them.

Looked for in FAHR_WEIGHTS (a folder or an s3:// URI), then in the cache that the package or torch itself uses, then at
the pinned address. What a machine happens to hold never decides which detector runs, only whether it can.
"""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from fahr import store
from fahr.errors import Refused

VARIABLE = "FAHR_WEIGHTS"
TRIES = 3
FIRST_WAIT_S = 0.5  # doubled after each try
TIMEOUT_S = 30
MAX_BYTES = 512 << 20
_GITHUB = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Weights:
    """`sha256` None: no digest was ever published; see `_recorded`."""

    detector: str
    file: str
    sha256: str | None
    urls: tuple[str, ...]
    cache: Literal["deepface", "torch"]

    def cached(self) -> str:
        """Where the package (or torch) itself would keep it."""
        if self.cache == "deepface":
            return str(Path(os.environ.get("DEEPFACE_HOME") or Path.home()) / ".deepface" / "weights" / self.file)
        return str(Path(torch.hub.get_dir()) / "checkpoints" / self.file)


@dataclass(frozen=True)
class Loaded:
    data: bytes
    sha256: str
    origin: str  # a path or a URI


WEIGHTS = {
    "retinaface": Weights(
        "retinaface",
        "retinaface.pth",
        None,
        (
            "https://github.com/serengil/deepface_models/releases/download/v1.0/retinaface.pth",
            "https://huggingface.co/serengil/deepface/resolve/main/retinaface.pth",
        ),
        "deepface",
    ),
    "retinaface-mobile": Weights(
        "retinaface-mobile",
        "retinaface_mobilenet025.pth",
        "f9780c6e8674a3bf1c0787b30410f10acb0c52fd05e90114cc8a3bd610bd6e4b",
        (
            f"{_GITHUB}/bubbliiiing/retinaface-pytorch/e28a11c31bbc596983576378230cb4d0988162d8"
            "/model_data/Retinaface_mobilenet0.25.pth",
        ),
        "torch",
    ),
    "yunet": Weights(
        "yunet",
        "yunet_n_dynamic.onnx",
        "104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
        (
            f"{_GITHUB}/ShiqiYu/libfacedetection.train/0047ac24afb1a50a0c6105001c89d1b5b805dbf1"
            "/onnx/yunet_n_dynamic.onnx",
        ),
        "torch",
    ),
}


class _Failed(Exception):
    """This place does not have it; the message says why."""


def load(weights: Weights) -> Loaded:
    """The bytes, their digest checked. Raises Refused, with every place that was tried and the three remedies."""
    tried = []
    if folder := os.environ.get(VARIABLE):
        here = store.join(store.absolute(folder), weights.file)
        try:
            return _checked(store.read_bytes(here, MAX_BYTES), weights, here)
        except _Failed as error:  # put there on purpose: going on with other bytes would surprise
            raise Refused(f"{here}: {error} Replace it, or unset {VARIABLE}.") from error
        except (store.Missing, store.Denied, store.TooLarge) as error:
            tried.append(f"{VARIABLE}: {error}")
    else:
        tried.append(f"{VARIABLE} is not set")
    cached = weights.cached()
    try:
        return _checked(store.read_bytes(cached, MAX_BYTES), weights, cached)
    except (_Failed, store.Missing, store.Denied, store.TooLarge) as error:
        tried.append(f"cache: {_with_place(cached, str(error))}")
    for url in weights.urls:
        try:
            loaded = _checked(_download(url), weights, url)
        except _Failed as error:
            tried.append(f"download: {_with_place(url, str(error))}")
        else:
            _keep(cached, loaded, weights)
            return loaded
    raise Refused(_remedies(weights, tried))


def _with_place(place: str, said: str) -> str:
    return said if place in said else f"{place}: {said}"


def _remedies(weights: Weights, tried: list[str]) -> str:
    places = "".join(f"\n  {each}" for each in tried)
    return (
        f"The weights of the detector {weights.detector} are not to be had.{places}\n"
        f"Do one of three things: download {weights.urls[0]} to {weights.cached()} ; or set {VARIABLE} to a folder or "
        f"an s3:// URI that holds it as {weights.file} ; or choose --detector mtcnn, whose weights its package holds."
    )


def _checked(data: bytes, weights: Weights, place: str) -> Loaded:
    digest = hashlib.sha256(data).hexdigest()
    expected = weights.sha256 or _recorded(place)
    if expected and digest != expected:
        raise _Failed(f"{len(data):,} bytes with sha256 {digest}; {expected} is expected: cut short, or another file.")
    return Loaded(data, digest, place)


def _recorded(place: str) -> str | None:
    """The digest written down when a file of no published digest was first downloaded: later damage is noticed."""
    if "://" in place and not store.is_s3(place):
        return None
    try:
        return store.read_bytes(f"{place}.sha256", 1024).decode().split()[0]
    except (store.Missing, store.Denied, IndexError):
        return None


def _keep(cached: str, loaded: Loaded, weights: Weights) -> None:
    """For the next process. Whole or not at all; where the cache cannot be written, it is downloaded each time."""
    try:
        store.write_bytes(cached, loaded.data)
        if weights.sha256 is None:
            store.write_bytes(f"{cached}.sha256", f"{loaded.sha256}  {weights.file}\n".encode())
    except (OSError, store.Denied, store.Missing) as error:
        warnings.warn(f"{cached} could not be written, so it is downloaded every time: {error}", stacklevel=3)


def _download(url: str) -> bytes:
    wait = FIRST_WAIT_S
    for number in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                data = bytes(response.read(MAX_BYTES + 1))
                expected = response.headers.get("Content-Length")
                if expected is not None and len(data) < int(expected):  # read(n) does not complain by itself
                    raise http.client.IncompleteRead(data, int(expected) - len(data))
        except urllib.error.HTTPError as error:
            said = f"the server said {error.code} {error.reason}."
            if error.code not in (408, 429) and error.code < 500:
                raise _Failed(said) from error
        except (OSError, http.client.HTTPException) as error:
            said = f"{type(error).__name__}: {error} ({number} of {TRIES} tries)."
        else:
            if len(data) > MAX_BYTES:
                raise _Failed(f"more than {MAX_BYTES:,} bytes.")
            return data
        if number < TRIES:
            time.sleep(wait)
            wait *= 2
    raise _Failed(said)
