"""The loader: the same faces at the same positions, whoever loads them, from wherever they start."""

import functools
import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fahr import images
from fahr.errors import Refused
from fahr.training.facesets import FaceSet, open_faces
from fahr.training.loader import Batch, Loader
from fahr.training.sampling import Order
from tools.faces import commit_faces, jpegs, pictures

COUNT = 120
BAD = 17


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    return jpegs(pictures(COUNT))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, encoded: list[bytes]) -> Path:
    made = tmp_path_factory.mktemp("faces")
    commit_faces(str(made / "good"), encoded, rows_per_unit=40)
    commit_faces(str(made / "one bad"), [*encoded[:BAD], encoded[BAD][:-99], *encoded[BAD + 1 :]], rows_per_unit=40)
    commit_faces(str(made / "many bad"), [*encoded[:60], *[each[:99] for each in encoded[60:]]], rows_per_unit=40)
    return made


@functools.cache
def opened(place: Path, name: str = "good", packed: bool = False) -> FaceSet:
    return open_faces(str(place / name), ["age", "photo_id"], cache=str(place / "cache"), packed=packed)


def taken(faces: FaceSet, batches: int, seed: int = 3, **settings: object) -> list[Batch]:
    with Loader(faces, Order(faces.num_rows, seed), **settings) as loader:
        return list(itertools.islice(loader, batches))


def same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.images, other.images)
        and np.array_equal(one.rows, other.rows)
        and torch.equal(one.positions, other.positions)
        and one.labels.keys() == other.labels.keys()
        and all(np.array_equal(one.labels[name], other.labels[name]) for name in one.labels)
    )


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_holds_the_faces_and_labels_of_its_rows(place, encoded, packed):
    faces = opened(place, packed=packed)
    order = Order(COUNT, 3)
    for number, batch in enumerate(taken(faces, 10, global_batch=32)):
        positions = np.arange(32 * number, 32 * number + 32)
        assert batch.positions.tolist() == positions.tolist() and batch.positions.dtype == torch.long
        assert np.array_equal(batch.rows, order.rows(32 * number, 32 * number + 32))
        assert batch.images.shape == (32, 32, 32, 3) and batch.images.dtype == torch.uint8
        for image, photo, age in zip(batch.images.numpy(), batch.labels["photo_id"], batch.labels["age"], strict=True):
            assert np.array_equal(image, images.decode(encoded[int(photo[1:])]).pixels)
            assert age == 20.0 + int(photo[1:]) % 70


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([1, 2, 3, 4, 6, 12]),
    st.integers(0, 30),
    st.integers(1, 5),
    st.integers(0, 4),
    st.booleans(),
    st.sampled_from(["good", "one bad"]),
)
def test_any_start_any_number_of_workers_threads_and_batches_ahead_give_the_same(
    place, world, skip, threads, ahead, packed, name
):
    """Batches of 12 from position 12 * skip, over the ends of epochs: like those of one plain loader from 0."""
    whole = taken(opened(place, name), skip + 3, global_batch=12, threads=1, ahead=0)[skip:]
    parts = [
        taken(
            opened(place, name, packed), 3, global_batch=12, rank=rank, world=world, start=12 * skip, threads=threads,
            ahead=ahead,
        )
        for rank in range(world)
    ]  # fmt: skip
    for number, batch in enumerate(whole):
        mine = [part[number] for part in parts]
        joined = Batch(
            torch.cat([each.images for each in mine]),
            np.concatenate([each.rows for each in mine]),
            torch.cat([each.positions for each in mine]),
            {name: np.concatenate([each.labels[name] for each in mine]) for name in batch.labels},
        )
        assert same(joined, batch)


def test_its_position_is_where_to_go_on(place):
    faces = opened(place)
    with Loader(faces, Order(COUNT, 0), global_batch=50, start=7, ahead=3) as loader:
        assert loader.position == 7
        seen = [next(loader) for _ in range(3)]
        assert loader.position == 157  # of what was handed out, not of what was read ahead
        after = next(loader)
    assert [int(each.positions[0]) for each in seen] == [7, 57, 107]
    assert same(taken(faces, 1, seed=0, global_batch=50, start=157)[0], after)


def test_weights_decide_what_is_drawn(place):
    faces = opened(place)
    weights = np.zeros(COUNT)
    weights[[4, 9]] = 1, 3
    with Loader(faces, Order(COUNT, 0, weights), global_batch=COUNT) as loader:
        assert np.bincount(next(loader).rows, minlength=COUNT)[[4, 9]].tolist() == [30, 90]


# Faces that do not decode


@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_face_gives_way_to_the_next_one_drawn_and_is_told(place, packed):
    faces = opened(place, "one bad", packed)
    row = faces.table["photo_id"].to_pylist().index(f"p{BAD:05d}")
    order = Order(COUNT, 3)
    with Loader(faces, order, global_batch=COUNT) as loader:
        assert loader.skipped == {}
        batch = next(loader)
        assert list(loader.skipped) == [row]
        assert "truncated" in loader.skipped[row] and f"p{BAD:05d}" in loader.skipped[row]
    drawn = order.rows(0, 2 * COUNT)
    at = int(np.flatnonzero(drawn == row)[0])
    wanted = drawn[:COUNT].copy()
    wanted[at] = drawn[at + 1]
    assert np.array_equal(batch.rows, wanted)
    assert np.array_equal(batch.images.numpy(), faces.pixels(wanted))
    assert batch.labels["photo_id"].tolist() == [faces.table["photo_id"][int(each)].as_py() for each in wanted]


def test_a_row_that_may_not_be_drawn_does_not_stand_in_for_a_bad_one(place):
    faces = opened(place, "one bad")
    row = faces.table["photo_id"].to_pylist().index(f"p{BAD:05d}")
    allowed = [row, (row + 40) % COUNT, (row + 80) % COUNT]
    weights = np.zeros(COUNT)
    weights[allowed] = 1
    with Loader(faces, Order(COUNT, 0, weights), global_batch=COUNT) as loader:
        assert set(next(loader).rows.tolist()) == set(allowed[1:])
    weights[allowed[1:]] = 0
    with (
        Loader(faces, Order(COUNT, 0, weights), global_batch=10) as loader,
        pytest.raises(Refused, match="none of 1,000 faces drawn"),
    ):
        next(loader)


def test_too_many_bad_faces_end_the_run_with_the_first_of_them(place):
    faces = opened(place, "many bad")
    with (
        Loader(faces, Order(COUNT, 0), global_batch=20) as loader,
        pytest.raises(
            Refused, match=r"\d of 120 faces do not decode, 2 are allowed\. First: photo 'p00[01]\d\d' .*anew"
        ),
    ):
        next(loader)
    with Loader(faces, Order(COUNT, 0), global_batch=20, bad_limit=0.5) as loader:
        for _ in range(12):
            next(loader)
        assert len(loader.skipped) == 60
    with (
        Loader(opened(place, "one bad"), Order(COUNT, 0), global_batch=COUNT, bad_limit=0) as loader,
        pytest.raises(Refused, match="1 of 120 faces do not decode, 0 are allowed"),
    ):
        next(loader)


# What can be asked for


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"global_batch": 121}, "121 from 120 faces"),
        ({"global_batch": 0}, "from 1 to their number"),
        ({"global_batch": 2, "world": 3}, "2 workers at most"),
        ({"global_batch": 10, "rank": 1}, "ranks are 0 to 0"),
        ({"global_batch": 10, "start": -1}, "start -1"),
        ({"global_batch": 10, "threads": 0}, "threads 0"),
        ({"global_batch": 10, "bad_limit": 1.0}, "bad_limit 1.0"),
    ],
)
def test_what_cannot_be_is_refused_before_a_thread_starts(place, wrong, why):
    before = threading.active_count()
    with pytest.raises(Refused, match=why):
        Loader(opened(place), Order(COUNT, 0), **wrong)
    assert threading.active_count() == before


def test_an_order_of_other_data_is_refused(place):
    with pytest.raises(Refused, match="an order of 119 rows for 120 faces"):
        Loader(opened(place), Order(119, 0), global_batch=10)


# Threads


def own_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("faces")]


def test_closing_ends_its_threads_also_in_the_middle_and_after_an_error(place):
    loader = Loader(opened(place), Order(COUNT, 0), global_batch=60, threads=3, ahead=4)
    next(loader)
    assert own_threads()
    loader.close()
    loader.close()
    assert own_threads() == []
    with pytest.raises(RuntimeError):
        next(loader)
    loader = Loader(opened(place, "many bad"), Order(COUNT, 0), global_batch=60)
    with pytest.raises(Refused):
        next(loader)
    assert own_threads() == []


def test_it_tells_how_long_the_consumer_waited(place):
    """One that does nothing waits nearly always; one that works ten times as long as decoding takes, hardly."""
    faces = opened(place)
    with Loader(faces, Order(COUNT, 0), global_batch=COUNT, threads=1, ahead=0) as loader:
        assert (loader.waited, loader.waited_share) == (0, 0)
        started = time.perf_counter()
        for _ in range(20):
            next(loader)
        took = time.perf_counter() - started
        assert 0.5 * took < loader.waited <= took and 0.5 < loader.waited_share <= 1
        alone = loader.waited / 20
    with Loader(faces, Order(COUNT, 0), global_batch=COUNT, threads=1, ahead=2) as loader:
        next(loader)
        first = loader.waited
        for _ in range(20):
            busy_until = time.perf_counter() + 10 * alone
            while time.perf_counter() < busy_until:
                torch.rand(64, 64) @ torch.rand(64, 64)
            next(loader)
        assert loader.waited - first < 20 * alone


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_batches_are_the_same(place):
    faces = opened(place)
    for here, there in zip(
        taken(faces, 5, global_batch=40), taken(faces, 5, global_batch=40, device="cuda"), strict=True
    ):
        assert there.images.is_cuda and there.positions.is_cuda
        assert same(here, Batch(there.images.cpu(), there.rows, there.positions.cpu(), there.labels))
