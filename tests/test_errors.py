"""The three errors, their words and their paths; and what the source of the package may not contain."""

from __future__ import annotations

import ast
import copy
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import matrix_e2e_keys
from json_strategies import any_text, modest, wild_values
from matrix_e2e_keys import E2EKeysError, LocalProtocolError, Reason, RemoteProtocolError, VerificationError
from matrix_e2e_keys.errors import Refusal, json_pointer, printable, quoted, shown

KINDS = [LocalProtocolError, RemoteProtocolError, VerificationError]


@pytest.mark.parametrize(
    ("reason", "errcode", "status"),
    [
        (Reason.WRONG_TYPE, "M_BAD_JSON", 400),
        (Reason.TOO_LARGE, "M_TOO_LARGE", 413),
        (Reason.UNRECOGNIZED_ENDPOINT, "M_UNRECOGNIZED", 404),
    ],
)
def test_an_answer_is_nobodys_fault_who_asks(reason: Reason, errcode: str, status: int) -> None:
    error = RemoteProtocolError(reason, "x", path="/a")
    assert (error.in_answer, error.errcode, error.http_status) == (False, errcode, status)
    error.in_answer = True
    copies = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for again in (error, copy.copy(error), copy.deepcopy(error), *copies):
        assert type(again) is RemoteProtocolError
        assert (again.in_answer, again.errcode, again.http_status) == (True, "M_UNKNOWN", 502)
        assert (again.reason, again.detail, again.path) == (reason, "x", "/a")
    assert RemoteProtocolError(reason, "x").in_answer is False


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_why_and_where(kind: type[E2EKeysError]) -> None:
    error = kind(Reason.WRONG_TYPE, "it is wrong", path="/a/0")
    assert (error.reason, error.detail, error.path) == (Reason.WRONG_TYPE, "it is wrong", "/a/0")
    assert str(error) == "it is wrong [wrong-type at /a/0]"
    assert str(kind(Reason.WRONG_TYPE, "it is wrong")) == "it is wrong [wrong-type]"
    assert isinstance(error, E2EKeysError)
    assert not any(isinstance(error, other) for other in KINDS if other is not kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_cross_process_boundaries(kind: type[E2EKeysError], protocol: int) -> None:
    error = kind(Reason.TOO_DEEP, "too deep", path="/x")
    for again in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert (again.reason, again.detail, again.path) == (Reason.TOO_DEEP, "too deep", "/x")
        assert again.args == error.args


ANSWERS = {
    Reason.NOT_JSON: ("M_NOT_JSON", 400),
    Reason.NOT_UTF8: ("M_NOT_JSON", 400),
    Reason.TOO_LARGE: ("M_TOO_LARGE", 413),
    Reason.INVALID_IDENTIFIER: ("M_INVALID_PARAM", 400),
    Reason.INVALID_ENCODING: ("M_INVALID_PARAM", 400),
    Reason.REPEATED_PARAMETER: ("M_INVALID_PARAM", 400),
    Reason.MISSING_PARAMETER: ("M_MISSING_PARAM", 400),
    Reason.UNRECOGNIZED_ENDPOINT: ("M_UNRECOGNIZED", 404),
    Reason.WRONG_METHOD: ("M_UNRECOGNIZED", 405),
}


@pytest.mark.parametrize("reason", Reason)
def test_what_a_homeserver_answers(reason: Reason) -> None:
    error = RemoteProtocolError(reason, "")
    assert (error.errcode, error.http_status) == ANSWERS.get(reason, ("M_BAD_JSON", 400))


def test_reasons_are_stable_words() -> None:
    for reason in Reason:
        assert reason == reason.name.lower().replace("_", "-") == f"{reason}"


def test_a_refusal_becomes_an_error_at_its_place() -> None:
    refusal = Refusal(Reason.INVALID_VALUE, "no", "b/c", 1)
    error = refusal.to_error(RemoteProtocolError, "a", "~")
    assert type(error) is RemoteProtocolError
    assert (error.reason, error.detail, error.path) == (Reason.INVALID_VALUE, "no", "/a/~0/b~1c/1")
    assert refusal.to_error(VerificationError).path == "/b~1c/1"
    assert not isinstance(refusal, E2EKeysError)


POINTERS = {
    "the whole": ((), ""),
    "a name": (("a",), "/a"),
    "an index": (("a", 0), "/a/0"),
    "the empty name": (("",), "/"),
    "two empty names": (("", ""), "//"),
    "a slash": (("a/b",), "/a~1b"),
    "a tilde": (("m~n",), "/m~0n"),
    "what looks escaped": (("~1",), "/~01"),
    "a base64 key": (("keys", "ed25519:a/b+c"), "/keys/ed25519:a~1b+c"),
    "a space": ((" ",), "/ "),
    "not ASCII": (("é😀",), "/é😀"),
    "a lone surrogate": (("\ud800x",), "/\\ud800x"),
}


@pytest.mark.parametrize(("segments", "pointer"), POINTERS.values(), ids=POINTERS.keys())
def test_json_pointers(segments: tuple[str | int, ...], pointer: str) -> None:
    assert json_pointer(segments) == pointer
    assert json_pointer(iter(segments)) == pointer


@modest
@given(st.lists(st.text(max_size=6) | st.integers(0, 99), max_size=5))
def test_pointers_can_be_read_back(segments: list[str | int]) -> None:
    parts = json_pointer(segments).split("/")[1:]
    assert [part.replace("~1", "/").replace("~0", "~") for part in parts] == [str(segment) for segment in segments]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Büro 7 \u6771", "Büro 7 \u6771"),
        ("a\nb\tc\x00", "a\\nb\\tc\\x00"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("a\u2028b\xa0", "a\\u2028b\\xa0"),
        ("\ud800\U000e0041", "\\ud800\\U000e0041"),
        ("", ""),
    ],
)
def test_text_of_anybody_is_shown_without_what_cannot_be_seen(text: str, expected: str) -> None:
    assert shown(text) == expected


@modest
@given(any_text)
def test_text_of_anybody_can_be_shown(text: str) -> None:
    it = shown(text)
    assert it.isprintable()
    it.encode()
    assert shown(it) == it


@modest
@given(any_text)
def test_printable_text_can_be_encoded(text: str) -> None:
    shown = printable(text)
    shown.encode()
    try:
        text.encode()
    except UnicodeEncodeError:
        assert re.search(r"\\ud[89a-f]", shown)
    else:
        assert shown == text


QUOTES = {
    "text": ("a", "'a'"),
    "a quote": ("it's", '"it\'s"'),
    "a lone surrogate": ("\ud800", r"'\ud800'"),
    "a control character": ("\x00\n", r"'\x00\n'"),
    "a bidirectional override": ("\u202e", r"'\u202e'"),
    "as long as allowed": ("x" * 64, "'" + "x" * 64 + "'"),
    "one longer": ("x" * 65, "'" + "x" * 63 + "…"),
    "a megabyte": ("x" * 10**6, "'" + "x" * 63 + "…"),
    "many escapes": ("\x00" * 64, ("'" + r"\x00" * 64)[:64] + "…"),
    "a number": (5, "<int>"),
    "nothing": (None, "<NoneType>"),
    "a list": ([1] * 100, "<list>"),
    "a huge number": (10**5000, "<int>"),
    "bytes": (b"secret", "<bytes>"),
}


@pytest.mark.parametrize(("value", "shown"), QUOTES.values(), ids=QUOTES.keys())
def test_quoting(value: object, shown: str) -> None:
    assert quoted(value) == shown


def test_quoting_with_another_limit() -> None:
    assert quoted("abcdef", limit=6) == "'abcdef'"
    assert quoted("abcdef", limit=5) == "'abcd…"


@modest
@given(wild_values | st.just(10**5000))
def test_anything_can_be_quoted(value: Any) -> None:
    """attack 8: an integer too long to convert included."""
    assert len(quoted(value).encode()) <= 4 * 70


# -- attack 16: the source -------------------------------------------------------------------------------------

PACKAGE = Path(matrix_e2e_keys.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
COMMAND_LINE = {"cli.py", "__main__.py"}

SUSPECT = re.compile(
    r"skip|bypass|insecure|unsafe|fuzz|debug|no_?verif|dont_?verif|without_verif|disable|allow_invalid|trust_all"
)
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "__debug__", "flags", "_xoptions", "settrace"}
FOREIGN_STATE = {"os", "sys", "warnings", "logging", "importlib", "builtins"}


def faults(source: str, *, command_line: bool = False) -> list[str]:
    """Return what in ``source`` could turn a check off: asserts, the environment, switches, swallowed errors."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        match node:
            case ast.Assert():
                found.append("assert")
            case ast.ExceptHandler(type=None):
                found.append("bare except")
            case ast.ExceptHandler(type=ast.Name(id="Exception" | "BaseException"), body=body):
                # What is raised again is not swallowed, whatever it was.
                if not all(isinstance(it, ast.Assign | ast.Raise) for it in body) or not isinstance(
                    body[-1], ast.Raise
                ):
                    found.append("broad except")
            case ast.Import():
                names = [] if command_line else [alias.name for alias in node.names]
            case ast.ImportFrom():
                names = [] if command_line else [str(node.module)]
                found += [alias.name for alias in node.names if alias.name in ENVIRONMENT]
            case ast.Attribute(attr=name) if name in ENVIRONMENT:
                found.append(name)
            case ast.Name(id=name) if name in ENVIRONMENT | {"eval", "exec", "__import__"}:
                found.append(name)
            case ast.arg(arg=name) | ast.keyword(arg=str(name)) if SUSPECT.search(name):
                found.append(name)
            case ast.Call(func=function, keywords=keywords) if ast.unparse(function) != "zip":
                found += [word.arg for word in keywords if word.arg == "strict" and ast.unparse(word.value) == "False"]
            case ast.arg(arg=name, annotation=ast.Name(id="bool")) if re.search(r"verif|check|valid", name):
                found.append(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) if SUSPECT.search(name.lower()):
                found.append(name)
        found += [name for name in names if name.split(".")[0] in FOREIGN_STATE]
    return found


@pytest.mark.parametrize("module", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES])
def test_nothing_in_the_source_can_turn_a_check_off(module: Path) -> None:
    """attack 16: no assert, no environment, no flag."""
    if module.parts[len(PACKAGE.parts)] == "testing":
        pytest.skip("for tests of others; verifies nothing itself")
    assert faults(module.read_text(encoding="utf-8"), command_line=module.name in COMMAND_LINE) == []


def test_the_whole_package_is_searched() -> None:
    names = {str(path.relative_to(PACKAGE)) for path in MODULES}
    assert {
        "__init__.py",
        "keys.py",
        "signing/verifiers.py",
        "signing/signed_json.py",
        "client/queries/query.py",
    } <= names


BAD_SOURCES = {
    "an assert": "assert signature",
    "the environment": "import os\nif os.environ.get('X'): pass",
    "the environment by name": "from os import getenv",
    "an imported module": "import os.path",
    "a debug switch": "if __debug__: check()",
    "interpreter flags": "x.flags.optimize",
    "a parameter": "def verify(*, skip_signature=False): pass",
    "a boolean parameter": "def read(*, verify: bool): pass",
    "a keyword": "load(data, strict=False)",
    "a function": "def verify_unsafe(): pass",
    "a class": "class InsecureVerifier: pass",
    "a bare except": "try: x()\nexcept: pass",
    "a broad except": "try: x()\nexcept Exception: pass",
    "a broad except that raises now and then": "try: x()\nexcept Exception:\n    if y: z()\n    raise",
    "evaluated text": "eval('x')",
}


@pytest.mark.parametrize("source", BAD_SOURCES.values(), ids=BAD_SOURCES.keys())
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    """attack 16: the scan itself."""
    assert faults(source)


def test_what_is_raised_again_is_not_swallowed() -> None:
    assert (
        faults("try: x()\nexcept Exception as error:\n    detail = str(error)\n    raise Own(detail) from None") == []
    )


REFUSALS = """
import matrix_e2e_keys as m
if __debug__:
    raise SystemExit("this is not an optimized run")
key = m.Ed25519SecretKey(bytes(32))
good = m.sign_json({"a": 1}, entity="@a:b", signer=key.signer("ed25519:A"))
question = dict(entity="@a:b", key_id="ed25519:A", key=key.public_key)
m.verify_json(good, **question)
def refused(call):
    try:
        call()
    except m.E2EKeysError as error:
        return str(error.reason)
    return "nothing"
print(
    refused(lambda: m.verify_json({**good, "a": 2}, **question)),
    refused(lambda: m.verify_json({"a": 1, "signatures": {}}, **question)),
    refused(lambda: m.Ed25519PublicKey(bytes(32))),
    refused(lambda: m.Curve25519PublicKey(bytes(32))),
    refused(lambda: m.Ed25519PublicKey.from_base64("AA")),
    refused(lambda: m.parse_json("-0")),
    refused(lambda: m.encode_canonical_json(1.5)),
    refused(lambda: m.SignedJson()),
    refused(lambda: m.parse_user_id("a")),
)
"""


def test_an_optimized_run_refuses_as_much() -> None:
    """attack 16: python -O removes assert statements, and no check with them."""
    done = subprocess.run(
        [sys.executable, "-O", "-c", REFUSALS], capture_output=True, text=True, check=False, cwd=PACKAGE.parent
    )
    assert done.stderr == ""
    assert done.stdout.split() == [
        "invalid-signature",
        "missing-signature",
        "weak-key",
        "weak-key",
        "wrong-length",
        "negative-zero",
        "not-an-integer",
        "invalid-value",
        "invalid-identifier",
    ]
