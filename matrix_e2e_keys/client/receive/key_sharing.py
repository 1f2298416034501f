"""What to answer to devices that ask for session keys and secrets.

Specification: client-server API, "Key requests", "Sharing" of secrets, "Reporting that decryption keys are withheld".

Facts:

* "Clients should only send keys requested by the verified devices of the same user."
* A request comes in the open, and says by itself who asks. So it is not believed: an answer is encrypted for the device
  of that name that one knows, and no other can read it.
* What another device was given before, it may be given again, from the same message on, and while it has the same keys.
* Whoever gets nothing may be told why. Whether one has a session, only those learn who would get it.
* A device that only receives asks for nothing. Its keys lie with the server, under a passphrase: whoever asks in its
  name may hope to find them.
* While a device has the name of one of one's own cross-signing keys, who compares one may take it for the other. Until
  that is settled, no device of one's own counts as verified.

A request for a session key is answered by the first line that fits:

===================================================  =============  ===============================================
who asks                                             was given it   answer
===================================================  =============  ===============================================
anybody, to take back a request                      no matter      CANCEL
this device                                          no matter      IGNORE (``UNREQUESTED``)
a device that is not known                           no matter      IGNORE (``UNVERIFIED_DEVICE``)
a device that only receives                          no matter      IGNORE (``DEHYDRATED_SENDER``)
a device that does not speak Olm                     no matter      IGNORE (``MISSING_KEY``)
a device that was blacklisted                        no matter      WITHHOLD ``m.blacklisted``
a verified device of one's own, if none of them has  no matter      SHARE all of it
the name of one of one's own cross-signing keys
any other device                                     yes            SHARE from the same message on
another device of one's own                          no             WITHHOLD ``m.unverified``
a device of somebody else                            no             WITHHOLD ``m.unauthorised``
===================================================  =============  ===============================================

Who would get a session that one does not have is told so: WITHHOLD ``m.unavailable``.

With a request for a secret, the lines down to the devices without Olm are the same. After them, a verified device of
one's own gets it (SHARE), and nobody else is answered: IGNORE, with ``NOT_OWN_USER`` or ``UNVERIFIED_DEVICE``; with
``IDENTIFIER_COLLISION`` if a device is not counted as verified because one of them has the name of a key.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

from attrs import evolve, frozen

from matrix_e2e_keys.client.receive.handed_in import known_user
from matrix_e2e_keys.client.receive.message_index import message_index_of
from matrix_e2e_keys.client.trust.trust import DeviceTrust, device_trust
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.endpoints.members import boolean
from matrix_e2e_keys.endpoints.members import device_id as a_device_id
from matrix_e2e_keys.endpoints.members import user_id as a_user_id
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, quoted, raised_as
from matrix_e2e_keys.events.key_requests import RequestAction, RoomKeyRequestContent
from matrix_e2e_keys.events.received import ToDeviceEvent
from matrix_e2e_keys.events.secrets import SecretRequestContent
from matrix_e2e_keys.events.withheld import WithheldCode
from matrix_e2e_keys.models.device_keys import VerifiedDevice

__all__ = ["SharingDecision", "SharingVerdict", "judge_key_request", "judge_secret_request"]


_NOT_VERIFIED: Final = "the device is not verified"
_COLLISION: Final = "a device has the name of a cross-signing key, so the device does not count as verified"


class SharingVerdict(enum.StrEnum):
    """What to do about a request."""

    SHARE = "share"
    """Send the key or the secret, encrypted for the device."""
    WITHHOLD = "withhold"
    """Send nothing but an ``m.room_key.withheld``."""
    IGNORE = "ignore"
    """Send nothing."""
    CANCEL = "cancel"
    """Forget a request that came before."""


@frozen(kw_only=True)
class SharingDecision:
    """What to do about a request, and why.

    Attributes:
        verdict: what to do.
        request_id: the name of the request; unique together with user and device.
        user_id: who asks, according to the servers.
        device_id: which device asks, according to the request.
        device: the device to encrypt for, or to tell that it gets nothing; ``None`` if nothing is sent.
        first_index: from which message on to share a session: export the key at that index, or at the first one that
            one has oneself, if that is later. 0 for all of it.
        code: what to tell a device that gets nothing.
        reason: why it gets nothing, for programs; ``None`` if it gets something.
        detail: one sentence for people.
    """

    verdict: SharingVerdict
    request_id: str
    user_id: str
    device_id: str
    device: VerifiedDevice | None = None
    first_index: int = 0
    code: WithheldCode | None = None
    reason: Reason | None = None
    detail: str


def judge_key_request(
    event: ToDeviceEvent,
    *,
    known: Mapping[str, KnownUser],
    own_user_id: str,
    own_device_id: str,
    has_session: bool,
    shared_from: int | None = None,
) -> SharingDecision:
    """Return what to do about an ``m.room_key_request``.

    Args:
        event: the request, as it came in the open.
        known: user id to what is known of users, oneself among them.
        own_user_id: oneself.
        own_device_id: this device.
        has_session: whether one has the session that is asked for.
        shared_from: the index from which on this device has given the session to the device that asks, under the keys
            that it has now: ``message_index`` of what :meth:`OutboundSession.share_with` returns; ``None`` if that is
            ``None``, or another device has made the session.

    Raises:
        RemoteProtocolError: it is another event, or malformed.
        LocalProtocolError: an argument has the wrong type.
    """
    _check_own(own_user_id, own_device_id)
    with raised_as(LocalProtocolError):
        boolean(has_session, "has_session")
        if shared_from is not None:
            message_index_of(shared_from, "shared_from")
    _check_event(event, RoomKeyRequestContent.event_type)
    content = RoomKeyRequestContent.from_json(event.content)
    asking = _Asking.of(event, content, known, own_user_id, own_device_id)
    if asking.settled is not None:
        return asking.settled
    device, is_own = asking.device, event.sender == own_user_id
    if device is None:
        return asking.unknown()
    if asking.trust is DeviceTrust.BLACKLISTED:
        return asking.withheld(WithheldCode.BLACKLISTED, device, Reason.UNTRUSTED_SENDER, "the device is blocked")
    if is_own and asking.trust is DeviceTrust.VERIFIED and not asking.has_collision:
        first_index, detail = 0, "it is a verified device of one's own"
    elif shared_from is not None:
        first_index, detail = shared_from, "the device was given the session before"
    elif is_own:
        detail = f"{_COLLISION if asking.has_collision else _NOT_VERIFIED}, and it was not given the session before"
        return asking.withheld(WithheldCode.UNVERIFIED, device, Reason.UNVERIFIED_DEVICE, detail)
    else:
        detail = "it is no device of one's own, and was not given the session before"
        return asking.withheld(WithheldCode.UNAUTHORISED, device, Reason.NOT_OWN_USER, detail)
    if not has_session:
        return asking.withheld(WithheldCode.UNAVAILABLE, device, Reason.MISSING_KEY, "the session is not there")
    return asking.shared(device, first_index, detail)


def judge_secret_request(
    event: ToDeviceEvent, *, known: Mapping[str, KnownUser], own_user_id: str, own_device_id: str
) -> SharingDecision:
    """Return what to do about an ``m.secret.request``: only one's own verified devices get an answer.

    People may want to be asked all the same before a secret is sent.

    Args:
        event: the request, as it came in the open.
        known: user id to what is known of users, oneself among them.
        own_user_id: oneself.
        own_device_id: this device.

    Raises:
        RemoteProtocolError: it is another event, or malformed.
        LocalProtocolError: an argument has the wrong type.
    """
    _check_own(own_user_id, own_device_id)
    _check_event(event, SecretRequestContent.event_type)
    content = SecretRequestContent.from_json(event.content)
    asking = _Asking.of(event, content, known, own_user_id, own_device_id)
    if asking.settled is not None:
        return asking.settled
    if asking.device is None:
        return asking.unknown()
    if event.sender != own_user_id:
        return asking.ignored(Reason.NOT_OWN_USER, "secrets are for one's own devices")
    if asking.trust is not DeviceTrust.VERIFIED:
        return asking.ignored(Reason.UNVERIFIED_DEVICE, _NOT_VERIFIED)
    if asking.has_collision:
        return asking.ignored(Reason.IDENTIFIER_COLLISION, _COLLISION)
    return asking.shared(asking.device, 0, "it is a verified device of one's own")


@frozen(kw_only=True)
class _Asking:
    """Who asks."""

    request_id: str
    user_id: str
    device_id: str
    device: VerifiedDevice | None
    trust: DeviceTrust | None
    has_collision: bool
    """Whether a device of the user has the name of one of his cross-signing keys."""
    settled: SharingDecision | None
    """What to do, if it is not about sending anything."""

    @classmethod
    def of(
        cls,
        event: ToDeviceEvent,
        content: RoomKeyRequestContent | SecretRequestContent,
        known: Mapping[str, KnownUser],
        own_user_id: str,
        own_device_id: str,
    ) -> _Asking:
        user = known_user(known, event.sender)
        name = content.requesting_device_id
        device = None if user is None else user.devices.get(name)
        trust = None if user is None or device is None else device_trust(user, name)
        asking = cls(
            request_id=content.request_id,
            user_id=event.sender,
            device_id=name,
            device=device,
            trust=trust,
            has_collision=user is not None and user.collision is not None,
            settled=None,
        )
        if content.action is RequestAction.CANCELLATION:
            return evolve(asking, settled=asking._decision(SharingVerdict.CANCEL, "the request is taken back"))
        if (event.sender, name) == (own_user_id, own_device_id):
            return evolve(asking, settled=asking.ignored(Reason.UNREQUESTED, "it comes from this device"))
        if device is not None and device.keys.is_dehydrated:
            return evolve(asking, settled=asking.ignored(Reason.DEHYDRATED_SENDER, "the device only receives"))
        if device is not None and not device.supports_olm:
            return evolve(asking, settled=asking.ignored(Reason.MISSING_KEY, "the device does not speak Olm"))
        return asking

    def shared(self, device: VerifiedDevice, first_index: int, detail: str) -> SharingDecision:
        return self._decision(SharingVerdict.SHARE, detail, device=device, first_index=first_index)

    def withheld(self, code: WithheldCode, device: VerifiedDevice, reason: Reason, detail: str) -> SharingDecision:
        return self._decision(SharingVerdict.WITHHOLD, detail, device=device, code=code, reason=reason)

    def unknown(self) -> SharingDecision:
        detail = "no such device is known; ask for the devices of the user"
        return self.ignored(Reason.UNVERIFIED_DEVICE, detail)

    def ignored(self, reason: Reason, detail: str) -> SharingDecision:
        return self._decision(SharingVerdict.IGNORE, detail, reason=reason)

    def _decision(self, verdict: SharingVerdict, detail: str, **rest: Any) -> SharingDecision:
        return SharingDecision(
            verdict=verdict,
            request_id=self.request_id,
            user_id=self.user_id,
            device_id=self.device_id,
            detail=detail,
            **rest,
        )


def _check_own(own_user_id: str, own_device_id: str) -> None:
    with raised_as(LocalProtocolError):
        a_user_id(own_user_id, "own_user_id")
        a_device_id(own_device_id, "own_device_id")


def _check_event(event: object, event_type: str) -> None:
    if type(event) is not ToDeviceEvent:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a ToDeviceEvent is needed", path="/event")
    if event.type != event_type:
        raise RemoteProtocolError(Reason.INVALID_VALUE, f"{quoted(event.type)} is not {event_type}")
