"""What tests of jobs share: faces that are written once, and the curve of a pretraining that nothing disturbed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tools.faces import commit_faces, jpegs, pictures
from tools.runs import PRETRAINING, curve


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> str:
    """96 aligned faces, of nobody."""
    folder = str(tmp_path_factory.mktemp("noise") / "aligned")
    commit_faces(folder, jpegs(pictures(96)))
    return folder


@pytest.fixture(scope="session")
def calm_curve(noise: str, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """(steps, 3), of PRETRAINING in one process without Ray."""
    from jobs import pretrain

    output = str(tmp_path_factory.mktemp("calm") / "run")
    pretrain.main(pretrain.Options.model_validate({**PRETRAINING, "faces": noise, "output": output, "workers": 0}))
    return curve(output)


@pytest.fixture(scope="session")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], str]:
    """A cohort of tests/tools (`FACES`, `COLUMNS`) -> its folder of aligned faces."""
    places: dict[str, str] = {}

    def place(cohort: Any) -> str:
        if cohort.__name__ not in places:
            folder = str(tmp_path_factory.mktemp("cohort") / "aligned")
            commit_faces(folder, cohort.FACES, rows_per_unit=80, **cohort.COLUMNS)
            places[cohort.__name__] = folder
        return places[cohort.__name__]

    return place
