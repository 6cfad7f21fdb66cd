"""Bytes of a photo -> an upright RGB array in sRGB, or one sentence saying why not. Nothing else comes out.

    photo = decode(path.read_bytes(), shortest_side=640)   # photo.pixels: (H, W, 3) uint8

Every file is first walked by its container's rules (`_jpeg`, `_png`, ...): one that was cut short is refused there,
because decoders fill what is missing with grey or black and call it a success. The walk keeps the picture and the few
notes that change how it looks (orientation, colour profile); comments, previews and later frames, where most damage and
most attacks live, never reach a decoder. Only then is the header read and, if its size is allowed, the picture decoded.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from pillow_heif import HeifImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "TIFF", "GIF", "BMP")
_MAGIC = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<WEBP>RIFF....WEBPVP8[ LX])|(?P<GIF>GIF8[79]a)|(?P<BMP>BM)"
    rb"|(?P<TIFF>II\*\0|MM\0\*)|(?P<HEIF>....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1))",
    re.DOTALL,
)
# Plugins by name, not Image.open: that one asks any plugin the process knows, and warns about sizes on its own.
_READERS: dict[str, Callable[[BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile, "PNG": PngImageFile, "WEBP": WebPImageFile, "HEIF": HeifImageFile,
    "TIFF": TiffImageFile, "GIF": GifImageFile, "BMP": BmpImageFile,
}  # fmt: skip


class Unreadable(Exception):
    """`reason` is "unreadable" or "too_large"; `detail` one sentence: value, rule, remedy.

    `is_image` is False when the bytes do not even begin like a format we read (HTTP 415), True for a damaged image.
    """

    def __init__(self, reason: str, detail: str, is_image: bool = True) -> None:
        super().__init__(reason, detail, is_image)  # all three, so that it survives pickling between workers
        self.reason, self.detail, self.is_image = reason, detail, is_image

    def __str__(self) -> str:
        return self.detail


@dataclass(frozen=True)
class Limits:
    max_bytes: int = 64 * 2**20
    # Below the 89,478,485 at which Pillow starts to warn on stderr by its own rule: one limit, ours. Most phones stop
    # at 50 million; a decode peaks at 7 bytes a pixel (JPEG) to 18 (PNG with alpha).
    max_pixels: int = 80_000_000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Header:
    format: str  # one of FORMATS
    width: int  # as stored, before `orientation` is applied; HEIF turns its pixels itself, so there both are upright
    height: int
    orientation: int  # EXIF, 1-8; 1 is upright


@dataclass(frozen=True, eq=False)
class Photo:
    """x in `pixels` is x * width / pixels.shape[1] in the upright original, to within one pixel of `pixels`."""

    pixels: NDArray[np.uint8]  # (H, W, 3) RGB, sRGB, upright, C-contiguous
    width: int  # of the upright original: larger than pixels.shape[1] after a reduced decode
    height: int
    format: str


def read_header(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Header:
    """Format, size and orientation; refuses what `decode` would refuse before it decodes a pixel."""
    return _open(data, limits)[0]


def decode(data: bytes, *, shortest_side: int | None = None, limits: Limits = DEFAULT_LIMITS) -> Photo:
    """The picture, upright, RGB, sRGB, alpha over white. Raises Unreadable and nothing else.

    With `shortest_side`, a JPEG is decoded at 1/2, 1/4 or 1/8 while its shorter side keeps at least that many pixels.
    """
    header, body, im = _open(data, limits)
    with _only_unreadable(header.format):
        if header.format == "JPEG":
            pixels = _decode_jpeg(body, im, header, shortest_side)
        else:
            im.load()
            pixels = _to_srgb(_flatten(im), im.info.get("icc_profile"))
            if header.format in ("TIFF", "HEIF"):  # their readers have turned the pixels already
                header = Header(header.format, pixels.shape[1], pixels.shape[0], 1)
            if pixels.shape[:2] != (header.height, header.width):
                raise _damaged(header.format, "its pixels have another size than its header says")
        pixels = _upright(pixels, header.orientation)
    turned = header.orientation >= 5
    width, height = (header.height, header.width) if turned else (header.width, header.height)
    return Photo(pixels, width, height, header.format)


def _open(data: bytes, limits: Limits) -> tuple[Header, bytes, ImageFile.ImageFile]:
    """The header, the bytes worth decoding and their Pillow reader, with no pixel decoded yet."""
    if len(data) > limits.max_bytes:
        rule = f"at most {limits.max_bytes:,} are read"
        raise Unreadable("too_large", f"The file has {len(data):,} bytes; {rule}: send a smaller copy.")
    magic = _MAGIC.match(data)
    if magic is None or magic.lastgroup is None:
        begins = f"it begins with the bytes {data[:8].hex(' ')}" if data else "the file is empty"
        raise Unreadable("unreadable", f"Not an image ({begins}): send one of {', '.join(FORMATS)}.", is_image=False)
    name = magic.lastgroup
    with _only_unreadable(name):
        body = _WALKS[name](data, limits) if name in _WALKS else data
        im = _READERS[name](BytesIO(body))
        width, height = im.size
        _check_size(width, height, limits)
        orientation = 1 if name == "HEIF" else _orientation(im)
        if isinstance(im, TiffImageFile):
            _check_tiff(im, len(data), limits)
            width, height = im.tag_v2[256], im.tag_v2[257]  # im.size has its sides swapped in advance
    return Header(name, width, height, orientation), body, im


@contextmanager
def _only_unreadable(name: str) -> Iterator[None]:
    """Decoders raise anything on hostile bytes, from struct.error to RecursionError: to the caller it is one thing."""
    try:
        yield
    except Unreadable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a part larger than the whole
        detail = f"The {name} claims more pixels than are decoded: send a smaller copy."
        raise Unreadable("too_large", detail) from error
    except MemoryError as error:
        detail = f"The {name} needs more memory than there is to decode: send a smaller copy."
        raise Unreadable("too_large", detail) from error
    except Exception as error:
        said = " ".join(str(error).encode("ascii", "replace").decode().split())[:120] or type(error).__name__
        raise _damaged(name, said) from error


def _damaged(name: str, why: str) -> Unreadable:
    return Unreadable("unreadable", f"The {name} is damaged or of a kind that is not read ({why}): save it again.")


def _truncated(name: str, size: int) -> Unreadable:
    return Unreadable("unreadable", f"The {name} is truncated, it ends early at byte {size:,}: send it again, whole.")


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width <= 0 or height <= 0:
        raise Unreadable("unreadable", f"The header says {width} x {height} pixels; 1 is the least: save it again.")
    if width * height > limits.max_pixels:
        rule = f"at most {limits.max_pixels:,} pixels are decoded"
        raise Unreadable("too_large", f"The header says {width:,} x {height:,} pixels; {rule}: send a smaller copy.")


# Containers: is the file whole, and which bytes of it are the picture

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not a stuffed 0xff, a restart or a fill byte
_MAX_SCANS = 64  # progressive encoders write about ten; each one costs a pass over the whole picture
_MAX_SEGMENTS = 4096


def _jpeg(data: bytes, limits: Limits) -> bytes:
    """Walks to the end marker of the main picture: the one of an EXIF thumbnail, or of a later MPO frame, is not it."""
    kept, at, scans = [b"\xff\xd8"], 2, 0
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None:
            raise _truncated("JPEG", len(data))
        marker, start = found[0][1], found.end()
        if scans:
            kept.append(data[at : found.start()])
        if marker == 0xD9:
            if not scans:
                raise _damaged("JPEG", "it ends before any picture begins")
            return b"".join([*kept, b"\xff\xd9"])
        at = start + int.from_bytes(data[start : start + 2])
        if at > len(data) or start + 2 > len(data):
            raise _truncated("JPEG", len(data))
        if at < start + 2:
            raise _damaged("JPEG", "a segment of negative length")
        scans += marker == 0xDA
        if scans > _MAX_SCANS:
            raise _damaged("JPEG", f"more than {_MAX_SCANS} scans")
        payload = data[start + 2 : at]
        # Only notes that change the picture; too short ones would make a reader give up a good picture.
        wanted = {
            0xE0: payload[:5] == b"JFIF\0" and len(payload) >= 14,
            0xE1: payload[:6] == b"Exif\0\0",
            0xE2: payload[:12] == b"ICC_PROFILE\0" and len(payload) > 14,
            0xEE: payload[:5] == b"Adobe" and len(payload) >= 12,
        }
        if wanted.get(marker, not (0xE0 <= marker <= 0xEF or marker == 0xFE)):
            kept.append(data[start - 2 : at])
    raise _damaged("JPEG", f"more than {_MAX_SEGMENTS:,} segments")


def _png(data: bytes, limits: Limits) -> bytes:
    """Chunks with a wrong checksum refuse the picture if they hold pixels or palette, and are left out otherwise."""
    view, kept, at = memoryview(data), [memoryview(data)[:8]], 8
    while len(data) >= at + 12:
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"eXIf"):
            if zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(view[end - 4 : end]):
                kept.append(view[at:end])
            elif kind[:1].isupper():
                raise _damaged("PNG", f"the checksum of chunk {kind.decode()} does not match")
        if kind == b"IEND":
            return b"".join(kept)
        at = end
    raise _truncated("PNG", len(data))


def _webp(data: bytes, limits: Limits) -> bytes:
    """The size is read here because Pillow's reader allocates the canvas as soon as it opens the file."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data) or len(data) < 30:
        raise _truncated("WEBP", len(data))
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    _check_size(width, height, limits)
    return data[:end]


def _gif(data: bytes, limits: Limits) -> bytes:
    """Header, first picture and its transparency. Its disposal is cleared: Pillow would allocate that while opening."""
    at, control = 13 + (3 << (data[10] & 7) + 1 if data[10:11] and data[10] & 0x80 else 0), b""
    head = data[:at]
    while data[at : at + 1] == b"!":
        start, at = at, _gif_blocks_end(data, at + 2)
        if data[start + 1] == 0xF9 and at - start == 8:
            control = data[start : start + 3] + bytes([data[start + 3] & 1]) + data[start + 4 : at]
    if data[at : at + 1] == b";":
        raise _damaged("GIF", "it holds no picture")
    if data[at : at + 1] not in (b",", b""):
        raise _damaged("GIF", "an unknown block")
    if len(data) < at + 11:
        raise _truncated("GIF", len(data))
    palette = 3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0
    end = _gif_blocks_end(data, at + 11 + palette)
    if end == len(data):  # a trailer or another block must follow
        raise _truncated("GIF", len(data))
    return head + control + data[at:end] + b";"


def _gif_blocks_end(data: bytes, at: int) -> int:
    while at < len(data):
        length = data[at]
        at += 1 + length
        if not length:
            return at
    raise _truncated("GIF", len(data))


def _tiff(data: bytes, limits: Limits) -> bytes:
    """The directory must be whole: Pillow goes on without what is missing. `_check_tiff` sees to the strips."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    at = int.from_bytes(data[4:8], order)
    if at + 6 + 12 * int.from_bytes(data[at : at + 2], order) > len(data):
        raise _truncated("TIFF", len(data))
    return data


def _heif(data: bytes, limits: Limits) -> bytes:
    """The boxes that matter must fit into the file: the decoder behind it conceals what is missing."""
    at = 0
    while len(data) >= at + 8:
        size, kind = struct.unpack_from(">I4s", data, at)
        if size == 1 and len(data) >= at + 16:
            size = int.from_bytes(data[at + 8 : at + 16])
        if kind in (b"ftyp", b"meta", b"mdat", b"idat", b"moov") and at + size > len(data):
            raise _truncated("HEIF", len(data))
        if size < 8:  # 0: to the end of the file
            break
        at += size
    return data


_WALKS: dict[str, Callable[[bytes, Limits], bytes]] = {
    "JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "HEIF": _heif, "TIFF": _tiff,
}  # fmt: skip


def _check_tiff(im: TiffImageFile, num_bytes: int, limits: Limits) -> None:
    tags = im.tag_v2
    _check_size(tags.get(322, 1), tags.get(323, 1), limits)  # a tile may be larger than the picture it is a part of
    for offsets, counts in ((273, 279), (324, 325)):
        for offset, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False):
            if offset + count > num_bytes:
                raise _truncated("TIFF", num_bytes)
    exif = im.getexif()
    for tag in (
        330,
        34665,
        34853,
        40965,
    ):  # further directories: no use to us, and a corrupt one makes the reader give up
        if tag in exif:
            del exif[tag]


def _orientation(im: ImageFile.ImageFile) -> int:
    try:
        value = im.getexif().get(274, 1)
    except Exception:  # noqa: BLE001 - whatever corrupt EXIF raises, it is no reason to refuse a good picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


# Pixels


def _decode_jpeg(body: bytes, im: ImageFile.ImageFile, header: Header, shortest_side: int | None) -> NDArray[np.uint8]:
    reduction = 1
    if shortest_side is not None:
        short = min(header.width, header.height)
        reduction = next((by for by in (8, 4, 2) if -(-short // by) >= shortest_side), 1)
    profile = im.info.get("icc_profile")
    if im.mode == "CMYK":
        im.draft(None, (max(1, header.width // reduction), max(1, header.height // reduction)))
        pixels, profile = _to_srgb(im.convert("CMYK"), profile), None
    else:
        pixels = _cv2_jpeg(body, reduction)
    if pixels.shape[:2] != (-(-header.height // reduction), -(-header.width // reduction)):
        raise _damaged("JPEG", "its pixels have another size than its header says")
    if (pixels[-4:, -4:] == pixels[-1, -1]).all() and _is_short(body):
        raise _truncated("JPEG", len(body))
    if profile and _transform(profile, im.mode):
        return _to_srgb(Image.fromarray(pixels[:, :, 0] if im.mode == "L" else pixels), profile)
    return pixels


def _cv2_jpeg(body: bytes, reduction: int) -> NDArray[np.uint8]:
    # 16, 32, 64 are the IMREAD_REDUCED_GRAYSCALE flags: the REDUCED_COLOR ones carry the bit for BGR as well.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | (8 * reduction if reduction > 1 else 0)
    pixels = cv2.imdecode(np.frombuffer(body, np.uint8), flags)
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise _damaged("JPEG", "its pixels do not decode")
    return np.asarray(pixels, np.uint8)


def _is_short(body: bytes) -> bool:
    """Did the scan end before the last row, with an end marker glued on? Called when the last corner is flat.

    Bytes put in front of the end marker are never read by the decoder of a whole scan, and show as blocks otherwise.
    """
    glued = body[:-2] + bytes(range(1, 255)) * 2 + b"\xff\xd9"
    return not np.array_equal(_eighth(body), _eighth(glued))


def _eighth(body: bytes) -> NDArray[np.uint8]:
    """By Pillow: OpenCV lets libjpeg write a line on stderr for the bytes that are not read."""
    im = JpegImageFile(BytesIO(body))
    im.draft(im.mode, (max(1, im.width // 8), max(1, im.height // 8)))
    return np.asarray(im)


def _flatten(im: Image.Image) -> Image.Image:
    """Any decoded mode -> L, RGB or CMYK, 8 bits, no alpha."""
    if im.mode.startswith("I;16"):
        deep = np.asarray(im).astype(np.uint32)
        grey = ((deep + 128) // 257).astype(np.uint8)  # 65535 is white; Pillow's own convert clips at 255
        hidden = im.info.get("transparency")
        return Image.fromarray(np.where(deep == hidden, np.uint8(255), grey) if isinstance(hidden, int) else grey)
    if im.mode in ("I", "F", "LAB", "HSV"):
        kind = {"I": "32-bit integer", "F": "floating-point"}.get(im.mode, im.mode)
        rule = "only 8 and 16 bits a channel say which value is white"
        raise Unreadable("unreadable", f"The pixels are {kind}; {rule}: save the photo as 8-bit RGB.")
    if im.mode == "1":
        im = im.convert("L")
    hidden = im.info.get("transparency")
    if isinstance(hidden, tuple) and max(hidden) > 255:  # 16-bit colour, of which Pillow keeps the high byte
        im.info["transparency"] = tuple(value >> 8 for value in hidden)
    premultiplied = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
    if im.mode in premultiplied:
        im = im.convert(premultiplied[im.mode])
    elif hidden is not None and im.mode in ("L", "RGB", "P"):
        im = im.convert("LA" if im.mode == "L" else "RGBA")
    elif im.mode == "P":
        im = im.convert("RGBA" if im.palette is not None and im.palette.mode == "RGBA" else "RGB")
    if im.mode in ("LA", "RGBA"):
        # Colours under alpha 0 are whatever the editor left there, often black or noise: a viewer shows paper instead.
        base = im.mode[:-1]
        paper = Image.new(base, im.size, "white")
        paper.paste(im.convert(base), mask=im.getchannel("A"))
        return paper
    return im if im.mode in ("L", "RGB", "CMYK") else im.convert("RGB")


def _to_srgb(im: Image.Image, profile: bytes | None) -> NDArray[np.uint8]:
    transform = _transform(profile, im.mode) if profile else None
    return np.array(transform.apply(im) if transform else im.convert("RGB"))


@lru_cache(maxsize=32)  # a camera writes the same profile into all its photos
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None if the profile is sRGB already, broken, or for another kind of pixels than `mode`."""
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB",
            flags=ImageCms.Flags.NOCACHE,  # its one-pixel cache would be shared between threads
        )  # fmt: skip
        if mode == "CMYK":
            return transform
        steps = np.linspace(0, 255, 17).astype(np.uint8)
        cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(17, -1, 3)
        probe = Image.fromarray(np.arange(256, dtype=np.uint8)[None] if mode == "L" else cube)
        change = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    except Exception:  # noqa: BLE001 - PyCMSError, OSError and ValueError, by the kind of damage
        return None
    return transform if abs(change).max() > 2 else None  # the sRGB profiles in use differ by rounding


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
