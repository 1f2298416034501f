"""Reading back what was stored: every fault is the caller's, and is named with its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from matrix_e2e_keys import LocalProtocolError, Reason, RemoteProtocolError, VerificationError
from matrix_e2e_keys.errors import Refusal
from matrix_e2e_keys.stored import Stored

TREE: dict[str, Any] = {
    "version": 1,
    "text": "x",
    "nothing": None,
    "yes": True,
    "map": {"a": 1, "b": 2},
    "maps": {"a": {"inner": 1}, "b/c": {"inner": 2}},
    "list": [1, "x"],
    "objects": [{"inner": 1}, {"inner": 2}],
}


def at(tree: Any = TREE) -> Stored:
    return Stored(tree, "some", "where")


def refused(call: Callable[[], object]) -> tuple[Reason, str]:
    with pytest.raises(LocalProtocolError) as caught:
        call()
    return caught.value.reason, caught.value.path


class TestMembers:
    def test_what_is_there(self) -> None:
        stored = at()
        assert stored.member("text", str) == "x"
        assert stored.member("nothing", str, type(None)) is None
        assert stored.member("list") == [1, "x"]
        assert stored.values("list", int, str) == [1, "x"]
        assert stored.object("maps").object("b/c").member("inner", int) == 2
        assert stored.optional("nothing") is None
        inner = stored.optional("map")
        assert inner is not None
        assert inner.member("a") == 1

    def test_whole_maps(self) -> None:
        assert list(at().items("map", int)) == [("a", 1), ("b", 2)]
        assert [(name, inner.member("inner")) for name, inner in at().objects("maps")] == [("a", 1), ("b/c", 2)]
        assert [inner.member("inner") for inner in at().elements("objects")] == [1, 2]

    @pytest.mark.parametrize(
        ("call", "reason", "path"),
        [
            (lambda: at(5), Reason.WRONG_TYPE, "/some/where"),
            (lambda: at(None), Reason.WRONG_TYPE, "/some/where"),
            (lambda: Stored([]), Reason.WRONG_TYPE, ""),
            (lambda: at().member("absent"), Reason.MISSING_MEMBER, "/some/where/absent"),
            (lambda: at().member("text", int), Reason.WRONG_TYPE, "/some/where/text"),
            (lambda: at().member("text", int, type(None)), Reason.WRONG_TYPE, "/some/where/text"),
            (lambda: at().member("yes", int), Reason.WRONG_TYPE, "/some/where/yes"),
            (lambda: at().object("list"), Reason.WRONG_TYPE, "/some/where/list"),
            (lambda: at().object("nothing"), Reason.WRONG_TYPE, "/some/where/nothing"),
            (lambda: at().optional("text"), Reason.WRONG_TYPE, "/some/where/text"),
            (lambda: at().optional("absent"), Reason.MISSING_MEMBER, "/some/where/absent"),
            (lambda: list(at().items("list")), Reason.WRONG_TYPE, "/some/where/list"),
            (lambda: list(at().items("maps", int)), Reason.WRONG_TYPE, "/some/where/maps/a"),
            (lambda: list(at().objects("map")), Reason.WRONG_TYPE, "/some/where/map/a"),
            (lambda: list(at().objects("absent")), Reason.MISSING_MEMBER, "/some/where/absent"),
            (lambda: list(at().elements("map")), Reason.WRONG_TYPE, "/some/where/map"),
            (lambda: list(at().elements("list")), Reason.WRONG_TYPE, "/some/where/list/0"),
            (
                lambda: [it.member("x") for it in at().elements("objects")],
                Reason.MISSING_MEMBER,
                "/some/where/objects/0/x",
            ),
            (lambda: at().values("map"), Reason.WRONG_TYPE, "/some/where/map"),
            (lambda: at().values("list", int), Reason.WRONG_TYPE, "/some/where/list/1"),
            (lambda: at().object("maps").object("b/c").member("no~where"), Reason.MISSING_MEMBER, None),
        ],
    )
    def test_what_is_not(self, call: Callable[[], object], reason: Reason, path: str | None) -> None:
        assert refused(call) == (reason, "/some/where/maps/b~1c/no~0where" if path is None else path)

    @pytest.mark.parametrize("tree", [{0: {}}, {"a": 1, None: 2}, {b"a": 1}])
    def test_names_are_strings(self, tree: Any) -> None:
        """No JSON document says otherwise; a Python object may."""
        assert refused(lambda: at(tree)) == (Reason.WRONG_TYPE, "/some/where")
        assert refused(lambda: list(at({"map": tree}).items("map"))) == (Reason.WRONG_TYPE, "/some/where/map")

    def test_the_version(self) -> None:
        at().require_version(1)
        assert refused(lambda: at().require_version(2)) == (Reason.INVALID_VALUE, "/some/where/version")
        assert refused(lambda: at({}).require_version(1)) == (Reason.MISSING_MEMBER, "/some/where/version")
        assert refused(lambda: at({"version": True}).require_version(1)) == (Reason.WRONG_TYPE, "/some/where/version")


class TestReading:
    @pytest.mark.parametrize(
        "error",
        [
            Refusal(Reason.WEAK_KEY, "it is weak", "keys", 0),
            RemoteProtocolError(Reason.WEAK_KEY, "it is weak", path="/keys/0"),
            LocalProtocolError(Reason.WEAK_KEY, "it is weak", path="/keys/0"),
            VerificationError(Reason.WEAK_KEY, "it is weak", path="/keys/0"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_whatever_is_refused_is_the_callers_fault(self, error: Exception) -> None:
        for names, path in (((), "/some/where/keys/0"), (("a/b", "c"), "/some/where/a~1b/c/keys/0")):
            with pytest.raises(LocalProtocolError) as caught, at().reading(*names):
                raise error
            assert (caught.value.reason, caught.value.detail, caught.value.path) == (
                Reason.WEAK_KEY,
                "it is weak",
                path,
            )

    def test_at_the_top_nothing_is_put_before_the_path(self) -> None:
        with pytest.raises(LocalProtocolError) as caught, Stored({}).reading():
            raise VerificationError(Reason.MISSING_SIGNATURE, "it is not signed", path="/x")
        assert (caught.value.reason, caught.value.path) == (Reason.MISSING_SIGNATURE, "/x")

    def test_mistakes_of_this_library_are_not_hidden(self) -> None:
        with pytest.raises(ZeroDivisionError), at().reading("x"):
            raise ZeroDivisionError
