"""Replicas come with the work and go without it, and nobody's answer is lost on the way."""

import json

import pytest
from ray import serve

from tools.service import Load, until

CLIENTS, IN_FLIGHT = 32, 40  # the second as in conftest.py


def running(name: str) -> int:
    return int(serve.status().applications["fahr"].deployments[name].replica_states.get("RUNNING", 0))


@pytest.mark.faults
def test_thirty_two_clients_take_replicas_from_one_to_two_and_idle_returns_to_one(served, photos):
    """Of the aligner, which is what the machine is busy with: detection takes longer than a tiny network."""
    until(lambda: running("aligner") == 1)
    with Load(served.url, photos[0], CLIENTS) as load:
        until(lambda: running("aligner") == 2)
        until(lambda: len(load.answers) > 50)
    assert load.statuses() == {200}, [each for each in load.answers if each[0] != 200][:3]
    assert load.spread() <= 0.01, "one photo, several answers"
    with Load(served.url, photos[0], 1) as quiet:  # one client goes on while a replica is drained
        until(lambda: running("aligner") == 1)
        until(lambda: quiet.answers)
    assert quiet.statuses() == {200}


def test_more_than_can_be_let_in_is_503_at_once_and_nobody_waits_in_vain(served, photos):
    with Load(served.url, photos[0], IN_FLIGHT + 16) as load:
        until(lambda: sum(status == 503 for status, _, _ in load.answers) > 50)
        until(lambda: sum(status == 200 for status, _, _ in load.answers) > 10)
    assert load.statuses() == {200, 503}
    told = json.loads(next(body for status, _, body in load.answers if status == 503))
    assert told["type"] == "/problems/busy" and f"{IN_FLIGHT} requests are being answered" in told["detail"]
    waits = sorted(seconds for status, seconds, _ in load.answers if status == 503)
    assert waits[len(waits) // 2] < 2, "the 503 came late"  # < 0.1 s on a quiet machine: benchmarks/serve.py
