"""The columns of a manifest, in their order and with their types. All are always there; absent ones are null."""

import pyarrow as pa

CANONICAL = pa.schema(
    [
        ("photo_id", pa.string()),
        ("uri", pa.string()),
        ("subject_id", pa.string()),
        ("taken_on", pa.date32()),
        ("birth_date", pa.date32()),
        ("age", pa.float64()),
        ("sex", pa.string()),
        ("race", pa.string()),
        ("site", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("follow_up_days", pa.float64()),
        ("entry_days", pa.float64()),
        ("event", pa.int8()),
        ("landmarks", pa.list_(pa.float64())),
    ]
)
REQUIRED = ("photo_id", "uri")
