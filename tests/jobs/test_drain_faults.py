"""A cloud gives notice that it takes a machine away: a state is written for it, and the run goes on elsewhere.

`make faults`. The notice is Ray's own, by the command that a node's termination hook would call.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fahr.training.journal import read_rows
from jobs import _train, pretrain
from tools.runs import PRETRAINING, SLOWLY, Beside, apart, assert_same_curve, curve, newest

pytestmark = pytest.mark.timeout(1500)  # minutes of patience, for a machine that is busy
HOUR = 60.0  # minutes between two states: none but that of the notice is written in such a run


def drive(faces: str, output: str) -> None:
    """Three nodes of one CPU: two get a worker each, and one of these, not the head, is announced to go, and goes."""
    import ray
    from ray.cluster_utils import Cluster

    seen = [0]  # samples, as the progress bar is told
    show = _train._Bar.show

    def noted(bar: _train._Bar, row: _train.Row) -> None:
        seen[0] = row.get("position", seen[0])
        show(bar, row)

    _train._Bar.show = noted  # type: ignore[method-assign]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    changes = {"workers": 2, "checkpoint_minutes": HOUR, "judgements": 1}  # judged, and so saved, at the end alone
    options = pretrain.Options.model_validate({**PRETRAINING, **SLOWLY, **changes, "faces": faces, "output": output})
    run = Beside(lambda: pretrain.main(options))
    run.until(lambda: seen[0] >= 16 * 5)
    assert newest(output) == 0
    free = ray._private.state.available_resources_per_node()
    taken = next(node for node in nodes if not free[node.node_id].get("CPU"))
    announced, began = seen[0], time.monotonic()
    subprocess.run(
        [Path(sys.executable).with_name("ray"), "drain-node", "--address", cluster.address, "--node-id", taken.node_id,
         "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "60"],
        check=True,
    )  # fmt: skip
    state = run.until(lambda: newest(output))
    waited = time.monotonic() - began
    run.until(lambda: seen[0] > state)  # the machine is used as long as it is there
    cluster.remove_node(taken, allow_graceful=False)
    run.end()
    print(json.dumps({"announced": announced, "state": state, "waited": waited}))


@pytest.mark.faults
def test_a_node_announced_to_go_leaves_a_state_from_which_the_run_goes_on_elsewhere(
    noise: str, calm_curve: np.ndarray, tmp_path: Path
) -> None:
    output = str(tmp_path / "run")
    told = apart(__file__, "drive", noise, output)
    drained = json.loads(next(line for line in told.splitlines() if line.startswith('{"announced"')))
    print(f"from the notice to a state: {drained['waited']:.1f} s, command included")
    assert drained["announced"] <= drained["state"] < PRETRAINING["samples"]
    went_on = re.findall(r"goes on from sample ([\d,]+), workers (\d)", told)
    ((sample, workers),) = went_on
    assert int(sample.replace(",", "")) >= drained["state"] and workers == "2", told  # a later one may follow the first
    assert_same_curve(curve(output), calm_curve)
    assert {row["workers"] for row in read_rows(output) if row["kind"] == "step"} == {2}
