"""The default split: for ever the same, alike on every machine, and a person is in one only."""

from collections import Counter

import pytest

from fahr.cohorts import ManifestError, read_manifest, split_of

# Frozen. A change here moves people between training and test sets of models that exist.
GOLDEN = {
    "": "calibrate",
    "A000014": "calibrate",
    "P00000001": "calibrate",
    "subject-1": "train",
    "subject-2": "test",
    "subject-15": "tune",
    "\u00e9l\u00e8ve": "train",
}


@pytest.mark.parametrize(("subject", "split"), GOLDEN.items())
def test_the_default_split_of_a_subject_never_changes(subject, split):
    assert split_of(subject) == split


def test_default_splits_are_70_10_10_10_within_binomial_bounds():
    num = 100_000
    counts = Counter(split_of(f"subject-{number}") for number in range(num))
    for split, share in {"train": 0.7, "tune": 0.1, "calibrate": 0.1, "test": 0.1}.items():
        assert abs(counts[split] - share * num) < 4.5 * (share * (1 - share) * num) ** 0.5, counts


def _write(path, rows, header="photo_id,uri,subject_id,split"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def test_adding_rows_moves_nobody_and_keeps_every_subject_in_one_split(tmp_path):
    rows = [f"p{number},p{number}.jpg,s{number // 3},\n".strip() for number in range(3_000)]
    few = read_manifest(_write(tmp_path / "few.csv", rows[:1_000])).to_pylist()
    many = read_manifest(_write(tmp_path / "many.csv", rows[::-1])).to_pylist()
    split_by_photo = {row["photo_id"]: row["split"] for row in many}
    assert all(split_by_photo[row["photo_id"]] == row["split"] for row in few)
    splits_by_subject = {}
    for row in many:
        splits_by_subject.setdefault(row["subject_id"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in splits_by_subject.values())


def test_photos_without_a_subject_are_split_as_subjects_of_their_own(tmp_path):
    table = read_manifest(_write(tmp_path / "m.csv", [f"p{n},x.jpg" for n in range(50)], "photo_id,uri"))
    assert table["subject_id"].to_pylist() == table["photo_id"].to_pylist()
    assert table["split"].to_pylist() == [split_of(photo) for photo in table["photo_id"].to_pylist()]


def test_a_subject_whose_empty_split_defaults_to_another_than_its_given_one_is_refused(tmp_path):
    default = split_of("s1")
    other = next(split for split in ("train", "test") if split != default)
    path = _write(tmp_path / "m.csv", [f"p1,a.jpg,s1,{other}", "p2,b.jpg,s1,"])
    told = f"row 3: split empty, subject 's1' is '{other}' in row 2, so '{default}' by default"
    with pytest.raises(ManifestError, match=told):
        read_manifest(path)
    assert read_manifest(_write(tmp_path / "n.csv", [f"p1,a.jpg,s1,{default}", "p2,b.jpg,s1,"])).num_rows == 2
