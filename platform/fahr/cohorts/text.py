"""The bytes of a CSV as checked UTF-8: another encoding, a byte-order mark or a NUL is refused with its line."""

import codecs
from typing import IO

from fahr.cohorts.problems import ManifestError, refusal

_BLOCK = 1 << 20
_END = 64  # characters
_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}


class CheckedText:
    """A readable binary file for pyarrow. Checks and transcodes a block at a time, so that no line is ever lost."""

    def __init__(self, file: IO[bytes], location: str, encoding: str) -> None:
        self._file = file
        self._location = location
        self._encoding = encoding
        self._is_utf8 = codecs.lookup(encoding).name == "utf-8"
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._lines = 0  # complete ones before the block at hand
        self._started = False
        self.end = b""  # the last characters read
        self._ended = False

    closed = False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        while not self._ended and (size < 0 or len(self._ready) < size):
            self._ready += self._next_block()
        size = len(self._ready) if size < 0 else size
        piece, self._ready = self._ready[:size], self._ready[size:]
        return piece

    def _next_block(self) -> bytes:
        block = self._file.read(_BLOCK)
        if not self._started and self._is_utf8:
            self._check_start(block)
        self._started = True
        self._ended = not block
        checked = self._checked(block)
        if b"\0" in checked:
            raise refusal(
                self._location,
                f"line {self._line(checked[: checked.index(0)]):,} holds a NUL byte, which no text has",
                "Export the table again; if it is UTF-16, give `encoding: utf-16` in the column mapping.",
            )
        self._lines += checked.count(b"\n")
        self.end = (self.end + checked[-_END:])[-_END:]
        if self._ended and self.end and not self.end.endswith(b"\n"):
            checked += b"\n"  # Arrow cannot skip a header that ends without one
        return checked

    def _checked(self, block: bytes) -> bytes:
        """The block as UTF-8. Plain ASCII, most of most tables, is passed on without being decoded."""
        if self._is_utf8 and not self._ended and block.isascii() and not self._decoder.getstate()[0]:
            return block
        try:
            return self._decoder.decode(block, final=self._ended).encode()
        except UnicodeDecodeError as error:
            before, byte = error.object[: error.start], error.object[error.start]
            raise self._not_text(self._line(before), f" (byte 0x{byte:02x})") from error
        except UnicodeError as error:  # such as UTF-16 without its byte-order mark
            raise self._not_text(self._lines + 1, f" ({error})") from error

    def _line(self, before: bytes) -> int:
        return self._lines + before.count(b"\n") + 1

    def _not_text(self, line: int, detail: str) -> ManifestError:
        return refusal(
            self._location,
            f"line {line:,} is not {self._encoding} text{detail}",
            "Save the table as UTF-8, or give its `encoding:` (latin-1, cp1252, utf-16, ...) in the column mapping.",
        )

    def _check_start(self, block: bytes) -> None:
        for mark, encoding in _BYTE_ORDER_MARKS.items():
            if block.startswith(mark):
                raise refusal(
                    self._location,
                    f"the file starts with the byte-order mark of {encoding.removesuffix('-sig').upper()}",
                    f"Save it as UTF-8 without one, or give `encoding: {encoding}` in the column mapping.",
                )
