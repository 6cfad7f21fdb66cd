"""What a run tells: the same file however often it was killed, JSON that everybody reads, events for TensorBoard."""

import json
import math
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from fahr import store
from fahr.errors import Refused
from fahr.training.background import Background
from fahr.training.journal import Journal, read_rows


@pytest.fixture
def background() -> Iterator[Background]:
    with Background() as made:
        yield made


def note(journal: Journal, positions: Sequence[int]) -> None:
    for position in positions:
        journal.note("step", {"position": position, "loss": 1 / (3 + position), "grad_norm": 0.1 * position})
        if position % 32 == 0:
            judged = {"masked_loss": 0.5, "linear": {"mae": position / 7, "r2": math.nan}, "groups": [{"n": 3}]}
            journal.note("judged", {"position": position, **judged})
    journal.flush()


def events(folder: str) -> list[Any]:
    """Of all event files in their order, each record's framing checked by the book."""
    found = []
    places = sorted(each.location for each in store.list_files(store.join(folder, "tensorboard")))
    for place in places:
        assert "tfevents" in store.name(place)  # by which TensorBoard knows them
        data = store.read_bytes(place)
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            body, rest = data[12 : 12 + length], data[12 + length :]
            assert struct.unpack("<I", data[8:12])[0] == masked(data[:8])
            assert struct.unpack("<I", rest[:4])[0] == masked(body)
            found.append(Event.FromString(body))
            data = rest[4:]
    return found


def masked(data: bytes) -> int:
    """CRC-32C (Castagnoli) bit by bit, rotated by 15 and moved, as the TFRecord format asks for."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_the_checksum_of_the_oracle_is_crc_32c() -> None:
    """Its published check value is 0xE3069283 for 123456789."""
    assert masked(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize("stands_at", [0, 16, 48, 80, 160])
def test_killed_and_gone_on_with_the_file_is_that_of_a_run_never_killed(
    folder: str, background: Background, stands_at: int
) -> None:
    """The state is of `stands_at`, the file of a later moment."""
    whole, killed = store.join(folder, "whole"), store.join(folder, "killed")
    every = list(range(16, 161, 16))
    note(Journal(whole, 0, background, "abc"), every)
    background.wait(60)
    note(Journal(killed, 0, background, "abc"), every[:8])
    background.wait(60)
    note(Journal(killed, stands_at, background, "abc"), [each for each in every if each > stands_at])
    background.wait(60)
    expected = store.read_bytes(store.join(whole, "metrics.jsonl"))
    if stands_at == 160:  # beyond what was flushed: nothing is made up
        expected = b"".join(line for line in expected.splitlines(True) if json.loads(line)["position"] <= 128)
    assert store.read_bytes(store.join(killed, "metrics.jsonl")) == expected


def test_what_is_no_number_is_null_and_every_reader_can_read_it(tmp_path: Path, background: Background) -> None:
    journal = Journal(str(tmp_path), 0, background)
    row = {"position": 1, "loss": math.nan, "deep": {"up": math.inf, "list": [1.5, -math.inf, (math.nan, "x")]}}
    journal.note("step", row)
    journal.note("step", {"position": 2, "loss": np.float64("nan"), "word": 'a "b"\n\u2028c', 7: None})
    journal.flush()
    background.wait(60)

    def never(word: str) -> Any:
        raise AssertionError(word)

    lines = (tmp_path / "metrics.jsonl").read_bytes().decode().rstrip("\n").split("\n")
    found = [json.loads(line, parse_constant=never) for line in lines]
    assert found[0] == {"kind": "begin", "position": 0, "digest": ""}
    deep = {"up": None, "list": [1.5, None, [None, "x"]]}
    assert found[1] == {"kind": "step", "position": 1, "loss": None, "deep": deep}
    assert found[2] == {"kind": "step", "position": 2, "loss": None, "word": 'a "b"\n\u2028c', "7": None}
    assert read_rows(str(tmp_path)) == found


def test_tensorboard_gets_every_number_under_its_name_and_position(folder: str, background: Background) -> None:
    journal = Journal(folder, 0, background)
    note(journal, [16, 32])
    journal.note("step", {"position": 48, "loss": math.inf, "good": True, "why": "text", "gone": None})
    background.wait(60)
    journal.close()
    found = events(folder)
    assert found[0].file_version == "brain.Event:2" and all(each.wall_time > 1e9 for each in found)
    told = [(each.step, value.tag, value.simple_value) for each in found for value in each.summary.value]
    single = [(step, tag, float(np.float32(value))) for step, tag, value in expected_scalars()]
    assert [each for each in told if not math.isnan(each[2])] == single
    assert [each[:2] for each in told if math.isnan(each[2])] == [(32, "judged/linear/r2")]


def expected_scalars() -> list[tuple[int, str, float]]:
    return [
        (16, "step/loss", 1 / 19), (16, "step/grad_norm", 1.6), (32, "step/loss", 1 / 35), (32, "step/grad_norm", 3.2),
        (32, "judged/masked_loss", 0.5), (32, "judged/linear/mae", 32 / 7), (48, "step/loss", math.inf),
    ]  # fmt: skip


def test_tensorboard_forgets_what_is_told_again(folder: str, background: Background) -> None:
    for stands_at, positions in ((0, (16, 32)), (16, (32, 48))):
        journal = Journal(folder, stands_at, background)
        note(journal, positions)
        background.wait(60)
    found = events(folder)
    starts = [each.step for each in found if each.session_log.status == SessionLog.START]
    assert starts == [1, 17]  # from these on, what came before does not count
    assert [each.step for each in found for v in each.summary.value if v.tag == "step/loss"] == [16, 32, 32, 48]


def test_a_flush_writes_all_that_was_told_before_it(folder: str, background: Background) -> None:
    """A run on S3 that is killed after a flush has its events there."""
    journal = Journal(folder, 0, background)
    note(journal, range(1, 400))
    background.wait(60)
    tags = [value.tag for each in events(folder) for value in each.summary.value]
    assert tags.count("step/loss") == 399 and len(read_rows(folder)) == 1 + 399 + 12


def test_a_picture_arrives_as_it_is(tmp_path: Path, background: Background) -> None:
    import cv2

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    journal = Journal(str(tmp_path), 0, background)
    journal.picture("reconstructions", pixels, 64)
    journal.flush()
    background.wait(60)
    ((step, value),) = [(each.step, value) for each in events(str(tmp_path)) for value in each.summary.value]
    assert (step, value.tag, value.image.height, value.image.width) == (64, "reconstructions", 5, 7)
    decoded = cv2.imdecode(np.frombuffer(value.image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(decoded, pixels)


FULL_DISK = """
import faulthandler, resource, sys
faulthandler.dump_traceback_later(60, exit=True)
from fahr.training.background import Background
from fahr.training.journal import Journal
resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
with Background() as background:
    journal = Journal(sys.argv[1], 0, background)
    for position in range(400):
        journal.note("step", {"position": position, "loss": 0.5})
    journal.flush()
    background.wait(60)
"""


def test_a_disk_that_is_full_ends_the_run_instead_of_stopping_it_for_ever(tmp_path: Path) -> None:
    """No file may grow over 4 kB here, and what was told is longer."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "OSError: [Errno 27] File too large" in done.stderr, done.stderr
    assert "Timeout" not in done.stderr


# What is refused


def test_the_file_of_another_run_is_refused(folder: str, background: Background) -> None:
    note(Journal(folder, 0, background, "abc"), [16])
    background.wait(60)
    for position in (0, 16):
        with pytest.raises(Refused, match=r"metrics\.jsonl: is of run abc, not def\. Give another output folder"):
            Journal(folder, position, background, "def")


@pytest.mark.parametrize(
    "damage", [b'{"kind": "begin", "pos', b"\xff\xfe\n", b"5\n", b'"text"\n', b"{}\n", b'{"position": null}\n', b"\n"]
)
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path, background: Background, damage: bytes) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"kind": "begin", "position": 0, "digest": ""}\n' + damage)
    with pytest.raises(Refused, match=r"metrics\.jsonl: is damaged .*Restore it, or delete it"):
        Journal(str(tmp_path), 0, background)


def test_no_file_is_no_rows(folder: str) -> None:
    assert read_rows(folder) == []


# Who else listens


def test_each_row_is_sent_once_even_where_flushes_overtake_each_other(tmp_path: Path, background: Background) -> None:
    sent: list[Mapping[str, Any]] = []
    whole: list[Mapping[str, Any]] = []
    for stands_at, positions in ((0, range(16, 400, 16)), (160, range(176, 400, 16))):
        journal = Journal(str(tmp_path), stands_at, background, track=sent.extend)
        before = len(journal.rows) if stands_at else 1
        for position in positions:
            note(journal, [position])
            if position % 48 == 0:
                background.wait(60)
        background.wait(60)
        whole += journal.rows[before:]
    assert [json.dumps(row) for row in sent if row["kind"] != "begin"] == [json.dumps(row) for row in whole]


def test_a_listener_that_hangs_costs_rows_and_not_the_run(
    tmp_path: Path, background: Background, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fahr.training.journal._LAST_ROWS_S", 0.05)
    heard, let_go = threading.Event(), threading.Event()

    def hang(rows: Sequence[Mapping[str, Any]]) -> None:
        heard.set()
        let_go.wait(60)

    journal = Journal(str(tmp_path), 0, background, track=hang)
    note(journal, [16])
    try:
        assert heard.wait(60)
        background.wait(60)
        journal.close()
    finally:
        let_go.set()
    assert "the last rows were not sent" in capsys.readouterr().err
    assert [row["position"] for row in read_rows(str(tmp_path))] == [0, 16]
