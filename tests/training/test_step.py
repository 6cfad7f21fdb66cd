"""A step is the step of the one big batch, however it is cut; and a bad one moves nothing."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fahr.errors import Refused
from fahr.models import MaeOptions, MaskedAutoencoder, build
from fahr.models.encoder import drop_paths
from fahr.training.augment import PRESETS, Augmentation
from fahr.training.drop_path import KeyedDropPath
from fahr.training.optimizer import make_optimizer, set_rate
from fahr.training.recipe import Recipe
from fahr.training.state import State, fresh
from fahr.training.step import Outcome, pair_step, step
from fahr.training.tasks import Prediction, Pretraining, Task, keyed_mask
from training import small


def stepped(kind: str, *, size: int = 16, **changes: Any) -> tuple[Task, Outcome]:
    """The task after one step over `size` samples, its gradients still there."""
    chosen = small.recipe(**changes)
    task = small.TASKS[kind](chosen)
    optimizer = make_optimizer(task.model, chosen)
    move = step if task.pair_loss is None else pair_step
    return task, move(task, small.batch_at(0, size), optimizer, chosen)


def whole_gradient(kind: str, *, size: int = 16, **changes: Any) -> tuple[float, dict[str, Tensor]]:
    """By hand: one graph over the whole batch, no step."""
    task, batch = small.TASKS[kind](small.recipe(**changes)), small.batch_at(0, size)
    values = task(batch.images, batch.positions, batch.labels)
    loss = values.mean() if task.pair_loss is None else task.pair_loss(values, batch.labels)
    loss.backward()
    return float(loss.detach()), small.gradients(task.model)


# Accumulation


@pytest.mark.parametrize("kind", small.TASKS)
@pytest.mark.parametrize("micro_batch", [1, 4, 5, 16])  # 5: the last one is short
def test_micro_batches_give_loss_and_gradient_of_the_whole_batch(kind: str, micro_batch: int) -> None:
    loss, expected = whole_gradient(kind, drop_path=0.5)
    task, outcome = stepped(kind, drop_path=0.5, micro_batch=micro_batch)
    assert outcome.loss == pytest.approx(loss, rel=1e-6) and outcome.moved and outcome.samples == 16
    small.assert_close(small.gradients(task.model), expected)
    length = math.sqrt(sum(float(each.double().square().sum()) for each in expected.values()))
    assert outcome.grad_norm == pytest.approx(length, rel=1e-5)


def test_drop_path_is_on_in_these_tests() -> None:
    assert whole_gradient("age", drop_path=0.5)[0] != whole_gradient("age")[0]
    assert whole_gradient("survival", drop_path=0.5)[0] != whole_gradient("survival")[0]


@pytest.mark.parametrize("options", [MaeOptions(), MaeOptions(norm_pix=False, mask_ratio=0.5)])
def test_the_mean_over_samples_is_the_loss_of_the_model_itself(options: MaeOptions) -> None:
    model = small.autoencoder(options)
    task, batch = Pretraining(model, small.recipe()), small.batch_at(0, 16)
    mine = task(batch.images, batch.positions, batch.labels).mean()
    mask, _ = keyed_mask(model, batch.positions, seed=0)
    theirs = model(task.prepared(batch.images, batch.positions), mask).loss
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-6)


class Recording(Prediction):
    """Dropout of torch's own, as foreign models have it; remembers what it scored."""

    def __init__(self, chosen: Recipe) -> None:
        super().__init__(small.predictor("survival"), chosen, lambda scores, labels: scores)
        self.dropout = nn.Dropout(0.5)
        self.pair_loss = small.logistic_pairs
        self.passes: list[Tensor] = []

    def values(self, images: Tensor, positions: Tensor, labels: Any) -> Tensor:
        scores: Tensor = self.model.predict(self.dropout(self.model.features(images)))
        self.passes.append(scores.detach())
        return scores


def test_the_second_pass_repeats_the_first_even_with_foreign_dropout() -> None:
    chosen = small.recipe(micro_batch=4)
    task = Recording(chosen)
    optimizer = make_optimizer(task.model, chosen)
    pair_step(task, small.batch_at(0, 16), optimizer, chosen)
    first, second = torch.cat(task.passes[:4]), torch.cat(task.passes[4:])
    assert torch.equal(first, second)
    pair_step(task, small.batch_at(16, 32), optimizer, chosen)
    pair_step(task, small.batch_at(0, 16), optimizer, chosen)
    assert torch.equal(torch.cat(task.passes[-4:]), first)  # nothing moved: the rate is 0
    task.dropout.eval()
    pair_step(task, small.batch_at(0, 16), optimizer, chosen)
    assert not torch.equal(torch.cat(task.passes[-4:]), first)


def test_a_step_leaves_torchs_generator_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    stepped("survival", micro_batch=4)
    assert torch.equal(torch.rand(4), expected)


# Randomness of a sample


def test_what_is_random_in_a_sample_does_not_depend_on_its_company() -> None:
    for kind in ("half_painted", "age"):
        chosen = small.recipe(drop_path=0.5)
        task, batch = small.TASKS[kind](chosen), small.batch_at(100, 116)
        together = task(batch.images, batch.positions, batch.labels)
        for row in (0, 7, 15):
            alone = small.batch_at(100 + row, 101 + row)
            value = task(alone.images, alone.positions, alone.labels)
            assert float(value) == pytest.approx(float(together[row]), rel=1e-5), (kind, row)


def test_another_seed_or_position_hides_other_patches() -> None:
    model, positions = small.autoencoder(), torch.arange(64)
    here = keyed_mask(model, positions, 0)[0].keep
    assert torch.equal(here, keyed_mask(model, positions, 0)[0].keep)
    for other in (keyed_mask(model, positions, 1)[0].keep, keyed_mask(model, positions + 64, 0)[0].keep):
        assert (here != other).any(1).float().mean() > 0.9


def test_masks_keep_the_count_and_favour_no_patch() -> None:
    model = small.autoencoder(MaeOptions(mask_ratio=0.75, decoded=0.5))
    mask, wanted = keyed_mask(model, torch.arange(4000), 0)
    assert mask.keep.shape == (4000, 4) and mask.masked.shape == (4000, 12) and wanted.shape == (4000, 6)
    both = torch.cat([mask.keep, mask.masked], 1)
    assert torch.equal(both.sort(1).values, torch.arange(16).expand(4000, 16))
    assert torch.equal(both.gather(1, mask.ids_restore), torch.arange(16).expand(4000, 16))
    assert bool((wanted[:, :, None] == mask.masked[:, None, :]).any(2).all()), "only hidden patches are painted"
    assert bool((wanted.diff(dim=1) > 0).all())
    for chosen, share in ((mask.keep, 4 / 16), (wanted, 6 / 16)):
        counts = torch.bincount(chosen.flatten(), minlength=16) / 4000
        assert float((counts - share).abs().max()) < 4.5 * math.sqrt(share * (1 - share) / 4000)


def test_regions_with_more_weight_are_hidden_more_often() -> None:
    from fahr.models.regions import patch_weights

    heavy = {"eyes": 8.0}
    mask, _ = keyed_mask(small.autoencoder(MaeOptions(regions=heavy, mask_ratio=0.25)), torch.arange(2000), 0)
    hidden = torch.bincount(mask.masked.flatten(), minlength=16) / 2000
    weights = patch_weights(heavy, small.SIZE, 8)
    assert mask.masked.shape == (2000, 4)
    assert float(hidden[weights > 2].min()) > 1.5 * float(hidden[weights == 1].max())


def test_drop_path_drops_its_share_keeps_the_mean_and_rests_in_evaluation() -> None:
    task = small.age(small.recipe(drop_path=0.5))
    modules = [each for each in task.modules() if isinstance(each, KeyedDropPath)]
    plain = small.predictor()
    drop_paths(plain.encoder, 0.5)
    assert [each.rate for each in modules] == [
        each for block in plain.encoder.blocks for each in (block.drop_path1.drop_prob, block.drop_path2.drop_prob)
    ]
    assert [each.rate for each in modules] == [0, 0, 0.25, 0.25, 0.5, 0.5]
    batch = small.batch_at(0, 16)
    task(batch.images, batch.positions, batch.labels)
    last = modules[-1]
    last.draw = torch.linspace(0, 1, 10_001)[:-1]
    ones = last(torch.ones(10_000, 2, 3))
    assert float((ones == 0).float().mean()) == 0.5 and float(ones.mean()) == pytest.approx(1)
    with pytest.raises(TypeError, match="draw_drop_paths"):
        last(torch.ones(3, 2, 3))
    assert torch.equal(last.eval()(torch.ones(3, 2, 3)), torch.ones(3, 2, 3))


# Steps that must not be made


class Poisoned(Prediction):
    """Not finite for some positions, in the loss or in its gradient alone."""

    def __init__(self, chosen: Recipe, bad: set[int], where: str) -> None:
        super().__init__(small.predictor(), chosen, lambda outputs, labels: outputs[:, 0])
        self.bad, self.where = bad, where

    def values(self, images: Tensor, positions: Tensor, labels: Any) -> Tensor:
        bad = torch.tensor([int(each) in self.bad for each in positions])
        scores = super().values(images, positions, labels)
        if self.where == "loss":
            return scores * torch.where(bad, float("nan"), 1.0)
        return scores + (torch.where(bad, 0.0, 1.0) * scores.detach().abs() + scores * 0).abs().sqrt() * 0


def everything(state: State) -> dict[str, Tensor]:
    from fahr.training.state import snapshot

    return snapshot(state, "any").tensors


@pytest.mark.parametrize(("where", "culprits"), [("loss", (3, 9)), ("gradient", tuple(range(16)))])
def test_a_step_that_is_not_finite_moves_nothing_and_names_its_samples(where: str, culprits: tuple[int, ...]) -> None:
    chosen = small.recipe(ema=0.9, micro_batch=4)
    task = Poisoned(chosen, {3, 9}, where)
    state = fresh(task.model, chosen)
    set_rate(state.optimizer, 1e-2)
    assert step(task, small.batch_at(16, 32), state.optimizer, chosen).moved  # so that AdamW has memories
    before = everything(state)
    outcome = step(task, small.batch_at(0, 16), state.optimizer, chosen)
    assert outcome.culprits == culprits and not outcome.moved
    assert math.isfinite(outcome.loss) == (where == "gradient") and not math.isfinite(outcome.grad_norm)
    small.assert_equal(everything(state), before)
    assert step(task, small.batch_at(32, 48), state.optimizer, chosen).moved
    assert all(bool(each.isfinite().all()) for each in everything(state).values())


def test_a_task_that_gives_no_number_for_each_sample_is_told() -> None:
    chosen = small.recipe()
    task = Prediction(small.predictor(), chosen, lambda scores, labels: scores.mean())
    with pytest.raises(TypeError, match=r"Prediction: gave \(\), not a number for each sample"):
        step(task, small.batch_at(0, 16), make_optimizer(task.model, chosen), chosen)


# Clipping, precision


def test_clipping_shortens_what_is_longer_and_nothing_else() -> None:
    free, outcome = stepped("pretraining")
    expected = small.gradients(free.model)
    clipped, same = stepped("pretraining", clip=outcome.grad_norm / 4)
    assert same.grad_norm == outcome.grad_norm  # told before clipping
    small.assert_close({n: 4 * g for n, g in small.gradients(clipped.model).items()}, expected, 1e-5)
    roomy, _ = stepped("pretraining", clip=outcome.grad_norm * 4)
    small.assert_close(small.gradients(roomy.model), expected, 1e-6)


def test_bf16_changes_the_loss_a_little_and_leaves_weights_and_gradients_fp32() -> None:
    exact, rounded = stepped("pretraining")[1], stepped("pretraining", precision="bf16")
    assert rounded[1].loss != exact.loss and rounded[1].loss == pytest.approx(exact.loss, rel=0.02)
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in rounded[0].model.parameters())


def test_an_augmentation_is_applied_while_training_and_never_in_evaluation() -> None:
    def scores(augmentation: Augmentation | None) -> Task:
        return Prediction(small.predictor(), small.recipe(), lambda scores, labels: scores, augmentation)

    batch = small.batch_at(0, 4)
    task, plain = scores(Augmentation(mirror=1.0)), scores(None)
    expected, turned = (plain(images, batch.positions, {}) for images in (batch.images, batch.images.flip(2)))
    augmented = task(batch.images, batch.positions, {})
    assert torch.allclose(augmented, turned, atol=1e-5) and not torch.allclose(augmented, expected, atol=1e-5)
    assert torch.equal(task.eval()(batch.images, batch.positions, {}), expected)


def test_an_augmentation_belongs_to_seed_and_position() -> None:
    def images(seed: int, start: int) -> Tensor:
        task = Pretraining(small.autoencoder(), small.recipe(seed=seed), PRESETS["mae"])
        return task.prepared(small.batch_at(0, 8).images, torch.arange(start, start + 8))

    assert torch.equal(images(0, 0), images(0, 0))
    assert not torch.equal(images(0, 0), images(1, 0)) and not torch.equal(images(0, 0), images(0, 8))


def test_regions_are_refused_where_the_augmentation_moves_them() -> None:
    model = small.autoencoder(MaeOptions(regions={"eyes": 2.0}))
    with pytest.raises(Refused, match="whole, upright crops"):
        Pretraining(model, small.recipe(), PRESETS["mae"])
    Pretraining(model, small.recipe(), Augmentation(mirror=0.5))


@pytest.mark.evidence  # the compiler takes minutes
def test_compiled_blocks_give_the_same_loss() -> None:
    exact, compiled = stepped("pretraining"), stepped("pretraining", compile=True)
    assert compiled[1].loss == pytest.approx(exact[1].loss, rel=1e-5)
    small.assert_close(small.gradients(compiled[0].model), small.gradients(exact[0].model), 1e-4)
    assert isinstance(build(compiled[0].model.architecture), MaskedAutoencoder)
    assert compiled[0].model.state_dict().keys() == exact[0].model.state_dict().keys()
