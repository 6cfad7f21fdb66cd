"""A photo comes out whole, upright and in the right colours, or it is refused by one exception with one sentence."""

import pickle
import struct
import subprocess
import sys
import threading
import time
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from fahr.images import Limits, Photo, Unreadable, decode, read_header
from fuzz_images import encode, exif_of, peak_kib, picture, samples

SAMPLES = samples()
FUZZ = Path(__file__).with_name("fuzz_images.py")


def refusal(data: bytes, limits: Limits | None = None) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        decode(data, limits=limits or Limits())
    assert caught.value.reason in ("unreadable", "too_large") and caught.value.detail.endswith(".")
    return caught.value


def difference(photo: Photo, expected: Image.Image) -> int:
    wanted = np.asarray(expected.convert("RGB")).astype(int)
    assert photo.pixels.shape == wanted.shape and photo.pixels.flags.c_contiguous and photo.pixels.dtype == np.uint8
    return int(abs(photo.pixels - wanted).max())


def wide_gamut() -> bytes:
    """An RGB profile with the primaries of Display P3: sRGB with three other colorants."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    p3 = {
        b"rXYZ": (0.51512, 0.2412, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.1571, 0.06657, 0.78407),
    }
    for number in range(int.from_bytes(profile[128:132])):
        name, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if name in p3:
            struct.pack_into(">3i", profile, offset + 8, *(round(value * 65536) for value in p3[name]))
    return bytes(profile)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_is_applied_exactly_once(name: str, orientation: int) -> None:
    data = encode(picture(), name, exif=exif_of(orientation))
    photo, header = decode(data), read_header(data)
    assert difference(photo, ImageOps.exif_transpose(Image.open(BytesIO(data)))) == 0
    assert (header.width, header.height, header.orientation) == (96, 72, orientation)
    assert (photo.width, photo.height) == ((72, 96) if orientation >= 5 else (96, 72))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heif_is_turned_by_its_container_and_not_again_by_exif(orientation: int) -> None:
    upright = ImageOps.exif_transpose(Image.open(BytesIO(encode(picture(), "PNG", exif=exif_of(orientation)))))
    photo = decode(encode(picture(), "HEIF", exif=exif_of(orientation), quality=95, chroma=444))
    assert photo.pixels.shape == (upright.height, upright.width, 3)
    assert abs(photo.pixels - np.asarray(upright).astype(int)).mean() < 4


@pytest.mark.parametrize("kind", [k for k in SAMPLES if not k.startswith(("heif", "png_deep", "tiff_deep"))])
def test_every_format_equals_pillow(kind: str) -> None:
    im = ImageOps.exif_transpose(Image.open(BytesIO(SAMPLES[kind])))
    if im.mode in ("RGBA", "LA") or "transparency" in im.info:
        im = Image.alpha_composite(Image.new("RGBA", im.size, "white"), im.convert("RGBA"))
    assert difference(decode(SAMPLES[kind]), im) <= 1


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"subsampling": 0}, {"quality": 20}, {"restart_marker_rows": 1}]
)
def test_jpeg_variants_equal_pillow_in_colour_grey_and_cmyk(options: dict[str, object]) -> None:
    for mode in ("RGB", "L", "CMYK"):
        data = encode(picture(101, 67).convert(mode), "JPEG", **options)
        assert difference(decode(data), Image.open(BytesIO(data))) <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 65535), min_size=12, max_size=12), st.sampled_from(["PNG", "TIFF"]))
def test_sixteen_bit_grey_is_scaled_by_257_and_rounded(values: list[int], name: str) -> None:
    deep = np.array(values, np.uint16).reshape(3, 4)
    expected = np.floor(deep / 257 + 0.5).astype(int)
    pixels = decode(encode(Image.fromarray(deep), name)).pixels
    assert (pixels == expected[:, :, None]).all()


def test_sixteen_bit_colour_is_within_one_level() -> None:
    cv2 = pytest.importorskip("cv2")
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    for extension in (".png", ".tiff"):
        data = cv2.imencode(extension, deep)[1].tobytes()
        assert abs(decode(data).pixels[:, :, ::-1] - deep / 257).max() <= 1.01


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_colours_hidden_under_alpha_0_become_white(name: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 30, 4)).astype(np.uint8)
    noise[:20, :, 3], noise[20:, :, 3] = 0, 255
    pixels = decode(encode(Image.fromarray(noise), name, **({"lossless": True} if name == "WEBP" else {}))).pixels
    assert (pixels[:20] == 255).all() and (pixels[20:] == noise[20:, :, :3]).all()


def test_partial_alpha_is_mixed_with_white() -> None:
    rgba = np.random.default_rng(2).integers(0, 256, (40, 30, 4)).astype(np.uint8)
    alpha = rgba[:, :, 3:] / 255
    assert (
        abs(decode(encode(Image.fromarray(rgba), "PNG")).pixels - (rgba[:, :, :3] * alpha + 255 * (1 - alpha))).max()
        <= 1
    )


@pytest.mark.parametrize("name", ["PNG", "GIF"])
def test_transparent_palette_entry_becomes_white(name: str) -> None:
    im = picture().quantize(16)
    pixels = decode(encode(im, name, transparency=3)).pixels
    clear = np.asarray(im) == 3
    assert clear.any() and (pixels[clear] == 255).all()
    assert (pixels[~clear] == np.asarray(im.convert("RGB"))[~clear]).all()


def test_transparent_grey_value_becomes_white_at_8_and_16_bits() -> None:
    for grey in (np.arange(100, dtype=np.uint8), np.arange(100, dtype=np.uint16) * 600):
        pixels = decode(encode(Image.fromarray(grey.reshape(10, 10)), "PNG", transparency=int(grey[42]))).pixels
        assert (pixels[4, 2] == 255).all() and (pixels[4, 3] < 150).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_with_few_bits_equals_pillow(bits: int) -> None:
    im = picture().quantize(2**bits)
    assert difference(decode(encode(im, "PNG", bits=bits)), im) == 0


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_tiff_compressions_and_pages_give_the_first_page(compression: str | None) -> None:
    data = encode(picture(), "TIFF", compression=compression, append_images=[picture(seed=5)])
    assert difference(decode(data), picture()) <= (40 if compression == "jpeg" else 0)


def test_animations_give_their_first_frame() -> None:
    for name, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {})):
        first = picture().convert("P" if name == "GIF" else "RGB")
        data = encode(first, name, append_images=[picture(seed=5)], **options)
        assert difference(decode(data), first) == 0


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_wide_gamut_profile_is_converted_to_srgb(name: str) -> None:
    icc, options = wide_gamut(), {"lossless": True} if name == "WEBP" else {}
    plain = np.asarray(Image.open(BytesIO(encode(picture(), name, **options))).convert("RGB")).astype(int)
    expected = ImageCms.profileToProfile(
        Image.fromarray(plain.astype(np.uint8)), ImageCms.ImageCmsProfile(BytesIO(icc)), ImageCms.createProfile("sRGB")
    )
    photo = decode(encode(picture(), name, icc_profile=icc, **options))
    assert expected is not None and difference(photo, expected) <= 1
    assert abs(photo.pixels - plain).max() > 15


def test_srgb_broken_and_foreign_profiles_leave_the_pixels_alone() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for name in ("JPEG", "PNG"):
        plain = decode(encode(picture(), name)).pixels
        for icc in (srgb, lab, b"no profile at all", srgb[:200], b"\xff" * 400):
            assert (decode(encode(picture(), name, icc_profile=icc)).pixels == plain).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_corrupt_exif_does_not_cost_the_picture(name: str) -> None:
    plain = decode(encode(picture(), name)).pixels
    far_away = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 34665, 4, 1, 0x7FFFFFF0) + b"\0\0\0\0"
    endless = b"MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 300
    for exif in (b"garbage", b"", b"II*\0\xff\xff\xff\xff", far_away, endless):
        assert (decode(encode(picture(), name, exif=b"Exif\0\0" + exif)).pixels == plain).all()


def test_corrupt_directory_of_the_camera_does_not_cost_a_tiff() -> None:
    maker, camera = struct.pack("<HHI", 271, 2, 9), struct.pack("<HHI", 34665, 4, 1)
    assert maker in SAMPLES["tiff"]
    damaged = SAMPLES["tiff"].replace(maker, camera)  # its directory is now in the middle of a text
    assert (decode(damaged).pixels == decode(SAMPLES["tiff"]).pixels).all()


def test_wrong_checksum_refuses_pixels_and_forgives_notes() -> None:
    data = encode(picture(), "PNG", exif=exif_of(6))
    note, idat = data.find(b"eXIf"), data.find(b"IDAT")
    assert decode(data[: note + 10] + b"?" + data[note + 11 :]).width == 96
    assert "checksum" in refusal(data[: idat + 900] + b"?" + data[idat + 901 :]).detail


@pytest.mark.parametrize("kind", sorted(SAMPLES))
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about directories that end early
def test_a_file_cut_anywhere_is_refused_or_complete(kind: str) -> None:
    data, whole = SAMPLES[kind], decode(SAMPLES[kind]).pixels
    cuts = {*range(0, 64), *range(64, len(data), max(1, len(data) // 60)), *range(len(data) - 12, len(data))}
    for cut in cuts:
        try:
            photo = decode(data[:cut])
        except Unreadable as refused:
            assert refused.reason == "unreadable"
        else:  # only what comes after the first picture may be missing
            assert kind in ("mpo", "gif_animated", "tiff_pages"), cut
            assert (photo.pixels == whole).all()


@pytest.mark.parametrize("kind", ["jpeg", "jpeg_progressive", "png", "webp", "heif", "tiff", "gif", "bmp"])
def test_the_message_of_a_cut_file_says_truncated(kind: str) -> None:
    assert "truncated" in refusal(SAMPLES[kind][: len(SAMPLES[kind]) * 2 // 3]).detail
    assert refusal(SAMPLES[kind][: len(SAMPLES[kind]) * 2 // 3]).is_image


def test_truncated_jpeg_is_refused_and_never_half_grey() -> None:
    for mode in ("RGB", "L", "CMYK"):
        data = encode(picture(640, 480).convert(mode), "JPEG", quality=90)
        for share in (0.2, 0.5, 0.8, 0.95):
            cut = data[: int(len(data) * share)]
            assert "truncated" in refusal(cut).detail
            assert "truncated" in refusal(cut + b"\xff\xd9").detail  # an end marker glued on by a repair tool


def test_the_end_marker_of_an_exif_thumbnail_is_not_the_end() -> None:
    thumbnail = encode(picture(32, 24), "JPEG")
    exif = exif_of(1) + thumbnail
    data = encode(picture(), "JPEG", exif=exif)
    assert data.count(b"\xff\xd9") >= 2 and decode(data).width == 96
    assert "truncated" in refusal(data[:-2]).detail


def test_a_photo_with_a_flat_white_border_is_not_called_truncated() -> None:
    for value in (255, 0, 128):
        framed = ImageOps.expand(picture(), 40, (value, value, value))
        for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
            assert decode(encode(framed, "JPEG", **options)).width == 176
        flat = Image.new("RGB", (64, 64), (value, value, value))
        assert decode(encode(flat, "JPEG")).width == 64


def bombs() -> dict[str, bytes]:
    png = bytearray(SAMPLES["png"])
    struct.pack_into(">II", png, 16, 40_000, 40_000)
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4)
    gif = (
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\0\0,\0\0\0\0"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\x08\0;"
    )
    webp = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (39_999).to_bytes(3, "little") * 2
    bmp = bytearray(SAMPLES["bmp"])
    struct.pack_into("<ii", bmp, 18, 40_000, 40_000)
    tiff = SAMPLES["tiff_cmyk"]
    for tag, side in ((256, 96), (257, 72)):
        tiff = tiff.replace(struct.pack("<HHIHH", tag, 3, 1, side, 0), struct.pack("<HHIHH", tag, 3, 1, 40_000, 0))
    jpeg = bytearray(SAMPLES["jpeg"])
    struct.pack_into(">HH", jpeg, jpeg.find(b"\xff\xc0") + 5, 65_000, 65_000)
    return {"png": bytes(png), "gif": gif, "webp": webp, "bmp": bytes(bmp), "tiff": tiff, "jpeg": bytes(jpeg)}


@pytest.mark.parametrize("kind", sorted(bombs()))
def test_a_decompression_bomb_is_refused_by_its_header(kind: str) -> None:
    data = bombs()[kind]
    Path("/proc/self/clear_refs").write_text("5")  # the maximum starts anew from what is resident now
    before, began = peak_kib(), time.perf_counter()
    refused = refusal(data)
    assert refused.reason == "too_large" and "smaller" in refused.detail, refused.detail
    with pytest.raises(Unreadable):
        read_header(data)
    assert time.perf_counter() - began < 0.5
    assert peak_kib() - before < 32 * 1024


def test_limits_on_bytes_and_pixels_name_both_numbers() -> None:
    data = SAMPLES["png"]
    assert (
        "1,000" in refusal(data, Limits(max_bytes=1000)).detail
        and f"{len(data):,}" in refusal(data, Limits(1000)).detail
    )
    assert "6,911" in refusal(data, Limits(max_pixels=6911)).detail
    assert decode(data, limits=Limits(len(data), 96 * 72)).width == 72  # stored 96 x 72, orientation 8


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\xff", b"hello, world", b"<html>", b"PK\3\4" + b"\0" * 60, b"%PDF-1.7", b"%!PS"]
)
def test_what_is_no_image_is_told_apart_from_a_damaged_one(data: bytes) -> None:
    assert refusal(data).is_image is False and refusal(data).reason == "unreadable"
    assert refusal(SAMPLES["png"][:100]).is_image is True


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["", *sorted(SAMPLES)]))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_arbitrary_bytes_raise_unreadable_and_nothing_else(tail: bytes, kind: str) -> None:
    head = SAMPLES[kind][:40] if kind else b""
    refusal(head + tail)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_white_are_refused_with_the_remedy(mode: str) -> None:
    assert "8-bit" in refusal(encode(picture().convert("L").convert(mode), "TIFF")).detail


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    ("shortest", "by"), [(None, 1), (483, 1), (242, 2), (243, 1), (121, 4), (61, 8), (62, 4), (1, 8)]
)
def test_reduced_decode_keeps_the_shortest_side(mode: str, shortest: int | None, by: int) -> None:
    data = encode(picture(641, 483).convert(mode), "JPEG", exif=exif_of(6))
    photo = decode(data, shortest_side=shortest)
    assert photo.pixels.shape == (-(-641 // by), -(-483 // by), 3) and (photo.width, photo.height) == (483, 641)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_coordinates_of_a_reduced_decode_map_back_to_the_original(orientation: int) -> None:
    canvas: NDArray[np.uint8] = np.zeros((483, 641, 3), np.uint8)
    canvas[300:332, 200:232] = 255
    data = encode(Image.fromarray(canvas), "JPEG", exif=exif_of(orientation), quality=95)
    centres = []
    for photo in (decode(data), decode(data, shortest_side=60)):
        y, x = (axis.mean() + 0.5 for axis in np.nonzero(photo.pixels[:, :, 0] > 128))
        centres.append((x * photo.width / photo.pixels.shape[1], y * photo.height / photo.pixels.shape[0]))
    assert abs(np.subtract(*centres)).max() < 8  # one pixel of the reduced picture


def test_reduction_leaves_other_formats_alone() -> None:
    assert decode(SAMPLES["png_alpha"], shortest_side=10).pixels.shape == (72, 96, 3)


def test_unreadable_survives_the_trip_between_processes() -> None:
    refused = refusal(b"text")
    again = pickle.loads(pickle.dumps(refused))
    assert (again.reason, again.detail, again.is_image) == (refused.reason, refused.detail, False) and str(again)


def test_many_threads_decode_the_same_pixels() -> None:
    expected = {kind: decode(data).pixels for kind, data in SAMPLES.items()}
    wrong: list[str] = []

    def work() -> None:
        for kind, data in SAMPLES.items():
            if not np.array_equal(decode(data).pixels, expected[kind]):
                wrong.append(kind)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def run_fuzz(count: int, seed: int) -> str:
    command = [sys.executable, str(FUZZ), "--count", str(count), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_thousand_damaged_files_end_in_a_photo_or_a_refusal() -> None:
    assert "photo" in run_fuzz(2000, seed=1)


@pytest.mark.evidence
def test_a_hundred_thousand_damaged_files_end_in_a_photo_or_a_refusal() -> None:
    run_fuzz(100_000, seed=20261120)
