"""Hypothesis strategies for requests, answers, EDUs and errors: whatever this library sends and reads.

Facts:

* What is produced holds empty and missing parts, members that nobody knows at every level that has them, and entries
  that were set aside. Those were set aside by this library, from a body that held the malformed entry.
* What is produced comes back as it was: ``type(x).from_http(x.to_http(dialect)) == x``. So what is set aside here is
  something that can be written in canonical JSON, and what stands in ``extra`` is within the limits of a document.
* Keys are drawn from a small fixed set, so that examples are fast to make. Signatures are good, or missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeVar

from hypothesis import strategies as st

from matrix_e2e_keys.algorithms import CURVE25519, SIGNED_CURVE25519
from matrix_e2e_keys.endpoints.client_server.device_signing_upload import (
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
)
from matrix_e2e_keys.endpoints.client_server.keys_changes import KeysChangesRequest, KeysChangesResponse
from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimRequest, KeysClaimResponse
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest, KeysUploadResponse
from matrix_e2e_keys.endpoints.client_server.send_to_device import SendToDeviceRequest, SendToDeviceResponse
from matrix_e2e_keys.endpoints.client_server.signatures_upload import (
    SignatureFailure,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
)
from matrix_e2e_keys.endpoints.client_server.sync import DeviceLists, SyncKeys
from matrix_e2e_keys.endpoints.dialects import CLIENT_V2_ALPHA, CLIENT_V3, Dialect
from matrix_e2e_keys.endpoints.federation.edus import (
    DeviceListUpdate,
    DirectToDevice,
    Edu,
    SigningKeyUpdate,
    UnknownEdu,
    read_edu,
)
from matrix_e2e_keys.endpoints.federation.send_transaction import SendTransactionRequest, SendTransactionResponse
from matrix_e2e_keys.endpoints.federation.server_keys import ServerKeysRequest, ServerKeysResponse
from matrix_e2e_keys.endpoints.federation.user_devices import UserDevice, UserDevicesRequest, UserDevicesResponse
from matrix_e2e_keys.endpoints.federation.user_keys_claim import UserKeysClaimRequest, UserKeysClaimResponse
from matrix_e2e_keys.endpoints.federation.user_keys_query import UserKeysQueryRequest, UserKeysQueryResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.user_interactive import AUTH_MEMBERS, AuthenticationFlow, UserInteractiveAuth
from matrix_e2e_keys.json_trees import MAX_SAFE_INTEGER
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.models.server_keys import OldVerifyKey, ServerKeys
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson
from matrix_e2e_keys.signing.signers import sign_json
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import (
    canonical_json_objects,
    canonical_json_values,
    device_ids,
    sample_users,
    server_names,
    user_ids,
)

__all__ = [
    "cross_signing_keys",
    "device_list_updates",
    "device_lists",
    "device_signing_upload_requests",
    "device_signing_upload_responses",
    "direct_to_device_edus",
    "edus",
    "json_objects",
    "json_values",
    "keys_changes_requests",
    "keys_changes_responses",
    "keys_claim_requests",
    "keys_claim_responses",
    "keys_query_requests",
    "keys_query_responses",
    "keys_upload_requests",
    "keys_upload_responses",
    "matrix_errors",
    "one_time_keys",
    "send_to_device_requests",
    "send_to_device_responses",
    "send_transaction_requests",
    "send_transaction_responses",
    "server_keys",
    "server_keys_requests",
    "server_keys_responses",
    "signature_failures",
    "signatures_upload_requests",
    "signatures_upload_responses",
    "signing_key_updates",
    "sync_keys",
    "unknown_edus",
    "user_devices_requests",
    "user_devices_responses",
    "user_interactive_auths",
    "user_keys_claim_requests",
    "user_keys_claim_responses",
    "user_keys_query_requests",
    "user_keys_query_responses",
]

T = TypeVar("T")

_TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_INTEGERS: Final = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
_COUNTS: Final = st.integers(0, 100) | st.just(MAX_SAFE_INTEGER)
_RARELY: Final = st.sampled_from([False, False, False, True])

_DEVICE_IDS: Final = device_ids()
_NOT_OBJECTS: Final[st.SearchStrategy[Any]] = st.sampled_from([None, 7, True, "x", [], [{}]])
_NOT_ARRAYS: Final[st.SearchStrategy[Any]] = st.sampled_from([None, 7, True, "x", {}, {"a": []}])
_NOT_KEYS: Final[st.SearchStrategy[Any]] = st.sampled_from([None, 7, False, [], {}, {"unsigned": {}}])
_NOT_USER_IDS: Final = st.sampled_from(["", "bob", "@bob", "bob:b.example", "@a/b~c", "@x:"])


# --------------------------------------------------------------------------------------------------------------
# JSON that is passed on
# --------------------------------------------------------------------------------------------------------------


def json_values(*, max_leaves: int = 4) -> st.SearchStrategy[Any]:
    """Any values JSON can express: also fractions, integers beyond 2**53 - 1, and lone surrogates."""
    huge = st.integers(2**53, 2**70) | st.integers(-(2**70), -(2**53))
    odd = st.floats(allow_nan=False, allow_infinity=False) | huge | st.sampled_from(["\ud800", "a\udfffb"])
    leaves = st.none() | st.booleans() | _INTEGERS | _TEXT | odd
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
        max_leaves=max_leaves,
    )


_NAMES: Final = st.sampled_from(["org.example", "a/b~c", "", "\ud800", "x"]) | _TEXT


def json_objects(*known: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of such values, more often than not empty, none of whose members is called by one of ``known``.

    Nor is any of them a member that one of the dialects lacks.
    """
    return _json_objects(CLIENT_V2_ALPHA.lacks.union(known))


@cache  # a strategy is made once: making one takes longer than drawing from it
def _json_objects(taken: frozenset[str]) -> st.SearchStrategy[dict[str, Any]]:
    names = _NAMES.filter(lambda name: name not in taken)
    return st.builds(dict) | st.dictionaries(names, json_values(), max_size=2)


# --------------------------------------------------------------------------------------------------------------
# Keys
# --------------------------------------------------------------------------------------------------------------


@st.composite
def _variants(draw: st.DrawFn, values: st.SearchStrategy[T]) -> T:
    """The same models: as they are, without signatures, or with an ``unsigned`` part."""
    model: Any = draw(values)
    obj: dict[str, Any] = model.to_json()
    if draw(_RARELY):
        obj.pop("signatures", None)
    if draw(_RARELY):
        obj["unsigned"] = draw(json_values() | st.just({"device_display_name": "Phone"}))
    return type(model).from_json(obj)  # type: ignore[no-any-return]


@cache
def _signed_extra() -> st.SearchStrategy[dict[str, object]]:
    """Members of a signed object that nobody knows, more often than not none."""
    return st.builds(dict) | canonical_json_objects(max_leaves=3).map(dict[str, object])


@cache
def _devices() -> st.SearchStrategy[DeviceKeys]:
    # The parts of strategies.device_keys, each of them made once.
    extra = _signed_extra()
    return _variants(st.builds(SampleUser.device, sample_users(), _DEVICE_IDS, cross_signed=st.booleans(), extra=extra))


def cross_signing_keys(*usages: str) -> st.SearchStrategy[CrossSigningKey]:
    """Cross-signing keys of sample users: signed as they should be, or not at all; perhaps with unknown members.

    Args:
        usages: ``"master"``, ``"self_signing"``, ``"user_signing"``; any of them by default.
    """
    return _role_keys(usages or ("master", "self_signing", "user_signing"))


@cache
def _role_keys(usages: tuple[str, ...]) -> st.SearchStrategy[CrossSigningKey]:
    return _variants(_cross_signing_keys(usages))


@st.composite
def _cross_signing_keys(draw: st.DrawFn, usages: tuple[Any, ...]) -> CrossSigningKey:
    user, usage = draw(sample_users()), draw(st.sampled_from(usages))
    return CrossSigningKey.build(
        user_id=user.user_id,
        usage=usage,
        public_key=user.secret(usage).public_key,
        signer=None if usage == "master" else user.secret("master").cross_signer(),
        extra=draw(_signed_extra()),
    )


@st.composite
def one_time_keys(draw: st.DrawFn, *, bare: bool = False) -> OneTimeKey:
    """One-time and fallback keys: signed objects, bare strings, and such of algorithms that nobody knows.

    Args:
        draw: supplied by Hypothesis.
        bare: bare strings only.
    """
    name = draw(st.sampled_from(["AAAAAQ", "AAAAHg", "a/b+c~1"]))
    key = sample_curve25519_key(name).to_base64()
    if bare or draw(st.booleans()):
        text = draw(st.sampled_from([(CURVE25519, key), ("org.example", "any text")]))
        return OneTimeKey.from_json(f"{text[0]}:{name}", text[1])
    obj: dict[str, Any] = {**draw(_signed_extra()), "key": key, "fallback": draw(st.booleans())}
    if not obj["fallback"] and draw(st.booleans()):
        del obj["fallback"]
    if not draw(_RARELY):
        user = draw(sample_users())
        obj = sign_json(obj, entity=user.user_id, signer=user.device_signer("PHONE"))
    if draw(_RARELY):
        obj["unsigned"] = draw(json_values())
    return OneTimeKey.from_json(f"{draw(st.sampled_from([SIGNED_CURVE25519, 'org.example.signed']))}:{name}", obj)


# --------------------------------------------------------------------------------------------------------------
# Maps of entries
# --------------------------------------------------------------------------------------------------------------


@cache
def _users() -> st.SearchStrategy[str]:
    return sample_users().map(lambda user: user.user_id) | user_ids()


def _user_map(
    draw: st.DrawFn,
    of_user: Callable[[str], Any],
    set_aside: Callable[[str, Any], Any],
    malformed: st.SearchStrategy[Any] = _NOT_OBJECTS,
) -> dict[str, Any]:
    """A map from user ids. What is malformed under a name, ``set_aside`` makes a rejection of."""
    users = {user: of_user(user) for user in draw(st.lists(_users(), max_size=2, unique=True))}
    if draw(_RARELY):
        user = draw(_users())
        users[user] = set_aside(user, draw(malformed))
    if draw(_RARELY):
        nobody = draw(_NOT_USER_IDS)
        users[nobody] = set_aside(nobody, draw(_NOT_OBJECTS | st.just({"anything": 1})))
    return users


def _entry_map(
    draw: st.DrawFn,
    names: st.SearchStrategy[str],
    entries: st.SearchStrategy[Any],
    set_aside: Callable[[str, Any], Any],
    malformed: st.SearchStrategy[Any] = _NOT_KEYS,
) -> dict[str, Any]:
    """A map of entries, one of which may be malformed."""
    found: dict[str, Any] = {name: draw(entries) for name in draw(st.lists(names, max_size=2, unique=True))}
    if draw(_RARELY):
        name = draw(names)
        found[name] = set_aside(name, draw(malformed))
    return found


def _one_time_key_map(draw: st.DrawFn, set_aside: Callable[[str, Any], Any], *, bare: bool) -> dict[str, Any]:
    keys = draw(st.lists(one_time_keys(bare=bare), max_size=2))
    found: dict[str, Any] = {str(key.key_id): key for key in keys}
    if draw(_RARELY):
        key_id = draw(st.sampled_from([f"{SIGNED_CURVE25519}:AAAAAQ", "nocolon", "org.example:a/b~c"]))
        found[key_id] = set_aside(key_id, draw(_NOT_KEYS))
    return found


def _malformed_members(
    draw: st.DrawFn,
    decode: Callable[[dict[str, Any]], Any],
    members: dict[str, Any],
    *names: str,
    malformed: st.SearchStrategy[Any] = _NOT_OBJECTS,
) -> dict[str, Any]:
    """Return ``members`` with, rarely, one of ``names`` malformed as a whole."""
    if draw(_RARELY):
        name = draw(st.sampled_from(names))
        decoded = decode({name: draw(malformed)})
        members[name] = getattr(decoded, name)
        members["malformed"] = decoded.malformed
    return members


def _extra(draw: st.DrawFn, *known: str) -> dict[str, Any]:
    return draw(json_objects(*known))


def _timeouts(dialect: Dialect) -> st.SearchStrategy[int | None]:
    return st.none() if "timeout" in dialect.lacks else st.none() | _COUNTS


# --------------------------------------------------------------------------------------------------------------
# The client-server API
# --------------------------------------------------------------------------------------------------------------


@st.composite
def keys_upload_requests(draw: st.DrawFn, *, dialect: Dialect = CLIENT_V3) -> KeysUploadRequest:
    """Uploads of device keys, one-time keys and fallback keys, any of which may be missing or malformed.

    Args:
        draw: supplied by Hypothesis.
        dialect: what it can say. In ``v2_alpha``, there is a device id and there are no fallback keys.
    """

    def key_map(name: str) -> dict[str, Any]:
        def set_aside(key_id: str, raw: Any) -> Any:
            return getattr(KeysUploadRequest.from_json({name: {key_id: raw}}, **parameters), name)[key_id]

        return _one_time_key_map(draw, set_aside, bare=dialect.bare_one_time_keys)

    is_of_2015 = dialect is CLIENT_V2_ALPHA
    parameters: dict[str, Any] = {"device_id": draw(_DEVICE_IDS)} if is_of_2015 else {}
    broken_device = _NOT_KEYS.map(lambda raw: KeysUploadRequest.from_json({"device_keys": raw}).device_keys)
    members: dict[str, Any] = {
        "device_keys": draw(st.none() | _devices() | broken_device),
        "one_time_keys": key_map("one_time_keys"),
        "fallback_keys": {} if is_of_2015 else key_map("fallback_keys"),
    }
    names = ["one_time_keys"] if is_of_2015 else ["one_time_keys", "fallback_keys"]
    _malformed_members(draw, KeysUploadRequest.from_json, members, *names)
    return KeysUploadRequest(
        **members, **parameters, extra=_extra(draw, "device_keys", "one_time_keys", "fallback_keys")
    )


@st.composite
def keys_upload_responses(draw: st.DrawFn) -> KeysUploadResponse:
    """Counts of one-time keys, perhaps none."""
    return KeysUploadResponse(one_time_key_counts=draw(_key_counts()), extra=_extra(draw, "one_time_key_counts"))


@cache
def _key_counts() -> st.SearchStrategy[dict[str, int]]:
    return st.dictionaries(st.sampled_from([SIGNED_CURVE25519, CURVE25519, "org.example"]), _COUNTS)


@cache
def _devices_of_users() -> st.SearchStrategy[dict[str, tuple[str, ...]]]:
    return st.dictionaries(_users(), st.lists(_DEVICE_IDS, max_size=2).map(tuple), max_size=2)


@cache
def _algorithms_of_users(*, bare: bool) -> st.SearchStrategy[dict[str, dict[str, str]]]:
    usual = CURVE25519 if bare else SIGNED_CURVE25519
    devices = st.dictionaries(_DEVICE_IDS, st.just(usual) | _TEXT, max_size=2)
    return st.dictionaries(_users(), devices, max_size=2)


def _asked_devices(draw: st.DrawFn, decode: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    asked: dict[str, Any] = {**draw(_devices_of_users())}
    if draw(_RARELY):
        nobody = draw(_NOT_USER_IDS)
        asked[nobody] = decode({"device_keys": {nobody: draw(_NOT_KEYS)}}).device_keys[nobody]
    return asked


def _asked_keys(draw: st.DrawFn, decode: Callable[[dict[str, Any]], Any], *, bare: bool = False) -> dict[str, Any]:
    asked: dict[str, Any] = {**draw(_algorithms_of_users(bare=bare))}
    if draw(_RARELY):
        nobody = draw(_NOT_USER_IDS)
        asked[nobody] = decode({"one_time_keys": {nobody: draw(_NOT_KEYS)}}).one_time_keys[nobody]
    return asked


@st.composite
def keys_query_requests(draw: st.DrawFn, *, dialect: Dialect = CLIENT_V3) -> KeysQueryRequest:
    """Questions about all or some devices of some users, perhaps about somebody who is none.

    Args:
        draw: supplied by Hypothesis.
        dialect: what it can say. In ``v2_alpha``, there is no timeout.
    """
    return KeysQueryRequest(
        device_keys=_asked_devices(draw, KeysQueryRequest.from_json),
        timeout=draw(_timeouts(dialect)),
        extra=_extra(draw, "device_keys", "timeout"),
    )


def _key_maps(draw: st.DrawFn, decode: Callable[[dict[str, Any]], Any], *usages: str) -> dict[str, Any]:
    """The maps of an answer to a query: devices, and the cross-signing keys of some usages."""

    def devices_of(user: str) -> dict[str, Any]:
        return _entry_map(draw, _DEVICE_IDS, _devices(), lambda device, raw: device_aside(user, device, raw))

    def device_aside(user: str, device: str, raw: Any) -> Any:
        return decode({"device_keys": {user: {device: raw}}}).device_keys[user][device]

    def user_aside(user: str, raw: Any) -> Any:
        return decode({"device_keys": {user: raw}}).device_keys[user]

    maps = {"device_keys": _user_map(draw, devices_of, user_aside)}
    for usage in usages:
        maps[f"{usage}_keys"] = _cross_signing_map(draw, decode, usage)
    return maps


def _cross_signing_map(draw: st.DrawFn, decode: Callable[[dict[str, Any]], Any], usage: str) -> dict[str, Any]:
    name = f"{usage}_keys"
    return _user_map(
        draw,
        lambda _: draw(cross_signing_keys(usage)),
        lambda user, raw: getattr(decode({"device_keys": {}, name: {user: raw}}), name)[user],
        _NOT_KEYS,
    )


_QUERY_MEMBERS: Final = ("device_keys", "master_keys", "self_signing_keys", "user_signing_keys", "failures")


@st.composite
def keys_query_responses(draw: st.DrawFn, *, dialect: Dialect = CLIENT_V3) -> KeysQueryResponse:
    """Answers about devices and identities; entries of every map, and whole maps, may be malformed.

    Args:
        draw: supplied by Hypothesis.
        dialect: what it can say. In ``v2_alpha``, there are devices only.
    """
    if dialect is CLIENT_V2_ALPHA:
        members = _key_maps(draw, KeysQueryResponse.from_json)
        names: tuple[str, ...] = ("device_keys",)
    else:
        members = _key_maps(draw, KeysQueryResponse.from_json, "master", "self_signing", "user_signing")
        members["failures"] = _extra(draw)
        names = _QUERY_MEMBERS
    _malformed_members(draw, KeysQueryResponse.from_json, members, *names)
    return KeysQueryResponse(**members, extra=_extra(draw, *_QUERY_MEMBERS))


@st.composite
def keys_claim_requests(draw: st.DrawFn, *, dialect: Dialect = CLIENT_V3) -> KeysClaimRequest:
    """Claims of one key of each of some devices, perhaps of somebody who is none.

    Args:
        draw: supplied by Hypothesis.
        dialect: what it can say. In ``v2_alpha``, there is no timeout, and no signed key is claimed.
    """
    return KeysClaimRequest(
        one_time_keys=_asked_keys(draw, KeysClaimRequest.from_json, bare=dialect.bare_one_time_keys),
        timeout=draw(_timeouts(dialect)),
        extra=_extra(draw, "one_time_keys", "timeout"),
    )


def _claimed_keys(draw: st.DrawFn, decode: Callable[[dict[str, Any]], Any], *, bare: bool) -> dict[str, Any]:
    def keys_of(user: str) -> dict[str, Any]:
        devices: dict[str, Any] = {}
        for device in draw(st.lists(_DEVICE_IDS, max_size=2, unique=True)):
            devices[device] = keys_of_device(user, device)
        if draw(_RARELY):
            device = draw(_DEVICE_IDS)
            devices[device] = set_aside(user, {device: draw(_NOT_OBJECTS)})[device]
        return devices

    def keys_of_device(user: str, device: str) -> dict[str, Any]:
        return _one_time_key_map(
            draw, lambda key_id, raw: set_aside(user, {device: {key_id: raw}})[device][key_id], bare=bare
        )

    def set_aside(user: str, raw: Any) -> Any:
        return decode({"one_time_keys": {user: raw}}).one_time_keys[user]

    return _user_map(draw, keys_of, set_aside)


@st.composite
def keys_claim_responses(draw: st.DrawFn, *, dialect: Dialect = CLIENT_V3) -> KeysClaimResponse:
    """Keys that are handed out; at every level, something malformed may stand.

    Args:
        draw: supplied by Hypothesis.
        dialect: what it can say. In ``v2_alpha``, keys are bare strings, and there are no failures.
    """
    members: dict[str, Any] = {
        "one_time_keys": _claimed_keys(draw, KeysClaimResponse.from_json, bare=dialect.bare_one_time_keys)
    }
    names = ["one_time_keys"]
    if "failures" not in dialect.lacks:
        members["failures"] = _extra(draw)
        names.append("failures")

    def decode(body: dict[str, Any]) -> KeysClaimResponse:
        return KeysClaimResponse.from_json({"one_time_keys": {}, **body})

    _malformed_members(draw, decode, members, *names)
    return KeysClaimResponse(**members, extra=_extra(draw, "one_time_keys", "failures"))


@st.composite
def keys_changes_requests(draw: st.DrawFn) -> KeysChangesRequest:
    """Questions about the changes between two tokens, which may be any text."""
    return KeysChangesRequest(from_token=draw(_TEXT), to_token=draw(_TEXT))


def _lists(draw: st.DrawFn, decode: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The lists of users whose devices changed; entries, and whole lists, may be malformed."""
    body: dict[str, Any] = {}
    members: dict[str, Any] = {}
    for name in ("changed", "left"):
        users: list[str] = draw(st.lists(_users(), max_size=2))
        found: list[Any] = list(users)
        for place in draw(st.lists(st.integers(0, len(users)), max_size=2) if draw(_RARELY) else st.just([])):
            found.insert(place, draw(_NOT_OBJECTS | _NOT_USER_IDS))
        members[name] = tuple(users)
        body[name] = found
        if draw(_RARELY):
            members[name], body[name] = (), draw(_NOT_ARRAYS)
    return {**members, "malformed": decode(body).malformed, "extra": _extra(draw, "changed", "left")}


@st.composite
def keys_changes_responses(draw: st.DrawFn) -> KeysChangesResponse:
    """Lists of users whose devices changed; entries, and whole lists, may be malformed."""
    return KeysChangesResponse(**_lists(draw, KeysChangesResponse.from_json))


def _keys_or_set_aside(draw: st.DrawFn, keys: st.SearchStrategy[Any], set_aside: Callable[[Any], Any]) -> Any:
    """A key, none, or what was made of a malformed one."""
    return draw(st.none() | keys | _NOT_KEYS.filter(lambda raw: raw is not None).map(set_aside))


_SIGNING_KEYS: Final = ("master_key", "self_signing_key", "user_signing_key")


@st.composite
def device_signing_upload_requests(draw: st.DrawFn) -> DeviceSigningUploadRequest:
    """Uploads of cross-signing keys, any of which may be missing or malformed, with or without a proof."""
    members: dict[str, Any] = {}
    for name in _SIGNING_KEYS:

        def set_aside(raw: Any, name: str = name) -> Any:
            return getattr(DeviceSigningUploadRequest.from_json({name: raw}), name)

        members[name] = _keys_or_set_aside(draw, cross_signing_keys(name.removesuffix("_key")), set_aside)
    auth = draw(st.none() | user_interactive_auths().map(lambda asked: asked.auth("m.login.dummy")) | json_objects())
    return DeviceSigningUploadRequest(**members, auth=auth, extra=_extra(draw, *_SIGNING_KEYS, "auth"))


@st.composite
def device_signing_upload_responses(draw: st.DrawFn) -> DeviceSigningUploadResponse:
    """Answers that say nothing but that it is done."""
    return DeviceSigningUploadResponse(extra=_extra(draw))


@cache
def _signed_objects() -> st.SearchStrategy[SignedJson]:
    objects = (_devices() | cross_signing_keys()).map(lambda key: key.signed)
    return objects | canonical_json_objects(max_leaves=3).map(SignedJson.from_json)


@st.composite
def signatures_upload_requests(draw: st.DrawFn) -> SignaturesUploadRequest:
    """Uploads of signed devices, cross-signing keys and objects that are neither; some may be malformed."""

    def objects_of(user: str) -> dict[str, Any]:
        return _entry_map(
            draw,
            _DEVICE_IDS,
            _signed_objects(),
            lambda name, raw: set_aside(user, {name: raw})[name],
            _NOT_OBJECTS | st.just({"signatures": None}),
        )

    def set_aside(user: str, raw: Any) -> Any:
        return SignaturesUploadRequest.from_json({user: raw}).signed_objects[user]

    return SignaturesUploadRequest(signed_objects=_user_map(draw, objects_of, set_aside))


_FAILURE_MEMBERS: Final = ("errcode", "error", "message", "status")


@st.composite
def signature_failures(draw: st.DrawFn) -> SignatureFailure:
    """Why signatures were refused: in the form of the specification, in the other form, in none."""
    errcode = draw(st.none() | st.sampled_from(["M_INVALID_SIGNATURE", "M_NOT_FOUND"]))
    form = draw(st.sampled_from(["specification", "other", "none"]))
    return SignatureFailure(
        errcode=errcode,
        error=draw(_TEXT) if form == "specification" else None,
        message=draw(_TEXT) if form == "other" else None,
        status=draw(st.integers(400, 599)) if form == "other" else None,
        extra=_extra(draw, *_FAILURE_MEMBERS),
    )


@st.composite
def signatures_upload_responses(draw: st.DrawFn) -> SignaturesUploadResponse:
    """What was refused of an upload of signatures: nothing, something, or nobody knows what."""

    def failures_of(user: str) -> dict[str, Any]:
        return _entry_map(
            draw,
            _DEVICE_IDS,
            signature_failures(),
            lambda name, raw: set_aside(user, {name: raw})[name],
            _NOT_OBJECTS | st.sampled_from([{"errcode": 5}, {"status": "400"}]),
        )

    def set_aside(user: str, raw: Any) -> Any:
        return SignaturesUploadResponse.from_json({"failures": {user: raw}}).failures[user]

    members: dict[str, Any] = {"failures": _user_map(draw, failures_of, set_aside)}
    _malformed_members(draw, SignaturesUploadResponse.from_json, members, "failures")
    return SignaturesUploadResponse(**members, extra=_extra(draw, "failures"))


_ADDRESSEES: Final = st.just("*") | _DEVICE_IDS


@cache
def _contents() -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(_TEXT, canonical_json_values(max_leaves=3), max_size=2)


def _messages(draw: st.DrawFn, decode: Callable[[dict[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
    """Messages to devices. ``decode`` makes them of JSON."""

    def messages_to(user: str) -> dict[str, Any]:
        return _entry_map(
            draw,
            _ADDRESSEES,
            _contents(),
            lambda device, raw: decode({user: {device: raw}})[user][device],
            _NOT_OBJECTS,
        )

    return _user_map(draw, messages_to, lambda user, raw: decode({user: raw})[user])


@cache
def _path_segments() -> st.SearchStrategy[str]:
    return st.sampled_from(["m.room.encrypted", "a/b", "%2F", "x y+z?&=#"]) | _TEXT.filter(
        lambda text: text not in ("", ".", "..")
    )


@st.composite
def send_to_device_requests(draw: st.DrawFn) -> SendToDeviceRequest:
    """Messages to devices of any event type; contents, and whole maps, may be malformed."""
    parameters = {"event_type": "m.dummy", "txn_id": "1"}
    members: dict[str, Any] = {
        "messages": _messages(draw, lambda raw: SendToDeviceRequest.from_json({"messages": raw}, **parameters).messages)
    }
    _malformed_members(draw, lambda body: SendToDeviceRequest.from_json(body, **parameters), members, "messages")
    return SendToDeviceRequest(
        event_type=draw(_path_segments()), txn_id=draw(_path_segments()), **members, extra=_extra(draw, "messages")
    )


@st.composite
def send_to_device_responses(draw: st.DrawFn) -> SendToDeviceResponse:
    """Answers that say nothing but that it is done."""
    return SendToDeviceResponse(extra=_extra(draw))


@st.composite
def device_lists(draw: st.DrawFn) -> DeviceLists:
    """Lists of users whose devices changed, as in ``/sync``; entries, and whole lists, may be malformed."""

    def decode(body: dict[str, Any]) -> DeviceLists:
        read = SyncKeys.from_sync_v2({"device_lists": body}).device_lists
        return DeviceLists() if read is None else read

    return DeviceLists(**_lists(draw, decode))


_SYNC_MEMBERS: Final = {
    "device_lists": "device_lists",
    "one_time_key_counts": "device_one_time_keys_count",
    "unused_fallback_key_types": "device_unused_fallback_key_types",
}


@st.composite
def sync_keys(draw: st.DrawFn, *, sliding: bool = True) -> SyncKeys:
    """What an answer to ``/sync`` says about keys. Any part may be unsaid, said to be empty, or malformed.

    Args:
        draw: supplied by Hypothesis.
        sliding: whether it is for a sliding sync. Otherwise the counts are never unsaid.
    """
    counts = _key_counts() if not sliding else st.none() | _key_counts()
    members: dict[str, Any] = {
        "device_lists": draw(st.none() | device_lists()),
        "one_time_key_counts": draw(counts),
        "unused_fallback_key_types": draw(st.none() | st.lists(_TEXT, max_size=2).map(tuple)),
    }
    if draw(_RARELY):
        name = draw(st.sampled_from(sorted(_SYNC_MEMBERS)))
        members[name] = None
        members["malformed"] = SyncKeys.from_sync_v2({_SYNC_MEMBERS[name]: draw(_NEITHER)}).malformed
    return SyncKeys(**members)


_NEITHER: Final[st.SearchStrategy[Any]] = st.sampled_from([None, 7, True, "x", [None], [["x"]], [{}]])


# --------------------------------------------------------------------------------------------------------------
# The server-server API
# --------------------------------------------------------------------------------------------------------------


@st.composite
def user_keys_query_requests(draw: st.DrawFn) -> UserKeysQueryRequest:
    """A server's questions about all or some devices of some users, perhaps about somebody who is none."""
    return UserKeysQueryRequest(
        device_keys=_asked_devices(draw, UserKeysQueryRequest.from_json), extra=_extra(draw, "device_keys")
    )


@st.composite
def user_keys_query_responses(draw: st.DrawFn) -> UserKeysQueryResponse:
    """A server's answers about devices and identities; entries of every map, and whole maps, may be malformed."""

    def decode(body: dict[str, Any]) -> UserKeysQueryResponse:
        return UserKeysQueryResponse.from_json({"device_keys": {}, **body})

    members = _key_maps(draw, decode, "master", "self_signing")
    names = tuple(members)
    _malformed_members(draw, decode, members, *names)
    return UserKeysQueryResponse(**members, extra=_extra(draw, *names))


@st.composite
def user_keys_claim_requests(draw: st.DrawFn) -> UserKeysClaimRequest:
    """A server's claims of one key of each of some devices, perhaps of somebody who is none."""
    return UserKeysClaimRequest(
        one_time_keys=_asked_keys(draw, UserKeysClaimRequest.from_json), extra=_extra(draw, "one_time_keys")
    )


@st.composite
def user_keys_claim_responses(draw: st.DrawFn) -> UserKeysClaimResponse:
    """Keys that a server hands out; at every level, something malformed may stand."""
    members: dict[str, Any] = {"one_time_keys": _claimed_keys(draw, UserKeysClaimResponse.from_json, bare=False)}
    _malformed_members(draw, UserKeysClaimResponse.from_json, members, "one_time_keys")
    return UserKeysClaimResponse(**members, extra=_extra(draw, "one_time_keys"))


@st.composite
def user_devices_requests(draw: st.DrawFn) -> UserDevicesRequest:
    """Questions about all devices of one user."""
    return UserDevicesRequest(user_id=draw(_users()))


_DEVICES_MEMBERS: Final = ("user_id", "stream_id", "devices", "master_key", "self_signing_key")


@st.composite
def user_devices_responses(draw: st.DrawFn) -> UserDevicesResponse:
    """Lists of devices, with and without keys and names; each of them, and the whole list, may be malformed."""

    def decode(body: dict[str, Any]) -> UserDevicesResponse:
        return UserDevicesResponse.from_json({"user_id": "@a:b", "stream_id": 0, "devices": [], **body})

    def device_aside(place: int, raw: Any) -> Any:
        return decode({"devices": [{}] * place + [raw]}).devices[place]

    def device(place: int) -> UserDevice | Rejection:
        if draw(_RARELY):
            rejection: Rejection = device_aside(place, draw(_NOT_KEYS))
            return rejection
        device_id = draw(_DEVICE_IDS)
        return UserDevice(
            device_id=device_id,
            keys=_keys_or_set_aside(
                draw, _devices(), lambda raw: device_aside(place, {"device_id": device_id, "keys": raw}).keys
            ),
            device_display_name=draw(st.none() | _TEXT),
            extra=_extra(draw, "device_id", "keys", "device_display_name"),
        )

    members: dict[str, Any] = {"devices": tuple(device(place) for place in range(draw(st.integers(0, 3))))}
    for usage in ("master", "self_signing"):

        def key_aside(raw: Any, name: str = f"{usage}_key") -> Any:
            return getattr(decode({name: raw}), name)

        members[f"{usage}_key"] = _keys_or_set_aside(draw, cross_signing_keys(usage), key_aside)
    _malformed_members(draw, decode, members, "devices", malformed=_NOT_ARRAYS)
    return UserDevicesResponse(
        user_id=draw(_users()), stream_id=draw(_INTEGERS), **members, extra=_extra(draw, *_DEVICES_MEMBERS)
    )


@st.composite
def server_keys(draw: st.DrawFn) -> ServerKeys:
    """Documents of servers' keys: signed by each of one or two keys, perhaps with old keys and unknown members."""
    versions = draw(st.lists(st.sampled_from(["auto", "a_1", "a/b~c"]), min_size=1, max_size=2, unique=True))
    old = st.builds(
        lambda number, expired: OldVerifyKey(sample_secret_key(f"old {number}").public_key, expired),
        st.integers(0, 3),
        _COUNTS,
    )
    document = ServerKeys.build(
        server_name=draw(server_names()),
        signers=[sample_secret_key(f"server {version}").signer(f"ed25519:{version}") for version in versions],
        valid_until_ts=draw(_COUNTS),
        old_verify_keys=draw(st.dictionaries(st.sampled_from(["ed25519:old", "ed25519:0"]), old)),
        extra=draw(_signed_extra()),
    )
    if not draw(_RARELY):
        return document
    return ServerKeys.from_json({**document.to_json(), "unsigned": draw(json_values())})


def server_keys_requests() -> st.SearchStrategy[ServerKeysRequest]:
    """The question after a server's keys. There is one."""
    return st.builds(ServerKeysRequest)


def server_keys_responses() -> st.SearchStrategy[ServerKeysResponse]:
    """Answers with such documents."""
    return server_keys().map(lambda document: ServerKeysResponse(server_keys=document))


_EDU_MEMBERS: Final = ("edu_type", "content")


def edus() -> st.SearchStrategy[Edu]:
    """EDUs of every kind, one that this library does not know among them."""
    return device_list_updates() | signing_key_updates() | direct_to_device_edus() | unknown_edus()


@st.composite
def device_list_updates(draw: st.DrawFn) -> DeviceListUpdate:
    """``m.device_list_update``: with keys, without, with malformed ones."""

    def set_aside(raw: Any) -> Any:
        content = {"user_id": "@a:b", "device_id": "D", "stream_id": 0, "keys": raw}
        return _read(DeviceListUpdate, content).keys

    known = ("user_id", "device_id", "stream_id", "prev_id", "deleted", "device_display_name", "keys")
    return DeviceListUpdate(
        user_id=draw(_users()),
        device_id=draw(_DEVICE_IDS),
        stream_id=draw(_INTEGERS),
        prev_ids=tuple(draw(st.lists(_INTEGERS, max_size=2))),
        deleted=draw(st.booleans()),
        device_display_name=draw(st.none() | _TEXT),
        keys=_keys_or_set_aside(draw, _devices(), set_aside),
        extra=_extra(draw, *known),
        beside=_extra(draw, *_EDU_MEMBERS),
    )


@st.composite
def signing_key_updates(draw: st.DrawFn) -> SigningKeyUpdate:
    """``m.signing_key_update``: either key may be there, missing or malformed."""
    members: dict[str, Any] = {}
    for usage in ("master", "self_signing"):

        def set_aside(raw: Any, name: str = f"{usage}_key") -> Any:
            return getattr(_read(SigningKeyUpdate, {"user_id": "@a:b", name: raw}), name)

        members[f"{usage}_key"] = _keys_or_set_aside(draw, cross_signing_keys(usage), set_aside)
    return SigningKeyUpdate(
        user_id=draw(_users()),
        **members,
        extra=_extra(draw, "user_id", "master_key", "self_signing_key"),
        beside=_extra(draw, *_EDU_MEMBERS),
    )


@st.composite
def direct_to_device_edus(draw: st.DrawFn) -> DirectToDevice:
    """``m.direct_to_device``: messages to devices, some of which may be malformed."""

    def decode(raw: dict[str, Any]) -> Mapping[str, Any]:
        content = {"sender": "@a:b", "type": "m.dummy", "message_id": "1", "messages": raw}
        return _read(DirectToDevice, content).messages

    return DirectToDevice(
        sender=draw(_users()),
        event_type=draw(_TEXT),
        message_id=draw(_TEXT),
        messages=_messages(draw, decode),
        extra=_extra(draw, "sender", "type", "message_id", "messages"),
        beside=_extra(draw, *_EDU_MEMBERS),
    )


@st.composite
def unknown_edus(draw: st.DrawFn) -> UnknownEdu:
    """EDUs of other types, with any content."""
    return UnknownEdu(
        edu_type=draw(st.sampled_from(["m.typing", "m.presence", "org.example", ""])),
        content=_extra(draw),
        beside=_extra(draw, *_EDU_MEMBERS),
    )


@st.composite
def send_transaction_requests(draw: st.DrawFn) -> SendTransactionRequest:
    """Transactions with a few EDUs of every kind and events that are passed on, malformed ones among both."""
    malformed = st.sampled_from([None, {}, {"edu_type": "m.direct_to_device", "content": {"sender": 5}}])
    body: dict[str, Any] = {
        **_extra(draw, *_TRANSACTION_MEMBERS),
        "origin": draw(server_names()),
        "origin_server_ts": draw(_COUNTS),
        "pdus": draw(st.lists(json_objects() | _NOT_OBJECTS, max_size=2)),
        "edus": draw(st.lists(malformed | edus().map(lambda edu: edu.to_json()), max_size=3)),
    }
    return SendTransactionRequest.from_json(body, txn_id=draw(_path_segments()))


_TRANSACTION_MEMBERS: Final = ("origin", "origin_server_ts", "pdus", "edus")


@st.composite
def send_transaction_responses(draw: st.DrawFn) -> SendTransactionResponse:
    """What became of the events of a transaction."""
    pdus = draw(st.dictionaries(st.sampled_from(["$a", "$b"]), st.just({}) | st.just({"error": "no"}), max_size=2))
    return SendTransactionResponse(pdus=pdus, extra=_extra(draw, "pdus"))


EduT = TypeVar("EduT", DeviceListUpdate, SigningKeyUpdate, DirectToDevice)


def _read(kind: type[EduT], content: dict[str, Any]) -> EduT:
    edu: Any = read_edu({"edu_type": kind.edu_type, "content": content})
    read: EduT = edu
    return read


# --------------------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------------------


@st.composite
def user_interactive_auths(draw: st.DrawFn) -> UserInteractiveAuth:
    """What has to be proved: some flows, perhaps none, with and without a session."""
    stages = st.lists(st.sampled_from(["m.login.password", "m.login.dummy", "m.oauth"]), max_size=2).map(tuple)
    flows = st.builds(AuthenticationFlow, stages=stages, extra=json_objects("stages"))
    return UserInteractiveAuth(
        flows=tuple(draw(st.lists(flows, max_size=2))),
        session=draw(st.none() | _TEXT),
        params=_extra(draw),
        completed=draw(stages),
    )


@st.composite
def matrix_errors(draw: st.DrawFn) -> MatrixError:
    """Answers that say no, with any status; among those with status 401, such that ask for authentication."""
    status = draw(st.just(401) | st.integers(400, 599))
    known = ("errcode", "error", "retry_after_ms", *AUTH_MEMBERS)
    return MatrixError(
        status=status,
        errcode=draw(st.none() | st.sampled_from(["M_UNKNOWN", "M_LIMIT_EXCEEDED", "ORG_EXAMPLE", ""])),
        error=draw(_TEXT),
        retry_after_ms=draw(st.none() | _COUNTS),
        user_interactive=draw(st.none() | user_interactive_auths()) if status == 401 else None,
        extra=_extra(draw, *known),
    )
