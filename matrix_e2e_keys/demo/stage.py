"""The stage of the demonstration: two homeservers, two users, three devices, and the wires between them.

Facts:

* Everything a device says to its server is a request as it goes over HTTP, and everything servers say to each other is
  signed; only the network is missing.
* The clock stands still. Nothing in the story takes longer than a moment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from attrs import define, field

from matrix_e2e_keys.client.machine.key_machine import KeyMachine
from matrix_e2e_keys.client.supply.values import SupplyPolicy
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.demo.ratchets import Account
from matrix_e2e_keys.endpoints.client_server.sync import SyncKeys
from matrix_e2e_keys.endpoints.http_values import HttpResponse
from matrix_e2e_keys.endpoints.messages import Request
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.events.received import ToDeviceEvents
from matrix_e2e_keys.homeserver import KeyDirectory, LocalFederation, Requester, ServerRequest
from matrix_e2e_keys.identifiers import UserId, parse_user_id, server_name_of
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.one_time_keys import VerifiedOneTimeKey
from matrix_e2e_keys.signing.signers import Ed25519SecretKey
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, SignatureCheck

__all__ = ["ALICE", "BOB", "NOW", "ROOM", "CountingVerifier", "Device", "Stage"]

NOW: Final = 1_790_000_000_000
"""Milliseconds since the epoch."""
ALICE: Final = parse_user_id("@alice:a.example")
BOB: Final = parse_user_id("@bob:b.example")
_SERVERS: Final = ("a.example", "b.example")
ROOM: Final = "!room:a.example"

_POLICY: Final = SupplyPolicy(target=10)


@define
class CountingVerifier:
    """A verifier that counts.

    Attributes:
        checked: how many signatures it has checked.
    """

    checked: int = 0

    def verify_many(self, checks: Sequence[SignatureCheck], /) -> list[bool]:
        """Check signatures."""
        self.checked += len(checks)
        return LIBSODIUM.verify_many(checks)


@define(eq=False)
class Stage:
    """Two servers that know each other, and the devices that are logged in.

    Made from what returns the private keys of a device, given its user id and device id.

    Attributes:
        verifier: checks all signatures.
        federation: the servers.
        phone: a device of Alice.
        tablet: another one.
        laptop: the device of Bob.
        carried: what servers have asked each other because a device had asked them.
        requests: how many requests were made. Those for the keys of servers are left out.
    """

    _new_account: Callable[[str, str], Account] = field(repr=False)
    verifier: CountingVerifier = field(factory=CountingVerifier, init=False)
    federation: LocalFederation = field(init=False)
    phone: Device = field(init=False)
    tablet: Device = field(init=False)
    laptop: Device = field(init=False)
    carried: list[ServerRequest] = field(factory=list, init=False, repr=False)
    requests: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.federation = LocalFederation(
            KeyDirectory.create(name, signers=Ed25519SecretKey.generate().signer("ed25519:1"), verifier=self.verifier)
            for name in _SERVERS
        )
        for name in _SERVERS:  # whoever runs the rooms tells both servers who is in them
            for user_id in (ALICE, BOB):
                self.federation[name].join(user_id, ROOM, now=NOW)
        self.phone = self._log_in(ALICE, "PHONE")
        self.tablet = self._log_in(ALICE, "TABLET")
        self.laptop = self._log_in(BOB, "LAPTOP")

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices."""
        return self.phone, self.tablet, self.laptop

    def _log_in(self, user_id: UserId, device_id: str) -> Device:
        account = self._new_account(user_id, device_id)
        self.federation[server_name_of(user_id)].log_in(user_id, device_id, now=NOW)
        keys = DeviceKeys.build(
            user_id=user_id, device_id=device_id, curve25519_key=account.identity_key, signer=account.signer
        )
        machine = KeyMachine.create(keys, signer=account.signer, policy=_POLICY, verifier=self.verifier)
        return Device(stage=self, account=account, machine=machine)

    def carry(self, request: ServerRequest) -> HttpResponse | None:
        """Carry a request to another server, and its answer back."""
        self.requests += 1
        self.carried.append(request)
        return self.federation.send(request, now=NOW)

    def settle(self) -> None:
        """Let the servers tell each other what they have to tell."""
        self.requests += self.federation.settle(now=NOW)

    def go_on(self) -> None:
        """Let everybody hear what is new, and do what there is to do."""
        for _ in range(2):
            self.settle()
            for device in self.devices:
                device.go_on()
        self.settle()


@define(eq=False)
class Device:
    """A device that is logged in: a machine, an account, and the way to its server.

    Attributes:
        stage: where it is.
        machine: everything about keys.
        account: the private keys of the device.
        claimed: the one-time keys of others that it may open sessions with.
        to_device: the messages to it that came with the last answer to ``/sync``.
        log: what it has asked its server, and what was answered.
    """

    stage: Stage = field(repr=False)
    account: Account
    machine: KeyMachine
    claimed: list[VerifiedOneTimeKey] = field(factory=list, init=False)
    to_device: ToDeviceEvents = field(factory=ToDeviceEvents, init=False)
    log: list[tuple[Request[Any], HttpResponse]] = field(factory=list, init=False, repr=False)
    _token: str | None = field(default=None, init=False)

    @property
    def own(self) -> VerifiedDevice:
        """The keys of the device."""
        return self.machine.device

    @property
    def requester(self) -> Requester:
        """Who asks, when this device asks its server."""
        return Requester(user_id=self.own.user_id, device_id=self.own.device_id)

    @property
    def server(self) -> KeyDirectory:
        """The server of its user."""
        return self.stage.federation[server_name_of(self.own.user_id)]

    def knows(self, user_id: str) -> KnownUser:
        """Return what it knows of a user."""
        return self.machine.users.users[user_id]

    def master_key(self) -> Ed25519PublicKey:
        """Return the master key of its own user, as the device shows it to whoever wants to compare.

        Raises:
            LocalProtocolError: there is none yet.
        """
        own = self.machine.users.own
        if own is None:
            raise LocalProtocolError(Reason.MISSING_MASTER_KEY, "there is no identity yet")
        return own.identity.master_public_key

    def send(self, request: Request[Any]) -> HttpResponse:
        """Send a request to the server, and return the answer."""
        self.stage.requests += 1
        exchange = self.server.receive_client_request(request.to_http(), requester=self.requester, now=NOW)
        while exchange.response is None:  # the server has to ask others first
            answers = {asked.server_name: self.stage.carry(asked) for asked in exchange.requests}
            exchange = exchange.proceed(answers, now=NOW)
        self.log.append((request, exchange.response))
        return exchange.response

    def go_on(self) -> None:
        """Hear what is new. Then make keys, store them, send what there is to send, until that is all."""
        self._sync()
        while True:
            self._make_keys()
            self.machine.mark_stored(self.machine.to_json())  # here a real client writes to its disk
            requests = self.machine.outgoing_requests(NOW)
            if not requests:
                return
            for outgoing in requests:
                answer = outgoing.request.read_answer(self.send(outgoing.request))
                received = self.machine.receive_response(outgoing.request_id, answer, NOW)
                self._take([key for of_user in received.sessions.values() for key in of_user.values()])

    def _sync(self) -> None:
        answer = self.server.sync(self.requester, since=self._token)
        body = json.dumps(answer.to_json()).encode()
        keys = SyncKeys.from_sync_v2(body)
        self.machine.receive_sync(keys, since=self._token, next_batch=answer.next_batch, now=NOW)
        self.to_device = ToDeviceEvents.from_sync_v2(body)
        self._token = answer.next_batch

    def _make_keys(self) -> None:
        needed = self.machine.supply.needed(NOW)
        if needed.one_time_keys:
            self.machine.add_one_time_keys(self.account.make_one_time_keys(needed.one_time_keys))
        if needed.fallback_key:
            self.machine.add_fallback_key(*self.account.make_fallback_key(), NOW)

    def _take(self, keys: Iterable[VerifiedOneTimeKey]) -> None:
        for key in keys:
            self.claimed.append(key)
            self.machine.sessions.session_opened(key.device)
