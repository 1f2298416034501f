"""Which of the one-time keys that another server hands out are passed on.

Specification: server-server API, "End-to-End Encryption"; client-server API, "Claiming one-time keys".

Facts:

* A server is heard on the devices that a key was claimed of, and on no other. Otherwise it could hand out keys for the
  users of third servers, or of this one.
* One key was claimed of a device, so one is passed on: the first that is of the right algorithm.
* Whether the device has signed the key is for the client to check, who knows the device. Signatures by others are
  dropped, and so is ``unsigned``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen

from matrix_e2e_keys.endpoints.entries import raw_of
from matrix_e2e_keys.endpoints.federation.user_keys_claim import UserKeysClaimResponse
from matrix_e2e_keys.endpoints.one_time_key_maps import OneTimeKeyMap
from matrix_e2e_keys.errors import Reason, Refusal, quoted
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.homeserver.fan_out.query_filter import not_asked
from matrix_e2e_keys.homeserver.stored_keys import StoredKey, one_time_key_entry
from matrix_e2e_keys.homeserver.visibility import visible_one_time_key
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.outcome import Rejection, rejected
from matrix_e2e_keys.signing.signed_json import parts_of

__all__ = ["FilteredClaim", "filter_claim_answer", "shown_one_time_key"]


@frozen(kw_only=True)
class FilteredClaim:
    """What is passed on of the answer of a server.

    Attributes:
        keys: user id to device id to key id to key, one of each device.
        dropped: what is not passed on; paths point into the answer.
    """

    keys: Mapping[str, Mapping[str, OneTimeKeyMap]]
    dropped: tuple[Rejection, ...]


def shown_one_time_key(key_id: str, key: StoredKey, user_id: str, device_id: str) -> OneTimeKey | Rejection:
    """Return a one-time key as the answer to a claim holds it: with the signatures of its owner only."""
    shown = visible_one_time_key(key, user_id=user_id)
    return one_time_key_entry(key_id, shown, "one_time_keys", user_id, device_id)


def filter_claim_answer(
    answer: UserKeysClaimResponse, *, server_name: str, asked: Mapping[str, Mapping[str, str]]
) -> FilteredClaim:
    """Judge the answer of a server.

    Args:
        answer: what it answered.
        server_name: which server.
        asked: what was claimed of it: user id to device id to algorithm.
    """
    judgment = _Filter(asked=asked, server_name=server_name)
    judgment.dropped += answer.malformed
    for user_id, of_user in answer.one_time_keys.items():
        judgment.judge_user(user_id, of_user)
    return FilteredClaim(keys=FrozenMap(dict(judgment.keys)), dropped=tuple(judgment.dropped))


@define(kw_only=True)
class _Filter:
    """One judgment under way."""

    asked: Mapping[str, Mapping[str, str]]
    server_name: str
    keys: dict[str, dict[str, OneTimeKeyMap]] = field(factory=dict)
    dropped: list[Rejection] = field(factory=list)

    def judge_user(self, user_id: str, of_user: Mapping[str, Any] | Rejection) -> None:
        """Judge the keys of one user."""
        if isinstance(of_user, Rejection):
            self.dropped.append(of_user)
        elif user_id not in self.asked:
            self._drop(not_asked(user_id, self.server_name), raw_of(of_user), user_id)
        else:
            for device_id, keys in of_user.items():
                self._judge_device(user_id, device_id, keys)

    def _judge_device(self, user_id: str, device_id: str, keys: OneTimeKeyMap | Rejection) -> None:
        algorithm = self.asked[user_id].get(device_id)
        if isinstance(keys, Rejection):
            self.dropped.append(keys)
        elif algorithm is None:
            refusal = Refusal(Reason.UNREQUESTED, f"nobody claimed a key of the device {quoted(device_id)}")
            self._drop(refusal, raw_of(keys), user_id, device_id)
        else:
            for key_id, key in keys.items():
                self._judge_key(key, algorithm, user_id, device_id, key_id)

    def _judge_key(
        self, key: OneTimeKey | Rejection, algorithm: str, user_id: str, device_id: str, key_id: str
    ) -> None:
        of_user = self.keys.get(user_id, {})
        if isinstance(key, Rejection):
            self.dropped.append(key)
        elif key.key_id.algorithm != algorithm:
            refusal = Refusal(Reason.UNREQUESTED, f"nobody claimed a {quoted(key.key_id.algorithm)} key")
            self._drop(refusal, key.to_json(), user_id, device_id, key_id)
        elif device_id in of_user:
            refusal = Refusal(Reason.TOO_MANY_KEYS, "one key was claimed, not several")
            self._drop(refusal, key.to_json(), user_id, device_id, key_id)
        else:
            self._drop_signatures(key, user_id, device_id, key_id)
            passed_on = shown_one_time_key(key_id, key.key if key.signed is None else key.signed, user_id, device_id)
            self.keys.setdefault(user_id, {})[device_id] = {key_id: passed_on}

    def _drop_signatures(self, key: OneTimeKey, user_id: str, *at: str) -> None:
        """Name the signatures that are not passed on, since it is not the owner who made them."""
        signatures = {} if key.signed is None else parts_of(key.signed).signatures or {}
        for entity, by_entity in signatures.items():
            if entity != user_id:
                refusal = Refusal(Reason.USER_ID_MISMATCH, f"a signature by {quoted(entity)}, who is not the owner")
                self._drop(refusal, by_entity, user_id, *at, "signatures", entity)

    def _drop(self, refusal: Refusal, raw: Any, user_id: str, *at: str) -> None:
        device_id = at[0] if at else None
        place = ("one_time_keys", user_id, *at)
        self.dropped.append(rejected(refusal, raw, place, user_id=user_id, device_id=device_id))
