"""A token lets in who has it, nobody else, and is needed as soon as others than this machine can ask."""

import hmac
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fahr.errors import Refused
from serve.tokens import Tokens, for_host, means_this_machine, required

GOOD = "b3BlbiBzZXNhbWUgb3BlbiBzZXNhbWU="
OTHER = "YW5vdGhlciB0b2tlbiBvZiBvdXJzLi4u"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST."])
def test_this_machine_alone_needs_no_token(host: str) -> None:
    assert not required(host) and for_host(host, environ={}) is None


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.4", "192.168.1.1", "hospital.example", "localhost.evil.example", "", "1270.0.0.1"]
)
def test_whoever_is_bound_to_be_reached_is_refused_without_a_token(host: str) -> None:
    assert required(host)
    with pytest.raises(Refused, match=r"a token is needed.*127\.0\.0\.1"):
        for_host(host, environ={})
    assert for_host(host, environ={"FAHR_TOKENS": GOOD}) is not None


@pytest.mark.parametrize(
    ("authority", "ours"),
    [
        ("127.0.0.1:8000", True), ("localhost:8000", True), ("[::1]:8000", True), ("[::1]", True), ("localhost", True),
        ("evil.example:8000", False), ("127.0.0.1.evil.example", False), ("null", False), ("", False),
        ("[::2]:80", False), ("localhost@evil.example", False), ("[::1].evil.example", False),
    ],
)  # fmt: skip
def test_only_names_of_this_machine_mean_it(authority: str, ours: bool) -> None:
    assert means_this_machine(authority) is ours


def test_the_header_must_hold_the_whole_token_after_bearer() -> None:
    tokens = Tokens([GOOD, OTHER])
    assert tokens.accept(f"Bearer {GOOD}") and tokens.accept(f"bearer {OTHER}") and tokens.accept(f"Bearer  {GOOD} ")
    altered = [GOOD[:-1], GOOD + "x", f"{GOOD} {OTHER}", f"{GOOD},{OTHER}", GOOD.lower(), ""]
    for wrong in (None, "", "Bearer", GOOD, f"Basic {GOOD}", f"Token {GOOD}", *(f"Bearer {each}" for each in altered)):
        assert not tokens.accept(wrong)


@given(st.text())
def test_no_other_text_is_a_token(text: str) -> None:
    assert not Tokens([GOOD]).accept(f"Bearer {text}") or text.strip() == GOOD


def test_every_token_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    really = hmac.compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        seen.append(right)
        return really(left, right)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    tokens = Tokens([GOOD, OTHER, GOOD[::-1].lstrip("=")])
    for header in (f"Bearer {GOOD}", f"Bearer {OTHER}", "Bearer wrong", None):
        seen.clear()
        tokens.accept(header)
        assert len(seen) == 3


def test_a_file_holds_a_token_a_line_and_notes(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# the old one\n{GOOD}\n\n  {OTHER}  \n")
    tokens = for_host("0.0.0.0", file=file, environ={"FAHR_TOKENS": "never read where a file is named"})
    assert tokens is not None and tokens.accept(f"Bearer {GOOD}") and tokens.accept(f"Bearer {OTHER}")
    assert not tokens.accept("Bearer # the old one")


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("", "there is none"), ("# only a note\n", "there is none"), ("short", "has 5 characters"),
        (f"{GOOD}\n{GOOD} {OTHER}", "token 2: may hold"), ("\u00e4" * 30, "may hold"), (b"\xff" * 30, "not text"),
    ],
)  # fmt: skip
def test_a_file_of_bad_tokens_is_refused_without_telling_them(tmp_path: Path, held: str | bytes, said: str) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(held if isinstance(held, bytes) else held.encode())
    with pytest.raises(Refused, match=said) as caught:
        for_host("127.0.0.1", file=file, environ={})
    assert GOOD not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_even_on_loopback(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        for_host("127.0.0.1", file=tmp_path / "none", environ={"FAHR_TOKENS": GOOD})


def test_the_variable_holds_several_separated_by_commas() -> None:
    tokens = for_host("127.0.0.1", environ={"FAHR_TOKENS": f"{GOOD} , {OTHER},"})
    assert tokens is not None and tokens.accept(f"Bearer {GOOD}") and tokens.accept(f"Bearer {OTHER}")
    assert for_host("127.0.0.1", environ={"FAHR_TOKENS": " "}) is None


def test_neither_text_nor_pickle_tells_a_token() -> None:
    tokens = Tokens([GOOD])
    held = repr(tokens) + repr(vars(tokens)) + repr(pickle.dumps(tokens))
    assert GOOD not in held and GOOD.rstrip("=") not in held
    assert pickle.loads(pickle.dumps(tokens)).accept(f"Bearer {GOOD}")
