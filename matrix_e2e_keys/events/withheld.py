"""Telling a device that it does not get a key, and why: ``m.room_key.withheld``.

Specification: client-server API, "Reporting that decryption keys are withheld", ``m.room_key.withheld``.

Facts:

* It is sent in the open, by anybody: it explains, and decides nothing. A message that can be decrypted is shown,
  whatever was said of its key.
* ``m.no_olm`` is about all sessions of the sender, and names none. All other codes are about one session.
* The list of codes is open. "Custom codes must use the Java package naming convention"; codes that begin with ``m.``
  are the specification's, and those of later versions are taken from others and never made up.
* ``m.history_not_shared`` belongs into a bundle of keys; "Clients SHOULD NOT use this code in a m.room_key.withheld
  event".
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import ClassVar, Final, Self

from attrs import frozen

from matrix_e2e_keys.algorithms import MEGOLM_V1
from matrix_e2e_keys.endpoints.members import opaque_string
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, quoted, raised_as
from matrix_e2e_keys.events.contents import EventContent, Member, Record, curve25519_member, room_id, some_string
from matrix_e2e_keys.events.shared_members import MEGOLM_ALGORITHM, plain_text
from matrix_e2e_keys.keys import Curve25519PublicKey

__all__ = ["RoomKeyWithheldContent", "WithheldCode", "WithheldNotice"]


class WithheldCode(enum.StrEnum):
    """Why a device is not sent a key: the ``code`` of an ``m.room_key.withheld``."""

    BLACKLISTED = "m.blacklisted"
    """The user or device was blocked."""
    UNVERIFIED = "m.unverified"
    """The user or device is not verified, and the sender shares keys with verified ones only."""
    UNAUTHORISED = "m.unauthorised"
    """The user or device may not have the key, for example because it was not in the room at the time."""
    UNAVAILABLE = "m.unavailable"
    """The sender was asked for a key, and does not have it."""
    NO_OLM = "m.no_olm"
    """There is no way to send any key, since no Olm session could be made."""
    HISTORY_NOT_SHARED = "m.history_not_shared"
    """The session was not marked as one to share with later members. For bundles of keys."""


_KNOWN: Final[Mapping[str, WithheldCode]] = {code.value: code for code in WithheldCode}
_PACKAGE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)+")


def _checked_code(code: object) -> str:
    """Return a code that may be sent: one of the specification, or a custom one."""
    with raised_as(LocalProtocolError):
        text = some_string(plain_text(code), "code")
    if text not in _KNOWN and (text.startswith("m.") or not _PACKAGE.fullmatch(text)):
        detail = f"{quoted(text)} is no code of the specification, nor one named like a Java package"
        raise LocalProtocolError(Reason.INVALID_VALUE, detail, path="/code")
    return text


@frozen(kw_only=True)
class WithheldNotice(Record):
    """Why a part of a session is withheld, as it is passed on beside its key.

    Attributes:
        code: why, for programs.
        reason: why, for people. "The receiving client should only use this string if it does not understand the code."
        extra: members that the specification does not name.
    """

    members: ClassVar[Mapping[str, Member]] = {
        "code": Member(some_string),
        "reason": Member(opaque_string, is_required=False),
    }

    code: str
    reason: str | None = None

    @property
    def known_code(self) -> WithheldCode | None:
        """The code, if it is one of those that this library knows."""
        return _KNOWN.get(self.code)


@frozen(kw_only=True)
class RoomKeyWithheldContent(EventContent):
    """The content of ``m.room_key.withheld``, and an entry in ``withheld`` of a bundle of keys.

    Attributes:
        algorithm: ``m.megolm.v1.aes-sha2``.
        code: why, for programs.
        sender_key: the Olm identity key of the device that withholds it, according to the content.
        room_id: the room of the session. It is there unless the code is ``m.no_olm``.
        session_id: the session; the same holds.
        reason: why, for people, where the code is not known.
        extra: members that the specification does not name.
    """

    event_type: ClassVar[str] = "m.room_key.withheld"
    members: ClassVar[Mapping[str, Member]] = {
        "algorithm": MEGOLM_ALGORITHM,
        "code": Member(some_string),
        "sender_key": curve25519_member(),
        "room_id": Member(room_id, is_required=False),
        "session_id": Member(some_string, is_required=False),
        "reason": Member(opaque_string, is_required=False),
    }

    algorithm: str = MEGOLM_V1
    code: str
    sender_key: Curve25519PublicKey
    room_id: str | None = None
    session_id: str | None = None
    reason: str | None = None

    def _check_whole(self) -> None:
        if self.known_code is not WithheldCode.NO_OLM:
            self.check_session()

    def check_session(self) -> None:
        """Internal: refuse a content that is about no single session.

        Raises:
            Refusal: it names no room, or no session.
        """
        # "Required if code is not m.no_olm."
        for name, value in (("room_id", self.room_id), ("session_id", self.session_id)):
            if value is None:
                raise Refusal(Reason.MISSING_MEMBER, f"there is no {name}, which the code {quoted(self.code)} needs")

    @classmethod
    def build(
        cls,
        *,
        code: WithheldCode | str,
        sender_key: Curve25519PublicKey,
        room_id: str | None = None,
        session_id: str | None = None,
        reason: str | None = None,
    ) -> Self:
        """Build the content of an event.

        Args:
            code: why. A custom code is named like a Java package.
            sender_key: one's own Olm identity key.
            room_id: the room of the session; ``None`` with ``m.no_olm``.
            session_id: the session; ``None`` with ``m.no_olm``.
            reason: why, for people whose client does not know the code.

        Raises:
            LocalProtocolError: an argument has the wrong type or is malformed, or the code and the rest do not go
                together.
        """
        text = _checked_code(code)
        if text == WithheldCode.HISTORY_NOT_SHARED.value:
            # "Clients SHOULD NOT use this code in a m.room_key.withheld event."
            raise LocalProtocolError(Reason.INVALID_VALUE, f"{text} belongs into a bundle of keys", path="/code")
        if text == WithheldCode.NO_OLM.value:
            # "with no room_id nor session_id set"
            for name, value in (("room_id", room_id), ("session_id", session_id)):
                if value is not None:
                    detail = f"{text} is about all sessions, and has no {name}"
                    raise LocalProtocolError(Reason.INVALID_VALUE, detail, path=f"/{name}")
        return cls(code=text, sender_key=sender_key, room_id=room_id, session_id=session_id, reason=reason)

    @classmethod
    def build_for_bundle(
        cls,
        *,
        room_id: str,
        session_id: str,
        sender_key: Curve25519PublicKey,
        code: WithheldCode | str = WithheldCode.HISTORY_NOT_SHARED,
        reason: str | None = None,
    ) -> Self:
        """Build an entry in ``withheld`` of a bundle of keys.

        Args:
            room_id: the room of the session.
            session_id: the session.
            sender_key: one's own Olm identity key.
            code: why. Normally that the session was not marked as one to share.
            reason: why, for people whose client does not know the code.

        Raises:
            LocalProtocolError: an argument has the wrong type or is malformed, or the code names no session.
        """
        text = _checked_code(code)
        if text == WithheldCode.NO_OLM.value:
            raise LocalProtocolError(Reason.INVALID_VALUE, f"{text} is about no single session", path="/code")
        return cls(code=text, sender_key=sender_key, room_id=room_id, session_id=session_id, reason=reason)

    @property
    def known_code(self) -> WithheldCode | None:
        """The code, if it is one of those that this library knows."""
        return _KNOWN.get(self.code)

    @property
    def notice(self) -> WithheldNotice:
        """What to pass on beside the key, if one shares it later. See :meth:`ForwardedRoomKeyContent.build`."""
        return WithheldNotice(code=self.code, reason=self.reason)
