"""Weights come from where the user says, a cache or the pinned address; other bytes than the pinned are refused."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fahr import store
from fahr.errors import Refused
from fahr.faces.detectors import create_detector, weights

DATA = b"weights of a detector" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Says what the path asks for; counts the requests."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        kind = self.path.strip("/")
        again = self.server.requests.count(self.path)
        if kind in ("404", "503") or (kind == "503-once" and again == 1):
            self.send_error(int(kind[:3]))
            return
        data = b"another file" if kind == "other" else DATA
        cut = kind == "truncated" or (kind == "truncated-once" and again == 1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights anywhere, and no waiting."""
    monkeypatch.delenv("FAHR_WEIGHTS", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path / "deepface"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("fahr.faces.detectors.weights.FIRST_WAIT_S", 0.01)
    return tmp_path


def made_up(*urls: str, sha256: str | None = SHA256) -> weights.Weights:
    return weights.Weights("made-up", "made_up.pth", sha256, urls, "torch")


def test_a_download_is_checked_kept_and_not_repeated(server: Server) -> None:
    wanted = made_up(server.url("good"))
    assert weights.load(wanted) == weights.Loaded(DATA, SHA256, server.url("good"))
    again = weights.load(wanted)
    assert (again.data, again.origin) == (DATA, wanted.cached()) and server.requests == ["/good"]


@pytest.mark.parametrize("path", ["503-once", "truncated-once"])
def test_a_passing_fault_of_the_network_is_tried_again(server: Server, path: str) -> None:
    assert weights.load(made_up(server.url(path))).data == DATA
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("path", "said", "requests"),
    [("404", "404", 1), ("503", "503", 3), ("truncated", "IncompleteRead", 3), ("other", "is expected", 1)],
)
def test_what_cannot_be_had_is_refused_with_three_remedies_and_leaves_nothing(
    server: Server, path: str, said: str, requests: int
) -> None:
    wanted = made_up(server.url(path))
    with pytest.raises(Refused) as refusal:
        weights.load(wanted)
    message = str(refusal.value)
    for remedy in (said, "download http", wanted.cached(), "FAHR_WEIGHTS", "--detector mtcnn"):
        assert remedy in message
    assert len(server.requests) == requests and not Path(wanted.cached()).exists()


def test_the_second_address_serves_when_the_first_does_not(server: Server) -> None:
    assert weights.load(made_up(server.url("404"), server.url("good"))).origin == server.url("good")


def test_nobody_listening_is_refused_too(server: Server) -> None:
    with pytest.raises(Refused, match="Connection refused"):
        weights.load(made_up("http://127.0.0.1:1/none"))


def test_a_damaged_cache_is_downloaded_anew(server: Server) -> None:
    wanted = made_up(server.url("good"))
    store.write_bytes(wanted.cached(), DATA[:100])
    assert weights.load(wanted).origin == server.url("good")
    assert Path(wanted.cached()).read_bytes() == DATA


def test_a_cache_that_cannot_be_written_costs_a_warning_only(server: Server, alone: Path) -> None:
    (alone / "torch").write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="could not be written"):
        assert weights.load(made_up(server.url("good"))).data == DATA


def test_without_a_published_digest_the_first_one_is_written_down_and_held_to(server: Server) -> None:
    wanted = made_up(server.url("good"), sha256=None)
    assert weights.load(wanted).sha256 == SHA256
    assert Path(f"{wanted.cached()}.sha256").read_text() == f"{SHA256}  made_up.pth\n"
    Path(wanted.cached()).write_bytes(DATA[:-1])
    assert weights.load(wanted).origin == server.url("good")  # the damage was noticed


def test_a_folder_or_bucket_named_by_the_user_comes_first(
    folder: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = made_up(server.url("good"))
    store.write_bytes(store.join(folder, "made_up.pth"), DATA)
    monkeypatch.setenv("FAHR_WEIGHTS", folder)
    loaded = weights.load(wanted)
    assert loaded.data == DATA and loaded.origin == store.join(folder, "made_up.pth") and not server.requests


def test_wrong_bytes_where_the_user_pointed_are_refused_not_passed_over(
    folder: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_bytes(store.join(folder, "made_up.pth"), DATA[:-1])
    monkeypatch.setenv("FAHR_WEIGHTS", folder)
    with pytest.raises(Refused, match="unset FAHR_WEIGHTS"):
        weights.load(made_up(server.url("good")))
    assert not server.requests


def test_a_folder_that_lacks_the_file_is_named_in_the_refusal(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAHR_WEIGHTS", str(tmp_path))
    with pytest.raises(Refused, match=r"made_up\.pth: no such file"):
        weights.load(made_up(server.url("404")))


def test_retinaface_without_weights_is_refused_and_no_other_detector_steps_in(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = replace(weights.WEIGHTS["retinaface"], urls=(server.url("404"),))
    monkeypatch.setitem(weights.WEIGHTS, "retinaface", gone)
    with pytest.raises(Refused, match="--detector mtcnn"):
        create_detector("retinaface")
    assert create_detector("mtcnn").name == "mtcnn"


def test_pinned_addresses_name_a_commit_and_a_digest() -> None:
    for name, pinned in weights.WEIGHTS.items():
        assert pinned.detector == name and all(url.startswith("https://") for url in pinned.urls)
        if pinned.sha256 is not None:
            assert len(pinned.sha256) == 64 and all("raw.githubusercontent.com" in url for url in pinned.urls)
