"""Homeservers on a network without manners: lost and doubled requests, late answers, crashes, servers that are away.

Three servers and five users, each with devices that come and go. The servers are :class:`KeyDirectory`; users and the
wires between servers are here. Whatever is served is judged by rules that are written down here a second time, in plain
JSON. Run it for longer with ``HYPOTHESIS_PROFILE=nightly``.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from json_strategies import few
from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V2_ALPHA,
    CLIENT_V3,
    CrossSigningKey,
    DeviceKeys,
    DeviceSigningUploadRequest,
    Dialect,
    E2EKeysError,
    HttpRequest,
    HttpResponse,
    KeysChangesRequest,
    KeysClaimRequest,
    KeysQueryRequest,
    KeysUploadRequest,
    LocalProtocolError,
    SendToDeviceRequest,
    SignaturesUploadRequest,
)
from matrix_e2e_keys.homeserver import (
    COMPAT,
    SPEC,
    STRICT,
    Exchange,
    KeyDirectory,
    LocalFederation,
    Policy,
    Requester,
    ServerRequest,
    sign_request,
)
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing import message_strategies as messages
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key

Json = dict[str, Any]

SERVERS: Final = ("a.example", "b.example", "c.example:8448")
USERS: Final = (
    *tuple(f"@{name}" for name in ("al:a.example", "an:a.example", "bo:b.example", "be:b.example")),
    "@cy:c.example:8448",
)
DEVICES: Final = ("D1", "D2")
PLACES: Final = tuple((user_id, device_id) for user_id in USERS for device_id in DEVICES)
ROOMS: Final = ("!one:a.example", "!two:b.example")
GENERATIONS: Final = 6
AUTH: Final = {"type": "m.login.password", "password": "secret"}
START: Final = 1_700_000_000_000
HOUR: Final = 3_600_000

FINE, NOT_SENT, NOT_ANSWERED, TWICE = FAULTS = ("fine", "not sent", "not answered", "twice")

MALFORMED: Final = (
    b"",
    b"[]",
    b"{",
    b'"x"',
    b'{"device_keys":[]}',
    b'{"device_keys":{"user_id":5}}',
    b'{"device_keys":{"user_id":"@al:a.example","device_id":"D1","algorithms":[],"keys":{}}}',
    b'{"one_time_keys":[]}',
    b'{"one_time_keys":{"signed_curve25519:X":{"key":1e9}}}',
    b'{"one_time_keys":{"signed_curve25519:X":"not base64"}}',
    b'{"one_time_keys":{"nocolon":{"key":"x"},":":"y"}}',
    b'{"fallback_keys":{"signed_curve25519:X":null}}',
    b'{"one_time_keys":{"signed_curve25519:\\ud800":{"key":"x"}}}',
    b"[" * 5000,
)


def server_of(user_id: str) -> str:
    return user_id.partition(":")[2]


ROLES: Final = {
    SampleUser(user_id, generation).secret(role).public_key.to_base64(): (user_id, role)
    for user_id in USERS
    for generation in range(GENERATIONS)
    for role in ("master", "self_signing", "user_signing")
}


def may_see(viewer: str, owner: str, kind: str, signer: str, key_id: str) -> bool:
    """Tell whether a viewer may see a signature on a key: the specification's list, word by word."""
    name = key_id.partition(":")[2]
    whose, role = ROLES.get(name, (signer, "device" if name in DEVICES else "stranger"))
    if whose != signer:
        return False
    if signer == viewer and role in ("master", "self_signing", "user_signing"):
        return True  # "made by the user's own master signing, self-signing or user-signing keys"
    if signer == owner and role == "self_signing" and kind == "device":
        return True  # "made by other users' self-signing keys about their own devices"
    if signer == owner and role == "master" and kind == "self_signing":
        return True  # "made by other users' master signing keys about their own self-signing key"
    if signer == owner and role == "device" and kind == "master":
        return True  # "made by other users' devices about their own master signing key", or by one's own
    return signer == owner and role == "device" and kind == "device"  # what a device says of itself


def visible(viewer: str, owner: str, kind: str, tree: Json) -> Json:
    """Return a key with the signatures that may be seen, without what servers add."""
    shown = {
        signer: {key_id: text for key_id, text in by.items() if may_see(viewer, owner, kind, signer, key_id)}
        for signer, by in tree.get("signatures", {}).items()
    }
    signatures = {signer: by for signer, by in shown.items() if by}
    return {**{name: value for name, value in tree.items() if name != "unsigned"}, "signatures": signatures}


@define(eq=False, repr=False)
class Device:
    """A device as its owner knows it."""

    user_id: str
    device_id: str
    version: int = 0
    uploaded: dict[str, Json] = field(factory=dict)
    """Key id to one-time key: all that the server took."""
    last_upload: Json | None = None
    token: str | None = None
    outdated: set[str] = field(factory=set)
    views: dict[str, Json] = field(factory=dict)
    """Whom it knows, to what was served."""
    inbox: Counter[int] = field(factory=Counter)

    @property
    def requester(self) -> Requester:
        return Requester(user_id=self.user_id, device_id=self.device_id)

    @property
    def place(self) -> tuple[str, str]:
        return self.user_id, self.device_id


@define(eq=False)
class UnderWay:
    """A request of a user that waits for other servers."""

    device: Device
    life: int
    exchange: Exchange
    done: Callable[[HttpResponse], None]
    lost: Callable[[], None]


@define(eq=False)
class Flight:
    """A request of a server that nobody waits for, and its answer once there is one."""

    server: str
    directory: KeyDirectory
    request: ServerRequest
    is_sent: bool = False
    response: HttpResponse | None = None


class Servers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.federation = LocalFederation(
            KeyDirectory.create(name, signers=self.signer(name), **self.options(name)) for name in SERVERS
        )
        self.lives = Counter[str]()
        self.devices: dict[tuple[str, str], Device] = {}
        self.generations = Counter[str]()
        self.names = 0
        self.issued: dict[tuple[str, str, str], str] = {}
        """User, device and text of every one-time key that was given out, and its id."""
        self.lost_keys: dict[int, set[str]] = {}
        self.under_way: list[UnderWay] = []
        self.flights: list[Flight] = []
        self.answered: list[Flight] = []
        self.sent = 0
        self.expected: dict[int, Device] = {}
        self.rooms: dict[str, set[str]] = {room: set() for room in ROOMS}
        self.touched: set[Device] = set()

    def signer(self, name: str) -> Any:
        return sample_secret_key(name).signer("ed25519:1")

    def options(self, name: str) -> Json:
        return {"authenticate": lambda _, auth: dict(auth) == AUTH, "shows_display_names": name == SERVERS[0]}

    @initialize(is_settled=st.booleans())
    def begin(self, is_settled: bool) -> None:
        """Half of the time, begin with everybody in one room, with an identity, and known to everybody."""
        for user_id in USERS:
            self.log_in((user_id, "D1"))
            if is_settled:
                self.move(user_id, ROOMS[0], True)
                self.upload((user_id, "D1"), 2, True, False)
                self.upload_identity((user_id, "D1"), True)
        if is_settled:
            self.come_to_rest()

    # ----------------------------------------------------------------------------------------------------------
    # Requests of users
    # ----------------------------------------------------------------------------------------------------------

    def directory(self, user_id: str) -> KeyDirectory:
        return self.federation[server_of(user_id)]

    def ask(
        self,
        device: Device,
        request: HttpRequest,
        done: Callable[[HttpResponse], None],
        lost: Callable[[], None] = lambda: None,
        *,
        waits: bool = False,
    ) -> None:
        """Send a request; go on when it is answered, or when the server has crashed meanwhile."""
        self.touched.add(device)
        server = server_of(device.user_id)
        exchange = self.federation[server].receive_client_request(request, requester=device.requester, now=self.now)
        item = UnderWay(device, self.lives[server], exchange, done, lost)
        self.under_way.append(item)
        while item in self.under_way and (not waits or exchange.response is not None):
            self.proceed(item, FINE)

    def proceed(self, item: UnderWay, fault: str) -> None:
        """Let a request go on by one step, if its server is still the one that took it."""
        if self.lives[server_of(item.device.user_id)] != item.life:
            self.under_way.remove(item)
            item.lost()
            return
        if item.exchange.response is None:
            answers = {request.server_name: self.carry(request, fault) for request in item.exchange.requests}
            item.exchange = item.exchange.proceed(answers, now=self.now)
        if item.exchange.response is not None:
            self.under_way.remove(item)
            self.check_answer(item.exchange.response)
            item.done(item.exchange.response)

    def carry(self, request: ServerRequest, fault: str) -> HttpResponse | None:
        """Carry a request to another server, and its answer back; or not."""
        if fault == NOT_SENT:
            return None
        responses = [self.federation.send(request, now=self.now) for _ in range(2 if fault == TWICE else 1)]
        for response in responses:
            if response is not None:
                self.check_answer(response)
                if request.request.path.endswith("/user/keys/claim") and response.status == 200:
                    self.note_issued(json.loads(response.body)["one_time_keys"])
        return None if fault == NOT_ANSWERED else responses[-1]

    def check_answer(self, response: HttpResponse) -> None:
        assert response.status not in (500, 502), response
        assert type(json.loads(response.body)) is dict

    def note_issued(self, keys: Json, server: str | None = None) -> None:
        """Attack 46: no key is given out twice, whatever it is called, and after whatever crash."""
        for user_id, devices in keys.items():
            if server not in (None, server_of(user_id)):
                continue  # it was noted where it was given out
            for device_id, of_device in devices.items():
                for key_id, key in of_device.items():
                    if key.get("fallback") is not True:
                        assert (user_id, device_id, key["key"]) not in self.issued
                        self.issued[user_id, device_id, key["key"]] = key_id

    # ----------------------------------------------------------------------------------------------------------
    # Devices and rooms
    # ----------------------------------------------------------------------------------------------------------

    @rule(place=st.sampled_from(PLACES))
    def log_in(self, place: tuple[str, str]) -> None:
        self.directory(place[0]).log_in(*place, now=self.now)
        self.touched.add(self.devices.setdefault(place, Device(*place)))

    @rule(place=st.sampled_from(PLACES))
    def log_out(self, place: tuple[str, str]) -> None:
        device = self.devices.pop(place, None)
        self.directory(place[0]).delete_devices(place[0], [place[1]], now=self.now)
        if device is not None:
            self.touched.discard(device)
            for key in device.uploaded.values():
                self.issued.pop((*place, key["key"]), None)  # with the device, what was given out is forgotten
            self.under_way = [item for item in self.under_way if item.device is not device]

    @rule(place=st.sampled_from(PLACES), name=st.sampled_from(["phone", "laptop", None]))
    def rename(self, place: tuple[str, str], name: str | None) -> None:
        if place in self.devices:
            self.directory(place[0]).rename_device(*place, name, now=self.now)

    @rule(user_id=st.sampled_from(USERS), room=st.sampled_from(ROOMS), joins=st.booleans())
    def move(self, user_id: str, room: str, joins: bool) -> None:
        (self.rooms[room].add if joins else self.rooms[room].discard)(user_id)
        for server in SERVERS:
            directory = self.federation[server]
            (directory.join if joins else directory.leave)(user_id, room, now=self.now)

    def sharing(self, user_id: str) -> set[str]:
        """Return oneself, and with whom a room is shared."""
        return {user_id}.union(*(members for members in self.rooms.values() if user_id in members))

    # ----------------------------------------------------------------------------------------------------------
    # Uploads
    # ----------------------------------------------------------------------------------------------------------

    @rule(place=st.sampled_from(PLACES), keys=st.integers(0, 2), has_fallback=st.booleans(), is_new=st.booleans())
    def upload(self, place: tuple[str, str], keys: int, has_fallback: bool, is_new: bool) -> None:
        device = self.devices.get(place)
        if device is None:
            return
        sample = SampleUser(place[0])
        device.version += is_new
        extra = {"version": device.version} if device.version else None
        names = [f"K{self.names + number}" for number in range(keys)]
        fallback = [sample.one_time_key(place[1], f"F{self.names}", fallback=True)] if has_fallback else []
        self.names += keys + 1
        request = KeysUploadRequest.for_keys(
            device_keys=sample.device(place[1], cross_signed=False, extra=extra),
            one_time_keys=[sample.one_time_key(place[1], name) for name in names],
            fallback_keys=fallback,
        )
        self.send_upload(device, request.to_json())

    def send_upload(self, device: Device, body: Json) -> None:
        keys = body.get("one_time_keys", {})

        def done(response: HttpResponse) -> None:
            if response.status == 200:
                device.uploaded.update(keys)
                device.last_upload = body
                expected = len(self.unclaimed(device))
                assert json.loads(response.body)["one_time_key_counts"]["signed_curve25519"] == expected

        self.ask(device, raw_upload(json.dumps(body).encode()), done)

    def unclaimed(self, device: Device) -> dict[str, Json]:
        return {
            key_id: key for key_id, key in device.uploaded.items() if (*device.place, key["key"]) not in self.issued
        }

    @rule(place=st.sampled_from(PLACES), other=st.none() | st.sampled_from(PLACES), server_crashes=st.booleans())
    def upload_again(self, place: tuple[str, str], other: tuple[str, str] | None, server_crashes: bool) -> None:
        """The answer was lost, says the client. What was claimed meanwhile does not come back."""
        device = self.devices.get(place)
        if device is not None and device.last_upload is not None:
            if other is not None:
                self.claim(other, [place], False)
            if server_crashes:
                self.crash(server_of(place[0]), False)
            self.send_upload(device, device.last_upload)

    @rule(place=st.sampled_from(PLACES))
    def upload_conflicting(self, place: tuple[str, str]) -> None:
        """Another key under the id of one that is held or was claimed: all of it is refused."""
        device = self.devices.get(place)
        if device is None or not device.uploaded:
            return
        before = self.directory(place[0]).to_json()
        key_id = min(device.uploaded)
        other = SampleUser(place[0]).one_time_key(place[1], f"other {self.names}").to_json()
        fresh = SampleUser(place[0]).one_time_key(place[1], f"fresh {self.names}")
        body = {"one_time_keys": {str(fresh.key_id): fresh.to_json(), key_id: other}}

        def done(response: HttpResponse) -> None:
            assert response.status == 400
            assert self.directory(place[0]).to_json() == before

        self.ask(device, raw_upload(json.dumps(body).encode()), done)

    @rule(place=st.sampled_from(PLACES), body=st.sampled_from(MALFORMED))
    def upload_malformed(self, place: tuple[str, str], body: bytes) -> None:
        device = self.devices.get(place)
        if device is not None:
            before = self.directory(place[0]).to_json()

            def done(response: HttpResponse) -> None:
                assert 400 <= response.status < 500
                assert self.directory(place[0]).to_json() == before

            self.ask(device, raw_upload(body), done)

    # ----------------------------------------------------------------------------------------------------------
    # Identities and signatures
    # ----------------------------------------------------------------------------------------------------------

    def sample(self, user_id: str) -> SampleUser:
        """Return a user with the identity that was uploaded last."""
        return SampleUser(user_id, self.generations[user_id])

    @rule(place=st.sampled_from(PLACES), is_allowed=st.booleans(), resets=st.booleans(), is_partial=st.booleans())
    def upload_identity(
        self, place: tuple[str, str], is_allowed: bool, resets: bool = False, is_partial: bool = False
    ) -> None:
        """The first identity, the same again, another one, or a self-signing key that its master key does not know."""
        device = self.devices.get(place)
        generation = self.generations[place[0]] + resets
        if device is None or generation >= GENERATIONS:
            return
        sample, directory = SampleUser(place[0], generation), self.directory(place[0])
        before = directory.user(place[0])
        held = None if before is None else before.master_key
        request = DeviceSigningUploadRequest(
            master_key=None if is_partial else sample.master_key,
            self_signing_key=sample.self_signing_key,
            user_signing_key=sample.user_signing_key,
            auth=AUTH if is_allowed else None,
        )

        def done(response: HttpResponse) -> None:
            is_another = held is not None and held.key_id != sample.master_key.key_id
            if is_partial and (held is None or is_another):
                assert response.status in (400, 401)
            elif is_another and not is_allowed:
                assert response.status == 401
            else:
                assert response.status == 200, response
                self.generations[place[0]] = generation
            assert response.status == 200 or directory.user(place[0]) == before

        self.ask(device, request.to_http(), done)

    @rule(
        place=st.sampled_from(PLACES),
        what=st.sampled_from(["device", "master", "other", "bad", "foreign"]),
        other=st.sampled_from(USERS),
        fault=st.sampled_from(FAULTS),
    )
    def sign(self, place: tuple[str, str], what: str, other: str, fault: str) -> None:
        """Sign a device or the master key of oneself, or somebody else; or what is no signature."""
        device = self.devices.get(place)
        if device is None or (what in ("other", "bad", "foreign") and other == place[0]):
            return
        own, them = self.sample(place[0]), self.sample(other)
        extra = {"version": device.version} if device.version else None
        signed: dict[str, DeviceKeys | CrossSigningKey] = {
            "device": own.device(place[1], extra=extra),
            "master": own.master_key.with_signed(
                add_signature(own.master_key.signed, entity=own.user_id, signer=own.device_signer(place[1]))
            ),
            "other": own.verified(them.master_key),
            "bad": own.verified(them.master_key).with_signed(
                them.master_key.signed.with_signature(own.user_id, _name_of(own, "user_signing"), _some_signature(own))
            ),
            "foreign": SampleUser("@stranger:b.example").verified(them.master_key),
        }

        def done(response: HttpResponse) -> None:
            assert response.status == 200
            if what in ("bad", "foreign"):
                assert list(json.loads(response.body)["failures"]) == [other]

        request = SignaturesUploadRequest.for_keys([signed[what]])
        before = set(map(id, self.under_way))
        self.ask(device, request.to_http(), done, waits=True)
        for item in [item for item in self.under_way if id(item) not in before]:
            while item in self.under_way:
                self.proceed(item, fault)

    @rule(place=st.sampled_from(PLACES), other=st.sampled_from(USERS))
    def embed_a_foreign_signature(self, place: tuple[str, str], other: str) -> None:
        """Device keys that are said to be signed by somebody else. It is not served, be the upload taken or not."""
        device = self.devices.get(place)
        if device is None or other == place[0]:
            return
        them, device.version = self.sample(other), device.version + 1
        keys = SampleUser(place[0]).device(place[1], cross_signed=False, extra={"version": device.version})
        signed = add_signature(keys.signed, entity=other, signer=them.secret("user_signing").cross_signer())
        self.send_upload(device, {"device_keys": keys.with_signed(signed).to_json()})

    # ----------------------------------------------------------------------------------------------------------
    # Claims, messages
    # ----------------------------------------------------------------------------------------------------------

    @rule(
        place=st.sampled_from(PLACES),
        wanted=st.lists(st.sampled_from(PLACES), min_size=1, max_size=3, unique=True),
        waits=st.booleans(),
    )
    def claim(self, place: tuple[str, str], wanted: list[tuple[str, str]], waits: bool) -> None:
        device = self.devices.get(place)
        if device is None:
            return
        asked: dict[str, list[str]] = {}
        for user_id, device_id in wanted:
            asked.setdefault(user_id, []).append(device_id)

        def done(response: HttpResponse) -> None:
            assert response.status == 200
            keys = json.loads(response.body)["one_time_keys"]
            self.note_issued(keys, server_of(place[0]))
            assert all(device_id in asked[user_id] for user_id, of in keys.items() for device_id in of)
            for user_id, of_user in keys.items():
                for device_id, of_device in of_user.items():
                    [(key_id, key)] = of_device.items()
                    issued = self.issued.get((user_id, device_id, key["key"]))
                    is_gone = (user_id, device_id) not in self.devices
                    assert key.get("fallback") is True or issued == key_id or is_gone or waits

        self.ask(device, KeysClaimRequest.for_devices(asked).to_http(), done, waits=waits)

    @rule(place=st.sampled_from(PLACES), to=st.sampled_from(USERS), is_repeated=st.booleans())
    def send_message(self, place: tuple[str, str], to: str, is_repeated: bool) -> None:
        device = self.devices.get(place)
        if device is None:
            return
        self.sent += 1
        number = self.sent
        there = self.devices.get((to, "D1"))
        if there is not None:
            self.expected[number] = there
        request = SendToDeviceRequest(event_type="m.x", txn_id=str(number), messages={to: {"D1": {"number": number}}})
        for _ in range(1 + is_repeated):
            self.ask(device, request.to_http(), lambda response: None)

    @rule(place=st.sampled_from(PLACES))
    def synchronize(self, place: tuple[str, str]) -> None:
        device = self.devices.get(place)
        if device is None:
            return
        body = self.directory(place[0]).sync(device.requester, since=device.token).to_json()
        if device.token is None:
            device.outdated |= self.sharing(place[0])
        else:
            lists = body["device_lists"]
            assert set(lists["changed"]).isdisjoint(lists["left"])
            device.outdated |= set(lists["changed"])
            for user_id in lists["left"]:
                device.outdated.discard(user_id)
                device.views.pop(user_id, None)
            self.ask_changes(device, device.token, lists)
        device.token = body["next_batch"]
        device.inbox.update(event["content"]["number"] for event in body["to_device"]["events"])

    def ask_changes(self, device: Device, since: str, lists: Json) -> None:
        """What /keys/changes says is what /sync said."""

        def done(response: HttpResponse) -> None:
            assert json.loads(response.body) == lists

        self.ask(device, KeysChangesRequest(from_token=since, to_token=since).to_http(), done)

    # ----------------------------------------------------------------------------------------------------------
    # Queries
    # ----------------------------------------------------------------------------------------------------------

    @rule(place=st.sampled_from(PLACES), waits=st.booleans())
    def refresh(self, place: tuple[str, str], waits: bool) -> None:
        """Ask about everybody who is outdated."""
        device = self.devices.get(place)
        if device is None or not device.outdated:
            return
        asked, device.outdated = device.outdated, set()

        def done(response: HttpResponse) -> None:
            assert response.status == 200
            body = json.loads(response.body)
            self.check_served(device.user_id, body)
            for user_id in asked:
                if server_of(user_id) in body["failures"]:
                    device.outdated.add(user_id)
                elif user_id not in device.outdated:  # else it changed while the answer was on its way
                    device.views[user_id] = view_of(user_id, body)

        def lost() -> None:
            device.outdated |= asked

        self.ask(device, KeysQueryRequest.for_users(sorted(asked)).to_http(), done, lost, waits=waits)

    def check_served(self, viewer: str, body: Json) -> None:
        """Attack 53: nobody sees whom others have verified. And what is served of an identity fits together."""
        for owner, devices in body["device_keys"].items():
            for device_id, keys in devices.items():
                assert (keys["user_id"], keys["device_id"]) == (owner, device_id)
                assert_visible(viewer, owner, "device", keys)
        for kind in ("master", "self_signing", "user_signing"):
            for owner, key in body[f"{kind}_keys"].items():
                assert key["usage"] == [kind]
                assert key["user_id"] == owner
                assert kind != "user_signing" or owner == viewer
                assert_visible(viewer, owner, kind, key)
        for owner, key in body["self_signing_keys"].items():
            master = CrossSigningKey.from_json(body["master_keys"][owner])
            signed = CrossSigningKey.from_json(key).signed
            assert master.public_key is not None
            signed.verify(entity=owner, key_id=master.key_name, key=master.public_key)

    # ----------------------------------------------------------------------------------------------------------
    # The wires
    # ----------------------------------------------------------------------------------------------------------

    @rule(number=st.integers(0, 9), fault=st.sampled_from(FAULTS))
    def go_on(self, number: int, fault: str) -> None:
        """A request of a user goes on by one step."""
        if self.under_way:
            self.proceed(self.under_way[number % len(self.under_way)], fault)

    @rule(server=st.sampled_from(SERVERS))
    def take_request(self, server: str) -> None:
        directory = self.federation[server]
        request = directory.next_request(now=self.now)
        if request is not None:
            self.flights.append(Flight(server, directory, request))

    @rule(number=st.integers(0, 9), fault=st.sampled_from(FAULTS))
    def send(self, number: int, fault: str) -> None:
        if self.flights:
            flight = self.flights.pop(number % len(self.flights))
            flight.response = self.carry(flight.request, fault)
            self.answered.append(flight)

    @rule(number=st.integers(0, 9), copies=st.integers(1, 2))
    def hand_in(self, number: int, copies: int) -> None:
        """An answer arrives, be it at a server that has crashed since, be it twice, be it once more much later."""
        if self.answered:
            flight = self.answered[number % len(self.answered)]
            if copies == 1:
                self.answered.remove(flight)
            self.federation[flight.server].receive_answer(flight.request, flight.response, now=self.now)

    @rule(server=st.sampled_from(SERVERS), asks=st.booleans())
    def crash(self, server: str, asks: bool) -> None:
        """A server begins anew with what was stored; what it asked others last, it does not remember."""
        directory = self.federation[server]
        state = json.loads(json.dumps(directory.to_json()))
        if asks and (request := directory.next_request(now=self.now)) is not None:
            flight = Flight(server, directory, request, response=self.carry(request, FINE))
            directory.receive_answer(flight.request, flight.response, now=self.now)
            self.answered.append(flight)
        restored = KeyDirectory.from_json(state, signers=self.signer(server), **self.options(server))
        assert restored.to_json() == state
        self.federation.replace(restored)
        self.lives[server] += 1

    @rule(server=st.sampled_from(SERVERS), is_away=st.booleans())
    def come_or_go(self, server: str, is_away: bool) -> None:
        (self.federation.down.add if is_away else self.federation.down.discard)(server)

    @rule(milliseconds=st.sampled_from([1, 20_000, HOUR]))
    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds

    # ----------------------------------------------------------------------------------------------------------
    # What always holds
    # ----------------------------------------------------------------------------------------------------------

    @invariant()
    def the_counts_are_right(self) -> None:
        """What was uploaded and not given out is there."""
        for device in self.touched:
            counts = self.directory(device.user_id).sync(device.requester).keys.one_time_key_counts
            assert counts["signed_curve25519"] == len(self.unclaimed(device))
        self.touched.clear()

    # ----------------------------------------------------------------------------------------------------------
    # In the end
    # ----------------------------------------------------------------------------------------------------------

    def come_to_rest(self) -> None:
        """Everything arrives at last, and everybody looks."""
        self.federation.down.clear()
        for _ in range(40):
            self.now += HOUR
            while self.under_way:
                self.proceed(self.under_way[-1], FINE)
            for flight in self.flights:
                flight.response = self.carry(flight.request, FINE)
                self.answered.append(flight)
            self.flights.clear()
            for flight in self.answered:
                self.federation[flight.server].receive_answer(flight.request, flight.response, now=self.now)
            self.answered.clear()
            self.federation.settle(now=self.now)
            for place in list(self.devices):
                self.synchronize(place)
                self.refresh(place, False)
            if all(self.federation[server].next_wake_at(now=self.now) is None for server in SERVERS):
                return
        raise AssertionError("the servers never stop talking")

    def teardown(self) -> None:
        self.come_to_rest()
        self.come_to_rest()
        for device in self.devices.values():
            assert not device.outdated
            for user_id in self.sharing(device.user_id):
                assert device.views[user_id] == self.truth(device.user_id, user_id), (device.place, user_id)
        self.check_copies()
        for number, device in self.expected.items():
            is_there = self.devices.get(device.place) is device
            assert device.inbox[number] == 1 or (not is_there and device.inbox[number] == 0)
        self.touched.update(self.devices.values())
        self.the_counts_are_right()

    def check_copies(self) -> None:
        """With all others away, a server serves the copy that it has."""
        for server in SERVERS:
            self.federation.down.update(SERVERS)
            for device in self.devices.values():
                if server_of(device.user_id) == server:
                    device.outdated = self.sharing(device.user_id)
                    self.federation.down.discard(server)
                    self.refresh(device.place, False)
                    assert not device.outdated
                    for user_id in self.sharing(device.user_id):
                        assert device.views[user_id] == self.truth(device.user_id, user_id)
        self.federation.down.clear()

    def truth(self, viewer: str, owner: str) -> Json:
        """Return what is to be served of a user, by what the user's own server has stored."""
        directory = self.directory(owner)
        user, looks = directory.user(owner), self.directory(viewer).user(viewer)
        if user is None:
            return {"devices": {}, "names": {}}
        shows = directory is self.directory(viewer) or self.options(directory.server_name)["shows_display_names"]
        known = {name: device for name, device in user.devices.items() if device.keys is not None}
        truth: Json = {
            "devices": {
                name: visible(viewer, owner, "device", device.keys.to_json())
                for name, device in known.items()
                if device.keys is not None
            },
            "names": {name: device.display_name if shows else None for name, device in known.items()},
        }
        for kind in ("master", "self_signing", "user_signing"):
            key = user.key_of(kind)
            if key is None or (kind == "user_signing" and viewer != owner):
                continue
            tree = key.to_json()
            for signature in () if looks is None else looks.signatures:
                if kind == "master" and (signature.user_id, signature.master_key_id) == (owner, key.key_name):
                    by_viewer = tree.setdefault("signatures", {}).setdefault(viewer, {})
                    by_viewer[signature.signer_key_id] = signature.signature
            truth[kind] = visible(viewer, owner, kind, tree)
        return truth


def raw_upload(body: bytes) -> HttpRequest:
    return HttpRequest(method="POST", path="/_matrix/client/v3/keys/upload", body=body)


def view_of(user_id: str, body: Json) -> Json:
    """Return what an answer serves of a user."""
    devices = body["device_keys"].get(user_id, {})
    view: Json = {
        "devices": {name: without_unsigned(keys) for name, keys in devices.items()},
        "names": {name: keys["unsigned"].get("device_display_name") for name, keys in devices.items()},
    }
    for kind in ("master", "self_signing", "user_signing"):
        if user_id in body[f"{kind}_keys"]:
            view[kind] = without_unsigned(body[f"{kind}_keys"][user_id])
    return view


def without_unsigned(tree: Json) -> Json:
    signatures = {signer: by for signer, by in tree.get("signatures", {}).items() if by}
    return {**{name: value for name, value in tree.items() if name != "unsigned"}, "signatures": signatures}


def assert_visible(viewer: str, owner: str, kind: str, tree: Json) -> None:
    for signer, by in tree.get("signatures", {}).items():
        for key_id in by:
            assert may_see(viewer, owner, kind, signer, key_id), (viewer, owner, kind, signer, key_id)


def _name_of(sample: SampleUser, role: str) -> str:
    return f"ed25519:{sample.secret(role).public_key.to_base64()}"


def _some_signature(sample: SampleUser) -> Any:
    return sample.secret("user_signing").cross_signer().sign(b"something else")


TestAnyOrder = Servers.TestCase
TestAnyOrder.settings = settings(
    max_examples=max(settings().max_examples // 3, 10),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


# --------------------------------------------------------------------------------------------------------------
# Whatever is sent
# --------------------------------------------------------------------------------------------------------------

CLIENT_REQUESTS: Final = st.one_of(
    messages.keys_upload_requests(),
    messages.keys_query_requests(),
    messages.keys_claim_requests(),
    messages.keys_changes_requests(),
    messages.device_signing_upload_requests(),
    messages.signatures_upload_requests(),
    messages.send_to_device_requests(),
)
SERVER_REQUESTS: Final = st.one_of(
    messages.user_keys_query_requests(),
    messages.user_keys_claim_requests(),
    messages.user_devices_requests(),
    messages.send_transaction_requests(),
    messages.server_keys_requests(),
)
CLIENT_PATHS: Final = (
    ("POST", "/_matrix/client/v3/keys/upload"),
    ("POST", "/_matrix/client/v2_alpha/keys/upload/D1"),
    ("POST", "/_matrix/client/v3/keys/query"),
    ("POST", "/_matrix/client/v2_alpha/keys/query"),
    ("POST", "/_matrix/client/v3/keys/claim"),
    ("POST", "/_matrix/client/v2_alpha/keys/claim"),
    ("GET", "/_matrix/client/v3/keys/changes"),
    ("POST", "/_matrix/client/v3/keys/device_signing/upload"),
    ("POST", "/_matrix/client/unstable/keys/device_signing/upload"),
    ("POST", "/_matrix/client/v3/keys/signatures/upload"),
    ("PUT", "/_matrix/client/v3/sendToDevice/m.x/1"),
)
SERVER_PATHS: Final = (
    ("POST", "/_matrix/federation/v1/user/keys/query"),
    ("POST", "/_matrix/federation/v1/user/keys/claim"),
    ("GET", "/_matrix/federation/v1/user/devices/%40al%3Aa.example"),
    ("PUT", "/_matrix/federation/v1/send/1"),
    ("GET", "/_matrix/key/v2/server"),
)
NAMED: Final = st.sampled_from(
    [
        *("device_keys", "one_time_keys", "fallback_keys", "master_key", "self_signing_key", "user_signing_key"),
        *("auth", "messages", "timeout", "token", "edus", "pdus", "origin", "origin_server_ts", *USERS, *DEVICES),
        *("keys", "signatures", "usage", "user_id", "device_id", "algorithms", "signed_curve25519:X", "unsigned"),
    ]
)
JSON_BODIES: Final = st.recursive(
    messages.json_values() | NAMED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMED | st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
BODIES: Final = (
    JSON_BODIES.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(NAMED, JSON_BODIES, max_size=4).map(lambda value: json.dumps(value).encode())
    | st.sampled_from(MALFORMED)
    | st.binary(max_size=20)
)
HEADERS: Final = st.lists(
    st.sampled_from(
        [
            "",
            "X-Matrix",
            "Bearer x",
            'X-Matrix origin="b.example",key="ed25519:1",sig="x"',
            'X-Matrix origin="b.example",destination="a.example",key="ed25519:1",sig="' + "A" * 86 + '"',
            'X-Matrix origin="nowhere.example",destination="c.example",key="x",sig=""',
            'X-Matrix origin=b.example,origin=a.example,key="ed25519:1",sig="\\',
        ]
    )
    | st.text(max_size=20),
    max_size=2,
)


def world_of_two(policy: Policy) -> LocalFederation:
    """Two servers with a user each, who have everything and share a room."""
    federation = LocalFederation(
        KeyDirectory.create(name, signers=sample_secret_key(name).signer("ed25519:1"), policy=policy)
        for name in SERVERS[:2]
    )
    for user_id in (USERS[0], USERS[2]):
        sample, server = SampleUser(user_id), server_of(user_id)
        requester = Requester(user_id=user_id, device_id="D1")
        federation[server].log_in(user_id, "D1", now=START)
        for directory in (federation[name] for name in SERVERS[:2]):
            directory.join(user_id, ROOMS[0], now=START)
        for request in (
            KeysUploadRequest.for_keys(
                device_keys=sample.device("D1"), one_time_keys=[sample.one_time_key("D1", name) for name in "12345"]
            ),
            DeviceSigningUploadRequest(master_key=sample.master_key, self_signing_key=sample.self_signing_key),
        ):
            assert federation.exchange(server, request.to_http(), requester=requester, now=START).status == 200
    federation.settle(now=START)
    return federation


def check_all_is_well(federation: LocalFederation) -> None:
    """Everybody is served, also by the other server, and after a restart."""
    federation.settle(now=START)
    for server in SERVERS[:2]:
        state = json.loads(json.dumps(federation[server].to_json()))
        signers = sample_secret_key(server).signer("ed25519:1")
        assert KeyDirectory.from_json(state, signers=signers).to_json() == state
    for viewer in (USERS[0], USERS[2]):
        requester, query = Requester(user_id=viewer, device_id="D1"), KeysQueryRequest.for_users(USERS[:4])
        response = federation.exchange(server_of(viewer), query.to_http(), requester=requester, now=START)
        body = json.loads(response.body)
        assert body["failures"] == {}
        assert all("D1" in body["device_keys"][user_id] for user_id in (USERS[0], USERS[2]))


@few
@given(
    data=st.data(),
    policy=st.sampled_from([COMPAT, SPEC, STRICT]),
    dialect=st.sampled_from([CLIENT_V3, CLIENT_R0, CLIENT_V2_ALPHA]),
    device_id=st.sampled_from(["D1", None, "D2"]),
)
def test_whatever_a_client_sends_is_answered(
    data: st.DataObject, policy: Policy, dialect: Dialect, device_id: str | None
) -> None:
    """It is never the server's fault, nor does it harm anybody else: attacks 50, 52 and 54."""
    federation = world_of_two(policy)
    requester = Requester(user_id=USERS[0], device_id=device_id)
    for _ in range(4):
        if data.draw(st.booleans()):
            method, path = data.draw(st.sampled_from(CLIENT_PATHS))
            query = data.draw(st.sampled_from(["", "from=s0&to=s1", "from=x", "from=s99999999999999999999", "&%zz=="]))
            request = HttpRequest(method=method, path=path, query=query, body=data.draw(BODIES))
        else:
            try:
                request = data.draw(CLIENT_REQUESTS).to_http(dialect)
            except LocalProtocolError:
                continue  # that cannot be said in this dialect
        response = federation.exchange(SERVERS[0], request, requester=requester, now=START)
        assert response.status < 500, response
        assert type(json.loads(response.body)) is dict
        assert device_id == "D1" or response.status != 200 or device_id is None
    check_all_is_well(federation)


@few
@given(data=st.data(), policy=st.sampled_from([COMPAT, SPEC, STRICT]), headers=HEADERS)
def test_whatever_a_server_sends_is_answered(data: st.DataObject, policy: Policy, headers: list[str]) -> None:
    """Be it signed or not: attacks 52 to 54."""
    federation = world_of_two(policy)
    signers = sample_secret_key(SERVERS[1]).signer("ed25519:1")
    for _ in range(4):
        if data.draw(st.booleans()):
            method, path = data.draw(st.sampled_from(SERVER_PATHS))
            request = HttpRequest(method=method, path=path, body=data.draw(BODIES))
        else:
            request = data.draw(SERVER_REQUESTS).to_http()
        authorization = headers
        if data.draw(st.booleans()):
            with contextlib.suppress(E2EKeysError):  # what is not JSON cannot be signed
                signed = sign_request(request, origin=SERVERS[1], destination=SERVERS[0], signers=signers)
                authorization = [*signed]
        exchange = federation[SERVERS[0]].receive_server_request(request, authorization=authorization, now=START)
        while exchange.response is None:
            answers = {asked.server_name: federation.send(asked, now=START) for asked in exchange.requests}
            exchange = exchange.proceed(answers, now=START)
        assert exchange.response.status < 500, exchange.response
        assert type(json.loads(exchange.response.body)) is dict
    check_all_is_well(federation)
