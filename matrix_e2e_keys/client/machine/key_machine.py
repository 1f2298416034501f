"""Everything a client keeps about keys, in one object: what to send, what to make of the answers, whom to write to.

Specification: client-server API, "End-to-end encryption".

One round, with any transport::

    needed = machine.supply.needed(now)                      # make as many keys with the Olm library
    machine.add_one_time_keys(keys)
    state = machine.to_json()                                # store it with the Olm account, in one transaction
    machine.mark_stored(state)
    for outgoing in machine.outgoing_requests(now):
        try:
            response = outgoing.request.read_answer(send(outgoing.request.to_http()))
        except E2EKeysError as error:                        # also where there was no answer: with None
            received = machine.receive_error(outgoing.request_id, error, now)
        else:
            received = machine.receive_response(outgoing.request_id, response, now)

Facts:

* It is made of public parts, and has no powers of its own: ``lists``, ``users``, ``supply``, ``sessions``, ``signing``.
  Tell them what you know (whom you share a room with, whom the user has verified); leave requests and answers to the
  machine.
* Answers may come in any order, twice or late. An answer to nothing is ignored. Every request must be answered, or
  said to have failed; else it is under way for ever.
* Nothing is uploaded that could not be answered for after a crash: keys, one's own and for cross-signing, are sent once
  they are stored.
* What is stored holds no private key.

Nothing is sent here, and no ratchet is turned. The clock is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from attrs import define, field

from matrix_e2e_keys.back_off import BackOff, check_now, earliest, granted
from matrix_e2e_keys.client.claims.claim import check_claim
from matrix_e2e_keys.client.claims.claim_planner import ClaimPlanner, OutgoingClaim
from matrix_e2e_keys.client.cross_signing.bootstrap import BootstrapState
from matrix_e2e_keys.client.cross_signing.own_signing import OwnSigning
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.cross_signing.served import SignatureConfirmation
from matrix_e2e_keys.client.machine.exchange import Exchange, Question, wait
from matrix_e2e_keys.client.machine.olm_messages import check_may_have, other_sender_key, own_as_served, used_key
from matrix_e2e_keys.client.machine.own_uploads import OwnUploads
from matrix_e2e_keys.client.machine.stored_machine import VERSION, checked_policy, restore_parts
from matrix_e2e_keys.client.machine.unknown_senders import UnknownSenders
from matrix_e2e_keys.client.machine.values import MachineResponse, OutgoingRequest, Received, ReceivedOlmEvent
from matrix_e2e_keys.client.queries.device_lists import DeviceListTracker, OutgoingQuery
from matrix_e2e_keys.client.queries.known_users import KnownUsers
from matrix_e2e_keys.client.receive.olm_events import check_olm_event
from matrix_e2e_keys.client.receive.sender_values import SenderTrust
from matrix_e2e_keys.client.supply.key_supply import KeySupply
from matrix_e2e_keys.client.supply.values import SupplyPolicy
from matrix_e2e_keys.client.trust.recipients import RecipientPolicy, Recipients, select_recipients
from matrix_e2e_keys.client.users.known_user import LocalTrust
from matrix_e2e_keys.endpoints.client_server.keys_changes import KeysChangesRequest, KeysChangesResponse
from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimResponse
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryResponse
from matrix_e2e_keys.endpoints.client_server.sync import SyncKeys
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, quoted
from matrix_e2e_keys.events.payloads import OlmPayload
from matrix_e2e_keys.events.received import ToDeviceEvent
from matrix_e2e_keys.identifiers import check_user_ids
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.signers import Signer
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier
from matrix_e2e_keys.stored import Stored

__all__ = ["KeyMachine"]

_CHANGES: Final = "changes"
_TOO_MANY_REQUESTS: Final = 429


@define(eq=False)
class KeyMachine(metaclass=Sealed):
    """The keys of one device, its user, and everybody they talk to. Made by :meth:`create` and :meth:`from_json`.

    Attributes:
        lists: whose devices are kept, and who is outdated.
        users: everybody's keys, as far as they are known.
        supply: one's own one-time and fallback keys.
        sessions: with whom Olm sessions are needed.
        signing: what one signs: one's devices, one's identity, other users.
    """

    lists: DeviceListTracker
    users: KnownUsers
    supply: KeySupply
    sessions: ClaimPlanner
    signing: OwnSigning
    _uploads: OwnUploads = field(repr=False)
    _exchange: Exchange = field(repr=False)
    _delays: BackOff = field(factory=BackOff, init=False, repr=False)
    _strangers: BackOff = field(factory=BackOff, init=False, repr=False)
    _unknown_senders: UnknownSenders = field(factory=UnknownSenders, init=False, repr=False)

    @classmethod
    def create(
        cls,
        device_keys: DeviceKeys,
        *,
        signer: Signer,
        is_uploaded: bool = False,
        policy: SupplyPolicy | None = None,
        verifier: Verifier = LIBSODIUM,
    ) -> KeyMachine:
        """Begin with a new device, or take one over that exists.

        Args:
            device_keys: the keys of this device, signed by itself: see :meth:`DeviceKeys.build`.
            is_uploaded: whether the server has them already. Then they are not uploaded, and a query will show whether
                it serves them: ``OWN_DEVICE_MISSING`` or ``OWN_DEVICE_ALTERED`` if it does not.
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
        supply = KeySupply(user_id=device.user_id, device_id=device.device_id, policy=checked_policy(policy))
        signing = OwnSigning(device=device, signer=signer, users=users)
        lists = DeviceListTracker(own_user_id=device.user_id)
        if type(is_uploaded) is not bool:
            raise LocalProtocolError(Reason.WRONG_TYPE, "is_uploaded is yes or no", path="/is_uploaded")
        machine = _assembled(lists, supply, ClaimPlanner(), signing)
        machine._uploads.is_uploaded = is_uploaded
        return machine

    @property
    def device(self) -> VerifiedDevice:
        """This device, as it was built here."""
        return self.signing.device

    @property
    def is_uploaded(self) -> bool:
        """Whether the server has the keys of this device, as they are here."""
        return self._uploads.is_uploaded

    # ----------------------------------------------------------------------------------------------------------
    # What the user does
    # ----------------------------------------------------------------------------------------------------------

    def add_one_time_keys(self, keys: Mapping[str, Curve25519PublicKey]) -> None:
        """Take over one-time keys that the Olm library has made; see :meth:`KeySupply.add_one_time_keys`.

        Raises:
            LocalProtocolError: a name was that of another key before, or an argument has the wrong type.
        """
        self.supply.add_one_time_keys(keys, signer=self.signing.signer)

    def add_fallback_key(self, name: str, key: Curve25519PublicKey, now: int) -> None:
        """Take over a fallback key that the Olm library has made; see :meth:`KeySupply.add_fallback_key`.

        Raises:
            LocalProtocolError: the name was that of another key before, or an argument has the wrong type.
        """
        self.supply.add_fallback_key(name, key, signer=self.signing.signer, now=now)

    def set_trust(self, user_id: str, device_id: str, ed25519_key: Ed25519PublicKey, trust: LocalTrust) -> None:
        """Note what the user decided about a device that is known.

        Args:
            user_id: whose.
            device_id: which device.
            ed25519_key: its signing key, as the user was shown it.
            trust: the decision. It belongs to the key, and stays if the device goes and comes back.

        Raises:
            LocalProtocolError: there is no such device, or not with that key; or an argument has the wrong type.
        """
        user = self.users.users.get(user_id) if type(user_id) is str else None
        device = None if user is None or type(device_id) is not str else user.devices.get(device_id)
        if device is None or device.ed25519_key != ed25519_key:
            detail = f"{quoted(user_id)} has no device {quoted(device_id)} with that key"
            raise LocalProtocolError(Reason.SIGNING_KEY_CHANGED, detail, path="/ed25519_key")
        self.users.set_trust(user_id, device.ed25519_key, trust)

    def forget_device(self, user_id: str, device_id: str) -> None:
        """Make room for a device that comes with another signing key, and ask for it.

        See :meth:`KnownUser.without_device`.

        Raises:
            LocalProtocolError: nothing is known of that user, or an argument has the wrong type.
        """
        self.users.forget_device(user_id, device_id)
        self.lists.mark_outdated([user_id])

    def start_bootstrap(self, secrets: CrossSigningSecrets, *, reset: bool = False) -> None:
        """Begin to set up cross-signing; see :meth:`OwnSigning.start_bootstrap`.

        Requests follow once the state is stored, ``secrets`` with it, this device is uploaded, and nothing of a set-up
        before is under way.

        Raises:
            LocalProtocolError: there is an identity already, or there may be one; or an argument has the wrong type.
        """
        self._uploads.start_bootstrap(secrets, reset=reset)

    def upload_device(self, device_keys: DeviceKeys | None = None) -> None:
        """Upload the keys of this device once more: since the server has lost them, or since they say something new.

        Args:
            device_keys: the new form of the keys, signed by the device; ``None`` if they are the same.

        Raises:
            LocalProtocolError: the upload would change the identity keys, or destroy a signature of the identity; a
                set-up of cross-signing is not done, and the keys say something new; or it is another device.
        """
        self._uploads.upload_device(device_keys)

    def devices_for(self, user_ids: Iterable[str], policy: RecipientPolicy) -> Recipients:
        """Return who of some users gets a room key; see :func:`~matrix_e2e_keys.select_recipients`.

        Users whose devices are not tracked, or out of date, are named in :attr:`Recipients.outdated`; everybody, while
        there is a gap in the stream.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        asked = check_user_ids(user_ids)
        has_gap = self.lists.next_changes() is not None
        return select_recipients(
            asked,
            known=self.users.users,
            policy=policy,
            own_user_id=self.device.user_id,
            own_device_id=self.device.device_id,
            outdated=self.lists.outdated | (frozenset(asked) - (frozenset() if has_gap else self.lists.tracked)),
        )

    # ----------------------------------------------------------------------------------------------------------
    # Messages between devices
    # ----------------------------------------------------------------------------------------------------------

    def olm_payload(self, event_type: str, content: Mapping[str, Any], recipient: VerifiedDevice) -> OlmPayload:
        """Return what to encrypt for a device.

        The keys of this device go along with it, signed by one's identity if the server has that signature.

        Args:
            event_type: the type of the event inside.
            content: its content.
            recipient: the device that it is for.

        Raises:
            LocalProtocolError: see :meth:`OlmPayload.build`. Or it is an ``m.secret.send``, and the recipient is
                another user's (``NOT_OWN_USER``), or is not known with these keys as a verified device of one's own
                (``UNVERIFIED_DEVICE``). Or it is an ``m.room_key_bundle``, and the recipient is not known with these
                keys as a device that is signed by an identity that has not changed (``UNVERIFIED_DEVICE``).
        """
        users = self.users.users
        sender = own_as_served(self.device, users.get(self.device.user_id))
        payload = OlmPayload.build(event_type=event_type, content=content, sender=sender, recipient=recipient)
        check_may_have(payload.type, recipient, own_user_id=self.device.user_id, owner=users.get(recipient.user_id))
        return payload

    def receive_olm_event(self, event: ToDeviceEvent, plaintext: bytes, now: int) -> ReceivedOlmEvent:
        """Take over what a ratchet has decrypted: judge it, and note what it tells about keys.

        Which of one's own keys a first message used is noted, whatever comes of the event; and the devices of a sender
        whose device is not known are asked for, if the sender is tracked.

        Args:
            event: the event as the server delivered it.
            plaintext: what came out of its message for this device.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        now = check_now(now)
        verifier = self.users.verifier
        judgment = check_olm_event(event, plaintext, own=self.device, known=self.users.users, verifier=verifier)
        used = used_key(event, self.device)
        key_use = None if used is None else self.supply.receive_use(used, now)
        if judgment.event is not None and judgment.event.sender.trust is SenderTrust.UNKNOWN_DEVICE:
            self._look_for(judgment.event.sender.user_id, now)
        return ReceivedOlmEvent(judgment=judgment, key_use=key_use)

    def receive_undecryptable(self, event: ToDeviceEvent, now: int) -> bool:
        """Take over that a ratchet could not decrypt a message: the session with its sender is broken.

        A new one is wanted then, at most once an hour; see :meth:`ClaimPlanner.renew`. Its key comes in
        :attr:`Received.sessions`, as any other: open the session, and send an ``m.dummy`` through it if there is
        nothing else to send, so that the other device knows of it. What was lost is not sent again: ask for the
        session keys that are missing.

        If the device is not known, and its user is tracked, the user's devices are asked for; the session is wanted as
        soon as they show the device, also after a restart. Nothing is to be done meanwhile.

        Nothing comes of an event that :func:`~matrix_e2e_keys.open_olm_event` refuses, nor of one that names this
        device, or one that only receives, as its sender. The event proves nothing about who has sent it.

        Args:
            event: the event as the server delivered it.
            now: the caller's time in milliseconds.

        Returns:
            Whether a session with the sender is wanted from now on, and was not before.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        now = check_now(now)
        sender_key = other_sender_key(event, self.device)
        if sender_key is None:
            return False
        user = self.users.users.get(event.sender)
        device = None if user is None else user.device_with(sender_key)
        if device is not None:
            return self._renew(device, now)
        if event.sender in self.lists.tracked:
            self._unknown_senders.add(event.sender, sender_key)
            self._look_for(event.sender, now)
        return False

    def _look_for(self, user_id: str, now: int) -> None:
        """Ask about a sender whose device is not known, after a time that grows: anybody can make up devices."""
        ready = self._strangers.ready_at(user_id)
        if user_id not in self.lists.tracked:
            return
        if ready > now:
            self.lists.ask_again([user_id], ready)
        else:
            self.lists.doubt([user_id])
            self._strangers.failed(user_id, now)

    def _renew(self, device: VerifiedDevice, now: int) -> bool:
        return not device.keys.is_dehydrated and self.sessions.renew(device, now)

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
        return [self._exchange.send(question, now) for question in self._next(now)]

    def _next(self, now: int) -> Iterator[Question]:
        """Yield what each part has to send."""
        yield from self._uploads.next_questions(now)
        changes = self.lists.next_changes()
        if changes is not None and not self._exchange.is_under_way(_CHANGES) and self._delays.ready_at(_CHANGES) <= now:
            yield Question(_CHANGES, changes, partial(self._changes_answered, changes), self._changes_failed)
        while (query := self.lists.next_query(now)) is not None:
            answered = partial(self._query_answered, query, self._uploads.uploaded_form)
            yield Question("query", query.request, answered, partial(self._query_failed, query))
        while (claim := self.sessions.next_claim(now)) is not None:
            answered = partial(self._claim_answered, claim)
            yield Question("claim", claim.request, answered, partial(self._claim_failed, claim))

    def next_request_at(self) -> int | None:
        """Return the time from which there is something to send; ``None`` if that depends on answers, or on the caller.

        A time that has passed means that there is something to send now.
        """
        times = [self.lists.next_query_at(), self.sessions.next_claim_at(), *self._uploads.next_times()]
        if self.lists.next_changes() is not None and not self._exchange.is_under_way(_CHANGES):
            times.append(self._delays.ready_at(_CHANGES))
        return earliest(times)

    def next_wake_at(self) -> int | None:
        """Return the time from which there is something to send, or keys to make; ``None`` if that depends on others.

        If :attr:`needs_storing`, storing comes first.
        """
        return earliest((self.next_request_at(), self.supply.next_needed_at()))

    @property
    def needs_storing(self) -> bool:
        """Whether something waits to be uploaded until it is stored; see :meth:`mark_stored`."""
        return self._uploads.needs_storing

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
        return self._exchange.receive_response(request_id, response, check_now(now))

    def receive_error(self, request_id: str, error: E2EKeysError | None, now: int) -> Received:
        """Note that a request failed. It will be sent again, later. The failure of what is not under way is ignored.

        Args:
            request_id: which request.
            error: the ``MatrixError`` that the server answered; the error that came out of reading the answer; ``None``
                if there was no answer.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        return self._exchange.receive_error(request_id, error, check_now(now))

    def _changes_answered(self, request: KeysChangesRequest, response: KeysChangesResponse, _now: int) -> Received:
        self._delays.succeeded(_CHANGES)
        self.lists.receive_changes(request, response)
        return Received()

    def _changes_failed(self, error: MatrixError | None, now: int) -> Received:
        if error is not None and 400 <= error.status < 500 and error.status != _TOO_MANY_REQUESTS:
            self.lists.give_up_changes()  # the server does not know these tokens any more
        else:
            self._delays.failed(_CHANGES, now, at_least_ms=granted(wait(error)))
        return Received()

    def _query_answered(
        self, query: OutgoingQuery, uploaded_form: int | None, response: KeysQueryResponse, now: int
    ) -> Received:
        own_device = self.device.keys if self._uploads.is_known_form(uploaded_form) else None
        result = self.users.judge(query.request, response, own_device=own_device)
        news = self.lists.receive_result(query.query_id, result, now)
        changes = self.users.take(result, news)
        set_up = self.signing.bootstrap
        confirmed, stale = self.signing.settle()
        self._revise_sessions(news)
        for device in self._unknown_senders.settle(self.users.users, self.lists.to_be_asked):
            self._strangers.succeeded(device.user_id)
            self._renew(device, now)
        confirmation = self.signing.queue.confirm(result, own_device=self.device)
        bootstrap = self.signing.bootstrap
        if self.device.user_id in news and bootstrap is not None and bootstrap.state is BootstrapState.CONFIRM:
            confirmation = _both(bootstrap.confirm(result), confirmation)
        if confirmation is not None:
            self._ask_again(confirmation, now)
        return Received(
            changes=(*changes, *confirmed),
            query=result,
            confirmation=confirmation,
            stale_secrets=stale,
            set_up_given_up=set_up is not None and bootstrap is None,
        )

    def _ask_again(self, confirmation: SignatureConfirmation, now: int) -> None:
        """Look again later for what is not served, or not yet."""
        missing = {it.signature.user_id for it in confirmation.missing}
        for user_id in {it.user_id for it in confirmation.served} - missing:
            self._delays.succeeded(user_id)
        for user_id in missing:
            self._delays.failed(user_id, now)
            self.lists.ask_again([user_id], self._delays.ready_at(user_id))

    def _query_failed(self, query: OutgoingQuery, error: MatrixError | None, now: int) -> Received:
        self.lists.receive_failure(query.query_id, now, retry_after_ms=wait(error))
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
            claim.request,
            response,
            devices=claim.devices,
            was_used=self.sessions.was_used,
            verifier=self.users.verifier,
        )
        return Received(claim=result, sessions=self.sessions.receive_result(claim.claim_id, result, now))

    def _claim_failed(self, claim: OutgoingClaim, error: MatrixError | None, now: int) -> Received:
        self.sessions.receive_failure(claim.claim_id, now, retry_after_ms=wait(error))
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
            "version": VERSION,
            "revision": self._uploads.revision,
            "device": self.device.keys.to_json(),
            "is_uploaded": self._uploads.is_uploaded,
            "lists": self.lists.to_json(),
            "users": self.users.to_json(),
            "supply": self.supply.to_json(),
            "sessions": self.sessions.to_json(),
            "signatures": self.signing.queue.to_json(),
            "bootstrap": None if bootstrap is None else bootstrap.to_json(),
            "resets": self.signing.resets,
            "set_ups": self.signing.set_ups,
            "unknown_senders": self._unknown_senders.to_json(),
        }

    def mark_stored(self, state: JsonObject) -> None:
        """Note that a state is stored, together with all private keys there were: what it holds may be uploaded.

        Args:
            state: what :meth:`to_json` of this machine returned.

        Raises:
            LocalProtocolError: it is no such state.
        """
        self._uploads.mark_stored(Stored(state))

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
        parts = restore_parts(state, signer, checked_policy(policy), verifier)
        machine = _assembled(parts.lists, parts.supply, parts.sessions, parts.signing)
        machine._unknown_senders = parts.unknown_senders
        machine._uploads.restore(parts.revision, is_uploaded=parts.is_uploaded)
        return machine


_new_machine: Final = constructor_of(KeyMachine)


def _assembled(lists: DeviceListTracker, supply: KeySupply, sessions: ClaimPlanner, signing: OwnSigning) -> KeyMachine:
    exchange, users = Exchange(), signing.users
    uploads = OwnUploads(lists=lists, supply=supply, signing=signing, exchange=exchange)
    return _new_machine(lists, users, supply, sessions, signing, uploads, exchange)


def _both(one: SignatureConfirmation, other: SignatureConfirmation | None) -> SignatureConfirmation:
    if other is None:
        return one
    return SignatureConfirmation(served=one.served + other.served, missing=one.missing + other.missing)
