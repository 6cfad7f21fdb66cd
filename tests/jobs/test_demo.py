"""The demo runs from nothing, goes on where it was stopped, and fails loudly when the science is broken."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fahr import store
from fahr.errors import Refused
from jobs import _cluster, _demo_truth, demo, pipeline
from jobs._photos import PhotoOptions


@pytest.fixture
def one_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One actor where the demo has two: each loads for seconds, and other tests run beside."""
    asked = PhotoOptions.pool

    def pool(self: PhotoOptions, stage: str) -> _cluster.Pool:
        return replace(asked(self, stage), actors=1)

    monkeypatch.setattr(PhotoOptions, "pool", pool)


@pytest.mark.usefixtures("cluster", "one_actor")
def test_the_demo_holds_the_truth_resumes_and_fails_when_the_truth_is_missed(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "demo"
    options = demo.Options(
        output=str(folder),
        subjects=200,
        photos_per_subject=2,
        samples=640,
        age_samples=640,
        risk_samples=320,
        trials=2,
    )
    monkeypatch.setattr(demo, "LEARNED", 1.1)  # some seconds of learning teach that little
    monkeypatch.setattr(_demo_truth, "GUESSED", 1.1)
    monkeypatch.setattr(_demo_truth, "RANKED", 0.0)
    monkeypatch.setattr(demo.ray, "shutdown", lambda: None)  # this Ray is all tests'
    demo.main(options)
    told = capsys.readouterr().out
    assert "log hazard: frailty, a SD" in told and "MISSED" not in told
    assert "hidden patches of unseen people are painted" in told and "risk learned from a random start" in told
    assert (folder / "by_age.png").stat().st_size > 100_000
    assert (folder / "settings" / "search.html").stat().st_size > 100_000
    answers = json.loads((folder / "endpoints" / "answers.json").read_text())
    assert 0 < answers["face-age"]["answer"]["face_age"] < 150
    assert 366 <= answers["face-aging-rate"]["answer"]["interval_days"] <= 730
    chain = {stage: Path(place) for stage, place in pipeline.places(str(folder / "pipeline")).items()}
    assert "<svg" in (chain["evaluate"] / "report.html").read_text() or (chain["evaluate"] / "figures").is_dir()
    scores = store.Ledger.read(str(chain["score"] / "ledger.json")).check()
    assert scores.rows_in == store.Ledger.read(str(chain["align"] / "ledger.json")).rows_out
    truth = json.loads((folder / "truth.json").read_text())
    assert truth["people"] == 200 and all(not line["wrong"] for line in truth["lines"])

    shutil.rmtree(folder / "manifest")  # as if it had been stopped there
    demo.main(options)
    told = capsys.readouterr().out
    assert "people: here already" in told and "index: rows_in" in told and "endpoints: here already" in told
    assert "6 of 6 stages are done" in told

    photos = sorted((folder / "people" / "photos").iterdir())[:5]
    own = tmp_path / "own"
    own.mkdir()
    for photo in photos:
        shutil.copy(photo, own)
    (own / "broken.jpg").write_bytes(b"no photo")
    demo.main(options.model_copy(update={"photos": str(own)}))
    told = capsys.readouterr().out
    assert "rows_in 6 = rows_out 5" in told and "not one photograph" in told
    (rows,) = folder.glob("own-*/scores/scores.csv")
    assert pd.read_csv(rows)["face_age"].notna().sum() == 5

    monkeypatch.setitem(_demo_truth.PLANTED, "frailty", -0.7)
    with pytest.raises(RuntimeError, match="the science is broken"):
        demo.main(options)
    assert "MISSED: true scores do not hold the truth" in capsys.readouterr().out


def test_a_folder_of_another_demo_and_a_bucket_are_refused(tmp_path):
    (tmp_path / "demo.json").write_text('{"subjects": 3}')
    with pytest.raises(Refused, match="other options"):
        demo.main(demo.Options(output=str(tmp_path)))
    with pytest.raises(Refused, match="local folder"):
        demo.main(demo.Options(output="s3://bucket/demo"))
