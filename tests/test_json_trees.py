"""Documents of many people's data: one bad place costs only what contains it."""

from __future__ import annotations

import copy
import decimal
import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_strategies import MAX_SAFE, modest, nested, safe_objects, safe_values, wild_values, with_frames_left
from matrix_e2e_keys import JsonLimits, LocalProtocolError, Reason, RemoteProtocolError, VerificationError
from matrix_e2e_keys.canonical_json import encode_objects, encode_tree
from matrix_e2e_keys.errors import E2EKeysError
from matrix_e2e_keys.json_depth import CUT, MAX_FRAME_DEPTH
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import (
    DEFAULT_LIMITS,
    RefusedPlace,
    raise_refused,
    refused_places,
    snapshot,
    thaw,
    wrong_type,
)


def places(tree: Any) -> dict[tuple[str | int, ...], Reason]:
    return {place: reason for place, reason, _ in refused_places(tree)}


# -- One bad place ---------------------------------------------------------------------------------------------

BAD_TOKENS = {
    "1.5": (Reason.NOT_AN_INTEGER, 1.5),
    "1e3": (Reason.NOT_AN_INTEGER, 1000.0),
    "1e400": (Reason.NOT_AN_INTEGER, "1e400"),
    "-1e400": (Reason.NOT_AN_INTEGER, "-1e400"),
    "Infinity": (Reason.NOT_AN_INTEGER, "Infinity"),
    "-Infinity": (Reason.NOT_AN_INTEGER, "-Infinity"),
    "-0": (Reason.NEGATIVE_ZERO, 0),
    "-0.0": (Reason.NOT_AN_INTEGER, -0.0),
    str(2**53): (Reason.INTEGER_OUT_OF_RANGE, 2**53),
    str(-(2**64)): (Reason.INTEGER_OUT_OF_RANGE, -(2**64)),
    "9" * 40: (Reason.TOO_MANY_DIGITS, "9" * 40),
    "0." + "1" * 40: (Reason.TOO_MANY_DIGITS, "0." + "1" * 40),
    '{"a":1,"a":2}': (Reason.DUPLICATE_MEMBER, {"a": 2}),
    '{"a":1,"a":{"b":1}}': (Reason.DUPLICATE_MEMBER, {"a": {"b": 1}}),
    CUT: (Reason.TOO_DEEP, None),
    "[" * 200 + "]" * 200: (Reason.TOO_DEEP, nested(127)),
    '{"a":' * 200 + "1.5" + "}" * 200: (Reason.TOO_DEEP, nested(127, of="dict")),
}
IDS = [token[:12] for token in BAD_TOKENS]


@pytest.mark.parametrize(("token", "expected"), BAD_TOKENS.items(), ids=IDS)
def test_a_bad_place_costs_only_the_entry_that_contains_it(token: str, expected: tuple[Reason, Any]) -> None:
    """attacks 6 to 9: a frame with a bad token in one entry; the other entries encode."""
    reason, value = expected
    tree = parse_frame(f'{{"good":{{"a":1}},"bad":{token},"also good":[true]}}')
    assert encode_tree(tree["good"]) == b'{"a":1}'
    assert encode_tree(tree["also good"]) == b"[true]"
    assert encode_tree(tree["bad"]) is None
    assert encode_tree(tree) is None
    ((place, found),) = places(tree).items()
    assert (place[0], found) == ("bad", reason)
    assert repr(thaw(tree["bad"])) == repr(value)
    assert [type(raw) for raw in encode_objects([tree["good"], {"x": tree["bad"]}])] == [bytes, type(None)]


def test_nan_is_shown_as_it_was_written() -> None:
    """attack 7: a frame with NaN."""
    tree = parse_frame('{"a":NaN,"b":1}')
    assert places(tree) == {("a",): Reason.NOT_AN_INTEGER}
    assert thaw(tree)["a"] == "NaN"


def test_all_refused_places_are_found_in_order() -> None:
    document = r'{"b":[1.5,{"x":1,"x":2}],"\ud800":-0,"a":"\udfff","ok":[1,"é"],"d":[[9007199254740992]]}'
    found = [(place, reason) for place, reason, _ in refused_places(parse_frame(document))]
    assert found == [
        (("\ud800",), Reason.LONE_SURROGATE),
        (("b", 0), Reason.NOT_AN_INTEGER),
        (("b", 1, "x"), Reason.DUPLICATE_MEMBER),
        (("\ud800",), Reason.NEGATIVE_ZERO),
        (("a",), Reason.LONE_SURROGATE),
        (("d", 0, 0), Reason.INTEGER_OUT_OF_RANGE),
    ]


def reference_places(tree: Any, at: tuple[str | int, ...]) -> list[tuple[tuple[str | int, ...], Reason, str]]:
    """The same, as one would write it down: a path for every place."""
    if type(tree) is RefusedPlace:
        return [(at, tree.reason, tree.detail)]
    if type(tree) is str and any("\ud800" <= letter <= "\udfff" for letter in tree):
        return [(at, Reason.LONE_SURROGATE, "the string holds a lone surrogate")]
    found: list[tuple[tuple[str | int, ...], Reason, str]] = []
    if type(tree) is dict:
        for name in tree:
            if any("\ud800" <= letter <= "\udfff" for letter in name):
                found.append(((*at, name), Reason.LONE_SURROGATE, "the member name holds a lone surrogate"))
        for name, member in tree.items():
            found += reference_places(member, (*at, name))
    elif type(tree) is list:
        for place, item in enumerate(tree):
            found += reference_places(item, (*at, place))
    return found


@given(wild_values, st.sampled_from([(), ("a", 7)]))
def test_refused_places_are_those_a_reference_finds(value: Any, at: tuple[str | int, ...]) -> None:
    tree = snapshot(value)
    assert list(refused_places(tree, at)) == reference_places(tree, at)


def test_places_start_where_the_caller_says() -> None:
    assert places(parse_frame("[1.5]")) == {(0,): Reason.NOT_AN_INTEGER}
    (found,) = refused_places(parse_frame("[1.5]"), ("a", 7))
    assert found[0] == ("a", 7, 0)


@pytest.mark.parametrize("error", [RemoteProtocolError, LocalProtocolError, VerificationError])
def test_raise_refused(error: type[E2EKeysError]) -> None:
    raise_refused({"a": ["é", 1, None, True]}, error)
    with pytest.raises(error) as caught:
        raise_refused(parse_frame('{"a/b":[0,1.5],"c":-0}'), error, ("x",))
    assert (caught.value.path, caught.value.reason) == ("/x/a~1b/1", Reason.NOT_AN_INTEGER)


def test_every_duplicate_is_marked_once() -> None:
    """attack 6: three of a kind, and two pairs."""
    tree = parse_frame('{"a":1,"b":2,"a":3,"c":4,"b":5,"a":6}')
    assert places(tree) == {("a",): Reason.DUPLICATE_MEMBER, ("b",): Reason.DUPLICATE_MEMBER}
    assert thaw(tree) == {"a": 6, "b": 5, "c": 4}


def test_a_refused_place_is_of_no_plain_type() -> None:
    """attack 12: no type check passes it, and no two are equal."""
    place = RefusedPlace(reason=Reason.NOT_AN_INTEGER, detail="", value={"a": 1})
    assert not isinstance(place, (dict, list, str, int, float, bool))
    assert place != RefusedPlace(reason=Reason.NOT_AN_INTEGER, detail="", value={"a": 1})
    assert "'a'" not in repr(place)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        place.value = 1  # type: ignore[misc]


# -- attack 8: digits ------------------------------------------------------------------------------------------


@pytest.fixture(params=[0, 640, 4300])
def integer_digits(request: pytest.FixtureRequest) -> Iterator[int]:
    """The interpreter's own limit: none, the smallest, the default."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(request.param)
    yield request.param
    sys.set_int_max_str_digits(before)


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("suffix", ["", ".5", "e5"])
@pytest.mark.parametrize("numbers", ["refuse", "normalise"])
@pytest.mark.usefixtures("integer_digits")
def test_a_megabyte_of_digits_is_refused_without_conversion(sign: str, suffix: str, numbers: Any) -> None:
    """attack 8: whatever the interpreter's limit is; converting would take seconds or raise."""
    token = sign + "7" * 10**6 + suffix
    tree = parse_frame(f'{{"a":{token},"b":1}}', numbers=numbers)
    assert places(tree) == {("a",): Reason.TOO_MANY_DIGITS}
    assert tree["a"].value == token
    assert len(tree["a"].detail) < 100


@pytest.mark.usefixtures("integer_digits")
def test_digits_within_a_larger_limit() -> None:
    """attack 8: the limit is the caller's, and the interpreter's own never shows."""
    limits = JsonLimits(max_digits=4000)
    for length in (33, 640, 641, 4000):
        tree = parse_frame("9" * length, limits=limits)
        assert tree.reason is Reason.INTEGER_OUT_OF_RANGE
        assert tree.value == "9" * length or tree.value == 10**length - 1
        fraction = parse_frame("1." + "0" * (length - 2), limits=limits, numbers="normalise")
        assert fraction == 1
        for exponent in ("9" * (length - 2), "-" + "9" * (length - 3)):
            for numbers in ("refuse", "normalise"):
                huge = parse_frame("1e" + exponent, limits=limits, numbers=numbers)  # type: ignore[arg-type]
                assert huge.reason is Reason.NOT_AN_INTEGER
            assert parse_frame("0e" + exponent, limits=limits, numbers="normalise") == 0
        padded = "5e" + "0" * (length - 3) + "2"
        assert parse_frame(padded, limits=limits, numbers="normalise") == 500
    assert parse_frame("9" * 4001, limits=limits).reason is Reason.TOO_MANY_DIGITS


@pytest.mark.parametrize("max_digits", [1, 5, 16, 17, 18, 31])
@pytest.mark.parametrize("numbers", ["refuse", "normalise"])
def test_the_limit_counts_characters(max_digits: int, numbers: Any) -> None:
    """attack 8: a number one character longer is refused, an integer no less than a fraction."""
    limits = JsonLimits(max_digits=max_digits)
    for token in ("1" * (max_digits + 1), "-" + "1" * max_digits, "1e" + "1" * (max_digits - 1)):
        if token != "1e":
            assert parse_frame(token, limits=limits, numbers=numbers).reason is Reason.TOO_MANY_DIGITS
    fits = parse_frame("1" * max_digits, limits=limits, numbers=numbers)
    assert getattr(fits, "reason", None) is not Reason.TOO_MANY_DIGITS


def test_decimals_of_the_caller_do_not_matter() -> None:
    """attack 7: neither precision nor traps of the current context reach the reader."""
    with decimal.localcontext(
        decimal.Context(prec=1, Emax=1, traps=[decimal.Inexact, decimal.InvalidOperation, decimal.FloatOperation])
    ):
        assert parse_frame("[9007199254740991.0,1e15]", numbers="normalise") == [MAX_SAFE, 10**15]
        assert parse_frame("9007199254740991.5", numbers="normalise").reason is Reason.NOT_AN_INTEGER
        assert parse_frame("1e999999999999", numbers="normalise").reason is Reason.NOT_AN_INTEGER
        assert snapshot(9007199254740991.0, numbers="normalise") == MAX_SAFE


# -- attack 9: depth -------------------------------------------------------------------------------------------

BOMBS = {
    "a million arrays": "[" * 10**6,
    "a million objects": '{"a":' * 10**6,
    "closed": "[" * 10**6 + "]" * 10**6,
    "one more than a frame may have": "[" * (MAX_FRAME_DEPTH + 1) + "]" * (MAX_FRAME_DEPTH + 1),
    "in one entry": '{"good":1,"bad":' + "[" * 2000 + "]" * 2000 + "}",
}


@pytest.mark.parametrize("document", BOMBS.values(), ids=BOMBS.keys())
def test_a_depth_bomb_is_refused(document: str) -> None:
    """attack 9: with RemoteProtocolError, not RecursionError."""
    for data in (document, document.encode()):
        with pytest.raises(RemoteProtocolError) as caught:
            parse_frame(data)
        assert (caught.value.reason, caught.value.path, caught.value.errcode) == (Reason.TOO_DEEP, "", "M_BAD_JSON")


def test_an_unclosed_bomb_is_refused() -> None:
    """attack 9: between the depth limit and the frame limit."""
    with pytest.raises(RemoteProtocolError) as caught:
        parse_frame("[" * 500)
    assert caught.value.reason is Reason.NOT_JSON


def test_an_over_deep_place_costs_only_its_entry() -> None:
    """attack 9: several entries, several places, strings that look like brackets."""
    deep = "[" * 150 + '"]]"' + "]" * 150
    tree = parse_frame(f'{{"a":{{"x":["[[["]}},"b":{deep},"c":[{{"d":{deep}}},"\\"[",2],"e":{deep}}}')
    assert tree["a"] == {"x": ["[[["]}
    assert tree["c"][1:] == ['"[', 2]
    assert [place[0] for place in places(tree)] == ["b", "c", "e"]
    assert set(places(tree).values()) == {Reason.TOO_DEEP}


def test_whoever_writes_the_marker_himself_is_refused() -> None:
    """attack 9: the text that stands for a cut place is not a number either."""
    for token in (CUT, f"-{CUT}", f"1{CUT}", CUT.upper(), f"{CUT}0"):
        for numbers in ("refuse", "normalise"):
            tree = parse_frame(f"[{token}]", numbers=numbers)  # type: ignore[arg-type]
            assert encode_tree(tree) is None
            assert len(places(tree)) == 1


def test_text_around_a_cut_place_cannot_make_a_number_of_it() -> None:
    """attack 9: what is glued to a cut place is refused or not JSON."""
    deep = "[" * 130 + "]" * 130
    for before in ("", "1", "-", "0", "0.", "1e", "1e-", "0e", '"a"', "n", "[]", "{}"):
        for after in ("", "0", ".0", "e5", '"a"', "[]", "-"):
            for numbers in ("refuse", "normalise"):
                try:
                    tree = parse_frame(f"[{before}{deep}{after}]", numbers=numbers)  # type: ignore[arg-type]
                except RemoteProtocolError as error:
                    assert error.reason is Reason.NOT_JSON  # noqa: PT017
                else:
                    assert encode_tree(tree) is None


@modest
@given(safe_values, st.integers(1, 4))
def test_places_beyond_the_limit_are_those_a_reference_finds(value: Any, max_depth: int) -> None:
    def too_deep(tree: Any, room: int, at: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
        if not isinstance(tree, (dict, list)):
            return set()
        if room == 0:
            return {at}
        members = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return set().union(*(too_deep(member, room - 1, (*at, name)) for name, member in members))

    limits = JsonLimits(max_depth=max_depth)
    for tree in (parse_frame(json.dumps(value), limits=limits), snapshot(value, limits=limits)):
        assert places(tree) == dict.fromkeys(too_deep(value, max_depth), Reason.TOO_DEEP)


@pytest.mark.parametrize("size", [256 * 1024, 512 * 1024])
def test_in_a_thread_with_a_small_stack(size: int) -> None:
    """attack 9: a bomb, and the deepest document that is allowed, where there is little room."""
    good = nested(128, of="dict")
    document = json.dumps(good)
    outcomes: list[Any] = []

    def work() -> None:
        for bomb in BOMBS.values():
            try:
                parse_frame(bomb)
            except RemoteProtocolError as error:
                outcomes.append(error.reason)
        outcomes.append(encode_tree(parse_frame(document)))
        outcomes.append(encode_tree(snapshot(good)))

    before = threading.stack_size(size)
    try:
        thread = threading.Thread(target=work)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    encoded = json.dumps(good, separators=(",", ":")).encode()
    assert outcomes == [Reason.TOO_DEEP] * len(BOMBS) + [encoded] * 2


CALLS: dict[str, Callable[[Any, str], Any]] = {
    "parse_frame": lambda _, text: parse_frame(text),
    "parse_frame, cutting": lambda _, text: parse_frame(text, limits=JsonLimits(max_depth=100)),
    "parse_frame, refusing": lambda _, text: parse_frame(text[:-1]),
    "snapshot": lambda value, _: snapshot(value),
    "thaw": lambda value, _: thaw(value),
    "encode_tree": lambda value, _: encode_tree(value),
    "encode_objects": lambda value, _: encode_objects([{"a": value}]),
    "refused_places": lambda value, _: list(refused_places(value)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("of", ["list", "dict"])
def test_near_the_recursion_limit(call: Callable[[Any, str], Any], of: str) -> None:
    """attack 9: no RecursionError comes out, however little of the stack is left."""
    value = nested(110, of=of)
    document = json.dumps(value)
    escaped = []
    for left in range(40, 400, 3):
        try:
            with_frames_left(left, lambda: call(value, document))
        except RemoteProtocolError as error:
            assert error.reason in (Reason.TOO_DEEP, Reason.NOT_JSON)  # noqa: PT017
        except RecursionError:
            escaped.append(left)
    assert escaped == []


@pytest.mark.parametrize("of", ["list", "dict"])
def test_the_deepest_limit_is_usable(of: str) -> None:
    limits = JsonLimits(max_depth=400)
    value = nested(400, of=of)
    document = json.dumps(value)
    assert thaw(parse_frame(document, limits=limits)) == value
    assert list(refused_places(snapshot(value, limits=limits))) == []


# -- Limits ----------------------------------------------------------------------------------------------------


def test_the_default_limits() -> None:
    assert (DEFAULT_LIMITS.max_depth, DEFAULT_LIMITS.max_bytes, DEFAULT_LIMITS.max_digits) == (
        128,
        256 * 1024 * 1024,
        32,
    )


@pytest.mark.parametrize("name", ["max_depth", "max_bytes", "max_digits"])
@pytest.mark.parametrize("value", [0, -1, True, False, None, "1", 1.0, 10**6, 401, 4001])
def test_limits_are_positive_integers_below_their_ceilings(name: str, value: Any) -> None:
    ceiling = {"max_depth": 400, "max_bytes": 10**30, "max_digits": 4000}[name]
    if type(value) is int and 1 <= value <= ceiling:
        assert getattr(JsonLimits(**{name: value}), name) == value
        return
    for make in (JsonLimits, lambda **change: attrs.evolve(DEFAULT_LIMITS, **change)):
        with pytest.raises(LocalProtocolError) as caught:
            make(**{name: value})
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, f"/{name}")
        assert ("at most" in caught.value.detail) is (name != "max_bytes")


@pytest.mark.parametrize(
    ("name", "value"), [("max_depth", 400), ("max_digits", 4000), ("max_depth", 1), ("max_digits", 1)]
)
def test_limits_at_their_ends(name: str, value: int) -> None:
    assert getattr(JsonLimits(**{name: value}), name) == value


def test_a_lone_surrogate_in_text_has_a_size() -> None:
    """attack 10: three bytes, and the frame itself is not refused for it."""
    assert parse_frame('"\ud800"', limits=JsonLimits(max_bytes=5)) == "\ud800"
    with pytest.raises(RemoteProtocolError) as caught:
        parse_frame('"\ud800"', limits=JsonLimits(max_bytes=4))
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("data", ['"é"', '"é"'.encode(), bytearray('"é"'.encode())], ids=["text", "bytes", "bytearray"])
def test_size_is_counted_in_bytes(data: Any) -> None:
    assert parse_frame(data, limits=JsonLimits(max_bytes=4)) == "é"
    with pytest.raises(RemoteProtocolError) as caught:
        parse_frame(data, limits=JsonLimits(max_bytes=3))
    assert (caught.value.reason, caught.value.http_status) == (Reason.TOO_LARGE, 413)


# -- Snapshots -------------------------------------------------------------------------------------------------


def test_a_snapshot_is_a_copy() -> None:
    inner = {"b": [1]}
    original = {"a": inner, "c": inner}
    taken = snapshot(original)
    inner["b"].append(2)
    assert taken == {"a": {"b": [1]}, "c": {"b": [1]}}


class Meddler(dict):  # type: ignore[type-arg]
    """Notices when one of its methods is called."""

    calls: list[str] = []  # noqa: RUF012

    def items(self) -> Any:
        self.calls.append("items")
        return super().items()

    def __iter__(self) -> Any:
        self.calls.append("__iter__")
        return super().__iter__()

    def __repr__(self) -> str:
        self.calls.append("__repr__")
        return ""


def test_a_snapshot_calls_no_method_of_the_value() -> None:
    """attack 12: a subclass could answer differently the next time."""
    assert places(snapshot([Meddler(a=1)])) == {(0,): Reason.NOT_A_JSON_VALUE}
    assert Meddler.calls == []


def test_a_snapshot_of_a_tree_is_that_tree() -> None:
    tree = parse_frame('{"a":[1.5,{"b":1,"b":2}],"c":null}')
    again = snapshot(tree)
    assert places(again) == places(tree)
    assert thaw(again) == thaw(tree)


@pytest.mark.parametrize("limit", [8, 12])
def test_a_value_that_contains_itself_twice_costs_no_more_than_its_size(limit: int) -> None:
    """attack 9: an endless value does not grow with two to the power of the depth limit."""
    endless: list[Any] = []
    endless += [endless, endless]
    assert len(list(refused_places(snapshot(endless, limits=JsonLimits(max_depth=limit))))) <= limit * 2


@modest
@given(wild_values, st.sampled_from(["refuse", "normalise"]))
def test_a_snapshot_of_anything(value: Any, numbers: Any) -> None:
    """attack 12: never an error, and the value stays as it was."""
    before = repr(value)
    taken = snapshot(value, numbers=numbers)
    assert repr(value) == before
    encoded = encode_tree(taken)
    assert (encoded is None) is bool(places(taken))
    if encoded is not None and numbers == "refuse":
        assert thaw(taken) == value


@modest
@given(safe_values)
def test_reading_and_copying_make_the_same_tree(value: Any) -> None:
    assert parse_frame(json.dumps(value)) == snapshot(value) == value
    assert thaw(value) == value
    assert list(refused_places(value)) == []


@modest
@given(safe_objects, st.sampled_from(["1.5", "-0", '{"a":1,"a":1}', r'"\ud800"', "9" * 50, "NaN"]), st.data())
def test_siblings_of_a_bad_place_are_untouched(value: dict[str, Any], bad: str, data: st.DataObject) -> None:
    """attacks 6 to 10: wherever the place is put."""
    names = [*value, "bad"]
    at = data.draw(st.integers(0, len(value)))
    members = [f"{json.dumps(name)}:{json.dumps(member)}" for name, member in value.items() if name != "bad"]
    members.insert(at, f'"bad":{bad}')
    tree = parse_frame("{" + ",".join(members) + "}")
    assert {place[0] for place in places(tree)} == {"bad"}
    for name in names:
        if name != "bad":
            assert encode_tree(tree[name]) == encode_tree(value[name])


@modest
@given(wild_values)
def test_thawing_makes_a_copy(value: Any) -> None:
    tree = snapshot(value)
    before = copy.deepcopy(thaw(tree))
    thawed = thaw(tree)
    if isinstance(thawed, dict):
        thawed["new"] = 1
    elif isinstance(thawed, list):
        thawed.append(1)
    assert repr(thaw(tree)) == repr(before)


# -- Sentences -------------------------------------------------------------------------------------------------

KINDS = {
    "an object": {},
    "an array": [],
    "a string": "",
    "a boolean": True,
    "null": None,
    "a number": 1,
}


@pytest.mark.parametrize(("kind", "value"), KINDS.items())
def test_wrong_type_names_the_kind(kind: str, value: Any) -> None:
    refusal = wrong_type("x must be something", value, "a", 0)
    assert (refusal.reason, refusal.detail, refusal.at) == (
        Reason.WRONG_TYPE,
        f"x must be something, not {kind}",
        ("a", 0),
    )


def test_wrong_type_of_a_refused_place_says_why_it_was_refused() -> None:
    refusal = wrong_type("x must be something", parse_frame("1.5"), "a")
    assert (refusal.reason, refusal.at) == (Reason.NOT_AN_INTEGER, ("a",))
    assert "1.5" in refusal.detail
