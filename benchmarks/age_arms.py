"""Five claims about learning age, on rendered people whose true and apparent ages are known.

python benchmarks/age_arms.py [sampling pretrained floor coverage losses] [--init out/mae/checkpoint]

    sampling    few of those learned from are over 75 (1.6 %). A first stage as they come, then a second one from the
                same weights: as they come, or balanced. Tested on people of all ages alike: does balancing lower the
                bin-wise error and that over 75? Five pairs.
    pretrained  300 labelled faces, the same schedule from --init and from random weights. Five pairs.
    floor       one model of 12,000 faces, by the best of these losses, against the least error there can be: that of
                E[age | apparent age], fitted on 100,000 people, whose faces it could not know better. And against
                guessing the mean age.
    coverage    the model that `floor` left: 90 % intervals fitted on 1,250 people, looked at on 1,250 others. Those
                held must be within the 99 % range of the exact law, beta-binomial, in each full stratum and in all.
    losses      each of the five from --init on the same 2,000 faces by the same schedule, against l1. Three pairs.

--init: a masked autoencoder, ViT-Tiny of patch 16, of other people. Without it one is made first, by the recipe of
configs/laptop_vit_tiny.yaml but four times as long: what 300 labels gain depends on that (docs/log.md). It takes most
of an hour. A pair shares its seed: the faces drawn, their order and augmentation. Nothing is tuned on what comes out.
Results of finished arms stay under --work: a stopped run goes on.
"""

import argparse
import copy
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from _pairs import Scores, aligned, difference, kept
from scipy.stats import betabinom

from fahr.biomarkers import age_accuracy, fit_conformal, intervals, intervals_source
from fahr.cohorts.synthetic import CohortOptions, expected_age
from fahr.models import Decoder, MaeOptions, Predictor, create, load, save
from fahr.objectives.age import LOSSES
from fahr.progress import progress
from fahr.training.ages import Balance, age_losses
from fahr.training.augment import PRESETS
from fahr.training.begin import RANDOM, begin_predictor
from fahr.training.facesets import FaceSet, open_faces
from fahr.training.loader import Loader
from fahr.training.loop import train
from fahr.training.recipe import Recipe
from fahr.training.sampling import Order
from fahr.training.shares import score_all
from fahr.training.state import fresh
from fahr.training.tasks import Prediction, Pretraining

BATCH, RATE = 16, 1e-2  # chosen on people of seeds 303 and 404, from whom nothing is told
MAE_BATCH = 64
BEST = "distribution"  # of `losses`, with ordinal
CPU, OLD = torch.device("cpu"), 75
LEARN_SEED, TEST_SEED = 101, 202  # of the people; --init has seen those of seed 0


def recipe_of(samples: int, seed: int, rate: float) -> Recipe:
    return Recipe(
        samples=samples, global_batch=BATCH, micro_batch=BATCH, base_lr=rate, warmup_samples=samples // 6, min_lr=1e-6,
        betas=(0.9, 0.999), layer_decay=0.75, drop_path=0.1, seed=seed,
    )  # fmt: skip


def learn(model: Predictor, faces: FaceSet, recipe: Recipe, *, balanced: bool = False, loss: str = "l1") -> Predictor:
    weights = Balance().of(ages_of(faces)).weights if balanced else None
    order = Order(faces.num_rows, recipe.seed, weights)
    task = Prediction(model, recipe, age_losses(loss), PRESETS["age"])
    state = fresh(model, recipe)
    batches = partial(Loader, faces, order, global_batch=BATCH, threads=1)
    for metrics in train(task, lambda start: batches(start=start), recipe, state):
        assert not metrics.culprits, f"step {metrics.step}: not finite"
    return model


def autoencoder(work: Path) -> str:
    """The checkpoint to begin with, where none is given."""
    place = work / "autoencoder"
    if not (place / "config.json").exists():
        faces = open_faces(
            aligned(work, 8000), where=pc.field("split") == "train", cache=str(work / "cache"), packed=True
        )
        recipe = Recipe(
            samples=384_000,
            global_batch=MAE_BATCH,
            micro_batch=MAE_BATCH,
            base_lr=4e-3,
            warmup_samples=9_600,
            precision="bf16",
        )
        model = create("vit_tiny", patch=16, decoder=Decoder(192, 4, 3), options=MaeOptions(decoded=0.5), seed=0)
        batches = partial(Loader, faces, Order(faces.num_rows, 0), global_batch=MAE_BATCH, threads=1)
        task = Pretraining(model, recipe, PRESETS["mae"])
        with progress(recipe.samples, "samples", "autoencoder") as bar:
            for metrics in train(task, lambda start: batches(start=start), recipe, fresh(model, recipe)):
                assert not metrics.culprits, f"step {metrics.step}: not finite"
                bar.update(MAE_BATCH)
        save(model, str(place), overwrite=True)
    return str(place)


def begun(init: str, faces: FaceSet, seed: int, loss: str = "l1") -> Predictor:
    found = begin_predictor(
        "vit_tiny", 16, task="age", head=LOSSES[loss], size=faces.size, init=init, convention=faces.convention,
        seed=seed,
    )  # fmt: skip
    found.model.start_at(float(ages_of(faces).mean()), float(ages_of(faces).std()))
    return found.model


def ages_of(faces: FaceSet) -> np.ndarray:
    return np.asarray(faces.table["age"].to_numpy(), np.float64)


def tested(model: Predictor, test: FaceSet) -> Scores:
    ages, shown = ages_of(test), score_all(model, test, device=CPU, flip=True).values
    errors = age_accuracy(ages, shown, bootstraps=0).errors
    return {
        "mae": float(errors.mae.value or 0), "binwise": float(errors.binwise_mae.value or 0),
        "old": float(np.abs(shown - ages)[ages > OLD].mean()), "slope": float(errors.slope.value or 0),
    }  # fmt: skip


# The claims


def sampling(options: argparse.Namespace, open_: Callable[..., FaceSet], keep: Callable[..., Scores]) -> None:
    learned = open_(aligned(options.work, 3000, seed=LEARN_SEED, options=CohortOptions(age_shape="skewed")))
    test = open_(aligned(options.work, 1200, seed=TEST_SEED))
    old = (ages_of(learned) > OLD).sum()
    print(f"{learned.num_rows:,} faces, {old} over {OLD}; tested on {test.num_rows:,} people of all ages alike")
    pairs = []
    for seed in range(options.seeds):
        shared: list[Predictor] = []

        def arm(balanced: bool, seed: int = seed, shared: list[Predictor] = shared) -> Scores:
            if not shared:
                first = recipe_of(options.samples, seed, RATE)
                shared.append(learn(begun(options.init, learned, seed), learned, first))
            second = recipe_of(options.samples // 2, seed + 1000, RATE / 2)
            return tested(learn(copy.deepcopy(shared[0]), learned, second, balanced=balanced), test)

        pairs.append(
            [keep(f"sampling-{seed}-{name}", partial(arm, name == "balanced")) for name in ("plain", "balanced")]
        )
    print(f"\nbalanced - as they come, {options.seeds} pairs, mean [95 % t-interval]; below 0: balancing helps")
    tell(pairs)


def pretrained(options: argparse.Namespace, open_: Callable[..., FaceSet], keep: Callable[..., Scores]) -> None:
    folder = aligned(options.work, 3000, seed=LEARN_SEED)
    everyone = open_(folder)
    test = open_(aligned(options.work, 1200, seed=TEST_SEED))
    pairs = []
    for seed in range(options.seeds):
        chosen = np.random.default_rng(seed).permutation(everyone.num_rows)[:300]
        some = everyone.table["photo_id"].take(chosen)
        few = open_(folder, pc.field("photo_id").isin(some.combine_chunks()))

        def arm(init: str, seed: int = seed, few: FaceSet = few) -> Scores:
            return tested(learn(begun(init, few, seed), few, recipe_of(options.samples, seed, RATE)), test)

        pairs.append([keep(f"pretrained-{seed}-{name}", partial(arm, init)) for name, init in
                      (("random", RANDOM), ("pretrained", options.init))])  # fmt: skip
    print(f"\npretrained - random, 300 faces, {options.seeds} pairs; below 0: pretraining helps")
    tell(pairs)


def losses(options: argparse.Namespace, open_: Callable[..., FaceSet], keep: Callable[..., Scores]) -> None:
    learned = open_(aligned(options.work, 2000, seed=LEARN_SEED))
    test = open_(aligned(options.work, 1200, seed=TEST_SEED))
    found: dict[str, list[Scores]] = {}
    for seed in range(min(options.seeds, 3)):
        for loss in LOSSES:

            def arm(seed: int = seed, loss: str = loss) -> Scores:
                recipe = recipe_of(options.samples, seed, RATE)
                return tested(learn(begun(options.init, learned, seed, loss), learned, recipe, loss=loss), test)

            found.setdefault(loss, []).append(keep(f"losses-{seed}-{loss}", arm))
    for loss in LOSSES:
        if loss != "l1":
            print(f"\n{loss} - l1, {learned.num_rows:,} faces, {len(found[loss])} pairs; below 0: better than l1")
            tell([list(pair) for pair in zip(found["l1"], found[loss], strict=True)])


def floor(options: argparse.Namespace, open_: Callable[..., FaceSet], keep: Callable[..., Scores]) -> None:
    learned = open_(aligned(options.work, 12_000, seed=LEARN_SEED))
    folder = aligned(options.work, 1200, seed=TEST_SEED)
    test = open_(folder)

    def arm() -> Scores:
        recipe = recipe_of(options.samples * 10, 0, RATE)
        model = learn(begun(options.init, learned, 0, BEST), learned, recipe, loss=BEST)
        save(model, str(options.work / "age"), overwrite=True)  # benchmarks/survival_arms.py begins with it
        return tested(model, test)

    found = keep("floor", arm)["mae"]
    truth = pq.read_table(
        options.work / f"people-1200-{TEST_SEED}" / "truth.parquet", columns=["photo_id", "apparent_age"]
    )
    apparent = dict(zip(truth["photo_id"].to_pylist(), truth["apparent_age"].to_pylist(), strict=True))
    ages = ages_of(test)
    shown = np.array([apparent[photo] for photo in test.table["photo_id"].to_pylist()])
    least = float(np.abs(expected_age(shown) - ages).mean())
    guess = float(np.abs(ages - ages_of(learned).mean()).mean())
    print(f"\n{test.num_rows:,} people: MAE {found:.2f} years")
    print(f"the least there can be {least:.2f} (ours is {found / least:.2f} times that)")
    print(f"guessing the mean age {guess:.2f} (ours is {found / guess:.2f} of that)")


def coverage(options: argparse.Namespace, open_: Callable[..., FaceSet], keep: Callable[..., Scores]) -> None:
    faces = open_(aligned(options.work, 2500, seed=TEST_SEED))
    model = load(str(options.work / "age"))
    ages, shown = ages_of(faces), score_all(model, faces, device=CPU, flip=True).values
    half = len(ages) // 2
    strata = fit_conformal(shown[:half], ages[:half])
    low, high = intervals(shown[half:], strata)
    held = (low <= ages[half:]) & (ages[half:] <= high)
    source = intervals_source(shown[half:], strata)
    rng, drawn, lines = np.random.default_rng(0), np.zeros(100_000, int), []
    for name in sorted(set(source.tolist())):
        here = source == name
        n, m, count = int(strata[name]["n"]), int(here.sum()), int(held[here].sum())
        k = -(-9 * (n + 1) // 10)
        law = betabinom(m, k, n + 1 - k)
        drawn += law.rvs(len(drawn), random_state=rng)
        least, most = law.ppf(0.005), law.ppf(0.995)
        lines.append(f"  {name:8s} fitted on {n:5,d}, {count:4d} of {m:4d} held, 99 % range {least:.0f} to {most:.0f}")
    least, most = np.quantile(drawn, [0.005, 0.995])
    inside = "met" if least <= held.sum() <= most else "MISSED"
    print("\n".join(lines))
    print(f"{held.sum():,} of {len(held):,} held, {held.mean():.3f}; 99 % range {least:.0f} to {most:.0f}: {inside}")


def tell(pairs: list[list[Scores]]) -> None:
    for name in ("binwise", "old", "mae"):
        print(f"  {name:10s}" + "  ".join(f"{one[name]:.2f} -> {other[name]:.2f}" for one, other in pairs))
        difference(f"{name}, years", [(one[name], other[name]) for one, other in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    claims = {"sampling": sampling, "pretrained": pretrained, "floor": floor, "coverage": coverage, "losses": losses}
    parser.add_argument("claim", nargs="*", choices=[*claims, []], help="all, if none is named")
    parser.add_argument("--init", help="a masked autoencoder, ViT-Tiny of patch 16")
    parser.add_argument("--samples", type=int, default=9_000, help="faces that an arm is trained on; floor: ten times")
    parser.add_argument("--seeds", type=int, default=5, help="pairs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/age_arms"), help="faces and finished results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cache = str(options.work / "cache")
    options.init = options.init or autoencoder(options.work)
    told = hashlib.sha256(json.dumps([load(options.init).digest, options.samples]).encode()).hexdigest()[:12]

    def open_(folder: str, where: pc.Expression | None = None) -> FaceSet:
        return open_faces(folder, ["age"], where, cache=cache, packed=True)

    def keep(name: str, make: Callable[[], Scores]) -> Scores:
        found = kept(options.work / f"results-{told}" / f"{name}.json", make)
        print(f"{name}: {json.dumps(found)}", flush=True)
        return found

    for name in options.claim or claims:
        claims[name](options, open_, keep)


if __name__ == "__main__":
    main()
