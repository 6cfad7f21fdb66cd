"""Pretraining as its users run it: from faces to a checkpoint, stopped and gone on with, wrong from the start."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fahr import store
from fahr.errors import Refused
from fahr.models import load
from fahr.training.journal import read_rows
from fahr.training.run import _Window
from jobs import pretrain
from tools.faces import commit_faces, jpegs, pictures
from tools.runs import plug_pulled
from tools.workers import forked

COUNT = 96  # 48 of them in the train split, 24 in tune


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("pretrain") / "aligned")
    commit_faces(folder, jpegs(pictures(COUNT)), sex=["f", "m"] * (COUNT // 2))
    return folder


def options(faces: str, output: Any, **changes: Any) -> pretrain.Options:
    """Twelve steps of a small network."""
    return pretrain.Options.model_validate(
        {
            "faces": faces, "output": str(output), "model": "vit_tiny", "patch": 8, "samples": 192, "global_batch": 16,
            "micro_batch": 8, "base_lr": 1e-3, "decoder": {"width": 32, "depth": 1, "num_heads": 2}, "judgements": 2,
            "judged_faces": 24, "workers": 0, "threads": 1, "ema": 0.9, "precision": "fp32",
        }
        | changes
    )  # fmt: skip


def curve(output: Any) -> list[tuple[int, float, float]]:
    rows = [row for row in read_rows(str(output)) if row["kind"] == "step"]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows]


def judged(output: Any) -> list[dict[str, Any]]:
    rows = [row for row in read_rows(str(output)) if row["kind"] == "judged"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(faces: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    pretrain.main(options(faces, output))
    return output


def test_a_run_leaves_what_was_promised(whole: Path, faces: str) -> None:
    steps = curve(whole)
    assert [step for step, _, _ in steps] == list(range(1, 13))
    assert steps[-1][1] < steps[0][1]
    ledger = store.Ledger.read(str(whole / "ledger.json")).check()
    assert (ledger.rows_in, ledger.rows_out) == (48, 48)
    model = load(str(whole / "checkpoint"), task="mae", expect_convention="arcface112")
    config = model.config
    assert config.detector == "mtcnn" and config.data_digest and config.metrics["samples"] == 192
    assert config.metrics["judged"]["masked_loss"] == judged(whole)[-1]["masked_loss"]
    for name in ("reconstructions.png", "loss.png", "options.yaml", "checkpoint/MODEL_CARD.md"):
        assert (whole / name).stat().st_size > 300, name
    assert list((whole / "tensorboard").iterdir())
    assert not list((whole / "states").iterdir()), "a finished run needs no states"
    row = next(row for row in read_rows(str(whole)) if row["kind"] == "step" and row["step"] == 6)
    for name in ("samples_per_second", "flop_utilisation", "waited_share", "memory_bytes", "grad_norm"):
        assert row[name] >= 0, name


def test_the_same_line_again_does_nothing(whole: Path, faces: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    pretrain.main(options(faces, whole))
    assert "is finished" in capsys.readouterr().out
    assert (whole / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before


# After a state and after the last step; among the kills of `make faults` after the first step and a judgement too.
@pytest.mark.parametrize("at", [7, 12, *(pytest.param(at, marks=pytest.mark.faults) for at in (1, 6))])
def test_stopped_dead_at_any_step_it_ends_with_the_same_numbers(
    whole: Path, faces: str, tmp_path: Path, at: int
) -> None:
    """States are written after every step here; what comes after the newest is lost and done again."""
    chosen = options(faces, tmp_path / "run", checkpoint_minutes=1e-9)
    with plug_pulled(_Window, "row", after=at) if at < 12 else plug_pulled(pretrain, "_finish"):
        pretrain.main(chosen)
    assert not (tmp_path / "run" / "ledger.json").exists()
    pretrain.main(chosen)
    assert curve(tmp_path / "run") == curve(whole)
    assert judged(tmp_path / "run") == judged(whole)
    found, expected = (load(str(each / "checkpoint")).state_dict() for each in (tmp_path / "run", whole))
    assert all(torch.equal(found[name], each) for name, each in expected.items())


def interrupted(faces: str, output: str) -> None:
    """Of a process of its own: asked to end in the fifth step."""
    row = _Window.row

    def asked(self: _Window, metrics: Any, desk: Any) -> Any:
        if metrics.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return row(self, metrics, desk)

    _Window.row = asked  # type: ignore[method-assign]
    pretrain.main(options(faces, output))


def test_ctrl_c_writes_a_state_and_the_same_line_goes_on(whole: Path, faces: str, tmp_path: Path) -> None:
    output, said = tmp_path / "run", tmp_path / "told"
    run = forked(__file__, faces, str(output), told=said)
    run.join(300)
    told = said.read_text()
    assert run.exitcode == 1 and "Stopped" in told, told[-3000:]
    assert "with a state" in told
    assert [each.name for each in (output / "states").iterdir()] == ["state-000000000000080.safetensors"]
    pretrain.main(options(faces, output))
    assert curve(output) == curve(whole)


# What is wrong from the start


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"global_batch": 64, "samples": 640}, "--global-batch 64: more than the 48 faces of the train split"),
        ({"patch": 16, "init": "imagenet", "model": "vit_large"}, "no weights are known for vit_large"),
        ({"patch": 12}, "patch 12: does not divide the size of 32"),
        ({"init": "nowhere.pth"}, "no such checkpoint"),
        ({"cache": "s3://bucket/cache"}, "Give a local folder"),
        ({"gpus_per_worker": 1.0}, "no CUDA device is here"),
        ({"decoder": {"width": 30, "depth": 1, "num_heads": 4}}, "must be a multiple of its 4 heads"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # so that a machine with a card is asked too
    with pytest.raises(Refused, match=told):
        pretrain.main(options(faces, tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_model_with_a_typing_error_is_refused_with_the_nearest_name(faces: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'vit_base'"):
        options(faces, tmp_path / "run", model="vit_bsae")


def test_no_face_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="holds no face"):
        pretrain.main(options(str(tmp_path / "none"), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run_is_refused_and_what_differs_is_named(whole: Path, faces: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"another seed\. Give what it had"):
        pretrain.main(options(faces, whole, seed=1))
    other = str(tmp_path / "other")
    commit_faces(other, jpegs(pictures(60)))
    with pytest.raises(Refused, match="another the faces"):
        pretrain.main(options(other, whole))


def test_where_it_runs_and_how_often_it_saves_may_change(whole: Path, faces: str) -> None:
    pretrain.main(options(faces, whole, micro_batch=4, checkpoint_minutes=9, threads=2, judgements=3))


def test_faces_of_mixed_sizes_are_refused(tmp_path: Path) -> None:
    commit_faces(str(tmp_path / "mixed"), jpegs([*pictures(30), *pictures(30, 48)]))
    with pytest.raises(Refused, match="several sizes"):
        pretrain.main(options(str(tmp_path / "mixed"), tmp_path / "run"))


def test_a_corrupt_face_is_counted_and_too_many_end_the_run(tmp_path: Path) -> None:
    made = jpegs(pictures(400))
    made[0] = made[0][:200]  # p00000 is of the train split
    commit_faces(str(tmp_path / "one"), made, rows_per_unit=100)
    ledger = pretrain.main(options(str(tmp_path / "one"), tmp_path / "run", samples=208))
    assert (ledger.rows_in, ledger.rows_out, ledger.rejects) == (200, 199, {"unreadable": 1})
    many = [each[:200] if number % 8 == 0 else each for number, each in enumerate(made)]
    commit_faces(str(tmp_path / "many"), many, rows_per_unit=100)
    with pytest.raises(Refused, match="do not decode"):
        pretrain.main(options(str(tmp_path / "many"), tmp_path / "run-2", samples=208))


def test_nobody_held_out_means_no_probes_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit_faces(str(tmp_path / "all"), jpegs(pictures(40)), split=["train"] * 40)
    pretrain.main(options(str(tmp_path / "all"), tmp_path / "run", samples=32))
    assert "none is held out" in capsys.readouterr().err
    assert not judged(tmp_path / "run") and (tmp_path / "run" / "checkpoint" / "config.json").exists()


def test_a_dry_run_starts_nothing(faces: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain.main(options(faces, tmp_path / "run", dry_run=True))
    assert "one worker in this process" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_another_init_with_the_same_seed_is_told_apart_in_the_checkpoint(
    whole: Path, faces: str, tmp_path: Path
) -> None:
    parent = str(whole / "checkpoint")
    pretrain.main(options(faces, tmp_path / "run", init=parent, samples=32))
    assert load(str(tmp_path / "run" / "checkpoint")).config.parent_checkpoint == load(parent).digest
    first = curve(tmp_path / "run")[0][1]
    assert first < curve(whole)[0][1], "it did not begin with what its parent had learned"


# On Ray


@pytest.mark.faults
@pytest.mark.usefixtures("cluster")
def test_two_workers_on_ray_have_the_curve_of_one(whole: Path, faces: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    pretrain.main(options(faces, output, workers=2, cpus_per_worker=0.5, memory_per_worker=0.1, micro_batch=4))
    found, expected = np.array(curve(output)), np.array(curve(whole))
    assert found[:, 0].tolist() == expected[:, 0].tolist()
    assert found[:, 1] == pytest.approx(expected[:, 1], rel=1e-5)
    assert found[:, 2] == pytest.approx(expected[:, 2], rel=1e-3)
    assert {row["workers"] for row in read_rows(str(output)) if row["kind"] == "step"} == {2}
    assert json.loads((output / "ledger.json").read_text())["rows_out"] == 48


@pytest.mark.usefixtures("cluster")
def test_a_refusal_inside_a_worker_is_told_as_one_and_not_tried_again(faces: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="--global-batch 64: more than the 48 faces"):
        pretrain.main(options(
            faces, tmp_path / "run", global_batch=64, samples=640, workers=1, cpus_per_worker=0.5,
            memory_per_worker=0.1,
        ))  # fmt: skip


@pytest.mark.usefixtures("cluster")
def test_more_workers_than_the_cluster_has_are_refused_at_once(faces: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="too little CPU"):
        pretrain.main(options(faces, tmp_path / "run", workers=9))
    with pytest.raises(Refused, match="--min-workers 3: more than --workers 2"):
        pretrain.main(options(faces, tmp_path / "run", workers=2, min_workers=3))


def test_an_mlflow_server_gets_every_row_in_one_run_and_one_that_is_not_there_is_refused(
    whole: Path, faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow's own store of files, through its own client: no server is needed for the same calls."""
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file:{tmp_path}/mlruns"
    pretrain.main(options(faces, tmp_path / "run", mlflow=uri))
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("pretrain").experiment_id])
    history = client.get_metric_history(run.info.run_id, "step/loss")
    assert [(each.step // 16, each.value) for each in history] == [(step, loss) for step, loss, _ in curve(whole)]
    assert run.data.params["base_lr"] == "0.001" and run.data.params["decoder.width"] == "32"
    with pytest.raises(Refused, match="does not answer"):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        pretrain.main(options(faces, tmp_path / "other", mlflow="http://127.0.0.1:9"))


if __name__ == "__main__":
    interrupted(*sys.argv[1:])
