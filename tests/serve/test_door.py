"""`python -m serve`: one process does all the work, behind an HAProxy that is open to nobody but its clients."""

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from fahr.client import Client
from fahr.faces import AlignedFace, Aligner
from fahr.scores import Team, plan_models
from serve import _haproxy, door
from tools.running import Running, running
from tools.service import Load, photo_of, resident_mib, until

LOOPBACK = {"0100007F"}
YEARS = 0.01
READY_S = 45  # from cold, on a quiet machine; tests share theirs
CLIENTS = 32


@pytest.fixture(scope="module")
def service(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, list]]:
    """It, and what was said at /readyz from the first moment on: status, kind of words, seconds."""
    with running(
        list(models.values()), tmp_path_factory.mktemp("serve"), "--most-replicas", "2", "--precision", "fp32"
    ) as made:
        said = []
        until(lambda: _asked(made, said) == 200, 4 * READY_S)
        yield made, said


def _asked(made: Running, said: list[tuple[int, str, float]]) -> int:
    assert made.process.poll() is None, made.log.read_text()
    began = time.monotonic()
    try:
        reply = httpx.get(f"{made.url}/readyz", timeout=30, trust_env=False)
    except httpx.ConnectError:
        return 0
    said.append((reply.status_code, reply.headers["content-type"], time.monotonic() - began))
    return reply.status_code


def test_readyz_is_503_as_problem_json_from_the_first_moment_until_it_is_200(service):
    _, said = service
    assert {status for status, _, _ in said} == {200, 503}, said
    assert {kind for status, kind, _ in said if status == 503} == {"application/problem+json"}


def test_answers_are_those_of_the_networks_themselves(service, models, photos):
    made, _ = service
    plans = plan_models([models["age"]])
    cut = plans[0].cut
    faces = Aligner(cut.detector, cut.size, cut.convention).align(photos)
    expected = Team(plans, batch=16, precision="fp32").values(
        [{cut: each.face} for each in faces if isinstance(each, AlignedFace)]
    )
    for photo, years in zip(photos, expected["age"], strict=True):
        reply = httpx.post(f"{made.url}/v1/face-age", files={"photo": photo}, timeout=60, trust_env=False)
        assert reply.status_code == 200, reply.text
        assert abs(reply.json()["face_age"] - years) <= YEARS
        assert len(reply.headers.get_list("x-request-id")) == 1


def test_its_door_listens_on_this_machine_alone(service):
    made, _ = service
    assert made.listening("/haproxy ") == LOOPBACK
    assert made.listening("ray::ServeReplica") >= LOOPBACK  # and what Ray itself opens between its processes
    admin = [each for each in Path("/tmp/haproxy-serve").rglob("admin.sock") if each.is_socket()]
    assert admin and all(each.stat().st_mode & 0o077 == 0 for each in admin if _is_of(made, each))


def _is_of(made: Running, socket_of_haproxy: Path) -> bool:
    return any(str(socket_of_haproxy.parent) in line for line in made.processes().values())


def test_a_head_has_ten_seconds_and_large_ones_are_refused_by_us(service):
    made, _ = service
    assert _raw(made, b"this is no request\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    began = time.monotonic()
    assert _raw(made, b"POST /v1/face-age HTTP/1.1\r\nHost: a\r\nX-Slow: ").startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < _haproxy.HEAD_S + 5
    large = httpx.get(f"{made.url}/healthz", headers={"X-Large": "a" * 40_000}, timeout=30, trust_env=False)
    assert large.status_code == 431 and large.json()["type"] == "/problems/headers"


def _raw(made: Running, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", int(made.url.rpartition(":")[2])), timeout=30) as end:
        end.sendall(sent)
        return b"".join(iter(lambda: end.recv(65536), b""))


@pytest.mark.faults
def test_clients_take_it_from_one_process_to_two_and_lose_no_answer(service, photos):
    made, _ = service

    def replicas() -> int:
        return sum("ray::ServeReplica" in line for line in made.processes().values())

    assert replicas() == 1
    with Load(made.url, photos[0], CLIENTS) as load:
        until(lambda: replicas() == 2)
        then = len(load.answers)
        until(lambda: len(load.answers) > then + 2 * CLIENTS)
    assert load.statuses() == {200}, [each for each in load.answers if each[0] != 200][:3]
    assert load.spread() <= YEARS, "one photo, several answers"


def test_the_end_is_clean_and_leaves_no_process(service):
    """Last: it ends the service."""
    made, _ = service
    made.process.send_signal(signal.SIGINT)
    assert made.process.wait(60) == 0, made.log.read_text()
    until(lambda: not made.processes())
    assert "Traceback" not in made.log.read_text()


@pytest.mark.faults
def test_its_only_process_killed_loses_nothing_for_our_client_and_the_whole_killed_leaves_no_haproxy(
    models, photos, tmp_path
):
    """Who asked on a connection that served before sees it end without a word, as HTTP has it, and asks again."""
    with running([models["age"]], tmp_path, "--most-replicas", "1") as made:
        until(lambda: _asked(made, []) == 200, 4 * READY_S)

        def numbers(title: str) -> list[int]:
            return [number for number, line in made.processes().items() if title in line]

        ages: list[float] = []

        def ask(patient: Client) -> None:
            while not over.is_set():
                ages.append(patient.face_age(photos[:1]).face_age)

        over = threading.Event()
        with Client(made.url) as patient, ThreadPoolExecutor(2) as pool, Load(made.url, photos[0], 6) as load:
            asking = [pool.submit(ask, patient) for _ in range(2)]
            try:
                until(lambda: len(load.answers) > 10)
                [worker] = numbers("ray::ServeReplica")
                os.kill(worker, signal.SIGKILL)
                until(lambda: numbers("ray::ServeReplica") not in ([], [worker]))
                then, before = len(load.answers), len(ages)
                until(lambda: sum(status == 200 for status, _, _ in load.answers[then:]) > 10)
                until(lambda: len(ages) > before + 4)
            finally:
                over.set()
            for each in asking:
                each.result(90)  # raises what a client was told that did not get its answer
        lost = [body for status, _, body in load.answers if status == 0]
        assert len(lost) <= 6 and all("disconnected" in each for each in lost), lost
        others = [(status, body) for status, _, body in load.answers if status not in (0, 200)]
        assert all(status == 503 and json.loads(body)["type"] == "/problems/busy" for status, body in others), others
        assert max(ages) - min(ages) <= YEARS

        # Whoever started it is killed outright: nothing may answer for nobody.
        [door_keeper] = numbers("/haproxy ")
        made.process.kill()
        until(lambda: door_keeper not in made.processes())


@pytest.mark.evidence
def test_memory_of_every_process_stays_flat_over_fifty_thousand_requests(models, tmp_path):
    """Small photos: it is the requests that count. oneDNN keeps what it has made for each shape, batches come in all
    sizes, and rare ones come late: so the second half is judged, and all of it is told."""
    with running(list(models.values()), tmp_path, "--most-replicas", "1") as made:
        until(lambda: _asked(made, []) == 200, 4 * READY_S)

        def sizes() -> dict[int, float]:
            return {number: resident_mib(number) for number in made.processes()}

        seen, began = [sizes()], time.monotonic()
        with Load(made.url, photo_of(0, size_px=112), 16) as load:
            for wanted in range(5_000, 50_001, 5_000):
                until(lambda wanted=wanted: len(load.answers) >= wanted, 3_600)
                seen.append(sizes())
        took, titles = time.monotonic() - began, {number: line[:40] for number, line in made.processes().items()}
        assert load.statuses() == {200} and load.spread() <= YEARS
    print(f"{len(load.answers):,} answers, {len(load.answers) / took:.0f} a second")
    for number, title in titles.items():
        line = [round(each.get(number, 0)) for each in seen]
        if max(line) - min(line) > 2:
            print(f"{title:40s} MiB every 5,000: {line}")
    # From the 5,000th on: at first HAProxy takes a new configuration, and with it a new process.
    assert all(each.keys() == seen[1].keys() for each in seen[1:]), "a process was replaced"
    grown = {titles[number]: round(mib - seen[5][number]) for number, mib in seen[-1].items()}
    assert all(mib < 25 for mib in grown.values()), grown  # 1 KiB a request


def test_a_configuration_that_opens_what_is_not_known_starts_nothing(tmp_path):
    known = re.sub(r"\{\{.*?\}\}", "1", HAPROXY_CONFIG_TEMPLATE)  # as Ray fills it in
    assert "bind 127.0.0.1:" in _haproxy.closed(known, str(tmp_path))
    with pytest.raises(SystemExit, match="statistics on all interfaces was not found"):
        _haproxy.closed(known.replace("listen stats", "listen counts"), str(tmp_path))


def test_without_haproxy_rays_own_proxy_serves(monkeypatch, tmp_path):
    monkeypatch.setattr(door, "find_spec", lambda name: None)
    assert door.prepare(str(tmp_path)) == {} and not list(tmp_path.iterdir())
