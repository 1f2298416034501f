"""What to send before a message can be encrypted: keys, claims, and why somebody gets none.

Specification: client-server API, "Messaging Algorithms" (``m.megolm.v1.aes-sha2``), "Reporting that decryption keys are
withheld", ``m.room_key.withheld``.

Facts:

* A device without an Olm session cannot be sent a key. It is not forgotten: it is in the plan again for each message,
  until it was sent the key.
* A device is told ``m.no_olm`` once. "If the sender retries and fails to create an olm session again in the future, it
  should not send another [...] unless another olm session was previously established successfully."
* ``m.no_olm`` is about all sessions, so its content names no room and no session.
* A device is its name and its Olm identity key: one that has the name of another one was not told. Of a device that
  does not support Olm, the name is all there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from attrs import define, field, frozen

from matrix_e2e_keys.client.rooms.arguments import (
    DeviceName,
    by_name,
    by_user,
    check_names,
    check_recipients,
    name_of,
    reading_argument,
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

_Told: TypeAlias = tuple[DeviceName, Curve25519PublicKey | None]


def _in_order(told: _Told) -> tuple[DeviceName, bytes]:
    name, olm_key = told
    return name, b"" if olm_key is None else olm_key.raw


@define(kw_only=True)
class NoOlmMemory:
    """Which devices were told that no Olm session with them can be opened. There is one for all rooms."""

    _told: set[_Told] = field(factory=set, init=False)

    @property
    def told(self) -> frozenset[tuple[str, str]]:
        """User id and device id of each device that was told."""
        return frozenset(name for name, _ in self._told)

    def mark_told(self, plan: SharingPlan) -> None:
        """Note that the server has taken the messages which tell devices why they do not get a key.

        Args:
            plan: what was planned. Other codes than ``m.no_olm`` are left to :meth:`OutboundSession.mark_told`.

        Raises:
            LocalProtocolError: it is no plan. Then nothing is changed.
        """
        if type(plan) is not SharingPlan:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a SharingPlan is needed", path="/plan")
        with reading_argument("plan"):
            codes = by_name(plan.withheld, WithheldCode, "plan", "withheld")
            devices = by_name(plan.claim, VerifiedDevice, "plan", "claim")
        self._told |= {
            (name, devices[name].curve25519_key if name in devices else None)
            for name, code in codes.items()
            if code is WithheldCode.NO_OLM
        }

    def without_told(self, named: Iterable[_Told]) -> list[DeviceName]:
        """Internal: return the names of those of some devices that were not told, in order."""
        return sorted(name for name, olm_key in named if (name, olm_key) not in self._told)

    def forget(self, names: Iterable[tuple[str, str]]) -> None:
        """Note that an Olm session with some devices was opened, or that they are gone.

        Args:
            names: user id and device id of each.

        Raises:
            LocalProtocolError: one of them is not named by a pair of a user id and a device id. Then nothing is
                changed.
        """
        forgotten = frozenset(check_names(names, "names"))
        self._told = {told for told in self._told if told[0] not in forgotten}

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart."""
        told: list[JsonValue] = [
            {
                "user_id": user_id,
                "device_id": device_id,
                "curve25519_key": None if olm_key is None else olm_key.to_base64(),
            }
            for (user_id, device_id), olm_key in sorted(self._told, key=_in_order)
        ]
        return {"version": _VERSION, "told": told}

    @classmethod
    def from_json(cls, obj: object) -> NoOlmMemory:
        """Restore what :meth:`to_json` returned.

        Raises:
            LocalProtocolError: it is not that.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        memory = cls()
        for told in stored.elements("told"):
            user, device = (told.member(name, str) for name in ("user_id", "device_id"))
            key = told.member("curve25519_key", str, type(None))
            with told.reading("user_id"):
                user_id = parse_user_id(user)
            with told.reading("device_id"):
                device_id = parse_device_id(device)
            with told.reading("curve25519_key"):
                olm_key = None if key is None else Curve25519PublicKey.from_base64(key)
            memory._told.add(((user_id, device_id), olm_key))
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
            :meth:`OutboundSession.mark_told` with this, and :meth:`NoOlmMemory.mark_told` with the plan.
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
    no_olm: set[_Told] = {(name, None) for name, code in chosen.withheld.items() if code is WithheldCode.NO_OLM}
    for device in session.without_key(chosen):
        name = name_of(device)
        session.require_same_keys(device)
        if name not in lacking:
            share[name] = device
        else:
            claim[name] = device
            if name in impossible:
                no_olm.add((name, device.curve25519_key))
    withheld = session.untold(chosen)
    withheld.update(dict.fromkeys(memory.without_told(no_olm), WithheldCode.NO_OLM))
    return SharingPlan(
        room_id=session.room_id,
        session_id=session.session_id,
        share=by_user(share),
        claim=by_user(claim),
        withheld=by_user(withheld),
    )
