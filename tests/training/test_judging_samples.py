"""The faces that a model is judged on: one a person while that suffices, the same for the same seed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fahr import images
from fahr.errors import Refused
from fahr.training.facesets import open_faces
from fahr.training.judging import Faces, sample
from tools.faces import commit_faces, jpegs, pictures


def numbered(tmp_path: Path, people: list[str], bad: tuple[int, ...] = ()) -> Any:
    """A face set of one picture each; `age` tells which, so that pixels, labels and people can be matched."""
    encoded = jpegs(pictures(len(people)))
    for number in bad:
        encoded[number] = encoded[number][:-200]
    folder = str(tmp_path / "made")
    commit_faces(folder, encoded, subject_id=people, age=[float(number) for number in range(len(people))])
    return open_faces(folder, ["age"], cache=str(tmp_path / "cache"))


def which(chosen: Faces) -> list[int]:
    return chosen.labels["age"].astype(int).tolist()


def test_a_sample_holds_one_face_a_person_while_that_suffices(tmp_path: Path) -> None:
    people = [f"s{number % 9 if number < 27 else 0}" for number in range(40)]  # nine people; s0 has 16 photos
    made = numbered(tmp_path, people)
    for most in (1, 4, 9):
        for seed in range(5):
            chosen = sample(made, most, seed)
            assert len(set(chosen.subjects)) == most == len(chosen.subjects)
    second = sample(made, 18, 0)
    assert {person: list(second.subjects).count(person) for person in set(people)} == dict.fromkeys(set(people), 2)
    everything = sample(made, 1000, 0)
    assert sorted(which(everything)) == list(range(40))
    assert len(set(everything.subjects[:9])) == 9


def test_pixels_labels_and_people_of_a_sample_belong_together(tmp_path: Path) -> None:
    people = [f"s{number // 2}" for number in range(30)]
    chosen = sample(numbered(tmp_path, people), 20, 1)
    encoded = jpegs(pictures(30))
    for picture, number, person in zip(chosen.pixels, which(chosen), chosen.subjects, strict=True):
        assert np.array_equal(picture, images.decode(encoded[number]).pixels) and person == people[number]


def test_a_sample_is_the_same_for_the_same_seed_and_another_for_another(tmp_path: Path) -> None:
    made = numbered(tmp_path, [f"s{number // 2}" for number in range(40)])
    again = open_faces(str(tmp_path / "made"), ["age"], cache=str(tmp_path / "elsewhere"))
    assert which(sample(made, 10, 4)) == which(sample(again, 10, 4))
    assert len({tuple(which(sample(made, 10, seed))) for seed in range(8)}) == 8
    assert which(sample(made, 12, 4))[:10] == which(sample(made, 10, 4))


def test_faces_that_do_not_decode_are_passed_over(tmp_path: Path) -> None:
    """Person s0 has another photo that does, s1 has none."""
    people = ["s0", "s0", "s1", "s1", *[f"s{number}" for number in range(2, 14)]]
    made = numbered(tmp_path, people, bad=(0, 2, 3, 15))
    for seed in range(10):
        chosen = sample(made, 12, seed)
        assert sorted(which(chosen)) == [1, *range(4, 15)]
        assert set(chosen.subjects) == {"s0", *[f"s{number}" for number in range(2, 13)]}
    assert len(sample(made, 100, 0).pixels) == 12


def test_somebody_with_many_photos_is_no_likelier_to_be_chosen(tmp_path: Path) -> None:
    """Half of the photos are of one of ten people: one of 10 in 300 seeds is 30 +- 5.2, one of 2 would be 150."""
    made = numbered(tmp_path, [f"s{number}" if number < 9 else "s9" for number in range(18)])
    chosen = [sample(made, 1, seed) for seed in range(300)]
    assert abs(sum(each.subjects[0] == "s9" for each in chosen) - 30) < 4 * 5.2
    assert len({which(each)[0] for each in chosen}) == 18  # and of many photos it is not always the same


def test_an_empty_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="most 0"):
        sample(numbered(tmp_path, ["a", "b"]), 0, 0)
