"""Judging the answer to a ``/keys/claim``: which one-time keys may be used to open a session.

Specification: client-server API, "Claiming one-time keys", "One-time and fallback keys"; ``keys.yaml``.

Facts:

* The key that must have signed is the one of a device that was verified *before*, never one that came with the claim.
* One key was claimed of a device, so one is accepted. Of two, the server could choose which one is used.
* A one-time key that was used before is refused: whoever hands it out again can replay the session. A fallback key may
  come again; it is marked as such.
* What is refused costs one device its session, and nobody else.

Every check, with its source, is listed in ``docs/checks.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import define, field, frozen

from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimRequest, KeysClaimResponse
from matrix_e2e_keys.endpoints.entries import raw_of
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, json_pointer, quoted
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.models.one_time_keys import OneTimeKey, VerifiedOneTimeKey, verify_one_time_keys
from matrix_e2e_keys.outcome import Notice, Partition, Rejection, file_rejection, rejected
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["ClaimResult", "check_claim"]


@frozen(kw_only=True)
class ClaimResult:
    """What a ``/keys/claim`` answer amounts to.

    Attributes:
        keys: user id to device id to the key to open a session with; and what was refused.
        exhausted: user id to the devices that were asked for and for which there is no key, though the user's server
            answered. They have none left, or are gone.
        unreachable: user id to the devices that were asked for and whose server could not be reached. Nothing follows
            from it. Neither is known if the answer is malformed as a whole.
        failures: server name to whatever the server says of the server it could not reach. Untrusted.
        notices: what is worth knowing about accepted entries, for example one key handed out for two devices.
    """

    keys: Partition[Mapping[str, VerifiedOneTimeKey]]
    exhausted: Mapping[str, frozenset[str]]
    unreachable: Mapping[str, frozenset[str]]
    failures: Mapping[str, Any]
    notices: tuple[Notice, ...]


def check_claim(
    request: KeysClaimRequest,
    response: KeysClaimResponse,
    *,
    devices: Mapping[str, Mapping[str, VerifiedDevice]],
    was_used: Callable[[Curve25519PublicKey], bool] | None = None,
    verifier: Verifier = LIBSODIUM,
) -> ClaimResult:
    """Judge an answer against its question.

    Args:
        request: what was asked.
        response: what was answered.
        devices: user id to device id to device, verified before: ``QueryResult.devices.accepted``. A key for a device
            that is not among them is refused.
        was_used: whether a session was opened with a one-time key before: ``set_of_keys.__contains__``, for example. By
            default, none was.
        verifier: who checks.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    if type(request) is not KeysClaimRequest or type(response) is not KeysClaimResponse:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a KeysClaimRequest and a KeysClaimResponse are needed")
    if not _is_map_of_maps(devices):
        raise LocalProtocolError(Reason.WRONG_TYPE, "the devices of users must be mappings", path="/devices")
    if was_used is not None and not callable(was_used):
        raise LocalProtocolError(Reason.WRONG_TYPE, "was_used must be callable", path="/was_used")
    check_verifier(verifier)
    _check_filing(request, devices)
    check = _Check(asked=request.asked, response=response, devices=devices, was_used=was_used or (lambda _key: False))
    check.judge(verifier)
    return ClaimResult(
        keys=Partition(
            accepted=FrozenMap({user_id: FrozenMap(of) for user_id, of in check.keys.items()}),
            rejected=tuple(check.rejected),
            unsupported=tuple(check.unsupported),
        ),
        exhausted=FrozenMap(check.nothing_from(reached=True)),
        unreachable=FrozenMap(check.nothing_from(reached=False)),
        failures=response.failures,
        notices=tuple(check.notices),
    )


def _is_map_of_maps(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(member, Mapping) for member in value.values())


def _check_filing(request: KeysClaimRequest, devices: Mapping[str, Mapping[str, VerifiedDevice]]) -> None:
    """Refuse a device that stands under another name than its own."""
    for user_id, asked in request.asked.items():
        for device_id in asked:
            device = devices.get(user_id, {}).get(device_id)
            if type(device) is VerifiedDevice and (device.user_id, device.device_id) != (user_id, device_id):
                raise LocalProtocolError(
                    Reason.DEVICE_ID_MISMATCH,
                    f"{device!r} stands under the name of another device",
                    path=json_pointer(("devices", user_id, device_id)),
                )


@define(kw_only=True)
class _Check:
    """One judgment under way."""

    asked: Mapping[str, Mapping[str, str]]
    response: KeysClaimResponse
    devices: Mapping[str, Mapping[str, VerifiedDevice]]
    was_used: Callable[[Curve25519PublicKey], bool]
    keys: dict[str, dict[str, VerifiedOneTimeKey]] = field(factory=dict)
    rejected: list[Rejection] = field(factory=list)
    unsupported: list[Rejection] = field(factory=list)
    notices: list[Notice] = field(factory=list)

    def judge(self, verifier: Verifier) -> None:
        """Judge all keys of the answer."""
        candidates = list(self._candidates())
        verdicts = verify_one_time_keys([(key, device) for _, _, key, device in candidates], verifier)
        handed_out: dict[bytes, str] = {}
        for (user_id, device_id, key, _), verdict in zip(candidates, verdicts, strict=True):
            key_id = str(key.key_id)
            if isinstance(verdict, Refusal):
                self._reject(verdict, key.to_json(), user_id, device_id, key_id)
            elif not verdict.is_fallback and self.was_used(verdict.public_key):
                refusal = Refusal(Reason.KEY_REUSED, "a session was opened with this one-time key before", "key")
                self._reject(refusal, key.to_json(), user_id, device_id, key_id)
            else:
                self.keys.setdefault(user_id, {})[device_id] = verdict
                path = json_pointer(("one_time_keys", user_id, device_id, key_id))
                before = handed_out.setdefault(verdict.public_key.raw, path)
                if before is not path:
                    detail = f"the same key also stands at {before}"
                    self.notices.append(Notice(path=path, reason=Reason.KEY_REUSED, detail=detail))
        for rejection in self.response.malformed:
            if rejection.path == "/one_time_keys":
                self.rejected.append(rejection)
            else:
                self.notices.append(Notice(path=rejection.path, reason=rejection.reason, detail=rejection.detail))

    def _candidates(self) -> Iterator[tuple[str, str, OneTimeKey, VerifiedDevice]]:
        """Yield the keys whose signatures are worth looking at; refuse the others."""
        for user_id, of_user in self.response.one_time_keys.items():
            if isinstance(of_user, Rejection):
                self.rejected.append(of_user)
            elif user_id not in self.asked:
                refusal = Refusal(Reason.UNREQUESTED, f"nobody claimed a key of {quoted(user_id)}")
                self._reject(refusal, raw_of(of_user), user_id)
            else:
                for device_id, keys in of_user.items():
                    candidate = self._candidate(user_id, device_id, keys)
                    if candidate is not None:
                        yield user_id, device_id, *candidate

    def _candidate(
        self, user_id: str, device_id: str, keys: Mapping[str, OneTimeKey | Rejection] | Rejection
    ) -> tuple[OneTimeKey, VerifiedDevice] | None:
        """Return the one key that may be the right one, and the device that must have signed it."""
        if isinstance(keys, Rejection):
            self.rejected.append(keys)
            return None
        algorithm = self.asked[user_id].get(device_id)
        if algorithm is None:
            refusal = Refusal(Reason.UNREQUESTED, f"nobody claimed a key of the device {quoted(device_id)}")
            self._reject(refusal, raw_of(keys), user_id, device_id)
            return None
        wanted: list[OneTimeKey] = []
        for key_id, key in keys.items():
            if isinstance(key, Rejection):
                self.rejected.append(key)
            elif key.key_id.algorithm != algorithm:
                refusal = Refusal(Reason.UNREQUESTED, f"nobody claimed a {quoted(key.key_id.algorithm)} key")
                self._reject(refusal, key.to_json(), user_id, device_id, key_id)
            else:
                wanted.append(key)
        device = self.devices.get(user_id, {}).get(device_id)
        if len(wanted) > 1:
            self._reject(
                Refusal(Reason.TOO_MANY_KEYS, "one key was claimed, not several"), raw_of(keys), user_id, device_id
            )
        elif wanted and type(device) is not VerifiedDevice:
            detail = f"the device {quoted(device_id)} of {quoted(user_id)} has not been verified"
            self._reject(Refusal(Reason.UNVERIFIED_DEVICE, detail), raw_of(keys), user_id, device_id)
        elif wanted and device is not None:
            return wanted[0], device
        return None

    def nothing_from(self, *, reached: bool) -> dict[str, frozenset[str]]:
        """Return the devices that were asked for and of which nothing at all is there."""
        absent: dict[str, frozenset[str]] = {}
        if self.response.malformed:  # who knows what would stand there, and which servers have failed
            return absent
        for user_id, asked in self.asked.items():
            of_user = self.response.one_time_keys.get(user_id, {})
            failed = user_id.partition(":")[2] in self.response.failures
            if isinstance(of_user, Rejection) or failed is reached:
                continue
            nothing = frozenset(device_id for device_id in asked if not of_user.get(device_id))
            if nothing:
                absent[user_id] = nothing
        return absent

    def _reject(
        self, refusal: Refusal, raw: Any, user_id: str, device_id: str | None = None, key_id: str | None = None
    ) -> None:
        place = tuple(name for name in ("one_time_keys", user_id, device_id, key_id) if name is not None)
        rejection = rejected(refusal, raw, place, user_id=user_id, device_id=device_id)
        file_rejection(rejection, self.rejected, self.unsupported)
