"""Flags, variables and files give one typed configuration, or one message that says everything that is wrong."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fahr.config import JobOptions, Location, Options, every_option, option, read_options
from fahr.errors import Refused

ROOT = Path(__file__).resolve().parents[1]


class Training(Options):
    """How to train."""

    rate: float = option(1e-3, help="learning rate", unit="per 256 samples", gt=0)


class Example(JobOptions):
    """An example."""

    photos: Location = option(help="folder or bucket")
    output: Location = option("out", help="where results go", result=False)
    size: int = option(112, help="side of the face", unit="px", ge=16)
    detector: Literal["mtcnn", "yunet"] = option("mtcnn", help="which detector")
    models: list[str] = option(["age"], help="which models")
    limit: int | None = option(None, help="stop after so many", unit="rows", off="none", ge=1)
    training: Training = option(Training(), help="how to train")


@pytest.fixture(autouse=True)
def no_stray_variables(monkeypatch):
    for name in [each for each in os.environ if each.startswith("FAHR_")]:
        monkeypatch.delenv(name)


def refusal(*arguments: str) -> str:
    with pytest.raises(Refused) as caught:
        read_options(Example, arguments)
    return str(caught.value)


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path, monkeypatch):
    file = tmp_path / "a.yaml"
    file.write_text("photos: /p\nsize: 32\nlimit: 7\ndetector: yunet\ntraining: {rate: 2}\n")
    monkeypatch.setenv("FAHR_SIZE", "64")
    monkeypatch.setenv("FAHR_LIMIT", "8")
    monkeypatch.setenv("FAHR_TRAINING__RATE", "3")
    options = read_options(Example, ["--config", str(file), "--size", "128"])
    assert (options.size, options.limit, options.detector, options.training.rate) == (128, 8, "yunet", 3.0)


def test_options_made_in_code_read_no_variable(monkeypatch):
    monkeypatch.setenv("FAHR_SIZE", "64")
    assert Example(photos="/p").size == 112


def test_relative_locations_become_absolute_at_the_border(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = read_options(Example, ["--photos", "in/./photos", "--output", "s3://bucket/key/"])
    assert options.photos == str(tmp_path / "in" / "photos")
    assert options.output == "s3://bucket/key"


@pytest.mark.parametrize("words", [["--models", "a", "b"], ["--models", "a,b"], ["--models", "a", "--models", "b"]])
def test_lists_are_written_in_any_of_three_ways(words):
    assert read_options(Example, ["--photos", "p", *words]).models == ["a", "b"]


def test_lists_in_variables_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("FAHR_MODELS", "a, b")
    assert read_options(Example, ["--photos", "p"]).models == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ([], ["--photos", "required", "FAHR_PHOTOS"]),
        (["--photos", "p", "--szie", "7"], ["--szie", "'--size'"]),
        (["--photos", "p", "--size", "7"], ["--size", "'7'", "16", "px"]),
        (["--photos", "p", "--size", "big"], ["--size", "'big'", "integer"]),
        (["--photos", "p", "--size", "7", "--detector", "c"], ["--size", "--detector", "'mtcnn' or 'yunet'"]),
        (["--photos", "p", "--training.rate", "0"], ["--training.rate", "greater than 0"]),
        (["--photos", "p", "stray"], ["stray", "no such option"]),
        (["--photos", "p", "\n"], ["no such option"]),
        (["--photos"], ["--photos", "expected"]),
        (["--photos", "gs://b/k"], ["gs://b/k", "s3://"]),
        (["--photos", ""], ["empty location"]),
        (["--photos", "p", "--config", "/nowhere.yaml"], ["/nowhere.yaml", "no such file"]),
    ],
)
def test_wrong_flags_are_refused_with_value_rule_and_remedy(arguments, fragments):
    message = refusal(*arguments)
    assert all(each in message for each in fragments), message


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("photos: p\nsise: 3\ntraining: {rat: 2}", ["sise", "'size'", "training.rat", "'rate'"]),
        ("photos: p\nsize: 3", ["size", "3", "16"]),
        ("photos: p\nsize: 32\nsize: 33", ["size", "twice"]),
        ("- a\n- b", ["list", "names and values"]),
        ("photos: [", ["not valid YAML"]),
        ("config: other.yaml", ["cannot name another"]),
        (b"\xff\xfe", ["not valid YAML"]),
    ],
)
def test_wrong_files_are_refused_by_name_and_key(tmp_path, text, fragments):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal("--config", str(file))
    assert "recipe.yaml" in message
    assert all(each in message for each in fragments), message


def test_an_unknown_variable_is_refused_with_the_nearest_name_but_weights_are_reserved(monkeypatch):
    monkeypatch.setenv("FAHR_WEIGHTS", "/w")
    monkeypatch.setenv("FAHR_NO_NUMBA", "1")
    read_options(Example, ["--photos", "p"])
    monkeypatch.setenv("FAHR_DETECTR", "yunet")
    assert "FAHR_DETECTR" in refusal("--photos", "p") and "FAHR_DETECTOR" in refusal("--photos", "p")


def test_variables_are_refused_in_any_case_and_inside_groups(monkeypatch):
    monkeypatch.setenv("fahr_phtos", "x")
    assert "fahr_phtos" in refusal("--photos", "p")
    monkeypatch.delenv("fahr_phtos")
    monkeypatch.setenv("FAHR_TRAINING", '{"rat": 2}')
    assert "training.rat: no such option. Did you mean 'rate'?" in refusal("--photos", "p")


def test_the_documented_off_value_switches_an_option_off_everywhere(tmp_path, monkeypatch):
    file = tmp_path / "a.yaml"
    file.write_text("photos: p\nlimit: 7\n")
    assert read_options(Example, ["--config", str(file), "--limit", "none"]).limit is None
    monkeypatch.setenv("FAHR_LIMIT", "none")
    assert read_options(Example, ["--config", str(file)]).limit is None


def test_yaml_merge_keys_are_understood(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("photos: p\ntraining: &d {rate: 2}\n")
    assert read_options(Example, ["--config", str(file)]).training.rate == 2
    file.write_text("training: {<<: {rate: 3}}\nphotos: p\n")
    assert read_options(Example, ["--config", str(file)]).training.rate == 3


def test_a_wrong_variable_is_named_as_the_source(monkeypatch):
    monkeypatch.setenv("FAHR_SIZE", "tall")
    assert refusal("--photos", "p").startswith("FAHR_SIZE = 'tall'")


@given(
    size=st.integers(16, 4096),
    rate=st.floats(1e-6, 1e3),
    models=st.lists(st.text("ab_/.: #'\"é", min_size=1), max_size=3),
)
def test_what_is_written_is_read_back_with_the_same_digest(tmp_path_factory, size, rate, models):
    options = Example(photos="/p", size=size, models=models, training=Training(rate=rate))
    file = str(tmp_path_factory.mktemp("o") / "options.yaml")
    options.write(file)
    again = read_options(Example, ["--config", file])
    assert again.digest() == options.digest() and again.training.rate == rate and again.models == models


def test_the_digest_changes_with_what_decides_and_not_with_where_or_how():
    base = Example(photos="/p")
    assert base.digest() == Example(photos="/p", output="/elsewhere", dry_run=True).digest()
    assert base.digest() != Example(photos="/p", size=113).digest()
    assert base.digest() != Example(photos="/p", training=Training(rate=2)).digest()


def job_options() -> dict[str, type[Options]]:
    found = {}
    for file in sorted((ROOT / "jobs").glob("[a-z]*.py")):
        module = importlib.import_module(f"jobs.{file.stem}")
        found[file.stem] = module.Options
    assert found
    return found


@pytest.mark.parametrize("job", sorted(each.stem for each in (ROOT / "jobs").glob("[a-z]*.py")))
def test_help_explains_every_option_of_every_job(job, capsys):
    options = job_options()[job]
    with pytest.raises(SystemExit) as ended:
        read_options(options, ["--help"], program=job)
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for path, info in every_option(options):
        flag = "--" + ".".join(path).replace("_", "-")
        assert flag in text
        assert len(info.description or "") > 10, flag
        numeric = info.annotation in (int, float, int | None, float | None)
        assert not numeric or info.json_schema_extra["unit"], f"{flag} is a number without a unit"
        assert info.is_required() or info.default is not None or info.json_schema_extra["off"], f"{flag}: no off-value"


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, env=environment)


def test_exit_status_is_2_for_refused_input_and_1_for_a_failure_and_0_when_done(tmp_path):
    refused = run("jobs/index.py", "--photos", str(tmp_path / "none"), "--output", str(tmp_path / "m.csv"))
    assert refused.returncode == 2 and "no such file or folder" in refused.stderr and "Traceback" not in refused.stderr
    script = "import sys\nfrom fahr.config import JobOptions, run_job\n"
    failed = run("-c", script + "def main(o): raise RuntimeError('bug')\nrun_job(JobOptions, main, [])")
    assert failed.returncode == 1 and "RuntimeError: bug" in failed.stderr
    done = run("-c", script + "run_job(JobOptions, lambda o: None, ['--dry-run'])")
    assert done.returncode == 0 and yaml.safe_load(done.stdout)["dry_run"] is True
