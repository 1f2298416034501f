"""Who has sent something, and how sure one is: every level of the scale, up and down, and over a restart."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st

from client.receive.olm_people import (
    ALICE_USER,
    BOB,
    BOB_USER,
    BOBS_TABLET,
    EVE,
    EVE_USER,
    LAPTOP,
    PHONE,
    known,
    learned,
    letter,
    person,
    without_keys,
)
from events.odd_values import Hostile, only_own_errors
from matrix_e2e_keys.canonical_json import encode_canonical_json
from matrix_e2e_keys.client.receive.olm_events import check_olm_event
from matrix_e2e_keys.client.receive.olm_judgments import OlmJudgment
from matrix_e2e_keys.client.receive.sender_values import OlmSender, SenderTrust
from matrix_e2e_keys.client.receive.senders import reassess_sender
from matrix_e2e_keys.client.users.identity import IdentityPin, IdentityState
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.signing.verifiers import LIBSODIUM
from matrix_e2e_keys.stored import Stored

UNKNOWN, DEVICE, CHANGED, UNVERIFIED, VERIFIED = SenderTrust
ALICE = ALICE_USER.user_id
OLD_ALICE = evolve(ALICE_USER, generation=1)
"""Alice with another identity."""

Known = Mapping[str, KnownUser]


def with_pin(users: Known, change: Callable[[IdentityPin], IdentityPin]) -> Known:
    return {**users, ALICE: users[ALICE].with_pin(change(users[ALICE].pin))}


def with_trust(users: Known, trust: LocalTrust) -> Known:
    return {**users, ALICE: users[ALICE].with_trust(PHONE.ed25519_key, trust)}


def colliding(users: Known) -> Known:
    return {**users, ALICE: evolve(users[ALICE], collision="COLLIDING")}


def alice(state: IdentityState, *devices: DeviceKeys) -> Known:
    """What Bob knows of Alice after answers that lead to a state of her identity."""
    verified = state in (IdentityState.VERIFIED, IdentityState.VERIFICATION_LOST)
    if state is IdentityState.UNKNOWN:
        users = learned({}, ALICE_USER, devices, with_identity=False)
    elif state is IdentityState.PIN_VIOLATION:
        users = learned(known(OLD_ALICE), ALICE_USER, devices)
    elif state is IdentityState.VERIFICATION_VIOLATION:
        users = learned(known(OLD_ALICE, verified=True), ALICE_USER, devices)
    else:
        users = known(ALICE_USER, *devices, verified=verified)
    if state is IdentityState.VERIFICATION_LOST:
        users = with_pin(users, lambda pin: pin.review(vouched_for=False))
    assert users[ALICE].pin.state is state
    return users


SIGNED, PLAIN = PHONE.signed_keys, PHONE.keys()
S = IdentityState


@frozen(kw_only=True)
class Case:
    """What is known, and how sure one is: of a letter with cross-signed device keys, with plain ones, without any.

    ``None``: it is refused.
    """

    users: Known
    signed: SenderTrust | None
    plain: SenderTrust | None
    without: SenderTrust | None


def trusts(users: Known, signed: SenderTrust | None, plain: SenderTrust | None, without: SenderTrust | None) -> Case:
    return Case(users=users, signed=signed, plain=plain, without=without)


CASES = {
    "nothing is known": trusts({}, DEVICE, DEVICE, UNKNOWN),
    "others are known": trusts(known(EVE_USER, EVE.signed_keys), DEVICE, DEVICE, UNKNOWN),
    "no identity": trusts(alice(S.UNKNOWN, PLAIN), DEVICE, DEVICE, DEVICE),
    "no identity, and signed by one": trusts(alice(S.UNKNOWN, SIGNED), DEVICE, DEVICE, DEVICE),
    "pinned": trusts(alice(S.PINNED, SIGNED), UNVERIFIED, UNVERIFIED, UNVERIFIED),
    "pinned, served unsigned": trusts(alice(S.PINNED, PLAIN), UNVERIFIED, DEVICE, DEVICE),
    "pinned, not served": trusts(alice(S.PINNED), UNVERIFIED, DEVICE, UNKNOWN),
    "pinned, another is served": trusts(alice(S.PINNED, LAPTOP.signed_keys), UNVERIFIED, DEVICE, UNKNOWN),
    "verified": trusts(alice(S.VERIFIED, SIGNED), VERIFIED, VERIFIED, VERIFIED),
    "verified, served unsigned": trusts(alice(S.VERIFIED, PLAIN), VERIFIED, DEVICE, DEVICE),
    "verified, not served": trusts(alice(S.VERIFIED), VERIFIED, DEVICE, UNKNOWN),
    "verification lost": trusts(alice(S.VERIFICATION_LOST, SIGNED), UNVERIFIED, UNVERIFIED, UNVERIFIED),
    "pin violated": trusts(alice(S.PIN_VIOLATION, SIGNED), CHANGED, CHANGED, CHANGED),
    "pin violated, served unsigned": trusts(alice(S.PIN_VIOLATION, PLAIN), CHANGED, DEVICE, DEVICE),
    "pin violated, not served": trusts(alice(S.PIN_VIOLATION), CHANGED, DEVICE, UNKNOWN),
    "verification violated": trusts(alice(S.VERIFICATION_VIOLATION, SIGNED), CHANGED, CHANGED, CHANGED),
    "the new identity was accepted": trusts(
        with_pin(alice(S.PIN_VIOLATION, SIGNED), lambda pin: pin.accept(ALICE_USER.master_public_key)),
        UNVERIFIED,
        UNVERIFIED,
        UNVERIFIED,
    ),
    "signed by an identity of before": trusts(learned({}, OLD_ALICE, [SIGNED]), DEVICE, DEVICE, DEVICE),
    "the identity is gone": trusts(
        learned(alice(S.VERIFIED, SIGNED), ALICE_USER, [SIGNED], with_identity=False), VERIFIED, VERIFIED, VERIFIED
    ),
    "collision": trusts(colliding(alice(S.PINNED, SIGNED)), CHANGED, CHANGED, CHANGED),
    "collision, verified": trusts(colliding(alice(S.VERIFIED, SIGNED)), CHANGED, CHANGED, CHANGED),
    "collision, served unsigned": trusts(colliding(alice(S.VERIFIED, PLAIN)), CHANGED, DEVICE, DEVICE),
    "device verified, no identity": trusts(
        with_trust(alice(S.UNKNOWN, PLAIN), LocalTrust.VERIFIED), VERIFIED, VERIFIED, VERIFIED
    ),
    "device verified, not served": trusts(
        with_trust(alice(S.PINNED), LocalTrust.VERIFIED), VERIFIED, VERIFIED, UNKNOWN
    ),
    "device verified, pin violated": trusts(
        with_trust(alice(S.PIN_VIOLATION, SIGNED), LocalTrust.VERIFIED), VERIFIED, VERIFIED, VERIFIED
    ),
    "device blacklisted": trusts(with_trust(alice(S.VERIFIED, SIGNED), LocalTrust.BLACKLISTED), DEVICE, DEVICE, DEVICE),
    "device blacklisted, not served": trusts(
        with_trust(alice(S.VERIFIED), LocalTrust.BLACKLISTED), DEVICE, DEVICE, UNKNOWN
    ),
    "device ignored": trusts(with_trust(alice(S.VERIFIED, SIGNED), LocalTrust.IGNORED), VERIFIED, VERIFIED, VERIFIED),
    "device ignored, unsigned": trusts(
        with_trust(alice(S.PINNED, PLAIN), LocalTrust.IGNORED), UNVERIFIED, DEVICE, DEVICE
    ),
    "device removed": trusts(
        learned(alice(S.VERIFIED, SIGNED), ALICE_USER, [], verified=True), VERIFIED, DEVICE, UNKNOWN
    ),
    "removed, and back with other keys": trusts(
        learned(
            learned(alice(S.VERIFIED, SIGNED), ALICE_USER, [], verified=True),
            ALICE_USER,
            [person(ALICE_USER, "PHONE").signed_keys],
            verified=True,
        ),
        None,
        None,
        UNKNOWN,
    ),
    "its Olm identity key has changed": trusts(
        alice(S.PINNED, PHONE.keys(curve25519_key=person(ALICE_USER, "X").curve25519_key, cross_signed_by=ALICE_USER)),
        UNVERIFIED,
        DEVICE,
        None,
    ),
}


def trust_of(judgment: OlmJudgment) -> SenderTrust | None:
    return None if judgment.event is None else judgment.event.sender.trust


class TestTheScale:
    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_every_level(self, case: Case) -> None:
        """Attacks 33, 35 and 38: what is known, against what came along."""
        assert trust_of(letter(keys=SIGNED).judged(known=case.users)) == case.signed
        assert trust_of(letter(keys=PLAIN).judged(known=case.users)) == case.plain
        assert trust_of(without_keys(letter()).judged(known=case.users)) == case.without

    def test_every_level_is_reached(self) -> None:
        reached = {trust for case in CASES.values() for trust in (case.signed, case.plain, case.without)}
        assert reached == {*SenderTrust, None}

    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_more_that_came_along_makes_nobody_less_sure(self, case: Case) -> None:
        sure = [trust for trust in (case.without, case.plain, case.signed) if trust is not None]
        assert sure == sorted(sure)

    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_what_a_sender_says(self, case: Case) -> None:
        for it in (letter(keys=SIGNED), letter(keys=PLAIN), without_keys(letter())):
            event = it.judged(known=case.users).event
            if event is None:
                continue
            sender = event.sender
            assert (sender.user_id, sender.curve25519_key, sender.ed25519_key) == (
                ALICE,
                PHONE.curve25519_key,
                PHONE.ed25519_key,
            )
            assert (sender.device is None) is (sender.trust is UNKNOWN)
            user = case.users.get(ALICE)
            if sender.device is None or user is None:
                assert sender.local_trust is LocalTrust.UNSET
            else:
                assert sender.local_trust is user.local_trust.get(PHONE.ed25519_key, LocalTrust.UNSET)
                assert sender.device.device_id == "PHONE"
                if sender.device.is_cross_signed:
                    assert user.identity is not None
                    assert sender.device.cross_signed_by == user.identity.self_signing_public_key

    def test_the_order_is_that_of_the_scale(self) -> None:
        scale = [UNKNOWN, DEVICE, CHANGED, UNVERIFIED, VERIFIED]
        assert sorted({*scale}) == scale
        for i, one in enumerate(scale):
            assert one.level == i
            for j, other in enumerate(scale):
                assert (one < other, one <= other, one > other, one >= other) == (i < j, i <= j, i > j, i >= j)
                assert one.is_at_least(other) is (i >= j)

    @pytest.mark.parametrize("other", ["verified", LocalTrust.VERIFIED])
    def test_is_not_compared_with_a_text(self, other: Any) -> None:
        """In the order of the alphabet an unknown device would be surer than a changed owner."""
        for compare in (
            lambda: VERIFIED.__lt__(other),
            lambda: VERIFIED.__le__(other),
            lambda: VERIFIED.__gt__(other),
            lambda: VERIFIED.__ge__(other),
            lambda: VERIFIED.is_at_least(other),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                compare()
            assert caught.value.path == "/other"

    def test_names_are_stable(self) -> None:
        assert [str(trust) for trust in SenderTrust] == [
            "unknown-device",
            "device-known",
            "owner-changed",
            "unverified",
            "verified",
        ]
        assert SenderTrust("verified") is VERIFIED


class TestWhichDevice:
    def test_of_two_with_the_same_keys_the_one_that_is_cross_signed(self) -> None:
        """A device has given itself two names, and its owner has signed one of them."""
        for listed in (
            [PLAIN, PHONE.keys(device_id="A", cross_signed_by=ALICE_USER)],
            [PHONE.keys(device_id="A"), SIGNED],
        ):
            for order in (listed, listed[::-1]):
                users = known(ALICE_USER, *order)
                assert len(users[ALICE].devices) == 2
                sender = sender_of(without_keys(letter()).judged(known=users))
                assert sender.device is not None
                assert (sender.device.is_cross_signed, sender.trust) == (True, UNVERIFIED)

    def test_the_one_that_came_along_if_it_is_one_of_them(self) -> None:
        users = known(ALICE_USER, PHONE.keys(device_id="A", cross_signed_by=ALICE_USER), PLAIN)
        sender = sender_of(letter(keys=PLAIN).judged(known=users))
        assert sender.device is not None
        assert (sender.device.device_id, sender.trust) == ("PHONE", DEVICE)

    def test_what_the_server_serves_if_it_is_not_worse(self) -> None:
        newer = PHONE.keys(extra={"more": 1}, cross_signed_by=ALICE_USER)
        users = known(ALICE_USER, newer)
        assert sender_of(letter(keys=PLAIN).judged(known=users)).device == users[ALICE].devices["PHONE"]
        assert sender_of(letter(keys=SIGNED).judged(known=users)).device == _verified(SIGNED, users)
        unsigned = known(ALICE_USER, PHONE.keys(extra={"more": 1}))
        assert sender_of(letter(keys=PLAIN).judged(known=unsigned)).device == PLAIN.verify()

    def test_one_of_oneself(self) -> None:
        for verified, trust in ((True, VERIFIED), (False, UNVERIFIED)):
            users = known(BOB_USER, BOBS_TABLET.signed_keys, verified=verified)
            assert trust_of(letter(BOBS_TABLET).judged(known=users)) is trust

    def test_the_cross_signature_of_another_user_is_none(self) -> None:
        """Attack 43: Eve's self-signing key under Alice's name, and her own."""
        signer = EVE_USER.secret("self_signing").cross_signer()
        users = {**alice(S.VERIFIED), **known(EVE_USER, verified=True)}
        for entity in (ALICE, EVE_USER.user_id):
            keys = PLAIN.with_signed(add_signature(PLAIN.signed, entity=entity, signer=signer))
            assert trust_of(letter(keys=keys).judged(known=users)) is DEVICE

    def test_the_master_key_does_not_sign_devices(self) -> None:
        """Attack 43."""
        signer = ALICE_USER.secret("master").cross_signer()
        keys = PLAIN.with_signed(add_signature(PLAIN.signed, entity=ALICE, signer=signer))
        assert trust_of(letter(keys=keys).judged(known=alice(S.VERIFIED))) is DEVICE


def _verified(keys: DeviceKeys, users: Known) -> object:
    return keys.verify(identity=users[ALICE].identity)


def sender_of(judgment: OlmJudgment) -> OlmSender:
    return judgment.require().sender


# --------------------------------------------------------------------------------------------------------------
# Looking again
# --------------------------------------------------------------------------------------------------------------

FIRST: dict[str, OlmSender] = {
    "unknown": sender_of(without_keys(letter()).judged()),
    "device": sender_of(letter(keys=SIGNED).judged()),
    "plain device": sender_of(letter(keys=PLAIN).judged()),
    "changed": sender_of(letter(keys=SIGNED).judged(known=alice(S.PIN_VIOLATION, SIGNED))),
    "unverified": sender_of(letter(keys=SIGNED).judged(known=alice(S.PINNED, SIGNED))),
    "verified": sender_of(letter(keys=SIGNED).judged(known=alice(S.VERIFIED, SIGNED))),
    "by hand": sender_of(letter(keys=PLAIN).judged(known=with_trust(alice(S.UNKNOWN, PLAIN), LocalTrust.VERIFIED))),
}

NOW: dict[str, tuple[Known, dict[str, SenderTrust]]] = {
    "as before, nobody is known": ({}, {name: sender.trust for name, sender in FIRST.items()}),
    "pinned, served signed": (
        alice(S.PINNED, SIGNED),
        dict.fromkeys(FIRST, UNVERIFIED),
    ),
    "pinned, served unsigned": (
        alice(S.PINNED, PLAIN),
        {**dict.fromkeys(FIRST, UNVERIFIED), "unknown": DEVICE, "plain device": DEVICE, "by hand": DEVICE},
    ),
    "pinned, not served": (
        alice(S.PINNED),
        {**dict.fromkeys(FIRST, UNVERIFIED), "unknown": UNKNOWN, "plain device": DEVICE, "by hand": DEVICE},
    ),
    "verified, served signed": (alice(S.VERIFIED, SIGNED), dict.fromkeys(FIRST, VERIFIED)),
    "verification lost": (alice(S.VERIFICATION_LOST, SIGNED), dict.fromkeys(FIRST, UNVERIFIED)),
    "another identity, which signed it": (alice(S.PIN_VIOLATION, SIGNED), dict.fromkeys(FIRST, CHANGED)),
    "another identity, which did not": (
        learned(known(ALICE_USER), OLD_ALICE, [PLAIN]),
        {**dict.fromkeys(FIRST, CHANGED), **dict.fromkeys(["unknown", "device", "plain device", "by hand"], DEVICE)},
    ),
    "another identity, which one has verified since": (
        learned({}, OLD_ALICE, [PLAIN], verified=True),
        {**dict.fromkeys(FIRST, CHANGED), **dict.fromkeys(["unknown", "device", "plain device", "by hand"], DEVICE)},
    ),
    "the identity is not known any more": (
        alice(S.UNKNOWN, SIGNED),
        {**dict.fromkeys(FIRST, CHANGED), **dict.fromkeys(["unknown", "device", "plain device", "by hand"], DEVICE)},
    ),
    "a collision": (colliding(alice(S.VERIFIED, SIGNED)), dict.fromkeys(FIRST, CHANGED)),
    "verified by hand": (
        with_trust(alice(S.PIN_VIOLATION, PLAIN), LocalTrust.VERIFIED),
        dict.fromkeys(FIRST, VERIFIED),
    ),
    "blacklisted": (with_trust(alice(S.VERIFIED, SIGNED), LocalTrust.BLACKLISTED), dict.fromkeys(FIRST, DEVICE)),
    "removed": (
        learned(alice(S.VERIFIED, SIGNED), ALICE_USER, [], verified=True),
        {**dict.fromkeys(FIRST, VERIFIED), "unknown": UNKNOWN, "plain device": DEVICE, "by hand": DEVICE},
    ),
    "removed, and another has its name": (
        alice(S.VERIFIED, person(ALICE_USER, "PHONE").signed_keys),
        {**dict.fromkeys(FIRST, VERIFIED), "unknown": UNKNOWN, "plain device": DEVICE, "by hand": DEVICE},
    ),
}

REFUSED: dict[str, Known] = {
    "its Olm identity key is another's": alice(
        S.PINNED, person(ALICE_USER, "X").keys(curve25519_key=PHONE.curve25519_key)
    ),
    "its signing key is that of another Olm identity key": alice(
        S.PINNED, PHONE.keys(curve25519_key=person(ALICE_USER, "X").curve25519_key)
    ),
}


class TestLookingAgain:
    @pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
    @pytest.mark.parametrize(("users", "expected"), NOW.values(), ids=NOW)
    def test_up_and_down(self, users: Known, expected: dict[str, SenderTrust], first: OlmSender) -> None:
        """Attacks 32 and 33: what one knows now counts, and what was signed once is not forgotten."""
        (name,) = [name for name, sender in FIRST.items() if sender is first]
        again = reassess_sender(first, known=users)
        assert again.trust is expected[name]
        assert again.is_the_same_device_as(first)
        assert (again.device is None) is (again.trust is UNKNOWN)
        assert again.local_trust is (
            users[ALICE].local_trust.get(PHONE.ed25519_key, LocalTrust.UNSET)
            if users and again.device is not None
            else first.local_trust
        )
        assert reassess_sender(again, known=users) == again

    @pytest.mark.parametrize("users", REFUSED.values(), ids=REFUSED)
    def test_keys_that_do_not_belong_together(self, users: Known) -> None:
        """Attack 38: a sender of an unknown device turns out to have named another's key."""
        with pytest.raises(VerificationError) as caught:
            reassess_sender(FIRST["unknown"], known=users)
        assert caught.value.reason is Reason.SENDER_KEY_MISMATCH
        for name, first in FIRST.items():
            if name != "unknown":  # each of the keys has named the other
                assert reassess_sender(first, known=users).device is not None

    @pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
    def test_a_device_that_only_receives(self, first: OlmSender) -> None:
        with pytest.raises(VerificationError) as caught:
            reassess_sender(first, known=alice(S.PINNED, PHONE.keys(extra={"dehydrated": True})))
        assert caught.value.reason is Reason.DEHYDRATED_SENDER

    def test_after_a_blacklisting_was_taken_back(self) -> None:
        users = alice(S.VERIFIED, SIGNED)
        blacklisted = reassess_sender(FIRST["verified"], known=with_trust(users, LocalTrust.BLACKLISTED))
        assert (blacklisted.trust, blacklisted.local_trust) == (DEVICE, LocalTrust.BLACKLISTED)
        assert reassess_sender(blacklisted, known=users).trust is VERIFIED

    def test_the_device_of_the_server_takes_the_place_of_an_unsigned_one(self) -> None:
        users = alice(S.PINNED, SIGNED)
        assert reassess_sender(FIRST["plain device"], known=users).device == users[ALICE].devices["PHONE"]
        under_another_name = known(ALICE_USER, PHONE.keys(device_id="A", cross_signed_by=ALICE_USER))
        again = reassess_sender(FIRST["plain device"], known=under_another_name)
        assert (again.device, again.trust) == (PLAIN.verify(), DEVICE)

    def test_only_its_own_user_matters(self) -> None:
        first = FIRST["unverified"]
        assert reassess_sender(first, known=known(EVE_USER, EVE.signed_keys)) is first

    def test_of_other_types(self) -> None:
        users = alice(S.PINNED, SIGNED)
        good: dict[str, Any] = {"sender": FIRST["device"], "known": users, "verifier": LIBSODIUM}
        for name in good:

            def call(value: Any, name: str = name) -> object:
                values = {**good, name: value}
                return reassess_sender(values.pop("sender"), **values)

            assert only_own_errors(call) > 25
        for method in (FIRST["device"].is_the_same_device_as, VERIFIED.is_at_least):
            assert only_own_errors(method) > 30
        for name, value in (
            ("sender", SIGNED.verify()),
            ("known", None),
            ("known", Hostile()),
            ("known", {ALICE: SIGNED}),
            ("known", {ALICE: KnownUser(user_id="@x:y")}),
            ("verifier", object()),
        ):
            values = {**good, name: value}
            with pytest.raises(LocalProtocolError) as caught:
                reassess_sender(values.pop("sender"), **values)
            assert caught.value.path.startswith(f"/{name}")

    def test_the_verifier_is_looked_at_also_if_there_is_nothing_to_ask(self) -> None:
        verifier: Any = 5
        with pytest.raises(LocalProtocolError) as caught:
            reassess_sender(FIRST["unknown"], known={}, verifier=verifier)
        assert caught.value.path == "/verifier"

    def test_a_verifier_that_says_no(self) -> None:
        class No:
            def verify_many(self, questions: Any, /) -> Any:
                return [False for _ in questions]

        with pytest.raises(VerificationError) as caught:
            reassess_sender(FIRST["verified"], known=alice(S.PINNED), verifier=No())
        assert caught.value.reason is Reason.INVALID_SIGNATURE

    def test_a_verifier_that_raises(self) -> None:
        class Raising:
            def verify_many(self, questions: Any, /) -> Any:
                raise ZeroDivisionError

        with pytest.raises(LocalProtocolError) as caught:
            reassess_sender(FIRST["verified"], known=alice(S.PINNED), verifier=Raising())
        assert caught.value.path == "/verifier"


# --------------------------------------------------------------------------------------------------------------
# Values, and a restart
# --------------------------------------------------------------------------------------------------------------

BLACKLISTED = reassess_sender(FIRST["verified"], known=with_trust(alice(S.VERIFIED), LocalTrust.BLACKLISTED))


def restored(obj: Any) -> OlmSender:
    return OlmSender.restore(Stored(obj, "sender"))


class TestValues:
    def test_cannot_be_forged(self) -> None:
        sender = FIRST["device"]
        forgeries: list[Callable[[], object]] = [
            lambda: evolve(sender, trust=VERIFIED),
            lambda: OlmSender(*[getattr(sender, name) for name in ("user_id", "curve25519_key", "ed25519_key")]),
            lambda: sender.__init__(sender.user_id),  # type: ignore[misc]
            lambda: type("Mine", (OlmSender,), {}),
        ]
        for forge in forgeries:
            with pytest.raises(LocalProtocolError):
                forge()
        assert sender.trust is DEVICE

    def test_the_same_device(self) -> None:
        for sender in FIRST.values():
            assert sender.is_the_same_device_as(FIRST["unknown"])
        assert not FIRST["device"].is_the_same_device_as(sender_of(letter(LAPTOP).judged()))
        renamed = sender_of(letter(keys=PHONE.keys(device_id="X")).judged())
        assert renamed.is_the_same_device_as(FIRST["device"])

    def test_another_user_with_the_same_keys_is_another(self) -> None:
        it = letter(evolve(PHONE, user=EVE_USER))
        assert not sender_of(it.judged()).is_the_same_device_as(FIRST["device"])

    def test_how_it_is_shown(self) -> None:
        assert repr(FIRST["unknown"]) == "<OlmSender '@alice:a.example', unknown device, unknown-device>"
        assert repr(FIRST["verified"]) == "<OlmSender '@alice:a.example', 'PHONE', verified>"


class TestStorage:
    @pytest.mark.parametrize("sender", [*FIRST.values(), BLACKLISTED], ids=[*FIRST, "blacklisted"])
    def test_survives_a_restart(self, sender: OlmSender) -> None:
        again = restored(json.loads(json.dumps(sender.to_json())))
        assert again.to_json() == sender.to_json()
        assert (again.trust, again.local_trust) == (sender.trust, sender.local_trust)
        assert again.is_the_same_device_as(sender)
        # By whom the device was cross-signed is for the next look to say.
        users = alice(S.VERIFIED, SIGNED)
        assert reassess_sender(again, known=users) == reassess_sender(sender, known=users)
        violated = alice(S.UNKNOWN)
        assert reassess_sender(again, known=violated) == reassess_sender(sender, known=violated)

    @pytest.mark.parametrize(
        "beside",
        [
            {"unsigned": {"x": "\ud800"}},
            {"unsigned": {"x": 1.5}},
            {"unsigned": {"x": 2**90}},
            {"signatures": {"@x:y": {"ed25519:\ud800": "b"}}},
        ],
        ids=repr,
    )
    def test_whatever_a_stranger_sends_beside_what_is_signed_can_be_written(self, beside: dict[str, Any]) -> None:
        it = letter()
        keys = it.payload["sender_device_keys"]
        keys.update({**beside, "signatures": {**keys["signatures"], **beside.get("signatures", {})}})
        # As ASCII, since no UTF-8 has a lone surrogate; ratchets pass on whatever bytes there are.
        plaintext = json.dumps(it.payload).encode("ascii")
        sender = sender_of(check_olm_event(it.received, plaintext, own=BOB.device, known={}))
        stored = sender.to_json()
        assert sender.device is not None
        assert encode_canonical_json(stored)
        again = restored(json.loads(json.dumps(stored, ensure_ascii=False).encode("utf-8")))
        assert again.to_json() == stored
        assert again.device == sender.device

    @pytest.mark.parametrize(
        ("name", "value", "path"),
        [
            ("user_id", "alice", "/sender/user_id"),
            ("user_id", 5, "/sender/user_id"),
            ("user_id", "@eve:e.example", "/sender/device"),
            ("curve25519_key", "AAAA", "/sender/curve25519_key"),
            ("curve25519_key", None, "/sender/curve25519_key"),
            ("curve25519_key", EVE.curve25519_key.to_base64(), "/sender/device"),
            ("ed25519_key", "!", "/sender/ed25519_key"),
            ("ed25519_key", EVE.ed25519_key.to_base64(), "/sender/device"),
            ("trust", "unknown", "/sender/trust"),
            ("trust", "unknown-device", "/sender/trust"),
            ("trust", ["verified"], "/sender/trust"),
            ("local_trust", "trusted", "/sender/local_trust"),
            ("local_trust", 5, "/sender/local_trust"),
            ("local_trust", "verified", "/sender/local_trust"),
            ("local_trust", "blacklisted", "/sender/local_trust"),
            ("device", None, "/sender/trust"),
            ("device", [], "/sender/device"),
            ("device", {}, "/sender/device/user_id"),
            ("device", LAPTOP.signed_keys.to_json(), "/sender/device"),
            ("device", PHONE.keys(extra={"dehydrated": True}).to_json(), "/sender/device"),
            (
                "device",
                {**SIGNED.to_json(), "more": 1},
                f"/sender/device/signatures/{ALICE}/ed25519:PHONE",
            ),
        ],
        ids=itertools.count(),
    )
    def test_that_is_damaged(self, name: str, value: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            restored({**FIRST["unverified"].to_json(), name: value})
        assert caught.value.path == path

    @pytest.mark.parametrize("name", [*FIRST["unknown"].to_json()])
    def test_without_a_member(self, name: str) -> None:
        obj = FIRST["unverified"].to_json()
        del obj[name]
        with pytest.raises(LocalProtocolError) as caught:
            restored(obj)
        assert (caught.value.reason, caught.value.path) == (Reason.MISSING_MEMBER, f"/sender/{name}")

    @pytest.mark.parametrize("decided", ["verified", "blacklisted", "ignored"])
    def test_nothing_was_decided_about_an_unknown_device(self, decided: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            restored({**FIRST["unknown"].to_json(), "local_trust": decided})
        assert caught.value.path == "/sender/local_trust"

    @pytest.mark.parametrize("trust", [DEVICE, CHANGED, UNVERIFIED, VERIFIED])
    def test_an_unknown_device_is_not_trusted(self, trust: SenderTrust) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            restored({**FIRST["unknown"].to_json(), "trust": str(trust)})
        assert caught.value.path == "/sender/trust"

    @given(
        st.sampled_from([*FIRST["unverified"].to_json()]), st.recursive(st.none() | st.text() | st.integers(), st.lists)
    )
    def test_anything_may_stand_there(self, name: str, value: Any) -> None:
        obj = {**FIRST["unverified"].to_json(), name: value}
        with contextlib.suppress(LocalProtocolError):
            assert restored(obj).to_json() == obj

    def test_of_another_type(self) -> None:
        assert only_own_errors(lambda value: OlmSender.restore(Stored(value))) > 30
        assert only_own_errors(OlmSender.from_json) > 30

    @pytest.mark.parametrize("name", list(FIRST))
    def test_by_itself(self, name: str) -> None:
        obj = json.loads(json.dumps(FIRST[name].to_json()))
        assert OlmSender.from_json(obj).to_json() == obj == FIRST[name].to_json()

    def test_by_itself_with_a_verifier(self) -> None:
        class Refusing:
            def verify_many(self, questions: Any) -> list[bool]:
                return [False for _ in questions]

        with pytest.raises(LocalProtocolError) as caught:
            OlmSender.from_json(FIRST["verified"].to_json(), verifier=Refusing())
        assert caught.value.path.startswith("/device")
        with pytest.raises(LocalProtocolError) as caught:
            OlmSender.from_json(FIRST["unknown"].to_json(), verifier=5)  # type: ignore[arg-type]
        assert caught.value.path == "/verifier"
