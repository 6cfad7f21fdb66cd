"""Judging against sums over single patches and loops over single faces, with planted ages and people."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fahr.errors import Refused
from fahr.faces.rows import encode
from fahr.models import MaeOptions, MaskedAutoencoder
from fahr.models.masking import Mask
from fahr.models.normalization import normalise
from fahr.training.facesets import open_faces
from fahr.training.judging import Faces, Judgement, features, judge, sample
from fahr.training.optimizer import make_optimizer
from fahr.training.probes import knn_probe, linear_probe
from fahr.training.step import step
from fahr.training.tasks import keyed_mask
from tools.faces import commit_faces
from training.small import autoencoder, batch_at, gradients, pretraining, recipe, weights

SIZE = 32
PATCH = 8


def faces(start: int, count: int, *, photos: int = 1, **labels: Any) -> Faces:
    """Smooth colours; the mean grey is the age, so a probe has something to find. `photos`: of each person."""
    random = np.random.default_rng(start)
    ages = random.uniform(20, 90, count)
    made = random.normal(0, 12, (count, SIZE // 4, SIZE // 4, 3)).repeat(4, 1).repeat(4, 2)
    made = made + 1.6 * ages[:, None, None, None] + random.normal(0, 4, (count, SIZE, SIZE, 3))
    people = np.array([f"p{start + number // photos}" for number in range(count)], object)
    columns: dict[str, Any] = {"age": ages} | labels
    told = {name: values for name, values in columns.items() if values is not None}
    return Faces(made.clip(0, 255).astype(np.uint8), told, people)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small wait for each other's threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def train() -> Faces:
    return faces(1000, 60)


@pytest.fixture(scope="module")
def held_out() -> Faces:
    return faces(0, 37)


def exact(model: MaskedAutoencoder, train: Faces, held_out: Faces, **changes: Any) -> Judgement:
    return judge(model, train, held_out, **{"seed": 3, "precision": "fp32", **changes})


def one_by_one(
    model: MaskedAutoencoder, held_out: Faces, seed: int = 3
) -> tuple[list[float], list[float], list[float]]:
    """Loss, dB and dB of mean colours of each face alone, patch after patch, from the decoder's raw answer."""
    losses, ratios, of_means = [], [], []
    for number, face in enumerate(held_out.pixels):
        image = normalise(torch.from_numpy(face[None]))
        mask, _ = keyed_mask(model, torch.tensor([number]), seed)
        with torch.no_grad():
            raw = model.decoder.predict(model.decoder(model.encoder(image, mask.keep), mask.keep, mask.masked))
        squares, byte_squares, mean_squares = [], [], []
        for at, patch in enumerate(mask.masked[0].tolist()):
            top, left = patch // (SIZE // PATCH) * PATCH, patch % (SIZE // PATCH) * PATCH
            truth = image[0, :, top : top + PATCH, left : left + PATCH].permute(1, 2, 0).double()
            painted = raw[0, mask.keep.shape[1] + at].view(PATCH, PATCH, 3).double()
            if model.options.norm_pix:
                mean, sd = truth.mean(), (truth.var(correction=1) + 1e-6).sqrt()
                squares.append(float(((painted - (truth - mean) / sd) ** 2).mean()))
                painted = painted * sd + mean
            else:
                squares.append(float(((painted - truth) ** 2).mean()))
            scale, shift = torch.tensor([0.229, 0.224, 0.225]), torch.tensor([0.485, 0.456, 0.406])
            there = ((painted * scale + shift) * 255).round().clamp(0, 255).numpy()
            own = face[top : top + PATCH, left : left + PATCH].astype(float)
            byte_squares.append(float(((there - own) ** 2).mean()))
            mean_squares.append(float(((own - own.mean((0, 1))) ** 2).mean()))
        losses.append(float(np.mean(squares)))
        ratios.append(10 * math.log10(255**2 / np.mean(byte_squares)))
        of_means.append(10 * math.log10(255**2 / np.mean(mean_squares)))
    return losses, ratios, of_means


@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_and_decibels_equal_a_sum_over_single_hidden_patches(
    train: Faces, held_out: Faces, norm_pix: bool
) -> None:
    model = autoencoder(MaeOptions(norm_pix=norm_pix, decoded=0.25))  # trained on a quarter, judged on all of them
    found = exact(model, train, held_out)
    losses, ratios, of_means = one_by_one(model, held_out)
    assert found.faces == 37
    assert found.masked_loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.psnr == pytest.approx(np.median(ratios), abs=1e-3)  # a pixel may round to the other side
    assert found.psnr_of_means == pytest.approx(np.median(of_means), abs=1e-9)


def test_loss_equals_what_the_model_itself_says_of_the_same_mask(train: Faces, held_out: Faces) -> None:
    model = autoencoder()
    rows = [keyed_mask(model, torch.tensor([number]), 3)[0] for number in range(37)]
    mask = Mask(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
    with torch.no_grad():
        expected = float(model(normalise(torch.from_numpy(held_out.pixels)), mask).loss)
    assert exact(model, train, held_out).masked_loss == pytest.approx(expected, rel=1e-5)


def test_masks_are_the_same_for_every_model_and_every_size_of_batch(train: Faces, held_out: Faces) -> None:
    """What a painter of mean colours reaches depends on faces and masks alone."""
    first = exact(autoencoder(), train, held_out)
    other = exact(autoencoder(MaeOptions(decoded=0.5)), train, held_out, batch=5)
    assert other.psnr_of_means == first.psnr_of_means
    assert other.masked_loss == pytest.approx(first.masked_loss, rel=1e-5)
    assert exact(autoencoder(), train, held_out, seed=4).psnr_of_means != first.psnr_of_means


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_call_gives_the_same_numbers_to_the_bit(train: Faces, held_out: Faces, precision: str) -> None:
    first, again = (judge(autoencoder(), train, held_out, seed=0, precision=precision) for _ in range(2))
    assert first.to_json() == again.to_json()
    assert first.linear is not None and again.linear is not None
    assert np.array_equal(first.linear.predictions, again.linear.predictions)


def test_bf16_moves_the_loss_little(train: Faces, held_out: Faces) -> None:
    rough = judge(autoencoder(), train, held_out, seed=3, precision="bf16").masked_loss
    fine = exact(autoencoder(), train, held_out).masked_loss
    assert rough != fine and rough == pytest.approx(fine, rel=0.01)


def test_a_model_that_learned_is_judged_better_than_a_fresh_one(train: Faces, held_out: Faces) -> None:
    """Trained on the very faces of `train`; judged on others with other masks."""
    chosen = recipe(samples=640)
    task = pretraining(chosen)
    before = exact(task.model, train, held_out)
    optimizer = make_optimizer(task.model, chosen)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    for number in range(60):
        start = number * 16 % 48
        batch = copy.copy(batch_at(number * 16, number * 16 + 16))
        object.__setattr__(batch, "images", torch.from_numpy(train.pixels[start : start + 16].copy()))
        step(task, batch, optimizer, chosen)
    after = exact(task.model, train, held_out)
    assert after.masked_loss < 0.9 * before.masked_loss
    assert after.psnr > before.psnr + 0.5


# The model is left alone


def test_the_model_and_the_random_numbers_are_left_as_they_were(train: Faces, held_out: Faces) -> None:
    model = autoencoder().train()
    model.encoder.blocks[1].eval()  # frozen by whoever trains it
    model.decoder.mask_token.requires_grad_(False)
    model(normalise(torch.from_numpy(held_out.pixels[:4])), generator=torch.Generator().manual_seed(0)).loss.backward()
    modes = [module.training for module in model.modules()]
    wanted = [each.requires_grad for each in model.parameters()]
    before, slopes = weights(model), gradients(model)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    exact(model, train, held_out)
    assert [module.training for module in model.modules()] == modes and True in modes and False in modes
    assert [each.requires_grad for each in model.parameters()] == wanted
    assert all(torch.equal(before[name], each) for name, each in weights(model).items())
    after = gradients(model)
    assert after.keys() == slopes.keys() and all(torch.equal(after[name], slopes[name]) for name in slopes)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.is_grad_enabled()


def test_judging_between_two_steps_changes_no_bit_of_the_training(train: Faces, held_out: Faces) -> None:
    """Drop path on: its modules hold the draws of the last batch."""
    ended = []
    for judged in (False, True):
        chosen = recipe(drop_path=0.3)
        task = pretraining(chosen)
        optimizer = make_optimizer(task.model, chosen)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        for number in range(3):
            step(task, batch_at(number * 16, number * 16 + 16), optimizer, chosen)
            if judged:
                exact(task.model, train, held_out)
        ended.append(weights(task.model))
    assert all(torch.equal(each, ended[1][name]) for name, each in ended[0].items())


def test_a_failure_in_the_midst_puts_the_model_back_too(train: Faces, held_out: Faces) -> None:
    model = autoencoder().train()
    with pytest.raises(Refused, match="bf61"):
        exact(model, train, held_out, precision="bf61")
    assert all(module.training for module in model.modules())


# Probes


def test_features_are_the_mean_of_the_patches_and_cls_of_each_face_alone(held_out: Faces) -> None:
    model = autoencoder()
    found = features(model, held_out.pixels, precision="fp32", batch=8)
    assert found.shape == (37, 96)
    for number in (0, 8, 36):
        with torch.no_grad():
            tokens = model.encoder(normalise(torch.from_numpy(held_out.pixels[number][None])))[0].double().numpy()
        assert found[number, :48] == pytest.approx(tokens[1:].mean(0), abs=1e-5)
        assert found[number, 48:] == pytest.approx(tokens[0], abs=1e-5)


def test_an_age_that_is_to_be_seen_is_found_and_one_that_is_not_is_not(train: Faces, held_out: Faces) -> None:
    seen = exact(autoencoder(), train, held_out)
    assert seen.linear is not None and seen.knn is not None and seen.why_no_probe == ""
    assert seen.linear.r2 > 0.9 and seen.linear.mae < 5
    assert seen.knn.chosen == 20
    random = np.random.default_rng(5)
    blind = exact(
        autoencoder(), faces(1000, 60, age=random.uniform(20, 90, 60)), faces(0, 37, age=random.uniform(20, 90, 37))
    )
    assert blind.linear is not None and blind.linear.r2 < 0.2 and blind.linear.mae > 10


def test_faces_without_an_age_count_for_the_loss_and_not_for_the_probes(train: Faces, held_out: Faces) -> None:
    ages = held_out.ages.copy()
    ages[::3] = np.nan
    some = Faces(held_out.pixels, {"age": ages}, held_out.subjects)
    found, model = exact(autoencoder(), train, some), autoencoder()
    known = np.isfinite(ages)
    data = (features(model, train.pixels, precision="fp32"), train.ages)
    test = (features(model, held_out.pixels[known], precision="fp32"), ages[known])
    assert found.linear is not None and found.knn is not None
    assert found.linear.mae == pytest.approx(linear_probe(*data, *test).mae, rel=1e-6)
    assert found.knn.mae == pytest.approx(knn_probe(*data, *test).mae, rel=1e-6)
    assert len(found.linear.predictions) == known.sum()
    assert found.masked_loss == exact(autoencoder(), train, held_out).masked_loss


def test_few_faces_have_fewer_neighbours(held_out: Faces) -> None:
    found = exact(autoencoder(), faces(1000, 7), held_out)
    assert found.knn is not None and found.knn.chosen == 7
    assert np.ptp(found.knn.predictions) < 1e-9  # all of them are everybody's neighbours


@pytest.mark.parametrize(
    ("ages", "why"),
    [
        (None, "train: no column age"),
        (np.full(60, np.nan), "train: 0 faces with an age, at least 3 are needed"),
        (np.array([50.0, 60.0, *[np.nan] * 58]), "train: 2 faces with an age, at least 3 are needed"),
        (np.array([None] * 58 + [61, 62], object), "train: 2 faces with an age, at least 3 are needed"),
        (np.full(60, 50), "train: all 60 faces are of one age"),
    ],
)
def test_without_ages_there_is_no_probe_and_a_reason(held_out: Faces, ages: Any, why: str) -> None:
    found = exact(autoencoder(), faces(1000, 60, age=ages), held_out)
    assert (found.linear, found.knn, found.why_no_probe) == (None, None, why)
    assert found.to_json()["linear"] is None and found.to_json()["masked_loss"] > 0


def test_held_out_faces_without_ages_have_a_reason_and_no_decades(train: Faces) -> None:
    found = exact(autoencoder(), train, faces(0, 12, age=None))
    assert found.why_no_probe == "held_out: no column age" and found.subgroups == ()


# Subgroups


def grouped(train: Faces, *, photos: int = 1, **labels: Any) -> tuple[Judgement, dict[tuple[str, str], Any]]:
    count = len(next(iter(labels.values())))
    found = exact(autoencoder(), train, faces(0, count, photos=photos, **labels))
    return found, {(each.group, each.value): each for each in found.subgroups}


def test_subgroups_equal_a_loop_over_the_faces(train: Faces) -> None:
    random = np.random.default_rng(8)
    labels = {
        "sex": random.choice(np.array(["female", "male"], object), 90),
        "race": random.choice(np.array(["x", "y", "z", None], object), 90),
        "age": random.choice([7.0, 9.99, 20.0, 29.9, 95.0, 104.0, np.nan], 90),
    }
    found, named = grouped(train, **labels)
    losses, ratios, _ = one_by_one(autoencoder(), faces(0, 90, **labels))
    expected: dict[tuple[str, str], list[int]] = {}
    for number in range(90):
        age = labels["age"][number]
        decade = None if math.isnan(age) else f"{int(age / 10) * 10}-{int(age / 10) * 10 + 9}"
        for key in (("sex", labels["sex"][number]), ("race", labels["race"][number]), ("age", decade)):
            if key[1] is not None:
                expected.setdefault(key, []).append(number)
    assert [each.value for each in found.subgroups if each.group == "age"] == ["0-9", "20-29", "90-99", "100-109"]
    assert [each.group for each in found.subgroups] == ["sex"] * 2 + ["race"] * 3 + ["age"] * 4
    assert named.keys() == expected.keys()
    for key, rows in expected.items():
        assert len(rows) >= 10 and named[key].faces == len(rows)
        assert named[key].masked_loss == pytest.approx(np.mean([losses[row] for row in rows]), rel=1e-5)
        assert named[key].psnr == pytest.approx(np.median([ratios[row] for row in rows]), abs=1e-3)


@pytest.mark.parametrize(("number", "told"), [(1, False), (9, False), (10, True)])
@pytest.mark.parametrize("photos", [1, 3])
def test_nothing_is_told_of_fewer_than_ten_people(train: Faces, number: int, photos: int, told: bool) -> None:
    """However many photos there are of them."""
    sexes = np.array(["rare"] * number * photos + ["one"] * 15 * photos + ["two"] * 20 * photos, object)
    found, named = grouped(train, photos=photos, sex=sexes, age=None)
    rare = named["sex", "rare"]
    assert rare.faces == number * photos
    assert (rare.psnr is not None, rare.masked_loss is not None) == (told, told)
    assert named["sex", "two"].masked_loss is not None
    assert found.to_json()["subgroups"][1]["value"] == "rare"


def recovered(found: Judgement, group: str) -> float | None:
    """The sum of losses that is left when all told groups are subtracted from the total."""
    left, faces_left = found.faces * found.masked_loss, found.faces
    for each in found.subgroups:
        if each.group == group and each.masked_loss is not None:
            left, faces_left = left - each.faces * each.masked_loss, faces_left - each.faces
    return left if faces_left else None


@pytest.mark.parametrize("hidden", ["rare", None])
def test_the_loss_of_one_person_does_not_follow_from_what_is_told_of_the_others(
    train: Faces, hidden: str | None
) -> None:
    sexes = np.array([hidden] + ["one"] * 12 + ["two"] * 20, object)
    found, named = grouped(train, sex=sexes, age=None)
    own = one_by_one(autoencoder(), faces(0, 33, sex=sexes, age=None))[0][0]
    left = recovered(found, "sex")
    assert named["sex", "two"].masked_loss is not None and named["sex", "one"].masked_loss is None
    assert left is not None and left > 5 * own


# What is told


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, float):
        yield value


def test_json_holds_plain_numbers_and_none_of_a_single_face(train: Faces, held_out: Faces) -> None:
    found = exact(autoencoder(), train, held_out)
    text = json.dumps(found.to_json(), allow_nan=False)
    losses, ratios, _ = one_by_one(autoencoder(), held_out)
    assert found.linear is not None and found.knn is not None
    ratios.remove(sorted(ratios)[18])  # the median of 37 is one of them
    single = [*losses, *ratios, *found.linear.predictions, *found.knn.predictions, *held_out.ages]
    told = list(numbers(json.loads(text)))
    assert len(text) < 2000 and len(told) >= 8
    assert not any(math.isclose(one, other, rel_tol=1e-9) for one in told for other in single)
    assert json.loads(text) == found.to_json() and "predictions" not in text


def test_perfect_painting_is_infinite_in_python_and_null_in_json(train: Faces) -> None:
    """One colour each: with norm_pix the colour is given."""
    flat = Faces(np.full((3, SIZE, SIZE, 3), 90, np.uint8), {}, np.array(["a", "b", "c"], object))
    found = exact(autoencoder(), train, flat)
    assert found.psnr_of_means == math.inf and found.to_json()["psnr_of_means"] is None
    json.dumps(found.to_json(), allow_nan=False)


# Refused


def test_people_who_are_in_both_parts_are_refused_and_counted_once(train: Faces, held_out: Faces) -> None:
    subjects = held_out.subjects.copy()
    subjects[:5] = [train.subjects[0], train.subjects[0], train.subjects[1], train.subjects[59], "p0"]
    with pytest.raises(Refused, match=r"held_out: 3 of its people are in train too.*Split by person"):
        exact(autoencoder(), train, Faces(held_out.pixels, held_out.labels, subjects))


def test_what_cannot_be_judged_is_refused(train: Faces, held_out: Faces) -> None:
    nobody = Faces(held_out.pixels[:0], {}, held_out.subjects[:0])
    small = Faces(held_out.pixels[:, :16, :16], {}, held_out.subjects)
    for data, changes, words in (
        ((train, nobody), {}, "held_out: 0 faces"),
        ((train, small), {}, r"held_out: faces of 16 px, this model reads 32"),
        ((train, held_out), {"batch": 0}, "batch 0"),
    ):
        with pytest.raises(Refused, match=words):
            exact(autoencoder(), *data, **changes)
    assert exact(autoencoder(), nobody, held_out).why_no_probe == "train: no column age"


def test_faces_that_do_not_fit_together_are_refused(held_out: Faces) -> None:
    pixels, people = held_out.pixels, held_out.subjects
    for made, words in (
        ((pixels.astype(np.float32), {}, people), "float32"),
        ((pixels[:, :20], {}, people), r"\(37, 20, 32, 3\)"),
        ((pixels, {}, people[:-1]), "subjects: 36 for 37"),
        ((pixels, {"sex": people[:3]}, people), "sex: 3 for 37"),
    ):
        with pytest.raises(Refused, match=words):
            Faces(*made)


def test_decibels_of_a_png_and_of_arrays_are_the_same(tmp_path: Path, train: Faces) -> None:
    """From files to figures: nothing is lost between a face set and the judge."""
    held = faces(0, 12)
    folder = str(tmp_path / "made")
    commit_faces(
        folder,
        [encode(each, "png") for each in held.pixels],
        age=held.ages.tolist(),
        subject_id=held.subjects.tolist(),
        face_format=["png"] * 12,
    )
    chosen = sample(open_faces(folder, ["age"], cache=str(tmp_path / "cache")), 12, 0)
    order: NDArray[Any] = np.argsort(chosen.labels["age"])
    back = Faces(chosen.pixels[order], {"age": chosen.ages[order]}, chosen.subjects[order])
    straight = np.argsort(held.ages)
    wanted = Faces(held.pixels[straight], {"age": held.ages[straight]}, held.subjects[straight])
    assert exact(autoencoder(), train, back).to_json() == exact(autoencoder(), train, wanted).to_json()
