"""Trust on first use, verification, and what becomes of both: every state and every event."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import E2EKeysError, Ed25519PublicKey, LocalProtocolError, Reason
from matrix_e2e_keys.client.users.identity import TRANSITIONS, IdentityEvent, IdentityPin, IdentityState
from matrix_e2e_keys.testing.samples import sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

A, B, C = (sample_secret_key(f"master {name}").public_key for name in "ABC")

UNKNOWN = IdentityPin()
PINNED = UNKNOWN.observe(A, vouched_for=False)
VERIFIED = UNKNOWN.observe(A, vouched_for=True)
LOST = VERIFIED.observe(A, vouched_for=False)
PIN_VIOLATION = PINNED.observe(B, vouched_for=False)
VERIFICATION_VIOLATION = VERIFIED.observe(B, vouched_for=False)
HEALED = VERIFICATION_VIOLATION.observe(A, vouched_for=False)
"""The verified key is back; that is not enough."""

PINS = {
    "unknown": UNKNOWN,
    "pinned": PINNED,
    "verified": VERIFIED,
    "verification-lost": LOST,
    "pin-violation": PIN_VIOLATION,
    "verification-violation": VERIFICATION_VIOLATION,
}

SHORT = {
    "p": "pinned",
    "v": "verified",
    "lost": "verification-lost",
    "P!": "pin-violation",
    "V!": "verification-violation",
}

TABLE = """
                        SAME  SAME_VERIFIED  OTHER  OTHER_VERIFIED  ACCEPTED  ACCEPTED_VERIFIED
unknown                 -     -              p      v               -         -
pinned                  p     v              P!     v               p         v
verified                lost  v              V!     v               p         v
verification-lost       lost  v              V!     v               p         v
pin-violation           p     v              P!     v               p         v
verification-violation  V!    V!             V!     v               p         v
"""


def cells() -> list[tuple[str, str, str]]:
    """State, event and what comes of them, or "-"."""
    head, *rows = TABLE.strip().splitlines()
    return [
        (row.split()[0], event, cell) for row in rows for event, cell in zip(head.split(), row.split()[1:], strict=True)
    ]


CELLS = [(state, event, SHORT[cell]) for state, event, cell in cells() if cell != "-"]
IMPOSSIBLE = {(state, event) for state, event, cell in cells() if cell == "-"}


def happens(pin: IdentityPin, event: str, *, other: Ed25519PublicKey = C) -> tuple[IdentityPin, Ed25519PublicKey]:
    """Let an event happen: the next pin, and the master key that it was about."""
    vouched_for = event.endswith("VERIFIED")
    if event.startswith("ACCEPTED"):
        key = pin.current
        assert key is not None
        return pin.accept(key, vouched_for=vouched_for), key
    key = other if event.startswith("OTHER") else pin.pinned
    assert key is not None
    return pin.observe(key, vouched_for=vouched_for), key


class TestTheTable:
    def test_the_states_are_reached(self) -> None:
        assert {name: str(pin.state) for name, pin in PINS.items()} == {name: name for name in PINS}
        assert set(PINS) == set(IdentityState)

    @pytest.mark.parametrize(("state", "event", "after"), CELLS)
    def test_every_event_in_every_state(self, state: str, event: str, after: str) -> None:
        """Attack 33: what follows from each master key that is seen, and from each decision."""
        pin = PINS[state]
        made, key = happens(pin, event)
        assert made.state == after
        assert made.current == key
        assert made.pinned == (pin.pinned if made.needs_approval else key)
        assert TRANSITIONS[IdentityState(state), IdentityEvent[event]] == after

    def test_the_table_is_complete(self) -> None:
        assert {(str(state), event.name) for state, event in TRANSITIONS} == {(s, e) for s, e, _ in CELLS}
        everything = {(str(state), event.name) for state, event in itertools.product(IdentityState, IdentityEvent)}
        assert everything - {(s, e) for s, e, _ in CELLS} == IMPOSSIBLE

    def test_what_is_not_in_it_cannot_happen(self) -> None:
        """Of an unknown user, no master key is the same one, and none can be accepted."""
        for vouched_for in (False, True):
            assert not UNKNOWN.observe(A, vouched_for=vouched_for).needs_approval
            with pytest.raises(LocalProtocolError) as caught:
                UNKNOWN.accept(A, vouched_for=vouched_for)
            assert caught.value.reason is Reason.IDENTITY_CHANGED
            assert UNKNOWN.review(vouched_for=vouched_for) is UNKNOWN

    def test_nobody_changes_it(self) -> None:
        table: Any = TRANSITIONS
        with pytest.raises(TypeError):
            table[IdentityState.PIN_VIOLATION, IdentityEvent.OTHER] = IdentityState.PINNED

    @pytest.mark.parametrize("pin", PINS.values(), ids=str)
    def test_which_states_stop_one(self, pin: IdentityPin) -> None:
        assert pin.needs_approval is str(pin.state).endswith("-violation")
        assert pin.is_verified is (pin.state == "verified")


class TestStories:
    def test_the_first_key_is_pinned(self) -> None:
        """Attack 33: trust on first use."""
        pin = UNKNOWN.observe(A, vouched_for=False)
        assert pin == IdentityPin(state=IdentityState.PINNED, pinned=A, current=A)
        assert PINNED.observe(A, vouched_for=False) == PINNED

    def test_a_violation_lasts_until_it_is_accepted(self) -> None:
        """Attack 33: seeing the new key often makes it no better."""
        pin = PIN_VIOLATION
        for _ in range(3):
            pin = pin.observe(B, vouched_for=False)
            assert (pin.state, pin.pinned, pin.current) == (IdentityState.PIN_VIOLATION, A, B)
        accepted = pin.accept(B)
        assert (accepted.state, accepted.pinned) == (IdentityState.PINNED, B)
        assert accepted.observe(A, vouched_for=False).state is IdentityState.PIN_VIOLATION

    def test_the_pinned_key_comes_back(self) -> None:
        assert PIN_VIOLATION.observe(A, vouched_for=False) == PINNED

    def test_the_verified_key_comes_back(self) -> None:
        """Attack 33: from A to B to A does not heal once A was verified, not even if it is verified."""
        assert (HEALED.state, HEALED.pinned, HEALED.current) == (IdentityState.VERIFICATION_VIOLATION, A, A)
        assert HEALED.observe(A, vouched_for=True) == HEALED
        assert HEALED.review(vouched_for=True) == HEALED
        assert HEALED.accept(A).state is IdentityState.PINNED
        assert HEALED.accept(A, vouched_for=True) == VERIFIED

    def test_a_third_key_after_a_violation(self) -> None:
        for pin in (PIN_VIOLATION, VERIFICATION_VIOLATION):
            third = pin.observe(C, vouched_for=False)
            assert (third.state, third.pinned, third.current) == (pin.state, A, C)

    def test_verifying_the_new_key_leads_out(self) -> None:
        for pin in (PIN_VIOLATION, VERIFICATION_VIOLATION):
            after = attrs.evolve(UNKNOWN.observe(B, vouched_for=True), retired=frozenset([A]))
            assert pin.observe(B, vouched_for=True) == after
            assert pin.review(vouched_for=True) == after

    def test_what_was_verified_once_is_not_forgotten(self) -> None:
        """Attack 33: a lost verification still makes a change worse."""
        assert LOST.observe(B, vouched_for=False).state is IdentityState.VERIFICATION_VIOLATION
        assert LOST.review(vouched_for=True) == VERIFIED

    def test_accepting_withdraws_it(self) -> None:
        """Then another key is a change like any other."""
        pin = VERIFICATION_VIOLATION.accept(B)
        assert pin == attrs.evolve(UNKNOWN.observe(B, vouched_for=False), retired=frozenset([A]))
        assert pin.observe(A, vouched_for=False).state is IdentityState.PIN_VIOLATION

    @pytest.mark.parametrize("how", ["accepted", "verified"])
    def test_a_retired_key_comes_back_with_the_signature_it_had(self, how: str) -> None:
        """Attack 42: whoever has stolen an old master key has its signatures, too."""
        pin = VERIFICATION_VIOLATION.accept(B) if how == "accepted" else VERIFIED.observe(B, vouched_for=True)
        assert pin.retired == {A}
        again = pin.observe(A, vouched_for=True)
        assert again.needs_approval
        assert again.review(vouched_for=True) == again
        assert IdentityPin.from_json(json.loads(json.dumps(again.to_json()))) == again
        taken = again.accept(A, vouched_for=True)
        assert (taken.state, taken.retired) == (IdentityState.VERIFIED, {B})

    @pytest.mark.parametrize(
        ("retired", "reason"),
        [([], Reason.WRONG_TYPE), (frozenset(["x"]), Reason.WRONG_TYPE), (frozenset([A]), Reason.INVALID_VALUE)],
    )
    def test_retired_keys_are_other_keys(self, retired: Any, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            attrs.evolve(PINNED, retired=retired)
        assert (caught.value.reason, caught.value.path) == (reason, "/retired")

    @pytest.mark.parametrize("pin", [PINNED, PIN_VIOLATION, VERIFICATION_VIOLATION, HEALED], ids=repr)
    def test_only_what_the_user_was_shown_is_accepted(self, pin: IdentityPin) -> None:
        """Attack 33: the server changes the key once more while the user looks at it."""
        for key in {A, B, C} - {pin.current}:
            with pytest.raises(LocalProtocolError) as caught:
                pin.accept(key)
            assert caught.value.reason is Reason.IDENTITY_CHANGED

    @pytest.mark.parametrize("pin", [PINNED, VERIFIED, LOST, PIN_VIOLATION, VERIFICATION_VIOLATION], ids=repr)
    def test_vanishing_changes_nothing_else(self, pin: IdentityPin) -> None:
        gone = pin.vanish()
        assert gone.is_vanished
        assert attrs.evolve(gone, is_vanished=False) == pin
        assert gone.vanish() == gone
        assert gone.observe(C, vouched_for=False) == pin.observe(C, vouched_for=False)
        assert not gone.observe(A, vouched_for=False).is_vanished
        assert gone.review(vouched_for=True).is_vanished
        assert pin.current is not None
        assert gone.accept(pin.current).is_vanished

    def test_nothing_is_nothing_to_vanish(self) -> None:
        assert UNKNOWN.vanish() == UNKNOWN

    @given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.booleans()), max_size=8))
    def test_no_key_takes_the_place_of_another_by_being_seen(self, seen: list[tuple[Ed25519PublicKey, bool]]) -> None:
        """Attack 33: without a decision, only a verified key ends up as the pinned one."""
        pin = UNKNOWN
        for key, vouched_for in seen:
            before, pin = pin, pin.observe(key, vouched_for=vouched_for)
            assert pin.current == key
            assert pin.is_verified <= vouched_for
            if before.pinned is not None and not vouched_for:
                assert pin.pinned == before.pinned
                assert pin.needs_approval >= (key != before.pinned)
            assert IdentityPin.from_json(pin.to_json()) == pin


STORED = PIN_VIOLATION.vanish().to_json()


class TestStoring:
    @pytest.mark.parametrize("pin", [*PINS.values(), HEALED, LOST.vanish()], ids=repr)
    def test_over_a_restart(self, pin: IdentityPin) -> None:
        assert IdentityPin.from_json(json.loads(json.dumps(pin.to_json()))) == pin

    def test_as_what(self) -> None:
        stored = PIN_VIOLATION.vanish().to_json()
        assert stored == {
            "state": "pin-violation",
            "pinned": A.to_base64(),
            "current": B.to_base64(),
            "is_vanished": True,
            "retired": [],
        }
        assert type(stored["state"]) is str

    @pytest.mark.parametrize(
        ("change", "reason", "path"),
        [
            ({"state": 5}, Reason.WRONG_TYPE, "/state"),
            ({"state": "Pinned"}, Reason.INVALID_VALUE, "/state"),
            ({"state": ""}, Reason.INVALID_VALUE, "/state"),
            ({"pinned": 5}, Reason.WRONG_TYPE, "/pinned"),
            ({"pinned": "x"}, Reason.INVALID_BASE64, "/pinned"),
            ({"pinned": "AAAA"}, Reason.WRONG_LENGTH, "/pinned"),
            ({"current": []}, Reason.WRONG_TYPE, "/current"),
            ({"current": "AQ" + "A" * 41}, Reason.WEAK_KEY, "/current"),
            ({"is_vanished": 0}, Reason.WRONG_TYPE, "/is_vanished"),
            # keys and state that do not go together
            ({"pinned": None}, Reason.INVALID_VALUE, ""),
            ({"current": None}, Reason.INVALID_VALUE, ""),
            ({"pinned": B.to_base64()}, Reason.INVALID_VALUE, ""),
            ({"state": "pinned"}, Reason.INVALID_VALUE, ""),
            ({"state": "verified"}, Reason.INVALID_VALUE, ""),
            ({"state": "verification-lost"}, Reason.INVALID_VALUE, ""),
            ({"state": "unknown"}, Reason.INVALID_VALUE, ""),
            ({"state": "unknown", "pinned": None}, Reason.INVALID_VALUE, ""),
            ({"state": "unknown", "current": None}, Reason.INVALID_VALUE, ""),
            ({"state": "unknown", "pinned": None, "current": None}, Reason.INVALID_VALUE, ""),
        ],
    )
    def test_what_was_not_stored_by_us(self, change: dict[str, Any], reason: Reason, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            IdentityPin.from_json({**STORED, **change})
        assert (caught.value.reason, caught.value.path) == (reason, path)

    @pytest.mark.parametrize("name", STORED)
    def test_every_member_is_needed(self, name: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            IdentityPin.from_json({member: value for member, value in STORED.items() if member != name})
        assert (caught.value.reason, caught.value.path) == (Reason.MISSING_MEMBER, f"/{name}")

    @given(json_like_values(), st.sampled_from([None, *STORED]))
    def test_no_foreign_exception(self, value: Any, name: str | None) -> None:
        with contextlib.suppress(E2EKeysError):
            IdentityPin.from_json(value if name is None else {**copy.deepcopy(STORED), name: value})


class TestCallers:
    def test_wrong_types(self) -> None:
        pin: Any = PINNED
        for call, path in (
            (lambda: pin.observe(A.to_base64(), vouched_for=True), "/master_key"),
            (lambda: pin.observe(None, vouched_for=True), "/master_key"),
            (lambda: pin.observe(A, vouched_for=1), "/vouched_for"),
            (lambda: pin.accept(A.raw), "/master_key"),
            (lambda: pin.accept(A, vouched_for=None), "/vouched_for"),
            (lambda: pin.review(vouched_for="yes"), "/vouched_for"),
            (lambda: IdentityPin(state="pinned", pinned=A, current=A), ""),  # type: ignore[arg-type]
            (lambda: IdentityPin(is_vanished=None), ""),  # type: ignore[arg-type]
        ):
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, path)

    @pytest.mark.parametrize("bad", ["x", 5, [], object()], ids=repr)
    def test_only_keys_are_pinned(self, bad: Any) -> None:
        several: list[dict[str, Any]] = [
            {"pinned": bad, "current": A},
            {"pinned": A, "current": bad},
            {"pinned": bad, "current": bad},
        ]
        for keys in several:
            for state in IdentityState:
                with pytest.raises(LocalProtocolError) as caught:
                    IdentityPin(state=state, **keys)
                assert caught.value.reason is Reason.INVALID_VALUE
