"""One's own one-time keys and fallback key: how many are needed, what to upload, and what became of it.

Specification: client-server API, "One-time and fallback keys", "Uploading keys", "Extensions to /sync".

The Olm library makes the keys and keeps their private halves. :class:`KeySupply` signs the public halves and does the
rest. The order matters::

    needed = supply.needed(now)                       # make as many with the Olm library
    supply.add_one_time_keys(keys, signer=signer)     # and supply.add_fallback_key(...)
    revision, state = supply.revision, supply.to_json()
    ...                                               # store the state and the Olm account, in one transaction
    supply.mark_stored(revision)
    upload = supply.next_upload(now)                  # send it, then receive_response or receive_error

Facts:

* A key whose private half is not stored must never reach a server: after a crash nobody could read what it protects. So
  :meth:`KeySupply.next_upload` leaves out whatever was added after the state that is known to be stored.
* What is not known to have arrived is uploaded again, byte for byte. An id never comes with other bytes.
* "Nothing said" is not "none". Before the server has said anything, a first upload is what is needed.
* An answer says what the server holds. What ``/sync`` says may be older; where the two disagree, the server is asked
  again, by an upload of nothing, before more keys are made. Whatever a server says, the keys do not pile up.
* A server that has forgotten whom it gave a key may give it to somebody else if it is uploaded again, because an answer
  was lost. Store the state after each answer and each use: what is known to be uploaded or used is not repeated.

Nothing is sent here. The clock is the caller's; setting it back delays nothing by more than the delay itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from attrs import define, field

from matrix_e2e_keys.algorithms import ED25519, SIGNED_CURVE25519
from matrix_e2e_keys.back_off import check_now, earliest
from matrix_e2e_keys.client.supply.fallback_keys import FallbackKey, FallbackKeys
from matrix_e2e_keys.client.supply.key_counts import DOUBTFUL_MS, KeyCount
from matrix_e2e_keys.client.supply.key_names import KeyNames, OwnKeyReader, is_new
from matrix_e2e_keys.client.supply.one_time_pool import OneTimePool
from matrix_e2e_keys.client.supply.upload import OneTimeKeyConflict, one_time_key_conflict
from matrix_e2e_keys.client.supply.upload_flight import Uploads
from matrix_e2e_keys.client.supply.values import KeyUse, NeededKeys, OutgoingUpload, SupplyPolicy
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest, KeysUploadResponse
from matrix_e2e_keys.endpoints.client_server.sync import SyncKeys
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted, raised_as
from matrix_e2e_keys.identifiers import parse_device_id, parse_user_id
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.signing.signers import Signer, check_signer
from matrix_e2e_keys.stored import Stored

__all__ = ["KeySupply"]

_VERSION: Final = 1


@define(kw_only=True)
class KeySupply:
    """The one-time keys and fallback keys of one's own device. A state machine without input or output.

    Attributes:
        user_id: oneself.
        device_id: one's own device.
        policy: how many keys to have, and for how long.
    """

    user_id: str
    device_id: str
    policy: SupplyPolicy = field(factory=SupplyPolicy)
    _ed25519_key: Ed25519PublicKey | None = field(default=None, init=False)
    _revision: int = field(default=0, init=False)
    _stored: int = field(default=0, init=False)
    _one_time: OneTimePool = field(factory=OneTimePool, init=False, repr=False)
    _fallback_names: KeyNames = field(factory=KeyNames, init=False, repr=False)
    _fallback: FallbackKeys = field(factory=FallbackKeys, init=False, repr=False)
    _count: KeyCount = field(factory=KeyCount, init=False)
    _uploads: Uploads = field(factory=Uploads, init=False, repr=False)
    _latest: int | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        with raised_as(LocalProtocolError, "user_id"):
            parse_user_id(self.user_id)
        with raised_as(LocalProtocolError, "device_id"):
            parse_device_id(self.device_id)
        if type(self.policy) is not SupplyPolicy:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a SupplyPolicy is needed", path="/policy")

    # ----------------------------------------------------------------------------------------------------------
    # Making keys
    # ----------------------------------------------------------------------------------------------------------

    def needed(self, now: int) -> NeededKeys:
        """Return which keys to make at this time.

        No one-time keys are needed while an upload is in flight, since only its answer will tell how many. Before the
        server has said anything, as many are needed as it is to hold in the end.

        Args:
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        now = self._settled(now)
        one_time, fallback, forget = (due is not None and due <= now for due in self._due())
        return NeededKeys(
            one_time_keys=self._shortage if one_time else 0, fallback_key=fallback, forget_previous_fallback_key=forget
        )

    def next_needed_at(self) -> int | None:
        """Return the time from which :meth:`needed` names something; ``None`` if that depends on what arrives.

        A time that has passed means that something is needed now.
        """
        return earliest(self._due())

    def _due(self) -> Iterator[int | None]:
        """Yield from when on one-time keys, a fallback key, and that one is forgotten, are needed."""
        is_known = self._uploads.flight is None and not self._count.is_in_question
        yield self._count.more_at if is_known and self._shortage else None
        yield self._fallback.due_at(self.policy.fallback_max_age_ms)
        yield self._fallback.forget_at(self.policy.fallback_grace_ms)

    @property
    def _shortage(self) -> int:
        return max(0, self.policy.target - (self._count.known or 0) - self._one_time.pending)

    def add_one_time_keys(self, keys: Mapping[str, Curve25519PublicKey], *, signer: Signer) -> None:
        """Take over one-time keys, and sign them. What was added before, by the same name, changes nothing.

        Args:
            keys: name to public key, as the Olm library names them.
            signer: the device's ed25519 key, under the key id ``ed25519:<device_id>``.

        Raises:
            LocalProtocolError: a name was that of another key before, a key had another name before, there are more
                than can be remembered, or an argument has the wrong type. Then none of them is added.
        """
        if not isinstance(keys, Mapping):
            raise LocalProtocolError(Reason.WRONG_TYPE, "name to key is needed", path="/keys")
        self._check_signer(signer)
        new: dict[str, tuple[Curve25519PublicKey, OneTimeKey]] = {}
        given: set[Curve25519PublicKey] = set()
        for name, key in keys.items():
            with raised_as(LocalProtocolError, "keys", *([name] if type(name) is str else [])):
                if not is_new(name, key, self._one_time.names, self._fallback_names):
                    continue
                if key in given:
                    raise LocalProtocolError(Reason.KEY_REUSED, f"the key called {quoted(name)} has two names")
                given.add(key)
                new[name] = (key, self._sign(name, key, signer, is_fallback=False))
        if self._one_time.pending + len(new) > self.policy.cap:
            detail = f"more than {self.policy.cap} keys cannot wait to be uploaded"
            raise LocalProtocolError(Reason.TOO_MANY_KEYS, detail, path="/keys")
        if new:
            self._ed25519_key = signer.public_key
            self._revision += 1
            self._one_time.add(new, revision=self._revision, cap=self.policy.cap)

    def add_fallback_key(self, name: str, key: Curve25519PublicKey, *, signer: Signer, now: int) -> None:
        """Take over a fallback key, and sign it as one. What was added before, by the same name, changes nothing.

        The current fallback key becomes the previous one. The one before that is forgotten, here as in the Olm library.

        Args:
            name: how the Olm library names it. One-time keys may have the same name.
            key: the public half.
            signer: the device's ed25519 key, under the key id ``ed25519:<device_id>``.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: the name was that of another fallback key before, the key had another name before, the
                current fallback key has not been uploaded yet, or an argument has the wrong type.
        """
        now = check_now(now)
        self._check_signer(signer)
        with raised_as(LocalProtocolError, "key"):
            if not is_new(name, key, self._fallback_names, self._one_time.names):
                return
            signed = self._sign(name, key, signer, is_fallback=True)
        self._fallback.add(FallbackKey(signed=signed, revision=self._revision + 1, added_at=now))
        self._settled(now)
        self._ed25519_key = signer.public_key
        self._revision += 1
        self._fallback_names.add(name, key)
        in_use = [key.signed.key_id.name for key in (self._fallback.current, self._fallback.previous) if key]
        self._fallback_names.forget_oldest(self.policy.cap, spared=in_use)

    def previous_fallback_forgotten(self) -> None:
        """Note that the private half of the previous fallback key is destroyed."""
        self._fallback.previous = None

    def _check_signer(self, signer: Signer) -> None:
        check_signer(signer)
        if str(signer.key_id) != f"{ED25519}:{self.device_id}":
            detail = f"the signer is {quoted(str(signer.key_id))}, not the device's own key"
            raise LocalProtocolError(Reason.KEY_ID_NOT_DEVICE, detail, path="/signer")
        if self._ed25519_key not in (None, signer.public_key):
            detail = "the keys before were signed by another key; a device never changes its own"
            raise LocalProtocolError(Reason.PRIVATE_KEY_MISMATCH, detail, path="/signer")

    def _sign(self, name: str, key: Curve25519PublicKey, signer: Signer, *, is_fallback: bool) -> OneTimeKey:
        return OneTimeKey.build(
            key_id=f"{SIGNED_CURVE25519}:{name}", key=key, user_id=self.user_id, signer=signer, fallback=is_fallback
        )

    # ----------------------------------------------------------------------------------------------------------
    # Storing, then uploading
    # ----------------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Rises whenever keys are added. :meth:`to_json` contains it."""
        return self._revision

    @property
    def needs_storing(self) -> bool:
        """Whether there are keys that are not known to be stored, and so are not uploaded."""
        return self._stored < self._revision

    def mark_stored(self, revision: int) -> None:
        """Note that a state with this revision is stored, and the Olm account with it: its keys may be uploaded.

        Raises:
            LocalProtocolError: there was no such revision.
        """
        if type(revision) is not int:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a revision is an integer", path="/revision")
        if not 0 <= revision <= self._revision:
            raise LocalProtocolError(Reason.INVALID_VALUE, f"there was no revision {revision}", path="/revision")
        self._stored = max(self._stored, revision)

    def next_upload(self, now: int, *, device_keys: DeviceKeys | None = None) -> OutgoingUpload | None:
        """Return what to upload next, ``None`` if there is nothing to upload at this time.

        There is one upload in flight at a time, and it carries 100 one-time keys at most.

        Args:
            now: the caller's time in milliseconds.
            device_keys: the device's own keys, to be uploaded as well: by a device that is new, or as
                :func:`~matrix_e2e_keys.plan_device_upload` says. Hand them over until an upload with them is answered.

        Raises:
            LocalProtocolError: the device keys are those of another device, or an argument has the wrong type.
        """
        self._check_device(device_keys)
        now = self._settled(now)
        if self._uploads.flight is not None or now < self._uploads.ready_at:
            return None
        names = self._one_time.ready(self._stored)[: self._uploads.batch]
        fallback = self._ready_fallback
        asks = self._count.is_in_question and now >= self._count.question_at
        if not (names or fallback or device_keys or asks):
            return None
        request = KeysUploadRequest.for_keys(
            device_keys=device_keys,
            one_time_keys=[self._one_time.signed(name) for name in names],
            fallback_keys=[] if fallback is None else [fallback.signed],
        )
        return self._uploads.start(request, names, fallback)

    def next_upload_at(self, *, device_keys: DeviceKeys | None = None) -> int | None:
        """Return the time from which :meth:`next_upload` has something to upload; ``None`` if that depends on others.

        A time that has passed means that there is something to upload now.

        Args:
            device_keys: what :meth:`next_upload` would be given.

        Raises:
            LocalProtocolError: as there.
        """
        self._check_device(device_keys)
        if self._uploads.flight is not None:
            return None
        ready_at = self._uploads.ready_at
        if device_keys or self._one_time.ready(self._stored) or self._ready_fallback:
            return ready_at
        return max(ready_at, self._count.question_at) if self._count.is_in_question else None

    @property
    def _ready_fallback(self) -> FallbackKey | None:
        pending = self._fallback.pending
        return pending if pending is not None and pending.revision <= self._stored else None

    def _check_device(self, device_keys: DeviceKeys | None) -> None:
        if device_keys is None:
            return
        if type(device_keys) is not DeviceKeys:
            raise LocalProtocolError(Reason.WRONG_TYPE, "DeviceKeys are needed", path="/device_keys")
        if (device_keys.user_id, device_keys.device_id) != (self.user_id, self.device_id):
            detail = f"{device_keys!r} is another device"
            raise LocalProtocolError(Reason.DEVICE_ID_MISMATCH, detail, path="/device_keys")
        if self._ed25519_key not in (None, device_keys.ed25519_key):
            detail = "the device signed its one-time keys with another key"
            raise LocalProtocolError(Reason.PRIVATE_KEY_MISMATCH, detail, path="/device_keys")

    # ----------------------------------------------------------------------------------------------------------
    # What became of it
    # ----------------------------------------------------------------------------------------------------------

    def receive_response(self, upload_id: int, response: KeysUploadResponse, now: int) -> None:
        """Take over the answer to an upload. Any but the one in flight is ignored: who knows how old it is.

        Args:
            upload_id: which upload.
            response: its answer.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(response) is not KeysUploadResponse:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a KeysUploadResponse is needed", path="/response")
        now = check_now(now)
        flight = self._uploads.land(upload_id)
        if flight is None:
            return
        now = self._settled(now)
        self._one_time.settle(flight.names)
        if flight.fallback is not None and flight.fallback is self._fallback.pending:
            flight.fallback.acknowledged_at = now
        self._uploads.succeeded()
        held = response.one_time_key_counts.get(SIGNED_CURVE25519, 0)
        self._count.receive_answer(held, uploaded=len(flight.names), now=now)
        self._hear(flight.heard, now)

    def receive_error(self, upload_id: int, error: MatrixError | None, now: int) -> OneTimeKeyConflict | None:
        """Note that an upload was refused, or got no answer. What it carried is uploaded again, as it was.

        If the server holds another one-time key under one of the ids, the one-time keys of the upload are given up, and
        new ones are needed: once without delay, then with longer and longer ones. If it holds the same key, that key
        counts as uploaded. Everything else is tried again, later.

        Args:
            upload_id: which upload. Any but the one in flight is ignored.
            error: the refusal, ``None`` if there was no answer.
            now: the caller's time in milliseconds.

        Returns:
            The one-time key that the upload was refused for, if it was for one. The server may hold keys of this device
            whose private halves are lost: people who are given one of those send what cannot be read.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if error is not None and type(error) is not MatrixError:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a MatrixError is needed", path="/error")
        now = check_now(now)
        flight = self._uploads.land(upload_id)
        if flight is None:
            return None
        now = self._settled(now)
        self._hear(flight.heard, now)
        conflict = None if error is None else one_time_key_conflict(flight.upload.request, error)
        if conflict is None:
            self._uploads.failed(flight, error, now)
        elif conflict.is_same_key:
            self._one_time.settle([conflict.uploaded.key_id.name])
        else:
            self._one_time.settle(flight.names)
            self._uploads.conflicted(now)
        return conflict

    def receive_sync(self, keys: SyncKeys, now: int) -> None:
        """Take over what one answer to ``/sync`` says.

        Args:
            keys: what that answer says about keys. Where it says nothing, nothing has changed.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(keys) is not SyncKeys:
            raise LocalProtocolError(Reason.WRONG_TYPE, "SyncKeys are needed", path="/keys")
        now = self._settled(now)
        if keys.one_time_key_counts is not None:
            said = keys.one_time_key_counts.get(SIGNED_CURVE25519, 0)
            if self._uploads.flight is None:
                self._hear(said, now)
            else:
                self._uploads.flight.heard = said
        if keys.unused_fallback_key_types is not None:
            self._fallback.receive_list(is_unused=SIGNED_CURVE25519 in keys.unused_fallback_key_types)

    def receive_use(self, public_key: Curve25519PublicKey, now: int) -> KeyUse:
        """Note that the first message of a session was decrypted, and which key of one's own it used.

        So the server has that key, and a one-time key is used up: it is not uploaded again, whatever became of its
        upload.

        Args:
            public_key: the key of one's own that the message names.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(public_key) is not Curve25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a Curve25519PublicKey is needed", path="/public_key")
        now = self._settled(now)
        name = self._one_time.names.name(public_key)
        if name is not None:
            self._one_time.settle([name])
            return KeyUse.ONE_TIME
        for fallback, use in (
            (self._fallback.current, KeyUse.FALLBACK),
            (self._fallback.previous, KeyUse.PREVIOUS_FALLBACK),
        ):
            if fallback is not None and fallback.signed.public_key == public_key:
                fallback.receive_use(now)
                return use
        return KeyUse.UNKNOWN

    def _hear(self, said: int | None, now: int) -> None:
        if said is not None:
            self._count.hear(said, target=self.policy.target, now=now)

    def _settled(self, now: int) -> int:
        """Take a time. If the clock was set back, nothing waits for what it showed before."""
        now = check_now(now)
        self._fallback.settle(now)
        if self._latest is not None and now < self._latest - DOUBTFUL_MS:
            self._uploads.forget_delays()
            self._count.forget_delays()
            self._latest = now
        self._latest = now if self._latest is None else max(now, self._latest)
        return now

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart. The upload in flight and delays do not.

        Store it in one transaction with the Olm account, whenever either has changed. Everything in it is public.
        """
        return {
            "version": _VERSION,
            "user_id": self.user_id,
            "device_id": self.device_id,
            "revision": self._revision,
            "ed25519_key": None if self._ed25519_key is None else self._ed25519_key.to_base64(),
            "count": self._count.known,
            "one_time_keys": self._one_time.names.to_json(),
            "pending": self._one_time.pending_to_json(),
            "fallback_keys": self._fallback_names.to_json(),
            "fallback": self._fallback.to_json(),
        }

    @classmethod
    def from_json(cls, obj: object, *, policy: SupplyPolicy | None = None) -> KeySupply:
        """Restore a supply. What was restored is stored: it may be uploaded. All signatures are checked again.

        Args:
            obj: what :meth:`to_json` returned.
            policy: how many keys to have, and for how long, from now on.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned, or an argument has the wrong type.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        supply = cls(
            user_id=stored.member("user_id"),
            device_id=stored.member("device_id"),
            policy=SupplyPolicy() if policy is None else policy,
        )
        supply._revision = supply._stored = _at_least_zero(stored, "revision")
        if stored.member("count") is not None:
            supply._count.known = _at_least_zero(stored, "count")
        ed25519_text = stored.member("ed25519_key", str, type(None))
        with stored.reading("ed25519_key"):
            supply._ed25519_key = None if ed25519_text is None else Ed25519PublicKey.from_base64(ed25519_text)
        one_time, fallbacks = supply._one_time.names, supply._fallback_names
        one_time.restore(stored, "one_time_keys", fallbacks)
        fallbacks.restore(stored, "fallback_keys", one_time)
        reader = OwnKeyReader(user_id=supply.user_id, device_id=supply.device_id, ed25519_key=supply._ed25519_key)
        supply._one_time.restore_pending(stored, reader, supply._revision)
        fallback = stored.object("fallback")
        supply._fallback = FallbackKeys.restore(fallback, fallbacks, reader, supply._revision)
        return supply


def _at_least_zero(stored: Stored, member: str) -> int:
    value: int = stored.member(member, int)
    with stored.reading(member):
        if value < 0:
            raise LocalProtocolError(Reason.INVALID_VALUE, f"{member} cannot be negative")
    return value
