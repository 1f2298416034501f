"""What to send before a message can be encrypted: keys, claims, and why somebody gets none.

Specification: client-server API, "Messaging Algorithms" (``m.megolm.v1.aes-sha2``), "Reporting that decryption keys are
withheld", ``m.room_key.withheld``.

Facts:

* A device without an Olm session cannot be sent a key. It is not forgotten: it is in the plan again for each message,
  until it was sent the key.
* A device is told ``m.no_olm`` once. "If the sender retries and fails to create an olm session again in the future, it
  should not send another [...] unless another olm session was previously established successfully."
* ``m.no_olm`` is about all sessions, so its content names no room and no session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from attrs import define, field, frozen

from matrix_e2e_keys.client.rooms.arguments import (
    DeviceName,
    by_user,
    check_codes,
    check_names,
    check_recipients,
    name_of,
)
from matrix_e2e_keys.client.rooms.outbound_sessions import OutboundSession
from matrix_e2e_keys.client.trust.recipients import Recipients
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.events.withheld import RoomKeyWithheldContent, WithheldCode
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.identifiers import parse_device_id, parse_user_id
from matrix_e2e_keys.json_trees import JsonObject, JsonValue
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.stored import Stored

__all__ = ["NoOlmMemory", "SharingPlan", "plan_sharing"]

_VERSION: Final = 1


@define(kw_only=True)
class NoOlmMemory:
    """Which devices were told that no Olm session with them can be opened. There is one for all rooms."""

    _told: set[DeviceName] = field(factory=set, init=False)

    @property
    def told(self) -> frozenset[tuple[str, str]]:
        """User id and device id of each device that was told."""
        return frozenset(self._told)

    def mark_told(self, codes: Mapping[str, Mapping[str, WithheldCode]]) -> None:
        """Note that the server has taken messages which tell devices why they do not get a key.

        Args:
            codes: user id to device id to the code, as :attr:`SharingPlan.withheld` has them. Other codes than
                ``m.no_olm`` are left to :meth:`OutboundSession.mark_told`.

        Raises:
            LocalProtocolError: they are no such mapping. Then nothing is changed.
        """
        checked = check_codes(codes)
        self._told |= {name for name, code in checked.items() if code is WithheldCode.NO_OLM}

    def forget(self, names: Iterable[tuple[str, str]]) -> None:
        """Note that an Olm session with some devices was opened, or that they are gone.

        Args:
            names: user id and device id of each.

        Raises:
            LocalProtocolError: one of them is not named by a pair of a user id and a device id. Then nothing is
                changed.
        """
        self._told -= set(check_names(names, "names"))

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart."""
        told: dict[str, list[JsonValue]] = {}
        for user_id, device_id in sorted(self._told):
            told.setdefault(user_id, []).append(device_id)
        return {"version": _VERSION, "told": {**told}}

    @classmethod
    def from_json(cls, obj: object) -> NoOlmMemory:
        """Restore what :meth:`to_json` returned.

        Raises:
            LocalProtocolError: it is not that.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        memory = cls()
        told = stored.object("told")
        for user, _ in stored.items("told", list):
            with stored.reading("told", user):
                user_id = parse_user_id(user)
            for place, device in enumerate(told.values(user, str)):
                with stored.reading("told", user, str(place)):
                    memory._told.add((user_id, parse_device_id(device)))
        return memory


@frozen(kw_only=True)
class SharingPlan:
    """What to send before the next message is encrypted.

    Attributes:
        room_id: the room.
        session_id: the session whose key it is about.
        share: user id to device id to the devices to send the key to now. Say so first:
            :meth:`OutboundSession.start_sharing`.
        claim: user id to device id to the devices that need the key and have no Olm session. Want them
            (:meth:`ClaimPlanner.want`), and plan again once there is an answer.
        withheld: user id to device id to the code to tell each device now. Say so afterwards:
            :meth:`OutboundSession.mark_told` and :meth:`NoOlmMemory.mark_told`.
    """

    room_id: str
    session_id: str
    share: Mapping[str, Mapping[str, VerifiedDevice]]
    claim: Mapping[str, Mapping[str, VerifiedDevice]]
    withheld: Mapping[str, Mapping[str, WithheldCode]]

    def withheld_contents(self, sender_key: Curve25519PublicKey) -> Mapping[str, Mapping[str, RoomKeyWithheldContent]]:
        """Return user id to device id to the content of the ``m.room_key.withheld`` to send, in the clear.

        They are what :func:`~matrix_e2e_keys.to_device_requests` takes.

        Args:
            sender_key: the Olm identity key of this device.

        Raises:
            LocalProtocolError: it is no ``Curve25519PublicKey``.
        """
        if type(sender_key) is not Curve25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a Curve25519PublicKey is needed", path="/sender_key")
        codes = {code for of in self.withheld.values() for code in of.values()}
        contents = {code: self._withheld_content(code, sender_key) for code in codes}
        return FrozenMap(
            {
                user_id: FrozenMap({device_id: contents[code] for device_id, code in of.items()})
                for user_id, of in self.withheld.items()
            }
        )

    def _withheld_content(self, code: WithheldCode, sender_key: Curve25519PublicKey) -> RoomKeyWithheldContent:
        if code is WithheldCode.NO_OLM:
            return RoomKeyWithheldContent.build(code=code, sender_key=sender_key)
        return RoomKeyWithheldContent.build(
            code=code, sender_key=sender_key, room_id=self.room_id, session_id=self.session_id
        )


def plan_sharing(
    session: OutboundSession,
    recipients: Recipients,
    *,
    without_olm: Iterable[tuple[str, str]],
    unreachable: Iterable[tuple[str, str]],
    memory: NoOlmMemory,
) -> SharingPlan:
    """Return what to send before the next message is encrypted with a session that need not be rotated.

    Args:
        session: the session. Ask :func:`~matrix_e2e_keys.rotation_reasons` first.
        recipients: who is to get the key.
        without_olm: user id and device id of each device with which there is no Olm session. Others than recipients
            are not of interest.
        unreachable: user id and device id of each of those with which none can be opened for the time being, as
            :attr:`ClaimPlanner.without_session` has them.
        memory: who was told so.

    Raises:
        VerificationError: the policy stops, so nothing may be sent.
        LocalProtocolError: an argument has the wrong type; or a device has other keys than one of its name that may
            have the key, so that the session has to go.
    """
    if type(session) is not OutboundSession:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the session must be an OutboundSession", path="/session")
    if type(memory) is not NoOlmMemory:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the memory must be a NoOlmMemory", path="/memory")
    chosen = check_recipients(recipients)
    lacking = frozenset(check_names(without_olm, "without_olm"))
    impossible = frozenset(check_names(unreachable, "unreachable"))
    recipients.require()
    share: dict[DeviceName, VerifiedDevice] = {}
    claim: dict[DeviceName, VerifiedDevice] = {}
    no_olm = {name for name, code in chosen.withheld.items() if code is WithheldCode.NO_OLM}
    for device in session.without_key(chosen):
        name = name_of(device)
        session.require_same_keys(device)
        if name not in lacking:
            share[name] = device
        else:
            claim[name] = device
            if name in impossible:
                no_olm.add(name)
    withheld = session.untold(chosen)
    withheld.update(dict.fromkeys(sorted(no_olm - memory.told), WithheldCode.NO_OLM))
    return SharingPlan(
        room_id=session.room_id,
        session_id=session.session_id,
        share=by_user(share),
        claim=by_user(claim),
        withheld=by_user(withheld),
    )
