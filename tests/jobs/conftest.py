"""What the tests of pretraining under kills share: faces, and the curve of a run that nothing disturbed."""

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
