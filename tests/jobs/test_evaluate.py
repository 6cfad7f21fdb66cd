"""The job: scores in, a report out, a ledger that balances; what is wrong ends with status 2 and the remedy."""

import json
import sys
from pathlib import Path

import pytest

from evaluation.planted import replaced, scored, truth, write
from fahr import store
from fahr.config import read_options, run_job
from fahr.errors import Refused
from jobs import evaluate


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> str:
    table = scored(truth()).slice(0, 800)
    return write(tmp_path_factory.mktemp("scores"), replaced(table, split=["train", *["test"] * 799]))


def options(scores: str, output: Path, *more: str) -> evaluate.Options:
    words = ["--scores", scores, "--output", str(output), "--bootstraps", "30", *more]
    return read_options(evaluate.Options, words)


def test_the_ledger_accounts_for_every_photo_and_the_same_line_writes_the_same_bytes(
    scores: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = options(scores, tmp_path / "out", "--covariates", "sex", "site")
    assert made.covariates == ("sex", "site")
    ledger = evaluate.main(made)
    assert (ledger.rows_in, ledger.rows_out, dict(ledger.rejects)) == (800, 799, {"other_split": 1})
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert told["origin"]["options"] == made.digest() and told["origin"]["photos"] == "sha256:data"
    assert told["settings"]["covariates"] == ["sex", "site"]
    assert "rows_in 800 = rows_out 799 + other_split 1" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    evaluate.main(made)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert {path.name for path in before} >= {
        "report.html",
        "results.json",
        "ledger.json",
        "options.yaml",
        "summary.csv",
    }


def test_scores_and_report_may_lie_in_a_bucket(quick_bucket: str) -> None:
    place = write(f"{quick_bucket}/scores", scored(truth()).slice(0, 60), rates=False)
    words = ["--scores", place, "--output", f"{quick_bucket}/report", "--bootstraps", "20"]
    assert evaluate.main(read_options(evaluate.Options, words)).rows_out == 60
    assert b"Research use only" in store.read_bytes(f"{quick_bucket}/report/report.html")
    evaluate.main(read_options(evaluate.Options, words))


def test_wrong_options_are_refused_in_a_sentence(scores: str, tmp_path: Path) -> None:
    for words, told in (
        (("--mapping", "m.yaml"), "there are none: give both"),
        (("--protocol", "standrad"), "Did you mean 'standard'"),
        (("--splits", "validation"), "'train', 'tune', 'calibrate' or 'test'"),
        (("--horizons", "365", "180"), "must rise"),
    ):
        with pytest.raises(Refused, match=told):
            options(scores, tmp_path, *words)


def test_a_dry_run_writes_nothing_and_input_at_fault_ends_with_status_2(
    scores: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main(options(scores, tmp_path / "out", "--dry-run"))
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    with pytest.raises(SystemExit) as ended:
        run_job(evaluate.Options, evaluate.main, ["--scores", str(tmp_path), "--output", str(tmp_path / "out")])
    assert ended.value.code == 2 and "no scoring has ended there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
