"""What is saved is what was there, and only its own run takes it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fahr import store
from fahr.errors import Refused
from fahr.training import state as states
from fahr.training.average import Average
from fahr.training.loop import train
from fahr.training.state import FORMAT, Damaged, State, fill, fresh, load, read, save, snapshot
from fahr.training.tasks import Task
from training import small


def run(steps: int, seed: int = 0, **changes: Any) -> tuple[Task, State]:
    chosen = small.recipe(**{"seed": seed, "ema": 0.9, "layer_decay": 0.8} | changes)
    task = small.age(chosen)
    state = fresh(task.model, chosen)
    for _ in train(task, small.Memory, chosen, state, stop_after=steps):
        pass
    return task, state


@pytest.mark.parametrize("steps", [0, 3])
def test_a_state_comes_back_to_the_bit(folder: str, steps: int) -> None:
    _, before = run(steps)
    before.skipped = 2
    location = store.join(folder, "state.safetensors")
    save(location, before, "abc")
    _, after = run(5, seed=1)
    load(location, after, "abc")
    assert (after.position, after.skipped) == (16 * steps, 2)
    small.assert_equal(snapshot(after, "").tensors, snapshot(before, "").tensors)
    for mine, other in zip(after.model.parameters(), before.model.parameters(), strict=True):
        small.assert_equal(after.optimizer.state[mine], before.optimizer.state[other])


def test_it_holds_weights_memories_and_mean_of_every_parameter(tmp_path: Path) -> None:
    _, state = run(1)
    save(str(tmp_path / "state"), state, "abc")
    found = read(str(tmp_path / "state"), "abc")
    names = [name for name, _ in state.model.named_parameters()]
    expected = {f"{kind}/{name}" for kind in ("model", "step", "exp_avg", "exp_avg_sq", "average") for name in names}
    assert found.tensors.keys() == expected | {"model/encoder.pos_embed"}
    assert found.facts == {"format": FORMAT, "digest": "abc", "position": 16, "skipped": 0, "bad": {}}


def test_training_on_does_not_change_a_snapshot() -> None:
    task, state = run(1)
    taken = snapshot(state, "abc")
    kept = {name: each.clone() for name, each in taken.tensors.items()}
    for _ in train(task, small.Memory, small.recipe(ema=0.9, layer_decay=0.8), state, stop_after=2):
        pass
    small.assert_equal(taken.tensors, kept)
    assert taken.facts["position"] == 16 and state.position == 48


def test_the_same_state_is_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(str(tmp_path / name), run(2)[1], "abc")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_state_of_another_configuration_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    location = str(tmp_path / "state")
    save(location, run(2)[1], "abc")
    _, state = run(1, seed=1)
    before = snapshot(state, "")
    with pytest.raises(Refused, match=r"configuration abc, this one has def\..*options of before"):
        load(location, state, "def")
    small.assert_equal(snapshot(state, "").tensors, before.tensors)
    assert state.position == 16


def test_another_model_is_refused_before_anything_is_written_over(tmp_path: Path) -> None:
    location = str(tmp_path / "state")
    save(location, run(1)[1], "abc")
    other = fresh(small.autoencoder(), small.recipe(ema=0.9))
    before = snapshot(other, "")
    with pytest.raises(Refused, match="differ in"):
        load(location, other, "abc")
    without = fresh(small.predictor(), small.recipe())
    with pytest.raises(Refused, match=r"such as average/encoder\.blocks"):
        load(location, without, "abc")
    small.assert_equal(snapshot(other, "").tensors, before.tensors)


def test_another_shape_is_refused_with_both(tmp_path: Path) -> None:
    taken = snapshot(run(1)[1], "abc")
    taken.tensors["exp_avg/head.weight"] = torch.zeros(1, 47)
    _, state = run(0)
    before = snapshot(state, "")
    with pytest.raises(Refused, match=r"exp_avg/head\.weight is \(1, 47\) saved, \(1, 48\) here"):
        states.restore(taken, state)
    small.assert_equal(snapshot(state, "").tensors, before.tensors)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "foreign"])
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, damage: str) -> None:
    import safetensors.torch

    file = tmp_path / "state"
    save(str(file), run(1)[1], "abc")
    whole = file.read_bytes()
    foreign = safetensors.torch.save({"weight": torch.zeros(3)})
    file.write_bytes({"empty": b"", "cut": whole[:-100], "text": b"no state at all", "foreign": foreign}[damage])
    with pytest.raises(Damaged, match="is not the state of a training run, or is damaged"):
        read(str(file), "abc")


def test_a_sound_state_of_another_run_or_format_is_refused_but_not_damaged(tmp_path: Path) -> None:
    """Whoever looks for the newest sound state goes back before a damaged one, and before no other."""
    location = str(tmp_path / "state")
    taken = snapshot(run(0)[1], "abc")
    for facts, said in (({"digest": "def"}, "configuration def"), ({"format": "fahr-training-state-9"}, "state-9")):
        states.write(location, states.Snapshot(taken.tensors, taken.facts | facts))
        with pytest.raises(Refused, match=said) as refusal:
            read(location, "abc")
        assert not isinstance(refusal.value, Damaged)


def test_no_state_is_told_as_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(store.Missing, match="no such file"):
        read(str(tmp_path / "none"), "abc")


# A model from it


@pytest.mark.parametrize("ema", [0.9, 0.0])
def test_a_model_is_filled_with_the_mean_where_there_is_one_and_with_what_is_no_parameter(ema: float) -> None:
    _, state = run(3, ema=ema)
    state.model.encoder.pos_embed = state.model.encoder.pos_embed + 0.5  # a buffer: no mean is kept of it
    taken = snapshot(state, "abc")
    filled = small.predictor()
    fill(filled, taken)
    expected = small.weights(state.model)
    if ema:
        assert state.average is not None
        assert not all(torch.equal(each, expected[name]) for name, each in state.average.weights.items())
        expected |= state.average.weights
    small.assert_equal(small.weights(filled), expected)


def test_a_model_that_was_filled_is_no_part_of_the_snapshot() -> None:
    taken = snapshot(run(1)[1], "abc")
    kept = {name: each.clone() for name, each in taken.tensors.items()}
    filled = small.predictor()
    fill(filled, taken)
    with torch.no_grad():
        for parameter in filled.parameters():
            parameter.add_(1.0)
    small.assert_equal(taken.tensors, kept)


def test_another_model_is_not_filled_in_part() -> None:
    other = small.autoencoder()
    before = small.weights(other)
    with pytest.raises(KeyError):
        fill(other, snapshot(run(1)[1], "abc"))
    small.assert_equal(small.weights(other), before)


# The running mean


def test_the_mean_follows_its_formula() -> None:
    model = small.predictor()
    average = Average(model, 0.75)
    expected = {name: each.detach().double() for name, each in model.named_parameters()}
    for number in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * (number + 1))
        average.update(model)
        expected = {
            name: 0.75 * mean + 0.25 * dict(model.named_parameters())[name].detach().double()
            for name, mean in expected.items()
        }
    for name, mean in average.weights.items():
        assert torch.allclose(mean.double(), expected[name], atol=1e-6), name


def test_the_mean_is_lent_to_the_model_and_the_weights_come_back() -> None:
    task, state = run(3)
    assert state.average is not None
    weights, mean = small.weights(task.model), {k: v.clone() for k, v in state.average.weights.items()}
    with pytest.raises(KeyError), state.average.applied(task.model):
        held = dict(task.model.named_parameters())
        assert all(torch.equal(held[name], each) for name, each in mean.items())
        assert any(not torch.equal(held[name], weights[name]) for name in held)
        raise KeyError
    small.assert_equal(small.weights(task.model), weights)
    small.assert_equal(state.average.weights, mean)


def test_a_flipped_bit_in_a_state_is_noticed(tmp_path: Path) -> None:
    chosen = small.recipe()
    state = fresh(small.pretraining(chosen).model, chosen)
    place = tmp_path / "state"
    save(str(place), state, "any")
    data = bytearray(place.read_bytes())
    data[-100] ^= 1
    place.write_bytes(data)
    with pytest.raises(Damaged, match="not those that were written"):
        load(str(place), state, "any")
