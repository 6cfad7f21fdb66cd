"""The demo runs from nothing, goes on where it was stopped, and fails loudly when the science is broken."""

import shutil

import pytest

from fahr import store
from fahr.errors import Refused
from jobs import demo


@pytest.mark.usefixtures("cluster")
def test_the_demo_holds_the_truth_resumes_and_fails_when_the_truth_is_missed(tmp_path, capsys, monkeypatch):
    options = demo.Options(
        output=str(tmp_path / "demo"), subjects=250, samples=4800, age_samples=2560, risk_samples=640, trials=2
    )
    monkeypatch.setattr(demo, "LEARNED", 1.0)
    monkeypatch.setattr(demo, "GUESSED", 1.0)  # half a minute of learning teaches that little
    monkeypatch.setattr(demo, "RANKED", 0.0)  # and 25 people in whom it is tested are few
    demo.main(options)
    told = capsys.readouterr().out
    assert "frailty, per SD" in told and "MISSED" not in told
    assert (tmp_path / "demo" / "aligned" / "figures" / "by_age.png").stat().st_size > 100_000
    assert (tmp_path / "demo" / "model" / "reconstructions.png").stat().st_size > 50_000
    assert "hidden patches of unseen people are painted" in told
    assert "unseen people are misjudged by" in told and "deviation found and planted" in told
    assert "of two unseen people the one who died first had the higher risk" in told
    assert (tmp_path / "demo" / "age" / "evaluation" / "test-predicted.png").stat().st_size > 10_000
    assert (tmp_path / "demo" / "settings" / "search.html").stat().st_size > 100_000
    assert (tmp_path / "demo" / "settings" / "best.yaml").exists()
    scores = store.Ledger.read(str(tmp_path / "demo" / "scores" / "ledger.json")).check()
    assert scores.rows_in == store.Ledger.read(str(tmp_path / "demo" / "aligned" / "ledger.json")).rows_out
    shutil.rmtree(tmp_path / "demo" / "manifest")  # as if it had been stopped there
    demo.main(options)
    told = capsys.readouterr().out
    assert "people: here already" in told and "index: rows_in" in told and "scores: here already" in told
    monkeypatch.setattr(demo, "FRAILTY_LOG_HAZARD", -0.7)
    with pytest.raises(RuntimeError, match="misses the planted truth"):
        demo.main(options)
    assert "MISSED" in capsys.readouterr().out


def test_a_folder_of_another_demo_and_a_bucket_are_refused(tmp_path):
    (tmp_path / "demo.json").write_text('{"subjects": 3}')
    with pytest.raises(Refused, match="other options"):
        demo.main(demo.Options(output=str(tmp_path)))
    with pytest.raises(Refused, match="local folder"):
        demo.main(demo.Options(output="s3://bucket/demo"))
