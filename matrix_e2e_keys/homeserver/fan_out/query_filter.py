"""What another server answers about its users, and which of it counts.

Specification: server-server API, "End-to-End Encryption"; client-server API, "Cross-signing".

Facts:

* A server speaks for its own users, and is heard on those that it was asked about. Everything else in its answer is
  dropped, and named, and costs the rest nothing.
* Device keys count if they are whose they claim to be. Their signatures are for clients to check. Cross-signing keys
  are checked here, since what this server tells of them it is believed to know.
* Of the signatures, those by the owner are kept. Signatures by others are dropped: they would tell who knows whom.
  Those by the answering server itself, as the draft of 2015 wants them on device keys, are kept apart.
* In ``unsigned``, there may be the name of a device, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, Final

from attrs import define, field, frozen

from matrix_e2e_keys.endpoints.entries import raw_of
from matrix_e2e_keys.endpoints.federation.user_keys_query import UserKeysQueryResponse
from matrix_e2e_keys.errors import Reason, Refusal, json_pointer, printable, quoted
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.homeserver.remote_identity import signed_by_owner, verified_identity
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys
from matrix_e2e_keys.identifiers import home_of
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.outcome import Rejection, rejected
from matrix_e2e_keys.signing.signed_json import SignedJson, parts_of
from matrix_e2e_keys.signing.verifiers import Verifier

__all__ = ["FilteredQuery", "filter_query_answer", "not_asked"]

_KEY_MAPS: Final = {"master_key": "master_keys", "self_signing_key": "self_signing_keys"}
_NO_LIST: Final = (Rejection, NoneType)


@frozen(kw_only=True)
class FilteredQuery:
    """What counts of the answer of a server.

    Attributes:
        users: user id to devices and identity, for those that the answer tells anything of.
        without_list: those of them whose list of devices is not told, or malformed as a whole. That is no empty list.
        countersignatures: user id and device id to key id to signature, for device keys that the server itself signed.
        dropped: what does not count; paths point into the answer.
    """

    users: Mapping[str, UserKeys]
    without_list: frozenset[str]
    countersignatures: Mapping[tuple[str, str], Mapping[str, str]]
    dropped: tuple[Rejection, ...]


def filter_query_answer(
    answer: UserKeysQueryResponse, *, server_name: str, asked: Mapping[str, tuple[str, ...]], verifier: Verifier
) -> FilteredQuery:
    """Judge the answer of a server.

    Args:
        answer: what it answered.
        server_name: which server.
        asked: what it was asked: user id to device ids, none of which means all.
        verifier: who checks whether the master key has signed the self-signing key.
    """
    judgment = _Filter(answer=answer, server_name=server_name, asked=asked, verifier=verifier)
    judgment.dropped += answer.malformed
    users = judgment.judge()
    without_list = frozenset(user_id for user_id in users if isinstance(answer.device_keys.get(user_id), _NO_LIST))
    return FilteredQuery(
        users=FrozenMap(users),
        without_list=without_list,
        countersignatures=FrozenMap(judgment.countersignatures),
        dropped=tuple(judgment.dropped),
    )


def not_asked(user_id: str, server_name: str) -> Refusal:
    """Return the refusal of what a server says of a user that it was not asked about."""
    if home_of(user_id) != server_name:
        return Refusal(Reason.SERVER_NAME_MISMATCH, f"{quoted(user_id)} is no user of {quoted(server_name)}")
    return Refusal(Reason.UNREQUESTED, f"nobody asked about {quoted(user_id)}")


@define(kw_only=True)
class _Filter:
    """One judgment under way."""

    answer: UserKeysQueryResponse
    server_name: str
    asked: Mapping[str, tuple[str, ...]]
    verifier: Verifier
    countersignatures: dict[tuple[str, str], Mapping[str, str]] = field(factory=dict)
    dropped: list[Rejection] = field(factory=list)

    def judge(self) -> dict[str, UserKeys]:
        """Return the users that something is told of."""
        maps = {name: dict(self._heard(name)) for name in ("device_keys", *_KEY_MAPS.values())}
        users: dict[str, UserKeys] = {}
        for user_id in self.asked:
            told = {name: of_users[user_id] for name, of_users in maps.items() if user_id in of_users}
            if told:
                devices = self._devices(user_id, told.get("device_keys", {}))
                users[user_id] = UserKeys(user_id=user_id, devices=devices, **self._identity(user_id, told))
        return users

    def _heard(self, name: str) -> Iterator[tuple[str, Any]]:
        """Yield the members of a map that are about users that were asked about; drop the others."""
        for user_id, told in getattr(self.answer, name).items():
            if isinstance(told, Rejection):
                self.dropped.append(told)
            elif user_id not in self.asked:
                self._drop(not_asked(user_id, self.server_name), raw_of(told), name, user_id)
            else:
                yield user_id, told

    def _devices(self, user_id: str, told: Mapping[str, DeviceKeys | Rejection]) -> dict[str, DeviceRecord]:
        devices: dict[str, DeviceRecord] = {}
        asked = frozenset(self.asked[user_id])
        for device_id, keys in told.items():
            if isinstance(keys, Rejection):
                self.dropped.append(keys)
                continue
            refusal = _foreign_device(keys, user_id, device_id, asked)
            if refusal is not None:
                self._drop(refusal, keys.to_json(), "device_keys", user_id, device_id)
                continue
            self._drop_signatures(keys.signed, "device_keys", user_id, device_id)
            devices[device_id] = DeviceRecord(
                device_id=device_id,
                keys=signed_by_owner(keys.signed, user_id),
                display_name=_display_name(keys.signed),
            )
        return devices

    def _identity(self, user_id: str, told: Mapping[str, Any]) -> dict[str, Any]:
        """Return the cross-signing keys that count."""
        identity = verified_identity(
            user_id,
            master_key=told.get("master_keys"),
            self_signing_key=told.get("self_signing_keys"),
            verifier=self.verifier,
        )
        for refused in identity.refused:
            _, name, *rest = refused.path.split("/")  # the path of a refused key is put together of escaped names
            path = "/".join([json_pointer((_KEY_MAPS[name], user_id)), *rest])
            self.dropped.append(
                Rejection(path=path, reason=refused.reason, detail=refused.detail, raw=refused.raw, user_id=user_id)
            )
        kept: dict[str, CrossSigningKey | None] = {
            "master_key": identity.master_key,
            "self_signing_key": identity.self_signing_key,
        }
        for name, key in kept.items():
            if key is not None:
                self._drop_signatures(told[_KEY_MAPS[name]].signed, _KEY_MAPS[name], user_id)
        return kept

    def _drop_signatures(self, signed: SignedJson, name: str, owner: str, *at: str) -> None:
        """Name the signatures that are not kept, since it is not the owner who made them."""
        for entity, by_entity in (parts_of(signed).signatures or {}).items():
            if entity == self.server_name and name == "device_keys":
                self.countersignatures[owner, at[0]] = FrozenMap(dict(by_entity))
            elif entity != owner:
                refusal = Refusal(Reason.USER_ID_MISMATCH, f"a signature by {quoted(entity)}, who is not the owner")
                self._drop(refusal, by_entity, name, owner, *at, "signatures", entity)

    def _drop(self, refusal: Refusal, raw: Any, name: str, user_id: str, *at: str) -> None:
        device_id = at[0] if name == "device_keys" and at else None
        self.dropped.append(rejected(refusal, raw, (name, user_id, *at), user_id=user_id, device_id=device_id))


def _foreign_device(keys: DeviceKeys, user_id: str, device_id: str, asked: frozenset[str]) -> Refusal | None:
    """Return why device keys do not belong where they stand, ``None`` if they do."""
    if asked and device_id not in asked:
        return Refusal(Reason.UNREQUESTED, f"nobody asked about the device {quoted(device_id)}")
    if keys.user_id != user_id:
        return Refusal(Reason.USER_ID_MISMATCH, f"the keys are those of {quoted(keys.user_id)}", "user_id")
    if keys.device_id != device_id:
        return Refusal(Reason.DEVICE_ID_MISMATCH, f"the keys are those of {quoted(keys.device_id)}", "device_id")
    return None


def _display_name(signed: SignedJson) -> str | None:
    """Return the name of a device, if it is one that can be passed on."""
    unsigned = parts_of(signed).unsigned
    name = unsigned.get("device_display_name") if type(unsigned) is dict else None
    return name if type(name) is str and name == printable(name) else None
