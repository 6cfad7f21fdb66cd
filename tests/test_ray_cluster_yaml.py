"""ray-cluster.yaml as Ray itself reads it: schema, validator, command lines; and that the recipe for it fits on it."""

import copy
import importlib
import json
import re
import shlex
import subprocess
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray import autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config

from fahr.config import read_options
from jobs._photos import PhotoOptions

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "ray-cluster.yaml").read_text()
SCHEMA = json.loads((Path(autoscaler.__file__).parent / "ray-schema.json").read_text())


@pytest.fixture
def cluster() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(TEXT)
    return found


def prepared(cluster: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of it before it speaks to the cloud."""
    found: dict[str, Any] = prepare_config(copy.deepcopy(cluster))
    validate_config(found)
    return found


def test_ray_s_own_schema_and_validator_take_it(cluster):
    jsonschema.validate(cluster, SCHEMA)
    found = prepared(cluster)
    assert found["head_node_type"] == "head" and set(found["available_node_types"]) == {"head", "cpu", "gpu"}
    assert all(name in cluster for name in found if name != "docker"), "a value would be Ray's, which may move"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda each: each.update(max_worker=3), jsonschema.ValidationError),
        (lambda each: each["available_node_types"]["cpu"].update(resources={"CPU": 1.5}), jsonschema.ValidationError),
        (lambda each: each.update(head_node_type="heads"), ValueError),
        (lambda each: each.update(max_workers=1), ValueError),
    ],
)
def test_the_validator_would_have_seen_a_mistake(cluster, change, error):
    change(cluster)
    with pytest.raises(error):
        prepared(cluster)


def test_the_head_runs_no_work_and_is_alone(cluster):
    head = cluster["available_node_types"]["head"]
    assert head["resources"] == {"CPU": 0} and (head["min_workers"], head["max_workers"]) == (0, 0)
    started = start_options(cluster["head_start_ray_commands"][-1])
    assert started["head"] and (started["num_cpus"], started["num_gpus"]) == (0, 0)
    assert started["dashboard_host"] == "127.0.0.1", "the jobs API would be open to whoever reaches the head"


def ray_cli() -> Any:
    """Ray's command line. It brings Serve with it, whose own imports warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("ray.scripts.scripts").cli


def start_options(command: str) -> dict[str, Any]:
    """As Ray's own command line reads it."""
    line = command.rpartition("RAY_AUTH_MODE=token ray start ")[2]
    assert line != command, "without the token its ports run anybody's code"
    parsed: dict[str, Any] = ray_cli().commands["start"].make_context("start", shlex.split(line)).params
    return parsed


def test_workers_join_the_head_by_its_port_and_with_the_token(cluster):
    head = start_options(cluster["head_start_ray_commands"][-1])
    worker = start_options(cluster["worker_start_ray_commands"][-1])
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}" and not worker["head"]
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_limits_hold_together(cluster):
    types = cluster["available_node_types"]
    assert cluster["max_workers"] == sum(each["max_workers"] for each in types.values())
    assert all(0 <= each["min_workers"] <= each["max_workers"] for each in types.values())
    assert 5 <= cluster["idle_timeout_minutes"] <= 60
    assert types["gpu"]["resources"]["GPU"] and "GPU" not in types["cpu"]["resources"]
    assert "InstanceMarketOptions" not in types["gpu"]["node_config"], "training restarts when a machine goes"


def test_one_image_on_every_machine(cluster):
    """Ray refuses nodes whose Python differs."""
    assert len({each["node_config"]["ImageId"] for each in cluster["available_node_types"].values()}) == 1


def test_setup_installs_the_lock_with_hashes_from_files_that_are_copied(cluster):
    mounts = cluster["file_mounts"]
    for place in mounts.values():
        assert place.startswith("~") or (ROOT / place).exists(), place
    assert "." not in mounts.values(), "Ray would hash and copy the environment, and people's photos in out/"
    script = cluster["setup_commands"][0].split()[-1]
    text = (ROOT / mounts[script]).read_text()
    assert mounts["~/fahr/requirements.lock"] == "requirements.lock" and "--require-hashes" in text
    copied = {place.removeprefix("~/fahr/") for place in mounts if place.startswith("~/fahr/")}
    project = (ROOT / "pyproject.toml").read_text()
    needed = {"pyproject.toml", *re.findall(r'^(?:readme|license-files) = \[?"(\S+?)"', project, re.M)}
    needed |= set(re.findall(r'packages = \["(\w+)/fahr", "(\w+)", "(\w+)"\]', project)[0])
    assert needed <= copied, "the sources could not be installed"


def test_every_command_is_shell(cluster):
    for name, commands in cluster.items():
        for command in commands if name.endswith("_commands") else ():
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_every_field_is_explained_and_every_field_that_ray_knows_is_there():
    comments: list[str] = []
    for line in TEXT.splitlines():
        if line.lstrip().startswith("#"):
            comments.append(line)
        elif key := re.match(r"^ *([a-z_]+|ImageId|IamInstanceProfile):", line):
            name = key[1]
            of_a_type = name in ("head", "cpu", "gpu", "available_node_types", "provider", "auth")
            assert of_a_type or any(re.search(rf"# (\w+, )*{name}\b.*:", each) for each in comments), name
    known = set(SCHEMA["properties"]) - {"no_restart"}  # which Ray's schema says nobody may set
    assert known == {name for name in known if re.search(rf"^(# )?{name}:", TEXT, re.M)}


def line_of(text: str, program: str) -> list[str]:
    """The words of the line in a comment that begins with `program`, put together again."""
    found = re.search(rf"{program}((?:.*\\\n)*.*)", text)
    assert found
    return shlex.split(re.sub(r"\\\n#? *", " ", found[1]))


def test_the_lines_above_the_file_are_lines_that_ray_takes():
    words = line_of(TEXT, "ray job submit ")
    parsed = ray_cli().commands["job"].commands["submit"].make_context("submit", words).params
    assert parsed["address"] == "http://localhost:8265" and parsed["working_dir"] == "."
    assert list(parsed["entrypoint"])[:2] == ["python", "jobs/pipeline.py"]
    for name in re.findall(r"^#   (?:RAY_AUTH_MODE=token )?ray ([a-z-]+)", TEXT, re.M):
        assert name in ray_cli().commands, name


def test_the_cluster_s_recipe_fits_on_the_machines_that_are_up_from_the_start(cluster, monkeypatch):
    """Jobs count what is up and refuse the rest; that a pipeline starts is said here."""
    monkeypatch.chdir(ROOT)
    words = line_of((ROOT / "configs" / "cluster_pipeline.yaml").read_text(), "ray job submit ")
    pipeline = importlib.import_module("jobs.pipeline")
    options = read_options(pipeline.Options, words[words.index("jobs/pipeline.py") + 1 :])
    up = [each for each in cluster["available_node_types"].values() for _ in range(each["min_workers"])]
    cpus, gpus = (sum(each["resources"].get(name, 0) for each in up) for name in ("CPU", "GPU"))
    stages = pipeline.Chain(pipeline.STEPS, options.sections(), options.output).asked()
    assert set(stages) >= {"align", "pretrain", "age", "survival", "score"}
    for name, each in stages.items():
        if not hasattr(each, "workers"):
            continue  # it runs where the driver does
        assert each.workers * each.cpus_per_worker + 1 <= cpus and each.workers * each.gpus_per_worker <= gpus, name
        if each.gpus_per_worker:
            assert each.workers * each.cpus_per_worker <= cluster["available_node_types"]["gpu"]["resources"]["CPU"]
    assert isinstance(stages["align"], PhotoOptions) and stages["align"].gpus_per_worker == 0
