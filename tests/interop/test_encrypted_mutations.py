"""One thing in a decrypted message is not as it should be: what this library makes of it, and what an OlmMachine.

Each row changes one member of the plaintext of an ``m.room_key``, or of what stands around it. What is changed in the
device keys of the sender is signed again, so that only the one check can fail. The rows go both ways:

* We write it, and encrypt it with a real session. The same bytes are judged by an OlmMachine, and by ``check_olm_event``
  in the place of that machine. Both have to come to the verdict of the row, whether they know the sender or not.
* An OlmMachine writes it, and we change what our ratchet has decrypted.

Then the same with what is said in a room.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import pytest

from interop.encrypted_peers import (
    MESSAGE,
    OUR_USER,
    ROOM,
    ROOM_KEY,
    THEIR_USER,
    OlmPeer,
    OurDevice,
    OutboundRatchet,
    room_event,
    text_message,
    to_device_event,
)
from interop.olm_machine import MakeOlmMachine, OlmDriver
from matrix_e2e_keys import VerificationError, encode_canonical_json
from matrix_e2e_keys.client.receive.megolm_events import check_megolm_event
from matrix_e2e_keys.client.receive.megolm_judgments import MegolmCheck
from matrix_e2e_keys.client.receive.olm_events import check_olm_event
from matrix_e2e_keys.client.receive.olm_judgments import OlmCheck, OlmJudgment
from matrix_e2e_keys.client.receive.received_sessions import session_of_own
from matrix_e2e_keys.client.receive.replay_guard import ReplayGuard
from matrix_e2e_keys.client.receive.sender_values import OlmSender, SenderTrust
from matrix_e2e_keys.client.receive.senders import reassess_sender
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.events.payloads import MSC4147_DEVICE_KEYS, SENDER_DEVICE_KEYS
from matrix_e2e_keys.events.received import RoomEvent, ToDeviceEvent

pytestmark = pytest.mark.interop

STRANGER = "@stranger:example.org"

Tree = dict[str, Any]
Sign = Callable[[bytes], str]


class Writing(NamedTuple):
    """What a row changes, and who there is.

    Attributes:
        payload: the plaintext.
        content: what replaces members of the content around it.
        event: what replaces members of the event around that.
        sign: signs with the key of the device that writes.
        stranger: a device of somebody else.
    """

    payload: Tree
    content: Tree
    event: Tree
    sign: Sign
    stranger: OurDevice

    @property
    def device(self) -> Tree:
        """The device keys in the plaintext."""
        device: Tree = self.payload[SENDER_DEVICE_KEYS]
        return device

    @property
    def key_name(self) -> str:
        """The name of the keys of the device."""
        name: str = self.device["device_id"]
        return name

    def sign_again(self, sign: Sign | None = None) -> None:
        """Sign the device keys as they are now: by the device, if nobody else is named."""
        self.device.pop("signatures")
        text = (sign or self.sign)(encode_canonical_json(self.device))
        self.device["signatures"] = {self.device["user_id"]: {f"ed25519:{self.key_name}": text}}


Change = Callable[[Writing], object]


def signing(device: OurDevice) -> Sign:
    """Return what signs with the key of a device of ours."""
    return lambda message: str(device.account.sign(message).to_base64())


def put(value: object, *path: str) -> Change:
    """Return what writes something else into a member of the plaintext."""
    return lambda it: _parent(it.payload, path).update({path[-1]: value})


def drop(*path: str) -> Change:
    """Return what leaves out a member of the plaintext."""
    return lambda it: _parent(it.payload, path).pop(path[-1])


def pad(*path: str) -> Change:
    """Return what pads a key in the plaintext."""
    return lambda it: _parent(it.payload, path).update({path[-1]: _parent(it.payload, path)[path[-1]] + "="})


def _parent(tree: Tree, path: tuple[str, ...]) -> Tree:
    for name in path[:-1]:
        tree = tree[name]
    return tree


def put_key(*path: str) -> Change:
    """Return what writes the signing key of the stranger."""
    return lambda it: put(it.stranger.own.ed25519_key.to_base64(), *path)(it)


def signed(**members: object) -> Change:
    """Return what changes members of the device keys, and lets the device sign them again."""

    def change(it: Writing) -> None:
        it.device.update(members)
        it.sign_again()

    return change


def with_strange_signing_key(it: Writing) -> None:
    """Device keys with the signing key of the stranger, who has signed them."""
    it.device["keys"][f"ed25519:{it.key_name}"] = it.stranger.own.ed25519_key.to_base64()
    it.sign_again(signing(it.stranger))


def with_strange_identity_key(it: Writing) -> None:
    """Device keys with the Olm identity key of the stranger."""
    it.device["keys"][f"curve25519:{it.key_name}"] = it.stranger.curve25519_key.to_base64()
    it.sign_again()


def without_identity_key(it: Writing) -> None:
    """Device keys without an Olm identity key."""
    del it.device["keys"][f"curve25519:{it.key_name}"]
    it.sign_again()


def renamed(it: Writing) -> None:
    """Device keys under the name of another device."""
    keys = {key_id.partition(":")[0]: key for key_id, key in it.device["keys"].items()}
    it.device.update(device_id="OTHER", keys={f"{algorithm}:OTHER": key for algorithm, key in keys.items()})
    it.sign_again()


def with_bad_signature(it: Writing) -> None:
    """Device keys with a signature of the device over something else."""
    it.device["signatures"] = {it.device["user_id"]: {f"ed25519:{it.key_name}": it.sign(b"something else")}}


def of_the_stranger(it: Writing) -> None:
    """The device keys of the stranger, which are good."""
    it.payload[SENDER_DEVICE_KEYS] = it.stranger.own.keys.to_json()


def under_the_former_name(it: Writing) -> None:
    """The device keys where they stood before version 1.15."""
    it.payload[MSC4147_DEVICE_KEYS] = it.payload.pop(SENDER_DEVICE_KEYS)


def of_the_stranger_under_the_former_name(it: Writing) -> None:
    """Two device keys: those of the device, and those of the stranger."""
    it.payload[MSC4147_DEVICE_KEYS] = it.stranger.own.keys.to_json()


def both(first: Change, second: Change) -> Change:
    """Return what makes two changes."""

    def change(it: Writing) -> None:
        first(it)
        second(it)

    return change


# --------------------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------------------

CHECK = OlmCheck
DEVICE = SENDER_DEVICE_KEYS


class Row(NamedTuple):
    """A change, and the verdict.

    Attributes:
        name: what is special.
        change: makes it.
        failed: the checks that fail.
        failed_unknown: those that fail if nothing is known of the sender; ``None`` if they are the same.
        ours_alone: the row states a decision of this library, and the OlmMachine is not asked.
        because: why ours is what it is.
    """

    name: str
    change: Change
    failed: tuple[OlmCheck, ...] = ()
    failed_unknown: tuple[OlmCheck, ...] | None = None
    ours_alone: bool = False
    because: str = ""

    def failed_if(self, *, is_known: bool) -> tuple[OlmCheck, ...]:
        """Return the checks that fail."""
        return self.failed if is_known or self.failed_unknown is None else self.failed_unknown


NO_DEVICE_KEYS = "no sender_device_keys"

GOOD = (
    Row("nothing special", lambda _: None),
    Row("one more member", put({"a": [1, None]}, "org.example.more")),
    Row("keys of one more algorithm", put("x", "keys", "org.example.more")),
    Row("recipient_keys of one more algorithm", put("x", "recipient_keys", "org.example.more")),
    Row("keys in padded base64", pad("keys", "ed25519")),
    Row("recipient_keys in padded base64", pad("recipient_keys", "ed25519")),
    Row(NO_DEVICE_KEYS, drop(DEVICE)),
    Row("sender_device_keys with one more signed member", signed(more={"a": [1, None]})),
    Row("sender_device_keys with an unsigned part", put({"device_display_name": "A phone"}, DEVICE, "unsigned")),
    Row("sender_device_keys without algorithms", signed(algorithms=[])),
    Row("sender_device_keys under their former name", under_the_former_name),
)

# "Any event that does not comply with these checks MUST be discarded."
NUMBERED = (
    Row("sender of another user", put(STRANGER, "sender"), (CHECK.SENDER,)),
    Row("no sender", drop("sender"), (CHECK.SENDER,)),
    Row("sender that is null", put(None, "sender"), (CHECK.SENDER,)),
    Row(
        "keys of another device",
        put_key("keys", "ed25519"),
        (CHECK.KEYS, CHECK.DEVICE_KEYS_ED25519),
        (CHECK.DEVICE_KEYS_ED25519,),
    ),
    Row(
        "keys of another device, and no sender_device_keys",
        both(put_key("keys", "ed25519"), drop(DEVICE)),
        (CHECK.KEYS,),
        (),
    ),
    Row("no keys", drop("keys"), (CHECK.KEYS,)),
    Row("keys without ed25519", drop("keys", "ed25519"), (CHECK.KEYS,)),
    Row("keys that are null", put(None, "keys"), (CHECK.KEYS,)),
    Row("recipient that is another user", put(STRANGER, "recipient"), (CHECK.RECIPIENT,)),
    Row("no recipient", drop("recipient"), (CHECK.RECIPIENT,)),
    Row("recipient that is null", put(None, "recipient"), (CHECK.RECIPIENT,)),
    Row("recipient_keys of another device", put_key("recipient_keys", "ed25519"), (CHECK.RECIPIENT_KEYS,)),
    Row("no recipient_keys", drop("recipient_keys"), (CHECK.RECIPIENT_KEYS,)),
    Row("recipient_keys without ed25519", drop("recipient_keys", "ed25519"), (CHECK.RECIPIENT_KEYS,)),
    Row("recipient_keys that are null", put(None, "recipient_keys"), (CHECK.RECIPIENT_KEYS,)),
    Row("sender_device_keys of another user", signed(user_id=STRANGER), (CHECK.DEVICE_KEYS_USER,)),
    Row("sender_device_keys with another curve25519", with_strange_identity_key, (CHECK.DEVICE_KEYS_CURVE25519,)),
    Row("sender_device_keys without curve25519", without_identity_key, (CHECK.DEVICE_KEYS_CURVE25519,)),
    Row("sender_device_keys with another ed25519", with_strange_signing_key, (CHECK.DEVICE_KEYS_ED25519,)),
    Row("sender_device_keys with a bad signature", with_bad_signature, (CHECK.DEVICE_KEYS_SIGNATURE,)),
    Row(
        "sender_device_keys with one more member that is not signed",
        put(1, DEVICE, "more"),
        (CHECK.DEVICE_KEYS_SIGNATURE,),
    ),
    Row("sender_device_keys with empty signatures", put({}, DEVICE, "signatures"), (CHECK.DEVICE_KEYS_SIGNATURE,)),
    Row("sender_device_keys without signatures", drop(DEVICE, "signatures"), (CHECK.DEVICE_KEYS_SIGNATURE,)),
    Row(
        "sender_device_keys under their former name, with a bad signature",
        both(with_bad_signature, under_the_former_name),
        (CHECK.DEVICE_KEYS_SIGNATURE,),
    ),
    Row(
        "sender_device_keys of a stranger",
        of_the_stranger,
        (CHECK.DEVICE_KEYS_USER, CHECK.DEVICE_KEYS_CURVE25519, CHECK.DEVICE_KEYS_ED25519),
    ),
    Row("sender_device_keys that are an array", put([], DEVICE), (CHECK.DEVICE_KEYS,)),
    Row("two different sender_device_keys", of_the_stranger_under_the_former_name, (CHECK.DEVICE_KEYS,)),
)

AROUND = (
    Row(
        "sender_key of another device",
        lambda it: it.content.update(sender_key=it.stranger.curve25519_key.to_base64()),
        (CHECK.ENVELOPE,),
    ),
    Row("event of another user", lambda it: it.event.update(sender=STRANGER), (CHECK.SENDER, CHECK.DEVICE_KEYS_USER)),
    Row("no type", drop("type"), (CHECK.PLAINTEXT,)),
    Row("type that is a number", put(1, "type"), (CHECK.PLAINTEXT,)),
    Row("no content", drop("content"), (CHECK.PLAINTEXT,)),
    Row("content that is an array", put([], "content"), (CHECK.PLAINTEXT,)),
)

OURS = (
    Row(
        "sender_device_keys that are null",
        put(None, DEVICE),
        (CHECK.DEVICE_KEYS,),
        ours_alone=True,
        because='"Where sender_device_keys is present in the decrypted content": null is present, and no device keys',
    ),
    Row(
        "sender_device_keys under the name of another device",
        renamed,
        (CHECK.SENDER_DEVICE,),
        (),
        ours_alone=True,
        because="one device has one name; a decision that the user took about the other name would be lost",
    ),
    Row(
        "encrypted once more",
        put("m.room.encrypted", "type"),
        (CHECK.INSIDE,),
        ours_alone=True,
        because="nothing inside would pass these checks",
    ),
    Row(
        "state_key",
        put("", "state_key"),
        (CHECK.INSIDE,),
        ours_alone=True,
        because="no message to a device is a state event, nor to be taken for one",
    ),
)

ROWS = (*GOOD, *NUMBERED, *AROUND, *OURS)


def test_each_row_is_about_something_else() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {check for row in ROWS for check in row.failed} == set(OlmCheck)
    assert [row.name for row in ROWS if row.ours_alone != bool(row.because)] == []


# --------------------------------------------------------------------------------------------------------------
# Written by us
# --------------------------------------------------------------------------------------------------------------


def judged(judgment: OlmJudgment) -> tuple[tuple[OlmCheck, ...], SenderTrust | None]:
    """Return the checks that failed, and how sure one is of the sender."""
    assert (judgment.event is None) is bool(judgment.failed)
    trust = None if judgment.event is None else judgment.event.sender.trust
    return tuple(it.check for it in judgment.failed), trust


def expected(row: Row, *, is_known: bool) -> tuple[tuple[OlmCheck, ...], SenderTrust | None]:
    """Return the same as the row says."""
    failed = row.failed_if(is_known=is_known)
    if failed:
        return failed, None
    if is_known:
        return failed, SenderTrust.UNVERIFIED
    has_device_keys = NO_DEVICE_KEYS not in row.name
    return failed, SenderTrust.DEVICE_KNOWN if has_device_keys else SenderTrust.UNKNOWN_DEVICE


def is_still_believed(sender: OlmSender, observer: OurDevice) -> bool:
    """Tell whether a sender is one by what is known now."""
    try:
        return reassess_sender(sender, known=observer.known).trust is SenderTrust.UNVERIFIED
    except VerificationError:
        return False


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_we_refuse_an_olm_machine_refuses(new_olm_machine: MakeOlmMachine, row: Row, is_known: bool) -> None:
    """Attacks 38 and 57."""
    ours, stranger, theirs = OurDevice(), OurDevice(STRANGER, "STRANGE"), OlmPeer(new_olm_machine)
    observer = OurDevice(THEIR_USER)  # in the place of the machine
    if is_known:
        for answer in (ours.answer(), stranger.answer()):
            theirs.learn(answer)
            observer.learn(answer)
    ours.open_session(theirs.device, theirs.next_one_time_key())
    ratchet = OutboundRatchet()
    payload: Tree = ours.payload(theirs.device, ROOM_KEY, ratchet.key().to_json()).to_json()
    writing = Writing(payload, {}, {}, signing(ours), stranger)

    row.change(writing)
    plaintext = encode_canonical_json(writing.payload)
    content = {**ours.encrypt_for([(theirs.device, plaintext)]).to_json(), **writing.content}
    event = {**to_device_event(OUR_USER, content), **writing.event}

    judgment = check_olm_event(ToDeviceEvent.from_json(event), plaintext, own=theirs.device, known=observer.known)
    assert judged(judgment) == expected(row, is_known=is_known)
    if row.ours_alone:
        return
    (received,) = theirs.machine.receive_sync([event])
    assert (received.outcome == "Decrypted") is (judgment.event is not None)

    theirs.learn(ours.answer())
    observer.learn(ours.answer())
    read = theirs.read(ratchet.encrypt(MESSAGE, text_message("Hello")))
    assert (read.event is not None) is (not row.failed)
    if judgment.event is not None:
        assert is_still_believed(judgment.event.sender, observer) is (not row.failed)


# --------------------------------------------------------------------------------------------------------------
# The same with what is said in a room
# --------------------------------------------------------------------------------------------------------------

ELSEWHERE = "!elsewhere:example.org"


class RoomRow(NamedTuple):
    """A change to the plaintext of a Megolm message, and the verdict.

    Attributes:
        name: what is special.
        payload: replaces members of the plaintext; ``...`` leaves one out.
        failed: the checks that fail.
        room_id: the room that the event is in.
        ours_alone: the row states a decision of this library, and the OlmMachine is not asked.
        because: why ours is what it is.
    """

    name: str
    payload: Tree
    failed: tuple[MegolmCheck, ...] = ()
    room_id: str = ROOM
    ours_alone: bool = False
    because: str = ""


M_CHECK = MegolmCheck
NO_EVENT = 'the "plaintext body is of the form" of an object with a type, a content and a room_id'

ROOM_ROWS = (
    RoomRow("nothing special", {}),
    RoomRow("one more member", {"org.example.more": [1, None]}),
    RoomRow("sender of another user, which says nothing", {"sender": STRANGER}),
    RoomRow("no type", {"type": ...}, (M_CHECK.PLAINTEXT,)),
    RoomRow("type that is a number", {"type": 1}, (M_CHECK.PLAINTEXT,)),
    RoomRow("no room", {"room_id": ...}, (M_CHECK.ROOM,)),
    RoomRow("room that is null", {"room_id": None}, (M_CHECK.ROOM,)),
    RoomRow("another room", {"room_id": ELSEWHERE}, (M_CHECK.ROOM,)),
    RoomRow("event in another room", {}, (M_CHECK.ROOM, M_CHECK.ROOM), ELSEWHERE),
    RoomRow("both in another room than the session", {"room_id": ELSEWHERE}, (M_CHECK.ROOM,), ELSEWHERE),
    RoomRow("state_key", {"state_key": ""}, (M_CHECK.INSIDE,)),
    RoomRow("no content", {"content": ...}, (M_CHECK.PLAINTEXT,), ours_alone=True, because=NO_EVENT),
    RoomRow("content that is null", {"content": None}, (M_CHECK.PLAINTEXT,), ours_alone=True, because=NO_EVENT),
    RoomRow("content that is an array", {"content": []}, (M_CHECK.PLAINTEXT,), ours_alone=True, because=NO_EVENT),
    RoomRow(
        "encrypted once more",
        {"type": "m.room.encrypted"},
        (M_CHECK.INSIDE,),
        ours_alone=True,
        because="nothing inside would pass these checks",
    ),
)


@pytest.mark.parametrize("row", ROOM_ROWS, ids=lambda row: row.name)
def test_what_we_refuse_of_a_room_an_olm_machine_refuses(new_olm_machine: MakeOlmMachine, row: RoomRow) -> None:
    """Attacks 57 and 59."""
    ours, theirs, ratchet = OurDevice(), OlmPeer(new_olm_machine), OutboundRatchet()
    theirs.learn(ours.answer())
    ours.open_session(theirs.device, theirs.next_one_time_key())
    key = ratchet.key()
    session = session_of_own(key, own=ours.own).require()
    assert theirs.receive(ours.write(key, theirs.device)).outcome == "Decrypted"

    payload = {"type": MESSAGE, "content": text_message("Hello"), "room_id": ROOM, **row.payload}
    plaintext = encode_canonical_json({name: value for name, value in payload.items() if value is not ...})
    event = {**room_event(OUR_USER, ratchet.encrypt_text(plaintext)), "room_id": row.room_id}
    judgment = check_megolm_event(
        RoomEvent.from_json(event), plaintext, message_index=0, session=session, known={}, guard=ReplayGuard()
    )

    assert tuple(it.check for it in judgment.failed) == row.failed
    assert row.ours_alone == bool(row.because)
    if not row.ours_alone:
        read = theirs.machine.decrypt_room_event(row.room_id, event)
        assert (read.event is not None) is (judgment.event is not None)


# --------------------------------------------------------------------------------------------------------------
# Written by an OlmMachine
# --------------------------------------------------------------------------------------------------------------


class Letter(NamedTuple):
    """An ``m.room_key`` of an OlmMachine to a device of ours.

    Attributes:
        ours: the device.
        theirs: the machine.
        stranger: a device of somebody else.
        event: as it was delivered.
        plaintext: what our ratchet made of it.
        known: what we know, once we have asked.
    """

    ours: OurDevice
    theirs: OlmPeer
    stranger: OurDevice
    event: Tree
    plaintext: bytes
    known: Mapping[str, KnownUser]


@pytest.fixture(scope="module")
def letter(olm_driver: OlmDriver) -> Iterator[Letter]:
    ours, stranger, theirs = OurDevice(), OurDevice(STRANGER, "STRANGE"), OlmPeer(olm_driver.open)
    theirs.bootstrap()
    theirs.learn(ours.answer())
    theirs.open_session(ours)
    (event,) = theirs.share_room_key(ours)
    for answer in (theirs.answer(), stranger.answer()):
        ours.learn(answer)
    plaintext = ours.decrypt(ToDeviceEvent.from_json(event))
    yield Letter(ours, theirs, stranger, event, plaintext, ours.known)
    theirs.machine.close()


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_changed_in_the_plaintext_of_an_olm_machine_we_refuse(letter: Letter, row: Row, is_known: bool) -> None:
    """Attacks 38 and 57."""
    writing = Writing(json.loads(letter.plaintext), {}, {}, letter.theirs.machine.sign, letter.stranger)

    row.change(writing)
    event: Tree = {**deepcopy(letter.event), **writing.event}
    event["content"] = {**event["content"], **writing.content}

    known = letter.known if is_known else {}
    plaintext = encode_canonical_json(writing.payload)
    judgment = check_olm_event(ToDeviceEvent.from_json(event), plaintext, own=letter.ours.own, known=known)
    assert judged(judgment) == expected(row, is_known=is_known)
