"""What is saved: never over another checkpoint unasked, never what cannot be, and never half, however it is killed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fahr.errors import Refused
from fahr.models import Architecture, CheckpointConfig, MaeOptions, build, load, save
from models.small_models import same_bits, small


def test_a_folder_that_holds_a_checkpoint_is_not_overwritten_unless_told_so(folder: str) -> None:
    first = save(small("age", seed=1), folder)
    with pytest.raises(Refused, match="holds a checkpoint already.*overwrite=True"):
        save(small("age", seed=2), folder)
    assert load(folder).digest == first.digest
    second = save(small("age", seed=2), folder, overwrite=True)
    assert load(folder).digest == second.digest != first.digest


SAVE_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"metric": {}}, "unknown key 'metric'.*Did you mean 'metrics'"),
    "what save works out": ({"task": "age", "digest": "x"}, "task, digest can't be given"),
    "NaN among the metrics": ({"metrics": {"mae": float("nan")}}, "metrics.mae.float: .*finite"),
    "NaN in a number": ({"risk_mean": float("nan")}, "risk_mean: .*finite"),
    "a wrong type": ({"detector": 5}, "detector: Input should be a valid string"),
    "an object": ({"metrics": {"model": object()}}, "metrics"),
}


@pytest.mark.parametrize("case", SAVE_REFUSED)
def test_a_configuration_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, case: str) -> None:
    config, message = SAVE_REFUSED[case]
    with pytest.raises(Refused, match=message):
        save(small("age"), str(tmp_path / "c"), config=config)
    assert not (tmp_path / "c").exists()


def test_a_diverged_model_is_not_saved(tmp_path: Path) -> None:
    model = small("age")
    with torch.no_grad():
        model.head.bias.fill_(float("inf"))  # type: ignore[union-attr,operator]
    with pytest.raises(Refused, match="head.bias holds values that are not finite: the training diverged"):
        save(model, str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_a_wrapped_model_is_our_mistake_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="out of any wrapper"):
        save(torch.nn.DataParallel(small("age")), str(tmp_path))  # type: ignore[arg-type]


def test_config_refuses_masking_options_of_a_predictor() -> None:
    shape = small("age").architecture
    with pytest.raises(ValueError, match="mae_options belong to task 'mae'"):
        CheckpointConfig(architecture=shape, task="age", input_size=32, mae_options=MaeOptions())


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)  # forked children must not wait for threads that they do not have
from fahr import store
from fahr.models import Architecture, build, save
from fahr.version import code_version

code_version()  # once, and not in every child
shape = Architecture("small", 64, 2, 4, 8, 32, "age")
old, new = build(shape, seed=1), build(shape, seed=2)
whole = store.write_bytes

def killed(number, half):
    count = 0
    def write(location, data):
        nonlocal count
        count += 1
        if count == number:
            if half:
                with store.atomic_writer(location) as file:
                    file.write(data[: len(data) // 2])
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        whole(location, data)
    return write

for before in ("nothing", "old"):
    for number in (1, 2, 3):
        for half in (False, True):
            folder = f"{sys.argv[1]}/{before}-{number}-{half}"
            if before == "old":
                save(old, folder)
            if (pid := os.fork()) == 0:
                store.write_bytes = killed(number, half)
                save(new, folder, overwrite=True)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
"""


def test_a_save_killed_anywhere_leaves_no_checkpoint_that_is_neither_old_nor_new(tmp_path: Path) -> None:
    """Killed before and in the midst of each of the three writes, in a new folder and over an old checkpoint."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True)
    places = sorted(path.name for path in tmp_path.iterdir())
    assert len(places) == 12 or len(places) == 11  # killed before the first write, there may be no folder
    shape = Architecture("small", 64, 2, 4, 8, 32, "age")
    old = build(shape, seed=1)
    survived = set()
    for before in ("nothing", "old"):
        for number in (1, 2, 3):
            for half in ("False", "True"):
                place = tmp_path / f"{before}-{number}-{half}"
                try:
                    found = load(place)
                except Refused as refusal:
                    assert "killed" in str(refusal) or "no such checkpoint" in str(refusal)
                else:
                    assert same_bits(found, old)
                    survived.add(place.name)
    assert survived == {"old-1-False", "old-1-True"}  # the old one, as long as its weights were not replaced
    for place in tmp_path.iterdir():  # and the same line again mends it
        config = save(old, str(place), overwrite=True)
        assert load(place).digest == config.digest
