"""Jobs really submitted: `ray start --head`, the jobs API with its token, code shipped from the working directory."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fahr import store
from fahr.cohorts.synthetic import make_cohort
from fahr.models import create, load, save
from tools.faces import commit_faces, jpegs, pictures

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head node of its own, on ports of its own; its token lies in a private home."""
    home = tmp_path_factory.mktemp("home")
    session = tmp_path_factory.mktemp("ray")  # Unix sockets need short paths; pytest's are short enough under /tmp
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(home),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-for-this-test",
        "RAY_TMPDIR": str(session),
        "NO_PROXY": "127.0.0.1,localhost",
    }
    port, dashboard = _free_port(), _free_port()
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=4",
        "--object-store-memory=200000000", "--disable-usage-stats",
        # The agent that takes submissions has a fixed port, which another Ray on this machine holds.
        f"--dashboard-agent-listen-port={_free_port()}", f"--ray-client-server-port={_free_port()}",
    ]  # fmt: skip
    log = (session / "head.log").open("w")
    node = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(dashboard, node, session / "head.log")
        yield environment, f"http://127.0.0.1:{dashboard}"
    finally:
        os.killpg(node.pid, signal.SIGTERM)  # the head and what it started, nothing else
        try:
            node.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)
        log.close()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, node: subprocess.Popen[bytes], log: Path) -> None:
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if node.poll() is not None:
            raise RuntimeError(f"the head ended: {log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=2)
            return
        except urllib.error.HTTPError:
            return  # it asks for the token: it is up
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("the head did not come up in 120 s")


def submit(head, *line: str, program: str = "python", **more: str) -> subprocess.CompletedProcess[str]:
    environment, address = head
    command = [
        str(BIN / "ray"), "job", "submit", "--address", address, "--working-dir", ".",
        "--runtime-env", "cluster/runtime-env.yaml", "--", program, *line,
    ]  # fmt: skip
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            command, cwd=ROOT, env={**environment, **more}, capture_output=True, text=True, timeout=420
        )
        # The dashboard answers before the node's agent has registered with it.
        if "No available agent" not in done.stdout + done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def test_align_runs_as_a_submitted_job(head, tmp_path):
    manifest, _ = make_cohort(6, 1, seed=0, out=tmp_path / "people")
    done = submit(
        head, "jobs/align.py", "--manifest", str(manifest), "--output", str(tmp_path / "out"), "--detector", "mtcnn",
        "--workers", "1", "--cpus-per-worker", "0.5", "--memory-per-worker", "0.1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "succeeded" in done.stdout
    assert "ray: joined the cluster at" in done.stdout, "the job started a second cluster of its own"
    assert re.search(r"align: rows_in 6 = rows_out [56]", done.stdout), done.stdout[-2000:]
    assert sum(table.num_rows for table in store.read_units(str(tmp_path / "out"), "faces")) >= 5


def test_index_runs_as_a_submitted_job_and_a_refusal_fails_it(head, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    done = submit(head, "jobs/index.py", "--photos", str(tmp_path / "photos"), "--output", str(tmp_path / "m.parquet"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "m.parquet").exists()
    refused = submit(head, "jobs/index.py", "--photos", str(tmp_path / "none"), "--output", str(tmp_path / "n.parquet"))
    assert refused.returncode != 0 and "no such file or folder" in refused.stdout + refused.stderr


def test_pretrain_runs_as_a_submitted_job(head, tmp_path):
    commit_faces(str(tmp_path / "aligned"), jpegs(pictures(64)))
    done = submit(
        head, "jobs/pretrain.py", "--faces", str(tmp_path / "aligned"), "--output", str(tmp_path / "run"),
        "--model", "vit_tiny", "--patch", "8", "--samples", "64", "--global-batch", "16", "--micro-batch", "8",
        "--decoder.width", "32", "--decoder.depth", "1", "--decoder.num-heads", "2", "--judged-faces", "20",
        "--judgements", "1", "--workers", "2", "--cpus-per-worker", "0.5", "--memory-per-worker", "0.1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "ray: joined the cluster at" in done.stdout and "workers 2" in done.stdout + done.stderr
    assert load(str(tmp_path / "run" / "checkpoint"), task="mae").config.metrics["samples"] == 64


def test_fine_tuning_and_scoring_join_the_cluster_when_submitted(head, tmp_path):
    """One submission for the three, since each costs a minute: their plans, against the resources of the cluster."""
    commit_faces(str(tmp_path / "aligned"), jpegs(pictures(8)))
    save(create("vit_tiny", patch=16, size=32, task="age", seed=0), str(tmp_path / "age"), config={"detector": "mtcnn"})
    small = "--workers 2 --cpus-per-worker 0.5 --memory-per-worker 0.1 --dry-run"
    faces = f"--faces {tmp_path}/aligned --output {tmp_path}/out {small}"
    lines = [f"python jobs/finetune_{what}.py {faces} --init random" for what in ("age", "survival")]
    lines.append(f"python jobs/score.py {faces} --models {tmp_path}/age")
    done = submit(head, "-ec", "; ".join(lines), program="sh")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("ray: joined the cluster at") == 3, done.stdout[-3000:]
    for stage in ("finetune_age", "finetune_survival", "score"):
        assert re.search(rf"^{stage}: .*CPU", done.stdout, re.M), done.stdout[-3000:]


def test_without_the_token_the_door_is_shut(head, tmp_path):
    refused = submit(head, "jobs/index.py", "--help", RAY_AUTH_TOKEN="wrong")
    assert refused.returncode != 0 and "succeeded" not in refused.stdout
