"""Replicas come with the work and go without it, and nobody's answer is lost on the way."""

import json
import time

from ray import serve

from tools.service import Load, until

CLIENTS, DELAY_S = 32, 4


def running(name: str) -> int:
    return int(serve.status().applications["fahr"].deployments[name].replica_states.get("RUNNING", 0))


def test_thirty_two_clients_take_replicas_from_one_to_two_and_idle_returns_to_one(served, photos):
    """Of the aligner, which is what the machine is busy with: detection takes longer than a tiny network."""
    stage = {"batch": 8, "cpus": 0.1, "threads": 1, "most_replicas": 2}
    served.deploy(aligner={**stage, "upscale_delay_s": 1, "downscale_delay_s": DELAY_S})
    until(lambda: running("aligner") == 1)
    try:
        began = time.monotonic()
        with Load(served.url, photos[0], CLIENTS) as load:
            until(lambda: running("aligner") == 2, 60)
            took = time.monotonic() - began
            until(lambda: len(load.answers) > 50)
        assert took <= 60, f"the second replica came after {took:.0f} s"
        assert load.statuses() == {200}, [each for each in load.answers if each[0] != 200][:3]
        assert load.spread() <= 0.01, "one photo, several answers"
        idle = time.monotonic()
        with Load(served.url, photos[0], 1) as quiet:  # one client goes on while a replica is drained
            until(lambda: running("aligner") == 1, 60)
        assert time.monotonic() - idle >= DELAY_S - 1 and quiet.statuses() == {200}
    finally:
        served.deploy()


def test_more_than_can_be_let_in_is_503_at_once_and_nobody_waits_in_vain(served, photos):
    served.deploy(most_in_flight=4)
    try:
        with Load(served.url, photos[0], 24) as load:
            until(lambda: sum(status == 503 for status, _, _ in load.answers) > 50)
            until(lambda: sum(status == 200 for status, _, _ in load.answers) > 10)
    finally:
        served.deploy()
    assert load.statuses() == {200, 503}
    told = json.loads(next(body for status, _, body in load.answers if status == 503))
    assert told["type"] == "/problems/busy" and "4 requests are being answered" in told["detail"]
    waits = sorted(seconds for status, seconds, _ in load.answers if status == 503)
    assert waits[len(waits) // 2] < 0.5, "the 503 came late"  # < 0.1 s on a quiet machine: benchmarks/serve.py
