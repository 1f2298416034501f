"""``POST /_matrix/client/v3/keys/upload``: the keys of one's own device.

Specification: client-server API, "Key management API", "One-time and fallback keys".

Facts:

* A body without members uploads nothing; the answer says how many one-time keys the server holds. Clients ask so.
* Decoding finds out what each key is, and judges nothing else: not whose device it is, not who signed it. A key that is
  not well formed is set aside as a :class:`~matrix_e2e_keys.Rejection` in its place; whether the upload is refused for
  it is a policy of the homeserver. ``null`` is no key and no map either.
* The draft of 2015 has the device id in the path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys.endpoints.dialects import ENDPOINTS, Dialect, Endpoint
from matrix_e2e_keys.endpoints.entries import (
    malformed_members,
    read_device,
    read_member,
    read_one_time_keys,
    read_optional,
    write_entries,
    write_malformed,
)
from matrix_e2e_keys.endpoints.members import counts, device_id, extra_beside, instances, items, optional, settle
from matrix_e2e_keys.endpoints.messages import BodyRequest, Response, others, required
from matrix_e2e_keys.endpoints.one_time_key_maps import OneTimeKeyMap, check_form, one_time_key_map
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, quoted, raised_as
from matrix_e2e_keys.json_trees import JsonObject, object_in, thaw
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.outcome import Rejection

__all__ = ["KeysUploadRequest", "KeysUploadResponse"]

_KEY_MAPS: Final = ("one_time_keys", "fallback_keys")
_MEMBERS: Final = ("device_keys", *_KEY_MAPS)


@frozen(kw_only=True)
class KeysUploadRequest(BodyRequest["KeysUploadResponse"]):
    """What is uploaded.

    Attributes:
        device_keys: the identity keys of the device, ``None`` to leave them as they are.
        one_time_keys: key id to one-time key.
        fallback_keys: key id to fallback key, at most one of each algorithm.
        device_id: the device in the path of ``v2_alpha``; the newer dialects know it from the access token.
        extra: members that the specification does not name.
        malformed: whole maps that are none.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["keys_upload"]

    device_keys: DeviceKeys | Rejection | None = None
    one_time_keys: OneTimeKeyMap = field(factory=dict)
    fallback_keys: OneTimeKeyMap = field(factory=dict)
    device_id: str | None = None
    extra: Mapping[str, Any] = field(factory=dict)
    malformed: tuple[Rejection, ...] = ()

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            device_keys=optional(instances(DeviceKeys, Rejection)),
            one_time_keys=one_time_key_map,
            fallback_keys=one_time_key_map,
            device_id=optional(device_id),
            extra=extra_beside(*_MEMBERS),
            malformed=malformed_members(self, *_KEY_MAPS),
        )

    @classmethod
    def for_keys(
        cls,
        *,
        device_keys: DeviceKeys | None = None,
        one_time_keys: Iterable[OneTimeKey] = (),
        fallback_keys: Iterable[OneTimeKey] = (),
    ) -> Self:
        """Upload some keys, each under its own id.

        Raises:
            LocalProtocolError: one of them is no key, two have one id, a fallback key stands among the one-time keys or
                the other way round, or there are two fallback keys of one algorithm.
        """
        with raised_as(LocalProtocolError):
            one_time_keys, fallback_keys = items(one_time_keys, "one_time_keys"), items(fallback_keys, "fallback_keys")
            _check_fallback(one_time_keys, "one_time_keys", is_fallback=False)
            _check_fallback(fallback_keys, "fallback_keys", is_fallback=True)
            return cls(
                device_keys=device_keys,
                one_time_keys=_by_id(one_time_keys, "one_time_keys"),
                fallback_keys=_by_id(fallback_keys, "fallback_keys"),
            )

    def to_json(self) -> JsonObject:
        """Return the request body. What is empty is left out."""
        body: JsonObject = thaw(dict(self.extra))
        for name in _MEMBERS:
            entries: Any = getattr(self, name)
            if entries:
                body[name] = write_entries(entries)
        return write_malformed(body, self.malformed)

    def _parameters(self) -> Mapping[str, str | None]:
        return {"device_id": self.device_id}

    def _check_dialect(self, dialect: Dialect) -> None:
        check_form(self.one_time_keys, dialect, "one_time_keys")

    @classmethod
    def _read_tree(cls, tree: Any, parameters: Mapping[str, str]) -> Self:
        body = object_in(tree, "the request")
        malformed: list[Rejection] = []
        return cls(
            device_keys=read_optional(read_device, body, "device_keys"),
            one_time_keys=read_member(body, "one_time_keys", read_one_time_keys, malformed),
            fallback_keys=read_member(body, "fallback_keys", read_one_time_keys, malformed),
            device_id=parameters.get("device_id"),
            extra=thaw(others(body, *_MEMBERS)),
            malformed=tuple(malformed),
        )

    @classmethod
    def answer_type(cls) -> type[KeysUploadResponse]:
        """Return the class of the answers."""
        return KeysUploadResponse


def _check_fallback(keys: Iterable[OneTimeKey], name: str, *, is_fallback: bool) -> None:
    """Refuse keys in the wrong place.

    "An additional ``fallback: true`` key should be included"; "at most one key per algorithm".
    """
    algorithms: set[str] = set()
    for place, key in enumerate(keys):
        if type(key) is not OneTimeKey:
            continue  # is refused as what it is
        if key.signed is not None and key.fallback is not is_fallback:
            detail = "a fallback key says so, and a one-time key does not"
            raise Refusal(Reason.INVALID_VALUE, detail, name, place)
        if is_fallback and key.key_id.algorithm in algorithms:
            detail = f"there can be one {quoted(key.key_id.algorithm)} fallback key"
            raise Refusal(Reason.TOO_MANY_KEYS, detail, name, place)
        algorithms.add(key.key_id.algorithm)


def _by_id(keys: Iterable[OneTimeKey], name: str) -> dict[str, OneTimeKey]:
    by_id: dict[str, OneTimeKey] = {}
    for place, item in enumerate(items(keys, name)):
        key: OneTimeKey = instances(OneTimeKey)(item, name, place)
        if str(key.key_id) in by_id:
            raise Refusal(Reason.INVALID_KEY_ID, f"two keys are called {quoted(str(key.key_id))}", name, place)
        by_id[str(key.key_id)] = key
    return by_id


@frozen(kw_only=True)
class KeysUploadResponse(Response):
    """What the server holds after the upload.

    Attributes:
        one_time_key_counts: algorithm to number of unclaimed one-time keys. "If an algorithm is not listed, the count
            for that algorithm is to be assumed zero."
        extra: members that the specification does not name.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["keys_upload"]

    one_time_key_counts: Mapping[str, int]
    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(self, one_time_key_counts=counts, extra=extra_beside("one_time_key_counts"))

    def to_json(self) -> JsonObject:
        """Return the response body."""
        body: JsonObject = thaw(dict(self.extra))
        body["one_time_key_counts"] = dict(self.one_time_key_counts)
        return body

    @classmethod
    def _read_tree(cls, tree: dict[str, Any]) -> Self:
        return cls(
            one_time_key_counts=required(tree, "one_time_key_counts"),
            extra=thaw(others(tree, "one_time_key_counts")),
        )
