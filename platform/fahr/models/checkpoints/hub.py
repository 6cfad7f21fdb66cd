"""Weights by name: found in FAHR_WEIGHTS or the hub's cache, or downloaded. None of them comes with us.

Their licence was not seen, so whoever uses them has to check their terms.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError

from fahr import store
from fahr.errors import Refused
from fahr.models.checkpoints.reading import MAX_BYTES

VARIABLE = "FAHR_WEIGHTS"


@dataclass(frozen=True)
class Published:
    repository: str
    file: str
    saved_as: str = ""  # in FAHR_WEIGHTS, where the repository's own name for it says too little

    @property
    def name(self) -> str:
        return self.saved_as or self.file


def _timm(model: str) -> Published:
    return Published(f"timm/{model}", "model.safetensors", f"{model}.safetensors")


KNOWN = {
    "fahr-face": Published("fridolin22/FAHR-Face", "fahr_face.pth"),
    "fahr-faceage": Published("fridolin22/FAHR-Face", "fahr_faceage.pth"),
    # ImageNet, for the arm that asks what faces add. All five read pixels normalised as ours are; Apache-2.0.
    "imagenet-vit_tiny-16": _timm("deit_tiny_patch16_224.fb_in1k"),
    "imagenet-vit_small-16": _timm("deit_small_patch16_224.fb_in1k"),
    "imagenet-vit_base-16": _timm("deit_base_patch16_224.fb_in1k"),
    "imagenet-vit_small-8": _timm("vit_small_patch8_224.dino"),
    "imagenet-vit_base-8": _timm("vit_base_patch8_224.dino"),
}
UNPUBLISHED = {"fahr-facesurvival": "Its authors have not released it. Train one: jobs/finetune_survival.py."}


@dataclass(frozen=True)
class Fetched:
    data: bytes
    origin: str  # a path, an s3:// URI, or hf://REPOSITORY@COMMIT/FILE


def fetch(name: str) -> Fetched:
    """The file behind a name of KNOWN. Raises Refused with every place that was tried and the three remedies."""
    known = KNOWN[name]
    tried = []
    if folder := os.environ.get(VARIABLE):
        here = store.join(store.absolute(folder), known.name)
        try:
            return Fetched(store.read_bytes(here, MAX_BYTES), here)
        except (store.Missing, store.Denied, store.TooLarge) as error:
            tried.append(f"{VARIABLE}: {error}")
    else:
        tried.append(f"{VARIABLE} is not set")
    try:
        return _read(_download(known, cached=True), known)
    except LocalEntryNotFoundError:
        tried.append(f"cache of the hub: no {known.file} in {huggingface_hub.constants.HF_HUB_CACHE}")
    try:
        path = _download(known, cached=False)
    except Exception as error:  # its HTTP library, its storage and the system have a kind of failure each
        said = f"{type(error).__name__}: {error}" + (f" ({error.__cause__})" if error.__cause__ else "")
        tried.append(f"download: {' '.join(said.split())[:400]}")
        raise Refused(_remedies(name, known, tried)) from error
    return _read(path, known)


def _download(known: Published, *, cached: bool) -> str:
    """The library's own client: it resumes what broke off, checks the size, and shares its cache with everybody."""
    return huggingface_hub.hf_hub_download(
        known.repository, known.file, local_files_only=cached, endpoint=os.environ.get("HF_ENDPOINT") or None
    )


def _read(path: str, known: Published) -> Fetched:
    """PATH is .../snapshots/COMMIT/FILE, a link to a blob that for large files is named by its SHA-256."""
    data = store.read_bytes(path, MAX_BYTES)
    blob = Path(path).resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name) and hashlib.sha256(data).hexdigest() != blob.name:
        raise Refused(
            f"{blob}: {len(data):,} bytes whose sha256 is not {blob.name}: the cached file is damaged. Delete it and "
            "its link, and load again: it is downloaded anew."
        )
    return Fetched(data, f"hf://{known.repository}@{Path(path).parent.name}/{known.file}")


def _remedies(name: str, known: Published, tried: list[str]) -> str:
    places = "".join(f"\n  {each}" for each in tried)
    as_name = f" as {known.saved_as}" if known.saved_as else ""
    return (
        f"The weights {name!r} are not to be had.{places}\n"
        "Do one of three things: load them once where the hub can be reached (HF_ENDPOINT names a mirror), with the "
        f"same HF_HOME; or download {known.file} of {known.repository} yourself and set {VARIABLE} to the folder or "
        f"s3:// URI that holds it{as_name}; or name a file or folder of your own in place of the name."
    )
