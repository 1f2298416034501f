"""Asking one's other devices: whom, whose answers are believed, who is told that it is settled, and over a restart."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
from attrs import evolve, frozen

from client.receive.megolm_people import OTHER_ROOM, ROOM, Group, forward, room_key, room_key_content
from client.receive.olm_people import (
    BOB,
    BOB_USER,
    BOBS_TABLET,
    EVE,
    EVE_USER,
    PHONE,
    Person,
    known,
    learned,
    letter,
    person,
    signed_anew,
    without_keys,
)
from events.megolm_samples import exported_id_of
from events.odd_values import ODD, Text, only_own_errors, refusal
from matrix_e2e_keys.algorithms import MEGOLM_V1
from matrix_e2e_keys.client.receive.accepted_answers import AcceptedForward, AcceptedSecret
from matrix_e2e_keys.client.receive.key_requests import KeyRequests, OutgoingMessages
from matrix_e2e_keys.client.receive.olm_judgments import DecryptedOlmEvent, new_decrypted_event
from matrix_e2e_keys.client.receive.received_sessions import session_of_own
from matrix_e2e_keys.client.receive.sender_values import OlmSender, SenderTrust
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, RemoteProtocolError, VerificationError
from matrix_e2e_keys.events.key_requests import RoomKeyRequestContent
from matrix_e2e_keys.events.room_keys import RoomKeyContent
from matrix_e2e_keys.events.secrets import SecretName, SecretRequestContent
from matrix_e2e_keys.events.to_device_batches import to_device_requests
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.testing.samples import sample_curve25519_key

R = Reason
ME = BOB_USER.user_id
GROUP, OTHER_GROUP = Group(), Group()
SESSION = GROUP.session_id
BACKUP, MASTER = SecretName.MEGOLM_BACKUP_V1, SecretName.CROSS_SIGNING_MASTER
SECRET = "SECRETSECRET"

LAPTOP, PAD = person(BOB_USER, "LAPTOP"), person(BOB_USER, "PAD")
NEW_TABLET = person(BOB_USER, "TABLET")
"""A device that has the name of the tablet, and other keys."""
RESEALED = BOBS_TABLET.keys(cross_signed_by=BOB_USER, curve25519_key=NEW_TABLET.curve25519_key)
"""The keys of the tablet, with another Olm identity key."""
SWAPPED = NEW_TABLET.keys(cross_signed_by=BOB_USER, curve25519_key=BOBS_TABLET.curve25519_key)
"""The name and the Olm identity key of the tablet, with another signing key."""
RENAMED = BOBS_TABLET.keys(cross_signed_by=BOB_USER, device_id="OTHER")
"""The keys of the tablet under another name."""
EVES_TABLET = person(EVE_USER, "TABLET")
EVE_WITH_ITS_KEYS = Person(user=EVE_USER, device_id="TABLET", account=BOBS_TABLET.account)
BOB_AGAIN = evolve(BOB_USER, generation=1)
"""Oneself with another identity."""
CHANGED_IDENTITY = learned(
    known(BOB_USER, BOB.signed_keys, verified=True), BOB_AGAIN, [BOBS_TABLET.keys(cross_signed_by=BOB_AGAIN)]
)[ME]


def me(*devices: DeviceKeys, verified: bool = True) -> KnownUser:
    """What is known of oneself if one has these devices."""
    return known(BOB_USER, BOB.signed_keys, *devices, verified=verified)[ME]


TABLET_ONLY = me(BOBS_TABLET.signed_keys)
LAPTOP_ONLY = me(LAPTOP.signed_keys)
BOTH = me(BOBS_TABLET.signed_keys, LAPTOP.signed_keys)
NEITHER = me()


def blacklisting(user: KnownUser, *people: Person) -> KnownUser:
    for one in people:
        user = user.with_trust(one.ed25519_key, LocalTrust.BLACKLISTED)
    return user


def requests() -> KeyRequests:
    return KeyRequests(own_user_id=ME, own_device_id=BOB.device_id)


def again(made: KeyRequests) -> KeyRequests:
    """The same after a restart."""
    return KeyRequests.from_json(json.loads(json.dumps(made.to_json())))


def answer(
    event_type: str,
    content: Mapping[str, Any],
    *,
    sender: Person = BOBS_TABLET,
    own: KnownUser = BOTH,
    keys: DeviceKeys | None = None,
) -> DecryptedOlmEvent:
    """What came through Olm from a device, while this was known of oneself."""
    eves = [sender.signed_keys] if sender.user_id == EVE.user_id else []
    users = learned({ME: own}, EVE_USER, eves, verified=True)
    return letter(sender, event_type=event_type, content=content, keys=keys).judged(known=users).require()


def _forwarded_key() -> dict[str, Any]:
    return dict(forward(GROUP).to_json())


@frozen(kw_only=True)
class Kind:
    """A kind of what is asked for; the same tests hold for both."""

    name: str
    request_type: str
    event_type: str
    content: Mapping[str, Any]
    ask: Callable[..., OutgoingMessages | None]
    check: Callable[..., AcceptedForward | AcceptedSecret]
    settle: Callable[..., OutgoingMessages | None]
    cancellation: Callable[..., Any]
    open: Callable[[KeyRequests], Any]

    def answer(self, **more: Any) -> DecryptedOlmEvent:
        return answer(self.event_type, self.content, **more)

    @staticmethod
    def sender_of(accepted: Any) -> OlmSender:
        sender: OlmSender = accepted.forwarder if type(accepted) is AcceptedForward else accepted.sender
        return sender


KEY = Kind(
    name="key",
    request_type="m.room_key_request",
    event_type="m.forwarded_room_key",
    content=_forwarded_key(),
    ask=lambda made, own, request_id="1", **more: made.ask_for_key(
        ROOM, SESSION, request_id=request_id, own=own, **more
    ),
    check=lambda made, event, own: made.check_forward(event, own=own),
    settle=lambda made, by=None: made.settle_key(ROOM, SESSION, by=by),
    cancellation=RoomKeyRequestContent.build_cancellation,
    open=lambda made: made.keys == {(ROOM, SESSION)},
)
SECRETS = Kind(
    name="secret",
    request_type="m.secret.request",
    event_type="m.secret.send",
    content={"request_id": "1", "secret": SECRET},
    ask=lambda made, own, request_id="1", **more: made.ask_for_secret(BACKUP, request_id=request_id, own=own, **more),
    check=lambda made, event, own: made.check_secret(event, own=own),
    settle=lambda made, by=None: made.settle_secret(BACKUP, by=by),
    cancellation=SecretRequestContent.build_cancellation,
    open=lambda made: made.secrets == {"m.megolm_backup.v1"},
)
both_kinds = pytest.mark.parametrize("kind", [KEY, SECRETS], ids=lambda kind: kind.name)


def asked(kind: Kind, own: KnownUser = BOTH) -> KeyRequests:
    """Requests of which one is open, of all verified devices."""
    made = requests()
    assert kind.ask(made, own) is not None
    return made


def refused(
    made: KeyRequests, call: Callable[[], object], kind: type[E2EKeysError] = VerificationError
) -> tuple[str, Reason]:
    """Where and why something is refused. Nothing may have changed, and nothing secret be told."""
    before = copy.deepcopy(made.to_json())
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert made.to_json() == before
    assert SECRET not in str(caught.value) + repr(caught.value)
    assert GROUP.exported()[20:60] not in str(caught.value) + repr(caught.value)
    return caught.value.path, caught.value.reason


class TestWhomItAsks:
    @both_kinds
    def test_verified_devices_of_ones_own_and_never_itself(self, kind: Kind) -> None:
        without_key: Any = LAPTOP.keys().to_json()
        del without_key["keys"]["curve25519:LAPTOP"]
        without_olm = {**PAD.keys().to_json(), "algorithms": [MEGOLM_V1]}
        own = me(
            BOBS_TABLET.signed_keys,
            BOB_USER.device("PLAIN", cross_signed=False),
            BOB_USER.device("COMPARED", cross_signed=False),
            BOB_USER.device("BLOCKED"),
            BOB_USER.device("IGNORED"),
            BOB_USER.device("IGNORED AND PLAIN", cross_signed=False),
            BOB_USER.device("DEHYDRATED", extra={"dehydrated": True}),
            DeviceKeys.from_json(signed_anew(without_key, LAPTOP.signer)),
            DeviceKeys.from_json(signed_anew(without_olm, PAD.signer)),
        )
        for device_id, trust in {
            "COMPARED": LocalTrust.VERIFIED,
            "LAPTOP": LocalTrust.VERIFIED,
            "PAD": LocalTrust.VERIFIED,
            "BLOCKED": LocalTrust.BLACKLISTED,
            "IGNORED": LocalTrust.IGNORED,
            "IGNORED AND PLAIN": LocalTrust.IGNORED,
        }.items():
            own = own.with_trust(own.devices[device_id].ed25519_key, trust)
        assert {BOB.device_id, "LAPTOP", "PAD", "DEHYDRATED"} < set(own.devices)
        out = kind.ask(requests(), own)
        assert out is not None
        assert sorted(out.device_ids) == ["COMPARED", "IGNORED", "TABLET"]

    @both_kinds
    @pytest.mark.parametrize(
        "own",
        [
            NEITHER,
            me(BOBS_TABLET.keys()),
            me(BOBS_TABLET.signed_keys, verified=False),
            blacklisting(TABLET_ONLY, BOBS_TABLET),
            CHANGED_IDENTITY,
            KnownUser(user_id=ME),
        ],
        ids=itertools.count(),
    )
    def test_nobody_if_nobody_is_verified(self, kind: Kind, own: KnownUser) -> None:
        made = requests()
        assert kind.ask(made, own) is None
        assert made.to_json() == requests().to_json()
        assert (made.keys, made.secrets) == (frozenset(), frozenset())

    @both_kinds
    def test_none_twice_and_new_ones_later_under_the_same_id(self, kind: Kind) -> None:
        made = requests()
        first = kind.ask(made, TABLET_ONLY)
        assert first is not None
        assert first.device_ids == ("TABLET",)
        made = again(made)
        assert kind.ask(made, TABLET_ONLY, request_id="2") is None
        later = kind.ask(made, BOTH, request_id="3")
        assert later is not None
        assert later.device_ids == ("LAPTOP",)
        assert (first.content, later.content.to_json()["request_id"]) == (later.content, "1")
        assert kind.ask(made, BOTH) is None
        assert kind.open(made)

    @both_kinds
    @pytest.mark.parametrize(
        "keys", [NEW_TABLET.signed_keys, SWAPPED, RESEALED], ids=["both", "signing key", "Olm key"]
    )
    def test_a_device_that_has_other_keys_now_is_another_one(self, kind: Kind, keys: DeviceKeys) -> None:
        made = asked(kind, TABLET_ONLY)
        out = kind.ask(made, me(keys), request_id="2")
        assert out is not None
        assert (out.device_ids, out.content.to_json()["request_id"]) == (("TABLET",), "1")
        assert kind.ask(made, me(keys)) is None

    @both_kinds
    def test_all_once_more_under_the_same_id(self, kind: Kind) -> None:
        """A request, or its answer, was lost."""
        made = requests()
        first = kind.ask(made, TABLET_ONLY, again=True)
        assert first is not None
        assert first.device_ids == ("TABLET",)
        made = again(made)
        once_more = kind.ask(made, BOTH, request_id="2", again=True)
        assert once_more is not None
        assert once_more.device_ids == ("TABLET", "LAPTOP")
        assert once_more.content == first.content
        assert kind.ask(made, BOTH, again=False) is None
        for sender in (BOBS_TABLET, LAPTOP):
            kind.check(made, kind.answer(sender=sender), BOTH)
        before = made.to_json()
        assert kind.ask(made, blacklisting(BOTH, BOBS_TABLET, LAPTOP), again=True) is None
        assert made.to_json() == before
        told = kind.settle(made)
        assert told is not None
        assert told.device_ids == ("TABLET", "LAPTOP")
        assert kind.ask(made, NEITHER, again=True) is None
        assert made.to_json() == requests().to_json()

    def test_what_it_says(self) -> None:
        out = requests().ask_for_key(ROOM, SESSION, request_id="1", own=BOTH, sender_key=PHONE.curve25519_key)
        assert out is not None
        assert (out.event_type, out.user_id, out.device_ids) == ("m.room_key_request", ME, ("TABLET", "LAPTOP"))
        assert out.content == RoomKeyRequestContent.build(
            request_id="1",
            requesting_device_id="DESK",
            room_id=ROOM,
            session_id=SESSION,
            sender_key=PHONE.curve25519_key,
        )
        without = requests().ask_for_key(ROOM, SESSION, request_id="1", own=BOTH)
        assert without is not None
        assert "sender_key" not in without.content.to_json()["body"]  # type: ignore[operator]

    @pytest.mark.parametrize("name", [BACKUP, "m.megolm_backup.v1"])
    def test_what_it_says_of_a_secret(self, name: Any) -> None:
        made = requests()
        out = made.ask_for_secret(name, request_id="1", own=BOTH)
        assert out is not None
        assert (out.event_type, out.user_id, out.device_ids) == ("m.secret.request", ME, ("TABLET", "LAPTOP"))
        assert out.content == SecretRequestContent.build(name=BACKUP, request_id="1", requesting_device_id="DESK")
        assert {type(it) for it in made.secrets} == {str}
        assert made.ask_for_secret(BACKUP.value, request_id="2", own=BOTH) is None

    @both_kinds
    def test_it_can_be_sent(self, kind: Kind) -> None:
        out = kind.ask(requests(), BOTH)
        assert out is not None
        (request,) = to_device_requests(event_type=out.event_type, messages=out.messages, txn_id="t")
        assert request.messages == {ME: dict.fromkeys(["TABLET", "LAPTOP"], out.content.to_json())}

    def test_an_id_belongs_to_one_request(self) -> None:
        """Otherwise the answer to the one would be taken for that to the other."""
        made = requests()
        made.ask_for_secret(BACKUP, request_id="1", own=BOTH)
        made.ask_for_key(ROOM, SESSION, request_id="1", own=BOTH)
        calls: list[Callable[[], object]] = [
            lambda: made.ask_for_secret(MASTER, request_id="1", own=BOTH),
            lambda: made.ask_for_key(OTHER_ROOM, SESSION, request_id="1", own=BOTH),
            lambda: made.ask_for_key(ROOM, OTHER_GROUP.session_id, request_id="1", own=BOTH),
        ]
        for call in calls:
            assert refused(made, call, LocalProtocolError) == ("/request_id", R.INVALID_VALUE)
        made.settle_secret(BACKUP)
        assert made.ask_for_secret(MASTER, request_id="1", own=BOTH) is not None
        assert made.secrets == {"m.cross_signing.master"}


class TestAnswersThatAreBelieved:
    @both_kinds
    @pytest.mark.parametrize("sender", [BOBS_TABLET, LAPTOP], ids=lambda it: it.device_id)
    def test_those_of_devices_that_were_asked(self, kind: Kind, sender: Person) -> None:
        made = asked(kind)
        before = made.to_json()
        accepted = kind.check(made, kind.answer(sender=sender), BOTH)
        assert kind.sender_of(accepted).device == BOTH.devices[sender.device_id]
        assert kind.sender_of(accepted).trust is SenderTrust.VERIFIED
        assert made.to_json() == before, "it is open until it is settled"

    def test_a_key(self) -> None:
        made = asked(KEY)
        accepted = made.check_forward(KEY.answer(), own=BOTH, session_id_of=exported_id_of)
        assert (accepted.content, accepted.key.text) == (forward(GROUP), GROUP.exported())
        assert (accepted.key.session_id, accepted.key.first_index) == (SESSION, 0)

    def test_a_secret(self) -> None:
        accepted = asked(SECRETS).check_secret(SECRETS.answer(), own=BOTH)
        assert (accepted.name, accepted.secret) == ("m.megolm_backup.v1", SECRET)
        assert type(accepted.name) is str

    @pytest.mark.parametrize("role", ["master", "self_signing", "user_signing"])
    def test_a_private_key_for_cross_signing(self, role: str) -> None:
        made, name = requests(), f"m.cross_signing.{role}"
        made.ask_for_secret(name, request_id="1", own=BOTH)
        seed = BOB_USER.secret(role).export_base64()
        accepted = made.check_secret(answer("m.secret.send", {"request_id": "1", "secret": seed}), own=BOTH)
        secrets = accepted.cross_signing_secrets()
        assert (secrets.user_id, secrets.export_seeds()) == (ME, {name: seed})

    @pytest.mark.parametrize("secret", [SECRET, "SECRETSECRET" * 4, "\N{SNOWMAN}SECRETSECRET", "A" * 44])
    def test_what_is_no_private_key_is_the_fault_of_the_device(self, secret: str) -> None:
        made = requests()
        made.ask_for_secret(MASTER, request_id="1", own=BOTH)
        accepted = made.check_secret(answer("m.secret.send", {"request_id": "1", "secret": secret}), own=BOTH)
        path, _ = refused(made, accepted.cross_signing_secrets, RemoteProtocolError)
        assert path == "/secret"
        assert made.secrets == {"m.cross_signing.master"}, "the other device may yet send it"
        others = asked(SECRETS)
        accepted = others.check_secret(SECRETS.answer(), own=BOTH)
        assert refused(others, accepted.cross_signing_secrets, LocalProtocolError) == ("/name", R.INVALID_VALUE)

    @both_kinds
    def test_from_an_older_client_that_does_not_send_its_device_keys(self, kind: Kind) -> None:
        event = without_keys(letter(BOBS_TABLET, event_type=kind.event_type, content=kind.content))
        made = asked(kind)
        kind.check(made, event.judged(known={ME: BOTH}).require(), BOTH)

    @both_kinds
    def test_after_a_restart(self, kind: Kind) -> None:
        kind.check(again(asked(kind)), kind.answer(), BOTH)

    @both_kinds
    def test_from_one_that_was_asked_later(self, kind: Kind) -> None:
        made = asked(kind, LAPTOP_ONLY)
        kind.ask(made, BOTH)
        kind.check(made, kind.answer(), BOTH)

    @both_kinds
    def test_from_one_that_was_asked_again_under_its_new_keys(self, kind: Kind) -> None:
        made, own = asked(kind, TABLET_ONLY), me(NEW_TABLET.signed_keys)
        kind.ask(made, own)
        kind.check(made, kind.answer(sender=NEW_TABLET, own=own), own)
        assert refused(made, lambda: kind.check(made, kind.answer(), TABLET_ONLY))[1] is R.UNREQUESTED


@frozen(kw_only=True)
class Wrong:
    """An answer that is not to be believed: what was known when asking, when it came, and when it is checked."""

    reason: Reason
    asked: KnownUser | None = BOTH
    came: KnownUser = BOTH
    checked: KnownUser = BOTH
    sender: Person = BOBS_TABLET
    keys: DeviceKeys | None = None


UNSURE = me(BOBS_TABLET.signed_keys, LAPTOP.signed_keys, verified=False)
UNSIGNED = me(BOBS_TABLET.keys(), LAPTOP.signed_keys)
BLOCKED = blacklisting(BOTH, BOBS_TABLET)
DEHYDRATED = me(BOBS_TABLET.keys(cross_signed_by=BOB_USER, extra={"dehydrated": True}), LAPTOP.signed_keys)
REPLACED = me(NEW_TABLET.signed_keys, LAPTOP.signed_keys)
RESEALED_NOW = me(RESEALED, LAPTOP.signed_keys)
SWAPPED_NOW = me(SWAPPED, LAPTOP.signed_keys)
RENAMED_NOW = me(RENAMED, LAPTOP.signed_keys)
UNTRUSTED, UNREQUESTED = R.UNTRUSTED_SENDER, R.UNREQUESTED

WRONG = {
    "nobody was asked": Wrong(asked=None, reason=UNREQUESTED),
    "another device was asked": Wrong(asked=LAPTOP_ONLY, reason=UNREQUESTED),
    "another user": Wrong(sender=EVE, reason=UNTRUSTED),
    "another user, with a device of that name": Wrong(sender=EVES_TABLET, reason=UNTRUSTED),
    "another user, with the keys of that device": Wrong(sender=EVE_WITH_ITS_KEYS, reason=UNTRUSTED),
    "it was never verified": Wrong(asked=LAPTOP_ONLY, came=UNSURE, checked=UNSURE, reason=UNTRUSTED),
    "its owner is not verified any more": Wrong(came=UNSURE, checked=UNSURE, reason=UNTRUSTED),
    "its owner is not verified since it came": Wrong(checked=UNSURE, reason=UNTRUSTED),
    "its owner was not verified when it came": Wrong(came=UNSURE, reason=UNTRUSTED),
    "nobody signs it any more": Wrong(checked=UNSIGNED, reason=UNTRUSTED),
    "it is blacklisted": Wrong(came=BLOCKED, checked=BLOCKED, reason=UNTRUSTED),
    "it is blacklisted since it came": Wrong(checked=BLOCKED, reason=UNTRUSTED),
    "it was blacklisted when it came": Wrong(came=BLOCKED, reason=UNTRUSTED),
    "the identity has changed": Wrong(checked=CHANGED_IDENTITY, reason=UNTRUSTED),
    "it is gone": Wrong(checked=LAPTOP_ONLY, reason=UNTRUSTED),
    "it was not known when it came": Wrong(came=KnownUser(user_id=ME), reason=UNTRUSTED),
    "it was not known ever": Wrong(asked=LAPTOP_ONLY, came=LAPTOP_ONLY, checked=LAPTOP_ONLY, reason=UNTRUSTED),
    "it only receives": Wrong(checked=DEHYDRATED, reason=UNTRUSTED),
    "its signing key has changed, and it answers with the old one": Wrong(checked=REPLACED, reason=UNTRUSTED),
    "its signing key has changed": Wrong(
        came=REPLACED, checked=REPLACED, sender=NEW_TABLET, keys=NEW_TABLET.signed_keys, reason=UNREQUESTED
    ),
    "its signing key has changed, and its Olm key has not": Wrong(
        came=SWAPPED_NOW, checked=SWAPPED_NOW, keys=SWAPPED, reason=UNREQUESTED
    ),
    "it has another name": Wrong(came=RENAMED_NOW, checked=RENAMED_NOW, keys=RENAMED, reason=UNREQUESTED),
    "its Olm key has changed, and it answers with the old one": Wrong(checked=RESEALED_NOW, reason=UNTRUSTED),
    "its Olm key has changed": Wrong(
        came=RESEALED_NOW, checked=RESEALED_NOW, sender=NEW_TABLET, keys=RESEALED, reason=UNREQUESTED
    ),
}


class TestAnswersThatAreNotBelieved:
    """Attack 61: session keys and secrets from the wrong device (CVE-2022-39249, CVE-2022-39252, CVE-2022-39254)."""

    @both_kinds
    @pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
    def test_from_a_device(self, kind: Kind, wrong: Wrong) -> None:
        made = requests() if wrong.asked is None else asked(kind, wrong.asked)
        event = kind.answer(sender=wrong.sender, own=wrong.came, keys=wrong.keys)
        path = "" if wrong.asked is not None else {"key": "/session_id", "secret": "/request_id"}[kind.name]
        assert refused(made, lambda: kind.check(made, event, wrong.checked)) == (path, wrong.reason)

    @both_kinds
    @pytest.mark.parametrize("own", [BOTH, KnownUser(user_id=ME)], ids=["known", "not known"])
    def test_from_a_device_that_nobody_has_named(self, kind: Kind, own: KnownUser) -> None:
        event = without_keys(letter(BOBS_TABLET, event_type=kind.event_type, content=kind.content))
        judged = event.judged(known={}).require()
        assert judged.sender.trust is SenderTrust.UNKNOWN_DEVICE
        made = asked(kind)
        assert refused(made, lambda: kind.check(made, judged, own)) == ("", UNTRUSTED)

    @both_kinds
    def test_from_this_device_itself(self, kind: Kind) -> None:
        """It is verified, and was never asked."""
        own_session = session_of_own(RoomKeyContent.from_json(room_key_content(GROUP, GROUP.first_key)), own=BOB.device)
        itself = own_session.require().sender
        event = new_decrypted_event(kind.event_type, kind.content, itself, None, {})
        made = asked(kind)
        assert refused(made, lambda: kind.check(made, event, BOTH)) == ("", UNREQUESTED)

    @both_kinds
    def test_after_it_was_settled(self, kind: Kind) -> None:
        """Attack 59: the answer is delivered again."""
        made, event = asked(kind), kind.answer()
        accepted = kind.check(made, event, BOTH)
        kind.settle(made, kind.sender_of(accepted))
        assert refused(made, lambda: kind.check(made, event, BOTH))[1] is UNREQUESTED

    def test_an_old_secret_after_it_was_asked_for_anew(self) -> None:
        made, event = asked(SECRETS), SECRETS.answer()
        made.settle_secret(BACKUP)
        made.ask_for_secret(BACKUP, request_id="2", own=BOTH)
        assert refused(made, lambda: made.check_secret(event, own=BOTH)) == ("/request_id", UNREQUESTED)

    @pytest.mark.parametrize(
        ("changed", "kind", "path", "reason"),
        [
            ({"room_id": OTHER_ROOM}, VerificationError, "/session_id", UNREQUESTED),
            ({"session_id": OTHER_GROUP.session_id}, VerificationError, "/session_id", UNREQUESTED),
            ({"session_key": OTHER_GROUP.exported()}, RemoteProtocolError, "/session_id", R.SESSION_MISMATCH),
            ({"session_key": GROUP.first_key}, RemoteProtocolError, "/session_key", R.INVALID_VALUE),
            ({"session_key": SECRET}, RemoteProtocolError, "/session_key", R.WRONG_LENGTH),
            ({"algorithm": "m.new"}, RemoteProtocolError, "/algorithm", R.UNSUPPORTED_ALGORITHM),
            ({"session_id": 5}, RemoteProtocolError, "/session_id", R.WRONG_TYPE),
        ],
    )
    def test_another_key(self, changed: dict[str, Any], kind: Any, path: str, reason: Reason) -> None:
        made = asked(KEY)
        event = answer(KEY.event_type, {**KEY.content, **changed})
        assert refused(made, lambda: made.check_forward(event, own=BOTH), kind) == (path, reason)

    def test_the_ratchet_has_the_last_word_and_is_asked_last(self) -> None:
        made, texts = asked(KEY, TABLET_ONLY), []

        def other(text: str) -> str:
            texts.append(text)
            return OTHER_GROUP.session_id

        laptops = KEY.answer(sender=LAPTOP)
        call = lambda: made.check_forward(laptops, own=BOTH, session_id_of=other)  # noqa: E731
        assert refused(made, call) == ("", UNREQUESTED)
        assert texts == []
        call = lambda: made.check_forward(KEY.answer(), own=BOTH, session_id_of=other)  # noqa: E731
        assert refused(made, call, RemoteProtocolError) == ("/session_id", R.SESSION_MISMATCH)
        assert texts == [GROUP.exported()]

    def test_the_id_of_another_secret(self) -> None:
        """What is in it is believed to be what was asked for under that id, and was asked of that device."""
        made = requests()
        made.ask_for_secret(BACKUP, request_id="1", own=TABLET_ONLY)
        made.ask_for_secret(MASTER, request_id="2", own=LAPTOP_ONLY)
        events = {name: answer("m.secret.send", {"request_id": name, "secret": SECRET}) for name in ("1", "2", "3")}
        assert made.check_secret(events["1"], own=BOTH).name == BACKUP.value
        assert refused(made, lambda: made.check_secret(events["2"], own=BOTH)) == ("", UNREQUESTED)
        assert refused(made, lambda: made.check_secret(events["3"], own=BOTH)) == ("/request_id", UNREQUESTED)

    def test_the_id_of_a_request_for_a_key(self) -> None:
        made = asked(KEY)
        assert refused(made, lambda: made.check_secret(SECRETS.answer(), own=BOTH)) == ("/request_id", UNREQUESTED)

    @pytest.mark.parametrize("changed", [{"secret": [SECRET]}, {"secret": None}, {"request_id": 5}])
    def test_a_malformed_secret(self, changed: dict[str, Any]) -> None:
        made = asked(SECRETS)
        event = answer(SECRETS.event_type, {**SECRETS.content, **changed})
        found = refused(made, lambda: made.check_secret(event, own=BOTH), RemoteProtocolError)
        assert found == (f"/{next(iter(changed))}", R.WRONG_TYPE)

    @both_kinds
    @pytest.mark.parametrize("event_type", ["m.room_key", "m.dummy", "m.forwarded_room_key", "m.secret.send"])
    def test_another_type_of_event(self, kind: Kind, event_type: str) -> None:
        """Attack 56: nothing becomes a forwarded key, or a secret, that was not sent as one."""
        made = asked(kind)
        event = answer(event_type, kind.content)
        if event_type == kind.event_type:
            kind.check(made, event, BOTH)
        else:
            found = refused(made, lambda: kind.check(made, event, BOTH), RemoteProtocolError)
            assert found == ("", R.INVALID_VALUE)


class TestWhoIsTold:
    @both_kinds
    def test_all_others_that_were_asked(self, kind: Kind) -> None:
        made = asked(kind)
        accepted = kind.check(made, kind.answer(), BOTH)
        out = kind.settle(made, kind.sender_of(accepted))
        assert out is not None
        assert (out.event_type, out.user_id, out.device_ids) == (kind.request_type, ME, ("LAPTOP",))
        assert out.content == kind.cancellation(request_id="1", requesting_device_id="DESK")
        assert not kind.open(made)
        assert made.to_json() == requests().to_json()

    @both_kinds
    def test_everybody_if_it_is_given_up(self, kind: Kind) -> None:
        out = kind.settle(again(asked(kind)))
        assert out is not None
        assert out.device_ids == ("TABLET", "LAPTOP")

    @both_kinds
    def test_nobody_if_there_is_no_other(self, kind: Kind) -> None:
        made = asked(kind, TABLET_ONLY)
        accepted = kind.check(made, kind.answer(), TABLET_ONLY)
        assert kind.settle(made, kind.sender_of(accepted)) is None
        assert not kind.open(made)

    @both_kinds
    def test_nobody_if_it_was_not_asked_for(self, kind: Kind) -> None:
        made = requests()
        assert kind.settle(made) is None
        other = SECRETS if kind is KEY else KEY
        other.ask(made, BOTH)
        assert kind.settle(made) is None
        assert other.open(made)

    @both_kinds
    def test_one_that_is_gone_or_not_verified_any_more_too(self, kind: Kind) -> None:
        """Whom to tell follows from whom was asked, and not from what is known by now."""
        made = asked(kind)
        assert kind.ask(made, blacklisting(NEITHER, LAPTOP)) is None
        accepted = kind.check(made, kind.answer(own=TABLET_ONLY), TABLET_ONLY)
        out = kind.settle(made, kind.sender_of(accepted))
        assert out is not None
        assert out.device_ids == ("LAPTOP",)

    @both_kinds
    @pytest.mark.parametrize(
        "sender",
        [EVES_TABLET, EVE_WITH_ITS_KEYS, NEW_TABLET],
        ids=["of another user", "of another user, with its keys", "with other keys"],
    )
    def test_one_of_the_same_name_as_the_one_that_answered(self, kind: Kind, sender: Person) -> None:
        made, own = asked(kind, TABLET_ONLY), me(NEW_TABLET.signed_keys)
        out = kind.settle(made, kind.answer(sender=sender, own=own).sender)
        assert out is not None
        assert out.device_ids == ("TABLET",)

    def test_about_one_request_only(self) -> None:
        made = asked(KEY)
        made.ask_for_key(OTHER_ROOM, SESSION, request_id="2", own=BOTH)
        made.ask_for_key(ROOM, OTHER_GROUP.session_id, request_id="3", own=BOTH)
        made.settle_key(OTHER_ROOM, SESSION)
        assert made.keys == {(ROOM, SESSION), (ROOM, OTHER_GROUP.session_id)}
        made.check_forward(KEY.answer(), own=BOTH)

    @pytest.mark.parametrize("name", [BACKUP, BACKUP.value])
    def test_a_secret_by_either_name(self, name: Any) -> None:
        assert asked(SECRETS).settle_secret(name) is not None


def several() -> KeyRequests:
    made = requests()
    made.ask_for_key(ROOM, SESSION, request_id="1", own=TABLET_ONLY)
    made.ask_for_key(ROOM, SESSION, request_id="-", own=BOTH)
    made.ask_for_key(OTHER_ROOM, SESSION, request_id="2", own=LAPTOP_ONLY)
    made.ask_for_secret(BACKUP, request_id="1", own=BOTH)
    made.ask_for_secret("org.example.s/~", request_id="2", own=LAPTOP_ONLY)
    return made


@cache
def _stored() -> str:
    return json.dumps(several().to_json())


def damaged(place: str, value: Any) -> dict[str, Any]:
    """What is stored, with something else at a place; ``...`` takes it out."""
    obj: dict[str, Any] = json.loads(_stored())
    inner: Any = obj
    *way, last = [int(name) if name.isdigit() else name for name in place.split("/")[1:]]
    for name in way:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return obj


KEYS_OF_TABLET = {
    "ed25519_key": BOBS_TABLET.ed25519_key.to_base64(),
    "curve25519_key": BOBS_TABLET.curve25519_key.to_base64(),
}
MEMBERS = [
    "/version",
    "/own_user_id",
    "/own_device_id",
    "/keys",
    "/keys/0",
    "/keys/0/room_id",
    "/keys/0/session_id",
    "/keys/0/request_id",
    "/keys/0/devices",
    "/keys/0/devices/TABLET",
    "/keys/0/devices/TABLET/ed25519_key",
    "/keys/0/devices/TABLET/curve25519_key",
    "/secrets",
    "/secrets/1",
    "/secrets/1/name",
    "/secrets/1/request_id",
    "/secrets/1/devices",
    "/secrets/1/devices/LAPTOP/curve25519_key",
]


class TestOverARestart:
    def test_all_of_it_comes_back(self) -> None:
        made, restored = several(), again(several())
        assert restored == made
        assert restored.to_json() == made.to_json()
        assert (restored.own_user_id, restored.own_device_id) == (ME, "DESK")
        assert restored.keys == {(ROOM, SESSION), (OTHER_ROOM, SESSION)}
        assert restored.secrets == {"m.megolm_backup.v1", "org.example.s/~"}
        assert again(requests()) == requests()

    def test_it_works_on_as_before(self) -> None:
        for made in (several(), again(several())):
            out = made.ask_for_key(OTHER_ROOM, SESSION, request_id="9", own=BOTH)
            assert out is not None
            assert (out.device_ids, out.content.to_json()["request_id"]) == (("TABLET",), "2")
            call = lambda made=made: made.ask_for_secret(MASTER, request_id="2", own=BOTH)  # noqa: E731
            assert refused(made, call, LocalProtocolError) == ("/request_id", R.INVALID_VALUE)

    def test_it_is_plain_json_and_the_callers_own(self) -> None:
        made = several()
        obj: Any = made.to_json()
        obj["keys"][0]["devices"].clear()
        obj["secrets"].clear()
        assert made.to_json() == json.loads(_stored())
        given = json.loads(_stored())
        KeyRequests.from_json(given)
        assert given == json.loads(_stored())

    @pytest.mark.parametrize("place", MEMBERS)
    def test_what_is_missing_or_of_another_type_is_noticed(self, place: str) -> None:
        if not place.rpartition("/")[2].isdigit() and not place.endswith("TABLET"):
            found = refusal(lambda: KeyRequests.from_json(damaged(place, ...)), LocalProtocolError)
            assert found == (place, R.MISSING_MEMBER)
        for value in (None, 5, True, 1.5, "", "\ud800", [5], {"x": 5}, Text("1"), {5: 5}):
            with pytest.raises(LocalProtocolError) as caught:
                KeyRequests.from_json(damaged(place, value))
            assert caught.value.path.startswith(place), value

    @pytest.mark.parametrize(
        ("place", "value", "path", "reason"),
        [
            ("/version", 2, "/version", R.INVALID_VALUE),
            ("/own_user_id", "me", "/own_user_id", R.INVALID_IDENTIFIER),
            ("/own_device_id", "", "/own_device_id", R.INVALID_IDENTIFIER),
            ("/own_device_id", "TABLET", "/keys/0/devices/TABLET", R.INVALID_VALUE),
            ("/keys/1/room_id", ROOM, "/keys/1", R.DUPLICATE_MEMBER),
            ("/keys/1/room_id", "room", "/keys/1/room_id", R.INVALID_IDENTIFIER),
            ("/keys/1/session_id", "", "/keys/1/session_id", R.INVALID_VALUE),
            ("/keys/1/request_id", "1", "/keys/1/request_id", R.INVALID_VALUE),
            ("/keys/1/request_id", "", "/keys/1/request_id", R.INVALID_VALUE),
            ("/keys/1/devices", {}, "/keys/1/devices", R.INVALID_VALUE),
            ("/keys/1/devices/", KEYS_OF_TABLET, "/keys/1/devices/", R.INVALID_IDENTIFIER),
            ("/keys/1/devices/DESK", KEYS_OF_TABLET, "/keys/1/devices/DESK", R.INVALID_VALUE),
            (
                "/keys/0/devices/TABLET/ed25519_key",
                "AAAA",
                "/keys/0/devices/TABLET/ed25519_key",
                R.WRONG_LENGTH,
            ),
            (
                "/keys/0/devices/TABLET/curve25519_key",
                "?",
                "/keys/0/devices/TABLET/curve25519_key",
                R.INVALID_BASE64,
            ),
            ("/secrets/1/name", "m.megolm_backup.v1", "/secrets/1", R.DUPLICATE_MEMBER),
            ("/secrets/1/name", "", "/secrets/1/name", R.INVALID_VALUE),
            ("/secrets/1/name", "\ud800", "/secrets/1/name", R.LONE_SURROGATE),
            ("/secrets/1/request_id", "1", "/secrets/1/request_id", R.INVALID_VALUE),
            ("/secrets/1/devices", {}, "/secrets/1/devices", R.INVALID_VALUE),
        ],
        ids=itertools.count(),
    )
    def test_what_is_damaged_is_noticed(self, place: str, value: Any, path: str, reason: Reason) -> None:
        found = refusal(lambda: KeyRequests.from_json(damaged(place, value)), LocalProtocolError)
        assert found == (path, reason)

    def test_odd_values(self) -> None:
        assert only_own_errors(KeyRequests.from_json) == len(ODD)


class TestSecrets:
    def test_are_never_shown(self) -> None:
        made = several()
        accepted = made.check_forward(KEY.answer(), own=BOTH)
        secret = made.check_secret(SECRETS.answer(), own=BOTH)
        assert repr(accepted) == f"<AcceptedForward of {SESSION!r} in {ROOM!r}>"
        assert repr(secret) == "<AcceptedSecret 'm.megolm_backup.v1'>"
        shown = repr([made, accepted, secret, str(made), str(accepted), str(secret), made.to_json()])
        assert SECRET not in shown
        assert GROUP.exported()[20:60] not in shown

    def test_are_not_in_what_is_sent(self) -> None:
        for kind in (KEY, SECRETS):
            made = asked(kind)
            accepted = kind.check(made, kind.answer(), BOTH)
            out = kind.settle(made, kind.sender_of(accepted))
            assert out is not None
            assert SECRET not in repr(out) + json.dumps(out.content.to_json())

    @pytest.mark.parametrize("kind", [AcceptedForward, AcceptedSecret])
    def test_nobody_else_says_that_they_are_accepted(self, kind: Any) -> None:
        for arguments in ((), (forward(GROUP), forward(GROUP).key, None), ("m.megolm_backup.v1", SECRET, None)):
            with pytest.raises(LocalProtocolError):
                kind(*arguments)
        accepted = asked(SECRETS).check_secret(SECRETS.answer(), own=BOTH)
        with pytest.raises(LocalProtocolError):
            evolve(accepted, secret="OTHER")  # type: ignore[misc]


class TestArguments:
    @pytest.mark.parametrize(
        ("user_id", "device_id", "path", "reason"),
        [
            ("me", "DESK", "/own_user_id", R.INVALID_IDENTIFIER),
            (Text(ME), "DESK", "/own_user_id", R.WRONG_TYPE),
            (ME, "", "/own_device_id", R.INVALID_IDENTIFIER),
            (ME, None, "/own_device_id", R.WRONG_TYPE),
        ],
    )
    def test_oneself(self, user_id: Any, device_id: Any, path: str, reason: Reason) -> None:
        found = refusal(lambda: KeyRequests(own_user_id=user_id, own_device_id=device_id), LocalProtocolError)
        assert found == (path, reason)

    CALLS: tuple[tuple[str, dict[str, Any], dict[str, int]], ...] = (
        (
            "ask_for_key",
            {"room_id": ROOM, "session_id": "S", "request_id": "9", "own": BOTH, "sender_key": None, "again": True},
            {"session_id": 2, "request_id": 2, "sender_key": 2, "again": 1},
        ),
        (
            "ask_for_secret",
            {"name": MASTER, "request_id": "9", "own": BOTH, "again": True},
            {"name": 2, "request_id": 2, "again": 1},
        ),
        ("check_forward", {"event": KEY.answer(), "own": BOTH, "session_id_of": None}, {"session_id_of": 1}),
        ("check_secret", {"event": SECRETS.answer(), "own": BOTH}, {}),
        ("settle_key", {"room_id": ROOM, "session_id": SESSION, "by": None}, {"session_id": 2, "by": 1}),
        ("settle_secret", {"name": BACKUP, "by": None}, {"name": 2, "by": 1}),
    )

    @pytest.mark.parametrize(
        ("call", "good", "taken", "name"),
        [(call, good, taken.get(name, 0), name) for call, good, taken in CALLS for name in good],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_nothing_foreign_comes_out_and_nothing_changes(
        self, call: str, good: dict[str, Any], taken: int, name: str
    ) -> None:
        def with_value(value: Any) -> None:
            made = several()
            try:
                getattr(made, call)(**{**good, name: value})
            except E2EKeysError as error:
                assert made.to_json() == json.loads(_stored())
                if type(error) is LocalProtocolError:
                    paths.add(error.path)
                raise

        paths: set[str] = set()
        getattr(several(), call)(**good)
        assert only_own_errors(with_value) == len(ODD) - taken
        assert paths == {f"/{name}"}

    @pytest.mark.parametrize("own", [known(EVE_USER, EVE.signed_keys)[EVE_USER.user_id], KnownUser(user_id="@x:y")])
    def test_what_is_known_of_somebody_else(self, own: KnownUser) -> None:
        made = several()
        calls: list[Callable[[], object]] = [
            lambda: made.ask_for_key(ROOM, SESSION, request_id="9", own=own),
            lambda: made.ask_for_secret(BACKUP, request_id="9", own=own),
            lambda: made.check_forward(KEY.answer(), own=own),
            lambda: made.check_secret(SECRETS.answer(), own=own),
        ]
        for call in calls:
            assert refused(made, call, LocalProtocolError) == ("/own", R.NOT_OWN_USER)

    def test_a_ratchet_that_raises_or_answers_nonsense(self) -> None:
        def raises(text: str) -> str:
            raise ValueError(text)

        made = asked(KEY)
        ratchets: list[tuple[Any, Any, str]] = [
            (raises, RemoteProtocolError, "/session_key"),
            (len, LocalProtocolError, "/session_id_of"),
        ]
        for asks, kind, path in ratchets:
            call = lambda asks=asks: made.check_forward(KEY.answer(), own=BOTH, session_id_of=asks)  # noqa: E731
            assert refused(made, call, kind)[0] == path

    def test_keys_of_other_types(self) -> None:
        made = several()
        call = lambda: made.ask_for_key(  # noqa: E731
            ROOM,
            "S",
            request_id="9",
            own=BOTH,
            sender_key=BOB.ed25519_key,  # type: ignore[arg-type]
        )
        assert refused(made, call, LocalProtocolError) == ("/sender_key", R.WRONG_TYPE)
        assert made.ask_for_key(ROOM, "S", request_id="9", own=BOTH, sender_key=sample_curve25519_key("x")) is not None

    def test_a_room_key_is_no_answer(self) -> None:
        made = asked(KEY)
        event = room_key(room_key_content(GROUP))
        found = refused(made, lambda: made.check_forward(event, own=BOTH), RemoteProtocolError)
        assert found == ("", R.INVALID_VALUE)
