"""Weights by name: from where the user says, the hub's cache or a hub; a loopback server speaks the hub's protocol."""

import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import VisionTransformer

from fahr import store
from fahr.errors import Refused
from fahr.models import Architecture, Predictor, load
from fahr.models.checkpoints.hub import KNOWN, fetch
from fahr.models.normalization import IMAGENET_MEAN, IMAGENET_STD

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PATHS = {f"/fridolin22/FAHR-Face/resolve/main/{name}": name for name in ("fahr_face.pth", "fahr_faceage.pth")}
IMAGENET = "deit_tiny_patch16_224.fb_in1k"
PATHS[f"/timm/{IMAGENET}/resolve/main/model.safetensors"] = "model.safetensors"


def age_model() -> Any:
    torch.manual_seed(0)
    return VisionTransformer(img_size=16, patch_size=8, embed_dim=64, depth=1, num_heads=1, num_classes=1).eval()


def age_file() -> bytes:
    file = io.BytesIO()
    torch.save({"model_state_dict": age_model().state_dict(), "optimizer_state_dict": {"state": {}}}, file)
    return file.getvalue()


class Hub(http.server.ThreadingHTTPServer):
    """`how`: "well", or what goes wrong."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.started_at: list[int] = []  # the first byte of each GET
        self.how, self.data = "well", age_file()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.server.seen.append(f"{self.command} {self.path.rpartition('/')[2]}")
        how, data = self.server.how, self.server.data
        if self.path not in PATHS or how in ("no repository", "no file", "closed"):
            code = {"no repository": "RepoNotFound", "closed": "GatedRepo"}.get(how, "EntryNotFound")
            self.reply(403 if how == "closed" else 404, b"", {"X-Error-Code": code, "X-Error-Message": f"It is {how}."})
            return
        start = 0
        if body and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        if body:
            self.server.started_at.append(start)
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        sent = data[start:]
        if body and how == "short":
            sent = sent[: len(sent) // 2]
        if body and how == "other bytes":
            sent = bytes(len(sent))
        again = sum(each.startswith("GET") for each in self.server.seen) > 1
        broken = body and (how == "always cut" or (how == "cut once" and not again))
        self.reply(206 if start else 200, sent, headers, part=len(sent) // 2 if broken else None, body=body)

    def reply(
        self, status: int, data: bytes, headers: dict[str, str], part: int | None = None, body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data[:part])
        if part is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def alone(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, our hub for the real one, and no waiting between tries."""
    monkeypatch.delenv("FAHR_WEIGHTS", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    huggingface_hub.close_session()  # it remembers the proxies of the environment
    yield tmp_path / "cache"
    huggingface_hub.close_session()


def ages(model: Any) -> torch.Tensor:
    with torch.no_grad():
        made: torch.Tensor = model(torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16))
    return made.flatten()


def test_a_name_is_downloaded_once_and_gives_the_ages_of_the_file(hub: Hub) -> None:
    model = load("fahr-faceage")
    assert isinstance(model, Predictor)
    torch.testing.assert_close(ages(model), ages(age_model()), atol=1e-5, rtol=1e-5)
    assert model.digest == f"sha256:{hashlib.sha256(hub.data).hexdigest()}"
    assert model.config.origin == f"hf://fridolin22/FAHR-Face@{COMMIT}/fahr_faceage.pth"
    assert hub.seen == ["HEAD fahr_faceage.pth", "GET fahr_faceage.pth"]
    assert torch.equal(ages(load("fahr-faceage")), ages(model))
    assert len(hub.seen) == 2


def test_the_foundation_model_has_a_file_of_its_own(hub: Hub) -> None:
    load("fahr-face", task="age", fresh_head=True)
    assert hub.seen == ["HEAD fahr_face.pth", "GET fahr_face.pth"]


def test_a_download_cut_in_the_midst_goes_on_from_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is kept of a download comes in these
    hub.how = "cut once"
    assert load("fahr-faceage").digest == f"sha256:{hashlib.sha256(hub.data).hexdigest()}"
    assert [each.split()[0] for each in hub.seen] == ["HEAD", "GET", "GET"]
    assert 0 < hub.started_at[-1] < len(hub.data)


REMEDIES = ("HF_ENDPOINT", "FAHR_WEIGHTS", "fahr_faceage.pth of fridolin22/FAHR-Face", "of your own")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no repository", "RepositoryNotFoundError"),
        ("no file", "EntryNotFoundError"),
        ("closed", "GatedRepoError"),
        ("short", "Consistency check failed"),
        ("always cut", "RemoteProtocolError"),
    ],
)
def test_what_cannot_be_had_is_refused_with_three_remedies_and_leaves_nothing(
    hub: Hub, alone: Path, how: str, said: str
) -> None:
    hub.how = how
    with pytest.raises(Refused) as refusal:
        load("fahr-faceage")
    message = str(refusal.value)
    for part in (said, "FAHR_WEIGHTS is not set", str(alone), *REMEDIES):
        assert part in message, message
    assert not [path for path in alone.rglob("*.pth")]
    hub.how = "well"
    assert load("fahr-faceage").digest is not None  # nothing half done is in the way


def test_bytes_of_another_digest_are_refused_by_name(hub: Hub, alone: Path) -> None:
    hub.how = "other bytes"
    with pytest.raises(Refused, match=r"whose sha256 is not [0-9a-f]{64}: the cached file is damaged. Delete it"):
        load("fahr-faceage")


def test_a_cached_file_that_was_damaged_is_refused_by_name(hub: Hub, alone: Path) -> None:
    load("fahr-faceage")
    (link,) = alone.rglob("fahr_faceage.pth")
    blob = link.resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(Refused, match="the cached file is damaged") as refusal:
        load("fahr-faceage")
    assert str(blob) in str(refusal.value)
    blob.unlink()
    link.unlink()
    assert load("fahr-faceage").digest is not None


def test_offline_the_cache_serves_and_without_it_the_refusal_says_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Refused, match="offline mode is enabled"):
        load("fahr-faceage")
    assert not hub.seen
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    load("fahr-faceage")
    requests = list(hub.seen)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load("fahr-faceage").digest is not None and hub.seen == requests


def test_nobody_listening_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(Refused, match="Connection refused") as refusal:
        load("fahr-faceage")
    assert all(part in str(refusal.value) for part in REMEDIES)


def test_a_folder_or_bucket_named_by_the_user_comes_first(
    folder: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = store.join(folder, "fahr_faceage.pth")
    store.write_bytes(place, hub.data)
    monkeypatch.setenv("FAHR_WEIGHTS", folder)
    model = load("fahr-faceage")
    assert model.config.origin == place and not hub.seen


def test_wrong_bytes_where_the_user_pointed_are_refused_not_passed_over(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fahr_faceage.pth").write_bytes(hub.data[:-100])
    monkeypatch.setenv("FAHR_WEIGHTS", str(tmp_path))
    with pytest.raises(Refused, match=r"fahr_faceage\.pth: is no whole file"):
        load("fahr-faceage")
    assert not hub.seen


def test_a_folder_that_lacks_the_file_is_passed_over_and_named_in_a_refusal(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAHR_WEIGHTS", str(tmp_path))
    assert load("fahr-faceage").digest is not None
    hub.how = "no file"
    with pytest.raises(Refused, match=r"FAHR_WEIGHTS: .*fahr_face\.pth: no such file"):
        load("fahr-face")


def test_the_environment_alone_names_hub_and_cache(hub: Hub, tmp_path: Path) -> None:
    """In a process of its own, as a user would: HF_ENDPOINT and HF_HOME, nothing patched."""
    code = "from fahr.models import load; print(load('fahr-faceage').config.origin)"
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"hf://fridolin22/FAHR-Face@{COMMIT}/fahr_faceage.pth"
    assert list((tmp_path / "home").rglob("fahr_faceage.pth"))


# ImageNet's


@pytest.mark.parametrize("name", [name for name in KNOWN if name.startswith("imagenet-")])
def test_names_of_imagenet_are_what_timm_knows_under_them(name: str) -> None:
    """Shape, normalization, licence and place, as timm's own registry tells them."""
    _, model, patch = name.split("-")
    shape = Architecture.named(model, patch=int(patch), size=224, task="age")
    known = KNOWN[name]
    told = get_pretrained_cfg(known.repository.removeprefix("timm/"))
    assert told is not None and told.hf_hub_id == known.repository and told.license == "apache-2.0"
    assert told.input_size == (3, 224, 224)
    assert told.mean == pytest.approx(IMAGENET_MEAN) and told.std == pytest.approx(IMAGENET_STD)
    with torch.device("meta"):
        theirs: Any = timm.create_model(known.repository.removeprefix("timm/"), pretrained=False)
    assert theirs.patch_embed.patch_size == (shape.patch, shape.patch)
    assert (theirs.embed_dim, len(theirs.blocks)) == (shape.width, shape.depth)
    assert theirs.blocks[0].attn.num_heads == shape.num_heads
    assert theirs.pos_embed.shape == (1, 1 + shape.num_patches, shape.width)
    assert known.name == f"{known.repository.removeprefix('timm/')}.safetensors" and known.file == "model.safetensors"


def test_all_shapes_of_imagenet_differ_and_their_files_in_a_folder_too() -> None:
    files = [known.name for known in KNOWN.values()]
    assert len(files) == len(set(files)) == 7


def test_imagenet_is_downloaded_from_its_own_repository(hub: Hub) -> None:
    found = fetch("imagenet-vit_tiny-16")
    assert found.data == hub.data and hub.seen == ["HEAD model.safetensors", "GET model.safetensors"]
    assert found.origin == f"hf://timm/{IMAGENET}@{COMMIT}/model.safetensors"


def test_in_a_folder_of_the_user_it_has_a_name_that_tells_what_it_is(
    folder: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five files of the name model.safetensors would not fit into one folder."""
    hub.how = "no file"
    store.write_bytes(store.join(folder, "model.safetensors"), b"of anything")
    monkeypatch.setenv("FAHR_WEIGHTS", folder)
    with pytest.raises(Refused) as refusal:
        fetch("imagenet-vit_tiny-16")
    for part in (f"download model.safetensors of timm/{IMAGENET}", f"holds it as {IMAGENET}.safetensors;"):
        assert part in str(refusal.value), refusal.value
    place = store.join(folder, f"{IMAGENET}.safetensors")
    store.write_bytes(place, b"mine")
    found = fetch("imagenet-vit_tiny-16")
    assert (found.data, found.origin) == (b"mine", place)
