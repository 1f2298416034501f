"""What a client remembers of a Megolm session of its own: who may have its key, and who was told why not.

Specification: client-server API, "Messaging Algorithms" (``m.megolm.v1.aes-sha2``), "Shareable encryption sessions",
"Reporting that decryption keys are withheld".

Facts:

* No secret is kept here. The ratchet is somebody else's. It may come back from before a crash, and would encrypt two
  messages with one key. So how far it has got is remembered here, and it is asked for each time.
* To send a key takes two steps. From the moment on at which one begins, the device may have it: the request may have
  arrived though its answer was lost. Only when the server has taken it need it not be sent again. What decides about
  rotation is who may have it; what decides about sending is who has certainly been sent it.
* A device is its user id, its device id and its two keys. One that has the name of another device, but not its keys,
  cannot get the key of a session that the other one may have: the session has to go.
* The history that somebody is sent before an invitation brings the key as well, and is no ``m.room_key``: whoever is in
  the room then is sent one all the same.
* Whoever leaves may have got the key from somebody else. That somebody left is remembered until the session is gone.
* When the session was last used is remembered, so that a clock that is set back is found out.
* Why the key is withheld from a device, it is told once for each session and code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from attrs import define, evolve, field

from matrix_e2e_keys.client.rooms.arguments import (
    Chosen,
    DeviceName,
    by_user,
    check_codes,
    check_device,
    check_devices,
    check_members,
    check_names,
    check_recipients,
    name_of,
)
from matrix_e2e_keys.client.rooms.key_shares import ENDED, KeyShare, check_index
from matrix_e2e_keys.client.trust.recipients import Recipients
from matrix_e2e_keys.endpoints.members import boolean, integer
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, json_pointer, quoted, raised_as
from matrix_e2e_keys.events.contents import room_id, some_string
from matrix_e2e_keys.events.withheld import WithheldCode
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.identifiers import parse_device_id, parse_user_id
from matrix_e2e_keys.json_trees import JsonObject, JsonValue
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.stored import Stored

__all__ = ["OutboundSession"]

_VERSION: Final = 1


@define(kw_only=True)
class OutboundSession:
    """What a client remembers of a Megolm session of its own. A state machine without input or output.

    Args:
        room_id: the room.
        session_id: the session.
        created_at: when it was made, in the caller's milliseconds.
        shared_history: what ``shared_history`` says in the messages that bring the key; see
            :func:`~matrix_e2e_keys.shares_history`. It never changes.

    Write down what :meth:`to_json` returns after each step, before what was noted is sent. A crash in between then
    costs a key that is sent twice, and never one that is forgotten. Write down the ratchet with it, as it stands after
    it has encrypted. If it gets lost, or comes back from before a crash, the session has to go, and
    :func:`~matrix_e2e_keys.rotation_reasons` says so; if both come back from before it, nobody can tell.

    Raises:
        LocalProtocolError: an argument has the wrong type, or no such value.
    """

    _room_id: str = field(alias="room_id")
    _session_id: str = field(alias="session_id")
    _created_at: int = field(alias="created_at")
    _shared_history: bool = field(alias="shared_history")
    _last_used_at: int = field(init=False)
    _message_count: int = field(default=0, init=False)
    _shares: dict[DeviceName, KeyShare] = field(factory=dict, init=False, repr=False)
    _told: dict[DeviceName, frozenset[WithheldCode]] = field(factory=dict, init=False, repr=False)
    _history_shared_with: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    _left: frozenset[str] = field(default=frozenset(), init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        with raised_as(LocalProtocolError):
            room_id(self._room_id, "room_id")
            some_string(self._session_id, "session_id")
            integer(self._created_at, "created_at")
            boolean(self._shared_history, "shared_history")
        self._last_used_at = self._created_at

    @property
    def room_id(self) -> str:
        """The room."""
        return self._room_id

    @property
    def session_id(self) -> str:
        """The session."""
        return self._session_id

    @property
    def created_at(self) -> int:
        """When the session was made, in the caller's milliseconds."""
        return self._created_at

    @property
    def shared_history(self) -> bool:
        """What the messages that bring the key say about sharing it with those who come later."""
        return self._shared_history

    @property
    def last_used_at(self) -> int:
        """The latest time at which a message was encrypted, or else that of :attr:`created_at`."""
        return self._last_used_at

    @property
    def message_count(self) -> int:
        """How many messages were encrypted. It is the index of the next one."""
        return self._message_count

    @property
    def shares(self) -> Mapping[tuple[str, str], KeyShare]:
        """User id and device id of each device that may have the key, with how it got it."""
        return FrozenMap(dict(self._shares))

    @property
    def history_shared_with(self) -> frozenset[str]:
        """Users who may have got the key as a part of the room's history."""
        return self._history_shared_with

    @property
    def left(self) -> frozenset[str]:
        """Users who were seen to leave while there was this session."""
        return self._left

    # ----------------------------------------------------------------------------------------------------------
    # What happens
    # ----------------------------------------------------------------------------------------------------------

    def mark_encrypted(self, *, message_index: int, now: int) -> None:
        """Note that a message is encrypted with the session. To be called before it is sent, if possible encrypted.

        Args:
            message_index: the index at which it is encrypted: where the ratchet stands before it.
            now: the caller's time in milliseconds, on the clock of :attr:`created_at`.

        Raises:
            LocalProtocolError: an argument has the wrong type, or no such value; or a message with that index, or a
                later one, was encrypted before. Then nothing is changed, the message must not be sent, and the session
                has to go.
        """
        with raised_as(LocalProtocolError):
            index = check_index(message_index, "message_index")
            integer(now, "now")
        self._require_not_set_back(index)
        self._message_count = index + 1
        self._last_used_at = max(self._last_used_at, now)

    def _require_not_set_back(self, index: int) -> None:
        if index < self._message_count:
            detail = f"the ratchet stands at {index}, after {self._message_count} messages: the session has to go"
            raise LocalProtocolError(Reason.WRONG_STATE, detail, path="/message_index")

    def start_sharing(self, devices: Iterable[VerifiedDevice], *, message_index: int) -> None:
        """Note that the key is about to be sent to some devices. From now on they may have it.

        If the request fails, nothing is to be noted: they may have the key, and have to be sent it again. Send the same
        request with the same transaction id again, as long as that is possible: a key that is sent later decrypts
        fewer messages.

        Args:
            devices: whom it is sent to.
            message_index: the index at which the ratchet stands: the first message that they can decrypt.

        Raises:
            LocalProtocolError: one of them is no device that a key can be sent to; or a device that had its name, and
                other keys, may have the key; or the ratchet stands before a message that was encrypted, so that it
                would encrypt two messages with one key. In both of the latter cases the session has to go.
                Then nothing is changed.
        """
        checked = check_devices(devices)
        with raised_as(LocalProtocolError):
            index = check_index(message_index, "message_index")
        self._require_not_set_back(index)
        self._share(checked, index, is_history_only=False)
        self._message_count = index

    def start_sharing_history(self, devices: Iterable[VerifiedDevice]) -> None:
        """Note that the key is about to be sent to some devices as a part of the room's history, from the beginning on.

        That does not replace the message that brings the key to those who are in the room, and there is nothing to be
        confirmed: :meth:`needs_key` names them until they were sent that as well.

        Args:
            devices: whom it is sent to. "Alice's client MUST NOT send the ``m.room.key_bundle`` message to devices that
                have not been correctly cross-signed by their owner".

        Raises:
            LocalProtocolError: one of them is no device that a key can be sent to, or not cross-signed; or a device
                that had its name, and other keys, may have the key; or the session is not one to be shared. Then
                nothing is changed.
        """
        checked = check_devices(devices)
        for device in checked:
            if not device.is_cross_signed:
                detail = f"{device!r} must not get the history of a room"
                raise LocalProtocolError(Reason.UNVERIFIED_DEVICE, detail, path="/devices")
        if not self._shared_history:
            raise LocalProtocolError(Reason.WRONG_STATE, "the session was not begun as one that may be shared")
        self._share(checked, 0, is_history_only=True)

    def _share(self, devices: Iterable[VerifiedDevice], index: int, *, is_history_only: bool) -> None:
        shares: dict[DeviceName, KeyShare] = {}
        for device in devices:
            share = self._shares.get(name_of(device))
            if share is None:
                # check_devices has seen that there is one
                curve25519_key: Curve25519PublicKey = device.curve25519_key  # type: ignore[assignment]
                share = KeyShare(
                    curve25519_key=curve25519_key,
                    ed25519_key=device.ed25519_key,
                    message_index=index,
                    is_history_only=is_history_only,
                )
            else:
                self.require_same_keys(device)
            shares[name_of(device)] = evolve(
                share,
                message_index=min(index, share.message_index),
                is_history_only=is_history_only and share.is_history_only,
            )
        self._shares.update(shares)

    def confirm_sharing(self, names: Iterable[tuple[str, str]]) -> None:
        """Note that the server has taken the messages with the key (``m.room_key``) for some devices.

        Args:
            names: user id and device id of each.

        Raises:
            LocalProtocolError: one of them is not named by a pair of a user id and a device id, or was never said to be
                sent the key, other than as a part of the history. Then nothing is changed.
        """
        checked = check_names(names, "names")
        for name in checked:
            share = self._shares.get(name)
            if share is None or share.is_history_only:
                detail = f"nothing was said of a key for {quoted(name[0])} {quoted(name[1])}"
                raise LocalProtocolError(Reason.WRONG_STATE, detail, path="/names")
        self._shares.update({name: evolve(self._shares[name], is_confirmed=True) for name in checked})

    def mark_told(self, codes: Mapping[str, Mapping[str, WithheldCode]]) -> None:
        """Note that the server has taken messages which tell devices why they do not get the key.

        Args:
            codes: user id to device id to the code, as :attr:`SharingPlan.withheld` has them. ``m.no_olm`` is not about
                one session, and is left to :class:`~matrix_e2e_keys.NoOlmMemory`.

        Raises:
            LocalProtocolError: they are no such mapping. Then nothing is changed.
        """
        for name, code in check_codes(codes).items():
            if code is not WithheldCode.NO_OLM:
                self._told[name] = self._told.get(name, frozenset()) | {code}

    def mark_history_shared(self, user_ids: Iterable[str]) -> None:
        """Note that somebody may have shared the key with users as a part of the room's history.

        "Any user that received an invite to the room may have received a copy of the decryption keys for the session
        via history sharing."

        Args:
            user_ids: the users, as the state of the room names them. What is no user id is noted as well.

        Raises:
            LocalProtocolError: they are not several strings. Then nothing is changed.
        """
        self._history_shared_with |= check_members(user_ids, "user_ids")

    def mark_left(self, user_ids: Iterable[str]) -> None:
        """Note that users were seen to leave the room. That they may be back does not matter.

        "In a ``limited`` sync, clients must treat any membership event with a membership other than ``join`` as an
        indication that the affected user may have joined and left the room."

        Args:
            user_ids: the users, as the state of the room names them. What is no user id is noted as well.

        Raises:
            LocalProtocolError: they are not several strings. Then nothing is changed.
        """
        self._left |= check_members(user_ids, "user_ids")

    # ----------------------------------------------------------------------------------------------------------
    # What is to be done
    # ----------------------------------------------------------------------------------------------------------

    def share_with(self, device: VerifiedDevice) -> KeyShare | None:
        """Return that a device may have the key; ``None`` if it was never sent it, or another device of its name was.

        Raises:
            LocalProtocolError: it is no :class:`~matrix_e2e_keys.VerifiedDevice`.
        """
        share = self._shares.get(name_of(check_device(device)))
        return share if share is not None and share.is_with(device) else None

    def require_same_keys(self, device: VerifiedDevice) -> None:
        """Internal: refuse a device whose name another one has that may have the key.

        Raises:
            LocalProtocolError: there is another one.
        """
        share = self._shares.get(name_of(device))
        if share is not None and not share.is_with(device):
            detail = f"{device!r} has other keys than the device that may have the key of this session"
            raise LocalProtocolError(Reason.WRONG_STATE, detail, path="/devices")

    def needs_key(self, recipients: Recipients) -> tuple[VerifiedDevice, ...]:
        """Return the recipients that have not certainly been sent the key.

        Those whose request is under way are among them: ask after it was answered.

        Raises:
            VerificationError: the policy stops, so nothing may be sent.
            LocalProtocolError: they are no Recipients.
        """
        chosen = check_recipients(recipients)
        recipients.require()
        return self.without_key(chosen)

    def without_key(self, chosen: Chosen) -> tuple[VerifiedDevice, ...]:
        """Internal: :meth:`needs_key` of recipients that were checked, where no policy stops."""
        return tuple([device for device in chosen.devices.values() if not self._has_been_sent(device)])

    def _has_been_sent(self, device: VerifiedDevice) -> bool:
        share = self.share_with(device)
        return share is not None and share.is_confirmed

    def withholds(self, recipients: Recipients) -> Mapping[str, Mapping[str, WithheldCode]]:
        """Return user id to device id to the code that the device has not been told yet, ``m.no_olm`` left out.

        Raises:
            VerificationError: the policy stops, so nothing may be sent.
            LocalProtocolError: they are no Recipients.
        """
        chosen = check_recipients(recipients)
        recipients.require()
        return by_user(self.untold(chosen))

    def untold(self, chosen: Chosen) -> dict[DeviceName, WithheldCode]:
        """Internal: :meth:`withholds` of recipients that were checked, where no policy stops, by names."""
        return {
            name: code
            for name, code in chosen.withheld.items()
            if code is not WithheldCode.NO_OLM and code not in self._told.get(name, ())
        }

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return everything that is remembered. There is no secret in it, but it tells who talks to whom."""
        shares: dict[str, JsonValue] = {
            user_id: {device_id: share.to_json() for device_id, share in of.items()}
            for user_id, of in by_user(self._shares).items()
        }
        told: dict[str, JsonValue] = {
            user_id: {device_id: [*sorted(str(code) for code in codes)] for device_id, codes in of.items()}
            for user_id, of in by_user(self._told).items()
        }
        return {
            "version": _VERSION,
            "room_id": self._room_id,
            "session_id": self._session_id,
            "created_at": self._created_at,
            "shared_history": self._shared_history,
            "last_used_at": self._last_used_at,
            "message_count": self._message_count,
            "shares": shares,
            "told": told,
            "history_shared_with": [*sorted(self._history_shared_with)],
            "left": [*sorted(self._left)],
        }

    @classmethod
    def from_json(cls, obj: object) -> OutboundSession:
        """Restore what :meth:`to_json` returned.

        Raises:
            LocalProtocolError: it is not that.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        session = cls(
            room_id=stored.member("room_id", str),
            session_id=stored.member("session_id", str),
            created_at=stored.member("created_at", int),
            shared_history=stored.member("shared_history", bool),
        )
        session._last_used_at = stored.member("last_used_at", int)
        with stored.reading():
            if integer(session._last_used_at, "last_used_at") < session.created_at:
                raise Refusal(Reason.INVALID_VALUE, "no session is used before it is made", "last_used_at")
        session._message_count = stored.member("message_count", int)
        with stored.reading("message_count"):
            if not 0 <= session._message_count <= ENDED:
                raise LocalProtocolError(Reason.INVALID_VALUE, "no session encrypts that many messages")
        for name, share in _restored(stored, "shares", dict):
            session._shares[name] = _restore_share(share, name, session._message_count)
        for name, codes in _restored(stored, "told", list):
            session._told[name] = frozenset(_restore_codes(codes, name))
        session._history_shared_with = check_members(stored.values("history_shared_with", str), "history_shared_with")
        session._left = check_members(stored.values("left", str), "left")
        return session


def _restored(stored: Stored, member: str, kind: type) -> Iterator[tuple[DeviceName, Any]]:
    """Yield the names of devices in a member that holds user id to device id to something of a kind."""
    inner = stored.object(member)
    for user, _ in stored.objects(member):
        with stored.reading(member, user):
            user_id = parse_user_id(user)
        for device, value in inner.items(user, kind):
            with stored.reading(member, user, device):
                name = user_id, parse_device_id(device)
            yield name, value


def _restore_share(obj: object, name: DeviceName, message_count: int) -> KeyShare:
    stored = Stored(obj, "shares", *name)
    share = KeyShare.restore(stored)
    with stored.reading("message_index"):
        if share.message_index > message_count:
            raise Refusal(Reason.INVALID_VALUE, "the ratchet was never there")
    return share


def _restore_codes(codes: list[Any], name: DeviceName) -> Iterator[WithheldCode]:
    for place, code in enumerate(codes):
        if type(code) is not str or code not in list(WithheldCode):
            path = json_pointer(["told", *name, place])
            raise LocalProtocolError(Reason.INVALID_VALUE, "this is no code that a device was told", path=path)
        yield WithheldCode(code)
