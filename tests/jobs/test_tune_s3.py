"""A search whose faces, trials and page are in a bucket; its driver is killed midway. `make faults`."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fahr import store
from fahr.config import read_options
from fahr.search.trials import Notes
from jobs import finetune_survival, tune
from tools.faces import commit_faces
from tools.outcomes import COLUMNS, FACES
from tools.runs import ended, kill_all, start_run, wait_for

COUNT, SAMPLES = 160, 8
BASE = {"encoder": "vit_tiny", "patch": 16, "global_batch": 24, "micro_batch": 24, "precision": "fp32", "flip": False,
        "threads": 1, "stages": [{"name": "head", "freeze": "encoder", "epochs": 2}]}  # fmt: skip


def noted(output: str) -> dict[str, bytes]:
    """Trials that have ended."""
    try:
        places = [entry.location for entry in store.list_files(f"{output}/trials")]
    except store.Missing:
        return {}
    return {place: store.read_bytes(place) for place in places if ".given." not in place}


@pytest.mark.faults
def test_a_search_in_a_bucket_that_is_killed_goes_on_there_and_ends_with_its_page(bucket: str, tmp_path: Path) -> None:
    output = f"{bucket}/tune"
    some: dict[str, Any] = {name: values[:COUNT] for name, values in COLUMNS.items()}
    commit_faces(f"{bucket}/aligned", FACES[:COUNT], rows_per_unit=80, **{**some, "split": ["train"] * COUNT})
    store.write_bytes(f"{bucket}/base.yaml", yaml.safe_dump(BASE).encode())
    chosen = tune.Options.model_validate({
        "task": "survival", "faces": f"{bucket}/aligned", "init": "random", "output": output, "resume": True,
        "base": f"{bucket}/base.yaml", "samples": SAMPLES, "tune_folds": 2, "finalists": 1, "seeds": 1,
        "bootstraps": 20, "concurrent": 1, "cpus_per_trial": 0.5, "embed_workers": 1, "memory_per_worker": 0.1,
        "cache": str(tmp_path / "cache"),
        "space": {"tau": {"low": 0.1, "high": 10, "log": True}, "head_lr": {"low": 0.01, "high": 1, "log": True},
                  "head_epochs": [8]},
    })  # fmt: skip
    run = start_run("tune", chosen, str(tmp_path / "line"))
    wait_for(lambda: len(noted(output)) >= 2, run, seconds=500)
    kill_all(run)
    before = noted(output)
    assert 2 <= len(before) < SAMPLES, "midway"
    told = ended(start_run("tune", chosen, str(tmp_path / "line")))
    assert f"{len(before)} of {SAMPLES} trials were made before" in told, told[-3000:]
    assert f"embed: {COUNT} of {COUNT} faces were done before" in told
    assert before.items() <= noted(output).items()
    assert sorted(Notes(f"{output}/trials").read()[0]) == list(range(SAMPLES))
    rows = list(csv.DictReader(store.read_bytes(f"{output}/trials.csv").decode().splitlines()))
    assert [row["trial"] for row in rows] == [str(number) for number in range(SAMPLES)]
    winner = json.loads(store.read_bytes(f"{output}/results.json"))["winner"]
    page = store.read_bytes(f"{output}/search.html").decode()
    assert f"trial {winner}" in page and f"{output}/search.html" in told
    assert {store.name(each.location) for each in store.list_files(f"{output}/figures")} >= {"best.png", "curves.png"}
    words = ["--config", f"{output}/best.yaml", "--faces", f"{bucket}/aligned", "--init", "random", "--output", output]
    assert read_options(finetune_survival.Options, words).stages[0].name == "head"
