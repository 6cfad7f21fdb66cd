"""Columns that are not ours pass through. In a CSV they are text, unless every cell is a number that keeps its text."""

import pyarrow as pa
import pyarrow.compute as pc

_WHOLE = r"^(0|-?[1-9][0-9]*)$"
_SAFE_WHOLE = r"^(0|-?[1-9][0-9]{0,14})$"  # exact as a double
_SHORTEST = r"^-?(0|[1-9][0-9]*)\.([0-9]*[1-9]|0)$"
_FIXED = r"^-?(0|[1-9][0-9]*)\.[0-9]+$"
_EXACT_LENGTH = 16  # a sign or point and 15 digits: every such decimal survives a double


class NumberGuess:
    """Whether all cells seen so far could be int64 or float64 without two texts becoming one number.

    "007", "+1", "1e3" and "1.10" beside "1.1" stay text: they may be codes.
    "2.50" is a number where all cells have two decimals.
    """

    def __init__(self, decimal: str) -> None:
        self._decimal = decimal
        self._seen = False
        self._whole = self._shortest = self._fixed = True
        self._decimals: int | None = None

    def observe(self, text: pa.Array) -> None:
        """Take a batch of cells into account; nulls say nothing."""
        if not (self._whole or self._shortest or self._fixed) or text.null_count == len(text):
            return
        text = text.drop_null()
        self._seen = True
        if self._decimal != ".":
            if pc.any(pc.match_substring(text, ".")).as_py():
                self._whole = self._shortest = self._fixed = False
                return
            text = pc.replace_substring(text, self._decimal, ".")
        self._whole = self._whole and _all(text, _WHOLE) and _fits_int64(text)
        self._shortest = self._shortest and _all_shortest(text)
        self._fixed = self._fixed and self._same_decimals(text)

    def _same_decimals(self, text: pa.Array) -> bool:
        if not _all(text, _FIXED) or not pc.all(pc.less_equal(pc.utf8_length(text), _EXACT_LENGTH)).as_py():
            return False
        bounds = pc.min_max(pc.subtract(pc.utf8_length(text), pc.find_substring(text, ".")))
        self._decimals = bounds["min"].as_py() if self._decimals is None else self._decimals
        return bool(bounds["min"].as_py() == bounds["max"].as_py() == self._decimals)

    @property
    def kind(self) -> pa.DataType:
        if self._seen and self._whole:
            return pa.int64()
        return pa.float64() if self._seen and (self._shortest or self._fixed) else pa.string()

    def convert(self, text: pa.Array) -> pa.Array:
        """A batch as the type that the whole column allows."""
        kind = self.kind
        if pa.types.is_string(kind):
            return text
        return pc.cast(text if self._decimal == "." else pc.replace_substring(text, self._decimal, "."), kind)


def _all(text: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(text, pattern)).as_py())


def _fits_int64(text: pa.Array) -> bool:
    try:
        pc.cast(text, pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def _all_shortest(text: pa.Array) -> bool:
    """Whether each cell is the shortest text of its number, as Python would print it, or a whole number."""
    plain = pc.and_(pc.match_substring_regex(text, _SHORTEST), pc.less_equal(pc.utf8_length(text), _EXACT_LENGTH))
    rest = text.filter(pc.invert(pc.or_(plain, pc.match_substring_regex(text, _SAFE_WHOLE))))
    return all(map(_prints_back, rest.to_pylist()))


def _prints_back(text: str) -> bool:
    try:
        return repr(float(text)) == text
    except ValueError:
        return False
