"""For each row of the table of divergences, a story in which it shows; both sides are seen in it.

A story returns what was seen at its end. What was seen before is compared too, and must not differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from interop.divergences import rows_of
from interop.matrix_http import V3
from interop.model_world import Device, Json, Seen, World, post, spoiled, unsigned
from matrix_e2e_keys import HttpRequest
from matrix_e2e_keys.testing.samples import SampleUser

SIGNED: Final = "signed_curve25519"

Story = Callable[[World], list[Seen]]


def alike(seen: Seen) -> Seen:
    """Require that both sides say the same; return it."""
    assert rows_of(seen) == set(), seen
    return seen


def good(seen: Seen) -> Seen:
    """Require that both sides say yes, and the same."""
    assert (seen.here.status, seen.there.status) == (200, 200), seen
    return alike(seen)


def with_keys(world: World, *, server: int = 0, **members: object) -> Device:
    """Return a device of a fresh user, with its keys uploaded."""
    device = world.new_user(server=server)
    good(device.upload({"device_keys": device.keys(), **members}))
    return device


def with_identity(world: World, *roles: str, server: int = 0) -> Device:
    """Return a device of a fresh user who has cross-signing keys."""
    device = with_keys(world, server=server)
    good(device.device_signing(device.user.identity(*roles)))
    return device


def second_of(device: Device, **members: object) -> Device:
    """Return another device of the same user, with its keys uploaded."""
    _, second = device.log_in("SECOND")
    assert second is not None
    good(second.upload({"device_keys": second.keys(), **members}))
    return second


def uploads(*makers: Callable[[Device], object]) -> Story:
    """A fresh user uploads each of some bodies."""
    return lambda world: [device.upload(make(device)) for make in makers for device in [world.new_user()]]


def device_keys(change: Callable[[Json], Json]) -> Callable[[Device], Json]:
    return lambda device: {"device_keys": change(device.keys())}


def one_time_keys(**keys: object) -> Callable[[Device], Json]:
    """Upload keys under names of ours, with ``_`` for a colon."""
    return lambda _: {"one_time_keys": {name.replace("_", ":", 1): key for name, key in keys.items()}}


def named(name: str) -> Callable[[Device], Json]:
    return lambda _: {"one_time_keys": {name: "text"}}


def nested(levels: int) -> Any:
    return json.loads("[" * levels + "]" * levels)


def identities(*makers: Callable[[Device], object], then_query: bool = False) -> Story:
    """A fresh user uploads each of some cross-signing bodies; all is looked at afterwards if that is the story."""

    def story(world: World) -> list[Seen]:
        found: list[Seen] = []
        for make in makers:
            device = with_keys(world)
            seen = device.device_signing(make(device))
            found.append(device.query_of(device) if then_query else seen)
        return found

    return story


def changed(role: str, **changes: object) -> Callable[[Device], Json]:
    """Three cross-signing keys, one of them changed before it was signed."""
    return lambda device: {**device.user.identity(), f"{role}_key": device.user.key(role, **changes)}


def renamed(role: str, make: Callable[[str], tuple[str, str]]) -> Callable[[Device], Json]:
    """Three cross-signing keys, one of them under another name, or in another form."""

    def body(device: Device) -> Json:
        name, text = make(device.user.public_key(role))
        return changed(role, keys={name: text})(device)

    return body


# --------------------------------------------------------------------------------------------------------------
# /keys/upload
# --------------------------------------------------------------------------------------------------------------


def _same_key_again(world: World) -> list[Seen]:
    first, second = with_keys(world), with_keys(world)
    key = first.one_time_key("A")
    good(first.upload({"one_time_keys": key}))
    good(second.claim_of(first))
    again = first.upload({"one_time_keys": key})
    held = second.one_time_key("A")
    good(second.upload({"one_time_keys": held}))
    return [again, second.upload({"one_time_keys": {f"{SIGNED}:B": held[f"{SIGNED}:A"]}})]


def _fallback_key_of_the_same_text(world: World) -> list[Seen]:
    found: list[Seen] = []
    for change in (spoiled, lambda key: {**key, "more": 1}):
        device = with_keys(world)
        key = device.one_time_key("F", fallback=True)
        good(device.upload({"fallback_keys": key}))
        good(device.claim_of(device))
        good(device.upload({"fallback_keys": {name: change(value) for name, value in key.items()}}))
        found.append(device.sync()[0])
    return found


def _refused_upload_leaves_nothing(world: World) -> list[Seen]:
    device = world.new_user()
    good(device.upload({"one_time_keys": device.one_time_key("A")}))
    other = device.one_time_key("A", seed="other")
    refused = alike(device.upload({"device_keys": device.keys(), "one_time_keys": other}))
    assert refused.here.verdict == "400 M_UNKNOWN"
    return [device.query_of(device)]


UPLOAD: Final[dict[str, Story]] = {
    "device-keys-lack-a-member": uploads(
        *(
            device_keys(lambda keys, name=name: {member: keys[member] for member in keys if member != name})  # type: ignore[misc]
            for name in ("algorithms", "device_id", "keys", "signatures", "user_id")
        )
    ),
    "device-keys-null": uploads(lambda _: {"device_keys": None}),
    "number-without-canonical-form": uploads(
        device_keys(lambda keys: {**keys, "more": 1.5}),
        device_keys(lambda keys: {**keys, "more": 2**60}),
        one_time_keys(signed_curve25519_A={"key": "text", "signatures": {}, "more": 1.5}),
    ),
    "lone-surrogate": uploads(device_keys(lambda keys: {**keys, "more": "\ud800"})),
    "deep-object": uploads(device_keys(lambda keys: {**keys, "more": nested(105)})),
    "large-object": uploads(device_keys(lambda keys: {**keys, "more": "x" * 70_000})),
    "not-a-number": uploads(lambda _: b'{"more": NaN}'),
    "key-id-with-an-empty-part": uploads(*map(named, (":", ":a", "a:", "a:b\0"))),
    "long-key-id": uploads(named("a:" + "x" * 600)),
    "fallback-null": uploads(one_time_keys(signed_curve25519_A={"key": "text", "signatures": {}, "fallback": None})),
    "keys-no-object": uploads(
        *(
            lambda _, name=name, value=value: {name: value}  # type: ignore[misc]
            for name in ("one_time_keys", "fallback_keys")
            for value in (7, "text", [], True)
        )
    ),
    "many-keys-at-once": uploads(
        lambda _: {"one_time_keys": {f"a{n // 400}:{n:04}": str(n) for n in range(1001)}},
    ),
    "many-algorithms": uploads(lambda _: {"one_time_keys": {f"a{n:02}:b": str(n) for n in range(21)}}),
    "same-key-again": _same_key_again,
    "fallback-key-of-the-same-text": _fallback_key_of_the_same_text,
    "refused-upload-leaves-nothing": _refused_upload_leaves_nothing,
}

# --------------------------------------------------------------------------------------------------------------
# /keys/query and /keys/claim
# --------------------------------------------------------------------------------------------------------------


def asks(kind: str, *bodies: object) -> Story:
    """A device asks for each of some things."""

    def story(world: World) -> list[Seen]:
        device = with_keys(world)
        return [getattr(device, kind)(body) for body in bodies]

    return story


def _long_user_id(world: World) -> list[Seen]:
    device = world.new_user()
    return [device.query({"device_keys": {f"@{'x' * 300}:{world.synapses[0].server_name}": []}})]


def _foreign_signature(world: World) -> list[Seen]:
    device, foreign = world.new_user(), {"@x:y": {"ed25519:A": "B"}}
    keys = device.keys()
    good(device.upload({"device_keys": {**keys, "signatures": {**keys["signatures"], **foreign}}}))
    found = [device.query_of(device)]
    body = device.user.identity()
    signed = {role: {**key, "signatures": {**key.get("signatures", {}), **foreign}} for role, key in body.items()}
    good(device.device_signing(signed))
    return [*found, device.query_of(device), world.new_user(server=1).query_of(device)]


def _signature_by_no_key(world: World) -> list[Seen]:
    device = with_identity(world)
    other = with_keys(world)
    body = {
        role: {**key, "signatures": {other.user.user_id: {"ed25519:NOBODY": "A", **signatures_of(other, key)}}}
        for role, key in other.user.identity().items()
    }
    good(other.device_signing(body))
    third = with_keys(world)
    body = third.user.identity()
    body["self_signing_key"] = third.user.signed(body["self_signing_key"], "PHONE")
    good(third.device_signing(body))
    return [device.query_of(other), device.query_of(third)]


def signatures_of(device: Device, key: Json) -> Json:
    signatures: Json = key.get("signatures", {}).get(device.user.user_id, {})
    return signatures


def _bad_signature_in_upload(world: World) -> list[Seen]:
    device = with_identity(world)
    good(device.upload({"device_keys": spoiled(device.user.signed(device.keys(), "self_signing"))}))
    return [device.query_of(device)]


def _unsigned_in_a_cross_signing_key(world: World) -> list[Seen]:
    device = with_keys(world)
    body = {role: {**key, "unsigned": {"a": 1}} for role, key in device.user.identity().items()}
    good(device.device_signing(body))
    return [device.query_of(device), with_keys(world, server=1).query_of(device)]


def _device_keys_again_without_signature(world: World) -> list[Seen]:
    device = with_keys(world)
    good(device.upload({"device_keys": {**device.keys(), "signatures": {}}}))
    return [device.query_of(device)]


def sign_own(device: Device, target: Device | None = None) -> Seen:
    """Sign a device with the self-signing key."""
    target = device if target is None else target
    return device.sign(target, target.device_id, device.user.signed(unsigned(target.keys()), "self_signing"))


def sign_master(device: Device, owner: Device, *names: str) -> Seen:
    """Sign a master key."""
    key = device.user.signed(unsigned(owner.user.key("master")), *names)
    return device.sign(owner, owner.user.public_key("master"), key)


def _device_signature_on_a_master_key(world: World) -> list[Seen]:
    device = with_identity(world)
    good(sign_master(device, device, "PHONE"))
    good(device.query_of(device))
    return [with_keys(world, server=server).query_of(device) for server in (0, 1)]


def _own_signature_on_a_remote_master_key(world: World) -> list[Seen]:
    device, other = with_identity(world), with_identity(world, server=1)
    good(sign_master(device, other, "user_signing"))
    good(other.query_of(other))
    return [device.query_of(other)]


def replace(device: Device, *roles: str) -> Seen:
    """Replace the identity, or a part of it, with the password."""
    device.user.generation += 1
    return good(device.device_signing(device.user.identity(*roles), auth=device.password))


def _signature_by_a_replaced_key(world: World) -> list[Seen]:
    device, other = with_identity(world), with_identity(world)
    good(sign_own(device))
    good(sign_master(device, other, "user_signing"))
    good(device.query_of(device, other))
    replace(device)
    return [device.query_of(device), device.query_of(other), other.query_of(device)]


def _keys_of_a_replaced_identity(world: World) -> list[Seen]:
    device = with_identity(world)
    replace(device, "master")
    return [device.query_of(device), with_keys(world).query_of(device)]


def _signature_on_earlier_device_keys(world: World) -> list[Seen]:
    device = with_identity(world)
    good(sign_own(device))
    good(device.upload({"device_keys": device.keys(more=1)}))
    found = [device.query_of(device)]
    signed = device.user.signed(unsigned(device.keys(more=1)), "self_signing")
    good(device.sign(device, "PHONE", signed))
    return [*found, device.query_of(device)]


def _signature_on_a_deleted_device(world: World) -> list[Seen]:
    device = with_identity(world)
    second = second_of(device)
    good(sign_own(device, second))
    good(second.log_out())
    good(device.query_of(device))
    second = second_of(device)
    found = [device.query_of(device)]
    good(second.upload({"device_keys": second.keys(more=1)}))
    return [*found, device.query_of(device)]


def _signature_by_a_deleted_device(world: World) -> list[Seen]:
    device = with_identity(world)
    second = second_of(device)
    good(sign_master(device, device, "SECOND"))
    good(device.query_of(device))
    good(second.log_out())
    return [device.query_of(device)]


def _signature_by_earlier_device_keys(world: World) -> list[Seen]:
    device = with_identity(world)
    good(sign_master(device, device, "PHONE"))
    other = SampleUser(device.user.user_id + "x").device_signer("PHONE")
    keys = {**device.keys()["keys"], "ed25519:PHONE": other.public_key.to_base64()}
    good(device.upload({"device_keys": {**device.keys(), "keys": keys}}))
    return [device.query_of(device)]


def _remote_devices(world: World) -> list[Seen]:
    observer, found = world.new_user(server=1), []
    for keys in ({"my_algorithm:my_id": "text"}, {"nocolon": "text"}, {"ed25519:PHONE": "!!"}):
        device = world.new_user()
        good(device.upload({"device_keys": {**device.keys(), "keys": keys, "signatures": {}}}))
        good(device.query_of(device))
        found.append(observer.query_of(device))
    return found


def _remote_one_time_keys(world: World) -> list[Seen]:
    observer, found = world.new_user(server=1), []
    for algorithm, key in (("curve25519", "text"), (SIGNED, "text"), (SIGNED, {"key": "text", "signatures": {}})):
        device = world.new_user()
        good(device.upload({"one_time_keys": {f"{algorithm}:A": key}}))
        found.append(observer.claim_of(device, algorithm=algorithm))
    return found


def _many_claims(world: World) -> list[Seen]:
    device, other = with_keys(world), with_keys(world)
    good(device.upload({"one_time_keys": device.one_time_keys(*(f"{n:02}" for n in range(12)))}))
    step, world.step_ms = world.step_ms, 0
    try:
        for _ in range(10):
            good(other.claim_of(device))
        seen = other.claim_of(device)
    finally:
        world.step_ms = step
    return [seen]


def _foreign_signature_on_a_one_time_key(world: World) -> list[Seen]:
    found: list[Seen] = []
    for more in ({"signatures": {"@x:y": {"ed25519:A": "B"}}}, {"signatures": {}, "unsigned": {"a": 1}}):
        device = with_keys(world)
        good(device.upload({"one_time_keys": {f"{SIGNED}:A": {"key": "text", **more}}}))
        found.append(device.claim_of(device))
    return found


def _claims_from_no_user(world: World) -> list[Seen]:
    device, home = with_keys(world), world.synapses[0].server_name
    names = (f"@{'x' * 300}:{home}", "@a:b c", f"@a:{home}:1")
    return [device.claim({"one_time_keys": {name: {"PHONE": SIGNED}}}) for name in names]


def _claims_of_no_object(world: World) -> list[Seen]:
    device, remote = with_keys(world), with_keys(world, server=1)
    wanted: list[object] = [
        {user_id: value}
        for user_id in (device.user.user_id, remote.user.user_id)
        for value in (None, "text", 7, [], {"PHONE": [SIGNED]}, {"PHONE": {SIGNED: 1}})
    ]
    return [device.claim({"one_time_keys": keys}) for keys in [None, "text", [], *wanted]]


def _claims_of_no_string(world: World) -> list[Seen]:
    device, remote = with_keys(world), with_keys(world, server=1)
    return [
        device.claim({"one_time_keys": {user_id: {"PHONE": value}}})
        for user_id in (device.user.user_id, remote.user.user_id)
        for value in (None, 7)
    ]


QUERY_AND_CLAIM: Final[dict[str, Story]] = {
    "timeout-no-integer": asks("query", *({"device_keys": {}, "timeout": value} for value in ("x", 1.5, None, -1))),
    "long-user-id": _long_user_id,
    "foreign-signature": _foreign_signature,
    "signature-by-no-key": _signature_by_no_key,
    "bad-signature-in-upload": _bad_signature_in_upload,
    "unsigned-in-a-cross-signing-key": _unsigned_in_a_cross_signing_key,
    "device-keys-again-without-signature": _device_keys_again_without_signature,
    "device-signature-on-a-master-key": _device_signature_on_a_master_key,
    "own-signature-on-a-remote-master-key": _own_signature_on_a_remote_master_key,
    "signature-by-a-replaced-key": _signature_by_a_replaced_key,
    "keys-of-a-replaced-identity": _keys_of_a_replaced_identity,
    "signature-on-earlier-device-keys": _signature_on_earlier_device_keys,
    "signature-on-a-deleted-device": _signature_on_a_deleted_device,
    "signature-by-a-deleted-device": _signature_by_a_deleted_device,
    "signature-by-earlier-device-keys": _signature_by_earlier_device_keys,
    "claim-without-keys": asks("claim", {}),
    "claim-timeout-no-integer": asks("claim", *({"one_time_keys": {}, "timeout": value} for value in ("x", None))),
    "claim-no-object": _claims_of_no_object,
    "claim-algorithm-no-string": _claims_of_no_string,
    "claim-from-no-user": _claims_from_no_user,
    "remote-device-that-cannot-be-read": _remote_devices,
    "remote-one-time-key-that-is-none": _remote_one_time_keys,
    "many-claims": _many_claims,
    "foreign-signature-on-a-one-time-key": _foreign_signature_on_a_one_time_key,
}

# --------------------------------------------------------------------------------------------------------------
# /keys/device_signing/upload
# --------------------------------------------------------------------------------------------------------------


def _null_over_a_stored_one(world: World) -> list[Seen]:
    device = with_identity(world)
    return [
        device.device_signing(body) for body in ({"master_key": None}, {**device.user.identity(), "master_key": None})
    ]


def _refused_before(world: World) -> list[Seen]:
    device = with_identity(world)
    key = {**unsigned(device.user.key("self_signing")), "more": 1}
    device.user.generation += 1
    return [device.device_signing({"self_signing_key": device.user.signed(key, "master")})]


def _another_signature(world: World) -> list[Seen]:
    device = with_identity(world)
    key = device.user.key("self_signing")
    return [device.device_signing({"self_signing_key": other}) for other in (spoiled(key), unsigned(key))]


def _one_more_key(world: World) -> list[Seen]:
    device = with_identity(world, "master")
    alone = with_identity(world, "master")
    good(alone.device_signing(alone.user.identity("self_signing"), auth=alone.password))
    return [device.device_signing(device.user.identity("master", "self_signing"), auth=device.password)]


def _earlier_identity(world: World) -> list[Seen]:
    device = with_identity(world)
    replace(device)
    device.user.generation -= 1
    return [device.device_signing(device.user.identity(), auth=device.password)]


def _key_named_as_a_device(world: World) -> list[Seen]:
    device = with_keys(world)
    _, second = device.log_in(device.user.public_key("master"))
    assert second is not None
    return [device.device_signing(device.user.identity())]


def _same_key(device: Device) -> Json:
    keys = device.user.identity("self_signing")["self_signing_key"]["keys"]
    return changed("user_signing", keys=keys)(device)


def _refused_identity(world: World) -> list[Seen]:
    device = with_keys(world)
    seen = device.device_signing(changed("self_signing", keys={"curve25519:AAAA": "AAAA"})(device))
    assert alike(seen).here.verdict == "400 M_INVALID_PARAM"
    return [device.query_of(device)]


NO_KEYS: Final[list[tuple[str, str]]] = [("curve25519:{}", "{}"), ("ed25519:AAAA", "AAAA"), ("ed25519:!!", "!!")]

DEVICE_SIGNING: Final[dict[str, Story]] = {
    "master-key-null": identities(lambda _: {"master_key": None}),
    "master-key-null-over-a-stored-one": _null_over_a_stored_one,
    "refused-before-authentication": _refused_before,
    "stored-key-with-another-signature": _another_signature,
    "cross-signing-key-no-object": identities(
        *(
            lambda device, name=name, value=value: {**device.user.identity(), name: value}  # type: ignore[misc]
            for name in ("master_key", "self_signing_key", "user_signing_key")
            for value in ("text", 7, [], True)
        ),
        lambda device: {**device.user.identity("master"), "self_signing_key": None},
    ),
    "one-more-key-beside-a-known-one": _one_more_key,
    "earlier-identity-comes-back": _earlier_identity,
    "usage-of-more-than-one-word": identities(
        *(
            changed(role, usage=usage)
            for role in ("master", "self_signing", "user_signing")
            for usage in ([role, "x"], [role, role], role)
        )
    ),
    "key-under-another-name": identities(
        *(
            renamed(role, make)
            for role in ("self_signing", "user_signing")
            for make in (lambda text: ("ed25519:foo", text), lambda text: (f"ed25519:{text}=", f"{text}="))
        )
    ),
    "master-key-under-another-name": identities(renamed("master", lambda text: ("ed25519:foo", text))),
    "user-signing-key-that-is-none": identities(
        *(
            renamed("user_signing", lambda text, name=name, value=value: (name.format(text), value.format(text)))  # type: ignore[misc]
            for name, value in NO_KEYS
        )
    ),
    "number-in-a-master-key": identities(
        lambda device: {**device.user.identity(), "master_key": {**device.user.key("master"), "more": 1.5}}
    ),
    "number-in-a-signed-key": identities(
        *(
            lambda device, role=role: {**device.user.identity(), f"{role}_key": {**device.user.key(role), "more": 1.5}}  # type: ignore[misc]
            for role in ("self_signing", "user_signing")
        )
    ),
    "auth-null": identities(lambda device: {**device.user.identity(), "auth": None}),
    "one-key-for-two-roles": identities(_same_key),
    "key-named-as-a-device": _key_named_as_a_device,
    "refused-identity-leaves-nothing": _refused_identity,
}

# --------------------------------------------------------------------------------------------------------------
# /keys/signatures/upload
# --------------------------------------------------------------------------------------------------------------


def signs(make: Callable[[Device, Device], list[object]]) -> Story:
    """A device uploads each of some bodies; it, and somebody else, have cross-signing keys."""

    def story(world: World) -> list[Seen]:
        device, other = with_identity(world), with_identity(world)
        return [device.signatures(body) for body in make(device, other)]

    return story


def of_device(device: Device, signed: object) -> Json:
    return {device.user.user_id: {device.device_id: signed}}


def of_master(device: Device, signed: object) -> Json:
    return {device.user.user_id: {device.user.public_key("master"): signed}}


def own_signatures(device: Device, signatures: object) -> Json:
    return {**unsigned(device.keys()), "signatures": {device.user.user_id: signatures}}


def _master_key_without_self_signing_key(world: World) -> list[Seen]:
    device = with_identity(world, "master")
    return [sign_master(device, device, "PHONE")]


def _bad_over_good(world: World) -> list[Seen]:
    device, other = with_identity(world), with_identity(world)
    good(sign_own(device))
    good(sign_master(device, other, "user_signing"))
    own = device.user.signed(unsigned(device.keys()), "self_signing")
    master = device.user.signed(unsigned(other.user.key("master")), "user_signing")
    changed_key = device.user.signed({**unsigned(master), "more": 1}, "user_signing")
    return [device.signatures(of_device(device, spoiled(own)))] + [
        device.signatures(of_master(other, key)) for key in (spoiled(master), changed_key)
    ]


def _nobody_beside_a_good_one(world: World) -> list[Seen]:
    device = with_identity(world)
    signed = device.user.signed(unsigned(device.keys()), "self_signing")
    signatures = {"ed25519:NOBODY": "A" * 86, **signed["signatures"][device.user.user_id]}
    seen = device.signatures(of_device(device, own_signatures(device, signatures)))
    good(device.query_of(device))
    return [seen]


def _master_key_signs_itself(world: World) -> list[Seen]:
    device = with_identity(world)
    return [sign_master(device, device, "PHONE", "master")]


def _without_device_keys(world: World) -> list[Seen]:
    device = world.new_user()
    good(device.device_signing(device.user.identity()))
    return [sign_master(device, device, name) for name in ("PHONE", "self_signing")]


def _cross_signing_key_as_a_target(world: World) -> list[Seen]:
    device = with_identity(world)
    return [
        device.sign(
            device, device.user.public_key(role), device.user.signed(unsigned(device.user.key(role)), "self_signing")
        )
        for role in ("self_signing", "user_signing")
    ]


def _remote_identity_replaced(world: World) -> list[Seen]:
    device, other = with_identity(world), with_identity(world, server=1)
    good(sign_master(device, other, "user_signing"))
    replace(other)
    return [sign_master(device, other, "user_signing")]


SIGNATURES: Final[dict[str, Story]] = {
    "signed-object-no-object": signs(
        lambda device, other: [
            of_device(device, None),
            of_device(device, 7),
            of_device(other, 7),
            {device.user.user_id: 7},
            {other.user.user_id: None},
        ]
    ),
    "own-objects-null": signs(lambda device, _: [{device.user.user_id: None}]),
    "failures-of-nobody": signs(lambda device, _: [{"nobody": {}}]),
    "which-fault-comes-first": signs(
        lambda device, _: [
            of_device(device, {}),
            {device.user.user_id: {"OTHER": {}}},
            {device.user.user_id: {"OTHER": own_signatures(device, {"ed25519:NOBODY": "A"})}},
        ]
    ),
    "signatures-no-object": signs(
        lambda device, _: [
            of_device(device, {**device.keys(), "signatures": 7}),
            of_device(device, own_signatures(device, 7)),
        ]
    ),
    "signature-key-id-without-colon": signs(
        lambda device, _: [
            of_master(
                device, {**unsigned(device.user.key("master")), "signatures": {device.user.user_id: {"nocolon": "x"}}}
            )
        ]
    ),
    "signed-object-malformed": signs(
        lambda device, _: [
            of_device(device, own_signatures(device, {"ed25519:PHONE": 7})),
            of_device(device, {**own_signatures(device, {"ed25519:NOBODY": "x"}), "more": 1.5}),
        ]
    ),
    "master-key-signed-without-self-signing-key": _master_key_without_self_signing_key,
    "bad-signature-over-a-good-one": _bad_over_good,
    "signature-by-nobody-beside-a-good-one": _nobody_beside_a_good_one,
    "master-key-signs-itself": _master_key_signs_itself,
    "signatures-without-device-keys": _without_device_keys,
    "cross-signing-key-as-a-target": _cross_signing_key_as_a_target,
    "remote-identity-replaced": _remote_identity_replaced,
}

# --------------------------------------------------------------------------------------------------------------
# Devices, and what is new
# --------------------------------------------------------------------------------------------------------------


def news(world: World, kind: str, happens: Callable[[Device, Device], None]) -> list[Seen]:
    """Two users are told what happens, by ``/sync`` and by ``/keys/changes``; one of the two is looked at."""
    devices = [with_keys(world), with_keys(world)]
    for device in devices:
        device.catch_up()
    happens(*devices)
    return [seen for device in devices for seen in device.catch_up() if seen.kind == kind]


def _joins(kind: str) -> Story:
    return lambda world: news(world, kind, lambda device, other: world.share_room(device, other) and None)


def _same_name(kind: str) -> Story:
    def story(world: World) -> list[Seen]:
        found: list[Seen] = []
        for name in ("Name", None):
            device = with_keys(world)
            good(device.rename("PHONE", "Name"))
            device.catch_up()
            good(device.rename("PHONE", name))
            found += [seen for seen in device.catch_up() if seen.kind == kind]
        return found

    return story


def _device_keys_again(kind: str) -> Story:
    def story(world: World) -> list[Seen]:
        def upload(device: Device, _: Device) -> None:
            good(device.upload({"device_keys": {**device.keys(), "signatures": {}}}))

        return news(world, kind, upload)[:1]

    return story


def _came_and_went(kind: str) -> Story:
    def story(world: World) -> list[Seen]:
        device, other = with_keys(world), with_keys(world)
        room = world.share_room(device)
        for one in (device, other):
            one.catch_up()
        room.join(other)
        room.leave(other)
        return [seen for one in (device, other) for seen in one.catch_up() if seen.kind == kind]

    return story


def _until_nothing(world: World) -> list[Seen]:
    device = with_keys(world)
    device.catch_up()
    assert device.tokens is not None
    here, there = (
        HttpRequest(method="GET", path=f"{V3}/keys/changes", query=f"from={token}") for token in device.tokens
    )
    return [device.ask("changes", there, None, here=here)]


DEVICES: Final[dict[str, Story]] = {
    "empty-device-id": lambda world: [with_keys(world).log_in("")[0]],
    "changes-until-nothing": _until_nothing,
    **{f"{kind}-of-who-joins": _joins(kind) for kind in ("sync", "changes")},
    **{f"{kind}-of-the-same-name": _same_name(kind) for kind in ("sync", "changes")},
    **{f"{kind}-of-device-keys-again": _device_keys_again(kind) for kind in ("sync", "changes")},
    **{f"{kind}-of-who-came-and-went": _came_and_went(kind) for kind in ("sync", "changes")},
}

STORIES: Final[dict[str, Story]] = {**UPLOAD, **QUERY_AND_CLAIM, **DEVICE_SIGNING, **SIGNATURES, **DEVICES}

# --------------------------------------------------------------------------------------------------------------
# The same in another form
# --------------------------------------------------------------------------------------------------------------


def _failed_signature(world: World) -> list[Seen]:
    device = with_identity(world)
    return [device.signatures(of_device(device, spoiled(device.user.signed(unsigned(device.keys()), "self_signing"))))]


def _no_failed_signatures(world: World) -> list[Seen]:
    device, other = with_identity(world), with_identity(world)
    return [device.signatures({other.user.user_id: {}})]


def _no_signatures(world: World) -> list[Seen]:
    device = world.new_user()
    good(device.upload({"device_keys": {**device.keys(), "signatures": {}}}))
    return [device.query_of(device)]


def _unreachable(world: World) -> list[Seen]:
    return [world.new_user().query({"device_keys": {"@a:localhost:1": []}})]


def _session(world: World) -> list[Seen]:
    device = with_identity(world)
    device.user.generation += 1
    return [device.ask("device_signing", post("/keys/device_signing/upload", device.user.identity()), {})]


FORM_STORIES: Final[dict[str, Story]] = {
    "failed-signature": _failed_signature,
    "no-failed-signatures-of-a-user": _no_failed_signatures,
    "no-signatures": _no_signatures,
    "unreachable-server": _unreachable,
    "authentication-session": _session,
}
