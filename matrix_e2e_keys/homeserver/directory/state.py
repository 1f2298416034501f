"""What a directory consists of, and how a decision is carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from attrs import define

from matrix_e2e_keys.endpoints.federation.edus import DirectToDevice
from matrix_e2e_keys.endpoints.federation.send_transaction import SendTransactionRequest
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.messages import Request
from matrix_e2e_keys.errors import E2EKeysError, printable
from matrix_e2e_keys.homeserver.claims.claim_ledger import ClaimLedger
from matrix_e2e_keys.homeserver.claims.local_claims import DeviceKeyPool, KeyWanted
from matrix_e2e_keys.homeserver.decisions import Requester
from matrix_e2e_keys.homeserver.device_streams.remote_lists import RemoteDeviceLists
from matrix_e2e_keys.homeserver.directory.change_stream import ChangeStream
from matrix_e2e_keys.homeserver.directory.known_servers import KnownServers
from matrix_e2e_keys.homeserver.directory.mailbox import Mailbox
from matrix_e2e_keys.homeserver.directory.memory_store import MemoryStore
from matrix_e2e_keys.homeserver.directory.transactions import MAX_TRANSACTION_BYTES, Transactions
from matrix_e2e_keys.homeserver.directory.values import ServerRequest
from matrix_e2e_keys.homeserver.effects import DeviceChanged, Effect, IdentityChanged, SignedOthers
from matrix_e2e_keys.homeserver.federation_auth.authorization import sign_request
from matrix_e2e_keys.homeserver.policies import Policy
from matrix_e2e_keys.identifiers import home_of
from matrix_e2e_keys.legacy.countersigning import KeysAnswer, countersign_answer
from matrix_e2e_keys.legacy.keyless_devices import with_keyless_devices
from matrix_e2e_keys.signing.signers import Signer
from matrix_e2e_keys.signing.verifiers import Verifier

__all__ = ["Authenticate", "DirectoryState"]

Authenticate: TypeAlias = Callable[[Requester, Mapping[str, Any]], bool]
"""``authenticate(requester, auth)`` tells whether ``auth`` proves that it is the user."""


@define(kw_only=True)
class DirectoryState:
    """The parts of a directory; see :class:`~matrix_e2e_keys.homeserver.KeyDirectory` for the first ones."""

    server_name: str
    signers: tuple[Signer, ...]
    policy: Policy
    verifier: Verifier
    authenticate: Authenticate | None
    shows_display_names: bool
    countersigns: bool
    store: MemoryStore
    stream: ChangeStream
    mailbox: Mailbox
    transactions: Transactions
    remote: RemoteDeviceLists
    ledger: ClaimLedger
    """What one's own users claim."""
    server_ledger: ClaimLedger
    """What other servers claim, each for all of its users."""
    servers: KnownServers

    def is_local(self, user_id: str) -> bool:
        """Tell whether a user is one of this server's."""
        return home_of(user_id) == self.server_name

    def commit(self, effects: Iterable[Effect], *, now: int) -> None:
        """Carry out a decision: change the store, then tell whoever is to know."""
        effects = tuple(effects)
        self.store.apply(effects)
        self.announce(effects, now=now)

    def announce(self, notices: Iterable[Effect], *, now: int) -> None:
        """Tell whoever is to know. What is told of remote users goes to one's own users only."""
        for notice in notices:
            if isinstance(notice, SignedOthers):
                self.stream.signed(notice.user_id, notice.signed or (notice.user_id,))
            elif isinstance(notice, DeviceChanged | IdentityChanged):
                self.stream.moved(notice.user_id)
                servers = self.servers_sharing(notice.user_id) if self.is_local(notice.user_id) else frozenset()
                if servers and isinstance(notice, DeviceChanged):
                    self.transactions.outbox.device_changed(
                        notice.user_id, notice.device_id, destinations=servers, now=now
                    )
                elif servers:
                    self.transactions.outbox.identity_changed(notice.user_id, destinations=servers, now=now)

    def introduce(self, user_id: str, *, servers: Iterable[str], now: int) -> None:
        """Tell servers that have not shared a room with a user so far about all the user's devices."""
        destinations = frozenset(servers)
        user = self.store.user(user_id)
        if user is None or not destinations:
            return
        for device_id in user.devices:
            self.transactions.outbox.device_changed(user_id, device_id, destinations=destinations, now=now)
        if user.master_key is not None:
            self.transactions.outbox.identity_changed(user_id, destinations=destinations, now=now)

    def pools(self, wanted: Iterable[KeyWanted]) -> dict[tuple[str, str], DeviceKeyPool]:
        """Return what some claims are decided on."""
        places = {(key.user_id, key.device_id) for key in wanted}
        return {place: pool for place in places if (pool := self.store.pool(*place)) is not None}

    def servers_sharing(self, user_id: str) -> frozenset[str]:
        """Return the other servers whose users share a room with a user."""
        return self.stream.rooms.servers_sharing(user_id) - {self.server_name}

    def check_carried(self, server_name: str, message: DirectToDevice, *, now: int) -> None:
        """Refuse messages to devices of another server that cannot get there.

        Raises:
            MatrixError: they have no canonical encoding, are nested too deep for a transaction, or too large.
        """
        trial = self.transactions.carrying([message], now=now, txn_id="trial")
        try:
            body = self.ask(server_name, trial).request.body
            (there,) = SendTransactionRequest.from_bytes(body, txn_id="trial").edus
        except E2EKeysError as error:
            raise MatrixError(status=400, errcode="M_BAD_JSON", error=printable(error.detail)) from None
        if there != message:
            raise MatrixError(status=400, errcode="M_BAD_JSON", error="A message does not survive the way")
        if len(body) > MAX_TRANSACTION_BYTES:
            raise MatrixError(status=413, errcode="M_TOO_LARGE", error="The messages are too large")

    def as_in_2015(self, answer: KeysAnswer, asked: Mapping[str, tuple[str, ...]]) -> KeysAnswer:
        """Return an answer that also names the devices of this server's users that have no keys, and is countersigned.

        Args:
            answer: device keys.
            asked: user id to device ids, none of which means all; only this server's users are looked at.
        """
        devices = {
            user_id: [name for name in user.devices if name in asked[user_id] or not asked[user_id]]
            for user_id, user in self.store.users(asked).items()
        }
        named = with_keyless_devices(answer, devices)
        for signer in self.signers:
            named = countersign_answer(named, server_name=self.server_name, signer=signer)
        return named

    def ask(self, server_name: str, request: Request[Any], *, timeout_ms: int = 10_000) -> ServerRequest:
        """Return a signed request to another server."""
        http = request.to_http()
        return ServerRequest(
            server_name=server_name,
            request=http,
            authorization=sign_request(http, origin=self.server_name, destination=server_name, signers=self.signers),
            timeout_ms=timeout_ms,
        )
