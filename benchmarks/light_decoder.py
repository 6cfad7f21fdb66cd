"""Does the light recipe of pretraining lose quality? Half of the decoder, half of the hidden patches painted, as many
samples.

python benchmarks/light_decoder.py [--portraits out/portraits] [--samples 32000] [--seeds 5] [--subjects 3000]

Arms, ViT-Tiny of patch 16 at 112 px:
    full     Decoder(192, 8, 3), all hidden patches painted
    light    Decoder(192, 4, 3), `decoded` 0.5: to this encoder what Decoder(512, 4, 16) is to ViT-Base
    random   the encoder that both start from, not trained: what pretraining has to beat

A pair shares its seed, and so its first weights (the light decoder's are the full one's of the same name), the order of
faces, masks and augmentation. Each pair has a seed of its own: 0, 1, ... Nothing is tuned on what comes out.

Measures, the same for all arms (fahr.training.judging): mean absolute error of a linear probe of age, in years, and
masked loss over all hidden patches, on rendered people who were not trained on; where --portraits names an output of
jobs/align.py with a column age, both on these too, 5 folds by person. The light arm never painted all patches at once
while it was trained, and is judged by that all the same.

Verdict, fixed beforehand: `parity` when every 95 % t-interval of light - full lies inside +-0.3 years (probes) and
inside +-1 % (losses). Results of finished arms stay under --work: a stopped run goes on. Wall times are told, no claim.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from _pairs import Scores, aligned, difference, kept

from fahr.errors import Refused
from fahr.models import Decoder, MaeOptions, MaskedAutoencoder, create
from fahr.training.augment import PRESETS
from fahr.training.facesets import FaceSet, open_faces
from fahr.training.judging import Faces, Judgement, judge, sample
from fahr.training.loader import Loader
from fahr.training.loop import train
from fahr.training.recipe import Recipe
from fahr.training.sampling import Order
from fahr.training.state import fresh
from fahr.training.tasks import Pretraining

FULL, LIGHT, RANDOM = "full", "light", "random"
SHAPES = {
    FULL: (Decoder(192, 8, 3), MaeOptions()),
    LIGHT: (Decoder(192, 4, 3), MaeOptions(decoded=0.5)),
}
THREADS, BATCH, BASE_LR, ROWS_PER_UNIT, FOLDS = 2, 64, 4e-3, 250, 5
YEARS, PERCENT = 0.3, 1.0  # the most that parity allows, either way


# Faces


def folds(faces: Faces) -> list[tuple[Faces, Faces]]:
    """(the others, one fold) for each of five folds of people: the same for every arm and seed."""
    people = sorted(set(faces.subjects))
    if len(people) < 10 * FOLDS:
        raise Refused(f"--portraits: {len(people)} people, at least {10 * FOLDS} are needed for {FOLDS} folds.")
    drawn = dict(zip(people, np.random.default_rng(0).permutation(len(people)) % FOLDS, strict=True))
    fold = np.array([drawn[person] for person in faces.subjects])
    return [(_part(faces, fold != number), _part(faces, fold == number)) for number in range(FOLDS)]


def _part(faces: Faces, rows: Any) -> Faces:
    return Faces(faces.pixels[rows], {"age": faces.ages[rows]}, faces.subjects[rows])


# An arm


def recipe_of(samples: int, seed: int) -> Recipe:
    return Recipe(
        samples=samples, global_batch=BATCH, micro_batch=BATCH, base_lr=BASE_LR,
        warmup_samples=samples // 10, precision="bf16", seed=seed,
    )  # fmt: skip


def model_of(arm: str, seed: int) -> MaskedAutoencoder:
    """The full arm's first weights, in whatever the arm has of them."""
    decoder, options = SHAPES[FULL]
    full = create("vit_tiny", patch=16, decoder=decoder, options=options, seed=seed)
    if arm != LIGHT:
        return full
    decoder, options = SHAPES[LIGHT]
    light = create("vit_tiny", patch=16, decoder=decoder, options=options, seed=seed)
    weights = full.state_dict()
    light.load_state_dict({name: weights[name] for name in light.state_dict()})
    return light


def run(
    arm: str, seed: int, samples: int, faces: FaceSet, judged: Callable[[MaskedAutoencoder, int], Scores]
) -> Scores:
    model, recipe = model_of(arm, seed), recipe_of(samples, seed)
    began = time.perf_counter()
    if arm != RANDOM:
        order = Order(faces.num_rows, seed)
        batches = partial(Loader, faces, order, global_batch=BATCH, threads=1)
        task, state = Pretraining(model, recipe, PRESETS["mae"]), fresh(model, recipe)
        for metrics in train(task, lambda start: batches(start=start), recipe, state):
            assert not metrics.culprits, f"{arm}, seed {seed}, step {metrics.step}: not finite"
    seconds = time.perf_counter() - began
    return judged(model, seed) | {"seconds": seconds}


def scores(
    model: MaskedAutoencoder, seed: int, known: Faces, held_out: Faces, portraits: list[tuple[Faces, Faces]]
) -> Scores:
    whole = judge(model, known, held_out, seed=seed)
    found = {"years": _years(whole), "loss": whole.masked_loss, "psnr": whole.psnr}
    if portraits:
        parts = [judge(model, others, fold, seed=seed) for others, fold in portraits]
        sizes, told = [part.faces for part in parts], [len(_probe(part).predictions) for part in parts]
        found["portraits_years"] = float(np.average([_years(part) for part in parts], weights=told))
        found["portraits_loss"] = float(np.average([part.masked_loss for part in parts], weights=sizes))
    return found


def _probe(judgement: Judgement) -> Any:
    if judgement.linear is None:
        raise Refused(f"no probe of age: {judgement.why_no_probe}. Give faces with ages.")
    return judgement.linear


def _years(judgement: Judgement) -> float:
    return float(_probe(judgement).mae)


# The report


def report(found: Mapping[tuple[int, str], Scores], seeds: int) -> None:
    names = list(found[0, FULL])
    print(f"\n{'seed':>4s} {'arm':8s}" + "".join(f"{name:>17s}" for name in names))
    for (seed, arm), values in found.items():
        print(f"{seed:4d} {arm:8s}" + "".join(f"{values[name]:17.4f}" for name in names))

    def pairs(one: str, other: str, name: str) -> list[tuple[float, float]]:
        return [(found[seed, one][name], found[seed, other][name]) for seed in range(seeds)]

    places = [""] + (["portraits_"] if "portraits_years" in names else [])
    print(f"\nfull - random, {seeds} pairs, mean [95 % t-interval]; below 0: pretraining learns what age looks like")
    for place in places:
        difference(f"{place}years", pairs(RANDOM, FULL, f"{place}years"))
        difference(f"{place}years", pairs(RANDOM, FULL, f"{place}years"), percent=True)
    print(f"\nlight - full, {seeds} pairs, mean [95 % t-interval]; above 0: light is worse")
    inside = []
    for place in places:
        inside.append(difference(f"{place}years", pairs(FULL, LIGHT, f"{place}years"), YEARS))
        difference(f"{place}years", pairs(FULL, LIGHT, f"{place}years"), percent=True)
        inside.append(difference(f"{place}loss", pairs(FULL, LIGHT, f"{place}loss"), PERCENT, percent=True))
    print(f"\nverdict: {'parity' if all(inside) else 'no parity'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32_000, help="faces that an arm is trained on")
    parser.add_argument("--seeds", type=int, default=5, help="pairs; at least 2")
    parser.add_argument("--subjects", type=int, default=3000, help="people to render")
    parser.add_argument("--portraits", help="an output of jobs/align.py, real faces with a column age")
    parser.add_argument("--work", type=Path, default=Path("out/light_decoder"), help="faces and finished results")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds}: an interval needs at least 2 pairs")
    torch.set_num_threads(THREADS)
    cache, is_train = str(options.work / "cache"), pc.field("split") == "train"
    folder = aligned(options.work, options.subjects)
    faces = open_faces(folder, ["age"], where=is_train, cache=cache, packed=True)
    others = open_faces(folder, ["age"], where=~is_train, cache=cache, packed=True)
    known, held_out = (sample(each, each.num_rows, seed=0) for each in (faces, others))
    data: list[str] = [faces.digest, others.digest]
    portraits: list[tuple[Faces, Faces]] = []
    if options.portraits:
        real = open_faces(options.portraits, ["age"], cache=cache)
        portraits = folds(sample(real, real.num_rows, seed=0))
        data.append(real.digest)
    told = [data, recipe_of(options.samples, 0).model_dump(), PRESETS["mae"].model_dump(), repr(SHAPES)]
    results = options.work / f"results-{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]}"
    print(f"{faces.num_rows:,} faces to train on, {others.num_rows:,} held out; results in {results}")
    found: dict[tuple[int, str], Scores] = {}
    judged = partial(scores, known=known, held_out=held_out, portraits=portraits)
    for seed in range(options.seeds):
        for arm in (RANDOM, FULL, LIGHT):
            make = partial(run, arm, seed, options.samples, faces, judged)
            found[seed, arm] = kept(results / f"seed{seed}-{arm}.json", make)
            print(f"seed {seed} {arm}: {json.dumps(found[seed, arm])}", flush=True)
    report(found, options.seeds)


if __name__ == "__main__":
    main()
