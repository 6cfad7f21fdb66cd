"""A stage to kill: `toy_stage.py FOLDER ROWS ROWS_PER_UNIT`. Ids that end in 7 are rejected. Prints what it does."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fahr import store

folder, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
table = pa.table({"photo_id": [f"p{i:05d}" for i in range(count)], "payload": ["x" * 2000] * count})
print("start", flush=True)
units = store.WorkUnits(folder, {"detector": "toy"}, stage="toy")
assigned = np.array(units.assign(table["photo_id"], store.row_digests(table), size))
for unit in sorted(set(assigned) - units.done()):
    part = table.filter(pa.array(assigned == unit))
    bad = pc.ends_with(part["photo_id"], "7")
    out = {"faces": part.filter(pc.invert(bad)), "rejects": part.filter(bad)}
    rejects = {"no_face": out["rejects"].num_rows} if out["rejects"].num_rows else {}
    print("begin", unit, flush=True)
    units.commit(unit, part, out, store.Ledger("toy", part.num_rows, out["faces"].num_rows, rejects))
    print("commit", unit, flush=True)
units.sweep()
print(units.ledger().line(), flush=True)
