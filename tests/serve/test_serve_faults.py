"""A replica killed under load: a client that tries again on 503 loses nothing."""

import json

import pytest
import ray

from tools.service import Load, replicas, until


@pytest.mark.faults
@pytest.mark.parametrize("which", ["age", "aligner"])
def test_a_replica_killed_under_load_costs_at_most_a_503_that_a_client_repeats(served, photos, which):
    with Load(served.url, photos[0], 8) as load:
        until(lambda: len(load.answers) > 10)
        before = until(lambda: len(found := replicas(which)) == 1 and found)
        ray.kill(ray.get_actor(before[0], namespace="serve"))
        until(lambda: replicas(which) and replicas(which) != before)
        then = len(load.answers)
        until(lambda: sum(status == 200 for status, _, _ in load.answers[then:]) > 10)
    assert load.statuses() <= {200, 503}, [each for each in load.answers if each[0] not in (200, 503)][:3]
    assert load.spread() <= 0.01, "one photo, several answers"
    for status, _, body in load.answers:
        assert status == 200 or json.loads(body)["type"] == "/problems/busy"
