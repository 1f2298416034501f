"""The homeserver's half of end-to-end encryption, whole and in memory.

Specification: client-server API, "End-to-end encryption"; server-server API, "End-to-End Encryption", "Device
Management", "Send-to-device messaging".

Facts:

* Made of the decisions that a homeserver with a database of its own would call, and of a store that carries them out.
  It serves as a reference, as a double in tests, and as an embedded server where everything fits into memory.
* It does no I/O: requests of other servers and to them are values.
  :class:`~matrix_e2e_keys.homeserver.LocalFederation` wires several directories in one process;
  ``docs/examples/asgi_homeserver.py`` puts one behind HTTP.
* It knows who is logged in because it is told, and who shares a room with whom because it is told.
* Tokens of ``/sync`` are its own. What it tells to whom is read off one stream; see
  :mod:`~matrix_e2e_keys.homeserver.directory.change_stream`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from attrs import define, evolve

from matrix_e2e_keys.back_off import check_now, earliest, granted
from matrix_e2e_keys.endpoints.dialects import Authentication, Match, find_endpoint
from matrix_e2e_keys.endpoints.federation.server_keys import ServerKeysRequest, ServerKeysResponse
from matrix_e2e_keys.endpoints.http_values import HttpRequest, HttpResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.members import instances, optional
from matrix_e2e_keys.endpoints.messages import Request
from matrix_e2e_keys.endpoints.routing import read_request
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, quoted, raised_as
from matrix_e2e_keys.homeserver.admission.devices import decide_delete_devices, decide_log_in, decide_rename
from matrix_e2e_keys.homeserver.claims.claim_ledger import ClaimLedger
from matrix_e2e_keys.homeserver.decisions import Requester, check_requester
from matrix_e2e_keys.homeserver.device_streams.changes import sync_keys
from matrix_e2e_keys.homeserver.device_streams.remote_lists import EduReason, EduVerdict, RemoteDeviceLists, Resync
from matrix_e2e_keys.homeserver.directory.change_stream import ChangeStream
from matrix_e2e_keys.homeserver.directory.client_requests import ClientRequests
from matrix_e2e_keys.homeserver.directory.known_servers import KnownServers
from matrix_e2e_keys.homeserver.directory.mailbox import Mailbox
from matrix_e2e_keys.homeserver.directory.memory_store import MemoryStore
from matrix_e2e_keys.homeserver.directory.server_requests import ServerRequests
from matrix_e2e_keys.homeserver.directory.state import Authenticate, DirectoryState
from matrix_e2e_keys.homeserver.directory.transactions import Transactions
from matrix_e2e_keys.homeserver.directory.values import Answers, Exchange, ServerRequest, SyncAnswer
from matrix_e2e_keys.homeserver.effects import DeleteDevice, IdentityChanged
from matrix_e2e_keys.homeserver.federation_auth.authorization import XMatrixClaim, read_authorization
from matrix_e2e_keys.homeserver.policies import SPEC, Policy, check_policy
from matrix_e2e_keys.homeserver.stored_keys import UserKeys
from matrix_e2e_keys.identifiers import home_of, parse_room_id, parse_server_name, parse_user_id, read_identifier
from matrix_e2e_keys.models.server_keys import ServerKeys
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.signers import Signer, check_signer
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier
from matrix_e2e_keys.stored import Stored

__all__ = ["KeyDirectory"]

_VERSION: Final = 1
_OF_SERVERS: Final = {"keys_per_device": 25, "keys_per_window": 100_000}
_KEYS_VALID_MS: Final = 24 * 60 * 60 * 1000


@define(eq=False, repr=False)
class KeyDirectory(metaclass=Sealed):
    """The keys of a homeserver's users, and everything that may be asked about them.

    Made by :meth:`create` and :meth:`from_json`.
    """

    _state: DirectoryState
    _clients: ClientRequests
    _servers: ServerRequests
    _awaited: dict[ServerRequest, Resync | None]
    """What is on its way, and for which device list; ``None`` for a transaction."""

    @classmethod
    def create(
        cls,
        server_name: str,
        *,
        signers: Signer | Iterable[Signer],
        policy: Policy = SPEC,
        authenticate: Authenticate | None = None,
        shows_display_names: bool = False,
        countersigns: bool = False,
        verifier: Verifier = LIBSODIUM,
    ) -> KeyDirectory:
        """Begin with nobody.

        Args:
            server_name: the name of this server.
            signers: the keys the server signs with, under key ids ``ed25519:<version>``.
            policy: how much is asked of uploads.
            authenticate: tells whether the ``auth`` of an upload proves that it is the user. Without it, nobody
                replaces cross-signing keys, unless :attr:`Requester.has_authenticated` says so.
            shows_display_names: whether other servers may know what devices are called.
            countersigns: whether other servers are answered as in the draft of 2015: with this server's signature on
                device keys, and devices without keys named. Clients of ``v2_alpha`` are in any case.
            verifier: who checks signatures.

        Raises:
            LocalProtocolError: an argument is none.
        """
        with raised_as(LocalProtocolError):
            name = read_identifier(parse_server_name, server_name, "server_name")
        return _assembled(
            _state(name, signers, policy, authenticate, shows_display_names, countersigns, verifier),
        )

    @property
    def server_name(self) -> str:
        """The name of this server."""
        return self._state.server_name

    @property
    def user_ids(self) -> frozenset[str]:
        """Everybody who has logged in here."""
        return self._state.store.user_ids

    def user(self, user_id: str) -> UserKeys | None:
        """Return the devices and the identity of one of this server's users, ``None`` if nobody is called so.

        Raises:
            LocalProtocolError: the argument is no string.
        """
        if type(user_id) is not str:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a user id is a string", path="/user_id")
        return self._state.store.user(user_id)

    # ----------------------------------------------------------------------------------------------------------
    # Who is there
    # ----------------------------------------------------------------------------------------------------------

    def log_in(self, user_id: str, device_id: str, *, display_name: str | None = None, now: int) -> None:
        """Let a device log in. One that was there stays what it was, but for its name if another is given.

        Args:
            user_id: a user of this server.
            device_id: the device.
            display_name: what to call it.
            now: milliseconds since the epoch.

        Raises:
            MatrixError: one of the user's cross-signing keys is called so, or the name is too long.
            LocalProtocolError: it is not a user of this server, or not a device id.
        """
        stored = self._local_user(user_id)
        effects = decide_log_in(device_id, stored=stored, display_name=display_name, policy=self._state.policy)
        self._state.commit(effects, now=check_now(now))

    def rename_device(self, user_id: str, device_id: str, display_name: str | None, *, now: int) -> None:
        """Give a device another name. ``None`` leaves it as it is.

        Raises:
            MatrixError: there is no such device, or the name is too long.
        """
        effects = decide_rename(device_id, stored=self._local_user(user_id), display_name=display_name)
        self._state.commit(effects, now=check_now(now))

    def delete_devices(self, user_id: str, device_ids: Iterable[str], *, now: int) -> None:
        """Delete devices with all that is theirs. Whoever is gone already is no error."""
        effects = decide_delete_devices(device_ids, stored=self._local_user(user_id))
        self._state.commit(effects, now=check_now(now))
        for effect in effects:
            if isinstance(effect, DeleteDevice):
                self._state.mailbox.forget(user_id, effect.device_id)

    def join(self, user_id: str, room_id: str, *, now: int) -> None:
        """Note that a user, of whatever server, is in a room."""
        self._move(user_id, room_id, joins=True, now=now)

    def leave(self, user_id: str, room_id: str, *, now: int) -> None:
        """Note that a user, of whatever server, is in a room no more."""
        self._move(user_id, room_id, joins=False, now=now)

    def _local_user(self, user_id: str) -> UserKeys:
        with raised_as(LocalProtocolError):
            name = read_identifier(parse_user_id, user_id, "user_id")
        if not self._state.is_local(name):
            raise LocalProtocolError(
                Reason.SERVER_NAME_MISMATCH, f"{quoted(user_id)} is not a user of this server", path="/user_id"
            )
        return self._state.store.user(name) or UserKeys(user_id=name)

    def _move(self, user_id: str, room_id: str, *, joins: bool, now: int) -> None:
        with raised_as(LocalProtocolError):
            name = read_identifier(parse_user_id, user_id, "user_id")
            room = read_identifier(parse_room_id, room_id, "room_id")
        state, rooms = self._state, self._state.stream.rooms
        check_now(now)
        had, shared = rooms.servers(room), rooms.servers_sharing(name)
        if not rooms.set_member(room, name, joins=joins, position=state.stream.next_position()):
            return
        if not joins:
            self._forget_strangers(room, name, now)
        elif state.is_local(name):
            state.introduce(name, servers=rooms.servers(room) - shared - {self.server_name}, now=now)
            for other in rooms.members(room) if self.server_name not in had else ():
                if not state.is_local(other):
                    state.remote.track(other, now=now)
        else:
            if self.server_name in had:
                state.remote.track(name, now=now)
            for other in sorted(rooms.members(room)) if home_of(name) not in had else ():
                if state.is_local(other) and not rooms.shares_with(other, home_of(name), beside=room):
                    state.introduce(other, servers=(home_of(name),), now=now)

    def _forget_strangers(self, room_id: str, left: str, now: int) -> None:
        """Keep no device lists of users with whom nobody here shares a room since somebody left one."""
        rooms = self._state.stream.rooms
        if not self._state.is_local(left):
            others: Iterable[str] = (left,)
        else:
            others = () if self.server_name in rooms.servers(room_id) else rooms.members(room_id)
        for other in others:
            if not self._state.is_local(other) and not rooms.shares_with(other, self.server_name):
                self._state.remote.untrack(other, now=now)

    # ----------------------------------------------------------------------------------------------------------
    # What comes in
    # ----------------------------------------------------------------------------------------------------------

    def receive_client_request(self, request: HttpRequest, *, requester: Requester, now: int) -> Exchange:
        """Take a request of one of this server's users.

        Args:
            request: as it was received, its path still percent-encoded.
            requester: who asks, as the access token says.
            now: milliseconds since the epoch.

        Returns:
            The answer; or what to ask other servers first. Whatever is wrong with the request is an answer.
        """
        _check_request(request)
        check_requester(requester)
        check_now(now)

        def begin() -> Exchange:
            match = find_endpoint(request)
            if match.endpoint.authentication is not Authentication.ACCESS_TOKEN:
                raise MatrixError(status=404, errcode="M_UNRECOGNIZED", error="Unrecognized request")
            self._require_device(requester)
            incoming = read_request(request, match=match)
            return self._clients.begin(incoming.request, requester=requester, dialect=incoming.dialect, now=now)

        return _answered(begin, lambda: self._require_device(requester))

    def receive_server_request(self, request: HttpRequest, *, authorization: Iterable[str] = (), now: int) -> Exchange:
        """Take a request of another server.

        Args:
            request: as it was received, its path still percent-encoded.
            authorization: the values of the ``Authorization`` headers.
            now: milliseconds since the epoch.

        Returns:
            The answer; or what to ask first, if the keys of the server are not known. Whatever is wrong with the
            request is an answer.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        _check_request(request)
        check_now(now)

        def begin() -> Exchange:
            match = find_endpoint(request)
            if match.endpoint.authentication is Authentication.NONE:
                return Exchange(response=ServerKeysResponse(server_keys=self.server_keys(now=now)).to_http())
            if match.endpoint.authentication is not Authentication.SERVER:
                raise MatrixError(status=404, errcode="M_UNRECOGNIZED", error="Unrecognized request")
            claim = read_authorization(authorization, server_name=self.server_name)
            known = self._state.servers.keys_for(claim, now=now)
            if known is not None or not self._state.servers.may_ask(claim.origin, now=now):
                return self._answer_server(match, request, claim, now)
            ask = ServerRequest(server_name=claim.origin, request=ServerKeysRequest().to_http())
            return Exchange(requests=(ask,), step=lambda answers, later: take_keys(match, claim, answers, later))

        def take_keys(match: Match, claim: XMatrixClaim, answers: Answers, later: int) -> Exchange:
            response = answers.get(claim.origin)
            if response is None:
                self._state.servers.receive_failure(claim.origin, now=later)
            else:
                with contextlib.suppress(E2EKeysError):  # then its keys are not known
                    self._state.servers.receive(claim.origin, response, now=later)
            return self._answer_server(match, request, claim, later)

        return _answered(begin)

    def _answer_server(self, match: Match, request: HttpRequest, claim: XMatrixClaim, now: int) -> Exchange:
        keys, received_ts = self._state.servers.keys_for(claim, now=now) or ({}, now)
        origin = claim.verify(request, keys=keys, received_ts=received_ts, now=now, verifier=self._state.verifier)
        incoming = read_request(request, match=match)
        return Exchange(
            response=self._servers.answer(incoming.request, origin=origin, now=now).to_http(incoming.dialect)
        )

    def _require_device(self, requester: Requester) -> UserKeys:
        user = self._state.store.user(requester.user_id)
        if user is None or (requester.device_id is not None and requester.device_id not in user.devices):
            raise MatrixError(status=401, errcode="M_UNKNOWN_TOKEN", error="Nobody is logged in so")
        return user

    # ----------------------------------------------------------------------------------------------------------
    # What goes out
    # ----------------------------------------------------------------------------------------------------------

    def sync(self, requester: Requester, *, since: str | None = None) -> SyncAnswer:
        """Return what ``/sync`` says to a device about keys, and the messages for it.

        Args:
            requester: the device.
            since: the token of the last answer that the device has worked through, ``None`` for the first time.
                Messages up to there are forgotten.

        Raises:
            MatrixError: the device is not logged in, or the token is none of this server's.
        """
        self._require_device(check_requester(requester))
        stream, store = self._state.stream, self._state.store
        position = 0 if since is None else stream.position_of(since) if type(since) is str else None
        if position is None:
            raise MatrixError(status=400, errcode="M_UNKNOWN", error="Invalid stream token")
        user_id, device_id = requester.user_id, requester.device_id or ""
        return SyncAnswer(
            next_batch=stream.token,
            keys=sync_keys(
                counts=store.counts(user_id, device_id),
                fallback_keys=store.fallback_keys(user_id, device_id),
                lists=None if since is None else stream.lists_since(user_id, position),
            ),
            to_device=self._state.mailbox.fetch(user_id, device_id, after=position),
        )

    def next_request(self, *, now: int) -> ServerRequest | None:
        """Return the next request to another server that nobody waits for, ``None`` if there is none to send now.

        Several may be on their way at once, one transaction to each server. Each must be answered with
        :meth:`receive_answer`.
        """
        state = self._state
        state.transactions.outbox.prune(now=check_now(now))
        found: tuple[str, Request[Any]] | None = state.transactions.next(
            now=now, users=state.store.users, shows_display_names=state.shows_display_names
        )
        resync = state.remote.next_resync(now=now) if found is None else None
        if resync is not None:
            found = resync.server_name, resync.request
        if found is None:
            return None
        request = state.ask(*found)
        self._awaited[request] = resync
        return request

    def receive_answer(self, request: ServerRequest, response: HttpResponse | None, *, now: int) -> None:
        """Take the answer to what :meth:`next_request` returned. A second one is ignored, and so is one from before a
        restart.

        Args:
            request: the very request that was returned.
            response: the answer, ``None`` if none came.
            now: milliseconds since the epoch.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        check_now(now)
        with raised_as(LocalProtocolError):
            instances(ServerRequest)(request, "request")
            optional(instances(HttpResponse))(response, "response")
        if request not in self._awaited:
            return
        state = self._state
        resync = self._awaited.pop(request)
        try:
            if response is None or response.status < 200:
                raise MatrixError(status=504, error="no answer")
            if resync is None:
                if response.status >= 300:
                    raise MatrixError.from_http(response) if response.status >= 400 else MatrixError(status=502)
                state.transactions.receive_delivered(request.server_name)
            else:
                outcome = state.remote.receive_devices(resync, resync.request.read_answer(response), now=now)
                # While the copy was stale, the other server itself was asked: who asked may know what was never in it.
                is_taken = outcome.verdict is EduVerdict.APPLIED or outcome.reason is EduReason.OVERTAKEN
                state.announce(outcome.changed or (IdentityChanged(user_id=resync.user_id),) * is_taken, now=now)
        except E2EKeysError as error:
            if resync is not None:
                state.remote.receive_failure(resync, now=now, error=error)
            elif isinstance(error, MatrixError) and _is_final(error.status):
                state.transactions.receive_refused(request.server_name, now=now)
            else:
                delay = error.retry_after_ms if isinstance(error, MatrixError) else None
                state.transactions.receive_failed(request.server_name, now=now, retry_after_ms=granted(delay))

    def next_wake_at(self, *, now: int) -> int | None:
        """Return when there is something to send, ``now`` at the earliest; ``None`` if nothing waits."""
        wake_at = earliest((self._state.transactions.next_wake_at(), self._state.remote.next_wake_at(now=now)))
        return None if wake_at is None else max(now, wake_at)

    def server_keys(self, *, now: int) -> ServerKeys:
        """Return the document of this server's own keys, good for a day."""
        return ServerKeys.build(
            server_name=self.server_name, signers=self._state.signers, valid_until_ts=check_now(now) + _KEYS_VALID_MS
        )

    # ----------------------------------------------------------------------------------------------------------
    # Storing
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return everything but the private keys of the server, as plain JSON values."""
        state = self._state
        parts = {name: getattr(state, name).to_json() for name in _PARTS}
        return {"version": _VERSION, "server_name": self.server_name, **parts}

    @classmethod
    def from_json(
        cls,
        obj: object,
        *,
        signers: Signer | Iterable[Signer],
        policy: Policy = SPEC,
        authenticate: Authenticate | None = None,
        shows_display_names: bool = False,
        countersigns: bool = False,
        verifier: Verifier = LIBSODIUM,
    ) -> KeyDirectory:
        """Read back what :meth:`to_json` returned. Requests that were on their way are sent again.

        Args:
            obj: what was stored.
            signers: as in :meth:`create`, and so are all others.
            policy: as there.
            authenticate: as there.
            shows_display_names: as there.
            countersigns: as there.
            verifier: as there.

        Raises:
            LocalProtocolError: it is damaged; ``path`` says where.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        with stored.reading():
            name = read_identifier(parse_server_name, stored.member("server_name", str), "server_name")
        state = _state(name, signers, policy, authenticate, shows_display_names, countersigns, verifier)
        for part in _PARTS:
            with stored.reading(part):
                setattr(state, part, _PARTS[part](stored.member(part), state))
        return _assembled(state)

    def __repr__(self) -> str:
        return f"<KeyDirectory of {quoted(self.server_name)}, {len(self.user_ids)} users>"


_PARTS: Final[Mapping[str, Callable[[Any, DirectoryState], Any]]] = {
    "store": lambda obj, _: MemoryStore.from_json(obj),
    "stream": lambda obj, _: ChangeStream.from_json(obj),
    "mailbox": lambda obj, _: Mailbox.from_json(obj),
    "transactions": lambda obj, state: Transactions.from_json(obj, server_name=state.server_name),
    "remote": lambda obj, state: RemoteDeviceLists.from_json(obj, verifier=state.verifier),
    "ledger": lambda obj, _: ClaimLedger.from_json(obj),
    "server_ledger": lambda obj, _: ClaimLedger.from_json(obj, **_OF_SERVERS),
}

_new_directory: Final = constructor_of(KeyDirectory)


def _is_final(status: int) -> bool:
    """Tell whether waiting does not change that a server refuses. It may, where it is about who asks, or how often."""
    return 400 <= status < 500 and status not in (401, 403, 404, 405, 408, 425, 429)


def _state(  # noqa: PLR0917
    server_name: str,
    signers: Signer | Iterable[Signer],
    policy: Policy,
    authenticate: Authenticate | None,
    shows_display_names: bool,
    countersigns: bool,
    verifier: Verifier,
) -> DirectoryState:
    if authenticate is not None and not callable(authenticate):
        raise LocalProtocolError(Reason.WRONG_TYPE, "authenticate must be callable", path="/authenticate")
    all_signers = tuple(signers) if isinstance(signers, Iterable) else (signers,)
    for signer in all_signers:
        check_signer(signer)
    if not all_signers:
        raise LocalProtocolError(Reason.MISSING_KEY, "somebody must sign", path="/signers")
    check_verifier(verifier)
    return DirectoryState(
        server_name=server_name,
        signers=all_signers,
        policy=check_policy(policy),
        verifier=verifier,
        authenticate=authenticate,
        shows_display_names=shows_display_names is True,
        countersigns=countersigns is True,
        store=MemoryStore(),
        stream=ChangeStream(),
        mailbox=Mailbox(),
        transactions=Transactions(server_name=server_name),
        remote=RemoteDeviceLists(verifier=verifier),
        ledger=ClaimLedger(),
        server_ledger=ClaimLedger(**_OF_SERVERS),
        servers=KnownServers(verifier=verifier),
    )


def _assembled(state: DirectoryState) -> KeyDirectory:
    return _new_directory(state, ClientRequests(state), ServerRequests(state), {})


def _check_request(request: object) -> None:
    with raised_as(LocalProtocolError):
        instances(HttpRequest)(request, "request")


def _answered(begin: Callable[[], Exchange], still: Callable[[], object] = lambda: None) -> Exchange:
    """Return what ``begin`` returns, or the answer that says what is wrong; and likewise in each step after it.

    Args:
        begin: what to do.
        still: raises if nothing more is to be done by the time a step is gone on with.
    """
    try:
        exchange = begin()
    except E2EKeysError as error:
        return Exchange(response=MatrixError.answering(error).to_http())
    step = exchange._step
    if step is None:
        return exchange

    def proceed(answers: Answers, now: int) -> Exchange:
        still()
        return step(answers, now)

    return evolve(exchange, step=lambda answers, now: _answered(lambda: proceed(answers, now), still))
