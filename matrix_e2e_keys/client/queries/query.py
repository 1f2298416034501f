"""Judging the answer to a ``/keys/query``: which devices and identities are what they claim to be.

Specification: client-server API, "Tracking the device list for a user", "Cross-signing".

Facts:

* The answer is judged against the question. Users and devices that nobody asked for are refused as such.
* One bad entry costs itself. Where an entry drags others with it, the specification says so: a device id that equals
  a cross-signing key of the same user blocks that user ("clients MUST refuse to verify").
* A refused entry is still present: :meth:`QueryResult.present_device_ids` names it, so that nobody takes a malformed
  device for a deleted one.
* What is known from before decides about known devices: a signing key does not change. The answer may change what is
  known, and every change is named.
* Self-consistent is not trusted. An identity comes out if its keys vouch for each other; whether its master key is
  the right one is for the caller to know. Other users count as verified only through :class:`OwnIdentity`.

Every check, with its source, is listed in ``docs/checks.md``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import define, field, frozen

from matrix_e2e_keys.client.queries.query_check import KEY_MAP_PATHS, QueryCheck
from matrix_e2e_keys.client.users.changes import (
    KeyChange,
    Seen,
    as_known,
    learn,
    own_device_changes,
    vouched_for,
    with_user_signing_key,
)
from matrix_e2e_keys.client.users.known_user import KnownUser, check_known_users
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.user_identity import OwnIdentity, UserIdentity
from matrix_e2e_keys.outcome import Notice, Partition, Rejection
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["QueryResult", "UserAnswer", "check_query"]


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


_ANSWERED: Final = frozenset({UserAnswer.DEVICES, UserAnswer.NO_DEVICES})


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
        known: user id to what is known of the user after this answer, of everybody who was asked about. Empty unless
            ``known`` was given.
        changes: what is different from what was known before. Empty unless ``known`` was given.
    """

    devices: Partition[Mapping[str, VerifiedDevice]]
    identities: Partition[UserIdentity]
    users: Mapping[str, UserAnswer]
    missing_devices: Mapping[str, frozenset[str]]
    verified_users: frozenset[str]
    failures: Mapping[str, Any]
    notices: tuple[Notice, ...]
    known: Mapping[str, KnownUser]
    changes: tuple[KeyChange, ...]
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
    own_device: DeviceKeys | None = None,
    known: Mapping[str, KnownUser] | None = None,
    verifier: Verifier = LIBSODIUM,
    require_prime_order: bool = False,
) -> QueryResult:
    """Judge an answer against its question, and against what is known already.

    Args:
        request: what was asked.
        response: what was answered.
        own_user_id: oneself; then user-signing keys of anybody else are refused. Taken from ``own`` or ``own_device``
            if one of these is given.
        own: one's own identity, confirmed by :meth:`UserIdentity.confirm_as_own`. It decides ``verified_users``. If the
            answer holds another master key of oneself, nobody counts as verified.
        own_device: the keys of this device, as they were built here: if it is served at all, then with these keys.
        known: user id to what is known of users from before; an empty mapping if this is the first answer. Whoever is
            not in it is not known yet.
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
    own_user_id = _own_user_id(own_user_id, own, own_device)
    check = QueryCheck(
        asked=request.asked,
        response=response,
        verifier=verifier,
        own_user_id=own_user_id,
        known={} if known is None else check_known_users(known),
        own_device=own_device,
    )
    check.find_collisions()
    check.judge_identities(require_prime_order)
    check.judge_devices()
    check.note_reuse()
    answers = _answers(request, response)
    own_now = _own_now(own, check.identities)
    verified = vouched_for(check.identities.values(), own_now, verifier)
    memory = _Memory()
    if known is not None:
        memory.identities = as_known(known, check.identities, own_user_id, verified)
        kept = {name: it for name, it in memory.identities.items() if it is not check.identities[name]}
        verified = verified.difference(kept) | vouched_for(kept.values(), own_now, verifier)
        memory.learn(check, answers, verified)
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
        users=FrozenMap(answers),
        missing_devices=FrozenMap(_missing(request, response)),
        verified_users=verified - {own_user_id},
        failures=response.failures,
        notices=tuple(check.notices),
        known=FrozenMap(memory.known),
        changes=tuple(memory.changes),
        response=response,
    )


def _own_user_id(own_user_id: object, own: object, own_device: object) -> str | None:
    """Return who one is oneself, if one says so anywhere.

    Raises:
        LocalProtocolError: an argument has the wrong type, or they speak of different users.
    """
    if own_user_id is not None and type(own_user_id) is not str:
        raise LocalProtocolError(Reason.WRONG_TYPE, "own_user_id must be a string", path="/own_user_id")
    if own is not None:
        if type(own) is not OwnIdentity or own_user_id not in (None, own.user_id):
            raise LocalProtocolError(Reason.INVALID_VALUE, "own must be an OwnIdentity of own_user_id", path="/own")
        own_user_id = own.user_id
    if own_device is not None:
        if type(own_device) is not DeviceKeys or own_user_id not in (None, own_device.user_id):
            detail = "own_device must be the DeviceKeys of one's own device"
            raise LocalProtocolError(Reason.INVALID_VALUE, detail, path="/own_device")
        own_user_id = own_device.user_id
    return own_user_id


def _own_now(own: OwnIdentity | None, identities: Mapping[str, UserIdentity]) -> OwnIdentity | None:
    """Return one's own identity as the answer shows it, ``None`` if it shows another one."""
    seen = None if own is None else identities.get(own.user_id)
    if own is None or seen is None:
        return own
    if seen.master_public_key != own.identity.master_public_key:
        return None
    return with_user_signing_key(seen, own.identity).confirm_as_own(master_key=own.identity.master_public_key)


@define(kw_only=True)
class _Memory:
    """What is known after an answer."""

    identities: Mapping[str, UserIdentity] = field(factory=dict)
    known: dict[str, KnownUser] = field(factory=dict)
    changes: list[KeyChange] = field(factory=list)

    def learn(self, check: QueryCheck, answers: Mapping[str, UserAnswer], verified: frozenset[str]) -> None:
        """Go through everybody who was asked about."""
        own_device = check.own_device
        for user_id, answer in answers.items():
            seen = self._seen(check, user_id, answer, verified)
            before = check.known.get(user_id) or KnownUser(user_id=user_id)
            after, changes = learn(before, seen, check.verifier)
            self.known[user_id] = after
            self.changes += changes
            if own_device is not None and own_device.user_id == user_id:
                altered = seen.changed.get(own_device.device_id)
                self.changes += own_device_changes(own_device, seen, altered)

    def _seen(self, check: QueryCheck, user_id: str, answer: UserAnswer, verified: frozenset[str]) -> Seen:
        response = check.response
        is_answered = answer in _ANSWERED
        served = response.device_keys.get(user_id, {})
        return Seen(
            devices=check.devices.get(user_id, {}),
            present=frozenset() if isinstance(served, Rejection) else frozenset(served),
            changed=check.changed.get(user_id, {}),
            is_answered=is_answered,
            asked=check.asked[user_id],
            identity=self.identities.get(user_id),
            has_no_identity=is_answered
            and not any(user_id in key_map for _, _, key_map in check.key_maps)
            and not any(rejection.path in KEY_MAP_PATHS for rejection in response.malformed)
            and user_id.partition(":")[2] not in response.failures,
            vouched_for=user_id in verified,
            is_altered=user_id in self.identities
            and self.identities[user_id].master_key != check.identities[user_id].master_key,
            collision=check.blocked.get(user_id),
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
