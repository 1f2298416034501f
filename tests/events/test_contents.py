"""What contents have in common: the table of members reads, checks and writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from attrs import evolve, frozen
from hypothesis import given

from events.odd_values import HalfHostile, Hostile, Masked, Names, Text, error_of, only_own_errors, refusal
from json_strategies import nested, wild_values
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError
from matrix_e2e_keys.events.contents import (
    EventContent,
    Member,
    bytes_of,
    callers_own,
    curve25519_member,
    ed25519_member,
    json_member,
    mapping_of,
    one_of,
    passed_on,
    room_id,
    secret_string,
    some_string,
    tree_of,
)
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import snapshot
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.testing.samples import sample_curve25519_key, sample_secret_key

R = Reason
CURVE = sample_curve25519_key("x")
ED = sample_secret_key("x").public_key


@frozen(kw_only=True)
class Sample(EventContent):
    """A content that has a member of each kind."""

    event_type: ClassVar[str] = "org.example.sample"
    members: ClassVar[Mapping[str, Member]] = {
        "name": Member(some_string),
        "m.key": Member(secret_string, attribute="key", is_required=False),
        "action": Member(one_of("take", "leave"), is_required=False),
        "room_id": Member(room_id, is_required=False),
        "curve": curve25519_member(is_required=False),
        "ed": ed25519_member(is_required=False),
        "inner": json_member(is_required=False),
    }

    name: str
    key: str | None = None
    action: str | None = None
    room_id: str | None = None
    curve: Curve25519PublicKey | None = None
    ed: Ed25519PublicKey | None = None
    inner: Mapping[str, Any] | None = None

    def _check_whole(self) -> None:
        if self.name == self.action:
            raise Refusal(R.INVALID_VALUE, "they cannot be the same", "action")


FULL: dict[str, Any] = {
    "name": "x",
    "m.key": "secret",
    "action": "take",
    "room_id": "!r:a.example",
    "curve": CURVE.to_base64(),
    "ed": ED.to_base64(),
    "inner": {"a": [1.5, 2**60, "\ud800", None, {"b": -0.0}]},
    "org.example": {"c": [1e300]},
}


def reading(**members: Any) -> tuple[str, Reason]:
    return refusal(lambda: Sample.from_json({"name": "x", **members}), RemoteProtocolError)


def building(**members: Any) -> tuple[str, Reason]:
    return refusal(lambda: Sample(**{"name": "x", **members}), LocalProtocolError)


class TestBothDirections:
    def test_everything_comes_back(self) -> None:
        content = Sample.from_json(FULL)
        assert content.to_json() == FULL
        assert Sample.from_json(content.to_json()) == content
        assert Sample.from_json(json.loads(json.dumps(content.to_json()))) == content
        assert (content.key, content.curve, content.ed) == ("secret", CURVE, ED)
        assert content.extra == {"org.example": {"c": [1e300]}}

    def test_what_is_built_is_what_is_read(self) -> None:
        built = Sample(
            name="x",
            key="secret",
            action="take",
            room_id="!r:a.example",
            curve=CURVE,
            ed=ED,
            inner=FULL["inner"],
            extra={"org.example": {"c": [1e300]}},
        )
        assert built == Sample.from_json(FULL)

    def test_what_is_not_there_is_not_written(self) -> None:
        assert Sample(name="x").to_json() == {"name": "x"} == Sample.from_json({"name": "x"}).to_json()

    def test_null_is_as_good_as_not_there_where_a_member_may_be_missing(self) -> None:
        nulls = dict.fromkeys(["m.key", "action", "room_id", "inner"])
        assert Sample.from_json({"name": "x", **nulls}) == Sample(name="x")
        assert reading(curve=None) == ("/curve", R.WRONG_TYPE)

    def test_the_content_of_an_event_is_read_as_it_is(self) -> None:
        outer = Sample(name="x", inner=FULL)
        assert outer.inner is not None
        assert Sample.from_json(outer.inner) == Sample.from_json(FULL)

    def test_a_copy_with_a_change_is_checked_again(self) -> None:
        content = Sample(name="x")
        assert evolve(content, name="y").name == "y"
        with pytest.raises(LocalProtocolError):
            evolve(content, name=5)


class TestNothingIsShared:
    def test_what_is_read_is_copied(self) -> None:
        obj = json.loads(json.dumps(FULL))
        content = Sample.from_json(obj)
        obj["inner"]["a"].append(1)
        obj["org.example"]["c"].clear()
        assert content == Sample.from_json(FULL)

    def test_what_is_built_is_copied(self) -> None:
        inner: dict[str, Any] = {"a": []}
        extra: dict[str, Any] = {"b": []}
        content = Sample(name="x", inner=inner, extra=extra)
        inner["a"].append(1)
        inner["c"] = 1
        extra["b"].append(1)
        extra["c"] = 1
        assert (content.inner, content.extra) == ({"a": []}, {"b": []})

    def test_what_is_taken_out_is_a_copy(self) -> None:
        content = Sample.from_json(FULL)
        assert content.inner is not None
        content.inner["a"].append(1)
        content.extra["org.example"]["c"].append(1)
        written: Any = content.to_json()
        written["inner"]["a"].append(1)
        written["org.example"]["c"].append(1)
        assert content == Sample.from_json(FULL)

    def test_nothing_is_changed_by_reading(self) -> None:
        obj = json.loads(json.dumps(FULL))
        Sample.from_json(obj)
        assert obj == FULL

    def test_an_attribute_cannot_be_set(self) -> None:
        with pytest.raises(AttributeError):
            Sample(name="x").name = "y"  # type: ignore[misc]


class TestWhatIsRefused:
    @pytest.mark.parametrize("obj", [None, [], "x", 5, [("name", "x")], Names({"name": "x"}), Hostile(), Masked])
    def test_what_is_no_object(self, obj: Any) -> None:
        obj = obj() if obj is Masked else obj  # pytest itself asks for the class
        path, reason = refusal(lambda: Sample.from_json(obj), RemoteProtocolError)
        assert path == ""
        assert reason in (R.WRONG_TYPE, R.NOT_A_JSON_VALUE)

    def test_the_sentence_names_the_event(self) -> None:
        with pytest.raises(
            RemoteProtocolError, match=r"the content of org\.example\.sample must be an object, not null"
        ):
            Sample.from_json(None)

    def test_a_member_that_is_missing(self) -> None:
        assert refusal(lambda: Sample.from_json({}), RemoteProtocolError) == ("", R.MISSING_MEMBER)

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("name", "", R.INVALID_VALUE),
            ("name", None, R.WRONG_TYPE),
            ("name", 5, R.WRONG_TYPE),
            ("name", True, R.WRONG_TYPE),
            ("name", ["x"], R.WRONG_TYPE),
            ("name", "a\ud800", R.LONE_SURROGATE),
            ("name", 1.5, R.WRONG_TYPE),
            ("m.key", "", R.INVALID_VALUE),
            ("m.key", 5, R.WRONG_TYPE),
            ("m.key", "ü", R.INVALID_VALUE),
            ("m.key", "\ud800", R.INVALID_VALUE),
            ("action", "stay", R.INVALID_VALUE),
            ("action", "", R.INVALID_VALUE),
            ("action", 5, R.WRONG_TYPE),
            ("room_id", "@a:b", R.INVALID_IDENTIFIER),
            ("room_id", "", R.INVALID_IDENTIFIER),
            ("room_id", {}, R.WRONG_TYPE),
            ("curve", 5, R.WRONG_TYPE),
            ("curve", "x", R.INVALID_BASE64),
            ("curve", "AAAA", R.WRONG_LENGTH),
            ("curve", "A" * 43, R.WEAK_KEY),
            ("ed", "A" * 43, R.WEAK_KEY),
            ("ed", [], R.WRONG_TYPE),
            ("inner", [], R.WRONG_TYPE),
            ("inner", "{}", R.WRONG_TYPE),
        ],
    )
    def test_what_cannot_stand_in_a_member(self, name: str, value: Any, reason: Reason) -> None:
        assert reading(**{name: value}) == (f"/{name}", reason)

    def test_what_is_wrong_deep_inside(self) -> None:
        assert reading(inner={"a": [0, float("nan")]}) == ("/inner/a/1", R.NOT_AN_INTEGER)
        assert reading(inner={"a": [0, float("inf")]}) == ("/inner/a/1", R.NOT_AN_INTEGER)
        assert reading(inner={"a": [0, b""]}) == ("/inner/a/1", R.NOT_A_JSON_VALUE)
        assert reading(inner={"a/b": {"~": 10**5000}}) == ("/inner/a~1b/~0", R.INTEGER_OUT_OF_RANGE)
        assert reading(other={"a": (1,)}) == ("/other/a", R.NOT_A_JSON_VALUE)
        assert reading(inner={"a": {1: 2}})[1] is R.NOT_A_JSON_VALUE
        assert reading(inner={"a": nested(200)})[1] is R.TOO_DEEP

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("name", "", R.INVALID_VALUE),
            ("name", Text("x"), R.WRONG_TYPE),
            ("name", None, R.WRONG_TYPE),
            ("action", "stay", R.INVALID_VALUE),
            ("curve", CURVE.to_base64(), R.WRONG_TYPE),
            ("curve", ED, R.WRONG_TYPE),
            ("ed", CURVE, R.WRONG_TYPE),
            ("inner", [], R.WRONG_TYPE),
            ("inner", Hostile(), R.INVALID_VALUE),
            ("inner", HalfHostile(), R.INVALID_VALUE),
            ("inner", Masked, R.INVALID_VALUE),
            ("inner", Names({1: 2}), R.WRONG_TYPE),
            ("extra", None, R.WRONG_TYPE),
            ("extra", Hostile(), R.INVALID_VALUE),
        ],
        ids=repr,
    )
    def test_what_our_caller_cannot_build(self, name: str, value: Any, reason: Reason) -> None:
        made = value() if value is Masked else value  # pytest itself asks for the class
        assert building(**{name: made}) == (f"/{name}", reason)

    def test_a_refusal_names_the_member_and_not_the_attribute(self) -> None:
        assert building(key="") == ("/m.key", R.INVALID_VALUE)

    @pytest.mark.parametrize("name", list(Sample.members))
    def test_nothing_else_stands_for_a_member(self, name: str) -> None:
        assert building(extra={name: "x"}) == (f"/extra/{name}", R.INVALID_VALUE)

    def test_members_that_do_not_go_together(self) -> None:
        assert building(name="take", action="take") == ("/action", R.INVALID_VALUE)
        assert reading(name="take", action="take") == ("/action", R.INVALID_VALUE)

    def test_a_mapping_of_any_class_is_taken(self) -> None:
        assert Sample(name="x", inner=Names({"a": 1}), extra=Names({"b": 2})).to_json() == {
            "name": "x",
            "inner": {"a": 1},
            "b": 2,
        }

    def test_a_secret_is_not_quoted(self) -> None:
        for value in ("very secret ü", ["very secret"], "very secret \ud800"):
            with pytest.raises(RemoteProtocolError) as caught:
                Sample.from_json({"name": "x", "m.key": value})
            assert "secret" not in str(caught.value).replace("m.key", "")


class TestFrames:
    """What was marked in a document is read, and costs what it stands in."""

    @pytest.mark.parametrize(
        ("document", "path", "reason"),
        [
            ('{"name": "x", "name": "x"}', "/name", R.DUPLICATE_MEMBER),
            ('{"name": "x", "inner": {"a": 1, "a": 1}}', "/inner/a", R.DUPLICATE_MEMBER),
            ('{"name": "x", "b": {"a": 1, "a": 1}}', "/b/a", R.DUPLICATE_MEMBER),
            ('{"name": "x", "inner": {"a": NaN}}', "/inner/a", R.NOT_AN_INTEGER),
            ('{"name": "x", "inner": {"a": -Infinity}}', "/inner/a", R.NOT_AN_INTEGER),
            ('{"name": "x", "inner": {"a": 1e999}}', "/inner/a", R.NOT_AN_INTEGER),
            ('{"name": "x", "inner": {"a": ' + "1" * 40 + "}}", "/inner/a", R.TOO_MANY_DIGITS),
            ('{"name": "x", "inner": {"a": ' + "[" * 200 + "]" * 200 + "}}", "/inner/a", R.TOO_DEEP),
            ('{"name": 1.5}', "/name", R.WRONG_TYPE),
            ('{"name": "\\ud800"}', "/name", R.LONE_SURROGATE),
        ],
    )
    def test_what_two_readers_could_read_differently(self, document: str, path: str, reason: Reason) -> None:
        where, why = refusal(lambda: Sample.from_json(parse_frame(document)), RemoteProtocolError)
        assert where.startswith(path)
        assert why is reason

    def test_what_everybody_reads_alike_is_passed_on(self) -> None:
        document = '{"name": "x", "inner": {"a": [1.5, 9007199254740993, -0, "\\ud800", -0.0, 1e2]}}'
        content = Sample.from_json(parse_frame(document))
        assert content.inner == {"a": [1.5, 9007199254740993, 0, "\ud800", 0.0, 100.0]}

    def test_passed_on(self) -> None:
        assert passed_on(snapshot({"a": 1.5})) == {"a": 1.5}
        with pytest.raises(Refusal) as caught:
            passed_on(snapshot({"a": [float("nan")]}), "x", 3)
        assert caught.value.at == ("x", 3, "a", 0)


class TestPieces:
    def test_what_a_caller_s_object_raises_names_its_class_and_place(self) -> None:
        with pytest.raises(Refusal) as caught, callers_own("a", "b"):
            raise ZeroDivisionError
        assert (caught.value.reason, caught.value.at) == (R.INVALID_VALUE, ("a", "b"))
        assert caught.value.detail == "b cannot be read: it raises a ZeroDivisionError"
        assert caught.value.__suppress_context__

    @pytest.mark.parametrize(
        "error", [Refusal(R.WRONG_TYPE, ""), LocalProtocolError(R.WRONG_TYPE, ""), KeyboardInterrupt()]
    )
    def test_what_is_not_the_caller_s_passes(self, error: BaseException) -> None:
        with pytest.raises(type(error)) as caught, callers_own("a"):
            raise error
        assert caught.value is error

    def test_a_mapping_is_copied_before_it_is_checked(self) -> None:
        given: dict[str, int] = {"a": 1}
        seen: list[Any] = []
        assert mapping_of(lambda value, *at: seen.append((value, at)) or 7)(given, "x") == 7
        given["a"] = 2
        assert seen == [({"a": 1}, ("x",))]

    def test_tree_of_copies(self) -> None:
        obj: dict[str, Any] = {"a": [1]}
        tree = tree_of(obj)
        obj["a"].append(2)
        assert tree == {"a": [1]}

    @pytest.mark.parametrize(
        ("text", "reason"),
        [(None, R.WRONG_TYPE), (b"AAAA", R.WRONG_TYPE), ("", R.INVALID_BASE64), ("!", R.INVALID_BASE64)],
    )
    def test_bytes_of_what_is_no_base64(self, text: Any, reason: Reason) -> None:
        with pytest.raises(Refusal) as caught:
            bytes_of(text, "the thing", "a", 1)
        assert (caught.value.reason, caught.value.at) == (reason, ("a", 1))
        assert caught.value.detail.startswith("the thing ")

    def test_bytes_of(self) -> None:
        assert bytes_of("AAE", "x") == bytes_of("AAE=", "x") == b"\x00\x01"


class TestAnything:
    @pytest.mark.parametrize("name", ["name", "key", "action", "room_id", "curve", "ed", "inner", "extra"])
    def test_each_argument(self, name: str) -> None:
        assert only_own_errors(lambda value: Sample(**{"name": "x", name: value})) > 20

    @pytest.mark.parametrize("name", ["name", "m.key", "action", "room_id", "curve", "ed", "inner", "extra", "o"])
    def test_each_member(self, name: str) -> None:
        assert only_own_errors(lambda value: Sample.from_json({"name": "x", name: value})) > 15

    def test_the_whole(self) -> None:
        assert only_own_errors(Sample.from_json) > 30

    @given(wild_values)
    def test_any_value(self, value: Any) -> None:
        for obj in (value, {"name": "x", "inner": value}, {"name": "x", "o": value}):
            error = error_of(lambda obj=obj: Sample.from_json(obj))
            assert type(error) in (RemoteProtocolError, type(None))
            if error is None:
                content = Sample.from_json(obj)
                assert Sample.from_json(content.to_json()) == content
