"""Damaged pictures by the thousand, decoded in a child process: a crash, a hang or a leak is recorded, not suffered.

    python tests/fuzz_images.py --count 100000 --seed 1    # exit 1 if anything but a Photo or Unreadable came

Any one file again: `python tests/fuzz_images.py --seed 1 --dump INDEX > damaged.bin`.
"""

import argparse
import os
import random
import resource
import select
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from io import BytesIO

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

from fahr.images import Limits, Unreadable, decode, read_header

SECONDS_PER_FILE = 10
LIMITS = Limits(max_bytes=2**20, max_pixels=4_000_000)
ADDRESS_SPACE_MIB = 1024  # headroom over what the child has mapped when it starts
RESIDENT_MIB = 256  # the same for resident memory: 4 million pixels at 18 bytes each, three times over
INTERESTING = (0, 1, 2, 7, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def picture(width: int = 96, height: int = 72, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise: no row is flat, so that a missing one shows."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9.0 + k) + np.cos(y / 7.0 + 2 * k) for k in range(3)]
    noise = np.random.default_rng(seed).normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(128 + 50 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8))


def encode(im: Image.Image, name: str, **options: object) -> bytes:
    buffer = BytesIO()
    if name == "HEIF":
        pillow_heif.from_pillow(im).save(buffer, **options)
    else:
        frames = options.pop("append_images", None)  # copies: saving an MPO leaves its encoder settings on the pictures
        if isinstance(frames, list):
            options |= {"save_all": True, "append_images": [frame.copy() for frame in frames]}
        im.copy().save(buffer, name, **options)
    return buffer.getvalue()


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    exif[271] = "a camera"
    return exif.tobytes()


def samples() -> dict[str, bytes]:
    """One small file of every kind that `decode` reads."""
    rgb = picture()
    grey, palette, cmyk = rgb.convert("L"), rgb.convert("P"), rgb.convert("CMYK")
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray(np.linspace(0, 255, 96 * 72).astype(np.uint8).reshape(72, 96)))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    frames = {"append_images": [picture(seed=1)]}
    made = {
        "jpeg": encode(rgb, "JPEG", exif=exif_of(6), icc_profile=icc),
        "jpeg_progressive": encode(rgb, "JPEG", progressive=True, quality=92, subsampling=0),
        "jpeg_grey": encode(grey, "JPEG", icc_profile=lab),
        "jpeg_cmyk": encode(cmyk, "JPEG"),
        "jpeg_restart": encode(rgb, "JPEG", restart_marker_blocks=4),
        "mpo": encode(rgb, "MPO", **frames),
        "png": encode(rgb, "PNG", exif=exif_of(8), icc_profile=icc),
        "png_palette": encode(palette, "PNG", transparency=3, bits=8),
        "png_deep": encode(deep, "PNG"),
        "png_alpha": encode(rgba, "PNG"),
        "png_bit": encode(rgb.convert("1"), "PNG"),
        "apng": encode(rgb, "PNG", **frames),
        "webp": encode(rgb, "WEBP", exif=exif_of(3), icc_profile=icc),
        "webp_lossless": encode(rgba, "WEBP", lossless=True),
        "webp_animated": encode(rgb, "WEBP", **frames),
        "heif": encode(rgb, "HEIF", exif=exif_of(5)),
        "heif_alpha": encode(rgba, "HEIF", quality=60),
        "tiff": encode(rgb, "TIFF", exif=exif_of(7), icc_profile=icc),
        "tiff_deep": encode(deep, "TIFF", compression="tiff_adobe_deflate"),
        "tiff_cmyk": encode(cmyk, "TIFF", compression="tiff_lzw"),
        "tiff_jpeg": encode(rgb, "TIFF", compression="jpeg"),
        "tiff_fax": encode(rgb.convert("1"), "TIFF", compression="group4"),
        "tiff_packbits": encode(palette, "TIFF", compression="packbits"),
        "tiff_pages": encode(rgb, "TIFF", compression="tiff_lzw", **frames),
        "gif": encode(palette, "GIF", transparency=5),
        "gif_animated": encode(rgb, "GIF", disposal=2, **frames),
        "bmp": encode(rgb, "BMP"),
        "bmp_palette": encode(palette, "BMP"),
    }
    return made


def checksummed(data: bytes) -> bytes:
    """A PNG with its checksums made right again, so that the damage gets past them."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        end = at + 12 + int.from_bytes(out[at : at + 4])
        if end > len(out):
            break
        out[end - 4 : end] = zlib.crc32(out[at + 4 : end - 4]).to_bytes(4)
        at = end
    return bytes(out)


def edit_dimensions(out: bytearray, rng: random.Random) -> None:
    """Width or height, where the format keeps it."""
    value = rng.choice(INTERESTING + (71, 73, 95, 97, 2000, 20000))
    if out[:4] == b"\x89PNG":
        at, code = rng.choice((16, 20)), ">I"
    elif out[:2] == b"\xff\xd8":
        at, code = max(out.find(b"\xff\xc0"), out.find(b"\xff\xc2"), 0) + rng.choice((5, 7)), ">H"
    elif out[:4] == b"RIFF":
        at, code = rng.choice((21, 24, 26, 27, 28)), "<H"
    elif out[:3] == b"GIF":
        at, code = rng.choice((6, 8, max(out.find(b",\0\0\0\0"), 0) + 5)), "<H"
    elif out[:2] == b"BM":
        at, code = rng.choice((18, 22)), "<I"
    elif out[4:8] == b"ftyp":
        at, code = max(out.find(b"ispe"), 0) + rng.choice((8, 12)), ">I"
    else:
        found = out.find(rng.choice((b"\0\1\4\0", b"\1\1\4\0", b"\0\1\3\0", b"\1\1\3\0")))
        at, code = max(found, 0) + 8, "<H"
    value &= 0xFFFF if code[1] == "H" else 0xFFFFFFFF
    if at + struct.calcsize(code) <= len(out):
        struct.pack_into(code, out, at, value)


def damage(out: bytearray, others: list[bytes], rng: random.Random) -> bytearray:
    """One change of the kind that a bad disk, a cut connection or an attacker makes."""
    size = len(out)
    if not size:
        return out
    at = rng.randrange(min(size, rng.choice((32, 256, 4096, size))))  # headers are small and matter most
    length = min(rng.choice((1, 2, 4, 16, 64, 512)), size - at)
    match rng.randrange(8):
        case 0:
            for _ in range(rng.choice((1, 1, 4, 32))):
                out[rng.randrange(size)] ^= 1 << rng.randrange(8)
        case 1:
            out[at : at + length] = rng.randbytes(length)
        case 2:
            del out[rng.randrange(size) :]
        case 3:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            out[at : at + rng.choice((0, length))] = other[start : start + rng.choice((8, 64, 1024))]
        case 4:
            code = rng.choice((">H", "<H", ">I", "<I"))
            value = rng.choice(INTERESTING) & (0xFFFF if code[1] == "H" else 0xFFFFFFFF)
            if at + struct.calcsize(code) <= size:
                struct.pack_into(code, out, at, value)
        case 5:
            out[at:at] = out[at : at + length] * rng.choice((1, 1, 2, 50))
        case 6:
            del out[at : at + length]
        case 7:
            edit_dimensions(out, rng)
    return out


def mutated(kinds: dict[str, bytes], seed: int, index: int) -> tuple[str, bytes, int | None]:
    rng = random.Random(f"{seed}:{index}")
    kind = rng.choice(sorted(kinds))
    out = bytearray(kinds[kind])
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        out = damage(out, list(kinds.values()), rng)
    data = bytes(out)
    if data[:4] == b"\x89PNG" and rng.random() < 0.7:
        data = checksummed(data)
    return kind, data, rng.choice((None, 32))


def outcome(data: bytes, shortest_side: int | None) -> str:
    """The kind of end this file comes to; anything that begins with `BAD` is a failure."""
    try:
        photo = decode(data, shortest_side=shortest_side, limits=LIMITS)
    except Unreadable as refused:
        if refused.reason not in ("unreadable", "too_large") or not refused.detail.isascii():
            return "BAD_refusal"
        if "more memory" in refused.detail:
            return "BAD_memory"  # at this pixel limit no honest decode needs the headroom
        if not refused.is_image:
            return "not_an_image"
        return "truncated" if "truncated" in refused.detail else refused.reason
    except BaseException as error:  # noqa: BLE001 - the one promise under test
        return f"BAD_{type(error).__name__}"
    pixels = photo.pixels
    whole = pixels.shape == (photo.height, photo.width, 3) or (shortest_side and photo.format == "JPEG")
    try:
        header = read_header(data, LIMITS)
    except Unreadable:
        return "BAD_header_refused_a_photo"
    if not (whole and pixels.dtype == np.uint8 and pixels.flags.c_contiguous and header.format == photo.format):
        return "BAD_photo"
    return "photo"


def peak_kib() -> int:
    """Of this process alone: getrusage's ru_maxrss is inherited from the process that started it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def child(seed: int, start: int, stop: int) -> None:
    """A line for each file: index, kind, outcome, milliseconds, resident memory above the start in MiB."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kinds = samples()
    for data in kinds.values():
        decode(data)
    print("ready", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libjpeg and libtiff chat; an error of our own above is still shown
    with open("/proc/self/statm") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE_MIB * 2**20,) * 2)
    base = peak_kib()
    for index in range(start, stop):
        kind, data, shortest_side = mutated(kinds, seed, index)
        began = time.perf_counter()
        end = outcome(data, shortest_side)
        took = (time.perf_counter() - began) * 1000
        grown = (peak_kib() - base) // 1024
        print(index, kind, end, f"{took:.1f}", grown, flush=True)
        if grown > RESIDENT_MIB:
            return  # the parent starts a fresh one: the maximum never falls again


def fuzz(count: int, seed: int) -> tuple[Counter[str], list[str], dict[str, float]]:
    """Runs children until every index has come to an end. Returns outcomes, failures and the worst cases."""
    ends: Counter[str] = Counter()
    failures: list[str] = []
    worst = {"ms": 0.0, "MiB": 0.0}
    index = 0
    while index < count:
        command = [sys.executable, os.path.abspath(__file__), "--seed", str(seed), "--child", str(index), str(count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
            assert process.stdout is not None
            waiting, patience, ready = b"", 60.0, False  # the first answer waits for the imports
            while select.select([process.stdout], [], [], patience)[0]:
                received = os.read(process.stdout.fileno(), 65536)
                if not received:
                    break
                *lines, waiting = (waiting + received).split(b"\n")
                for line in lines:
                    if line == b"ready":
                        ready = True
                        continue
                    at, kind, end, took, grown = line.decode().split()
                    index = int(at) + 1
                    ends[end] += 1
                    worst = {"ms": max(worst["ms"], float(took)), "MiB": max(worst["MiB"], float(grown))}
                    if end.startswith("BAD"):
                        failures.append(f"{kind} seed {seed} index {at}: {end}")
                    if int(grown) > RESIDENT_MIB:
                        failures.append(f"{kind} seed {seed} index {at}: resident memory grew by {grown} MiB")
                patience = float(SECONDS_PER_FILE)
            else:
                process.kill()
                if not ready:
                    raise RuntimeError("the child did not get through its imports in 60 s")
                ends["HANG"] += 1
                failures.append(f"seed {seed} index {index}: no answer in {patience:.0f} s")
                index += 1
                continue
            if not ready:
                raise RuntimeError("the child failed before its first file: see its message above")
            if process.wait() != 0:
                ends["CRASH"] += 1
                failures.append(f"seed {seed} index {index}: the decoder ended the process ({process.returncode})")
                index += 1
    return ends, failures, worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dump", type=int, metavar="INDEX", help="write this damaged file to stdout")
    parser.add_argument("--child", type=int, nargs=2, metavar=("START", "STOP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.seed, *options.child)
        return 0
    if options.dump is not None:
        sys.stdout.buffer.write(mutated(samples(), options.seed, options.dump)[1])
        return 0
    began = time.perf_counter()
    ends, failures, worst = fuzz(options.count, options.seed)
    seconds = time.perf_counter() - began
    print(f"{options.count:,} files in {seconds:.0f} s ({options.count / seconds:.0f}/s), seed {options.seed}")
    print("  ".join(f"{end} {number:,}" for end, number in ends.most_common()))
    print(f"slowest {worst['ms']:.0f} ms, resident memory grew by at most {worst['MiB']:.0f} MiB")
    for failure in failures[:50]:
        print("FAILED", failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
