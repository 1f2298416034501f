"""Judging the answer to a ``/keys/query``: which devices and identities are what they claim to be.

Specification: client-server API, "Tracking the device list for a user", "Cross-signing".

Facts:

* The answer is judged against the question. Users and devices that nobody asked for are refused as such.
* One bad entry costs itself. Where an entry drags others with it, the specification says so: a device id that equals
  a cross-signing key of the same user blocks that user ("clients MUST refuse to verify").
* A refused entry is still present: :meth:`QueryResult.present_device_ids` names it, so that nobody takes a malformed
  device for a deleted one.
* Self-consistent is not trusted. An identity comes out if its keys vouch for each other; whether its master key is
  the right one is for the caller to know. Other users count as verified only through :class:`OwnIdentity`.

Every check, with its source, is listed in ``docs/checks.md``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain, islice
from typing import Any, Final

from attrs import define, field, frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.endpoints.entries import raw_of
from matrix_e2e_keys.endpoints.key_maps import KeyMap
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, json_pointer, quoted
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, Usage
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice, verify_devices
from matrix_e2e_keys.models.user_identity import OwnIdentity, UserIdentity, verify_identities
from matrix_e2e_keys.outcome import Notice, Partition, Rejection, file_rejection, rejected
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["QueryResult", "UserAnswer", "check_query"]

_ROLES: Final[tuple[tuple[Usage, str], ...]] = (
    ("master", "master_keys"),
    ("self_signing", "self_signing_keys"),
    ("user_signing", "user_signing_keys"),
)
_KEY_MAP_PATHS: Final = frozenset(f"/{name}" for _, name in _ROLES)
_KEY_TEXT: Final = 43
# Batches are small so that what is needed for one only is gone before the garbage collector looks at it.
_BATCH: Final = 128


class UserAnswer(enum.StrEnum):
    """What the answer says about a user's devices."""

    DEVICES = "devices"
    """There are devices, accepted or not."""
    NO_DEVICES = "no-devices"
    """The user is there with an empty map, so the user has no devices."""
    MALFORMED = "malformed"
    """Something stands where the user's devices should stand. Nothing follows from it."""
    SERVER_FAILED = "server-failed"
    """The user is not there, and the user's server could not be reached. Nothing follows from it."""
    UNANSWERED = "unanswered"
    """The user is not there, and nobody says why. Nothing follows from it."""


@frozen(kw_only=True)
class QueryResult:
    """What a ``/keys/query`` answer amounts to.

    Attributes:
        devices: user id to device id to verified device; and what was refused.
        identities: user id to identity; and what was refused.
        users: for each user asked about, what the answer says.
        missing_devices: for each user asked about by device, the devices that are not in the answer.
        verified_users: users whose identity one has verified oneself. Empty unless ``own`` was given.
        failures: server name to whatever the server says of the server it could not reach. Untrusted.
        notices: what is worth knowing about accepted entries, for example two devices with one key.
    """

    devices: Partition[Mapping[str, VerifiedDevice]]
    identities: Partition[UserIdentity]
    users: Mapping[str, UserAnswer]
    missing_devices: Mapping[str, frozenset[str]]
    verified_users: frozenset[str]
    failures: Mapping[str, Any]
    notices: tuple[Notice, ...]
    _response: KeysQueryResponse = field(repr=False, alias="response")

    @property
    def cross_signed_devices(self) -> Iterator[VerifiedDevice]:
        """The accepted devices that the accepted identity of their owner signed."""
        for devices in self.devices.accepted.values():
            for device in devices.values():
                if device.is_cross_signed:
                    yield device

    def present_device_ids(self, user_id: str) -> frozenset[str]:
        """Return the ids of all devices of a user that the answer holds, refused ones included."""
        devices = self._response.device_keys.get(user_id, {})
        return frozenset() if isinstance(devices, Rejection) else frozenset(devices)


def check_query(
    request: KeysQueryRequest,
    response: KeysQueryResponse,
    *,
    own_user_id: str | None = None,
    own: OwnIdentity | None = None,
    verifier: Verifier = LIBSODIUM,
    require_prime_order: bool = False,
) -> QueryResult:
    """Judge an answer against its question.

    Args:
        request: what was asked.
        response: what was answered.
        own_user_id: oneself; then user-signing keys of anybody else are refused. Taken from ``own`` if that is given.
        own: one's own identity, confirmed by :meth:`UserIdentity.confirm_as_own`. It decides ``verified_users``.
        verifier: who checks signatures.
        require_prime_order: refuse cross-signing keys with a small-order component. Costs one signature check a key.

    Returns:
        A :class:`QueryResult`. Every entry of the answer is accepted, unsupported or rejected in it.

    Raises:
        LocalProtocolError: an argument has the wrong type. Nothing in the answer raises.
    """
    if type(request) is not KeysQueryRequest or type(response) is not KeysQueryResponse:
        raise LocalProtocolError(Reason.WRONG_TYPE, "check_query takes a KeysQueryRequest and a KeysQueryResponse")
    check_verifier(verifier)
    if own_user_id is not None and type(own_user_id) is not str:
        raise LocalProtocolError(Reason.WRONG_TYPE, "own_user_id must be a string", path="/own_user_id")
    if own is not None:
        if type(own) is not OwnIdentity or own_user_id not in (None, own.user_id):
            raise LocalProtocolError(Reason.INVALID_VALUE, "own must be an OwnIdentity of own_user_id", path="/own")
        own_user_id = own.user_id
    check = _Check(asked=request.asked, response=response, verifier=verifier, own_user_id=own_user_id)
    check.find_collisions()
    check.judge_identities(require_prime_order)
    check.judge_devices()
    check.note_reuse()
    others = list(check.identities.values())
    return QueryResult(
        devices=Partition(
            accepted=FrozenMap({user_id: FrozenMap(of) for user_id, of in check.devices.items()}),
            rejected=check.in_answer_order(check.rejected_devices),
            unsupported=tuple(check.unsupported_devices),
        ),
        identities=Partition(
            accepted=FrozenMap(check.identities),
            rejected=tuple(check.rejected_keys),
            unsupported=tuple(check.unsupported_keys),
        ),
        users=FrozenMap(_answers(request, response)),
        missing_devices=FrozenMap(_missing(request, response)),
        verified_users=frozenset() if own is None else own.verified_users(others, verifier=verifier),
        failures=response.failures,
        notices=tuple(check.notices),
        response=response,
    )


def _answers(request: KeysQueryRequest, response: KeysQueryResponse) -> dict[str, UserAnswer]:
    if any(rejection.path == "/device_keys" for rejection in response.malformed):
        return dict.fromkeys(request.asked, UserAnswer.MALFORMED)
    answers: dict[str, UserAnswer] = {}
    for user_id in request.asked:
        devices = response.device_keys.get(user_id)
        if devices is None:
            failed = user_id.partition(":")[2] in response.failures
            answers[user_id] = UserAnswer.SERVER_FAILED if failed else UserAnswer.UNANSWERED
        elif isinstance(devices, Rejection):
            answers[user_id] = UserAnswer.MALFORMED
        else:
            answers[user_id] = UserAnswer.DEVICES if devices else UserAnswer.NO_DEVICES
    return answers


def _missing(request: KeysQueryRequest, response: KeysQueryResponse) -> dict[str, frozenset[str]]:
    missing: dict[str, frozenset[str]] = {}
    for user_id, asked in request.asked.items():
        devices = response.device_keys.get(user_id, {}) if asked else {}
        if asked and not isinstance(devices, Rejection):
            absent = frozenset(asked).difference(devices)
            if absent:
                missing[user_id] = absent
    return missing


@define(kw_only=True)
class _Check:
    """One judgment under way."""

    asked: Mapping[str, tuple[str, ...]]
    response: KeysQueryResponse
    verifier: Verifier
    own_user_id: str | None
    blocked: dict[str, str] = field(factory=dict)
    identities: dict[str, UserIdentity] = field(factory=dict)
    rejected_keys: list[Rejection] = field(factory=list)
    unsupported_keys: list[Rejection] = field(factory=list)
    devices: dict[str, dict[str, VerifiedDevice]] = field(factory=dict)
    rejected_devices: list[Rejection] = field(factory=list)
    unsupported_devices: list[Rejection] = field(factory=list)
    notices: list[Notice] = field(factory=list)
    key_maps: list[tuple[Usage, str, KeyMap]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        maps: list[tuple[Usage, str, KeyMap]] = [(role, name, getattr(self.response, name)) for role, name in _ROLES]
        self.key_maps = [each for each in maps if each[2]]  # often some are empty

    def find_collisions(self) -> None:
        """Find users with a device whose id can be taken for one of their cross-signing keys.

        Refused keys and devices count too: whoever resolves a key id by name finds them all the same. What decides
        is what the most lenient decoder makes of the device id.
        """
        for user_id, devices in self.response.device_keys.items():
            ids = [] if isinstance(devices, Rejection) else [it for it in devices if len(it) >= _KEY_TEXT]
            raws = self._cross_signing_bytes(user_id) if ids else frozenset()  # once a user: keys may be many
            for device_id in ids if raws else ():
                if unpadded_base64.decode_loosely(device_id) in raws:
                    self.blocked[user_id] = device_id

    def _cross_signing_bytes(self, user_id: str) -> AbstractSet[bytes | None]:
        """Return the cross-signing keys of a user, refused and malformed ones included."""
        raws: set[bytes | None] = set()
        for _, _, key_map in self.key_maps:
            key = key_map.get(user_id)
            if isinstance(key, Rejection):
                raws.update(_anything_like_a_key(key.raw))
            elif key is not None:
                raws.add(key.raw)
        raws.discard(None)
        return raws

    def judge_identities(self, require_prime_order: bool) -> None:
        """Judge all cross-signing keys of the answer."""
        user_ids = iter(dict.fromkeys(chain.from_iterable(key_map for _, _, key_map in self.key_maps)))
        while batch := list(islice(user_ids, _BATCH)):
            given = [(user_id, self._given_keys(user_id)) for user_id in batch]
            verdicts = verify_identities(given, self.verifier, require_prime_order=require_prime_order)
            for user_id, (identity, refusals) in zip(batch, verdicts, strict=True):
                for role, name, key_map in self.key_maps if refusals else ():
                    refusal = refusals.get(role)
                    if refusal is None:
                        continue
                    key = key_map[user_id]
                    rejection = key if isinstance(key, Rejection) else self._rejection(refusal, name, user_id)
                    file_rejection(rejection, self.rejected_keys, self.unsupported_keys)
                if identity is not None:
                    self.identities[user_id] = identity
        self.rejected_keys += [rejection for rejection in self.response.malformed if rejection.path in _KEY_MAP_PATHS]

    def _given_keys(self, user_id: str) -> dict[Usage, CrossSigningKey | Refusal]:
        """Return what is offered as the keys of a user; a refusal where a key is out of the question."""
        given: dict[Usage, CrossSigningKey | Refusal] = {}
        of_user = self._user_refusal(user_id)
        for role, _, key_map in self.key_maps:
            if user_id not in key_map:
                continue
            key = key_map[user_id]
            if isinstance(key, Rejection):
                given[role] = Refusal(key.reason, key.detail)
            else:
                given[role] = of_user or self._role_refusal(user_id, role) or key
        return given

    def judge_devices(self) -> None:
        """Judge all devices of the answer."""
        candidates = self._candidates()
        while batch := list(islice(candidates, _BATCH)):
            identities = [self.identities.get(device.user_id) for device in batch]
            for device, (verdict, doubt) in zip(batch, verify_devices(batch, identities, self.verifier), strict=True):
                user_id, device_id = device.user_id, device.device_id
                if isinstance(verdict, Refusal):
                    self.rejected_devices.append(self._rejection(verdict, "device_keys", user_id, device_id))
                    continue
                self.devices.setdefault(user_id, {})[device_id] = verdict
                if doubt is not None:
                    path = json_pointer(("device_keys", user_id, device_id, *doubt.at))
                    self.notices.append(Notice(path=path, reason=doubt.reason, detail=doubt.detail))
        for rejection in self.response.malformed:
            if rejection.path == "/device_keys":
                self.rejected_devices.append(rejection)
            elif rejection.path == "/failures":
                self.notices.append(Notice(path=rejection.path, reason=rejection.reason, detail=rejection.detail))

    def _candidates(self) -> Iterator[DeviceKeys]:
        """Yield the devices whose signatures are worth looking at; refuse the others."""
        for user_id, devices in self.response.device_keys.items():
            refusal = self._user_refusal(user_id)
            if isinstance(devices, Rejection):
                self.rejected_devices.append(devices)
                continue
            if refusal is not None:
                self._reject_all(user_id, devices, refusal)
                continue
            asked = self.asked[user_id]
            taken = self._cross_signing_bytes(user_id)
            for device_id, device in devices.items():
                if isinstance(device, Rejection):
                    self.rejected_devices.append(device)
                    continue
                if (
                    device.user_id == user_id
                    and device.device_id == device_id
                    and device.raw_ed25519 is not None
                    and not asked
                    and (not taken or taken.isdisjoint((device.raw_ed25519, device.raw_curve25519)))
                ):
                    yield device  # the usual case, decided at once
                elif (fault := _device_fault(user_id, device_id, device, asked, taken)) is None:
                    yield device
                else:
                    rejection = self._rejection(fault, "device_keys", user_id, device_id)
                    file_rejection(rejection, self.rejected_devices, self.unsupported_devices)

    def in_answer_order(self, rejections: list[Rejection]) -> tuple[Rejection, ...]:
        """Return rejections of devices in the order in which the devices stand in the answer."""
        if not rejections:
            return ()
        order: dict[tuple[str | None, str | None], int] = {}
        for user_id, devices in self.response.device_keys.items():
            order[user_id, None] = len(order)
            for device_id in () if isinstance(devices, Rejection) else devices:
                order[user_id, device_id] = len(order)
        return tuple(sorted(rejections, key=lambda it: order.get((it.user_id, it.device_id), -1)))

    def _user_refusal(self, user_id: str) -> Refusal | None:
        """Return what speaks against everything that stands under a user's name."""
        if user_id not in self.asked:
            return Refusal(Reason.UNREQUESTED, f"nobody asked about {quoted(user_id)}")
        if user_id in self.blocked:
            return Refusal(
                Reason.IDENTIFIER_COLLISION,
                f"the device id {quoted(self.blocked[user_id])} is also a cross-signing key of {quoted(user_id)}",
            )
        return None

    def _role_refusal(self, user_id: str, role: Usage) -> Refusal | None:
        if role == "user_signing" and self.own_user_id not in (None, user_id):
            return Refusal(Reason.NOT_OWN_USER, "a user-signing key is shown to its owner only")
        return None

    def _reject_all(self, user_id: str, devices: Mapping[str, DeviceKeys | Rejection], refusal: Refusal) -> None:
        if not devices:
            # An empty entry is refused as one, or nobody would see that it was there.
            path = json_pointer(("device_keys", user_id))
            self.rejected_devices.append(
                Rejection(path=path, reason=refusal.reason, detail=refusal.detail, raw={}, user_id=user_id)
            )
        for device_id, device in devices.items():
            if isinstance(device, Rejection) and refusal.reason is not Reason.IDENTIFIER_COLLISION:
                self.rejected_devices.append(device)
            else:
                self.rejected_devices.append(self._rejection(refusal, "device_keys", user_id, device_id))

    def note_reuse(self) -> None:
        """Note keys that stand in more than one accepted place."""
        devices = [device.keys for of_user in self.devices.values() for device in of_user.values()]
        raws = [device.raw_ed25519 for device in devices]
        raws += [device.raw_curve25519 for device in devices if device.raw_curve25519 is not None]
        raws += [raw for identity in self.identities.values() for raw in identity.raw_keys]
        if len(set(raws)) == len(raws):
            return
        seen: dict[bytes, str] = {}
        for raw, path in self._accepted_keys():
            before = seen.setdefault(raw, path)
            if before is not path:
                detail = f"the same key also stands at {before}"
                self.notices.append(Notice(path=path, reason=Reason.KEY_REUSED, detail=detail))

    def _accepted_keys(self) -> Iterator[tuple[bytes, str]]:
        """Yield every key of an accepted entry, and the path of the entry."""
        for user_id, identity in self.identities.items():
            raws = identity.raw_keys
            for (_, name), raw in zip(_ROLES[: len(raws)], raws, strict=True):
                yield raw, json_pointer((name, user_id))
        for user_id, devices in self.devices.items():
            for device_id, device in devices.items():
                path = json_pointer(("device_keys", user_id, device_id))
                for raw in device.keys.raw_keys:
                    yield raw, path

    def _rejection(self, refusal: Refusal, member: str, user_id: str, device_id: str | None = None) -> Rejection:
        """Return the rejection of an entry of the answer."""
        entry: Any = getattr(self.response, member)[user_id]
        if device_id is None:
            return rejected(refusal, raw_of(entry), (member, user_id), user_id=user_id)
        raw = raw_of(entry[device_id])
        return rejected(refusal, raw, (member, user_id, device_id), user_id=user_id, device_id=device_id)


def _anything_like_a_key(raw: Any) -> Iterator[bytes | None]:
    """Yield whatever somebody may take for the key of a malformed cross-signing key."""
    keys = raw.get("keys") if type(raw) is dict else None
    for name, value in keys.items() if type(keys) is dict else ():
        for text in (name.partition(":")[2], value):
            if type(text) is str:
                yield unpadded_base64.decode_loosely(text)


def _device_fault(
    user_id: str, device_id: str, device: DeviceKeys, asked: tuple[str, ...], taken: AbstractSet[bytes | None]
) -> Refusal | None:
    """Return what speaks against a device before any signature is looked at."""
    if asked and device_id not in asked:
        return Refusal(Reason.UNREQUESTED, f"nobody asked about the device {quoted(device_id)}")
    if device.user_id != user_id:
        detail = f"the device of {quoted(user_id)} says it belongs to {quoted(device.user_id)}"
        return Refusal(Reason.USER_ID_MISMATCH, detail, "user_id")
    if device.device_id != device_id:
        detail = f"the device {quoted(device_id)} says it is {quoted(device.device_id)}"
        return Refusal(Reason.DEVICE_ID_MISMATCH, detail, "device_id")
    if device.keys and not device.raw_keys:
        return Refusal(Reason.UNSUPPORTED_ALGORITHM, "the device has no key of an algorithm this library knows", "keys")
    if not taken.isdisjoint(device.raw_keys):
        return Refusal(Reason.KEY_REUSED, "a key of the device is also a cross-signing key of its owner", "keys")
    return None
