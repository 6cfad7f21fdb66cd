"""Two claims about searching settings, through jobs/tune.py as its users run it.

python benchmarks/tune.py [planted speed] [--work out/tune_bench]

    planted  pictures from which age and frailty can be read, 900 people; the best setting is planted (a usual loss at
             a rate that learns), the default learns too slowly and is worse by .03 C or more. Within 30 trials on
             frozen features the winner's C, of people kept aside, is within .01 of the planted setting's; in 3 seeds.
    speed    200 such trials: wall time, bar 6 minutes on two cores; what a trial takes beside its own computing, bar
             0.4 s of a core; and faces that were embedded twice, bar none.

The network has random weights: what its features say of a colour is enough. Finished searches under --work are kept.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from fahr import store
from fahr.faces.rows import encode

ROOT = Path(__file__).resolve().parents[1]
PEOPLE, SIZE, SEEDS = 900, 32, (0, 1, 2)
SPACE = {
    "loss": ["logistic", "exponential", "cox"], "tau": {"low": 0.1, "high": 10, "log": True},
    "events": {"low": 0.1, "high": 0.5}, "head_lr": {"low": 1e-4, "high": 1.0, "log": True},
    "head_epochs": {"low": 2, "high": 20, "log": True, "whole": True},
}  # fmt: skip
PLANTED = {"loss": "logistic", "tau": 1.0, "events": 0.3, "head": {"base_lr": 0.1, "epochs": 12}}
DEFAULT = {"loss": "exponential", "tau": 5.0, "events": 0.1, "head": {"base_lr": 3e-4, "epochs": 2}}


def base(place: Path, setting: dict) -> str:
    own = {name: value for name, value in setting.items() if name != "head"}
    stages = [{"name": "head", "freeze": "encoder", **setting["head"]}]
    plain = {"encoder": "vit_tiny", "patch": 16, "global_batch": 64, "micro_batch": 64, "flip": False, "stages": stages}
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(yaml.safe_dump({**plain, **own}))
    return str(place)


def cohort(folder: Path) -> str:
    """Units as jobs/align.py leaves them: the older, the less red; the frailer, the less green; under noise."""
    if (folder / "units" / "done").exists():
        return str(folder)
    rng = np.random.default_rng(5)
    age, frailty = rng.uniform(40, 80, PEOPLE), rng.normal(0, 1, PEOPLE)
    death = rng.exponential(1500 * np.exp(-(0.05 * (age - 60) + frailty)))
    closed = rng.uniform(500, 3000, PEOPLE)
    shade = np.stack([250 - 2.5 * age, 128 - 32 * frailty, np.full(PEOPLE, 128.0)], 1)
    pixels = np.clip(shade[:, None, None] + rng.normal(0, 40, (PEOPLE, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    rows = pa.table({
        "photo_id": [f"p{number:05d}" for number in range(PEOPLE)],
        "subject_id": [f"s{number:05d}" for number in range(PEOPLE)],
        "split": ["train"] * PEOPLE, "age": age, "follow_up_days": np.ceil(np.minimum(death, closed)),
        "event": (death <= closed).astype(int),
    })  # fmt: skip
    faces = rows.append_column("face", pa.array([encode(each, "jpeg") for each in pixels], pa.binary()))
    for name, value in {"face_format": "jpeg", "convention": "arcface112", "detector": "mtcnn"}.items():
        faces = faces.append_column(name, pa.array([value] * PEOPLE))
    units = store.WorkUnits(str(folder), {"made": "by benchmarks/tune.py"}, stage="align")
    names = np.array(units.assign(rows["photo_id"], store.row_digests(rows), 100))
    for unit in sorted(set(names)):
        mine = pa.array(names == unit)
        part = rows.filter(mine)
        units.commit(unit, part, {"faces": faces.filter(mine)}, store.Ledger("align", part.num_rows, part.num_rows))
    return str(folder)


def search(work: Path, name: str, setting: dict, seed: int, samples: int, *more: str) -> tuple[dict, str]:
    """results.json, and what was printed when it ran."""
    output = work / f"{name}-{seed}"
    log = work / f"{name}-{seed}.log"
    if not (output / "ledger.json").exists():
        space = work / "space.yaml"
        faces = cohort(work / "faces")
        space.write_text(yaml.safe_dump({"space": SPACE}))
        words = [
            "--task", "survival", "--config", str(space), "--base", base(work / f"{name}.yaml", setting), "--faces",
            faces, "--init", "random", "--output", str(output), "--features", str(work / "features"), "--samples",
            str(samples), "--seed", str(seed), "--aside", "0.4", "--resume", *more,
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "jobs/tune.py", *words],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        log.write_text(done.stdout)
    return json.loads((output / "results.json").read_text()), log.read_text()


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def planted(work: Path) -> None:
    print(f"\n{PEOPLE} people, two fifths of them kept aside; C of those; 30 trials")
    every = True
    for seed in SEEDS:
        found, _ = search(work, "default", DEFAULT, seed, 30)
        best, _ = search(work, "planted", PLANTED, seed, 1, "--finalists", "1")
        winner, default, sought = found["held_out"][0], found["default_held_out"][0], best["held_out"][0]
        met = winner >= sought - 0.01 and default <= sought - 0.03
        every &= met
        told = f"planted {sought:.4f}, default {default - sought:+.4f}, winner {winner - sought:+.4f}"
        print(f"  seed {seed}: {told}, optimism {found['optimism'][0]:+.3f}: {verdict(met)}")
    print(f"  in all {len(SEEDS)} seeds: {verdict(every)}")


def speed(work: Path) -> None:
    began = time.monotonic()
    _, log = search(work, "speed", DEFAULT, 0, 200)
    whole = time.monotonic() - began
    made, seconds, at_once = re.search(r"tune: (\d+) trials in ([\d.]+) s, (\d+) at a time", log).groups()
    with (work / "speed-0" / "trials.csv").open() as file:
        computing = [float(row["seconds"]) for row in csv.DictReader(file)]
    beside = float(seconds) * int(at_once) / int(made) - float(np.mean(computing))
    units = [len(each["files"]) for each in map(json.loads, _markers(work / "features"))]
    print(f"\n{made} trials, {at_once} at a time: {seconds} s ({whole:.0f} s with Ray's start, finalists and page)")
    print(f"  computing: mean {np.mean(computing):.2f} s, longest {max(computing):.2f} s")
    print(f"  under 360 s: {verdict(float(seconds) < 360)}")
    print(f"  beside it, a trial and core: {beside:.2f} s; at most 0.4: {verdict(beside <= 0.4)}")
    print(
        f"  units of features made: {len(units)}, in {len(list((work / 'features').iterdir()))} folder(s) for all seeds"
    )


def _markers(features: Path) -> list[str]:
    return [path.read_text() for path in features.glob("*/units/done/*.json")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    claims = {"planted": planted, "speed": speed}
    parser.add_argument("claim", nargs="*", choices=[*claims, []], help="both, if none is named")
    parser.add_argument("--work", type=Path, default=Path("out/tune_bench"), help="pictures and finished searches")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    for name in options.claim or list(claims):
        claims[name](work)


if __name__ == "__main__":
    main()
