"""What we emit, judged by the specification's own schemas; and the specification's own examples, read by us.

The schemas lie beside a checkout, in ``../shared``. Where they are not there, or where what reads them is not
installed, these tests are skipped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from json_pointers import rejections_in
from matrix_e2e_keys import (
    AuthenticationFlow,
    CrossSigningKey,
    DeviceKeys,
    DeviceListUpdate,
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
    DirectToDevice,
    HttpResponse,
    KeysChangesResponse,
    KeysClaimRequest,
    KeysClaimResponse,
    KeysQueryRequest,
    KeysQueryResponse,
    KeysUploadRequest,
    KeysUploadResponse,
    MatrixError,
    OldVerifyKey,
    OneTimeKey,
    Reason,
    RemoteProtocolError,
    SendToDeviceRequest,
    SendToDeviceResponse,
    ServerKeys,
    ServerKeysResponse,
    SignatureFailure,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
    SignedJson,
    SigningKeyUpdate,
    UserDevice,
    UserDevicesResponse,
    UserInteractiveAuth,
    UserKeysClaimRequest,
    UserKeysClaimResponse,
    UserKeysQueryRequest,
    UserKeysQueryResponse,
    encode_canonical_json,
    read_edu,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key

yaml = pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema")

SPEC = Path(__file__).parents[2] / "shared" / "spec" / "data" / "api"

pytestmark = pytest.mark.skipif(not SPEC.is_dir(), reason="../shared is not here")

CLIENT_KEYS = "client-server/keys.yaml"
CROSS_SIGNING = "client-server/cross_signing.yaml"
TO_DEVICE = "client-server/to_device.yaml"
USER_KEYS = "server-server/user_keys.yaml"
USER_DEVICES = "server-server/user_devices.yaml"
SERVER_KEYS = "server-server/keys_server.yaml"
EDUS = "server-server/definitions/event-schemas/"

FILES = (
    CLIENT_KEYS,
    CROSS_SIGNING,
    TO_DEVICE,
    USER_KEYS,
    USER_DEVICES,
    SERVER_KEYS,
    EDUS + "m.device_list_update.yaml",
    EDUS + "m.direct_to_device.yaml",
    EDUS + "m.signing_key_update.yaml",
)


# --------------------------------------------------------------------------------------------------------------
# Reading schemas
# --------------------------------------------------------------------------------------------------------------

# Files that the ones above refer to and that are not there, with what stands in for them.
ABSENT: dict[str, Any] = {
    # Server-server API, "EDUs": "edu_type" and "content" are what an EDU consists of.
    "server-server/definitions/edu.yaml": {
        "type": "object",
        "properties": {"edu_type": {"type": "string"}, "content": {"type": "object"}},
        "required": ["edu_type", "content"],
    },
    # How requests are authenticated: no part of any body.
    "client-server/definitions/security.yaml": {},
    # An example, not a schema.
    "server-server/examples/server_key.json": {},
}


def load(name: str, absent: set[str]) -> Any:
    """Return a file with what it refers to put in place. Files that are not there are added to ``absent``."""
    path = SPEC / name
    if not path.is_file():
        absent.add(name)
        return copy.deepcopy(ABSENT[name])
    return _resolved(yaml.safe_load(path.read_text(encoding="utf-8")), path.parent, absent)


def _resolved(tree: Any, folder: Path, absent: set[str]) -> Any:
    if isinstance(tree, list):
        return [_resolved(item, folder, absent) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "$ref" in tree:
        assert set(tree) == {"$ref"}
        file, _, fragment = tree["$ref"].partition("#")
        target = load((folder / file).resolve().relative_to(SPEC.resolve()).as_posix(), absent)
        for step in fragment.split("/")[1:]:
            target = target.get(step, {})
        return target
    return {name: _resolved(member, folder, absent) for name, member in tree.items()}


def content(name: str, path: str, method: str, what: str) -> Any:
    """Return what a file says of a body: ``what`` is ``"request"`` or a status."""
    operation = load(name, set())["paths"][path][method]
    place = operation["requestBody"] if what == "request" else operation["responses"][what]
    return place["content"]["application/json"]


def schema(where: tuple[str, ...]) -> Any:
    """Return the schema of a body, or of an EDU."""
    return load(where[0], set()) if len(where) == 1 else content(*where)["schema"]


def faults(where: tuple[str, ...], body: Any) -> list[str]:
    """Return what the specification's schema has against a body."""
    validator = jsonschema.Draft202012Validator(schema(where))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]


def test_what_is_not_there_is_known() -> None:
    absent: set[str] = set()
    for name in FILES:
        load(name, absent)
    assert absent == set(ABSENT)


def test_the_schemas_are_schemas() -> None:
    for where in WHERE.values():
        jsonschema.Draft202012Validator.check_schema(schema(where))


# --------------------------------------------------------------------------------------------------------------
# What we emit
# --------------------------------------------------------------------------------------------------------------

WHERE: dict[str, tuple[str, ...]] = {
    "keys/upload": (CLIENT_KEYS, "/keys/upload", "post", "request"),
    "keys/upload, answer": (CLIENT_KEYS, "/keys/upload", "post", "200"),
    "keys/query": (CLIENT_KEYS, "/keys/query", "post", "request"),
    "keys/query, answer": (CLIENT_KEYS, "/keys/query", "post", "200"),
    "keys/claim": (CLIENT_KEYS, "/keys/claim", "post", "request"),
    "keys/claim, answer": (CLIENT_KEYS, "/keys/claim", "post", "200"),
    "keys/changes, answer": (CLIENT_KEYS, "/keys/changes", "get", "200"),
    "device_signing/upload": (CROSS_SIGNING, "/keys/device_signing/upload", "post", "request"),
    "device_signing/upload, answer": (CROSS_SIGNING, "/keys/device_signing/upload", "post", "200"),
    "signatures/upload": (CROSS_SIGNING, "/keys/signatures/upload", "post", "request"),
    "signatures/upload, answer": (CROSS_SIGNING, "/keys/signatures/upload", "post", "200"),
    "sendToDevice": (TO_DEVICE, "/sendToDevice/{eventType}/{txnId}", "put", "request"),
    "sendToDevice, answer": (TO_DEVICE, "/sendToDevice/{eventType}/{txnId}", "put", "200"),
    "user/keys/query": (USER_KEYS, "/user/keys/query", "post", "request"),
    "user/keys/query, answer": (USER_KEYS, "/user/keys/query", "post", "200"),
    "user/keys/claim": (USER_KEYS, "/user/keys/claim", "post", "request"),
    "user/keys/claim, answer": (USER_KEYS, "/user/keys/claim", "post", "200"),
    "user/devices, answer": (USER_DEVICES, "/user/devices/{userId}", "get", "200"),
    "server, answer": (SERVER_KEYS, "/server", "get", "200"),
    "m.device_list_update": (EDUS + "m.device_list_update.yaml",),
    "m.direct_to_device": (EDUS + "m.direct_to_device.yaml",),
    "m.signing_key_update": (EDUS + "m.signing_key_update.yaml",),
}

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
BARE = OneTimeKey.from_json("curve25519:x", sample_curve25519_key("bare").to_base64())
ONE = ALICE.one_time_key("PHONE", "AAAAHg")
SPARE = ALICE.one_time_key("PHONE", "AAAAGj", fallback=True)
SIGNER = sample_secret_key("a.example").signer("ed25519:a_1")
OLD = OldVerifyKey(sample_secret_key("a.example, old").public_key, 1_532_645_052_628)
AUTH = UserInteractiveAuth(flows=(AuthenticationFlow(stages=("m.login.password",)),), session="xxxxx")


def named_device() -> DeviceKeys:
    device = ALICE.device("a/b~c")
    return device.with_signed(device.signed.with_unsigned({"device_display_name": "odd"}))


# name of the body: as little as possible, and as much as possible
EMITTED: dict[str, list[Any]] = {
    "keys/upload": [
        KeysUploadRequest(),
        KeysUploadRequest(
            device_keys=ALICE.device("PHONE"),
            one_time_keys={"signed_curve25519:AAAAHg": ONE, "curve25519:x": BARE},
            fallback_keys={"signed_curve25519:AAAAGj": SPARE},
            extra={"org.example": 1.5},
        ),
    ],
    "keys/upload, answer": [
        KeysUploadResponse(one_time_key_counts={}),
        KeysUploadResponse(one_time_key_counts={"signed_curve25519": 20, "curve25519": 0}, extra={"x": None}),
    ],
    "keys/query": [
        KeysQueryRequest.for_users([]),
        KeysQueryRequest.for_devices({ALICE.user_id: ["PHONE", "a/b"], BOB.user_id: []}, timeout=10_000),
    ],
    "keys/query, answer": [
        KeysQueryResponse(),
        KeysQueryResponse(
            device_keys={ALICE.user_id: {"PHONE": ALICE.device("PHONE"), "a/b~c": named_device()}, BOB.user_id: {}},
            master_keys={ALICE.user_id: ALICE.master_key, BOB.user_id: ALICE.verified(BOB.master_key)},
            self_signing_keys={ALICE.user_id: ALICE.self_signing_key},
            user_signing_keys={ALICE.user_id: ALICE.user_signing_key},
            failures={"c.example": {"status": 503}},
        ),
    ],
    "keys/claim": [
        KeysClaimRequest.for_devices({}),
        KeysClaimRequest.for_devices({ALICE.user_id: ["PHONE", "a/b"], BOB.user_id: []}, timeout=0),
    ],
    "keys/claim, answer": [
        KeysClaimResponse(),
        KeysClaimResponse(
            one_time_keys={
                ALICE.user_id: {"PHONE": {"signed_curve25519:AAAAGj": SPARE}, "WEB": {"curve25519:x": BARE}},
                BOB.user_id: {},
            },
            failures={"c.example": {}},
        ),
    ],
    "keys/changes, answer": [
        KeysChangesResponse(),
        KeysChangesResponse(changed=(ALICE.user_id,), left=(BOB.user_id, "@carol:c.example")),
    ],
    "device_signing/upload": [
        DeviceSigningUploadRequest(),
        DeviceSigningUploadRequest(
            master_key=ALICE.master_key,
            self_signing_key=ALICE.self_signing_key,
            user_signing_key=ALICE.user_signing_key,
        ).with_auth(AUTH.auth("m.login.password", {"password": "p", "identifier": {"type": "m.id.user"}})),
    ],
    "device_signing/upload, answer": [DeviceSigningUploadResponse(), DeviceSigningUploadResponse(extra={"x": 1})],
    "signatures/upload": [
        SignaturesUploadRequest.for_keys([]),
        SignaturesUploadRequest.for_keys([ALICE.device("PHONE"), ALICE.verified(BOB.master_key)]),
    ],
    "signatures/upload, answer": [
        SignaturesUploadResponse(),
        SignaturesUploadResponse(
            failures={ALICE.user_id: {"PHONE": SignatureFailure(errcode="M_INVALID_SIGNATURE", error="Invalid")}}
        ),
    ],
    "sendToDevice": [
        SendToDeviceRequest(event_type="m.x", txn_id="1", messages={}),
        SendToDeviceRequest(
            event_type="m.room.encrypted", txn_id="1", messages={BOB.user_id: {"*": {}, "PHONE": {"body": ["x", 1]}}}
        ),
    ],
    "sendToDevice, answer": [SendToDeviceResponse(), SendToDeviceResponse(extra={"x": 1})],
    "user/keys/query": [
        UserKeysQueryRequest.for_devices({}),
        UserKeysQueryRequest.for_devices({ALICE.user_id: ["PHONE"], BOB.user_id: []}),
    ],
    "user/keys/query, answer": [
        UserKeysQueryResponse(),
        UserKeysQueryResponse(
            device_keys={ALICE.user_id: {"PHONE": ALICE.device("PHONE"), "a/b~c": named_device()}, BOB.user_id: {}},
            master_keys={ALICE.user_id: ALICE.master_key},
            self_signing_keys={ALICE.user_id: ALICE.self_signing_key},
        ),
    ],
    "user/keys/claim": [
        UserKeysClaimRequest(one_time_keys={}),
        UserKeysClaimRequest(one_time_keys={ALICE.user_id: {"PHONE": "signed_curve25519"}, BOB.user_id: {}}),
    ],
    "user/keys/claim, answer": [
        UserKeysClaimResponse(),
        UserKeysClaimResponse(
            one_time_keys={
                ALICE.user_id: {"PHONE": {"signed_curve25519:AAAAHg": ONE}, "WEB": {"curve25519:x": BARE}},
                BOB.user_id: {},
            }
        ),
    ],
    "user/devices, answer": [
        UserDevicesResponse(user_id=ALICE.user_id, stream_id=0, devices=()),
        UserDevicesResponse(
            user_id=ALICE.user_id,
            stream_id=5,
            devices=(
                UserDevice(device_id="PHONE", keys=ALICE.device("PHONE")),
                UserDevice(device_id="a/b~c", keys=named_device(), device_display_name="odd", extra={"x": 1}),
            ),
            master_key=ALICE.master_key,
            self_signing_key=ALICE.self_signing_key,
        ),
    ],
    "server, answer": [
        ServerKeysResponse(
            server_keys=ServerKeys.build(server_name="a.example", signers=[SIGNER], valid_until_ts=1_052_262_000_000)
        ),
        ServerKeysResponse(
            server_keys=ServerKeys.build(
                server_name="a.example:8448",
                signers=[SIGNER],
                valid_until_ts=1_052_262_000_000,
                old_verify_keys={"ed25519:0ldK3y": OLD},
                extra={"added": {"x": [1]}},
            )
        ),
    ],
    "m.device_list_update": [
        DeviceListUpdate(user_id=ALICE.user_id, device_id="PHONE", stream_id=1),
        DeviceListUpdate(
            user_id=ALICE.user_id,
            device_id="PHONE",
            stream_id=6,
            prev_ids=(4, 5),
            deleted=True,
            device_display_name="Mobile",
            keys=ALICE.device("PHONE"),
            extra={"x": 1},
            beside={"y": 1},
        ),
    ],
    "m.direct_to_device": [
        DirectToDevice(sender=ALICE.user_id, event_type="m.x", message_id="m", messages={}),
        DirectToDevice(
            sender=ALICE.user_id,
            event_type="m.room.encrypted",
            message_id="hiezohf6Hoo7kaev",
            messages={BOB.user_id: {"*": {}, "PHONE": {"body": ["x", 1]}}},
        ),
    ],
    "m.signing_key_update": [
        SigningKeyUpdate(user_id=ALICE.user_id),
        SigningKeyUpdate(user_id=ALICE.user_id, master_key=ALICE.master_key, self_signing_key=ALICE.self_signing_key),
    ],
}


def test_nothing_is_left_out() -> None:
    """Every body of these files is judged, and every member that a schema names is emitted once."""
    assert list(EMITTED) == list(WHERE)
    bodies = {where for where in WHERE.values() if len(where) > 1}
    for name in FILES:
        for path, methods in load(name, set()).get("paths", {}).items():
            for method, operation in methods.items():
                if "requestBody" in operation:
                    assert (name, path, method, "request") in bodies
                assert (name, path, method, "200") in bodies
    for name, (_, most) in EMITTED.items():
        assert set(schema(WHERE[name]).get("properties", {})) <= set(most.to_json()), name


@pytest.mark.parametrize("name", WHERE)
def test_what_we_emit_is_of_the_form_specified(name: str) -> None:
    for value in EMITTED[name]:
        assert faults(WHERE[name], value.to_json()) == []


@pytest.mark.parametrize("name", WHERE)
def test_the_schema_can_refuse(name: str) -> None:
    where, (_, most) = WHERE[name], EMITTED[name]
    assert faults(where, [])
    whole = schema(where)
    properties = dict(whole.get("properties", {}))
    for part in whole.get("allOf", ()):
        properties.update(part["properties"])
    body = most.to_json()
    for member in properties:
        assert faults(where, {**body, member: False}), member


def _set(value: Any, *at: str | int) -> Callable[[Any], None]:
    def change(body: Any) -> None:
        for step in at[:-1]:
            body = body[step]
        if value is None:
            del body[at[-1]]
        else:
            body[at[-1]] = value

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("keys/upload", _set(None, "device_keys", "signatures")),
        ("keys/upload", _set(None, "one_time_keys", "signed_curve25519:AAAAHg", "key")),
        ("keys/upload", _set(5, "fallback_keys", "signed_curve25519:AAAAGj")),
        ("keys/upload, answer", _set("20", "one_time_key_counts", "signed_curve25519")),
        ("keys/query", _set("PHONE", "device_keys", ALICE.user_id)),
        ("keys/query, answer", _set("x", "device_keys", ALICE.user_id, "PHONE", "algorithms")),
        ("keys/query, answer", _set(["device"], "master_keys", ALICE.user_id, "usage")),
        ("keys/query, answer", _set({}, "self_signing_keys", ALICE.user_id, "keys")),
        ("keys/query, answer", _set("down", "failures", "c.example")),
        ("keys/claim", _set(["signed_curve25519"], "one_time_keys", ALICE.user_id, "PHONE")),
        ("keys/claim, answer", _set([], "one_time_keys", ALICE.user_id, "PHONE", "signed_curve25519:AAAAGj")),
        ("keys/changes, answer", _set(5, "changed", 0)),
        ("device_signing/upload", _set(None, "master_key", "usage")),
        ("signatures/upload", _set("x", ALICE.user_id, "PHONE")),
        ("signatures/upload, answer", _set("x", "failures", ALICE.user_id, "PHONE")),
        ("sendToDevice", _set("x", "messages", BOB.user_id, "*")),
        ("user/keys/query, answer", _set(5, "device_keys", ALICE.user_id, "PHONE", "device_id")),
        ("user/keys/claim, answer", _set([], "one_time_keys", ALICE.user_id, "PHONE", "signed_curve25519:AAAAHg")),
        ("user/devices, answer", _set("5", "stream_id")),
        ("user/devices, answer", _set(5, "devices", 0, "device_id")),
        ("server, answer", _set(None, "signatures")),
        ("server, answer", _set(None, "old_verify_keys", "ed25519:0ldK3y", "expired_ts")),
        ("m.device_list_update", _set("5", "content", "prev_id", 0)),
        ("m.device_list_update", _set("m.typing", "edu_type")),
        ("m.direct_to_device", _set(None, "content", "message_id")),
        ("m.signing_key_update", _set(None, "content", "master_key", "keys")),
    ],
)
def test_the_schema_can_refuse_what_lies_deeper(name: str, change: Callable[[Any], None]) -> None:
    body = copy.deepcopy(EMITTED[name][1].to_json())
    change(body)
    assert faults(WHERE[name], body)


def test_a_device_without_keys_is_beyond_the_schema() -> None:
    """The schema requires ``keys`` of each device; a device that takes no part in encryption has none."""
    response = UserDevicesResponse(user_id=ALICE.user_id, stream_id=1, devices=(UserDevice(device_id="WEB"),))
    assert faults(WHERE["user/devices, answer"], response.to_json()) == ["$.devices[0]: 'keys' is a required property"]


# --------------------------------------------------------------------------------------------------------------
# What the specification prints
# --------------------------------------------------------------------------------------------------------------


def example(where: tuple[str, ...]) -> Any:
    """Return the example of a body: the one that is printed, or else the one that its members' examples make."""
    if len(where) == 1:
        return _composed(load(where[0], set()))
    body = content(*where)
    return body["examples"]["response"]["value"] if "examples" in body else _composed(body["schema"])


def _composed(tree: Any) -> Any:
    if "example" in tree:
        return tree["example"]
    parts = [_composed(part) for part in tree.get("allOf", ())]
    members = {name: _composed(member) for name, member in tree.get("properties", {}).items()}
    parts.append({name: member for name, member in members.items() if member is not None})
    if "items" in tree:
        item = _composed(tree["items"])
        return None if item is None else [item]
    composed: dict[str, Any] = {}
    for part in parts:
        composed |= part or {}
    return composed or None


def models_in(value: Any) -> Iterator[str]:
    """Yield the name of the type of every model in a value."""
    if isinstance(value, DeviceKeys | CrossSigningKey | OneTimeKey | SignedJson):
        yield type(value).__name__
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from models_in(member)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from models_in(item)
    elif attrs.has(type(value)):
        for attribute in attrs.fields(type(value)):
            yield from models_in(getattr(value, attribute.name))


def _send_to_device(body: Any) -> SendToDeviceRequest:
    return SendToDeviceRequest.from_json(body, event_type="m.new_device", txn_id="35")


DECODE: dict[str, Callable[[Any], Any]] = {
    "keys/upload": KeysUploadRequest.from_json,
    "keys/upload, answer": KeysUploadResponse.from_json,
    "keys/query": KeysQueryRequest.from_json,
    "keys/query, answer": KeysQueryResponse.from_json,
    "keys/claim": KeysClaimRequest.from_json,
    "keys/claim, answer": KeysClaimResponse.from_json,
    "keys/changes, answer": KeysChangesResponse.from_json,
    "device_signing/upload": DeviceSigningUploadRequest.from_json,
    "device_signing/upload, answer": DeviceSigningUploadResponse.from_json,
    "signatures/upload": SignaturesUploadRequest.from_json,
    "signatures/upload, answer": SignaturesUploadResponse.from_json,
    "sendToDevice": _send_to_device,
    "sendToDevice, answer": SendToDeviceResponse.from_json,
    "user/keys/query": UserKeysQueryRequest.from_json,
    "user/keys/query, answer": UserKeysQueryResponse.from_json,
    "user/keys/claim": UserKeysClaimRequest.from_json,
    "user/keys/claim, answer": UserKeysClaimResponse.from_json,
    "user/devices, answer": UserDevicesResponse.from_json,
    "m.device_list_update": read_edu,
    "m.direct_to_device": read_edu,
    "m.signing_key_update": read_edu,
}

USER = "@alice:example.com"

# The keys in the examples are placeholders: what is set aside for it, and how many models are left.
FOUND: dict[str, tuple[list[tuple[str, Reason]], list[str]]] = {
    "keys/upload": ([], ["DeviceKeys", "OneTimeKey", "OneTimeKey", "OneTimeKey"]),
    "keys/upload, answer": ([], []),
    "keys/query": ([], []),
    "keys/query, answer": (
        [
            (f"/master_keys/{USER}/keys/ed25519:base64+master+public+key", Reason.WRONG_LENGTH),
            (f"/self_signing_keys/{USER}/keys/ed25519:base64+self+signing+public+key", Reason.KEY_ID_NOT_KEY),
            (f"/user_signing_keys/{USER}/keys/ed25519:base64+user+signing+public+key", Reason.KEY_ID_NOT_KEY),
        ],
        ["DeviceKeys"],
    ),
    "keys/claim": ([], []),
    "keys/claim, answer": ([], ["OneTimeKey"]),
    "keys/changes, answer": ([], []),
    "device_signing/upload": (
        [
            ("/master_key/keys/ed25519:base64+master+public+key", Reason.WRONG_LENGTH),
            ("/self_signing_key/keys/ed25519:base64+self+signing+public+key", Reason.KEY_ID_NOT_KEY),
            ("/user_signing_key/keys/ed25519:base64+user+signing+public+key", Reason.KEY_ID_NOT_KEY),
        ],
        [],
    ),
    "device_signing/upload, answer": ([], []),
    "signatures/upload": ([], ["SignedJson", "SignedJson", "SignedJson"]),
    "signatures/upload, answer": ([], []),
    "sendToDevice": ([], []),
    "sendToDevice, answer": ([], []),
    "user/keys/query": ([], []),
    "user/keys/query, answer": ([], ["DeviceKeys"]),
    "user/keys/claim": ([], []),
    "user/keys/claim, answer": ([], ["OneTimeKey"]),
    "user/devices, answer": (
        [
            ("/master_key/keys/ed25519:base64+master+public+key", Reason.WRONG_LENGTH),
            ("/self_signing_key/keys/ed25519:base64+self+signing+public+key", Reason.KEY_ID_NOT_KEY),
        ],
        ["DeviceKeys"],
    ),
    "m.device_list_update": ([], ["DeviceKeys"]),
    "m.direct_to_device": ([], []),
    "m.signing_key_update": (
        [
            ("/content/master_key/keys/ed25519:base64+master+public+key", Reason.WRONG_LENGTH),
            ("/content/self_signing_key/keys/ed25519:base64+self+signing+public+key", Reason.KEY_ID_NOT_KEY),
        ],
        [],
    ),
}


def as_we_write_it(name: str, body: Any) -> Any:
    """Return the example with what we write in another way: empty maps are there, and ``deleted: false`` is not."""
    body = copy.deepcopy(body)
    if name == "user/keys/query, answer":
        body.update(master_keys={}, self_signing_keys={})
    if name == "m.device_list_update":
        assert body["content"].pop("deleted") is False
    return body


@pytest.mark.parametrize("name", DECODE)
def test_the_examples_of_the_specification(name: str) -> None:
    body = example(WHERE[name])
    body = {} if body is None else body
    assert faults(WHERE[name], body) == []
    value = DECODE[name](body)
    set_aside, models = FOUND[name]
    assert [(rejection.path, rejection.reason) for rejection in rejections_in(value)] == set_aside
    assert list(models_in(value)) == models
    assert value.to_json() == as_we_write_it(name, body)


def test_an_example_of_each_body() -> None:
    """All but the keys of a server, whose example is in a file that is not there (see ``ABSENT``)."""
    assert set(WHERE) - set(DECODE) == {"server, answer"}
    assert set(FOUND) == set(DECODE)
    empty = {name for name in DECODE if not example(WHERE[name])}
    assert empty == {"device_signing/upload, answer", "sendToDevice, answer"}


def test_the_examples_in_the_keys_of_a_server() -> None:
    """The keys are placeholders, and one server's document has no entries to set aside: it is refused."""
    whole = schema(WHERE["server, answer"])
    assert whole.pop("example") == {}
    body = _composed(whole)
    assert set(body) == {"server_name", "verify_keys", "old_verify_keys", "valid_until_ts"}
    assert faults(WHERE["server, answer"], body) == ["$: 'signatures' is a required property"]
    with pytest.raises(RemoteProtocolError) as caught:
        ServerKeysResponse.from_json(body)
    assert (caught.value.path, caught.value.reason) == ("/verify_keys/ed25519:abc123/key", Reason.WRONG_LENGTH)
    body["verify_keys"]["ed25519:abc123"]["key"] = SIGNER.public_key.to_base64()
    body["old_verify_keys"]["ed25519:0ldK3y"]["key"] = OLD.key.to_base64()
    keys = ServerKeysResponse.from_json(body).server_keys
    assert (keys.server_name, keys.valid_until_ts) == ("example.org", 1_052_262_000_000)
    assert keys.old_verify_keys == {"ed25519:0ldK3y": OLD}
    assert keys.to_json() == body


@pytest.mark.parametrize(
    ("status", "errcode", "error"),
    [(400, "M_INVALID_SIGNATURE", "Invalid signature"), (403, "M_FORBIDDEN", "Key ID in use")],
)
def test_the_examples_of_refusals(status: int, errcode: str, error: str) -> None:
    where = (CROSS_SIGNING, "/keys/device_signing/upload", "post", str(status))
    body = example(where)
    with pytest.raises(MatrixError) as caught:
        DeviceSigningUploadResponse.from_http(HttpResponse(status=status, body=encode_canonical_json(body)))
    assert (caught.value.status, caught.value.errcode, caught.value.error) == (status, errcode, error)
    assert caught.value == MatrixError(status=status, errcode=errcode, error=error)
    assert faults(where, caught.value.to_json()) == []
