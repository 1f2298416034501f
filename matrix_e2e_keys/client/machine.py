"""Everything a client keeps about keys, in one object: what to send, what to make of the answers, whom to write to.

Specification: client-server API, "End-to-end encryption".

One round, with any transport::

    needed = machine.supply.needed(now)                      # make as many keys with the Olm library
    machine.supply.add_one_time_keys(keys, signer=signer)
    state = machine.to_json()                                # store it with the Olm account, in one transaction
    machine.mark_stored(state)
    for outgoing in machine.outgoing_requests(now):
        try:
            response = outgoing.request.read_answer(send(outgoing.request.to_http()))
        except MatrixError as error:
            received = machine.receive_error(outgoing.request_id, error, now)
        else:
            received = machine.receive_response(outgoing.request_id, response, now)

Facts:

* It is made of public parts, and has no powers of its own: ``lists``, ``users``, ``supply``, ``sessions``, ``signing``.
  Tell them what you know (whom you share a room with, whom the user has verified); leave requests and answers to the
  machine.
* Answers may come in any order, twice, late or never. An answer to nothing is ignored.
* Nothing is uploaded that could not be answered for after a crash: keys, one's own and for cross-signing, are sent once
  they are stored.
* What is stored holds no private key.

Nothing is sent here, and no ratchet is turned. The clock is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

from attrs import define, field, frozen

from matrix_e2e_keys.client.back_off import BackOff, check_now
from matrix_e2e_keys.client.bootstrap import BootstrapState, BootstrapStep, CrossSigningBootstrap
from matrix_e2e_keys.client.changes import KeyChange
from matrix_e2e_keys.client.claim import check_claim
from matrix_e2e_keys.client.claim_planner import ClaimPlanner, OutgoingClaim
from matrix_e2e_keys.client.cross_signing import CrossSigningSecrets
from matrix_e2e_keys.client.device_lists import DeviceListTracker, OutgoingQuery
from matrix_e2e_keys.client.key_supply import KeySupply
from matrix_e2e_keys.client.key_supply_values import OutgoingUpload, SupplyPolicy
from matrix_e2e_keys.client.known_user import KnownUser
from matrix_e2e_keys.client.known_users import KnownUsers
from matrix_e2e_keys.client.machine_values import MachineRequest, MachineResponse, OutgoingRequest, Received
from matrix_e2e_keys.client.own_signing import OwnSigning
from matrix_e2e_keys.client.recipients import RecipientPolicy, Recipients, select_recipients
from matrix_e2e_keys.client.served import SignatureConfirmation
from matrix_e2e_keys.client.signature_queue import OutgoingSignatures, SignatureQueue
from matrix_e2e_keys.client.signatures import merge_signatures
from matrix_e2e_keys.client.stored import Stored
from matrix_e2e_keys.client.upload import plan_device_upload
from matrix_e2e_keys.endpoints.client_server.device_signing_upload import DeviceSigningUploadResponse
from matrix_e2e_keys.endpoints.client_server.keys_changes import KeysChangesRequest, KeysChangesResponse
from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimResponse
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryResponse
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadResponse
from matrix_e2e_keys.endpoints.client_server.signatures_upload import SignaturesUploadResponse
from matrix_e2e_keys.endpoints.client_server.sync import SyncKeys
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.identifiers import check_user_ids
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.signers import Signer
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["KeyMachine"]

_VERSION: Final = 1
_CHANGES: Final = "changes"
_BOOTSTRAP: Final = "bootstrap"
_TOO_MANY_REQUESTS: Final = 429


@frozen
class _Sent:
    """A request that is under way, and who wants to know what becomes of it."""

    kind: str
    request: MachineRequest
    answered: Callable[[Any, int], Received]
    failed: Callable[[MatrixError | None, int], Received]


@define(eq=False)
class KeyMachine(metaclass=Sealed):
    """The keys of one device, its user, and everybody they talk to. Made by :meth:`create` and :meth:`from_json`.

    Attributes:
        lists: whose devices are kept, and who is outdated.
        users: everybody's keys, as far as they are known.
        supply: one's own one-time and fallback keys.
        sessions: with whom Olm sessions are needed.
        signing: what one signs: one's devices, one's identity, other users.
        verifier: who checks signatures.
    """

    lists: DeviceListTracker
    users: KnownUsers
    supply: KeySupply
    sessions: ClaimPlanner
    signing: OwnSigning
    verifier: Verifier = field(repr=False)
    _device: VerifiedDevice
    _is_uploaded: bool = field(default=False, init=False)
    _revision: int = field(default=1, init=False)
    _stored: int = field(default=0, init=False)
    _device_revision: int = field(default=1, init=False)
    _bootstrap_revision: int = field(default=0, init=False)
    _asked_for: int = field(default=0, init=False)
    _last_request: int = field(default=0, init=False)
    _sent: dict[str, _Sent] = field(factory=dict, init=False, repr=False)
    _delays: BackOff = field(factory=BackOff, init=False, repr=False)

    @classmethod
    def create(
        cls,
        device_keys: DeviceKeys,
        *,
        signer: Signer,
        policy: SupplyPolicy | None = None,
        verifier: Verifier = LIBSODIUM,
    ) -> KeyMachine:
        """Begin with a new device.

        Args:
            device_keys: the keys of this device, signed by itself: see :meth:`DeviceKeys.build`.
            signer: the private half of its ed25519 key, under the key id ``ed25519:<device_id>``.
            policy: how many one-time keys to have, and so on.
            verifier: who checks signatures.

        Raises:
            VerificationError: the device did not sign itself.
            LocalProtocolError: an argument has the wrong type, or the signer is not that of the device.
        """
        if type(device_keys) is not DeviceKeys:
            raise LocalProtocolError(Reason.WRONG_TYPE, "DeviceKeys are needed", path="/device_keys")
        device = device_keys.verify(verifier=verifier)
        users = KnownUsers(own_user_id=device.user_id, verifier=verifier)
        supply = KeySupply(user_id=device.user_id, device_id=device.device_id, policy=_checked_policy(policy))
        signing = OwnSigning(device=device, signer=signer, users=users)
        lists = DeviceListTracker(own_user_id=device.user_id)
        return _new_machine(lists, users, supply, ClaimPlanner(), signing, verifier, device)

    @property
    def device(self) -> VerifiedDevice:
        """This device, as it was built here."""
        return self._device

    @property
    def is_uploaded(self) -> bool:
        """Whether the server has the keys of this device, as they are here."""
        return self._is_uploaded

    # ----------------------------------------------------------------------------------------------------------
    # What the user does
    # ----------------------------------------------------------------------------------------------------------

    def start_bootstrap(self, secrets: CrossSigningSecrets, *, reset: bool = False) -> None:
        """Begin to set up cross-signing; see :meth:`OwnSigning.start_bootstrap`.

        Requests follow once the state is stored, ``secrets`` with it, this device is uploaded, and nothing of a set-up
        before is under way.

        Raises:
            LocalProtocolError: there is an identity already, or there may be one; or an argument has the wrong type.
        """
        self.signing.start_bootstrap(secrets, reset=reset)
        self._revision += 1
        self._bootstrap_revision = self._revision

    def upload_device(self, device_keys: DeviceKeys | None = None) -> None:
        """Upload the keys of this device once more: since the server has lost them, or since they say something new.

        Args:
            device_keys: the new form of the keys, signed by the device; ``None`` if they are the same.

        Raises:
            LocalProtocolError: the upload would change the identity keys, or destroy a signature of the identity; a
                set-up of cross-signing is not done, and the keys say something new; or it is another device.
        """
        if device_keys is None or self._take_over(device_keys):
            self._is_uploaded = False
        self._asked_for += 1

    def _take_over(self, device_keys: DeviceKeys) -> bool:
        """Make other keys those of this device, and return whether the server lacks them."""
        if type(device_keys) is not DeviceKeys:
            raise LocalProtocolError(Reason.WRONG_TYPE, "DeviceKeys are needed", path="/device_keys")
        if (device_keys.user_id, device_keys.device_id) != (self._device.user_id, self._device.device_id):
            detail = f"{device_keys!r} is another device"
            raise LocalProtocolError(Reason.DEVICE_ID_MISMATCH, detail, path="/device_keys")
        bootstrap = self.signing.bootstrap
        if device_keys != self._device.keys and bootstrap is not None and bootstrap.state is not BootstrapState.DONE:
            detail = "a set-up is under way, and has signed the keys as they were"
            raise LocalProtocolError(Reason.WRONG_STATE, detail, path="/device_keys")
        oneself, served = self._oneself, self._served
        plan = plan_device_upload(
            device_keys,
            self._device.keys if served is None else served,
            identity=None if oneself is None else oneself.identity,
            verifier=self.verifier,
        )
        if plan.reason is not None:
            raise LocalProtocolError(plan.reason, plan.detail, path="/device_keys")
        self._device = (device_keys if plan.upload is None else plan.upload).verify(verifier=self.verifier)
        self.signing.device = self._device
        if plan.upload is None and served is not None:
            return False
        self._revision += 1
        self._device_revision = self._revision
        return True

    def devices_for(self, user_ids: Iterable[str], policy: RecipientPolicy) -> Recipients:
        """Return who of some users gets a room key; see :func:`~matrix_e2e_keys.select_recipients`.

        Users whose devices are not tracked, or out of date, are named in :attr:`Recipients.outdated`.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        asked = check_user_ids(user_ids)
        return select_recipients(
            asked,
            known=self.users.users,
            policy=policy,
            own_user_id=self._device.user_id,
            own_device_id=self._device.device_id,
            outdated=self.lists.outdated | (frozenset(asked) - self.lists.tracked),
        )

    # ----------------------------------------------------------------------------------------------------------
    # What to send
    # ----------------------------------------------------------------------------------------------------------

    def outgoing_requests(self, now: int) -> list[OutgoingRequest]:
        """Return what to send at this time. What was returned before is under way, until it is answered or has failed.

        They may be sent side by side, and answered in any order.

        Args:
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: ``now`` is no integer.
        """
        now = check_now(now)
        outgoing: list[OutgoingRequest] = []
        for sent in self._next(now):
            self._last_request += 1
            request_id = f"{sent.kind}-{self._last_request}-{now}"  # another one after a restart
            self._sent[request_id] = sent
            outgoing.append(OutgoingRequest(request_id=request_id, request=sent.request))
        return outgoing

    def _next(self, now: int) -> Iterator[_Sent]:
        """Yield what each part has to send."""
        yield from self._next_upload(now)
        changes = self.lists.next_changes()
        if changes is not None and not self._is_under_way(_CHANGES) and self._delays.ready_at(_CHANGES) <= now:
            yield _Sent(_CHANGES, changes, partial(self._changes_answered, changes), self._changes_failed)
        while (query := self.lists.next_query(now)) is not None:
            answered = partial(self._query_answered, query, self._asked_for if self._is_uploaded else None)
            yield _Sent("query", query.request, answered, partial(self._query_failed, query))
        while (claim := self.sessions.next_claim(now)) is not None:
            answered = partial(self._claim_answered, claim)
            yield _Sent("claim", claim.request, answered, partial(self._claim_failed, claim))

    def _next_upload(self, now: int) -> Iterator[_Sent]:
        """Yield what to upload: first this device, then one's cross-signing keys, then signatures."""
        if self._is_device_stored:
            upload = self.supply.next_upload(now, device_keys=self._device_to_upload())
            if upload is not None:
                answered = partial(self._upload_answered, upload, self._asked_for)
                yield _Sent("upload", upload.request, answered, partial(self._upload_failed, upload))
        bootstrap = self._bootstrap_to_go_on
        step = None if bootstrap is None else bootstrap.next_request(now)
        if bootstrap is not None and step is not None:
            answered = partial(self._bootstrap_answered, bootstrap, step)
            yield _Sent(_BOOTSTRAP, step.request, answered, partial(self._bootstrap_failed, bootstrap, step))
        signatures = self.signing.queue.next_upload(now) if self._can_upload_signatures else None
        if signatures is not None:
            answered = partial(self._signatures_answered, signatures)
            yield _Sent("signatures", signatures.request, answered, partial(self._signatures_failed, signatures))

    def next_request_at(self) -> int | None:
        """Return the time from which there is something to send; ``None`` if that depends on answers, or on the caller.

        A time that has passed means that there is something to send now.
        """
        bootstrap = self._bootstrap_to_go_on
        times = [self.lists.next_query_at(), self.sessions.next_claim_at()]
        if self._is_device_stored:
            times.append(self.supply.next_upload_at(device_keys=self._device_to_upload()))
        if bootstrap is not None:
            times.append(bootstrap.next_request_at())
        if self._can_upload_signatures:
            times.append(self.signing.queue.next_upload_at())
        if self.lists.next_changes() is not None and not self._is_under_way(_CHANGES):
            times.append(self._delays.ready_at(_CHANGES))
        return min((time for time in times if time is not None), default=None)

    def _device_to_upload(self) -> DeviceKeys | None:
        """Return this device with all signatures that others should see, ``None`` if the server has it."""
        if self._is_uploaded:
            return None
        keys = self._device.keys
        own_signature = None if self.signing.is_setting_up else self.signing.own_signature
        for signed in (self._served, own_signature):
            if signed is not None and signed == keys:
                keys = merge_signatures(keys, signed)
        return keys

    @property
    def _served(self) -> DeviceKeys | None:
        """This device, as it was served last."""
        known = None if self._oneself is None else self._oneself.devices.get(self._device.device_id)
        return None if known is None else known.keys

    @property
    def _oneself(self) -> KnownUser | None:
        return self.users.users.get(self._device.user_id)

    @property
    def _bootstrap_to_go_on(self) -> CrossSigningBootstrap | None:
        """The set-up, unless the server lacks this device, may yet get the keys of the one before, or has others."""
        bootstrap = self.signing.bootstrap
        if bootstrap is None or not self._is_uploaded or self._is_under_way(_BOOTSTRAP):
            return None
        identity = None if self._oneself is None else self._oneself.identity
        is_replaced = identity is not None and identity.master_key != bootstrap.identity.master_key
        return None if is_replaced and bootstrap.state is BootstrapState.UPLOAD_SIGNATURES else bootstrap

    @property
    def _can_upload_signatures(self) -> bool:
        """Whether the server has all keys that signatures may be about, and by."""
        return self._is_uploaded and not self.signing.is_setting_up

    def _is_under_way(self, kind: str) -> bool:
        return any(sent.kind == kind for sent in self._sent.values())

    @property
    def _is_device_stored(self) -> bool:
        return self._stored >= self._device_revision

    # ----------------------------------------------------------------------------------------------------------
    # What comes back
    # ----------------------------------------------------------------------------------------------------------

    def receive_response(self, request_id: str, response: MachineResponse, now: int) -> Received:
        """Take over an answer. An answer to what is not under way, or not any more, is ignored.

        Args:
            request_id: which request.
            response: its answer, as ``request.read_answer`` reads it.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type, or it is the answer to another kind of request.
        """
        now = check_now(now)
        sent = self._sent.get(_checked_id(request_id))
        if sent is None:
            return Received()
        if type(response) is not sent.request.answer_type():
            raise LocalProtocolError(Reason.WRONG_TYPE, "this is no answer to that request", path="/response")
        del self._sent[request_id]
        return sent.answered(response, now)

    def receive_error(self, request_id: str, error: MatrixError | None, now: int) -> Received:
        """Note that a request failed. It will be sent again, later. The failure of what is not under way is ignored.

        Args:
            request_id: which request.
            error: what the server answered, ``None`` if there was no answer that can be read.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        now = check_now(now)
        if error is not None and type(error) is not MatrixError:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a MatrixError is needed", path="/error")
        sent = self._sent.pop(_checked_id(request_id), None)
        return Received() if sent is None else sent.failed(error, now)

    def _upload_answered(
        self, upload: OutgoingUpload, asked_for: int, response: KeysUploadResponse, now: int
    ) -> Received:
        self.supply.receive_response(upload.upload_id, response, now)
        if upload.request.device_keys is not None and asked_for == self._asked_for:
            self._is_uploaded = True
            self.lists.mark_outdated([self._device.user_id])  # to see that it is served
        return Received()

    def _upload_failed(self, upload: OutgoingUpload, error: MatrixError | None, now: int) -> Received:
        return Received(conflict=self.supply.receive_error(upload.upload_id, error, now))

    def _bootstrap_answered(
        self,
        bootstrap: CrossSigningBootstrap,
        step: BootstrapStep,
        response: DeviceSigningUploadResponse | SignaturesUploadResponse,
        now: int,
    ) -> Received:
        before = bootstrap.state
        after = bootstrap.receive_response(step.step_id, response, now)
        changes: tuple[KeyChange, ...] = ()
        if bootstrap is self.signing.bootstrap and after is not before:
            if after is BootstrapState.UPLOAD_SIGNATURES:
                changes = self.users.install_own_identity(bootstrap.identity)
            self.lists.supersede([self._device.user_id])
        return Received(changes=changes, signatures=bootstrap.last_result)

    def _bootstrap_failed(
        self, bootstrap: CrossSigningBootstrap, step: BootstrapStep, error: MatrixError | None, now: int
    ) -> Received:
        return Received(authentication=bootstrap.receive_error(step.step_id, error, now))

    def _signatures_answered(
        self, signatures: OutgoingSignatures, response: SignaturesUploadResponse, _now: int
    ) -> Received:
        result = self.signing.queue.receive_response(signatures.upload_id, response)
        self.lists.mark_outdated({user_id for user_id, _ in self.signing.queue.unconfirmed})
        return Received(signatures=result)

    def _signatures_failed(self, signatures: OutgoingSignatures, error: MatrixError | None, now: int) -> Received:
        self.signing.queue.receive_error(signatures.upload_id, error, now)
        return Received()

    def _changes_answered(self, request: KeysChangesRequest, response: KeysChangesResponse, _now: int) -> Received:
        self._delays.succeeded(_CHANGES)
        self.lists.receive_changes(request, response)
        return Received()

    def _changes_failed(self, error: MatrixError | None, now: int) -> Received:
        if error is not None and 400 <= error.status < 500 and error.status != _TOO_MANY_REQUESTS:
            self.lists.give_up_changes()  # the server does not know these tokens any more
        else:
            self._delays.failed(_CHANGES, now, at_least_ms=_wait(error) or 0)
        return Received()

    def _query_answered(
        self, query: OutgoingQuery, uploaded: int | None, response: KeysQueryResponse, now: int
    ) -> Received:
        own_device = self._device.keys if uploaded == self._asked_for else None
        result = self.users.judge(query.request, response, own_device=own_device)
        news = self.lists.receive_result(query.query_id, result, now)
        changes = self.users.take(result, news)
        confirmed, stale = self.signing.settle()
        self._revise_sessions(news)
        confirmation = self.signing.queue.confirm(result, own_device=self._device)
        bootstrap = self.signing.bootstrap
        if self._device.user_id in news and bootstrap is not None and bootstrap.state is BootstrapState.CONFIRM:
            confirmation = _both(bootstrap.confirm(result), confirmation)
        return Received(changes=(*changes, *confirmed), query=result, confirmation=confirmation, stale_secrets=stale)

    def _query_failed(self, query: OutgoingQuery, error: MatrixError | None, now: int) -> Received:
        self.lists.receive_failure(query.query_id, now, retry_after_ms=_wait(error))
        return Received()

    def _revise_sessions(self, user_ids: frozenset[str]) -> None:
        """Want no session with a device that is gone, and none under the keys that a device had before."""
        for user_id, device_id in self.sessions.wanted:
            if user_id in user_ids:
                device = self.users.users[user_id].devices.get(device_id)
                if device is None:
                    self.sessions.unwant([(user_id, device_id)])
                else:
                    self.sessions.want([device])

    def _claim_answered(self, claim: OutgoingClaim, response: KeysClaimResponse, now: int) -> Received:
        result = check_claim(
            claim.request, response, devices=claim.devices, was_used=self.sessions.was_used, verifier=self.verifier
        )
        return Received(claim=result, sessions=self.sessions.receive_result(claim.claim_id, result, now))

    def _claim_failed(self, claim: OutgoingClaim, error: MatrixError | None, now: int) -> Received:
        self.sessions.receive_failure(claim.claim_id, now, retry_after_ms=_wait(error))
        return Received()

    def receive_sync(self, keys: SyncKeys, *, since: str | None, next_batch: str, now: int) -> None:
        """Take over what one answer to ``/sync`` says about keys; see :meth:`DeviceListTracker.receive_sync`.

        Args:
            keys: what that answer says about keys.
            since: the token with which ``/sync`` was asked, ``None`` for an initial one.
            next_batch: the token that the answer gave.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        now = check_now(now)
        self.lists.receive_sync(keys, since=since, next_batch=next_batch)
        self.supply.receive_sync(keys, now)

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart. What is under way, and delays, do not; private keys are not in it.

        Store it in one transaction with the Olm account and the sessions, and call :meth:`mark_stored`.
        """
        bootstrap = self.signing.bootstrap
        return {
            "version": _VERSION,
            "revision": self._revision,
            "device": self._device.keys.to_json(),
            "is_uploaded": self._is_uploaded,
            "lists": self.lists.to_json(),
            "users": self.users.to_json(),
            "supply": self.supply.to_json(),
            "sessions": self.sessions.to_json(),
            "signatures": self.signing.queue.to_json(),
            "bootstrap": None if bootstrap is None else bootstrap.to_json(),
        }

    def mark_stored(self, state: JsonObject) -> None:
        """Note that a state is stored, together with all private keys there were: what it holds may be uploaded.

        Args:
            state: what :meth:`to_json` of this machine returned.

        Raises:
            LocalProtocolError: it is no such state.
        """
        stored = Stored(state)
        revision = stored.member("revision", int)
        if not 0 < revision <= self._revision:
            raise LocalProtocolError(Reason.INVALID_VALUE, f"there was no revision {revision}", path="/revision")
        of_supply = stored.object("supply").member("revision", int)
        with stored.reading("supply"):
            self.supply.mark_stored(of_supply)
        self._stored = max(self._stored, revision)
        if self.signing.bootstrap is not None and revision >= self._bootstrap_revision:
            self.signing.bootstrap.mark_stored()

    @classmethod
    def from_json(
        cls,
        state: object,
        *,
        signer: Signer,
        policy: SupplyPolicy | None = None,
        verifier: Verifier = LIBSODIUM,
    ) -> KeyMachine:
        """Restore a machine. All signatures are checked again.

        Hand it the private cross-signing keys afterwards, if there are any: :meth:`OwnSigning.use_secrets`.

        Args:
            state: what :meth:`to_json` returned.
            signer: the private half of this device's ed25519 key, under the key id ``ed25519:<device_id>``.
            policy: how many one-time keys to have, and so on, from now on.
            verifier: who checks signatures.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned, or the signer is not that of the device.
        """
        policy = _checked_policy(policy)
        check_verifier(verifier)
        stored = Stored(state)
        stored.require_version(_VERSION)
        revision = stored.member("revision", int)
        with stored.reading("revision"):
            if revision < 1:
                raise LocalProtocolError(Reason.INVALID_VALUE, "a revision is at least 1")
        with stored.reading("device"):
            device = DeviceKeys.from_json(stored.member("device", dict)).verify(verifier=verifier)
        users = KnownUsers.restore(stored.object("users"), verifier)
        with stored.reading("lists"):
            lists = DeviceListTracker.from_json(stored.member("lists", dict))
        with stored.reading("supply"):
            supply = KeySupply.from_json(stored.member("supply", dict), policy=policy)
            supply.next_upload_at(device_keys=device.keys)  # refuses those of another device
        with stored.reading("sessions"):
            sessions = ClaimPlanner.from_json(stored.member("sessions", dict))
        queue = SignatureQueue.restore(stored.object("signatures"))
        with stored.reading():
            signing = OwnSigning(device=device, signer=signer, users=users, queue=queue)
        kept = stored.member("bootstrap", dict, type(None))
        if kept is not None:
            with stored.reading("bootstrap"):
                signing.bootstrap = CrossSigningBootstrap.from_json(kept)
        _check_same_owner(device, lists, signing)
        machine = _new_machine(lists, users, supply, sessions, signing, verifier, device)
        machine._is_uploaded = stored.member("is_uploaded", bool)
        machine._revision = machine._stored = revision
        return machine


_new_machine: Final = constructor_of(KeyMachine)


def _both(one: SignatureConfirmation, other: SignatureConfirmation | None) -> SignatureConfirmation:
    if other is None:
        return one
    return SignatureConfirmation(served=one.served + other.served, missing=one.missing + other.missing)


def _checked_policy(policy: object) -> SupplyPolicy:
    if policy is None:
        return SupplyPolicy()
    if type(policy) is not SupplyPolicy:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a SupplyPolicy is needed", path="/policy")
    return policy


def _wait(error: MatrixError | None) -> int | None:
    return None if error is None else error.retry_after_ms


def _checked_id(request_id: object) -> str:
    if type(request_id) is not str:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the id of a request is a string", path="/request_id")
    return request_id


def _check_same_owner(device: VerifiedDevice, lists: DeviceListTracker, signing: OwnSigning) -> None:
    """Refuse parts of another device's machine.

    Raises:
        LocalProtocolError: one of them is.
    """
    bootstrap = signing.bootstrap
    owners = {
        "lists": lists.own_user_id == device.user_id,
        "bootstrap": bootstrap is None or bootstrap.device.keys.raw_keys == device.keys.raw_keys,
    }
    for name, is_same in owners.items():
        if not is_same:
            raise LocalProtocolError(Reason.NOT_OWN_USER, f"the {name} are those of another device", path=f"/{name}")
