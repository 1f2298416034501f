"""The homeserver of docs/examples and a Synapse, as neighbors: each asks the other, and tells the other what changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from interop.asgi_rig import AsgiClient, AsgiHomeserver, Seen, running_homeservers, wait_until
from interop.certificates import Certificates
from interop.federation_http import send_over_tls
from interop.key_homeserver import KeyHomeserver
from interop.machines import Device
from interop.matrix_http import Client, MakeClient, Sync
from interop.people import Person, with_device, with_identity
from interop.ports import free_port
from interop.room_joins import ROOM_VERSION
from interop.stories import is_cross_signed, seen
from interop.synapse_server import SynapseServer
from matrix_e2e_keys import (
    CrossSigningKey,
    DeviceListUpdate,
    KeysClaimRequest,
    KeysQueryRequest,
    OneTimeKey,
    ServerKeysRequest,
    SigningKeyUpdate,
    UserDevice,
    UserDevicesRequest,
    UserDevicesResponse,
)
from matrix_e2e_keys.client.trust.trust import DeviceTrust, device_trust
from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.homeserver.federation_auth.authorization import sign_request

pytestmark = pytest.mark.interop

ALGORITHM = "signed_curve25519"


@pytest.fixture
def new_server(certificates: Certificates) -> Iterator[Callable[[], AsgiHomeserver]]:
    yield from running_homeservers(certificates)


@pytest.fixture
def server(new_server: Callable[[], AsgiHomeserver]) -> AsgiHomeserver:
    return new_server()


def devices_of(observer: Client, user_id: str) -> set[str]:
    """Return the devices that somebody is shown of a user; no server may have failed."""
    request = KeysQueryRequest.for_users([user_id])
    answer = observer.ask(request)
    assert answer.failures == {}
    result = observer.query(request)
    assert result.devices.rejected == result.identities.rejected == ()
    return set(result.devices.accepted.get(user_id, {}))


def wait_for_introduction(observer: Client, user_id: str, device_ids: set[str]) -> None:
    """Wait until somebody is shown a user's devices. Two servers that just met may be busy with that, and ask again."""

    def is_introduced() -> bool:
        request = KeysQueryRequest.for_users([user_id])
        return (
            not observer.ask(request).failures
            and set(observer.query(request).devices.accepted.get(user_id, {})) == device_ids
        )

    wait_until(is_introduced, f"{user_id} is introduced")
    assert devices_of(observer, user_id) == device_ids


def master_key_of(observer: Client, user_id: str) -> CrossSigningKey | None:
    identity = observer.query(KeysQueryRequest.for_users([user_id])).identities.accepted.get(user_id)
    return None if identity is None else identity.master_key


def signers_of_master_key(observer: Client, user_id: str) -> set[str]:
    """Return whose signatures on a user's master key somebody is shown."""
    key = master_key_of(observer, user_id)
    assert key is not None
    return {*key.signed.signatures}


def has_verified(client: Client, person: Person, user_id: str) -> bool:
    """Tell whether a client sees that its user has verified another one."""
    query = KeysQueryRequest.for_users([client.user_id, user_id])
    own = client.query(query).identities.accepted[client.user_id]
    confirmed = own.confirm_as_own(master_key=person.secrets["master"].public_key)
    return user_id in client.query(query, own=confirmed).verified_users


def shows_device(observer: Client, person: Person) -> bool:
    """Tell whether somebody is shown a device as its owner uploaded it."""
    result = observer.query(KeysQueryRequest.for_users([person.user_id]))
    device = result.devices.accepted[person.user_id].get(person.device_id)
    return device is not None and device.keys == person.device_keys()


def shows_identity(observer: Client, person: Person) -> bool:
    """Tell whether somebody is shown a person's identity, and the device signed by it."""
    result = observer.query(KeysQueryRequest.for_users([person.user_id]))
    identity = result.identities.accepted.get(person.user_id)
    device = result.devices.accepted[person.user_id].get(person.device_id)
    return (
        identity is not None
        and identity.master_key == person.cross_signing_key("master")
        and device is not None
        and device.cross_signed_by == person.secrets["self_signing"].public_key
    )


class Follower:
    """A client that comes back to /sync again and again, and remembers what it was told."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.since: Sync = client.sync()
        self.changed: set[str] = set()
        self.messages: list[Any] = []

    def look(self) -> None:
        self.since = self.client.sync(self.since)
        if self.since.keys.device_lists is not None:
            self.changed |= {*self.since.keys.device_lists.changed}
        self.messages += self.since.to_device

    def is_told_of(self, user_id: str) -> bool:
        self.look()
        return user_id in self.changed

    def wait_for(self, user_id: str) -> None:
        """Wait until a user has changed, and forget that."""
        wait_until(lambda: self.is_told_of(user_id), f"{self.client.user_id} is told that {user_id} changed")
        self.changed.clear()

    def next_message(self) -> Any:
        def has_come() -> bool:
            self.look()
            return bool(self.messages)

        wait_until(has_come, f"{self.client.user_id} gets a message")
        return self.messages.pop(0)


# --------------------------------------------------------------------------------------------------------------
# One asks the other
# --------------------------------------------------------------------------------------------------------------


def test_a_user_of_the_other_server_sees_our_device_and_identity_and_claims_a_key(
    server: AsgiHomeserver, new_client: MakeClient
) -> None:
    ours, theirs = server.new_client(display_name="not for others"), new_client()
    person = with_identity(ours, one_time_keys=1)

    query = KeysQueryRequest.for_users([ours.user_id])
    result = theirs.query(query)

    device = result.devices.accepted[ours.user_id][ours.device_id]
    assert device.keys == person.device_keys()
    assert device.keys.to_json().get("unsigned", {}) == {}  # other servers are not told what devices are called
    identity = result.identities.accepted[ours.user_id]
    assert identity.master_key == person.cross_signing_key("master")
    assert device.cross_signed_by == person.secrets["self_signing"].public_key
    theirs.claim_one(ours.user_id, ours.device_id).verify(device=device)
    assert theirs.claim(ours.user_id, ours.device_id) == {}
    assert ours.upload() == {ALGORITHM: 0}
    ours.upload(fallback_keys=person.fallback_key())
    for _ in range(2):
        theirs.claim_one(ours.user_id, ours.device_id).verify(device=device)
    assert ours.sync().keys.unused_fallback_key_types == ()


def test_our_user_sees_a_device_and_identity_of_the_other_server_and_claims_a_key(
    server: AsgiHomeserver, new_client: MakeClient
) -> None:
    ours, theirs = server.new_client(), new_client()
    person = with_identity(theirs, one_time_keys=1)

    result = ours.query(KeysQueryRequest.for_users([theirs.user_id]))

    device = result.devices.accepted[theirs.user_id][theirs.device_id]
    assert device.keys == person.device_keys()
    assert result.identities.accepted[theirs.user_id].master_key == person.cross_signing_key("master")
    assert device.cross_signed_by == person.secrets["self_signing"].public_key
    assert result.notices == ()
    ours.claim_one(theirs.user_id, theirs.device_id).verify(device=device)
    assert ours.claim(theirs.user_id, theirs.device_id) == {}
    assert theirs.upload() == {ALGORITHM: 0}


def test_one_request_asks_here_there_and_where_nobody_answers(
    server: AsgiHomeserver, new_client: MakeClient, new_server: Callable[[], AsgiHomeserver]
) -> None:
    ours, theirs, neighbor = server.new_client(), new_client(), new_server()
    third = neighbor.new_client()
    people = {client.user_id: with_device(client) for client in (ours, theirs, third)}
    for client in (ours, theirs, third):
        client.upload(one_time_keys=people[client.user_id].one_time_keys(1))
    absent = f"localhost:{free_port()}"
    impossible = ("xn--a", "a..b", "a" * 64, "[::1]:1")
    nobodies = [f"@nobody:{name}" for name in (absent, *impossible)]
    everybody = [*people, *nobodies, f"@unknown:{neighbor.server_name}"]

    answer = ours.ask(KeysQueryRequest.for_users(everybody))
    result = ours.query(KeysQueryRequest.for_users(everybody))
    claim = ours.ask(KeysClaimRequest.for_devices({user_id: ["DEVICE"] for user_id in everybody}))

    assert {*answer.failures} == {*claim.failures} == {absent, *impossible}
    assert {user_id: set(devices) for user_id, devices in result.devices.accepted.items() if devices} == {
        user_id: {"DEVICE"} for user_id in people
    }
    assert {*claim.one_time_keys} == {*people}


def test_what_is_asked_while_the_other_server_is_down_is_a_failure_and_nothing_is_lost(
    server: AsgiHomeserver, new_client: MakeClient
) -> None:
    ours, theirs = server.new_client(), new_client()
    person = with_identity(ours, one_time_keys=2)
    query = KeysQueryRequest.for_users([ours.user_id])
    claim = KeysClaimRequest.for_devices({ours.user_id: [ours.device_id]})

    server.stop()
    assert {*theirs.ask(query).failures} == {*theirs.ask(claim).failures} == {server.server_name}
    server.start()

    wait_until(lambda: theirs.ask(query).failures == {}, "the server is asked again")
    assert master_key_of(theirs, ours.user_id) == person.cross_signing_key("master")
    assert ours.upload() == {ALGORITHM: 2}
    assert isinstance(theirs.claim_one(ours.user_id, ours.device_id), OneTimeKey)
    server.is_cut_off = True
    assert {*ours.ask(KeysQueryRequest.for_users([theirs.user_id])).failures} == {theirs.user_id.partition(":")[2]}


def test_another_server_is_told_nothing_of_users_that_are_not_ours_and_nobody_is_told_without_a_signature(
    server: AsgiHomeserver, new_server: Callable[[], AsgiHomeserver], new_client: MakeClient
) -> None:
    """Attack 53."""
    neighbor, theirs = new_server(), new_client()
    foreign = neighbor.send(server.server_name, UserDevicesRequest(user_id=theirs.user_id).to_http())
    assert (foreign.status, b"User is not hosted on this homeserver" in foreign.body) == (400, True)
    request = UserDevicesRequest(user_id=f"@a:{server.server_name}").to_http()
    other = UserDevicesRequest(user_id=f"@b:{server.server_name}").to_http()
    assert neighbor.send(server.server_name, request).status == 200
    (header,) = sign_request(
        request, origin=neighbor.server_name, destination=server.server_name, signers=neighbor.signer
    )
    certificates = server.certificates
    assert send_over_tls(server.server_name, certificates, other, header).status == 401
    assert send_over_tls(server.server_name, certificates, request).status == 401
    public = send_over_tls(server.server_name, certificates, ServerKeysRequest().to_http())
    ServerKeysRequest().read_answer(public).server_keys.verify(server_name=server.server_name)


# --------------------------------------------------------------------------------------------------------------
# Messages to devices, and signatures
# --------------------------------------------------------------------------------------------------------------


def test_messages_to_devices_go_both_ways(server: AsgiHomeserver, new_client: MakeClient) -> None:
    ours, theirs = server.new_client(), new_client()
    second = ours.another_device("SECOND")
    followers = [Follower(client) for client in (ours, second, theirs)]
    text = {"text": "\N{PILE OF POO} / é / \\ \u2028"}

    theirs.send_to_device("m.test/a b", "1", {ours.user_id: {"*": text}})
    ours.send_to_device("m.test/c d", "1", {theirs.user_id: {theirs.device_id: text}})

    for follower in followers[:2]:
        assert follower.next_message() == {"sender": theirs.user_id, "type": "m.test/a b", "content": text}
    assert followers[2].next_message() == {"sender": ours.user_id, "type": "m.test/c d", "content": text}
    ours.send_to_device("m.test/c d", "1", {theirs.user_id: {theirs.device_id: text}})  # the same once more
    ours.send_to_device("m.test/c d", "2", {theirs.user_id: {theirs.device_id: {"n": 2}}})
    assert followers[2].next_message()["content"] == {"n": 2}


def test_a_message_that_could_not_be_delivered_goes_out_when_the_other_server_is_heard_of(
    server: AsgiHomeserver, new_client: MakeClient
) -> None:
    ours, theirs = server.new_client(), new_client()
    follower = Follower(theirs)
    server.is_cut_off = True
    ours.send_to_device("m.test", "1", {theirs.user_id: {theirs.device_id: {"n": 1}}})
    ours.send_to_device("m.test", "2", {theirs.user_id: {theirs.device_id: {"n": 2}}})
    wait_until(lambda: server.lost == 1, "the first transaction is lost")
    server.stop()
    server.is_cut_off = False
    server.start()

    assert [follower.next_message()["content"] for _ in range(2)] == [{"n": 1}, {"n": 2}]

    server.is_cut_off = True
    ours.send_to_device("m.test", "3", {theirs.user_id: {theirs.device_id: {"n": 3}}})
    wait_until(lambda: server.lost == 2, "this one is lost as well")
    server.is_cut_off = False
    assert theirs.ask(KeysQueryRequest.for_users([ours.user_id])).failures == {}  # it is heard of
    assert follower.next_message()["content"] == {"n": 3}


def test_a_user_of_ours_signs_a_master_key_of_the_other_server_and_nobody_else_sees_it(
    server: AsgiHomeserver, new_client: MakeClient
) -> None:
    """Attack 53."""
    ours, theirs = server.new_client(), new_client()
    person, other = with_identity(ours), with_identity(theirs)

    ours.upload_signatures(person.signed_user_upload(other.cross_signing_key("master")))

    assert has_verified(ours, person, theirs.user_id)
    assert signers_of_master_key(ours, theirs.user_id) == {ours.user_id, theirs.user_id}
    for observer in (theirs, server.new_client()):
        assert signers_of_master_key(observer, theirs.user_id) == {theirs.user_id}


# --------------------------------------------------------------------------------------------------------------
# A room in common: each tells the other without being asked
# --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_a_room(
    server: AsgiHomeserver, synapse: SynapseServer, new_client: MakeClient
) -> tuple[AsgiHomeserver, AsgiClient, Client]:
    """Our server, and two users in a room of the other server: ours and theirs. Each knows of the other's device."""
    ours, theirs = server.new_client(), new_client()
    with_device(ours)
    with_device(theirs)
    room = theirs.http.post("/createRoom", {"preset": "public_chat", "room_version": ROOM_VERSION})
    server.join_room_of(synapse.server_name, room["room_id"], ours.user_id, theirs.user_id)
    wait_for_introduction(theirs, ours.user_id, {"DEVICE"})
    wait_for_introduction(ours, theirs.user_id, {"DEVICE"})
    return server, ours, theirs


Pair = tuple[AsgiHomeserver, AsgiClient, Client]


def questions(requests: list[Seen]) -> list[Seen]:
    """Return those requests of servers that ask for devices, be it for all of a user or for some."""
    return [
        request for request in requests if "/user/devices/" in request.target or "/user/keys/query" in request.target
    ]


def with_identity_only(client: Client) -> Person:
    """Give a client a new device key and a new identity, whatever there was before; return the person."""
    is_reset = master_key_of(client, client.user_id) is not None
    person = with_device(client)
    (client.replace_cross_signing if is_reset else client.upload_cross_signing)(person.cross_signing_upload())
    client.upload_signatures(person.signed_device_upload())
    return person


def new_device(client: Client, device_id: str) -> Person:
    """Log in on another device, and upload its keys."""
    return with_device(client.another_device(device_id))


def test_who_joins_a_room_is_introduced_to_the_other_server(
    server: AsgiHomeserver, synapse: SynapseServer, new_client: MakeClient
) -> None:
    ours, theirs = server.new_client(), new_client()
    with_device(ours)
    room = theirs.http.post("/createRoom", {"preset": "public_chat", "room_version": ROOM_VERSION})

    server.join_room_of(synapse.server_name, room["room_id"], ours.user_id, theirs.user_id)

    wait_until(lambda: bool(questions(server.received)), "it asks for our device, though nobody has queried it")
    wait_for_introduction(theirs, ours.user_id, {"DEVICE"})


def test_our_new_devices_reach_the_other_server_one_by_one_without_being_asked_for_all_again(in_a_room: Pair) -> None:
    server, ours, theirs = in_a_room
    follower = Follower(theirs)
    new_device(ours, "FIRST")
    follower.wait_for(ours.user_id)
    wait_until(lambda: devices_of(theirs, ours.user_id) == {"DEVICE", "FIRST"}, "they know FIRST")
    before = questions(server.received)

    for number in range(3):
        person = new_device(ours, f"NEW{number}")
        follower.wait_for(ours.user_id)
        wait_until(partial(shows_device, theirs, person), f"they know NEW{number}")
    server.log_out(AsgiClient(server, ours.user_id, "NEW1"))
    follower.wait_for(ours.user_id)
    wait_until(lambda: devices_of(theirs, ours.user_id) == {"DEVICE", "FIRST", "NEW0", "NEW2"}, "NEW1 is gone")

    assert questions(server.received) == before


def test_their_new_devices_reach_us_one_by_one_without_our_asking_for_all_again(in_a_room: Pair) -> None:
    server, ours, theirs = in_a_room
    follower = Follower(ours)
    new_device(theirs, "FIRST")
    follower.wait_for(theirs.user_id)
    wait_until(lambda: devices_of(ours, theirs.user_id) == {"DEVICE", "FIRST"}, "we know FIRST")
    before = questions(server.sent)

    for number in range(3):
        person = new_device(theirs, f"NEW{number}")
        follower.wait_for(theirs.user_id)
        wait_until(partial(shows_device, ours, person), f"we know NEW{number}")
    theirs.another_device("NEW1").http.post("/logout", {})
    follower.wait_for(theirs.user_id)
    wait_until(lambda: devices_of(ours, theirs.user_id) == {"DEVICE", "FIRST", "NEW0", "NEW2"}, "NEW1 is gone")

    assert questions(server.sent) == before


def test_our_new_identity_is_told_and_verified_and_signed_by_the_other_server(in_a_room: Pair) -> None:
    """Attack 53."""
    _, ours, theirs = in_a_room
    follower, other = Follower(theirs), with_identity_only(theirs)
    for _ in range(2):
        person = with_identity_only(ours)
        follower.wait_for(ours.user_id)
        wait_until(partial(shows_identity, theirs, person), "they know our identity")
        theirs.upload_signatures(other.signed_user_upload(person.cross_signing_key("master")))
        wait_until(lambda: has_verified(theirs, other, ours.user_id), "they have verified our user")
        assert signers_of_master_key(ours, ours.user_id) == {ours.user_id}


def test_their_new_identity_is_told_and_verified_and_signed_by_us(in_a_room: Pair) -> None:
    """Attacks 33 and 53."""
    server, ours, theirs = in_a_room
    follower, person = Follower(ours), with_identity_only(ours)
    for _ in range(2):
        other = with_identity_only(theirs)
        follower.wait_for(theirs.user_id)
        wait_until(partial(shows_identity, ours, other), "we know their identity")
        ours.upload_signatures(person.signed_user_upload(other.cross_signing_key("master")))
        assert has_verified(ours, person, theirs.user_id)
        assert signers_of_master_key(theirs, theirs.user_id) == {theirs.user_id}
        assert signers_of_master_key(server.new_client(), theirs.user_id) == {theirs.user_id}


def test_what_one_is_told_answers_while_the_other_server_is_out_of_reach(in_a_room: Pair) -> None:
    server, ours, theirs = in_a_room
    person = new_device(theirs, "NEW")
    wait_until(lambda: devices_of(ours, theirs.user_id) == {"DEVICE", "NEW"}, "we know NEW")
    server.is_cut_off = True

    result = ours.query(KeysQueryRequest.for_users([theirs.user_id]))

    assert result.devices.accepted[theirs.user_id]["NEW"].keys == person.device_keys()
    assert devices_of(ours, theirs.user_id) == {"DEVICE", "NEW"}
    assert {*ours.ask(KeysClaimRequest.for_devices({theirs.user_id: ["NEW"]})).failures} == {
        theirs.user_id.partition(":")[2]
    }


def test_a_device_that_is_made_while_the_line_is_cut_is_known_afterwards(in_a_room: Pair) -> None:
    server, ours, theirs = in_a_room
    new_device(ours, "FIRST")
    wait_until(lambda: devices_of(theirs, ours.user_id) == {"DEVICE", "FIRST"}, "they know FIRST")
    server.is_cut_off = True
    for number in range(3):
        new_device(ours, f"NEW{number}")
    wait_until(lambda: server.lost == 1, "a transaction is lost")
    server.stop()  # what is not delivered is stored
    server.is_cut_off = False
    server.start()

    wait_until(lambda: devices_of(theirs, ours.user_id) == {"DEVICE", "FIRST", "NEW0", "NEW1", "NEW2"}, "they know all")


def test_whom_no_room_is_shared_with_any_more_one_is_told_nothing_of(in_a_room: Pair) -> None:
    server, ours, theirs = in_a_room
    follower = Follower(ours)

    server.leave_rooms(ours.user_id)
    person = new_device(theirs, "NEW")

    follower.look()
    assert follower.since.keys.device_lists is not None
    assert follower.since.keys.device_lists.left == (theirs.user_id,)
    before = questions(server.sent)
    assert shows_device(ours, person)
    assert len(questions(server.sent)) == len(before) + 1  # nothing is kept: it is asked for
    follower.look()
    assert follower.changed == set()


# --------------------------------------------------------------------------------------------------------------
# A server that says what it likes
# --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_mallory(server: AsgiHomeserver, own: KeyHomeserver) -> tuple[AsgiClient, Person]:
    """A user of ours, and one of a server that says what the test wants. They share a room."""
    ours, mallory = server.new_client(), own.add_user("mallory", one_time_keys=1)
    server.share_a_room(ours.user_id, mallory.user_id)
    wait_until(lambda: devices_of(ours, mallory.user_id) == {"DEVICE"}, "we know Mallory's device")
    wait_until(lambda: resyncs_of(own) == 1, "we have asked for all devices")
    wait_until(lambda: server.is_up_to_date(mallory.user_id), "we have the answer")
    return ours, mallory


def resyncs_of(own: KeyHomeserver) -> int:
    return sum(isinstance(request, UserDevicesRequest) for _, request in own.asked)


def test_an_identity_that_another_server_tells_counts_once_it_is_signed(
    server: AsgiHomeserver, own: KeyHomeserver, with_mallory: tuple[AsgiClient, Person]
) -> None:
    """Attacks 33 and 53."""
    ours, mallory = with_mallory
    before = mallory.cross_signing_key("master")
    other = Person(mallory.user_id, "DEVICE")
    badly_signed = SigningKeyUpdate(
        user_id=mallory.user_id,
        master_key=other.cross_signing_key("master"),
        self_signing_key=mallory.cross_signing_key("self_signing"),
    )
    of_ours = SigningKeyUpdate(user_id=ours.user_id, master_key=Person(ours.user_id, "X").cross_signing_key("master"))
    lie = UserDevicesResponse(
        user_id=mallory.user_id,
        stream_id=50,
        devices=(UserDevice(device_id="DEVICE", keys=mallory.cross_signed_device()),),
        master_key=before,
        self_signing_key=other.cross_signing_key("self_signing"),
    )
    own.lies[UserDevicesRequest.endpoint.name] = lie.to_http()

    own.send_edus(server.server_name, badly_signed, of_ours)

    wait_until(lambda: resyncs_of(own) == 2, "we ask what is true")
    wait_until(lambda: server.is_up_to_date(mallory.user_id), "we have the answer")
    assert shows_identity(ours, mallory)
    assert master_key_of(ours, ours.user_id) is None

    own.lies.clear()
    follower = Follower(ours)
    mallory.secrets = other.secrets
    master_key, self_signing_key = (mallory.cross_signing_key(usage) for usage in ("master", "self_signing"))
    update = SigningKeyUpdate(user_id=mallory.user_id, master_key=master_key, self_signing_key=self_signing_key)
    own.send_edus(server.server_name, update)
    follower.wait_for(mallory.user_id)
    wait_until(partial(shows_identity, ours, mallory), "it is the new one")


def test_updates_that_follow_each_other_cost_no_request_and_a_gap_costs_one(
    server: AsgiHomeserver, own: KeyHomeserver, with_mallory: tuple[AsgiClient, Person]
) -> None:
    """Attack 53."""
    ours, mallory = with_mallory
    devices = [Person(mallory.user_id, f"NEW{number}") for number in range(4)]

    def update(place: int, stream_id: int, previous: int) -> DeviceListUpdate:
        keys = devices[place].device_keys()
        name = devices[place].device_id
        return DeviceListUpdate(
            user_id=mallory.user_id, device_id=name, stream_id=stream_id, prev_ids=(previous,), keys=keys
        )

    own.send_edus(server.server_name, update(0, 2, 1), update(1, 7, 2))
    own.send_edus(server.server_name, update(2, 8, 7))
    assert devices_of(ours, mallory.user_id) == {"DEVICE", "NEW0", "NEW1", "NEW2"}
    assert resyncs_of(own) == 1

    own.send_edus(server.server_name, update(3, 11, 10))
    wait_until(lambda: resyncs_of(own) == 2, "we ask for all devices")
    wait_until(lambda: devices_of(ours, mallory.user_id) == {"DEVICE"}, "the answer is what counts")


# --------------------------------------------------------------------------------------------------------------
# Machines of ours on both servers
# --------------------------------------------------------------------------------------------------------------


def test_machines_on_both_servers_meet_verify_each_other_and_write(
    server: AsgiHomeserver, synapse: SynapseServer, new_client: MakeClient
) -> None:
    ours, theirs = (Device(client, forgetful=True) for client in (server.new_client("OURS"), new_client("THEIRS")))
    for device in (ours, theirs):
        device.catch_up()
    room = theirs.client.http.post("/createRoom", {"preset": "public_chat", "room_version": ROOM_VERSION})
    server.join_room_of(synapse.server_name, room["room_id"], ours.user_id, theirs.user_id)
    for device in (ours, theirs):
        device.machine.lists.track([ours.user_id, theirs.user_id])
        device.bootstrap()
    for one, other in ((ours, theirs), (theirs, ours)):
        follow_until(one, lambda one=one, other=other: is_cross_signed(one, other))  # type: ignore[misc]

    for one, other in ((ours, theirs), (theirs, ours)):
        one.machine.signing.verify_user(other.user_id, other.master_key)
        one.flush()
        follow_until(one, lambda one=one, other=other: one.state_of(other.user_id) is IdentityState.VERIFIED)  # type: ignore[misc]
        assert device_trust(one.user(other.user_id), other.device_id) is DeviceTrust.VERIFIED

    for one, other in ((ours, theirs), (theirs, ours)):
        seen_device = seen(one, other)
        one.open_sessions([seen_device])
        one.send(seen_device, "hello")
        assert [message.plaintext for message in other.read()] == ["hello"]

    ours.bootstrap(reset=True)
    follow_until(theirs, lambda: theirs.state_of(ours.user_id) is IdentityState.VERIFICATION_VIOLATION)
    assert theirs.user(ours.user_id).pin.current == ours.master_key


def follow_until(device: Device, is_so: Callable[[], bool]) -> None:
    """Let a device catch up until something has become true."""

    def has_become_so() -> bool:
        device.catch_up()
        return is_so()

    wait_until(has_become_so, f"{device.device_id} gets to know of it")
