"""Aligned faces -> scores: our scorer against a plain timm loop; jobs/score.py against a plain process pool.

python benchmarks/score.py [FACES] [ROUNDS] [--model vit_small]

1. JPEG bytes to years, one thread, batches of 16, bf16: decode and `Scorer` against OpenCV, timm's own network with the
   same weights and autocast. Then what `--flip` costs.
2. FACES aligned faces, two workers of one thread each on both sides, the same units of work and the same scorer, rows
   written as Parquet by both. Start-up is told apart: a pool forks and imports, Ray starts a cluster and places actors.
"""

import argparse
import io
import multiprocessing
import os
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from _rounds import interleave, median_range, ratios, table

from fahr import store
from fahr.cohorts.synthetic import CohortOptions, render_face
from fahr.faces.rows import decode, encode
from fahr.models import create, load, save
from fahr.scores import ModelPlan, Team, plan_faces, plan_models, read_faces, score_faces
from fahr.scoring import Scorer

WORKERS, ROWS_PER_UNIT, DISTINCT, BATCH = 2, 250, 500, 16
ALONE = 256  # faces of the first part
MEAN, STD = (torch.tensor(each).view(3, 1, 1) for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def make_faces(count: int) -> list[bytes]:
    """DISTINCT rendered faces of 112 px as JPEG, again and again."""
    options = CohortOptions(size_px=256)
    made = []
    for number in range(min(count, DISTINCT)):
        face = render_face(seed=0, subject=number, photo=0, apparent_age=20 + number % 70, frailty=0.0, options=options)
        made.append(encode(np.asarray(cv2.resize(face.image, (112, 112), interpolation=cv2.INTER_AREA)), "jpeg"))
    return [made[number % len(made)] for number in range(count)]


def make_model(folder: Path, name: str) -> str:
    """Random weights, with a head whose answers spread over years."""
    model = create(name, patch=16, size=112, task="age", seed=0)
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(model.head.weight.shape, generator=torch.Generator().manual_seed(0)))
        model.head.bias.fill_(50.0)
    save(model, str(folder / "age"), config={"detector": "mtcnn"})
    return str(folder / "age")


# 1. One thread


def timm_loop(place: str, name: str, faces: list[bytes], *, precise: bool = False) -> np.ndarray:
    """What one writes who has a timm network and an afternoon."""
    network = _timm_network(place, name)
    said = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=not precise):
        for start in range(0, len(faces), BATCH):
            pixels = [
                cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
                for data in faces[start : start + BATCH]
            ]
            images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
            said.append(network((images - MEAN) / STD)[:, 0].float().numpy())
    return np.concatenate(said)


_networks: dict[str, torch.nn.Module] = {}


def _timm_network(place: str, name: str) -> torch.nn.Module:
    if place not in _networks:
        network = timm.create_model(f"{name}_patch16_224", img_size=112, num_classes=1)
        own = load(place).state_dict()
        network.load_state_dict({key.removeprefix("encoder."): value for key, value in own.items()})
        _networks[place] = network.eval()
    return _networks[place]


def scored(scorer: Scorer, faces: list[bytes]) -> np.ndarray:
    return scorer.predict([decode(np.frombuffer(data, np.uint8))[0] for data in faces])


def scorer_against_timm(place: str, name: str, count: int, rounds: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    faces = make_faces(min(count, ALONE))
    exact = Scorer(load(place), precision="fp32", batch=BATCH)
    off = abs(scored(exact, faces) - timm_loop(place, name, faces, precise=True)).max()
    assert off < 1e-3, f"in fp32 the scorer and timm differ by {off} years"
    quick = Scorer(load(place), batch=BATCH)
    ages = timm_loop(place, name, faces)
    off16 = abs(scored(quick, faces) - ages).max()
    assert off16 < 0.1 * ages.std(), f"in bf16 they differ by {off16} years"  # timm's residual stream is bf16 too
    print(f"equal: {len(faces)} faces, at most {off:.1e} years apart in fp32, {off16:.2g} in bf16 ({name})")
    plans = plan_models([place])
    team = Team(plans, batch=BATCH)  # mirror images too
    cut = plans[0].cut
    shown = [{cut: decode(np.frombuffer(data, np.uint8))[0]} for data in faces]
    ways = {
        "fahr.scoring.Scorer": lambda: scored(quick, faces),
        "timm, plain loop": lambda: timm_loop(place, name, faces),
        "with --flip": lambda: team.values(shown),
    }
    table("JPEG to years, one thread", interleave(ways, rounds), "fahr.scoring.Scorer", len(faces), "faces")


# 2. Two workers


def commit_faces(folder: str, faces: list[bytes]) -> None:
    """As jobs/align.py leaves them, ROWS_PER_UNIT in a unit."""
    rows = pa.table({"photo_id": [f"p{number:06d}" for number in range(len(faces))]})
    table = rows.append_column("face", [faces])
    table = table.append_column("convention", [["arcface112"] * len(faces)])
    table = table.append_column("detector", [["mtcnn"] * len(faces)])
    units = store.WorkUnits(folder, {}, stage="align")
    assigned = np.array(units.assign(rows["photo_id"], store.row_digests(rows), ROWS_PER_UNIT))
    for unit in sorted(set(assigned)):
        mine = pa.array(assigned == unit)
        part = rows.filter(mine)
        units.commit(unit, part, {"faces": table.filter(mine)}, store.Ledger("align", part.num_rows, part.num_rows))


_worker: dict[str, Team] = {}


def start_worker(plans: tuple[ModelPlan, ...]) -> None:
    cv2.setNumThreads(1)
    _worker["team"] = Team(plans, batch=BATCH, threads=1)


def run_unit(work: tuple[str, pa.Table, str]) -> tuple[float, float]:
    folder, rows, out = work
    started = time.time()
    made = score_faces(read_faces(folder, rows), _worker["team"])
    pq.write_table(made.scores, out)
    return started, time.time()


def by_pool(folder: str, place: str, output: str) -> tuple[float, float]:
    """Seconds until the first face, and from there to the last."""
    began = time.time()
    found = plan_faces(folder)
    plans = plan_models([place], found.detector, flip=False)
    os.makedirs(output)
    files = found.rows["file"].to_pylist()
    work = [
        (folder, found.rows.filter(pa.array([each == name for each in files])), f"{output}/{number:06d}.parquet")
        for number, name in enumerate(sorted(set(files)))
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context, start_worker, (plans,)) as pool:
        spans = list(pool.map(run_unit, work))
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    return first - began, last - first


def by_job(folder: str, place: str, output: str) -> tuple[float, float]:
    from jobs import score

    said = io.StringIO()
    with redirect_stdout(said):
        score.main(
            score.Options(
                faces=folder, models=[place], output=output, flip=False, batch=BATCH, workers=WORKERS,
                rows_per_unit=ROWS_PER_UNIT,
            )
        )  # fmt: skip
    found = re.search(r"ready after (\d+) s, then [\d,]+ faces in ([\d.]+) s", said.getvalue())
    assert found, said.getvalue()
    return float(found[1]), float(found[2])


def ages_of(tables: list[pa.Table]) -> dict[str, float]:
    return {
        photo: age
        for part in tables
        for photo, age in zip(part["photo_id"].to_pylist(), part["face_age"].to_pylist(), strict=True)
    }


def job_against_pool(root: Path, place: str, count: int, rounds: int) -> None:
    folder = str(root / "faces")
    commit_faces(folder, make_faces(count))
    starts: dict[str, list[float]] = {"jobs/score.py": [], "process pool": []}
    work: dict[str, list[float]] = {"jobs/score.py": [], "process pool": []}
    for number in range(rounds + 1):
        for name, way in (("process pool", by_pool), ("jobs/score.py", by_job)):
            start, seconds = way(folder, place, str(root / f"{name[0]}{number}"))
            if number:  # the first round warms up
                starts[name].append(start)
                work[name].append(seconds)
    pool = ages_of([pq.read_table(path) for path in sorted((root / f"p{rounds}").glob("*.parquet"))])
    job = ages_of(list(store.read_units(str(root / f"j{rounds}"), "scores")))
    assert pool == job and len(job) == count, f"{len(pool)} and {len(job)} faces, not all equal"
    print(f"equal: {len(job):,} face ages, to the bit")
    table(f"{WORKERS} workers of 1 thread", work, "jobs/score.py", count, "faces")
    print(f"  the job has {median_range(ratios(work['process pool'], work['jobs/score.py']))} of the pool's rate")
    for name, values in starts.items():
        print(f"  start-up of {name}: {median_range(values, 1)} s (Ray itself was up)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", nargs="?", type=int, default=5_000)
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("--model", default="vit_small", help="size of the network")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = make_model(Path(folder), options.model)
        scorer_against_timm(place, options.model, options.faces, options.rounds)
        job_against_pool(Path(folder), place, options.faces, options.rounds)


if __name__ == "__main__":
    main()
