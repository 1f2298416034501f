"""What we build, judged by the specification's own schemas of events; and the specification's example, read by us.

The schemas lie beside a checkout, in ``../shared``. Where they are not there, or where what reads them is not
installed, these tests are skipped.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from events.megolm_samples import CURVE, ED, OTHER_CURVE, ROOM, historic, megolm_session
from matrix_e2e_keys.errors import Reason, RemoteProtocolError
from matrix_e2e_keys.events.contents import EventContent
from matrix_e2e_keys.events.encrypted import ENCRYPTED, MegolmEncryptedContent, OlmEncryptedContent
from matrix_e2e_keys.events.key_bundles import HistoricRoomKey, RoomKeyBundle
from matrix_e2e_keys.events.key_requests import RoomKeyRequestContent
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent, RoomKeyContent
from matrix_e2e_keys.events.secrets import DummyContent, SecretName, SecretRequestContent, SecretSendContent
from matrix_e2e_keys.events.withheld import RoomKeyWithheldContent, WithheldCode, WithheldNotice

yaml = pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema")

SPEC = Path(__file__).parents[3] / "shared" / "spec" / "data"
EVENTS = "event-schemas/schema/"
BUNDLE = "api/client-server/definitions/room_key_bundle.yaml"
FILES = (
    *(
        f"{EVENTS}{name}.yaml"
        for name in (
            "m.room_key",
            "m.forwarded_room_key",
            "m.room_key.withheld",
            "m.room_key_request",
            "m.secret.request",
            "m.secret.send",
            "m.dummy",
            ENCRYPTED,
        )
    ),
    BUNDLE,
)

pytestmark = pytest.mark.skipif(not SPEC.is_dir(), reason="../shared is not here")

# A file that the ones above refer to and that is not there, with what stands in for it: "The minimal set of keys".
ABSENT: dict[str, Any] = {
    f"{EVENTS}core-event-schema/event.yaml": {
        "type": "object",
        "properties": {"content": {"type": "object"}, "type": {"type": "string"}},
        "required": ["content", "type"],
    }
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
        return load((folder / tree["$ref"]).resolve().relative_to(SPEC.resolve()).as_posix(), absent)
    return {name: _resolved(member, folder, absent) for name, member in tree.items()}


def faults(name: str, document: Any) -> list[str]:
    """Return what the specification's schema has against a document."""
    validator = jsonschema.Draft202012Validator(load(name, set()))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def event(content: EventContent) -> dict[str, Any]:
    return {"type": content.event_type, "content": content.to_json()}


def test_what_is_not_there_is_known() -> None:
    absent: set[str] = set()
    for name in FILES:
        load(name, absent)
    assert absent == set(ABSENT)


def test_the_schemas_are_schemas() -> None:
    for name in FILES:
        jsonschema.Draft202012Validator.check_schema(load(name, set()))


# As little as possible, and as much as possible.
BUILT: list[EventContent] = [
    RoomKeyContent.build(room_id=ROOM, session_key=megolm_session().shared, shared_history=False),
    RoomKeyContent.build(room_id=ROOM, session_key=megolm_session().shared, shared_history=True),
    ForwardedRoomKeyContent.build(
        room_id=ROOM, session_key=megolm_session().exported, sender_key=CURVE, sender_claimed_ed25519_key=ED
    ),
    ForwardedRoomKeyContent.build(
        room_id=ROOM,
        session_key=megolm_session().exported,
        sender_key=CURVE,
        sender_claimed_ed25519_key=ED,
        forwarding_chain=[CURVE, OTHER_CURVE],
        withheld=WithheldNotice(code="m.unverified", reason="because"),
        shared_history=True,
    ),
    *(
        RoomKeyWithheldContent.build(code=code, sender_key=CURVE, room_id=ROOM, session_id="x", reason="because")
        for code in WithheldCode
        if code not in (WithheldCode.NO_OLM, WithheldCode.HISTORY_NOT_SHARED)
    ),
    RoomKeyWithheldContent.build(code=WithheldCode.NO_OLM, sender_key=CURVE),
    RoomKeyRequestContent.build(request_id="1", requesting_device_id="PHONE", room_id=ROOM, session_id="x"),
    RoomKeyRequestContent.build(
        request_id="1", requesting_device_id="PHONE", room_id=ROOM, session_id="x", sender_key=CURVE
    ),
    RoomKeyRequestContent.build_cancellation(request_id="1", requesting_device_id="PHONE"),
    SecretRequestContent.build(name=SecretName.MEGOLM_BACKUP_V1, request_id="1", requesting_device_id="PHONE"),
    SecretRequestContent.build_cancellation(request_id="1", requesting_device_id="PHONE"),
    SecretSendContent.build(request_id="1", secret="x"),
    DummyContent.build(),
]


@pytest.mark.parametrize("content", BUILT, ids=lambda content: content.event_type)
def test_what_we_build_is_what_the_specification_says(content: EventContent) -> None:
    name = f"{EVENTS}{content.event_type}.yaml"
    assert faults(name, event(content)) == []
    assert faults(name, {**event(content), "type": "m.other"}) != []
    assert faults(name, {**event(content), "content": []}) != []


def test_a_bundle_is_what_the_specification_says() -> None:
    key = HistoricRoomKey.build(
        room_id=ROOM, session_key=megolm_session().exported, sender_key=CURVE, sender_claimed_ed25519_key=ED
    )
    missing = RoomKeyWithheldContent.build_for_bundle(room_id=ROOM, session_id="x", sender_key=CURVE, reason="because")
    bundle = RoomKeyBundle.build(room_id=ROOM, room_keys=[key], withheld=[missing])
    assert faults(BUNDLE, bundle.to_json()) == []
    assert faults(BUNDLE, RoomKeyBundle().to_json()) == []


@pytest.mark.parametrize("name", historic())
def test_what_a_bundle_needs_we_need(name: str) -> None:
    # There, "required" stands beside "items", where it says nothing of them.
    assert name in load(BUNDLE, set())["properties"]["room_keys"]["required"]
    document: dict[str, Any] = {"room_keys": [historic(**{name: ...})]}
    assert [rejection.reason for rejection in RoomKeyBundle.from_json(document).rejected] == [Reason.MISSING_MEMBER]


@pytest.mark.parametrize("content", BUILT, ids=lambda content: content.event_type)
def test_what_the_specification_needs_we_need(content: EventContent) -> None:
    obj = content.to_json()
    for name in obj:
        without = {member: value for member, value in obj.items() if member != name}
        is_needed = bool(faults(f"{EVENTS}{content.event_type}.yaml", {"type": content.event_type, "content": without}))
        try:
            type(content).from_json(without)
        except RemoteProtocolError as error:
            is_refused = error.reason is Reason.MISSING_MEMBER
        else:
            is_refused = False
        # What is needed in one case and not in another, the schemas say in words only.
        assert is_refused or not is_needed, name


def test_encrypted_contents_too() -> None:
    name = f"{EVENTS}{ENCRYPTED}.yaml"
    examples = SPEC / "event-schemas" / "examples"
    for file, kind in (
        (f"{ENCRYPTED}$olm.yaml", OlmEncryptedContent),
        (f"{ENCRYPTED}$megolm.yaml", MegolmEncryptedContent),
    ):
        example = yaml.safe_load((examples / file).read_text(encoding="utf-8"))
        assert example["type"] == kind.event_type
        assert faults(name, example) == []


def test_the_example_of_a_room_key_is_read_up_to_its_key() -> None:
    """Its session key is cut off with dots."""
    path = SPEC / "event-schemas" / "examples" / "m.room_key.yaml"
    example = yaml.safe_load(path.read_text(encoding="utf-8"))["content"]
    with pytest.raises(RemoteProtocolError) as caught:
        RoomKeyContent.from_json(example)
    assert (caught.value.path, caught.value.reason) == ("/session_key", Reason.INVALID_BASE64)
    session = megolm_session()
    real = {**example, "session_id": session.session_id, "session_key": session.shared}
    assert RoomKeyContent.from_json(real).shared_history is False
