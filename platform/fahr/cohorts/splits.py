"""Which split a person is in when the manifest does not say: 70/10/10/10 by a hash of the subject_id."""

from hashlib import blake2b

SPLITS = ("train", "tune", "calibrate", "test")


def split_of(subject_id: str) -> str:
    """The default split of a person: the same on every machine, for ever, whoever else is in the table.

    The first 8 bytes of the unkeyed BLAKE2b of the UTF-8 text, read as a big-endian fraction of 2**64, fall into
    [0, 0.7) train, [0.7, 0.8) tune, [0.8, 0.9) calibrate, [0.9, 1) test. Frozen: another rule would move people from
    the training set of an old model into the test set of a new one (tests/cohorts/test_splits.py holds golden values).
    """
    tenths = int.from_bytes(blake2b(subject_id.encode(), digest_size=8).digest(), "big") * 10 >> 64
    return SPLITS[max(0, tenths - 6)]
