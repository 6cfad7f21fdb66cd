"""Photos come out of a request byte for byte, whichever way they were packed, or one sentence says what is wrong."""

import base64
import json
import logging
import struct
import sys
import tracemalloc
import zlib
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.limits import Limits
from serve.problems import Problem
from serve.reading import Submission, read_json, read_parts, read_photos
from tools.door import ask, photo, service

LIMITS = Limits()
JSON = "application/json"


def packed(**fields: Any) -> tuple[bytes, str]:
    """A form as httpx writes it: somebody else's encoder."""
    request = httpx.Request("POST", "http://x", **fields)
    return request.read(), request.headers["content-type"]


def form(photos: list[bytes], **data: Any) -> tuple[bytes, str]:
    return packed(files=[("photo", each) for each in photos], data=data)


def plain(photos: list[bytes], days: list[Any] | None = None, **more: Any) -> bytes:
    sent: list[dict[str, str]] = [{"data": base64.b64encode(each).decode()} for each in photos]
    for each, day in zip(sent, days or [], strict=False):
        each["taken_on"] = str(day)
    return json.dumps({"photos": sent, **more}).encode()


def refusal(body: bytes, kind: str | None, limits: Limits = LIMITS, *, dated: bool = False) -> Problem:
    with pytest.raises(Problem) as caught:
        read_photos(body, kind, limits, dated=dated)
    assert caught.value.detail.endswith((".", "?")) and len(caught.value.detail) < 600
    return caught.value


PHOTOS = st.lists(st.integers(0, 3).map(photo), min_size=2, max_size=16)
DAYS = st.dates(date(1900, 1, 1), date(2026, 11, 1))
AGES = st.none() | st.floats(0, 122).map(lambda age: round(age, 3))


@settings(max_examples=40)
@given(PHOTOS, AGES, st.data())
def test_form_and_json_say_the_same_and_keep_every_byte(photos: list[bytes], age: float | None, data: Any) -> None:
    days = data.draw(st.lists(DAYS, min_size=len(photos), max_size=len(photos)))
    ages = {} if age is None else {"age": age}
    texts = {} if age is None else {"age": repr(age)}
    expected = Submission(tuple(photos), age, tuple(days))
    assert read_photos(*form(photos, **texts, taken_on=[str(day) for day in days]), LIMITS, dated=True) == expected
    assert read_photos(plain(photos, days, **ages), JSON, LIMITS, dated=True) == expected
    undated = Submission(tuple(photos), age)
    assert read_photos(*form(photos, **texts), LIMITS) == read_photos(plain(photos, **ages), JSON, LIMITS) == undated


@given(
    st.lists(st.binary(max_size=200), max_size=6),
    st.sampled_from([b"b", b"-", b"--", b"x" * 70, b"a b", b"'()+_,./:=?"]),
)
def test_any_bytes_survive_any_boundary_that_they_do_not_hold(datas: list[bytes], boundary: bytes) -> None:
    near = [data + b"\r\n--" + boundary[:-1] + b"!\r\n-" for data in datas]  # almost the boundary, and then not
    sent = [data for data in datas + near if b"\r\n--" + boundary not in b"\r\n" + data]
    head = b'--%s\r\nContent-Disposition: form-data; name="photo"; filename="p"\r\nContent-Type: image/png\r\n\r\n'
    body = b"".join(head % boundary + data + b"\r\n" for data in sent) + b"--" + boundary + b"--\r\n"
    got = read_parts(body, f'multipart/form-data; boundary="{boundary.decode()}"', LIMITS)
    assert [part.data for part in got] == sent


def test_names_and_file_names_come_as_they_were_sent() -> None:
    body, kind = packed(files=[("table", ('na"me \u00e9.csv', b"a,b\n1,2\n", "text/csv"))], data={"models": ["a", "b"]})
    got = {(part.name, part.filename is not None): part.data for part in read_parts(body, kind, LIMITS)}
    assert got[("table", True)] == b"a,b\n1,2\n" and ("models", False) in got
    assert [part.text(LIMITS) for part in read_parts(body, kind, LIMITS) if part.name == "models"] == ["a", "b"]


def test_a_blank_age_of_a_form_is_an_unknown_one() -> None:
    assert read_photos(*form([photo()], age="  "), LIMITS).age is None
    assert read_photos(*form([photo()], age=" 61.5 "), LIMITS).age == 61.5


# What is wrong, in which status it ends, and what is said

FORM_MISTAKES = [
    (packed(files=[("age", (None, b"5"))]), 400, "photo: 0 came"),
    (packed(data={"age": "5"}, files=[("foto", photo())]), 400, "Did you mean 'photo'"),
    (form([photo()], taken_on="2024-01-01"), 400, "taken_on"),
    (form([photo()], age=["1", "2"]), 400, "age: came 2 times"),
    (form([photo()], age="old"), 400, "'old' must be a finite number"),
    (form([photo()], age="-1"), 400, "from 0 to 122"),
    (form([photo()], age="123"), 400, "from 0 to 122"),
    (form([photo()], age="nan"), 400, "finite"),
    (form([photo()], age="1e999"), 400, "finite"),
    (form([photo()], age="61,5"), 400, "finite"),
    (form([photo()], age=b"\xff"), 400, "UTF-8"),
    (form([photo()], age="9" * 5000), 413, "5,000 bytes"),
    (form([photo()] * 17), 413, "17 photos"),
    (form([b""]), 415, "empty"),
    (form([b"GIF is not this"]), 415, "Not an image"),
    (form([photo()[:-30]]), 422, "truncated"),
]


@pytest.mark.parametrize(("sent", "status", "said"), FORM_MISTAKES)
def test_a_mistake_in_a_form_is_named(sent: tuple[bytes, str], status: int, said: str) -> None:
    problem = refusal(*sent)
    assert problem.status == status and said in problem.detail


GOOD = {"data": base64.b64encode(photo()).decode()}
JSON_MISTAKES: list[tuple[Any, int, str, int | None]] = [
    ({}, 400, "photos: Field required", None),
    ([], 400, "valid dictionary", None),
    (None, 400, "valid dictionary", None),
    ({"photos": []}, 400, "at least 1", None),
    ({"photos": {}}, 400, "valid list", None),
    ({"photos": ["x"]}, 400, "photos.0", 0),
    ({"photos": [GOOD, {}]}, 400, "photos.1.data: Field required", 1),
    ({"photos": [GOOD, {"data": 5}]}, 400, "valid string", 1),
    ({"photos": [GOOD], "Age": 5}, 400, "Age", None),
    ({"photos": [{**GOOD, "taken_on": "2024-01-01"}]}, 400, "photos.0.taken_on", 0),
    ({"photos": [GOOD], "age": "61"}, 400, "is a text", None),
    ({"photos": [GOOD], "age": True}, 400, "true or false", None),
    ({"photos": [GOOD], "age": [61]}, 400, "is a list", None),
    ({"photos": [GOOD], "age": -0.001}, 400, "from 0 to 122", None),
    ({"photos": [GOOD], "age": 122.01}, 400, "from 0 to 122", None),
    ({"photos": [GOOD], "age": 10**400}, 400, "from 0 to 122", None),
    ({"photos": [GOOD] * 17}, 413, "17 photos", None),
    ({"photos": [GOOD, {"data": "a"}]}, 400, "not base64", 1),
    ({"photos": [GOOD, {"data": "====" * 4}]}, 400, "not base64", 1),
    ({"photos": [{"data": "data:image/png;base64," + GOOD["data"]}]}, 400, "'data:...;base64,'", 0),
    ({"photos": [{"data": GOOD["data"][:40] + "\n" + GOOD["data"][40:]}]}, 400, "line breaks", 0),
    ({"photos": [{"data": "\u00e4" * 8}]}, 400, "not base64", 0),
    ({"photos": [GOOD, {"data": ""}]}, 415, "empty", 1),
    ({"photos": [GOOD, {"data": base64.b64encode(b"hello").decode()}]}, 415, "Not an image", 1),
    ({"photos": [GOOD, {"data": base64.b64encode(photo()[:-9]).decode()}]}, 422, "truncated", 1),
]


@pytest.mark.parametrize(("sent", "status", "said", "at"), JSON_MISTAKES)
def test_a_mistake_in_json_is_named_with_its_photo(sent: Any, status: int, said: str, at: int | None) -> None:
    problem = refusal(json.dumps(sent).encode(), JSON)
    assert (problem.status, problem.photo) == (status, at) and said in problem.detail


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not JSON"), (b"{", "not JSON"), (b"\xff\xfe{\x00}\x00", "not UTF-8"), (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"photos": [], "photos": []}', "twice"), (b'{"photos": [], "age": NaN}', "NaN"), (b"{} {}", "not JSON"),
        (b'{"photos": [], "age": -Infinity}', "Infinity"), (b"{'photos': []}", "not JSON"), (b"nul", "not JSON"),
    ],
)  # fmt: skip
def test_json_is_read_strictly(text: bytes, said: str) -> None:
    problem = refusal(text, JSON)
    assert problem.status == 400 and said in problem.detail


def test_days_are_those_that_exist_and_are_not_to_come() -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=3)).date()
    for text in ("2024-02-30", "01.03.2024", "2024-3-1", "20240301", "yesterday", "", str(tomorrow), "0000-01-01"):
        days = ["2024-01-01", text]
        for body, kind in (form([photo()] * 2, taken_on=days), (plain([photo()] * 2, days), JSON)):
            problem = refusal(body, kind, dated=True)
            assert (problem.status, problem.photo) == (400, 1) and "taken_on" in problem.detail
    leap = read_photos(*form([photo()] * 2, taken_on=["2024-02-29", "2024-02-29"]), LIMITS, dated=True)
    assert leap.taken_on == (date(2024, 2, 29),) * 2


@pytest.mark.parametrize("days", [0, 1, 3])
def test_each_photo_needs_its_own_day(days: int) -> None:
    problem = refusal(*form([photo()] * 2, taken_on=["2024-01-01"] * days), dated=True)
    assert problem.status == 400 and f"{days} for 2 photos" in problem.detail
    assert refusal(*form([photo()], taken_on="2024-01-01"), dated=True).status == 400


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/jsonp", "multipart/mixed; boundary=b"])
def test_other_content_types_are_415(kind: str | None) -> None:
    assert refusal(plain([photo()]), kind).status == 415


def test_case_and_parameters_of_the_content_type_do_not_matter() -> None:
    assert read_photos(plain([photo()]), "Application/JSON; charset=utf-8", LIMITS).photos == (photo(),)
    body, kind = form([photo()])
    assert read_photos(body, kind.replace("multipart/form-data", "Multipart/Form-Data"), LIMITS).photos == (photo(),)


HEAD = b'--b\r\nContent-Disposition: form-data; name="photo"\r\n'
END = b"\r\nx\r\n--b--\r\n"
MALFORMED = [
    b"", b"hello", b"--b", b"--b\r\n", b"--b--\r\n", b"--c\r\n\r\n--c--\r\n",
    HEAD, HEAD + b"\r\nx", HEAD + b"\r\nx\r\n--b", HEAD + b"\r\nx\r\n--b-\r\n",
    b"--b\r\n" + END, b"--b\r\nContent-Disposition: form-data\r\n" + END, b"--b\r\n: x\r\n" + END,
    b'--b\r\nContent-Disposition: attachment; name="photo"\r\n' + END,
    b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n' + END,
    HEAD + b"Content-Transfer-Encoding: base64\r\n" + END, HEAD + b"no colon\r\n" + END,
]  # fmt: skip


@pytest.mark.parametrize("body", MALFORMED)
def test_a_malformed_form_is_400(body: bytes) -> None:
    assert refusal(body, "multipart/form-data; boundary=b").status == 400


@pytest.mark.parametrize("kind", ["", "; boundary", "; boundary=", "; boundary=" + "b" * 71, "; charset=b"])
def test_a_form_without_a_boundary_is_400(kind: str) -> None:
    assert refusal(HEAD + b"\r\nx\r\n--b--\r\n", "multipart/form-data" + kind).status == 400


# Bombs


def bomb_png(width: int, height: int) -> bytes:
    """A sound PNG of few bytes: white, a bit a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    row = b"\0" + b"\xff" * -(-width // 8)
    pixels = b"".join(rows.compress(row * 500) for _ in range(height // 500)) + rows.compress(row * (height % 500))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels + rows.flush()) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_413_by_its_header() -> None:
    bomb = bomb_png(10_000, 10_000)
    assert len(bomb) < 100_000
    for body, kind in (form([photo(), bomb]), (plain([photo(), bomb]), JSON)):
        tracemalloc.start()
        problem = refusal(body, kind)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (problem.status, problem.photo, problem.reason) == (413, 1, "too_large")
        assert "10,000 x 10,000" in problem.detail and peak < 2_000_000


def test_photos_that_are_small_enough_alone_may_be_too_many_pixels_together() -> None:
    limits = Limits(pixels=24 * 16 * 3)
    assert len(read_photos(*form([photo()] * 3), limits).photos) == 3
    problem = refusal(*form([photo()] * 4), limits)
    assert (problem.status, problem.photo, problem.reason) == (413, 3, "too_large")


@pytest.mark.parametrize("spare", [0, -1])
def test_bytes_of_a_photo_are_counted_after_base64(spare: int) -> None:
    limits = Limits(photo_bytes=len(photo()) + spare)
    for body, kind in (form([photo()]), (plain([photo()]), JSON)):
        if spare < 0:
            problem = refusal(body, kind, limits)
            assert (problem.status, problem.photo, problem.reason) == (413, 0, "too_large")
        else:
            assert read_photos(body, kind, limits).photos == (photo(),)


def test_base64_that_is_too_long_is_not_even_decoded() -> None:
    body = json.dumps({"photos": [{"data": "A" * 8_000_000}]}).encode()
    tracemalloc.start()
    problem = refusal(body, JSON, Limits(photo_bytes=1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem.status == 413 and peak < 2.2 * len(body)  # the text of the body and of the field


@pytest.mark.parametrize(
    "bomb",
    [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b"]" * 100_000, b'{"a":' * 100_000, b"[]," * 500_000,
     b"{}," * 500_000, b"0," * 500_000, b'[["' + b"," * 500_000],
)  # fmt: skip
def test_a_json_bomb_takes_no_more_memory_than_its_bytes(bomb: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(Problem) as caught:
        read_json(b'{"photos": [' + bomb + b"]}", LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.status in (400, 413) and peak < 3 * len(bomb) + 100_000


def test_depth_is_counted_to_the_bracket() -> None:
    limits = Limits(json_depth=5)
    assert read_json(b"[" * 5 + b"]" * 5, limits) == [[[[[]]]]]
    with pytest.raises(Problem, match="6 deep"):
        read_json(b"[" * 6 + b"]" * 6, limits)


def test_a_number_of_a_million_digits_is_read_at_once() -> None:
    problem = refusal(b'{"photos": [], "age": ' + b"9" * 1_000_000 + b"}", JSON)
    assert problem.status == 400 and "from 0 to 122" in problem.detail


def test_ten_thousand_tiny_parts_are_given_up_at_the_first_too_many() -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="photo"\r\n\r\nx\r\n'
    begun: list[int] = []
    body = part * 10_000 + b"--b--\r\n"
    sys.setprofile(
        lambda frame, event, _: begun.append(1) if event == "call" and frame.f_code.co_name == "_part_begin" else None
    )
    try:
        problem = refusal(body, "multipart/form-data; boundary=b")
    finally:
        sys.setprofile(None)
    assert problem.status == 413 and len(begun) == LIMITS.parts + 1


@pytest.mark.parametrize(
    "headers",
    [b"x-header: y\r\n" * 1000, b"x: " + b"y" * 50_000 + b"\r\n", b"x" * 50_000 + b": y\r\n"],
)
def test_a_part_of_endless_headers_is_refused(headers: bytes) -> None:
    body = b"--b\r\n" + headers + b'Content-Disposition: form-data; name="photo"\r\n\r\nx\r\n--b--\r\n'
    assert refusal(body, "multipart/form-data; boundary=b").status in (400, 413)


# Nothing of a photo is kept anywhere

_WRITES: list[str] = []
_WATCHING = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _WATCHING and (event.startswith("tempfile.") or (event == "open" and not _reads(arguments))):
        _WRITES.append(f"{event} {arguments}")


def _reads(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    return mode in ("r", "rb") if isinstance(mode, str) else isinstance(flags, int) and not flags & 3


sys.addaudithook(_watch)  # for good: Python has no way to take one back


def test_no_byte_of_a_photo_reaches_a_disk_or_a_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    global _WATCHING
    marker = b"THE-PATIENT-IS-NAMED-HERE"
    large = photo() + marker * 120_000  # 3 MB: what follows the end of a PNG is no part of it, but of the file
    broken = marker * 120_000
    app = service()
    ask(app, "GET", "/healthz")
    _WATCHING = True
    try:
        with caplog.at_level(logging.DEBUG):
            answers = [
                ask(app, "POST", "/v1/face-age", content=body, headers={"content-type": kind})
                for body, kind in (
                    form([large]), (plain([large]), JSON), form([broken]), (plain([broken]), JSON),
                    (form([large])[0][:-10], form([large])[1]), (plain([large])[:-1], JSON),
                    (broken, "multipart/form-data; boundary=x"), (broken, JSON),
                )
            ]  # fmt: skip
    finally:
        _WATCHING = False
    assert [each.status_code for each in answers] == [200, 200, 415, 415, 400, 400, 400, 400]
    assert _WRITES == []
    said = caplog.text + "".join(capfd.readouterr()) + "".join(each.text for each in answers)
    assert marker.decode()[:12] not in said and base64.b64encode(marker).decode()[:12] not in said
