"""Files that mean harm, built byte by byte; as a program, what preparing each of them takes.

    python -m tests.app.hostile_files

prints the peak of memory of each, in bytes over what the process had, as a JSON object.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from PIL import Image

__all__ = ["ACCEPTED", "DENSE", "DENSE_PIXELS", "FOREIGN", "REFUSED", "encoded", "noise", "png_of"]

CPU_S = 30  # of the processor, for a file: only what never ends takes as much
JPEG_START = 2  # bytes
CUT = 33  # bytes of a PNG before its second chunk


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(side: int = 16) -> Image.Image:
    return Image.effect_noise((side, side), 90).convert("RGB")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(
    width: int, height: int, rows: bytes, *, depth: int = 8, color: int = 2,
    before: Iterable[bytes] = (), after: Iterable[bytes] = (),
) -> bytes:  # fmt: skip
    """A PNG whose rows begin with their filter byte; chunks before and after its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows, 1))
    parts = (head, *before, pixels, *after, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pixel(before: Iterable[bytes] = (), after: Iterable[bytes] = ()) -> bytes:
    return png_of(1, 1, b"\x00\xff\x00\x00", before=before, after=after)


def inflated(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def gif_of(screen: tuple[int, int], frame: tuple[int, int], frames: int = 1,
           comments: int = 0) -> bytes:  # fmt: skip
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
    one = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\x00"
    return head + b"!\xfe\x01a\x00" * comments + one * frames + b";"


def bmp_of(width: int, height: int, runs: bytes) -> bytes:
    """Of run lengths, in 256 colours."""
    palette = bytes(4 * 256)
    start = 14 + 40 + len(palette)
    fields = (40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    head = b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", *fields) + palette + runs


def tiff_of(
    width: int, height: int, pixels: bytes, *, compression: int = 1, samples: int = 1,
    strips: int = 1, more: Iterable[tuple[int, int, int, int]] = (), following: int = 0,
) -> bytes:  # fmt: skip
    """A gray TIFF. more: further entries (tag, type, count, value). following: where its next
    directory is."""
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression)),
        *((262, 3, 1, 1), (277, 3, 1, samples), (278, 4, 1, -(-height // strips) or 1)),
        *((279, 4, strips, len(pixels)), *more),
    ]
    entries.append((273, 4, strips, 8 + 2 + 12 * (len(entries) + 1) + 4))
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    head = b"II*\x00" + struct.pack("<IH", 8, len(entries))
    return head + packed + struct.pack("<I", following) + pixels


def webp_of(width: int, height: int, flags: int = 0) -> bytes:
    """Of one pixel, under a header of more."""
    small = encoded(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    head = b"VP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + size
    return b"RIFF" + struct.pack("<I", 4 + len(head) + len(small)) + b"WEBP" + head + small


def jpeg_with(*segments: tuple[int, bytes], **options: Any) -> bytes:
    """A JPEG with further segments (marker, content) at its beginning."""
    whole = encoded(noise(), "JPEG", **options)
    added = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
        for marker, content in segments
    )
    return whole[:JPEG_START] + added + whole[JPEG_START:]


def exif_of(entries: int, kind: int, count: int) -> bytes:
    """EXIF whose entries say that they are long."""
    packed = b"".join(struct.pack("<HHII", tag, kind, count, 8) for tag in range(entries))
    head = b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + struct.pack("<H", entries)
    return head + packed + b"\x00\x00\x00\x00"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    return file.getvalue()


SCRIPT = b"<html><script>alert(1)</script></html>"
# 16383 x 16383 pixels, which take long to encode
WEBP_OF_268_MEGAPIXELS = bytes.fromhex(
    "524946461a000000574542505650384c0e0000002ffebfff0f071011fd0f4444ff03"
)

REFUSED: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "PNG of 49 million rows": (lambda: png_of(1, 49_000_000, b"", depth=1, color=0), 413, "65535"),
    "PNG of 49 million columns": (lambda: png_of(49_000_000, 1, b"", depth=1, color=0), 413,
                                  "65535"),
    "PNG, text of 10 MB": (lambda: pixel([chunk(b"zTXt", b"k\x00\x00" + inflated(10**7))]), 422,
                           "MAX_TEXT_CHUNK"),
    "PNG, international text of 10 MB": (
        lambda: pixel([chunk(b"iTXt", b"k\x00\x01\x00\x00\x00" + inflated(10**7))]), 422, "large"),
    "PNG, text of 10 MB behind the pixels": (
        lambda: pixel(after=[chunk(b"zTXt", b"k\x00\x00" + inflated(10**7))]), 422, "large"),
    "PNG, 100 texts of a megabyte": (
        lambda: pixel([chunk(b"zTXt", b"k\x00\x00" + inflated(10**6))] * 100), 422, "text"),
    "PNG, profile of 10 MB": (lambda: pixel([chunk(b"iCCP", b"k\x00\x00" + inflated(10**7))]), 422,
                              "large"),
    "GIF, a huge screen": (lambda: gif_of((65_535, 65_535), (1, 1)), 413, "4294.8 megapixels"),
    "GIF, a frame larger than its screen": (lambda: gif_of((1, 1), (65_535, 65_535)), 413,
                                            "megapixels"),
    "WebP of 268 megapixels": (lambda: WEBP_OF_268_MEGAPIXELS, 413, "268.4 megapixels"),
    "WebP, a header of 3600 megapixels": (lambda: webp_of(60_000, 60_000), 422, "damaged"),
    "WebP, an animation of 3600 megapixels": (lambda: webp_of(60_000, 60_000, 2), 422, "damaged"),
    "BMP, a line of 49 megapixels in a run": (
        lambda: bmp_of(49_000_000, 1, b"\x01\x01\x00\x00\x00\x01"), 413, "65535"),
    "BMP, 49 megapixels in ends of lines": (
        lambda: bmp_of(7000, 7000, b"\x01\x01\x00\x00" * 7000 + b"\x00\x01"), 413, "run lengths"),
    "BMP, run lengths that never begin": (lambda: bmp_of(1000, 1000, b""), 422, "damaged"),
    "TIFF of 400 megapixels": (lambda: tiff_of(20_000, 20_000, inflated(10**7), compression=8),
                               413, "400.0 megapixels"),
    "TIFF of 49 million rows": (lambda: tiff_of(1, 49_000_000, b"", compression=8), 413, "65535"),
    "TIFF without width": (lambda: tiff_of(0, 8, b""), 422, "damaged"),
    "TIFF of 60000 bands": (lambda: tiff_of(8, 8, bytes(64), samples=60_000), 422, "damaged"),
    "TIFF whose strips are not there": (
        lambda: tiff_of(8, 8, bytes(64), compression=8, strips=2_000_000), 422, "damaged"),
    "HTML called a JPEG": (lambda: b"\xff\xd8" + SCRIPT, 415, "not a picture"),
}  # fmt: skip
"""Name: (file, status, what the refusal says)."""

ACCEPTED: dict[str, Callable[[], bytes]] = {
    "PNG, pixels of 10 MB for one": lambda: png_of(1, 1, bytes(10**7)),
    "PNG, 100 000 texts": lambda: pixel([chunk(b"tEXt", b"k\x00v")] * 100_000),
    "PNG in 100 000 parts": lambda: pixel([chunk(b"IDAT", b"")] * 100_000),
    "PNG, an animation of 2 billion frames": lambda: pixel(
        [chunk(b"acTL", struct.pack(">II", 2**31, 0))]
    ),
    "PNG, EXIF of 200 KB": lambda: with_exif(
        b"II*\x00\x08\x00\x00\x00" + struct.pack("<HHHII", 1, 270, 2, 200_000, 26) + bytes(200_004)
    ),
    "PNG, EXIF that contains itself": lambda: with_exif(
        b"II*\x00\x08\x00\x00\x00" + struct.pack("<HHHII", 1, 34665, 4, 1, 8) + bytes(4)
    ),
    "GIF of a million frames": lambda: gif_of((1, 1), (1, 1), 1_000_000),
    "GIF of a million comments": lambda: gif_of((1, 1), (1, 1), comments=1_000_000),
    "JPEG, a restart at each block": lambda: encoded(noise(256), "JPEG", restart_marker_blocks=1),
    "JPEG, EXIF of 5000 endless entries": lambda: jpeg_with((0xE1, exif_of(5000, 4, 2**28))),
    "JPEG, 300 times EXIF": lambda: jpeg_with(*[(0xE1, exif_of(5000, 2, 4))] * 300),
    "JPEG, a profile of 16 MB": lambda: jpeg_with(
        *[(0xE2, b"ICC_PROFILE\x00\x01\x01" + bytes(65_000))] * 255
    ),
    "JPEG, a comment of 64 KB": lambda: jpeg_with((0xFE, bytes(65_500))),
    "TIFF whose next directory is itself": lambda: tiff_of(8, 8, bytes(64), following=8),
    "TIFF whose EXIF is itself": lambda: tiff_of(8, 8, bytes(64), more=[(34665, 4, 1, 8)]),
    "TIFF that is inside itself": lambda: tiff_of(8, 8, bytes(64), more=[(330, 4, 1, 8)]),
    "TIFF, an endless description": lambda: tiff_of(8, 8, bytes(64), more=[(270, 2, 2**32 - 1, 8)]),
    "TIFF, a strip of 10 MB for 64 pixels": lambda: tiff_of(8, 8, inflated(10**7), compression=8),
    "PNG and a zip archive": lambda: encoded(noise(), "PNG") + zipped(),
    "JPEG and a page": lambda: jpeg_with((0xFE, SCRIPT)) + SCRIPT,
    "GIF and a script": lambda: encoded(noise(), "GIF", comment=SCRIPT)[:-1] + b";*/=1;alert(1)",
}
"""Name: a file that looks worse than it is, or has more in it than a picture."""

FOREIGN: dict[str, tuple[Callable[[], bytes], str]] = {
    "HEIC": (lambda: b"\x00\x00\x00\x18ftypheic" + bytes(100), "HEIC"),
    "AVIF": (lambda: encoded(noise(), "AVIF"), "AVIF"),
    "ICO": (lambda: encoded(noise(), "ICO"), "ICO"),
    "PDF": (lambda: encoded(noise(), "PDF"), "PDF"),
    "EPS": (lambda: encoded(noise(), "EPS"), "PostScript"),
    "PSD": (lambda: b"8BPS" + bytes(100), "PSD"),
    "JPEG 2000": (lambda: encoded(noise(), "JPEG2000"), "JPEG 2000"),
    "SVG": (lambda: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "a page": (lambda: b"\n<!DOCTYPE html><p>404", "HTML"),
    "gzip": (lambda: b"\x1f\x8b" + bytes(100), "gzip"),
    "a video": (lambda: b"\x00\x00\x00\x18ftypmp42" + bytes(100), "a video"),
    "text": (lambda: b"cat.jpg", "not a picture"),
}
"""Name: (file of another kind, what the refusal calls it)."""

DENSE_PIXELS = 3000 * 4000
DENSE: dict[str, Callable[[], bytes]] = {
    "PNG of 64 bits a pixel": lambda: png_of(4000, 3000, bytes((4000 * 8 + 1) * 3000), depth=16,
                                             color=6),
    "PNG, interlaced palette": lambda: encoded(Image.new("P", (4000, 3000)), "PNG"),
    "JPEG, progressive CMYK": lambda: encoded(Image.new("CMYK", (4000, 3000)), "JPEG",
                                              progressive=True),
    "GIF": lambda: encoded(Image.new("P", (4000, 3000)), "GIF"),
    "WebP": lambda: encoded(Image.new("RGBA", (4000, 3000)), "WEBP", lossless=True, quality=0,
                            method=0),
    "TIFF, CMYK": lambda: encoded(Image.new("CMYK", (4000, 3000)), "TIFF", compression="tiff_lzw"),
    "a column of 65535 pixels": lambda: png_of(1, 65_535, b"\x00abc" * 65_535),
}  # fmt: skip
"""Name: a small file of 12 megapixels."""


def with_exif(exif: bytes) -> bytes:
    """A PNG that is too large to be kept as it is."""
    plain = encoded(noise(500), "PNG")
    return plain[:CUT] + chunk(b"eXIf", exif) + plain[CUT:]


def main() -> None:
    from app.documents import Upload
    from app.inputs import prepare
    from camserve.contracts.input_specs import PictureSpec
    from camserve.errors import RequestError
    from camserve.settings import Settings

    warnings.simplefilter("ignore")
    peaks = {}
    cases = {name: make for name, (make, *_) in (REFUSED | FOREIGN).items()} | ACCEPTED | DENSE
    for name, make in cases.items():
        data = make()
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
            begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with contextlib.suppress(RequestError):
                prepare(Upload(data), PictureSpec(height=16, width=16), Settings())
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun
            os.write(writing, str(grown * 1024).encode())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        os.close(writing)
        peaks[name] = int(os.read(reading, 100)) if status == 0 else None
        os.close(reading)
    json.dump(peaks, sys.stdout)


if __name__ == "__main__":
    main()
