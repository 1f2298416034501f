"""The encrypted client of docs/examples: a conversation of three users with four devices, over two servers."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from attrs import evolve

from matrix_e2e_keys import (
    Ed25519SecretKey,
    ForwardedRoomKeyContent,
    HttpRequest,
    HttpResponse,
    OlmCiphertext,
    OlmEncryptedContent,
    RoomKeyContent,
    SenderTrust,
)
from matrix_e2e_keys.homeserver import KeyDirectory, LocalFederation, Requester

vodozemac: Any = pytest.importorskip("vodozemac")

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "encrypted_client.py"
SERVERS = ("a.example", "b.example")
ALICE, BOB, CAROL = "@alice:a.example", "@bob:b.example", "@carol:a.example"
ROOM = "!room:a.example"


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("encrypted_client", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["encrypted_client"] = module  # where attrs and dataclasses would look for it
    spec.loader.exec_module(module)
    return module


ENCRYPTED_CLIENT = example()
ENCRYPTED_CLIENT.SUPPLY = evolve(ENCRYPTED_CLIENT.SUPPLY, target=8)  # type: ignore[attr-defined]  # as fast as can be


class Crash(BaseException):
    """The power is gone."""


class World:
    """Two servers, and one room; and what is wrong with the way there."""

    def __init__(self) -> None:
        self.now = 1_790_000_000_000
        self.federation = LocalFederation(
            KeyDirectory.create(name, signers=Ed25519SecretKey.generate().signer("ed25519:1")) for name in SERVERS
        )
        self.timeline: list[dict[str, Any]] = []
        self.sent: dict[str, str] = {}  # transaction id to event id
        self.clients: dict[str, Any] = {}
        self.stores: dict[str, Any] = {}

    def put(self, sender: str, event_type: str, content: Mapping[str, Any], state_key: str | None = None) -> str:
        """Let the room have an event, and return its id."""
        event_id = f"${len(self.timeline)}"
        state = {} if state_key is None else {"state_key": state_key}
        event = {"type": event_type, "sender": sender, "event_id": event_id, "origin_server_ts": self.now}
        self.timeline.append({**event, **state, "content": content})
        return event_id

    def member(self, user_id: str, membership: str) -> None:
        self.put(user_id, "m.room.member", {"membership": membership}, user_id)
        for name in SERVERS:
            act = self.federation[name].join if membership == "join" else self.federation[name].leave
            act(user_id, ROOM, now=self.now)

    def log_in(self, user_id: str, device_id: str) -> Any:
        self.federation[user_id.partition(":")[2]].log_in(user_id, device_id, now=self.now)
        return self.start(user_id, device_id)

    def start(self, user_id: str, device_id: str) -> Any:
        """Start a client, or start it anew with what it has stored."""
        store = self.stores.get(device_id) or ENCRYPTED_CLIENT.Store(":memory:", bytes(32))
        self.stores[device_id] = store
        names = {"user_id": user_id, "device_id": device_id}
        client = ENCRYPTED_CLIENT.EncryptedClient(Wire(self, **names), store, **names, clock=lambda: self.now)
        self.clients[device_id] = client
        return client

    def restart(self, device_id: str) -> Any:
        return self.start(self.clients[device_id].user_id, device_id)

    def sync(self) -> None:
        """Let everybody hear what is new, and what follows from it."""
        for _ in range(2):
            self.now += 1_000
            for client in self.clients.values():
                client.sync()
                self.federation.settle(now=self.now)

    def say(self, device_id: str, text: str) -> str:
        """Let a device say something, and return the id of the event that came of it."""
        self.clients[device_id].send(ROOM, "m.room.message", {"msgtype": "m.text", "body": text})
        self.sync()
        return f"${len(self.timeline) - 1}"

    def readers(self, event_id: str) -> set[str]:
        """Return the devices that can read an event."""
        return {device_id for device_id, client in self.clients.items() if event_id in client.messages}


class Wire:
    """The way of one device to its server."""

    def __init__(self, world: World, user_id: str, device_id: str) -> None:
        self.world, self.server = world, user_id.partition(":")[2]
        self.requester = Requester(user_id=user_id, device_id=device_id)
        self.paths: list[str] = []
        self.withheld: list[dict[str, Any]] = []
        self.breaks_at = ""  # a part of a path: what is sent there arrives, and its answer does not
        self.is_down = False

    def send(self, request: HttpRequest) -> HttpResponse:
        if self.is_down:
            raise ConnectionError
        self.paths.append(request.path)
        answer = self.world.federation.exchange(self.server, request, requester=self.requester, now=self.world.now)
        if self.breaks_at and self.breaks_at in request.path:
            raise Crash
        return answer

    def sync(self, since: str | None) -> bytes:
        if self.is_down:
            raise ConnectionError
        token, _, place = (since or " ").partition(" ")
        answer: Any = self.world.federation[self.server].sync(self.requester, since=token or None).to_json()
        received = answer.get("to_device", {}).get("events", [])
        self.withheld += [event for event in received if event["type"] == "m.room_key.withheld"]
        news = self.world.timeline[int(place or 0) :]
        rooms = {"join": {ROOM: {"timeline": {"events": news, "limited": False}}}}
        next_batch = f"{answer['next_batch']} {len(self.world.timeline)}"
        return json.dumps({**answer, "rooms": rooms, "next_batch": next_batch}).encode()

    def send_event(self, room_id: str, event_type: str, txn_id: str, content: Mapping[str, Any]) -> None:
        if self.is_down:
            raise ConnectionError
        assert room_id == ROOM
        if txn_id not in self.world.sent:
            self.world.sent[txn_id] = self.world.put(self.requester.user_id, event_type, content)
        if self.breaks_at and self.breaks_at in "/rooms/":
            raise Crash


@pytest.fixture
def world() -> Iterator[World]:
    """Alice with one device, Bob with two, all cross-signed, in an encrypted room."""
    world = World()
    world.put(ALICE, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 3}, "")
    phone, desk, tablet = (world.log_in(*name) for name in ((ALICE, "PHONE"), (BOB, "DESK"), (BOB, "TABLET")))
    for client in (phone, desk):
        client.set_up_identity()
    for user_id in (ALICE, BOB):
        world.member(user_id, "join")
    world.sync()
    compare(desk, tablet)
    world.sync()
    yield world
    for store in world.stores.values():
        store.close()


def compare(one: Any, other: Any) -> None:
    """Let a user compare the keys of two devices, of which the first one signs the other."""
    own = one.machine.users.own
    one.machine.signing.verify_device(other.device_id, other.machine.device.ed25519_key)
    one.go_on()
    other.machine.users.confirm_own_identity(own.identity.master_public_key)
    other.go_on()


ALL = {"PHONE", "DESK", "TABLET"}


def test_a_conversation_with_restarts(world: World) -> None:
    phone = world.clients["PHONE"]
    first = world.say("PHONE", "one")
    assert world.readers(first) == ALL
    assert world.clients["DESK"].messages[first]["content"]["body"] == "one"
    assert world.clients["DESK"].trust(first) is SenderTrust.UNVERIFIED

    second = world.say("TABLET", "two")
    bob = phone.machine.users.users[BOB]
    phone.machine.signing.verify_user(BOB, bob.identity.master_public_key)
    phone.go_on()
    assert phone.trust(second) is SenderTrust.VERIFIED  # though the message came before

    for device_id in ALL:
        world.restart(device_id)
    third = world.say("PHONE", "three")
    assert world.readers(second) == world.readers(third) == ALL
    assert world.clients["PHONE"].trust(second) is SenderTrust.VERIFIED
    assert session_of(world, third) == session_of(world, first)
    for text in ("four", "five"):
        last = world.say("PHONE", text)
        assert world.readers(last) == ALL
    assert session_of(world, last) != session_of(world, first)  # after three messages, as the room wants


def test_who_comes_later_and_leaves(world: World) -> None:
    before = world.say("PHONE", "before")
    world.log_in(CAROL, "CELL").set_up_identity()
    world.log_in(ALICE, "UNSIGNED")
    world.member(CAROL, "join")
    world.sync()
    while_there = world.say("PHONE", "while there")
    world.say("PHONE", "still there")
    from_carol = world.say("CELL", "hello")
    assert world.readers(before) == ALL
    assert world.readers(while_there) == world.readers(from_carol) == {*ALL, "CELL"}
    told = {
        device_id: [event["content"]["code"] for event in wire(world, device_id).withheld]
        for device_id in world.clients
    }
    assert told == {"PHONE": [], "DESK": [], "TABLET": [], "CELL": [], "UNSIGNED": ["m.unverified"] * 2}

    world.member(CAROL, "leave")
    world.member(CAROL, "join")  # the list of members is what it was
    world.member(CAROL, "leave")
    world.sync()
    after = [world.say("PHONE", "after"), world.say("DESK", "after")]
    assert [world.readers(event_id) for event_id in after] == [ALL, ALL]


def test_who_has_left_and_is_back_gets_a_new_session(world: World) -> None:
    first = world.say("PHONE", "one")
    world.member(BOB, "leave")
    world.member(BOB, "join")
    world.sync()
    second = world.say("PHONE", "two")
    assert world.readers(second) == ALL
    assert session_of(world, second) != session_of(world, first)


def test_a_key_that_no_device_has_is_asked_for_once(world: World) -> None:
    before = world.say("PHONE", "before")
    cell = world.log_in(CAROL, "CELL")
    cell.set_up_identity()
    world.log_in(CAROL, "PAD")
    world.member(CAROL, "join")
    world.sync()
    compare(cell, world.clients["PAD"])
    world.sync()
    while_there = world.say("PHONE", "while there")
    assert world.readers(while_there) == {*ALL, "CELL", "PAD"}
    world.sync()
    asked = [sum("m.room_key_request" in path for path in wire(world, name).paths) for name in ("CELL", "PAD")]
    assert asked == [1, 1]
    assert world.readers(before) == ALL


@pytest.mark.parametrize("place", ["/sendToDevice/", "/keys/claim", "/rooms/"])
def test_a_crash_while_writing_costs_nothing(world: World, place: str) -> None:
    """The server has taken what was sent, and the answer does not arrive."""
    wire(world, "PHONE").breaks_at = place
    with pytest.raises(Crash):
        world.say("PHONE", "one")
    phone = world.restart("PHONE")
    if place == "/keys/claim":  # nothing was encrypted yet
        assert encrypted(world) == []
        phone.send(ROOM, "m.room.message", {"body": "one"})
    world.sync()
    (event_id,) = encrypted(world)
    assert world.readers(event_id) == ALL
    session, ratchet = phone.outbound[ROOM]
    assert (session.message_count, ratchet.message_index) == (1, 1)
    assert all(share.is_confirmed for share in session.shares.values())
    assert world.readers(world.say("PHONE", "two")) == ALL


def test_a_crash_while_reading_costs_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.clients["PHONE"].send(ROOM, "m.room.message", {"body": "one"})
    world.federation.settle(now=world.now)
    desk = world.clients["DESK"]

    def crash() -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(desk, "save", crash)  # all was taken over, nothing is stored
        with pytest.raises(Crash):
            desk.sync()
    assert len(desk.messages) == 1
    desk = world.restart("DESK")
    assert desk.messages == {}
    with monkeypatch.context() as patch:
        patch.setattr(desk, "go_on", crash)  # all is stored, the token with it
        with pytest.raises(Crash):
            desk.sync()
    stored = world.stores["DESK"].load()
    assert len(stored["messages"]) == 1
    assert stored["since"] == desk.since
    world.restart("DESK")
    world.sync()
    assert world.readers(encrypted(world)[0]) == ALL


def test_where_the_server_cannot_be_reached_nothing_is_encrypted(world: World) -> None:
    world.say("PHONE", "one")
    phone, way = world.clients["PHONE"], wire(world, "PHONE")
    way.is_down = True
    phone.send(ROOM, "m.room.message", {"body": "two"})  # the key is shared: this one waits
    with pytest.raises(OSError, match="outbox"):
        phone.send(ROOM, "m.room.message", {"body": "three"})
    with pytest.raises(ConnectionError):
        phone.sync()
    way.is_down = False
    world.sync()
    assert [world.readers(event_id) for event_id in encrypted(world)] == [ALL, ALL]


def test_who_cannot_be_reached_is_told_so_once_and_gets_the_next_message(world: World) -> None:
    world.federation.down.add("b.example")
    for text in ("one", "two"):
        world.clients["PHONE"].send(ROOM, "m.room.message", {"body": text})
    world.federation.down.clear()
    phone = world.clients["PHONE"]
    assert phone.machine.sessions.wanted == phone.no_olm.told == {(BOB, "DESK"), (BOB, "TABLET")}
    from_desk = world.say("DESK", "are you there?")  # in a session that DESK has opened
    assert phone.machine.sessions.wanted == phone.no_olm.told == {(BOB, "TABLET")}
    world.now += 3_600_000
    world.sync()
    third = world.say("PHONE", "three")
    assert world.readers(third) == ALL
    assert [world.readers(event_id) for event_id in encrypted(world)] == [{"PHONE"}, {"PHONE"}, ALL, ALL]
    assert from_desk == encrypted(world)[2]
    told = [[event["content"]["code"] for event in wire(world, name).withheld] for name in ("DESK", "TABLET")]
    assert told == [["m.no_olm"]] * 2


def test_a_broken_session_is_renewed_and_another_device_helps_out(world: World) -> None:
    tablet, phone = world.clients["TABLET"], world.clients["PHONE"]
    world.say("PHONE", "one")
    world.say("TABLET", "two")  # a reply: from now on, Alice writes no first messages
    world.now += 3_600_000
    phones_key = phone.olm.identity_key.to_base64()
    tablet.olm.sessions.pop(phones_key)
    tablet.save()
    phone.outbound.clear()
    phone.send(ROOM, "m.room.message", {"body": "three"})
    world.federation.settle(now=world.now)
    tablet.sync()
    lost = encrypted(world)[-1]
    assert lost not in tablet.messages
    world.restart("TABLET")
    world.sync()
    assert phones_key in world.clients["TABLET"].olm.sessions
    assert world.readers(lost) == ALL  # DESK has forwarded the key
    assert world.clients["TABLET"].trust(lost) is None
    assert world.clients["TABLET"].requests.keys == set()

    phone.outbound.clear()
    assert world.readers(world.say("PHONE", "four")) == ALL
    assert world.clients["TABLET"].trust(encrypted(world)[-1]) is SenderTrust.UNVERIFIED
    assert phone.olm.sessions[world.clients["TABLET"].olm.identity_key.to_base64()][0].session_id == (
        world.clients["TABLET"].olm.sessions[phones_key][0].session_id
    )


def test_two_keys_of_a_session_connect_where_the_later_one_begins(world: World) -> None:
    event_id = world.say("PHONE", "one")
    desk, (_, ratchet) = world.clients["DESK"], world.clients["PHONE"].outbound[ROOM]
    (session, held) = desk.inbound[session_of(world, event_id)]
    later = RoomKeyContent.build(room_id=ROOM, session_key=ratchet.session_key.to_base64(), shared_history=True).key
    assert (session.first_index, later.first_index) == (0, 1)
    assert desk._connects(later)
    exported = bytearray(base64.b64decode(held.export_at(1).to_base64() + "=="))
    for place, connects in ((None, True), (40, False)):  # a byte of the ratchet
        if place is not None:
            exported[place] ^= 1
        text = base64.b64encode(exported).decode().rstrip("=")
        key = desk.machine.device.curve25519_key, desk.machine.device.ed25519_key
        forward = ForwardedRoomKeyContent.build(
            room_id=ROOM, session_key=text, sender_key=key[0], sender_claimed_ed25519_key=key[1]
        )
        assert desk._connects(forward.key) is connects


def test_what_is_stored_is_in_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    store = ENCRYPTED_CLIENT.Store(path, bytes(32))
    assert store.load() is None
    store.save({"since": "s1"})
    store.save({"since": "s2"})
    store.close()
    store = ENCRYPTED_CLIENT.Store(path, bytes(32))
    assert store.load() == {"since": "s2"}
    store.close()


def test_no_secret_is_stored_in_the_clear(world: World) -> None:
    world.say("PHONE", "one")
    (row,) = world.stores["PHONE"]._db.execute("SELECT value FROM state").fetchone()
    client = world.clients["PHONE"]
    seeds = client.machine.signing.secrets.export_seeds()
    keys = [ratchet.session_key.to_base64() for _, ratchet in client.outbound.values()]
    assert len(seeds) == 3
    assert not [secret for secret in (*seeds.values(), *keys) if secret in row]


class TestOlm:
    def test_a_first_message_that_comes_again_makes_no_second_session(self) -> None:
        """With a fallback key it would open: its private half is still there."""
        bob, (first, second) = begun_with_fallback_key(messages=2)
        name = first.sender_key.to_base64()
        assert bob.decrypt(first) == (b"first", True)
        (session,) = bob.sessions[name]
        assert bob.account.create_inbound_session(*as_pre_key(bob, first))[1] == b"first"
        with pytest.raises(ValueError, match="no session"):
            bob.decrypt(first)
        assert bob.decrypt(second) == (b"second", False)
        assert bob.sessions[name] == [session]

    def test_the_session_that_was_decrypted_with_last_is_the_one_to_write_with(self) -> None:
        bob, (first, second) = begun_with_fallback_key(messages=2)
        name = first.sender_key.to_base64()
        bob.decrypt(first)
        (session,) = bob.sessions[name]
        newer = vodozemac.Account().create_outbound_session(
            vodozemac.Account().curve25519_key, bob.account.curve25519_key
        )
        bob.sessions[name].insert(0, newer)
        bob.decrypt(second)
        assert bob.sessions[name] == [session, newer]


def begun_with_fallback_key(*, messages: int) -> tuple[Any, list[OlmEncryptedContent]]:
    """Return the account of a device, and messages to it, the first of a session."""
    bob, alice = (ENCRYPTED_CLIENT.Olm(vodozemac.Account()) for _ in range(2))
    bob.account.generate_fallback_key()
    (key,) = bob.account.fallback_key.values()
    session = alice.account.create_outbound_session(bob.account.curve25519_key, key)
    sent = [OlmCiphertext.from_parts(*session.encrypt(text).to_parts()) for text in (b"first", b"second")[:messages]]
    build = OlmEncryptedContent.build
    return bob, [build(sender_key=alice.identity_key, messages={bob.identity_key: message}) for message in sent]


def as_pre_key(olm: Any, content: OlmEncryptedContent) -> tuple[Any, Any]:
    mine = content.my_ciphertext(olm.identity_key)
    message = vodozemac.AnyOlmMessage.from_parts(int(mine.message_type), mine.message)
    return ENCRYPTED_CLIENT.to_olm(content.sender_key), message.to_pre_key()


def session_of(world: World, event_id: str) -> Any:
    return world.timeline[int(event_id[1:])]["content"]["session_id"]


def encrypted(world: World) -> list[str]:
    return [event["event_id"] for event in world.timeline if event["type"] == "m.room.encrypted"]


def wire(world: World, device_id: str) -> Wire:
    transport: Wire = world.clients[device_id].transport
    return transport
