"""Four claims about learning risk, on people whose true hazard is known: the oracle is its logarithm.

python benchmarks/survival_arms.py [features images offset pretrained] [--init out/mae/checkpoint] [--age out/age]

    features    no images: the true features of 4,000 people among noise, mixed, and one linear layer by ranking_loss.
                C of another 4,000 against the oracle's; bar .01. Cox's loss and a Cox model beside it. Seconds.
    images      one model of 12,000 rendered faces. C of 2,500 other people (half of them with the event) against the
                oracle's, bar .03, and against age alone, on the same resamples: the interval must lie above 0.
    offset      the same with what age says added to the score while it learns: the face's part must still go with the
                planted frailty, r above .3, and less with age than without the offset.
    pretrained  300 people, the same schedule from --init and from random weights: C of the 2,500. Five pairs; the
                interval must lie above 0.

`images` and `offset` begin with --age, a model of age, as a cohort would. Faces are cut to the template by their true
landmarks. --init is the checkpoint of a ViT-Tiny of patch 16 on such faces. Where they are not given, both are those
of benchmarks/age_arms.py, whose autoencoder is made here if it is not there; without its age model (`floor`), `images`
and `offset` begin with --init. Faces and finished arms stay under --work: a stopped run goes on.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from _pairs import Scores, aligned, difference, interval, kept
from age_arms import autoencoder

from fahr.cohorts.synthetic import make_people
from fahr.cohorts.synthetic.truth import AGE_LOG_HAZARD_PER_YEAR, FRAILTY_LOG_HAZARD
from fahr.models import Predictor, load
from fahr.objectives import cox_loss, ranking_loss
from fahr.survival import compare_concordance, concordance
from fahr.survival.cox import fit_cox
from fahr.survival.redundancy import redundancy
from fahr.training.augment import Augmentation
from fahr.training.begin import RANDOM, begin_predictor
from fahr.training.event_batches import EventBatches
from fahr.training.facesets import FaceSet, open_faces
from fahr.training.loader import Loader
from fahr.training.loop import train
from fahr.training.outcomes import NEEDED, Followed, fit_age_offset, pair_losses
from fahr.training.recipe import Recipe
from fahr.training.shares import score_all
from fahr.training.state import fresh
from fahr.training.tasks import Comparison

BATCH, CPU = 32, torch.device("cpu")
HEAD, ALL = 4e-2, 5e-3  # rates of both stages, of a batch of 256
# Frailty is drawn under the eyes and beside the nose: no blocks are painted over, nothing is blurred.
AUGMENTATION = Augmentation(turn=5, zoom=0.05, mirror=0.5, brightness=0.1, contrast=0.1)
LEARN_SEED, TEST_SEED = 101, 202  # of the people; --init has seen those of seed 0
LEARNED, TESTED, FEW = 12_000, 2500, 300
NOISE_COLUMNS = 12
AGE_ARMS = Path("out/age_arms")  # where benchmarks/age_arms.py works
Open = Callable[..., FaceSet]
Keep = Callable[[str, Callable[[], Scores]], Scores]


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


# No images


def planted(subjects: int, seed: int, mix: np.ndarray) -> tuple[np.ndarray, ...]:
    """time (days), event, entry, columns (n, 16), oracle."""
    people = make_people(subjects, seed=seed)
    true = [people.age_years, people.dev_ref_years, people.frailty, people.aging_rate]
    noise = np.random.default_rng(seed).normal(size=(subjects, NOISE_COLUMNS))
    # in deviations of the whole population, as they are planted
    columns = np.column_stack([(true[0] - 55) / 20, true[1] / 5, true[2], (true[3] - 1) / 0.4, noise])
    return (
        people.last_day.astype(float), people.event.astype(float), people.entry_day.astype(float), columns @ mix,
        people.log_hazard,
    )  # fmt: skip


def features(options: argparse.Namespace, open_: Open, keep: Keep) -> None:
    mix = np.linalg.qr(np.random.default_rng(5).normal(size=(4 + NOISE_COLUMNS,) * 2))[0]
    time, event, entry, columns, _ = planted(4000, LEARN_SEED, mix)
    test_time, test_event, test_entry, test_columns, oracle = planted(4000, TEST_SEED, mix)

    def judged(risk: np.ndarray) -> float:
        return concordance(test_time, test_event, risk, entry=test_entry).value

    def learned(loss: Callable[..., torch.Tensor]) -> np.ndarray:
        weights = torch.zeros(columns.shape[1], dtype=torch.float64, requires_grad=True)
        table = torch.from_numpy(columns)
        optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            value = loss(table @ weights, time, event, entry=entry)
            value.backward()
            return value

        optimizer.step(closure)
        return test_columns @ weights.detach().numpy()

    names = [f"x{number}" for number in range(columns.shape[1])]
    fit = fit_cox(time, event == 1, dict(zip(names, columns.T, strict=True)), entry=entry)
    best = judged(oracle)
    print(f"\n{len(time):,} people, {int(event.sum()):,} events; tested on others, {int(test_event.sum()):,} events")
    print(f"  {'oracle':32s}{best:.4f}")
    ways = {
        "linear, ranking_loss": learned(ranking_loss),
        "linear, cox_loss": learned(cox_loss),
        "Cox model": fit.linear(dict(zip(names, test_columns.T, strict=True))),
    }
    for name, risk in ways.items():
        found = judged(risk)
        bar = f"; bar .01 {verdict(best - found <= 0.01)}" if name.endswith("ranking_loss") else ""
        print(f"  {name:32s}{found:.4f}, {best - found:+.4f} from the oracle{bar}")


# Faces


def stages(samples: int, seed: int) -> tuple[Recipe, Recipe]:
    """The head on a frozen encoder over a sixth as many faces, then all: a head that begins at random would first
    unlearn what the encoder knows."""
    common = {"global_batch": BATCH, "micro_batch": BATCH, "betas": (0.9, 0.999), "layer_decay": 0.75, "seed": seed}
    head = Recipe(samples=samples // 6, base_lr=HEAD, warmup_samples=samples // 60, **common)
    return head, Recipe(
        samples=samples, base_lr=ALL, warmup_samples=samples // 10, min_lr=1e-6, drop_path=0.1, **common
    )


def learn(init: str, faces: FaceSet, samples: int, seed: int, *, offset: bool = False) -> Predictor:
    model = begin_predictor(
        "vit_tiny", 16, task="survival", head="value", size=faces.size, init=init, convention=faces.convention,
        seed=seed,
    ).model  # fmt: skip
    model.__dict__.pop("config", None)  # a survival model's scale is not ours
    who = Followed.of(faces.table)
    order = EventBatches(who.time, who.event, who.subject.astype(str), entry=who.entry, batch=BATCH, seed=seed)
    losses = pair_losses("logistic", offset=fit_age_offset("the people learned from", faces.table) if offset else None)
    batches = partial(Loader, faces, order, global_batch=BATCH, threads=1)
    for number, recipe in enumerate(stages(samples, seed)):
        model.encoder.requires_grad_(number > 0)
        task = Comparison(model, recipe, losses, AUGMENTATION)
        for metrics in train(task, lambda start: batches(start=start), recipe, fresh(model, recipe)):
            assert not metrics.culprits, f"step {metrics.step}: not finite"
    return model


def tested(model: Predictor, test: FaceSet, work: Path) -> Scores:
    """One photo a person, so rows are people."""
    who = Followed.of(test.table)
    risk = score_all(model, test, device=CPU, flip=True).values
    age = np.asarray(test.table["age"].to_numpy(), np.float64)
    truth = pq.read_table(work / f"people-{TESTED}-{TEST_SEED}" / "truth.parquet")
    place = {photo: row for row, photo in enumerate(truth["photo_id"].to_pylist())}
    rows = [place[photo] for photo in test.table["photo_id"].to_pylist()]
    frailty, oracle, looks = (truth[name].to_numpy()[rows] for name in ("frailty", "log_hazard", "apparent_age"))
    shown = AGE_LOG_HAZARD_PER_YEAR * looks + FRAILTY_LOG_HAZARD * frailty  # what is drawn into a face
    assert np.isfinite(risk).all()
    lead = compare_concordance(who.time, who.event, risk, age, entry=who.entry)
    both = redundancy(who.time, who.event, risk, age, entry=who.entry)
    return {
        "c": lead.first.value, "age": lead.second.value,
        "oracle": concordance(who.time, who.event, oracle, entry=who.entry).value,
        "shown": concordance(who.time, who.event, shown, entry=who.entry).value,
        "lead": lead.difference, "lead_low": lead.low, "lead_high": lead.high,
        "gain": both.gain.difference or 0.0, "gain_low": both.gain.low or 0.0, "gain_high": both.gain.high or 0.0,
        "r_frailty": float(np.corrcoef(risk, frailty)[0, 1]), "r_age": float(np.corrcoef(risk, age)[0, 1]),
    }  # fmt: skip


def images(options: argparse.Namespace, open_: Open, keep: Keep) -> None:
    learned, test = open_(aligned(options.work, LEARNED, seed=LEARN_SEED)), _test(options, open_)
    found = keep("images", lambda: tested(learn(options.age, learned, options.samples, 0), test, options.work))
    short = found["oracle"] - found["c"]
    events = int(Followed.of(test.table).event.sum())
    enough = verdict(test.num_rows >= 2000 and events >= 800)
    print(f"\n{test.num_rows:,} people, {events:,} events; at least 2,000 and 800: {enough}")
    print(f"  C of the face {found['c']:.4f}, of the oracle {found['oracle']:.4f}: {short:+.4f} from it; "
          f"bar .03 {verdict(short <= 0.03)}")  # fmt: skip
    print(f"  of apparent age and frailty, which is all that a face shows: {found['shown']:.4f}")
    print(f"  less age alone ({found['age']:.4f}): {_told(found, 'lead')}; above 0: {verdict(found['lead_low'] > 0)}")
    print(f"  age and face less age alone: {_told(found, 'gain')}")


def offset(options: argparse.Namespace, open_: Open, keep: Keep) -> None:
    learned, test = open_(aligned(options.work, LEARNED, seed=LEARN_SEED)), _test(options, open_)

    def arm(with_offset: bool) -> Scores:
        return tested(learn(options.age, learned, options.samples, 0, offset=with_offset), test, options.work)

    plain = keep("images", lambda: arm(False))
    found = keep("offset", lambda: arm(True))
    print(f"\nr of the risk with frailty {found['r_frailty']:.3f} ({plain['r_frailty']:.3f} without the offset); "
          f"bar .3 {verdict(found['r_frailty'] > 0.3)}")  # fmt: skip
    print(f"with age {found['r_age']:.3f} ({plain['r_age']:.3f} without)")
    print(f"age and face less age alone: {_told(found, 'gain')} ({_told(plain, 'gain')} without)")


def pretrained(options: argparse.Namespace, open_: Open, keep: Keep) -> None:
    folder = aligned(options.work, LEARNED, seed=LEARN_SEED)
    photos = open_(folder).table["photo_id"]
    test = _test(options, open_)
    pairs = []
    for seed in range(options.seeds):
        chosen = photos.take(np.random.default_rng(seed).permutation(len(photos))[:FEW]).combine_chunks()
        few = open_(folder, pc.field("photo_id").isin(chosen))

        def arm(init: str, seed: int = seed, few: FaceSet = few) -> Scores:
            return tested(learn(init, few, options.samples // 6, seed), test, options.work)

        both = [keep(f"pretrained-{seed}-{name}", partial(arm, init)) for name, init in
                (("random", RANDOM), ("pretrained", options.init))]  # fmt: skip
        pairs.append((both[0]["c"], both[1]["c"]))
    print(f"\npretrained - random, {FEW} people, {options.seeds} pairs, mean [95 % t-interval]")
    print("  C-index  " + "  ".join(f"{one:.3f} -> {other:.3f}" for one, other in pairs))
    difference("C-index", pairs, unit="")
    if len(pairs) > 1:
        print(f"  above 0: {verdict(interval([other - one for one, other in pairs])[0] > 0)}")


def _test(options: argparse.Namespace, open_: Open) -> FaceSet:
    return open_(aligned(options.work, TESTED, seed=TEST_SEED))


def _told(found: Scores, name: str) -> str:
    return f"{found[name]:+.4f} [{found[name + '_low']:+.4f}, {found[name + '_high']:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    claims = {"features": features, "images": images, "offset": offset, "pretrained": pretrained}
    parser.add_argument("claim", nargs="*", choices=[*claims, []], help="all, if none is named")
    parser.add_argument("--init", help="a masked autoencoder, ViT-Tiny of patch 16")
    parser.add_argument("--age", help="a model of age with the same network, which `images` and `offset` begin with")
    parser.add_argument(
        "--samples", type=int, default=60_000, help="faces that a model sees; pretrained: a sixth of it"
    )
    parser.add_argument("--seeds", type=int, default=5, help="pairs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/survival_arms"), help="faces and finished results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    wanted = options.claim or list(claims)
    cache, told = str(options.work / "cache"), ""
    if wanted != ["features"]:
        options.init = options.init or autoencoder(AGE_ARMS)
        options.age = options.age or (str(made) if (made := AGE_ARMS / "age").exists() else options.init)
        print(f"risk begins with {options.age}")
        described = [
            load(options.init).digest,
            load(options.age).digest,
            options.samples,
            BATCH,
            HEAD,
            ALL,
            LEARNED,
            FEW,
        ]
        told = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:12]

    def open_(folder: str, where: pc.Expression | None = None) -> FaceSet:
        columns = dict.fromkeys((*NEEDED, "subject_id", "age"))
        return open_faces(folder, list(columns), where, cache=cache, optional=("entry_days",), packed=True)

    def keep(name: str, make: Callable[[], Scores]) -> Scores:
        found = kept(options.work / f"results-{told}" / f"{name}.json", make)
        print(f"{name}: {json.dumps(found)}", flush=True)
        return found

    for name in wanted:
        claims[name](options, open_, keep)


if __name__ == "__main__":
    main()
