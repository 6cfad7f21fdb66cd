"""The states of a run: the newest whole one comes back, no more stay than were asked for, nothing else is touched."""

from collections.abc import Iterator

import pytest
import torch

from fahr import store
from fahr.errors import Refused
from fahr.store import s3
from fahr.store.failures import MissingBucket
from fahr.training.background import Background
from fahr.training.keeper import Keeper
from fahr.training.state import FORMAT, Snapshot, write
from training import small


@pytest.fixture
def background() -> Iterator[Background]:
    with Background() as made:
        yield made


def taken(position: int, digest: str = "abc") -> Snapshot:
    generator = torch.Generator().manual_seed(position)
    facts = {"format": FORMAT, "digest": digest, "position": position, "skipped": position % 3}
    return Snapshot({"model/weight": torch.rand(40, 5, generator=generator)}, facts)


def kept(folder: str, background: Background, *positions: int, keep: int = 3) -> Keeper:
    """A keeper that has written states of these positions, one after the other."""
    keeper = Keeper(folder, "abc", background, keep=keep)
    for position in positions:
        keeper.save(taken(position))
        background.wait(60)
    return keeper


def names(folder: str) -> list[str]:
    return [store.relative(each.location, folder) for each in store.list_files(folder)]


def cut(folder: str, position: int) -> str:
    """The state of this position, its last bytes gone: what some other program left, so no digest of ours is on it."""
    place = store.join(folder, f"state-{position:015d}.safetensors")
    data = store.read_bytes(place)[:-30]
    if store.is_s3(place):
        bucket, _, key = place.removeprefix("s3://").partition("/")
        s3.client().put_object(Bucket=bucket, Key=key, Body=data)
    else:
        with open(place, "wb") as file:
            file.write(data)
    return place


def test_the_newest_comes_back_to_the_bit_and_only_as_many_stay(folder: str, background: Background) -> None:
    keeper = kept(folder, background, 7, 16, 32, 1600, 99, 48, keep=3)  # 99 and 48: after a fall-back, say
    assert keeper.positions() == [48, 99, 1600]
    assert names(folder) == [f"state-{each:015d}.safetensors" for each in (48, 99, 1600)]
    found = keeper.newest()
    assert found is not None and found.facts == taken(1600).facts
    small.assert_equal(found.tensors, taken(1600).tensors)
    small.assert_equal(keeper.at(48).tensors, taken(48).tensors)


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_never_more_than_asked_for_and_never_less_than_there_could_be(
    tmp_path: object, background: Background, keep: int
) -> None:
    folder = f"{tmp_path}/states"
    for number in range(1, 8):
        keeper = kept(folder, background, number, keep=keep)
        assert keeper.positions() == list(range(max(1, number - keep + 1), number + 1))


def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(folder: str, background: Background) -> None:
    said: list[str] = []
    kept(folder, background, 10, 20, 30)
    damaged = [cut(folder, 30), cut(folder, 20)]
    keeper = Keeper(folder, "abc", background, say=said.append)
    found = keeper.newest()
    assert found is not None and found.facts["position"] == 10
    small.assert_equal(found.tensors, taken(10).tensors)
    assert [text.partition(":")[0] for text in said] == [each.partition(":")[0] for each in damaged]
    assert all(place in text and "damaged" in text for place, text in zip(damaged, said, strict=True))
    assert keeper.positions() == [10]  # they would pass for the newest after every further kill


def test_bytes_that_the_store_itself_finds_rotten_are_damaged_too(quick_bucket: str, background: Background) -> None:
    """The object's recorded digest is that of other bytes: `store` notices before we do."""
    folder = f"{quick_bucket}/states"
    kept(folder, background, 10, 20)
    bucket, _, key = store.join(folder, "state-000000000000020.safetensors").removeprefix("s3://").partition("/")
    whole = s3.client().get_object(Bucket=bucket, Key=key)
    rotten = bytearray(whole["Body"].read())
    rotten[-1] ^= 1  # still a state by its form
    s3.client().put_object(Bucket=bucket, Key=key, Body=bytes(rotten), Metadata=whole["Metadata"])
    keeper = Keeper(folder, "abc", background, say=lambda text: None)
    found = keeper.newest()
    assert found is not None and found.facts["position"] == 10


def test_when_none_can_be_read_all_are_refused_and_nothing_is_deleted(folder: str, background: Background) -> None:
    kept(folder, background, 10, 20)
    cut(folder, 10)
    cut(folder, 20)
    before = names(folder)
    with pytest.raises(Refused, match=r"none of its 2 states can be read.*delete the folder"):
        Keeper(folder, "abc", background, say=lambda text: None).newest()
    assert names(folder) == before


def test_the_states_of_another_run_are_refused_not_passed_over(folder: str, background: Background) -> None:
    kept(folder, background, 10)
    write(store.join(folder, "state-000000000000020.safetensors"), taken(20, "def"))
    with pytest.raises(Refused, match=r"configuration def, this one has abc"):
        Keeper(folder, "abc", background).newest()
    with pytest.raises(Refused, match=r"configuration def, this one has abc"):
        Keeper(folder, "abc", background).at(20)
    assert len(names(folder)) == 2


def test_where_there_is_no_state_there_is_none(folder: str, background: Background) -> None:
    keeper = Keeper(folder, "abc", background)
    assert keeper.newest() is None and keeper.positions() == []
    store.write_bytes(store.join(folder, "readme.txt"), b"no state")
    assert keeper.newest() is None


def test_a_bucket_that_is_not_there_is_a_mistake(quick_bucket: str, background: Background) -> None:
    with pytest.raises(MissingBucket):
        Keeper(f"{quick_bucket}-not/states", "abc", background).newest()


FOREIGN = (
    "readme.txt",
    "state-20.safetensors",
    "state-000000000000099.safetensors.bak",
    "xstate-000000000000098.safetensors",
    "copies/state-000000000000097.safetensors",
)


def test_files_of_others_are_left_alone_copies_in_a_folder_below_too(folder: str, background: Background) -> None:
    for name in FOREIGN:
        write(store.join(folder, name), taken(97))
    beside = folder + "-2/state-000000000000096.safetensors"  # on S3 a longer key with the same beginning
    write(beside, taken(96))
    keeper = kept(folder, background, 10, 20, 30, keep=1)
    found = keeper.newest()
    assert found is not None and found.facts["position"] == 30 and keeper.positions() == [30]
    keeper.clear()
    assert keeper.positions() == [] and sorted(names(folder)) == sorted(FOREIGN) and store.exists(beside)


def test_a_folder_may_be_written_with_a_slash_at_its_end(folder: str, background: Background) -> None:
    kept(folder, background, 10)
    assert Keeper(folder + "/", "abc", background).positions() == [10]


def test_to_keep_nothing_is_refused(tmp_path: object, background: Background) -> None:
    for keep in (0, -1):
        with pytest.raises(Refused, match=f"keep {keep}: at least 1"):
            Keeper(str(tmp_path), "abc", background, keep=keep)


def test_a_file_where_the_folder_should_be_is_told(tmp_path: object, background: Background) -> None:
    place = f"{tmp_path}/states"
    store.write_bytes(place, b"")
    keeper = Keeper(place, "abc", background)
    keeper.save(taken(1))
    with pytest.raises(Refused, match="lies below a file, not a folder"):
        background.wait(60)
