"""Against a real S3 store: kills, outages, rot, wrong keys, ten thousand keys. `make faults`."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fahr import store
from fahr.store import locations
from jobs import index

pytestmark = pytest.mark.faults


def test_ten_thousand_keys_are_listed_and_indexed(bucket, tmp_path):
    keys = [f"photos/w{i % 7}/{i:05d}.jpg" for i in range(10_000)] + ["photos/notes.txt", "photos/w1/zero.jpg"]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.write_bytes(f"{bucket}/{key}", b"" if "zero" in key else b"x"), keys))
    wanted = sorted(f"{bucket}/{key}" for key in keys)
    assert [entry.location for entry in store.list_files(f"{bucket}/photos")] == wanted
    assert [entry.location for entry in store.list_files(f"{bucket}/photos", walkers=1)] == wanted
    output = f"{bucket}/people.parquet"
    ledger = index.main(index.Options(photos=f"{bucket}/photos", output=output))
    assert (ledger.rows_in, ledger.rows_out, ledger.rejects) == (10_002, 10_000, {"not_a_photo": 1, "empty": 1})
    with store.open_input(output) as file:
        table = pq.read_table(file)
    assert table["uri"].to_pylist() == [each for each in wanted if each.endswith(".jpg") and "zero" not in each]


def test_a_write_killed_halfway_leaves_no_object(bucket, real_store):
    place = f"{bucket}/half.bin"
    code = (
        "import sys\nfrom fahr import store\n"
        "with store.atomic_writer(sys.argv[1]) as file:\n"
        "    file.write(bytes(64 << 20)); print('uploading', flush=True)\n"
    )
    real_store.fault("stop", "object1")  # the upload starts and cannot end
    child = subprocess.Popen([sys.executable, "-c", code, place], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "uploading\n"
        _wait_for_upload(child.pid)
        child.send_signal(signal.SIGKILL)
        child.wait()
    finally:
        real_store.fault("cont", "object1")
    assert not store.exists(place)
    assert [entry.location for entry in store.list_files(bucket)] == []
    store.write_bytes(place, b"whole")
    assert store.read_bytes(place) == b"whole"


def _wait_for_upload(pid: int) -> None:
    """Until the process has sent something to the store: it has a socket open."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        links = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
        if any(link.startswith("socket:") for link in links):
            return
        time.sleep(0.05)
    raise AssertionError("no upload began within 30 s")


def test_an_outage_of_ten_seconds_is_bridged_by_every_call(bucket, real_store):
    for number in range(20):
        store.write_bytes(f"{bucket}/photos/{number}.jpg", bytes([number]))
    store.write_bytes(f"{bucket}/large.bin", os.urandom(20 << 20))
    with store.open_input(f"{bucket}/large.bin") as large, ThreadPoolExecutor(8) as pool:
        large.read(10)
        timer = real_store.outage(10)
        started = time.monotonic()
        calls = {
            "read": pool.submit(store.read_bytes, f"{bucket}/photos/3.jpg"),
            "write": pool.submit(store.write_bytes, f"{bucket}/new.jpg", b"new"),
            "create": pool.submit(store.create_bytes, f"{bucket}/marker", b"1"),
            "list": pool.submit(lambda: len(list(store.list_files(f"{bucket}/photos")))),
            "exists": pool.submit(store.exists, f"{bucket}/photos/4.jpg"),
            "ranges": pool.submit(large.read, 5 << 20),
        }
        results = {name: call.result() for name, call in calls.items()}
        assert time.monotonic() - started >= 8, "the store was not away"
        timer.join()
    assert len(results.pop("ranges")) == 5 << 20
    assert results == {"read": b"\x03", "write": None, "create": True, "list": 20, "exists": True}
    assert store.read_bytes(f"{bucket}/new.jpg") == b"new"


def test_bytes_that_rot_on_the_disk_are_refused(bucket, real_store):
    place = f"{bucket}/photo.jpg"
    content = os.urandom(50_000)
    store.write_bytes(place, content)
    rotted = 0
    for file in real_store.data.rglob("*.data"):
        data = file.read_bytes()
        if data == content:
            file.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
            rotted += 1
    assert rotted == 1
    with pytest.raises(store.Corrupt, match="damaged"):
        store.read_bytes(place)


def test_wrong_keys_are_refused_in_one_line(bucket, monkeypatch):
    store.write_bytes(f"{bucket}/x", b"1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(store.Denied, match="refused our credentials") as caught:
        store.read_bytes(f"{bucket}/x")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody:nothing")
    with pytest.raises(store.Denied):
        list(store.list_files(bucket))


def test_a_missing_bucket_or_key_is_told_apart(bucket):
    with pytest.raises(store.Missing, match="no key 'none'"):
        store.read_bytes(f"{bucket}/none")
    with pytest.raises(store.Missing, match="no key 'none'"):
        store.open_input(f"{bucket}/none")
    with pytest.raises(store.Missing, match="bucket 'nowhere-at-all' does not exist"):
        store.open_input("s3://nowhere-at-all/none")
    assert not store.exists(f"{bucket}/none")


def test_a_write_whose_answer_was_lost_is_known_as_our_own(bucket, real_store, monkeypatch):
    """The store took the create, the answer never came: trying again must not report a foreign winner."""
    place = f"{bucket}/marker"
    client = store.s3.client()
    plain = client.put_object
    lost = []

    def losing(**arguments):
        answer = plain(**arguments)
        if not lost:
            lost.append(answer)
            raise store.s3.aws.ReadTimeoutError(endpoint_url="x")
        return answer

    monkeypatch.setattr(client, "put_object", losing)
    assert store.create_bytes(place, b"ours") is True
    assert lost and store.create_bytes(place, b"ours") is False


def test_an_upload_in_parts_is_whole_and_carries_its_digest(bucket, monkeypatch):
    monkeypatch.setattr(store.s3, "SINGLE_PUT_BYTES", 6 << 20)
    monkeypatch.setattr(
        store.s3, "_PARTS", store.s3.TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20)
    )
    content = os.urandom(17 << 20)
    store.write_bytes(f"{bucket}/large", content)
    assert store.read_bytes(f"{bucket}/large") == content
    assert "-" in store.s3.client().head_object(Bucket=locations.bucket_and_key(bucket + "/x")[0], Key="large")["ETag"]


@pytest.mark.evidence
def test_an_outage_of_a_minute_is_bridged(bucket, real_store):
    store.write_bytes(f"{bucket}/photo.jpg", b"1")
    timer = real_store.outage(60)
    started = time.monotonic()
    assert store.read_bytes(f"{bucket}/photo.jpg") == b"1"
    print(f"\na minute's outage: the read ended after {time.monotonic() - started:.1f} s")
    timer.join()
