"""A scored cohort whose truth is known, as jobs/score.py leaves one: units of scores, aging rates, a ledger.

planted(folder, truth, rate_noise=1.0)      # truth: of fahr.cohorts.synthetic.make_truth
"""

from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fahr import store
from fahr.cohorts.synthetic import CohortOptions, Truth, make_truth
from fahr.models import CheckpointConfig, create
from fahr.scores import write_aging_rates

AGE_MODEL, RISK_MODEL = ("sha256:" + letter * 64 for letter in "ab")
PRIOR = {"mean": 1.0, "variance": 0.3, "people": 50.0}
SETTINGS: dict[str, Any] = {"rate_log_hazard": 0.0, "event_share": 0.6}


@cache
def truth(people: int = 2400, seed: int = 0) -> Truth:
    return make_truth(people, photos_per_subject=2, seed=seed, options=CohortOptions(**SETTINGS))


def scored(made: Truth, *, noise: float = 0.0, split: str = "test") -> pa.Table:
    """Face ages as old as faces look (plus noise, years), risks of true frailty: a row a photo."""
    rng = np.random.default_rng(1)
    facts = {name: made.truth[name].to_numpy() for name in ("apparent_age", "frailty", "age", "aging_rate")}
    face_age = facts["apparent_age"] + noise * rng.standard_normal(len(facts["age"]))
    percentile = np.array([100 * NormalDist().cdf(each) for each in facts["frailty"].tolist()])
    table = made.manifest.select([
        "photo_id", "subject_id", "taken_on", "age", "sex", "site", "ecog", "follow_up_days", "entry_days", "event",
    ])  # fmt: skip
    columns: dict[str, Any] = {
        "split": pa.repeat(split, table.num_rows),
        "face_age": face_age, "face_age_deviation": face_age - facts["age"], "survival_risk": facts["frailty"],
        "survival_percentile": percentile, "age_model_digest": pa.repeat(AGE_MODEL, table.num_rows),
        "survival_model_digest": pa.repeat(RISK_MODEL, table.num_rows),
        "source_sha256": [f"{number:064d}" for number in range(table.num_rows)],
    }  # fmt: skip
    for name, values in columns.items():
        table = table.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
    return table


def write(folder: Any, table: pa.Table, *, rates: bool = True, rejected: int = 3) -> str:
    """The folder, of finished scoring; `rejected` photos besides had no face."""
    place = str(folder)
    units = store.WorkUnits(place, {"made": "by a test"}, stage="score")
    lost = pa.table({"photo_id": [f"lost{number}" for number in range(rejected)],
                     "subject_id": ["nobody"] * rejected, "reason": ["no_face"] * rejected})  # fmt: skip
    rows = pa.concat_tables([table.select(["photo_id"]), lost.select(["photo_id"])]).combine_chunks()
    assigned = np.array(units.assign(rows["photo_id"], store.row_digests(rows), 4000))
    for unit in sorted(set(assigned)):
        mine = rows.filter(pa.array(assigned == unit))
        parts = [each.filter(pc.is_in(each["photo_id"], value_set=mine["photo_id"].combine_chunks()))
                 for each in (table, lost)]  # fmt: skip
        ledger = store.Ledger("score", mine.num_rows, parts[0].num_rows, {"no_face": parts[1].num_rows})
        units.commit(unit, mine, dict(zip(("scores", "rejects"), parts, strict=True)), ledger)
    if rates:
        shape = create("vit_tiny", patch=16, size=32, task="age").architecture
        config = CheckpointConfig(
            architecture=shape, task="age", input_size=32,
            repeatability_sd_years={"value": 2.0, "low": 1.5, "high": 2.5},
            aging_rate_prior={"short": PRIOR, "mid": PRIOR, "long": PRIOR},
        )  # fmt: skip
        write_aging_rates(place, rows.num_rows, config)
    store.Ledger("score", rows.num_rows, table.num_rows, {"no_face": rejected}, "0123456789abcdef", "0123456789ab",
                 {"data_digest": "sha256:data"}).write(store.join(place, "ledger.json"))  # fmt: skip
    return place


def replaced(table: pa.Table, **columns: Any) -> pa.Table:
    for name, values in columns.items():
        place = table.column_names.index(name)
        kind = table.schema.field(name).type
        table = table.set_column(place, name, pa.array(values, kind, from_pandas=True))
    return table


def planted_place(factory: Any) -> str:
    """2,400 people of `truth`, written."""
    return write(factory.mktemp("scores"), scored(truth()))
