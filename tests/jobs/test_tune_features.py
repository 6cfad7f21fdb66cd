"""What a search of heads looks at once: features are made for one encoder and one set of faces, and kept."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from fahr import store
from fahr.models import create, load, save
from fahr.scoring import Scorer
from jobs import _cluster
from jobs._tune_features import Embedding, embed
from tools.faces import commit_faces
from tools.outcomes import COLUMNS, FACES

pytestmark = pytest.mark.usefixtures("cluster")
COUNT = 160
PHOTOS = pa.table({"photo_id": [f"p{number:05d}" for number in range(COUNT)]})
POOL = _cluster.Pool("embed", 1, 0.5, 0.0, 100 << 20)


def align(folder: str, pictures: list[bytes]) -> None:
    some = {name: values[:COUNT] for name, values in COLUMNS.items()}
    commit_faces(folder, pictures[:COUNT], rows_per_unit=80, **{**some, "split": ["train"] * COUNT})


def checkpoint(folder: str, seed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    save(create("vit_tiny", patch=16, size=32, task="age", seed=seed), folder, config={"detector": "mtcnn"})


def looked_at(init: str) -> np.ndarray:
    """(COUNT, D) of the faces, by the checkpoint and nothing else."""
    pixels = [cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_COLOR_RGB) for each in FACES[:COUNT]]
    return Scorer(load(init, task="age"), precision="fp32").features(np.stack(pixels))


def test_another_checkpoint_or_other_faces_in_the_same_place_are_looked_at_anew(tmp_path: Path) -> None:
    faces, init, kept = (str(tmp_path / name) for name in ("aligned", "checkpoint", "kept"))
    align(faces, FACES)
    checkpoint(init, 0)
    one = Embedding(faces, "survival", init, "vit_tiny", 16, 32, "arcface112", 0, False, "fp32", "cpu")
    first, folder = embed(one, PHOTOS, kept, POOL)
    np.testing.assert_allclose(first.features, looked_at(init), atol=2e-5)
    checkpoint(init, 1)
    second, beside = embed(one, PHOTOS, kept, POOL)
    np.testing.assert_allclose(second.features, looked_at(init), atol=2e-5)
    assert beside != folder and not np.allclose(first.features, second.features, atol=1e-3)
    shutil.rmtree(faces)
    align(faces, FACES[::-1])
    third, last = embed(one, PHOTOS, kept, POOL)
    assert last not in (folder, beside) and not np.allclose(second.features, third.features, atol=1e-3)
    found = {store.name(each) for each in (folder, beside, last)}
    assert {path.name for path in (tmp_path / "kept").iterdir()} == found, "each set under its own digest"
