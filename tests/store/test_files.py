"""The few things we do with bytes hold alike for a local folder and for S3."""

import http.server
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fahr import store
from fahr.errors import Refused
from fahr.store import failures, listing, s3


def names(folder: str) -> list[str]:
    return [store.relative(entry.location, folder) for entry in store.list_files(folder)]


def test_what_is_written_is_read(folder):
    place = store.join(folder, "a b", "ü#%41?.bin")
    store.write_bytes(place, b"one")
    store.write_bytes(place, b"two")
    assert store.read_bytes(place) == b"two"
    assert store.exists(place) and not store.exists(store.join(folder, "a b"))
    assert names(folder) == ["a b/ü#%41?.bin"]
    with store.open_input(place) as file:
        assert file.seek(1) in (1, None) and file.read() == b"wo"
    assert store.digest(place) == "sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
    store.delete(place)
    store.delete(place)
    assert not store.exists(place)


def test_a_conditional_create_has_one_winner_among_sixteen(folder):
    place = store.join(folder, "lock")
    won = []
    barrier = threading.Barrier(16)

    def race(number: int) -> None:
        barrier.wait()
        if store.create_bytes(place, str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read_bytes(place) == str(won[0]).encode()


def test_an_exception_while_writing_leaves_what_was_there(folder):
    place = store.join(folder, "kept")
    store.write_bytes(place, b"before")
    with pytest.raises(ZeroDivisionError), store.atomic_writer(place) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert store.read_bytes(place) == b"before"
    assert names(folder) == ["kept"]
    if not store.is_s3(folder):
        assert os.listdir(folder) == ["kept"]


def test_more_bytes_than_allowed_are_refused_before_they_are_read(folder):
    place = store.join(folder, "large")
    store.write_bytes(place, bytes(1001))
    with pytest.raises(store.TooLarge, match=r"1,001 bytes; at most 1,000"):
        store.read_bytes(place, at_most=1000)
    assert len(store.read_bytes(place, at_most=1001)) == 1001


def test_a_missing_file_is_refused_in_one_line(folder):
    store.write_bytes(store.join(folder, "other"), b"")
    for attempt in (store.read_bytes, store.open_input, store.digest):
        with pytest.raises(store.Missing) as caught:
            attempt(store.join(folder, "none.jpg"))
        assert "none.jpg" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_bucket_is_named(quick_bucket):
    for attempt in (
        lambda: store.read_bytes("s3://no-such-bucket/x"),
        lambda: store.write_bytes("s3://no-such-bucket/x", b""),
        lambda: store.exists("s3://no-such-bucket/x"),
        lambda: list(store.list_files("s3://no-such-bucket/x")),
        lambda: store.open_input("s3://no-such-bucket/x"),
    ):
        with pytest.raises(store.Missing, match="bucket 'no-such-bucket' does not exist"):
            attempt()


def test_missing_credentials_are_named(quick_bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(store.Denied, match="no S3 credentials found. Set AWS_ACCESS_KEY_ID"):
        store.read_bytes(quick_bucket + "/x")


def test_a_folder_or_a_forbidden_file_is_refused(tmp_path, monkeypatch):
    with pytest.raises(store.Missing, match="is a folder"):
        store.read_bytes(str(tmp_path))

    def forbidden(*_: object) -> None:  # root may read anything, so the refusal is played
        raise PermissionError

    monkeypatch.setattr("builtins.open", forbidden)
    with pytest.raises(store.Denied, match="no permission"):
        store.read_bytes(str(tmp_path / "x"))


@given(st.lists(st.lists(st.text("ab.-é /", min_size=1, max_size=4), min_size=1, max_size=3), max_size=12))
def test_local_listings_have_the_order_of_s3_keys(tmp_path_factory, paths):
    root = tmp_path_factory.mktemp("tree")
    made = set()
    for parts in paths:
        parts = [part.replace("/", "_").strip(". ") or "x" for part in parts]
        file = root.joinpath(*parts)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"1")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue  # the same name as file and folder
        made.add("/".join(parts))
    assert names(str(root)) == sorted(made)


def test_local_listings_follow_links_never_in_circles_and_tell_of_dead_ones(tmp_path):
    (tmp_path / "ward").mkdir()
    (tmp_path / "ward" / "a.jpg").write_bytes(b"1")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "ward")
    (tmp_path / "self").symlink_to(tmp_path)
    (tmp_path / "ward" / "up").symlink_to(tmp_path)
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    found = {store.relative(entry.location, str(tmp_path)): entry.size for entry in store.list_files(str(tmp_path))}
    assert found == {"dead.jpg": 0, "elsewhere/a.jpg": 1, "loop.jpg": 0, "ward/a.jpg": 1}


def test_folders_nested_deeper_than_python_calls_are_listed():
    root = tempfile.mkdtemp()  # not tmp_path: pytest's own clean-up calls itself for each level
    try:
        deep = os.open(root, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=deep)
            below = os.open("d", os.O_RDONLY, dir_fd=deep)
            os.close(deep)
            deep = below
        os.close(os.open("x.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=deep))
        os.close(deep)
        assert len(names(root)) == 1
    finally:
        subprocess.run(["rm", "-rf", root], check=True)


def test_the_callers_own_errors_pass_through_a_writer_unchanged(folder, tmp_path):
    with pytest.raises(FileNotFoundError) as caught, store.atomic_writer(store.join(folder, "out")):
        open(tmp_path / "no-such-photo.jpg")  # noqa: SIM115
    assert not isinstance(caught.value, Refused)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(store.Missing):
        store.write_bytes(str(tmp_path / "file" / "below"), b"1")


def test_parallel_s3_listings_equal_the_sequential_one(quick_bucket, monkeypatch):
    monkeypatch.setattr(listing, "_PAGES_ALONE", 0)
    keys = [f"p{i % 3}/{'é' * (i % 2)}{i:04d}.jpg" for i in range(300)] + ["p0", "p1/", "z", "\U0001f600/x"]
    for key in keys:
        s3.client().put_object(Bucket=quick_bucket.removeprefix("s3://"), Key="deep/" + key, Body=b"x")
    wanted = sorted(f"{quick_bucket}/deep/{key}" for key in keys if not key.endswith("/"))
    for walkers in (1, 4, 40):
        assert [entry.location for entry in store.list_files(quick_bucket + "/deep", walkers=walkers)] == wanted


def test_unfinished_writes_are_never_listed(tmp_path):
    (tmp_path / ".a.jpg.x.part").write_bytes(b"half")
    (tmp_path / "a.jpg").write_bytes(b"whole")
    assert names(str(tmp_path)) == ["a.jpg"]


def test_a_killed_local_write_leaves_nothing_under_its_name(tmp_path):
    place = tmp_path / "photo.bin"
    code = (
        "import sys, time\nfrom fahr import store\n"
        "with store.atomic_writer(sys.argv[1]) as file:\n"
        "    file.write(bytes(1 << 20)); file.flush(); print('half', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "half\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not place.exists() and names(str(tmp_path)) == []


def test_files_get_the_mode_that_the_umask_gives(tmp_path):
    place = str(tmp_path / "x")
    store.write_bytes(place, b"")
    reference = tmp_path / "y"
    reference.touch()
    assert os.stat(place).st_mode == reference.stat().st_mode


class Answers(http.server.BaseHTTPRequestHandler):
    """A store that answers from a list: (status, body or error code, headers)."""

    script: list[tuple[int, bytes, dict[str, str]]]
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        status, body, headers = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def scripted(monkeypatch):
    """A loopback store whose answers a test scripts; waits between attempts are cut short."""
    monkeypatch.setattr(failures, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(failures, "_LONGEST_WAIT_S", 0.002)
    servers = []

    def start(*script: tuple[int, bytes, dict[str, str]]) -> type[Answers]:
        handler = type("Scripted", (Answers,), {"script": list(script), "seen": []})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        return handler

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>m</Message></Error>'.encode()


@pytest.mark.parametrize(
    ("status", "code"), [(503, "SlowDown"), (429, "TooManyRequests"), (500, "InternalError"), (400, "RequestTimeout")]
)
def test_throttling_answers_are_waited_out(scripted, status, code):
    store_ = scripted(*[(status, error(code), {})] * 7, (200, b"photo", {}))
    assert store.read_bytes("s3://bucket/key") == b"photo"
    assert len(store_.seen) == 8


def test_a_body_that_breaks_off_is_read_again(scripted):
    scripted((200, b"pho", {"Content-Length": "5", "Connection": "close"}), (200, b"photo", {}))
    assert store.read_bytes("s3://bucket/key") == b"photo"


def test_rotted_bytes_are_refused_and_a_good_replica_is_taken(scripted):
    right = {"ETag": '"5ae0c1c8a5260bc7b6648f6fbd115c35"'}  # MD5 of "photo"
    scripted((200, b"phoXo", right), (200, b"photo", right))
    assert store.read_bytes("s3://bucket/key") == b"photo"
    server = scripted((200, b"phoXo", right))
    with pytest.raises(store.Corrupt, match="digest"):
        store.read_bytes("s3://bucket/key2")
    assert len(server.seen) == 3


def test_an_etag_that_is_no_md5_is_not_taken_for_one(scripted):
    wrong = '"00000000000000000000000000000000"'
    scripted((200, b"photo", {"ETag": '"5ae0c1c8a5260bc7b6648f6fbd115c35-3"'}))
    assert store.read_bytes("s3://bucket/parts") == b"photo"
    scripted((200, b"photo", {"ETag": wrong, "x-amz-server-side-encryption": "aws:kms"}))
    assert store.read_bytes("s3://bucket/kms") == b"photo"


def test_a_store_that_stays_away_is_told_in_one_line(scripted, monkeypatch):
    monkeypatch.setattr(failures, "BRIDGE_S", 0.2)
    scripted((503, error("ServiceUnavailable"), {}))
    with pytest.raises(store.Unavailable, match=r"gave up after \d+ attempts") as caught:
        store.read_bytes("s3://bucket/key")
    assert "\n" not in str(caught.value)


def test_waits_are_random_and_bounded(monkeypatch):
    waits: list[float] = []
    clock = [0.0]
    monkeypatch.setattr(failures.time, "sleep", lambda s: (waits.append(s), clock.__setitem__(0, clock[0] + s)))
    monkeypatch.setattr(failures.time, "monotonic", lambda: clock[0])

    def never() -> None:
        raise failures.Transient("no")

    with pytest.raises(store.Unavailable):
        failures.bridging(never, "reading x")
    assert sum(waits) >= 60  # a minute is bridged
    assert max(waits) <= 8.0 and len(set(waits)) > 10


@pytest.mark.parametrize(
    ("given_", "base", "wanted"),
    [
        ("a/../b", "/root", "/root/b"),
        ("/x//y/", None, "/x/y"),
        ("s3://bucket/a/b/", None, "s3://bucket/a/b"),
        ("S3://bucket/a b%20#c", None, "s3://bucket/a b%20#c"),
        ("c.jpg", "s3://bucket/photos", "s3://bucket/photos/c.jpg"),
        ("/abs.jpg", "s3://bucket/photos", "/abs.jpg"),
        ("file:///a%20b", None, "/a b"),
        ("../x.jpg", "s3://bucket/m", "s3://bucket/x.jpg"),
        ("./a//b.jpg", "s3://bucket/m", "s3://bucket/m/a//b.jpg"),
    ],
)
def test_locations_become_absolute(given_, base, wanted):
    assert store.absolute(given_, base) == wanted
    assert store.absolute(wanted) == wanted


@pytest.mark.parametrize(
    "wrong", ["", "http://x/y", "s3:///key", "s3://", "file://host/x", "a\0b", "file:///a?b", "file:///a#b", "file://"]
)
def test_wrong_locations_are_refused(wrong):
    with pytest.raises(Refused):
        store.absolute(wrong)


def test_the_ledger_must_balance(tmp_path):
    good = store.Ledger("align", 1000, 968, {"no_face": 21, "many_faces": 11}, "d", "c", {"note": 1})
    assert (
        good.check().line(2.0, "faces")
        == "align: rows_in 1,000 = rows_out 968 + no_face 21 + many_faces 11 | 500 faces/s"
    )
    good.write(str(tmp_path / "ledger.json"))
    assert store.Ledger.read(str(tmp_path / "ledger.json")) == good
    with pytest.raises(store.LedgerError, match=r"rows_in 1,000, accounted for 986, missing 14"):
        store.Ledger("align", 1000, 965, {"no_face": 21}).check()
    assert Path(tmp_path / "ledger.json").read_text().startswith("{")
