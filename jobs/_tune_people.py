"""Around what is searched, and on whom: what can be refused before the first trial.

plain, file = base_options(options, job)            # the fine-tune job's options around which is searched
check_space(space, plain, options.task, job)
people = read_people(options, plain)
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from fahr.config import read_yaml
from fahr.errors import Refused
from fahr.search.choice import ends
from fahr.search.people import SPLITS, Parts, folds, part
from fahr.search.settings import Plain, configured, with_head, without_stage
from fahr.search.spaces import Settings, Space, Value
from fahr.training.facesets import FaceSet, open_faces
from fahr.training.labels import check_ages, check_events, check_leaks, check_outcomes
from fahr.training.outcomes import ENTRY, NEEDED, known_outcome


def base_options(options: Any, job: ModuleType) -> tuple[Plain, Plain]:
    """The job's options as plain values, and the file they were read from. Refused: what the job would refuse."""
    file = read_yaml(options.base) if options.base else {}
    own = {"faces": options.faces, "init": options.init, "output": options.output, "cache": options.cache}
    own |= {name: getattr(options, name) for name in ("workers", "cpus_per_worker", "gpus_per_worker",
                                                      "memory_per_worker", "seed")}  # fmt: skip
    try:
        chosen = job.Options.model_validate({**file, **own})
    except ValidationError as error:
        told = "\n".join(f"{'.'.join(str(each) for each in one['loc'])}: {_rule(one)}" for one in error.errors())
        raise Refused(f"--base {options.base}: is no configuration of that job.\n{told}") from error
    if chosen.folds or chosen.held_out or getattr(chosen, "arms", ()):
        raise Refused("--base: has folds, held_out or arms, which are for a final evaluation. Leave them out here.")
    # one copy of the faces for all trials, whose folders are others
    return {**chosen.resolved(), "cache": chosen.cache_folder()}, file


def check_space(space: Space, plain: Mapping[str, Any], task: str, job: ModuleType) -> None:
    """Refused, each with the job's own words: values that the job refuses."""
    wrong: dict[str, None] = {}
    refused: set[Value] = set()  # losses: nothing more is said about what lies beside them
    for settings in _ends(space, plain):
        name, value = list(settings.items())[-1]
        if name != "loss" and settings.get("loss") in refused:
            continue
        try:
            job.Options.model_validate(with_head(configured(plain, task, settings), task))
        except ValidationError as error:
            wrong |= {f"space: {name} {value}: {_rule(one)}.": None for one in error.errors()}
            refused |= {value} if name == "loss" else set()
    if wrong:
        raise Refused("\n".join([*wrong, f"Give values that jobs/finetune_{task}.py takes."]))


def check_stages(names: Iterable[str], plain: Mapping[str, Any], task: str) -> None:
    """Refused: parameters of a stage that the configuration does not have."""
    idle = without_stage(plain, task)
    if wrong := [f"space.{name}: has no effect, since no stage of the configuration {idle[name]}. Leave it out, or "
                 "give --base a file with such a stage." for name in names if name in idle]:  # fmt: skip
        raise Refused("\n".join(wrong))


def _ends(space: Space, plain: Mapping[str, Any]) -> Iterator[Settings]:
    """Each value of a choice and both ends of a range, beside each loss with which it has an effect."""
    parameters = space.parameters("full")
    losses = space.possible("loss") or (plain["loss"],)
    for name, parameter in parameters.items():
        others: list[Settings] = [{}] if name == "loss" else [{"loss": loss} for loss in losses]
        for beside, value in product(others, ends(parameter)):
            if space.applies(name, {**beside, name: value}):
                yield {**(beside if "loss" in parameters else {}), name: value}


def _rule(problem: Any) -> str:
    return str(problem["msg"]).removeprefix("Value error, ").rstrip(".")


@dataclass(frozen=True, eq=False)
class People:
    """Photos of the splits `train` and `tune` whose label is known: photo_id, subject_id, split and labels."""

    table: pa.Table
    parts: Parts
    faces: FaceSet

    def ids(self) -> dict[str, pa.Array]:
        """Of a full trial: who is learned from, who judges, who is kept aside."""
        pool, aside = (self.table.take(pa.array(rows)) for rows in (self.parts.pool, self.parts.aside))
        return {
            **{name: pool.filter(pc.equal(pool["split"], name))["photo_id"].combine_chunks() for name in SPLITS},
            "aside": aside["photo_id"].combine_chunks(),
        }


def read_people(options: Any, plain: Mapping[str, Any]) -> People:
    """Nobody of another split is opened. Refused: too few, wrong labels, one file on both sides."""
    survival = options.task == "survival"
    known = known_outcome(age=plain["age_offset"]) if survival else pc.field("age").is_valid()
    needed = NEEDED if survival else ("age",)
    where = known & pc.field("split").isin(pa.array(SPLITS, pa.string()))
    faces = open_faces(options.faces, needed, where, cache=plain["cache"], optional=(ENTRY, "age", "source_sha256"))
    table = faces.table.combine_chunks()
    if survival:
        check_outcomes(options.faces, table)
        for note in check_events(options.faces, table):
            print(f"tune: {note}")
    else:
        check_ages(options.faces, table["age"].to_numpy())
    parts = part(table, options.task, aside=options.aside, seed=options.seed)
    is_aside = pc.is_in(table["photo_id"], table["photo_id"].take(pa.array(parts.aside)).combine_chunks())
    check_leaks(options.faces, table, pa.chunked_array([is_aside.combine_chunks()]))
    if survival:
        check_events(options.faces, table.take(pa.array(parts.pool)))
    people = People(table, parts, faces)
    _check_sizes(options, people, plain["global_batch"])
    return people


def _check_sizes(options: Any, people: People, batch: int) -> None:
    """Refused: fewer people to learn from than a batch of trial 0 has; nobody to judge by."""
    pool = people.table.take(pa.array(people.parts.pool))
    if options.mode != "full":
        fold = folds(pool, options.task, options.tune_folds, seed=options.seed)
        fewest = min(pc.count_distinct(pool.filter(pa.array(fold != each))["subject_id"]).as_py()
                     for each in range(options.tune_folds))  # fmt: skip
        if batch > fewest:
            raise Refused(
                f"global_batch {batch}: more than the {fewest:,} people that a head learns from ({options.tune_folds} "
                f"folds, {options.aside:.0%} kept aside). Give --base a file with a smaller one."
            )
    if options.mode != "features":
        for name, ids in people.ids().items():
            if not len(ids):
                raise Refused(
                    f"--mode {options.mode}: nobody of split {name} is left for full trials. Give some people that "
                    "split, or --mode features, which deals train and tune into folds."
                )
