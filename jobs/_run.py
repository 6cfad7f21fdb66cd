"""What every training run shares: its folder, its digest, its pace of writing, and where it goes on from.

ledger = once(options, "pretrain", work)             # the whole of a job's main: a folder of another run is refused
go_on(keeper, state)                                 # on all workers, from the state that the first one found
"""

import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, model_validator
from torch import distributed

from fahr import store
from fahr.config import Location, option
from fahr.errors import Refused
from fahr.models.checkpoints.hub import KNOWN
from fahr.training.background import Background
from fahr.training.begin import IMAGENET, RANDOM
from fahr.training.facesets import FaceSet, data_digest
from fahr.training.journal import Journal
from fahr.training.keeper import Keeper
from fahr.training.loader import Loader
from fahr.training.recipe import Recipe
from fahr.training.sampling import Order
from fahr.training.state import Snapshot, State, restore
from fahr.training.step import world_size
from fahr.training.tracking import mlflow_run
from fahr.training.workers import rank
from jobs import _train
from jobs._train import Team, Work

T = TypeVar("T")
# Weights to begin with: a word, a name that some are known by, or a checkpoint, whose place becomes absolute.
Init = Annotated[
    str, AfterValidator(lambda given: given if given in (RANDOM, IMAGENET, *KNOWN) else store.absolute(given))
]
FINISH_S = 600.0  # that the last state may take to be written while the store is silent


class RunOptions(Recipe, _train.WorkerOptions):
    """A recipe, where it runs, and what is written while it does."""

    usual_epochs: ClassVar[float]  # the length of a run that is told none

    faces: Location = option(help="aligned faces: the output of jobs/align.py", result=False)
    output: Location = option(help="folder of the run", result=False)
    log_rows: int = option(2000, ge=1, help="lines of metrics.jsonl", result=False, unit="lines")
    checkpoint_minutes: float = option(5.0, gt=0, help="what a kill costs at most", unit="minutes", result=False)
    keep: int = option(3, ge=1, help="states that are kept", result=False, unit="states")
    cache: Location | None = option(
        None, help="local folder for a copy of the faces", off="none: OUTPUT/cache, or the system's if that is s3://",
        result=False,
    )  # fmt: skip
    packed: bool = option(
        False, help="keep decoded faces in the cache: 7 times its size, nothing to decode", result=False
    )
    mlflow: str | None = option(None, help="tracking server that gets the metrics too", off="none", result=False)
    loader_threads: int = option(2, ge=1, help="threads that decode, of each worker", result=False, unit="threads")

    @model_validator(mode="before")
    @classmethod
    def _length(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("epochs") is None and given.get("samples") is None:
            return {**given, "epochs": cls.usual_epochs}
        return given

    def recipe(self, num_rows: int, **changes: Any) -> Recipe:
        own = {name: getattr(self, name) for name in Recipe.model_fields}
        return Recipe.model_validate(own | changes).counted(num_rows)

    def cache_folder(self) -> str:
        if self.cache is not None:
            return self.cache
        return os.path.join(tempfile.gettempdir(), "fahr-cache") if store.is_s3(self.output) else f"{self.output}/cache"


def check(options: RunOptions, stage: str) -> None:
    """What can be said without data: the cache, the resources."""
    if options.cache is not None and store.is_s3(options.cache):
        raise Refused(f"--cache {options.cache}: the copy of the faces is mapped into memory. Give a local folder.")
    _train.check(options, stage)


def once(
    options: RunOptions, stage: str, work: Work, ended: Callable[[str], None] = lambda digest: None
) -> store.Ledger:
    """One run per folder, `work` on every worker; a finished one is left as it is.

    `ended(digest)`: what is done on this side whenever a run is finished, this time or before, ahead of its ledger.
    """
    check(options, stage)
    if options.dry_run:
        return store.Ledger(stage, 0, 0)
    digest = own_folder(options, data_digest(options.faces))
    place = store.join(options.output, "ledger.json")
    if store.exists(place):
        print(f"{stage}: {options.output} is finished")
    else:
        started = time.time()
        told = _train.train(work, options, digest)
        line = f"{told['line']} | " if "line" in told else ""
        print(f"{stage}: {line}{time.time() - started:.0f} s")
    ended(digest)
    ledger = store.Ledger.read(place).check()
    print(ledger.line())
    return ledger


# The folder


def own_folder(options: RunOptions, data: str) -> str:
    """The run's digest: of everything that decides what comes out. A folder of another run is refused."""
    deciding, digest = _deciding(options, data), digest_of(options, data)
    place = store.join(options.output, "run.json")
    if not store.create_bytes(place, json.dumps({"digest": digest, **deciding}, indent=2).encode()):
        before = json.loads(store.read_bytes(place))
        if before["digest"] != digest:
            changed = [name for name, value in deciding["options"].items() if before["options"].get(name) != value]
            changed += ["the faces"] if before["faces"] != data else []
            raise Refused(
                f"{options.output}: holds a run with another {', '.join(changed) or 'set of options'}. Give what it "
                "had (run.json) to go on with it, or another --output to begin anew."
            )
    options.write(store.join(options.output, "options.yaml"))
    return digest


def check_unchanged(options: RunOptions, digest: str) -> None:
    """Asked by each worker: the faces are still those of the run's digest."""
    if digest_of(options, data_digest(options.faces)) != digest:
        raise Refused(f"{options.faces}: has changed since the run began. Let jobs/align.py end first.")


def digest_of(options: RunOptions, data: str) -> str:
    return hashlib.sha256(json.dumps(_deciding(options, data), sort_keys=True).encode()).hexdigest()[:16]


def _deciding(options: RunOptions, data: str) -> dict[str, Any]:
    return {"options": options.deciding(), "faces": data}


# On every worker


def same(make: Callable[[], T]) -> T:
    """What `make` gives on the first worker, on all of them; it is asked nowhere else."""
    made = _train.together(lambda: make() if rank() == 0 else None)
    if world_size() == 1:
        return made  # type: ignore[return-value]
    told: list[Any] = [made]
    distributed.broadcast_object_list(told, 0)
    found: T = told[0]
    return found


def go_on(keeper: Keeper, state: State) -> None:
    """All from the state that the first worker found to be the newest: a late write must not part them."""
    taken: Snapshot | None = _train.together(lambda: keeper.newest() if rank() == 0 else None)
    position = same(lambda: taken.facts["position"] if taken else None)
    if position is not None:
        restore(_train.together(lambda: taken or keeper.at(position)), state)


def open_batches(
    options: RunOptions, faces: FaceSet, order: Order, recipe: Recipe, team: Team, opened: list[Loader]
) -> Callable[[int], Loader]:
    """Position -> this worker's batches from there on. Each loader is noted in `opened`."""

    def batches(start: int) -> Loader:
        loader = Loader(
            faces, order, global_batch=recipe.global_batch, rank=rank(), world=world_size(), start=start,
            threads=options.loader_threads, device=team.device,
        )  # fmt: skip
        opened.append(loader)
        return loader

    return batches


def open_journal(
    options: RunOptions, stage: str, folder: str, digest: str, state: State, background: Background
) -> Journal | None:
    """The first worker's."""
    if rank() != 0:
        return None
    track = None
    if options.mlflow is not None:
        track = mlflow_run(options.mlflow, stage, digest, options.resolved())
    return Journal(folder, state.position, background, digest, track)


def put(background: Background, location: str, data: bytes) -> None:
    """A file that may be written soon."""
    background.put(store.name(location), functools.partial(store.write_bytes, location, data))
