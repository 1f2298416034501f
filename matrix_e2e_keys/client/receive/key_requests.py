"""Asking one's own devices for session keys and secrets, and believing only answers to what was asked.

Specification: client-server API, "Key requests", "Sharing" of secrets.

Facts:

* "Clients should only send keys requested by the verified devices of the same user, and should only request and accept
  forwarded keys from verified devices of the same user." So whoever is asked is remembered with the keys it had, and an
  answer counts if it comes from those keys, while the device is still verified.
* Who has sent an answer, :func:`~matrix_e2e_keys.check_olm_event` has found out before.
* What is asked for stays asked for until it is said to be settled: a key that cannot be imported is still missing. Who
  was asked is not asked again before one says so; then under the same id.

Nothing is sent here: what is to be sent comes out as messages to devices, in the open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from attrs import define, evolve, field, frozen

from matrix_e2e_keys.client.receive.accepted_answers import (
    AcceptedForward,
    AcceptedSecret,
    new_accepted_forward,
    new_accepted_secret,
)
from matrix_e2e_keys.client.receive.asked_devices import Asked, DeviceKeyPair, OpenRequests, answering_keys
from matrix_e2e_keys.client.receive.olm_judgments import DecryptedOlmEvent
from matrix_e2e_keys.client.receive.sender_values import OlmSender, SenderTrust
from matrix_e2e_keys.client.trust.trust import DeviceTrust, device_trust
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.endpoints.members import boolean
from matrix_e2e_keys.endpoints.members import device_id as a_device_id
from matrix_e2e_keys.endpoints.members import user_id as a_user_id
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    VerificationError,
    quoted,
    raised_as,
)
from matrix_e2e_keys.events.contents import EventContent, room_id, some_string
from matrix_e2e_keys.events.key_requests import RoomKeyRequestContent
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent
from matrix_e2e_keys.events.secrets import SecretName, SecretRequestContent, SecretSendContent
from matrix_e2e_keys.events.shared_members import plain_text
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.json_trees import JsonObject, JsonValue
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.stored import Stored

__all__ = ["KeyRequests", "OutgoingMessages"]

Name = TypeVar("Name", str, tuple[str, str])

_VERSION: Final = 1


@frozen(kw_only=True)
class OutgoingMessages:
    """Messages to devices of one user: the same content for each.

    Attributes:
        event_type: the type of the messages.
        user_id: whose devices.
        device_ids: which of them.
        content: what to send, in the open; see :func:`~matrix_e2e_keys.to_device_requests`.
    """

    event_type: str
    user_id: str
    device_ids: tuple[str, ...]
    content: EventContent

    @property
    def messages(self) -> Mapping[str, Mapping[str, EventContent]]:
        """User id to device id to content."""
        return FrozenMap({self.user_id: FrozenMap(dict.fromkeys(self.device_ids, self.content))})


@define(kw_only=True)
class KeyRequests:
    """What this device has asked its user's other devices for. A state machine without input or output.

    Only asking makes it grow, and settling makes it shrink. Nothing that anybody sends does either.

    Write down what :meth:`to_json` returns before what comes out is sent. After a crash in between, some devices count
    as asked that were not: ask once more, with ``again``.

    Attributes:
        own_user_id: oneself.
        own_device_id: this device.
    """

    own_user_id: str
    own_device_id: str
    _keys: OpenRequests[tuple[str, str]] = field(factory=OpenRequests, init=False, repr=False)
    _secrets: OpenRequests[str] = field(factory=OpenRequests, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        with raised_as(LocalProtocolError):
            a_user_id(self.own_user_id, "own_user_id")
            a_device_id(self.own_device_id, "own_device_id")

    @property
    def keys(self) -> frozenset[tuple[str, str]]:
        """The room and session ids of the keys that are asked for."""
        return self._keys.names

    @property
    def secrets(self) -> frozenset[str]:
        """The names of the secrets that are asked for."""
        return self._secrets.names

    # ----------------------------------------------------------------------------------------------------------
    # Asking
    # ----------------------------------------------------------------------------------------------------------

    def ask_for_key(
        self,
        room_id: str,
        session_id: str,
        *,
        request_id: str,
        own: KnownUser,
        sender_key: Curve25519PublicKey | None = None,
        again: bool = False,
    ) -> OutgoingMessages | None:
        """Ask one's other verified devices for a session key.

        Ask again for everything in :attr:`keys` when there is another verified device. Requests and answers get lost:
        what stays without an answer, ask for with ``again``, now and then. To give it up is to :meth:`settle_key`
        without ``by``.

        Args:
            room_id: the room.
            session_id: the session.
            request_id: a random text that was never used before. If the key is asked for already, its first one stays.
            own: what is known of oneself.
            sender_key: ``sender_key`` of the event that cannot be decrypted, if it has one. Deprecated.
            again: whether to ask those once more who were asked before, under the same request id.

        Returns:
            What to send. ``None`` if no verified device is there to be asked: then the key does not count as asked for,
            if it did not before. Also ``None``, unless ``again``, if all of them were asked before: then it is up to
            them.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed; or the id is that of a request for
                another key.
        """
        content = RoomKeyRequestContent.build(
            request_id=request_id,
            requesting_device_id=self.own_device_id,
            room_id=room_id,
            session_id=session_id,
            sender_key=sender_key,
        )
        return self._ask(self._keys, (room_id, session_id), content, own, again)

    def ask_for_secret(
        self, name: SecretName | str, *, request_id: str, own: KnownUser, again: bool = False
    ) -> OutgoingMessages | None:
        """Ask one's other verified devices for a secret.

        A device that does not know yet that this one is verified answers nothing, and requests and answers get lost:
        what stays without an answer, ask for with ``again``, now and then. To give it up is to :meth:`settle_secret`
        without ``by``.

        Args:
            name: which secret.
            request_id: a random text that was never used before: the answer names nothing else. If the secret is asked
                for already, its first one stays.
            own: what is known of oneself.
            again: whether to ask those once more who were asked before, under the same request id.

        Returns:
            What to send. ``None`` if no verified device is there to be asked: then the secret does not count as asked
            for, if it did not before. Also ``None``, unless ``again``, if all of them were asked before: then it is up
            to them.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed; or the id is that of a request for
                another secret.
        """
        text = _secret_name(name)
        content = SecretRequestContent.build(name=text, request_id=request_id, requesting_device_id=self.own_device_id)
        return self._ask(self._secrets, text, content, own, again)

    def _ask(
        self,
        requests: OpenRequests[Name],
        name: Name,
        content: RoomKeyRequestContent | SecretRequestContent,
        own: KnownUser,
        again: bool,
    ) -> OutgoingMessages | None:
        self._check_own(own)
        with raised_as(LocalProtocolError):
            boolean(again, "again")
        asked = requests.get(name)
        if asked is None:
            with raised_as(LocalProtocolError):
                requests.check_unused(content.request_id)
        devices: dict[str, DeviceKeyPair] = {}
        for device_id, device in own.devices.items():
            keys = answering_keys(device)
            if device_id == self.own_device_id or keys is None:
                continue
            # "If the key is requested multiple times, it should be reused": the id.
            if asked is not None and not again and asked.has(device_id, keys):
                continue
            if device_trust(own, device_id) is DeviceTrust.VERIFIED:
                devices[device_id] = keys
        if not devices:
            return None
        asked = requests.add(name, Asked(request_id=content.request_id, devices=devices))
        return self._messages(evolve(content, request_id=asked.request_id), devices)

    def _check_own(self, own: object) -> None:
        if type(own) is not KnownUser:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a KnownUser is needed", path="/own")
        if own.user_id != self.own_user_id:
            detail = f"what is known of {quoted(self.own_user_id)} is needed, not of {quoted(own.user_id)}"
            raise LocalProtocolError(Reason.NOT_OWN_USER, detail, path="/own")

    def _messages(self, content: EventContent, device_ids: Iterable[str]) -> OutgoingMessages:
        return OutgoingMessages(
            event_type=content.event_type, user_id=self.own_user_id, device_ids=tuple(device_ids), content=content
        )

    # ----------------------------------------------------------------------------------------------------------
    # Answers
    # ----------------------------------------------------------------------------------------------------------

    def check_forward(
        self, event: DecryptedOlmEvent, *, own: KnownUser, session_id_of: Callable[[str], str] | None = None
    ) -> AcceptedForward:
        """Check an ``m.forwarded_room_key``. Once its key is imported, :meth:`settle_key`.

        Args:
            event: what came out of an Olm message.
            own: what is known of oneself.
            session_id_of: asks the ratchet for the id of the session that a key makes; see
                :meth:`SessionKeyRecord.require_session_id`.

        Returns:
            What :func:`~matrix_e2e_keys.session_from_forward` takes.

        Raises:
            VerificationError: nobody asked for that key, or not that device; or it is no verified device of one's own.
            RemoteProtocolError: the event is another one, or malformed; or the key belongs to another session.
            LocalProtocolError: an argument has the wrong type.
        """
        self._check_own(own)
        _check_event(event, ForwardedRoomKeyContent.event_type)
        content = ForwardedRoomKeyContent.from_json(event.content)
        asked = self._keys.get((content.room_id, content.session_id))
        if asked is None:
            detail = "that session key is not asked for"
            raise VerificationError(Reason.UNREQUESTED, detail, path="/session_id")
        self._require_asked(asked, event.sender, own)
        return new_accepted_forward(content, content.require_session_id(session_id_of), event.sender)

    def check_secret(self, event: DecryptedOlmEvent, *, own: KnownUser) -> AcceptedSecret:
        """Check an ``m.secret.send``. Once the secret has turned out to be the right one, :meth:`settle_secret`.

        Args:
            event: what came out of an Olm message.
            own: what is known of oneself.

        Raises:
            VerificationError: nobody asked for it, or not that device; or it is no verified device of one's own.
            RemoteProtocolError: the event is another one, or malformed.
            LocalProtocolError: an argument has the wrong type.
        """
        self._check_own(own)
        _check_event(event, SecretSendContent.event_type)
        content = SecretSendContent.from_json(event.content)
        named = self._secrets.named(content.request_id)
        if named is None:
            detail = f"there is no request {quoted(content.request_id)} for a secret"
            raise VerificationError(Reason.UNREQUESTED, detail, path="/request_id")
        name, asked = named
        self._require_asked(asked, event.sender, own)
        return new_accepted_secret(name, content.secret, event.sender)

    def _require_asked(self, asked: Asked, sender: OlmSender, own: KnownUser) -> None:
        """Refuse an answer that does not come from a device that was asked and is verified."""
        device = None if sender.device is None else own.devices.get(sender.device.device_id)
        if sender.user_id != self.own_user_id or device is None:
            raise VerificationError(Reason.UNTRUSTED_SENDER, "the sender is no known device of one's own")
        keys = (sender.ed25519_key, sender.curve25519_key)
        if keys != answering_keys(device):
            detail = f"{quoted(device.device_id)} is known with other keys, or as one that does not answer"
            raise VerificationError(Reason.UNTRUSTED_SENDER, detail)
        # "the device is a verified device owned by the recipient"
        if sender.trust is not SenderTrust.VERIFIED or device_trust(own, device.device_id) is not DeviceTrust.VERIFIED:
            raise VerificationError(Reason.UNTRUSTED_SENDER, f"{quoted(device.device_id)} is not verified")
        # "from a device that the m.secret.request event was originally sent to"
        if not asked.has(device.device_id, keys):
            raise VerificationError(Reason.UNREQUESTED, f"{quoted(device.device_id)} was not asked")

    def settle_key(self, room_id: str, session_id: str, *, by: OlmSender | None = None) -> OutgoingMessages | None:
        """Note that a session key is not missing any more, or that one gives it up.

        Args:
            room_id: the room.
            session_id: the session.
            by: who has sent it, if one of those that were asked has: :attr:`AcceptedForward.forwarder`.

        Returns:
            What to send to the others that were asked, who need not answer any more. ``None`` if there are none, or
            the key was not asked for.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        name = _key_name(room_id, session_id)
        return self._settle(self._keys, name, by, RoomKeyRequestContent.build_cancellation)

    def settle_secret(self, name: SecretName | str, *, by: OlmSender | None = None) -> OutgoingMessages | None:
        """Note that a secret is not missing any more, or that one gives it up.

        Args:
            name: which secret.
            by: who has sent it, if one of those that were asked has: :attr:`AcceptedSecret.sender`.

        Returns:
            What to send to the others that were asked, who need not answer any more. ``None`` if there are none, or
            the secret was not asked for.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        return self._settle(self._secrets, _secret_name(name), by, SecretRequestContent.build_cancellation)

    def _settle(
        self, requests: OpenRequests[Name], name: Name, by: OlmSender | None, cancel: Callable[..., EventContent]
    ) -> OutgoingMessages | None:
        if by is not None and type(by) is not OlmSender:
            raise LocalProtocolError(Reason.WRONG_TYPE, "an OlmSender is needed", path="/by")
        asked = requests.pop(name)
        if asked is None:
            return None
        # To those that are not verified any more as well: it was them who were asked.
        others = [device_id for device_id, keys in asked.devices.items() if not self._is_by(by, keys)]
        if not others:
            return None
        content = cancel(request_id=asked.request_id, requesting_device_id=self.own_device_id)
        return self._messages(content, others)

    def _is_by(self, by: OlmSender | None, keys: DeviceKeyPair) -> bool:
        return by is not None and (by.user_id, by.ed25519_key, by.curve25519_key) == (self.own_user_id, *keys)

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart. No secret is in it."""
        keys: list[JsonValue] = [
            {"room_id": room_id, "session_id": session_id, **asked.to_json()}
            for (room_id, session_id), asked in self._keys.items()
        ]
        secrets: list[JsonValue] = [{"name": name, **asked.to_json()} for name, asked in self._secrets.items()]
        return {
            "version": _VERSION,
            "own_user_id": self.own_user_id,
            "own_device_id": self.own_device_id,
            "keys": keys,
            "secrets": secrets,
        }

    @classmethod
    def from_json(cls, obj: object) -> KeyRequests:
        """Restore what was asked for.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        own_user_id, own_device_id = stored.member("own_user_id", str), stored.member("own_device_id", str)
        requests = cls(own_user_id=own_user_id, own_device_id=own_device_id)
        for kept in stored.elements("keys"):
            room, session = kept.member("room_id", str), kept.member("session_id", str)
            with kept.reading():
                key = _key_name(room, session)
            requests._keys.restore(key, kept, own_device_id)
        for kept in stored.elements("secrets"):
            name = kept.member("name", str)
            with kept.reading():
                secret = _secret_name(name)
            requests._secrets.restore(secret, kept, own_device_id)
        return requests


def _key_name(room: object, session_id: object) -> tuple[str, str]:
    """Return the name of a key.

    Raises:
        LocalProtocolError: it is none.
    """
    with raised_as(LocalProtocolError):
        return room_id(room, "room_id"), some_string(session_id, "session_id")


def _secret_name(name: object) -> str:
    """Return the name of a secret.

    Raises:
        LocalProtocolError: it is none.
    """
    with raised_as(LocalProtocolError):
        return some_string(plain_text(name), "name")


def _check_event(event: object, event_type: str) -> None:
    if type(event) is not DecryptedOlmEvent:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a DecryptedOlmEvent is needed", path="/event")
    if event.type != event_type:
        raise RemoteProtocolError(Reason.INVALID_VALUE, f"{quoted(event.type)} is not {event_type}")
