"""How every fine-tuning ends: nothing is kept in case of a kill, each face is accounted for, the evaluation is told.

_run.once(options, "finetune_age", work, lambda digest: ended(options, digest, [options.output]))
account("finetune_age", options, digest, everyone, used, bad, known, why).write(...)
"""

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from fahr import store
from fahr.training.facesets import FaceSet
from fahr.training.keeper import Keeper
from fahr.training.shares import Scored
from fahr.version import code_version
from jobs._finetune import FinetuneOptions


def ended(options: FinetuneOptions, digest: str, folders: Iterable[str]) -> None:
    """Delete the states of runs whose checkpoints are written, in `folders` or their folds; print the evaluation."""
    for folder in folders:
        for place in [store.join(folder, f"fold-{n}") for n in range(1, options.folds + 1)] or [folder]:
            for number, stage in enumerate(options.stages, 1):
                for name in ("states", "best"):
                    Keeper(store.join(place, f"stage-{number}-{stage.name}", name), digest, None).clear()
    print(store.read_bytes(store.join(options.output, "evaluation", "evaluation.txt")).decode(), end="")


def unreadable(faces: Mapping[str, FaceSet], scored: Mapping[str, Scored]) -> set[str]:
    """Photos of the sets scored that did not decode."""
    return {faces[name].table["photo_id"][row].as_py() for name, each in scored.items() for row in each.bad}


def account(
    stage: str, options: FinetuneOptions, digest: str, everyone: pa.Table, used: Iterable[pc.Expression],
    bad: set[str], known: pc.Expression, why: Mapping[str, int],
) -> store.Ledger:  # fmt: skip
    """Every face: learned from or scored (`used`), or why it was neither. `why`: those not `known`, by reason."""
    labelled = set(everyone.filter(known)["photo_id"].to_pylist())
    seen = {photo for where in used for photo in everyone.filter(where)["photo_id"].to_pylist()}
    rejects = {**why, "not_asked_for": len(labelled - seen), "unreadable": len(bad)}
    return store.Ledger(
        stage, everyone.num_rows, everyone.num_rows - sum(rejects.values()),
        {name: count for name, count in rejects.items() if count}, digest, code_version(), {"faces": options.faces},
    ).check()  # fmt: skip
