"""The portraits' outcomes through our statistics: what the data's own table says of age, and no more of anybody."""

import numpy as np
import pyarrow.compute as pc
import pytest

from fahr.survival import concordance
from fahr.survival.guards import Dates, check_table
from fahr.survival.models import Term, cox_model
from fahr.survival.study import Endpoint
from real.portraits import ABSENT, portraits_manifest, portraits_root

ROOT = portraits_root()
pytestmark = pytest.mark.skipif(ROOT is None, reason=ABSENT)


@pytest.fixture(scope="module")
def people():
    found = portraits_manifest(ROOT)
    return found.filter(pc.is_valid(found["event"]))


def test_age_alone_has_a_c_index_of_845_with_delayed_entry_and_844_without(people):
    time, event, age, entry = (people[name].to_numpy() for name in ("follow_up_days", "event", "age", "entry_days"))
    assert round(concordance(time, event, age, entry=entry).value, 3) == 0.845
    assert round(concordance(time, event, age).value, 3) == 0.844


def test_age_doubles_the_hazard_at_least_each_decade_and_the_guards_let_the_table_through(people):
    told = check_table(people, Endpoint(), ["age", "sex"], Dates(exposed="taken_on"))
    assert not told.warnings
    model = cox_model(people, [Term("age", per="decade")])
    effect = model.effect("age")
    assert (model.n, model.events) == (812, 79)
    assert effect.low > 2 and np.isfinite(effect.high)  # mortality doubles about every eight years of age (Gompertz)
