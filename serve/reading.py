"""The body of a request -> the photos of one person, in memory, before a pixel is decoded.

sent = read_photos(await request.body(), request.headers.get("content-type"), limits)    # .photos, .age
sent = read_photos(..., dated=True)                              # two photos or more, .taken_on: as many days
fields = read_json(body, limits)                                 # any small JSON; read_parts(...): any multipart

Raises Problem and nothing else: 400 malformed, 413 too much, 415 not an image, 422 a damaged one.
"""

import base64
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from fahr import images
from fahr.errors import nearest
from serve.limits import READ_TYPES, Limits
from serve.problems import Problem, sentence
from serve.schemas import DatedPhotosIn, PhotosIn, read_age_text, read_day

MULTIPART, JSON = READ_TYPES
_MOST_BOUNDARY = 70  # RFC 2046
_SIGNS = b"[]{},"
_NO_SIGNS = bytes(set(range(256)) - set(_SIGNS))
# It warns of each malformed body, quoting bytes of it: the answer tells the client, and a log holds no photo.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Submission:
    """Photos of one person, in the order they were sent."""

    photos: tuple[bytes, ...]
    age: float | None  # years, when the first was taken
    taken_on: tuple[date, ...] = ()  # as many as photos, or none


def read_photos(body: bytes, content_type: str | None, limits: Limits, *, dated: bool = False) -> Submission:
    """`dated`: each photo has its day; otherwise none may have one."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == JSON:
        sent = _from_json(read_json(body, limits), limits, dated)
    elif kind == MULTIPART:
        sent = _from_parts(read_parts(body, content_type or "", limits), limits, dated)
    else:
        raise Problem(415, f"Content-Type {kind[:40]!r}: photos are read as {MULTIPART} or {JSON}. Send one of them.")
    _check_pixels(sent.photos, limits)
    return sent


def _check_pixels(photos: Sequence[bytes], limits: Limits) -> None:
    """By their headers: whether they are images, whole, and small enough to be decoded, alone and together."""
    total = 0
    for number, data in enumerate(photos):
        try:
            header = images.read_header(data, limits.of_photo())
        except images.Unreadable as fault:
            raise Problem.of_photo(number, fault) from None
        total += header.width * header.height
        if total > limits.pixels:
            detail = (
                f"With this photo it is {total:,} pixels; a request has at most {limits.pixels:,}. Send fewer photos."
            )
            raise Problem(413, detail, photo=number, reason="too_large")


def _check_number(number: int, limits: Limits) -> None:
    if number > limits.photos:
        raise Problem(413, f"{number:,} photos; a request has 1 to {limits.photos}. Send the others by themselves.")


def _check_bytes(number: int, size: int, limits: Limits) -> None:
    if size > limits.photo_bytes:
        detail = f"The photo has {size:,} bytes; {limits.photo_bytes:,} is the most. Send a smaller copy."
        raise Problem(413, detail, photo=number, reason="too_large")


# JSON


def _from_json(found: Any, limits: Limits, dated: bool) -> Submission:
    photos = found.get("photos") if isinstance(found, dict) else None
    _check_number(len(photos) if isinstance(photos, list) else 0, limits)
    try:
        sent = DatedPhotosIn.model_validate(found) if dated else PhotosIn.model_validate(found)
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False, include_context=False)
        place = told[0]["loc"]
        photo = place[1] if len(place) > 1 and place[0] == "photos" and isinstance(place[1], int) else None
        raise Problem(400, sentence(told), photo=photo) from None
    files = tuple(_unpacked(number, each.data, limits) for number, each in enumerate(sent.photos))
    days = tuple(each.taken_on for each in sent.photos) if isinstance(sent, DatedPhotosIn) else ()
    return Submission(files, sent.age, days)


def _unpacked(number: int, data: str, limits: Limits) -> bytes:
    _check_bytes(number, len(data) // 4 * 3 - 2, limits)  # before it is decoded: at least so many
    try:
        file = base64.b64decode(data, validate=True)
    except ValueError:
        remedy = "Send the letters alone, without line breaks and without 'data:...;base64,' before them."
        raise Problem(400, f"photos.{number}.data: is not base64. {remedy}", photo=number) from None
    _check_bytes(number, len(file), limits)
    return file


def read_json(body: bytes, limits: Limits) -> Any:
    """Strict: UTF-8, no key twice, no NaN; whole numbers come as floats. Base64 has none of the signs that are counted,
    so a body of photos has few of them, however large it is; what has many would take far more memory than bytes."""
    signs = body.translate(None, _NO_SIGNS)
    if len(signs) > limits.json_items:
        raise Problem(
            413, f"The JSON has {len(signs):,} brackets and commas; {limits.json_items:,} is the most. Send less."
        )
    depth = 0
    for sign in signs:
        depth += (sign in b"[{") - (sign in b"]}")
        if depth > limits.json_depth:
            raise Problem(400, f"The JSON has brackets {depth} deep; {limits.json_depth} is the most. Send it flat.")
    try:
        # float: an int of a million digits takes minutes
        return json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_not_a_number, parse_int=float)
    except UnicodeDecodeError as error:
        raise Problem(400, f"The JSON is not UTF-8, at byte {error.start:,}. Encode it as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"The body is not JSON ({error}). Correct it.") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _not_a_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


# Multipart


@dataclass(frozen=True)
class Part:
    """One field of a form."""

    name: str
    data: bytes
    filename: str | None = None

    def text(self, limits: Limits) -> str:
        """Of a field that is no file: short, UTF-8, without blanks around it."""
        if len(self.data) > limits.field_bytes:
            raise Problem(413, f"{self.name}: has {len(self.data):,} bytes; {limits.field_bytes:,} is the most.")
        try:
            return self.data.decode().strip()
        except UnicodeDecodeError:
            raise Problem(400, f"{self.name}: is not UTF-8. Encode the form as UTF-8.") from None


def _from_parts(parts: Sequence[Part], limits: Limits, dated: bool) -> Submission:
    known = ("photo", "age", "taken_on") if dated else ("photo", "age")
    for part in parts:
        if part.name not in known:
            near = nearest(part.name, known)
            raise Problem(400, f"Field {part.name[:40]!r} is not read here; there are {', '.join(known)}.{near}")
    files = tuple(part.data for part in parts if part.name == "photo")
    _check_number(len(files), limits)
    fewest = 2 if dated else 1
    if len(files) < fewest:
        raise Problem(400, f"photo: {len(files)} came; at least {fewest} must. Send each photo as a field `photo`.")
    for number, file in enumerate(files):
        _check_bytes(number, len(file), limits)
    ages = [part.text(limits) for part in parts if part.name == "age"]
    if len(ages) > 1:
        raise Problem(400, f"age: came {len(ages)} times. Send it once: the age at the first photo.")
    days = [part.text(limits) for part in parts if part.name == "taken_on"]
    if dated and len(days) != len(files):
        raise Problem(400, f"taken_on: {len(days)} for {len(files)} photos. Send one for each photo, in their order.")
    try:
        age = read_age_text(ages[0]) if ages and ages[0] else None
    except ValueError as error:
        raise Problem(400, f"age: {error}") from None
    return Submission(files, age, tuple(_day(number, text) for number, text in enumerate(days)))


def _day(number: int, text: str) -> date:
    try:
        return read_day(text)
    except ValueError as error:
        raise Problem(400, f"taken_on: {error}", photo=number) from None


def read_parts(body: bytes, content_type: str, limits: Limits) -> tuple[Part, ...]:
    """The fields of a form, in order. Given up at the first part that is one too many."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= _MOST_BOUNDARY:
        raise Problem(
            400, f"Content-Type: has a boundary of {len(boundary)} characters; 1 to {_MOST_BOUNDARY} are needed. Let "
            "the client library write this header.",
        )  # fmt: skip
    form = _Form(limits)
    try:
        MultipartParser(boundary, form.callbacks()).write(body)
    except FormParserError as error:
        at = getattr(error, "offset", -1)
        where = f" at byte {at:,}" if at >= 0 else ""
        raise Problem(400, f"The multipart body is malformed{where}. Let a client library write it.") from None
    if not form.ended:
        raise Problem(
            400, f"The multipart body ends after {len(body):,} bytes without its last boundary. Send it whole."
        )
    return tuple(form.parts)


class _Form:
    """What the parser tells, as parts."""

    def __init__(self, limits: Limits) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._limits, self._begun = limits, 0
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value, self._data = b"", b"", b""
        self._size = 0  # of the part's headers

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._begun += 1
        if self._begun > self._limits.parts:
            raise Problem(413, f"The form has more than {self._limits.parts} fields. Send fewer.")
        self._headers, self._name, self._value, self._data, self._size = {}, b"", b"", b"", 0

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self._limits.field_bytes:
            most = self._limits.field_bytes
            raise Problem(413, f"Field {self._begun} has more than {most:,} bytes of headers. Send fewer.")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._count(1)
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]  # all of it at once, since the parser is given the whole body

    def _part_end(self) -> None:
        coding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if coding not in (b"binary", b"8bit", b"7bit"):
            raise Problem(
                400, f"Field {self._begun}: a Content-Transfer-Encoding is not read. Send the bytes as they are."
            )
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise Problem(400, f"Field {self._begun}: has no Content-Disposition: form-data with a name. Give it one.")
        try:
            name = options[b"name"].decode()
            filename = options[b"filename"].decode("utf-8", "replace") if b"filename" in options else None
        except UnicodeDecodeError:
            raise Problem(400, f"Field {self._begun}: its name is not UTF-8. Encode the form as UTF-8.") from None
        self.parts.append(Part(name, self._data, filename))
        self._data = b""

    def _end(self) -> None:
        self.ended = True
