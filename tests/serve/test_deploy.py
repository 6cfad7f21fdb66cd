"""`serve deploy` with serve/fahr.yaml, on a head of its own: a changed model is taken by the replicas that run."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fahr.models import load
from serve.schemas import ModelsAnswer
from tools.head import BIN, ROOT, Head, free_port
from tools.models import checkpoint
from tools.service import Load, until

SMALL = {"cpus": 0.1, "threads": 1, "least_replicas": 1, "most_replicas": 1}
YEARS = 0.01  # what answers of one model may differ by


@pytest.fixture
def config(models: dict[str, str]) -> dict[str, Any]:
    """As it stands in the repository, but for its places and sizes."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "serve" / "fahr.yaml").read_text())
    found |= {"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1", "port": free_port()}}
    args = found["applications"][0]["args"]
    args |= {"models": [{"checkpoint": models["age"]}], "host": "127.0.0.1", "tokens": None, "precision": "fp32"}
    args |= {"ingress_replicas": 1, "drain_s": 5, "aligner": SMALL | {"batch": 8}, "backbone": SMALL | {"batch": 16}}
    return found


@pytest.fixture
def deploy(head: Head, tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    def run(*line: str) -> None:
        done = subprocess.run(
            [str(BIN / "serve"), *line, "--address", head.address], env=head.environment, cwd=ROOT, text=True,
            capture_output=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def deployed(config: dict[str, Any]) -> None:
        (tmp_path / "fahr.yaml").write_text(yaml.safe_dump(config))
        run("deploy", str(tmp_path / "fahr.yaml"))

    yield deployed
    run("shutdown", "--yes")


def application(head: Head) -> dict[str, Any]:
    found: dict[str, Any] = head.told("/api/serve/applications/")["applications"]["fahr"]
    assert found["status"] not in ("DEPLOY_FAILED", "UNHEALTHY"), found["message"]
    return found


def replicas(head: Head) -> dict[str, set[tuple[str, int]]]:
    """Id and process of each, by deployment."""
    told = application(head)["deployments"]
    return {name: {(each["replica_id"], each["pid"]) for each in made["replicas"]} for name, made in told.items()}


@pytest.mark.parametrize(
    "together", [pytest.param(False, marks=pytest.mark.faults), pytest.param(True, marks=pytest.mark.evidence)]
)
def test_a_model_changed_by_serve_deploy_is_taken_by_the_same_replicas_and_no_answer_is_lost(
    head, config, deploy, models, photos, tmp_path, together
):
    args = config["applications"][0]["args"] | {"together": together}
    parts = ["ingress"] if together else ["aligner", "age", "ingress"]
    changed = {"name": "ingress", "user_config": {"models": {"age": [str(tmp_path / "new")]}}}
    if not together:
        changed = {"name": "age", "user_config": {"models": [str(tmp_path / "new")]}}
    config["applications"][0]["args"] = args
    new = checkpoint(tmp_path / "new", "age", seed=7)
    before, after = (load(place).digest for place in (models["age"], new))
    url = f"http://127.0.0.1:{config['http_options']['port']}"
    deploy(config)
    until(lambda: application(head)["status"] == "RUNNING", 300)
    assert httpx.get(f"{url}/readyz", trust_env=False).json() == {"status": "ready"}
    ran = replicas(head)
    assert {name: len(made) for name, made in ran.items()} == dict.fromkeys(parts, 1)
    config["applications"][0]["deployments"] = [changed]
    with Load(url, photos[0], 4) as under:
        until(lambda: len(under.answers) > 8)
        deploy(config)
        until(lambda: under.told()[-1]["model"]["digest"] == after)
        then = len(under.answers)
        until(lambda: len(under.answers) > then + 8)
    assert under.statuses() == {200}, [each for each in under.answers if each[0] != 200][:2]
    told = [each["model"]["digest"] for each in under.told()]
    assert told[0] == before and told[-1] == after and set(told) == {before, after}
    assert under.spread() <= YEARS, "one photo, and several answers of one model"
    assert replicas(head) == ran
    [listed] = ModelsAnswer.model_validate_json(httpx.get(f"{url}/v1/models", trust_env=False).content).models
    assert listed.digest == after
