"""Every command of README.md: those of a laptop are run in their order on sixty people, the others are read as their
programs read them."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from fahr import store
from fahr.cohorts.synthetic import make_cohort
from fahr.config import read_options
from fahr.errors import Refused
from serve.schemas import CohortIn

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
PEOPLE = 60
# Shorter, with one process where there would be two, so that it takes seconds; nothing else about a line is changed.
SHORTER: dict[str, dict[str, Any]] = {
    "align": {"workers": 1},
    "score": {"workers": 1},
    "pretrain": {"samples": 320, "judgements": 1, "judged_faces": 20, "global_batch": 16, "micro_batch": 16},
    "finetune_age": {"stages": [{"name": "all", "samples": 160}], "bootstraps": 20},
    "finetune_survival": {
        "stages": [{"name": "all", "samples": 64}], "bootstraps": 20, "global_batch": 16, "micro_batch": 16,
    },
    "tune": {
        "base": "small.yaml", "samples": 2, "tune_folds": 2, "finalists": 1, "seeds": 1, "bootstraps": 20,
        "concurrent": 1, "embed_workers": 1,
    },
    "evaluate": {"bootstraps": 20, "splits": ["train", "tune", "calibrate", "test"]},
    "pipeline": {"dry_run": True},
}  # fmt: skip


def blocks(language: str) -> list[str]:
    return [text for name, text in re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.M | re.S) if name == language]


def commands() -> Iterator[str]:
    for block in blocks(""):
        for line in block.replace("\\\n", " ").splitlines():
            if words := line.split("  #")[0].strip():
                yield words


def job_of(words: list[str]) -> tuple[str, list[str]] | None:
    """`python jobs/X.py FLAGS`, on its own or at the end of a submission."""
    for at, word in enumerate(words):
        if (found := re.fullmatch(r"jobs/(\w+)\.py", word)) and words[at - 1] == "python":
            return found[1], words[at + 1 :]
    return None


def read(job: str, flags: list[str]) -> Any:
    return read_options(importlib.import_module(f"jobs.{job}").Options, flags, program=job)


def test_every_line_is_of_a_kind_that_is_checked_and_every_flag_is_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    seen = set()
    for line in commands():
        words = shlex.split(line)
        if job := job_of(words):
            read(*job)
            seen.add(job[0])
        elif words[0] == "make":
            assert words[1] in targets and all("=" in word for word in words[2:]), line
        elif words[0] == "curl":  # those that need no cohort are run by tests/serve/test_app.py
            assert re.search(r"http://127\.0\.0\.1:8000/v1/", line), line
            if "-d" in words:
                CohortIn.model_validate_json(words[words.index("-d") + 1])
        else:
            assert words[0] in (".", "export", "ray"), f"{line}: no test looks at this"
    assert seen == {path.stem for path in (ROOT / "jobs").glob("[a-z]*.py")} - {"demo"}


def test_a_flag_that_does_not_exist_would_be_found():
    with pytest.raises(Refused, match="--detecter"):
        read(*job_of(shlex.split("python jobs/align.py --manifest a.csv --output out --detecter mtcnn")))


def test_python_lines_name_what_there_is():
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), block


def test_pictures_and_pages_are_there():
    for place in re.findall(r"\]\(((?!http)[^)#]+)", TEXT):
        assert (ROOT / place).exists(), place


@pytest.mark.usefixtures("cluster")
def test_the_lines_of_a_laptop_run_one_after_the_other(tmp_path, monkeypatch):
    manifest, _ = make_cohort(PEOPLE, 2, seed=0, out=tmp_path / "made")
    (tmp_path / "made" / "photos").rename(tmp_path / "photos")
    table = pq.read_table(manifest, columns=["photo_id", "subject_id", "age", "taken_on", "follow_up_days", "event"])
    table = table.rename_columns(["FileID", *table.column_names[1:]])
    parts = {
        subject: ("train", "train", "tune", "calibrate", "test")[number % 5]
        for number, subject in enumerate(sorted(set(table["subject_id"].to_pylist())))
    }
    table = table.append_column("split", pa.array([parts[each] for each in table["subject_id"].to_pylist()]))
    pyarrow.csv.write_csv(table, tmp_path / "table.csv")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    recipe = (ROOT / "configs" / "laptop_survival.yaml").read_text()
    (tmp_path / "small.yaml").write_text(recipe.replace("_batch: 64", "_batch: 4"))  # of thirteen people
    monkeypatch.chdir(tmp_path)
    ran = []
    for line in commands():
        job = job_of(shlex.split(line))
        if job is None or "s3://" in line or line.startswith("ray"):
            continue
        name, flags = job
        module = importlib.import_module(f"jobs.{name}")
        given = read(name, flags)
        module.main(type(given).model_validate({**given.model_dump(), **SHORTER.get(name, {})}))
        ran.append(name)
    assert set(ran) >= {"index", "align", "pretrain", "finetune_age", "finetune_survival", "tune", "score", "evaluate"}
    assert (tmp_path / "out" / "report" / "report.html").stat().st_size > 10_000
    for ledger in tmp_path.glob("out/*/ledger.json"):
        store.Ledger.read(str(ledger)).check()
