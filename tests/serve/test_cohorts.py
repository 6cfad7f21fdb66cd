"""Cohorts over HTTP: only what was allowed is read, the folder tells everything, and erased is erased."""

import contextlib
import itertools
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fahr import store
from fahr.errors import Refused
from jobs import _cluster, score
from serve import _cohort_scores
from serve import cohorts as cohorts_module
from serve._cohort_folder import Cohort, claim, claimed, new_id
from serve.allowed import Outside, Roots, check_photos
from serve.cohorts import CohortSettings
from tools.cohorts_app import app
from tools.door import ask, photo, told
from tools.faces import commit_faces, jpegs, pictures

COUNT = 30
ONE = {"manifest": "/x/people.csv", "models": ["age"]}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, models: dict[str, str]) -> Path:
    """What jobs/score.py leaves of 30 faces in 8 units, two of them bad, by its own parts without Ray."""
    root = tmp_path_factory.mktemp("scored")
    encoded = jpegs(pictures(COUNT, 112))
    encoded[7], encoded[20] = b"", encoded[20][:200]
    commit_faces(str(root / "faces"), encoded, landmarks=[[float(n)] * 10 for n in range(COUNT)])
    threads = torch.get_num_threads(), cv2.getNumThreads()
    made = score.Options(
        faces=str(root / "faces"), models=[models["age"]], output=str(root / "out"), rows_per_unit=4, precision="fp32"
    )
    source, plans = score._prepared(made)
    units = score._units(made, plans)
    actor = score.ScoreUnit(made, plans)
    for block in _cluster.todo(source.rows, units, made.rows_per_unit, source.groups):
        actor(block)
    score._account(made, plans, units, source)
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    return root / "out"


class Service:
    """The endpoints, around folders on disk, in no cluster."""

    def __init__(self, root: Path, **more: Any) -> None:
        self.results = root / "results"
        given = {"results": str(self.results), "data_roots": [str(root / "data")], **more}
        self.settings = CohortSettings.model_validate({name: value for name, value in given.items() if value})
        self.app = app(self.settings, {"age": "/models/age"})

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return ask(self.app, method, path, **more)

    def cohort(self, output: Path | None = None) -> Cohort:
        """One that is there, with what its job has written so far."""
        made = Cohort(str(self.results), new_id())
        made.create({"options": {"manifest": "/x/people.csv"}, "roots": [], "key": None})
        if output is not None:
            shutil.copytree(output, made.output)
        return made


@pytest.fixture
def service(tmp_path: Path) -> Service:
    (tmp_path / "data").mkdir()
    return Service(tmp_path)


def left(results: Path) -> list[str]:
    return sorted(str(each.relative_to(results)) for each in results.rglob("*"))


# How far it is


def test_progress_is_the_rows_of_the_units_that_have_their_marker(service, scored, tmp_path):
    cohort = service.cohort()
    answer = service.ask("GET", f"/v1/cohorts/{cohort.id}").json()
    assert (answer["state"], answer["rows_done"], answer["rows_total"]) == ("waiting", 0, None)
    shutil.copytree(scored, cohort.output)
    (Path(cohort.output) / "ledger.json").unlink()
    markers = sorted(Path(cohort.output, "units", "done").iterdir())
    done = COUNT
    for marker in markers[::2]:
        done -= json.loads(marker.read_text())["rows_in"]
        marker.unlink()
    answer = service.ask("GET", f"/v1/cohorts/{cohort.id}").json()
    assert (answer["state"], answer["rows_done"], answer["rows_total"]) == ("running", done, COUNT)
    assert 0 < done < COUNT and answer["ledger"] is answer["results"] is None
    assert told(service.ask("GET", f"/v1/cohorts/{cohort.id}/scores")).status == 409


def test_a_finished_cohort_tells_its_ledger_and_none_of_the_servers_paths(service, scored, tmp_path):
    cohort = service.cohort(scored)
    answer = service.ask("GET", f"/v1/cohorts/{cohort.id}")
    found = answer.json()
    assert (found["state"], found["rows_done"], found["rows_total"]) == ("done", COUNT, COUNT)
    assert found["ledger"]["rejects"] == {"unreadable": 2} and found["ledger"]["rows_out"] == COUNT - 2
    assert found["ledger"]["models"]["age"]["age_model"].startswith("sha256:")
    assert "/tmp" not in answer.text and str(scored) not in answer.text
    assert set(found["results"]) == {"csv", "parquet"}
    assert all(service.ask("GET", each).status_code == 200 for each in found["results"].values())


def test_a_failure_is_told_as_the_job_told_it(service):
    cohort = service.cohort()
    cohort.fail(2, f"{cohort.manifest}: row 3: age = 200: must be from 0 to 122 years. Correct it.")
    found = service.ask("GET", f"/v1/cohorts/{cohort.id}").json()
    assert found["state"] == "failed" and found["detail"].startswith("the uploaded table: row 3: age = 200")
    assert told(service.ask("GET", f"/v1/cohorts/{cohort.id}/scores")).status == 409


@pytest.mark.parametrize("rows", [1, 9, 65_536])
def test_scores_come_as_the_bytes_of_scores_csv_and_as_the_same_rows_in_parquet(service, scored, rows, monkeypatch):
    """However small the pieces are that they come in."""
    monkeypatch.setattr(_cohort_scores, "_ROWS", rows)
    cohort = service.cohort(scored)
    as_csv = service.ask("GET", f"/v1/cohorts/{cohort.id}/scores")
    assert as_csv.content == (scored / "scores.csv").read_bytes()
    assert as_csv.headers["content-type"].startswith("text/csv")
    as_parquet = service.ask("GET", f"/v1/cohorts/{cohort.id}/scores?format=parquet")
    found = pq.read_table(pa.BufferReader(as_parquet.content), page_checksum_verification=True)
    expected = pa.concat_tables(store.read_units(str(scored), "scores")).sort_by("photo_id")
    assert found.equals(expected) and found.num_rows == COUNT - 2
    assert told(service.ask("GET", f"/v1/cohorts/{cohort.id}/scores?format=xlsx")).status == 400


def test_scores_that_were_changed_on_disk_are_not_handed_out(service, scored):
    cohort = service.cohort(scored)
    for file in Path(cohort.output, "scores").iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    assert told(service.ask("GET", f"/v1/cohorts/{cohort.id}/scores")).status == 500


# What may be named


SEGMENTS = ("data", "data2", "in", "out", "secret", "to_out", "to_in", "file", "..", ".", "people.csv")


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("maze").resolve()
    for folder in ("data/in", "data2/in", "out/secret"):
        (root / folder).mkdir(parents=True)
        (root / folder / "people.csv").write_text("photo_id,uri\n")
    (root / "data" / "to_out").symlink_to(root / "out")
    (root / "data" / "in" / "file").symlink_to(root / "out" / "secret" / "people.csv")
    (root / "out" / "to_in").symlink_to("../data/in")
    (root / "data" / "loop").symlink_to("loop")
    return root


@given(parts=st.lists(st.sampled_from(SEGMENTS), max_size=7))
@settings(max_examples=200)
def test_a_place_is_inside_only_if_what_it_leads_to_is(maze, parts):
    """Dots are taken out before links are followed, by us and by the job alike: the oracle is given that path."""
    place = os.path.normpath("/".join([str(maze), *parts]))
    inside = (maze / "data") in [Path(place).resolve(), *Path(place).resolve().parents]
    found = Roots([str(maze / "data")]).within("/".join([str(maze), *parts]))
    assert (found is not None) == inside
    if found is not None:
        assert Path(found) == Path(found).resolve() == Path(place).resolve()


@pytest.mark.parametrize(
    ("root", "place", "inside"),
    [
        ("s3://bucket", "s3://bucket/a.csv", True),
        ("s3://bucket/", "S3://bucket/a.csv", True),
        ("s3://bucket/a", "s3://bucket/a", True),
        ("s3://bucket", "s3://bucket-evil/a.csv", False),
        ("s3://bucket/a", "s3://bucket/ab.csv", False),
        ("s3://bucket/a", "s3://bucket/a/../b.csv", False),
        ("s3://bucket/a", "s3://bucket/a/./b.csv", False),
        ("s3://bucket/a", "s3://bucket/a//b.csv", True),  # a key may hold it
        ("s3://bucket/a", "s3://Bucket/a/b.csv", False),
        ("s3://bucket/a", "s3://bucket/%61/b.csv", False),
        ("/data", "file:///data/x.csv", True),
        ("/data", "file:///data/%2e%2e/etc/x.csv", False),
        ("/data", "/data2/x.csv", False),
        ("/data", "data/x.csv", False),
        ("/data", "~/x.csv", False),
        ("/data", "s3://data/x.csv", False),
        ("/", "/etc/x.csv", True),
    ],
)
def test_roots_end_where_their_names_end(root, place, inside):
    assert (Roots([root]).within(place) is not None) == inside


def test_no_root_allows_nothing(maze):
    assert Roots([]).within(str(maze / "data" / "in" / "people.csv")) is None


def test_a_folder_with_a_link_that_leads_out_is_outside(maze):
    roots = Roots([str(maze / "data")])
    assert roots.within(str(maze / "data" / "in")) and roots.within_whole(str(maze / "data" / "in")) is None
    (maze / "data" / "sound").mkdir(exist_ok=True)
    assert roots.within_whole(str(maze / "data" / "sound")) == str(maze / "data" / "sound")


@pytest.mark.parametrize(
    "uri", ["out/secret/a.jpg", "data/in/file", "data/to_out/a.jpg", "data/../data2/a.jpg", "data/loop/../../x"]
)
def test_one_photo_elsewhere_is_found_among_many(maze, tmp_path, uri):
    rows = [f"p{n},{maze}/data/in/{n}.jpg" for n in range(2000)]
    manifest = tmp_path / "people.csv"
    manifest.write_text("\n".join(["photo_id,uri", *rows]) + "\n")
    roots = Roots([str(maze / "data")])
    assert check_photos(str(manifest), roots) == 2000
    manifest.write_text("\n".join(["photo_id,uri", *rows, f"last,{maze}/{uri}"]) + "\n")
    if uri == "data/loop/../../x":
        uri = "x"
    with pytest.raises(Outside, match="photo 2,001 of the manifest"):
        check_photos(str(manifest), roots)


def test_what_lies_outside_is_answered_alike_whether_it_is_there_or_not(service, tmp_path):
    (tmp_path / "there.csv").write_text("photo_id,uri\n")
    answers = [
        service.ask("POST", "/v1/cohorts", json={**ONE, "manifest": place}, headers={"X-Request-ID": "same"})
        for place in (f"{tmp_path}/there.csv", f"{tmp_path}/gone.csv", "/etc/passwd", "s3://nobodys/x.csv", "../x.csv")
    ]
    assert {told(each).status for each in answers} == {403} and len({each.content for each in answers}) == 1
    inside = f"{service.settings.data_roots[0]}/people.csv"
    for model in (f"{tmp_path}/data/model", "/etc", "fahr-faceage", "agee"):
        answer = service.ask("POST", "/v1/cohorts", json={"manifest": inside, "models": [model]})
        assert told(answer).status == 403 and "/v1/models" in told(answer).detail


def test_nothing_may_be_named_until_the_operator_allows_it(tmp_path):
    for more in ({"results": None}, {"data_roots": None}):
        off = Service(tmp_path, **more)
        assert told(off.ask("POST", "/v1/cohorts", json=ONE)).status == 403
        assert told(off.ask("GET", f"/v1/cohorts/{new_id()}")).status == 404
    assert CohortSettings().data_roots == CohortSettings().model_roots == ()


@pytest.mark.parametrize(("results", "root"), [("/d/out", "/d"), ("/d", "/d/in"), ("s3://b/c", "s3://b"), ("/d", "/d")])
def test_cohorts_are_kept_apart_from_what_requests_may_name(results, root):
    with pytest.raises(ValidationError, match="lies within a root, or holds one"):
        CohortSettings(results=results, data_roots=(root,))
    with pytest.raises(ValidationError, match="lies within a root, or holds one"):
        CohortSettings(results=results, model_roots=(root,))


# Uploaded tables


def upload(service: Service, table: bytes, **more: Any) -> httpx.Response:
    files = {"manifest": ("people.csv", table, "text/csv")}
    return service.ask("POST", "/v1/cohorts", files=files, **{"data": {"models": ["age"]}, **more})


def test_photos_of_an_uploaded_table_obey_the_same_roots(service, tmp_path):
    for uri in ("/etc/passwd", f"{tmp_path}/data/../secret.jpg", "photos/1.jpg", "s3://other/1.jpg"):
        answer = upload(service, f"photo_id,uri\na,{tmp_path}/data/1.jpg\nb,{uri}\n".encode())
        assert told(answer).status == 403 and "photo 2 of the manifest" in told(answer).detail, uri
    assert not service.results.exists()


@pytest.mark.parametrize(
    ("table", "status"),
    [
        (b"", 400),
        (b"photo_id,uri\n", 400),
        (b"photo_id;uri\na;b\n", 400),
        (b"photo_id,uri,age\na,/d/1.jpg,200\n", 400),
        (b"photo_id,uri\na,/d/1.jpg\na,/d/2.jpg\n", 400),
        (b"photo_id,uri\na,\0\n", 415),
        ("photo_id,uri\na,b\n".encode("utf-16"), 415),
        (photo(), 415),
    ],
)
def test_a_table_that_is_no_manifest_is_refused_and_not_kept(service, table, status):
    answer = upload(service, table)
    assert told(answer).status == status and "/tmp" not in answer.text
    assert not service.results.exists()


def test_a_table_that_is_too_large_is_refused(tmp_path):
    answer = upload(Service(tmp_path, upload_bytes=1000), b"photo_id,uri\n" + b"a,/d/1.jpg\n" * 100)
    assert told(answer).status == 413 and "1,000 is the most" in told(answer).detail


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"json": {"manifest": "/d/x.csv"}}, 400),
        ({"json": {"manifest": "/d/x.csv", "models": []}}, 400),
        ({"json": {"manifest": "/d/x.csv", "models": ["a", "b", "c"]}}, 400),
        ({"json": {"manifest": 3, "models": ["age"]}}, 400),
        ({"json": {**ONE, "output": "/etc"}}, 400),
        ({"json": {**ONE, "manifest": "http://127.0.0.1/x.csv"}}, 400),
        ({"json": {**ONE, "manifest": "/d/\0.csv"}}, 400),
        ({"json": [ONE]}, 400),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400),
        ({"content": b"a,b", "headers": {"content-type": "text/csv"}}, 415),
        ({"files": {"manifest": b"a"}}, 400),
        ({"files": {"manifest": b"a"}, "data": {"models": ["a", "b", "c"]}}, 400),
        ({"files": [("manifest", b"a"), ("manifest", b"b")], "data": {"models": ["age"]}}, 400),
        ({"files": {"manifets": b"a"}, "data": {"models": ["age"]}}, 400),
        ({"files": {"photo": photo()}, "data": {"models": ["age"]}}, 400),
        ({"json": ONE, "headers": {"Idempotency-Key": ""}}, 400),
        ({"json": ONE, "headers": {"Idempotency-Key": "k" * 256}}, 400),
        ({"json": ONE, "headers": {"Idempotency-Key": "caf\u00e9".encode("latin-1")}}, 400),
    ],
)
def test_a_malformed_request_is_told_so(service, more, status):
    assert told(service.ask("POST", "/v1/cohorts", **more)).status == status


def test_without_a_cluster_a_sound_request_is_asked_to_come_again(service, tmp_path):
    place = f"{tmp_path}/data/people.csv"
    answer = service.ask("POST", "/v1/cohorts", json={**ONE, "manifest": place}, headers={"Idempotency-Key": "a b"})
    assert told(answer).status == 503 and int(answer.headers["retry-after"]) > 0
    answer = upload(service, f"photo_id,uri\na,{tmp_path}/data/1.jpg\n".encode())
    assert told(answer).status == 503


# Ids and keys


@pytest.mark.parametrize(
    "id",
    ["x", "..", "%2e%2e", "keys", "..%2fkeys", "0" * 31, "0" * 33, "F" * 32, "0" * 32, "0" * 32 + "%0a", "\u0660" * 32],
)
def test_an_id_that_nobody_was_given_is_404(service, id):
    service.cohort()
    claim(str(service.results), "0" * 64, "digest")
    before = left(service.results)
    for method, path in (("GET", ""), ("GET", "/scores"), ("DELETE", "")):
        assert told(service.ask(method, f"/v1/cohorts/{id}{path}")).status in (404, 405)
    assert left(service.results) == before


def test_ids_cannot_be_guessed_from_each_other():
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000 and all(len(id) == 32 for id in ids)
    bits = [bin(int(one, 16) ^ int(other, 16)).count("1") for one, other in itertools.pairwise(ids)]
    assert 60 < sum(bits) / len(bits) < 68  # 64 of 128 bits differ, on average


def test_one_key_is_one_cohort_whoever_comes_first(folder):
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: claim(folder, "a" * 64, str(n)), range(16)))
    assert len(set(claims)) == 1 and claimed(folder, "a" * 64) == claims[0]
    assert claimed(folder, "b" * 64) is None and claim(folder, "b" * 64, "0").id != claims[0].id


def test_the_same_key_is_the_same_cohort_another_request_409_and_another_token_another_key(service, scored, tmp_path):
    """Of a cohort that is done: nothing is submitted for it, so no cluster is asked."""

    def post(manifest: str, key: str = "k", **headers: str) -> httpx.Response:
        body = {**ONE, "manifest": f"{tmp_path}/data/{manifest}"}
        return service.ask("POST", "/v1/cohorts", json=body, headers={"Idempotency-Key": key, **headers})

    assert post("a.csv").status_code == 503 and not service.results.exists()  # no cluster: nothing was begun
    asked = cohorts_module._Asked(f"{tmp_path}/data/a.csv", None, ("age",))
    cohort = service.cohort(scored)
    place = service.results / "keys" / f"{cohorts_module._scoped('k', '')}.json"
    store.write_bytes(str(place), json.dumps({"id": cohort.id, "digest": asked.digest()}).encode())
    again = post("a.csv")
    assert again.status_code == 202 and again.json() == {"id": cohort.id}
    assert again.headers["location"] == f"/v1/cohorts/{cohort.id}"
    assert told(post("b.csv")).status == 409
    assert post("a.csv", key="l").status_code == post("b.csv", Authorization="Bearer other").status_code == 503
    cohort.begin_erasing()
    assert told(post("a.csv")).status == 409


# Erasing


def erasable(results: str, id: str) -> Cohort:
    """With a key, an uploaded table, scores, a failure."""
    cohort = Cohort(results, id)
    cohort.create({"options": {}, "roots": [], "key": "a" * 64})
    store.write_bytes(cohort.manifest, b"photo_id,uri\n")
    for number in range(30):
        store.write_bytes(store.join(cohort.output, "scores", f"{number}.parquet"), b"x")
    cohort.fail(1, "It failed.")
    return cohort


def everything(results: str) -> list[str]:
    if not store.is_s3(results):
        return [each for each in left(Path(results)) if each != "keys"]
    return [entry.location for entry in store.list_files(results)]


def test_nothing_is_left_of_what_is_erased_and_others_stay(folder):
    others = erasable(folder, new_id())
    store.delete(store.join(others.folder, "ended.json"))
    before = [each for each in everything(folder) if others.id in each]
    id = claim(folder, "a" * 64, "digest").id
    service = app(CohortSettings(results=folder, data_roots=("/d",)), {})
    erasable(folder, id)
    assert ask(service, "GET", f"/v1/cohorts/{id}").status_code == 200
    assert ask(service, "DELETE", f"/v1/cohorts/{id}").status_code == 204
    assert everything(folder) == before
    for method in ("GET", "DELETE"):
        assert told(ask(service, method, f"/v1/cohorts/{id}")).status == 404
    assert claim(folder, "a" * 64, "digest").id != id  # the key is free again


def test_what_a_dying_worker_still_writes_is_erased_too(tmp_path):
    cohort = erasable(str(tmp_path), new_id())
    stop = time.monotonic() + 0.5

    def late() -> None:
        while time.monotonic() < stop:
            with contextlib.suppress(OSError, Refused):  # its folder goes while it writes
                store.write_bytes(f"{cohort.output}/scores/late.parquet", b"x")

    writer = threading.Thread(target=late)
    writer.start()
    cohort.begin_erasing()
    cohort.erase()
    writer.join()
    assert left(tmp_path) == []


def test_erasing_that_was_cut_short_is_invisible_and_can_be_finished(service):
    cohort = erasable(str(service.results), new_id())
    cohort.begin_erasing()
    assert told(service.ask("GET", f"/v1/cohorts/{cohort.id}")).status == 404
    assert service.ask("DELETE", f"/v1/cohorts/{cohort.id}").status_code == 204
    assert left(service.results) == []


def test_two_who_erase_at_once_both_succeed_or_find_nothing(service):
    cohort = erasable(str(service.results), new_id())
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: service.ask("DELETE", f"/v1/cohorts/{cohort.id}").status_code, range(4)))
    assert set(answers) <= {204, 404} and 204 in answers
    assert left(service.results) == []


def test_a_cohort_that_may_still_run_is_not_erased_behind_its_job(service):
    """No cluster answers: it is gone for everybody, and erased when it can be."""
    cohort = service.cohort()
    answer = service.ask("DELETE", f"/v1/cohorts/{cohort.id}")
    assert told(answer).status == 503 and "retry-after" in answer.headers
    assert told(service.ask("GET", f"/v1/cohorts/{cohort.id}")).status == 404
    assert told(service.ask("DELETE", f"/v1/cohorts/{cohort.id}")).status == 503


def test_refusals_of_the_roots_are_the_users_to_mend():
    assert issubclass(Outside, Refused)
