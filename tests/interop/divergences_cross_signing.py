"""Divergences in answers to ``/keys/device_signing/upload`` and ``/keys/signatures/upload``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from interop.divergence import (
    SILENT,
    Covers,
    Divergence,
    happened,
    has_beyond,
    is_no_key,
    names_other_key,
    part,
    role_keys,
    server_of,
    signatures_in,
    signed_objects,
    verdicts,
)
from interop.model_comparison import ABSENT, VERDICT, Difference
from interop.model_world import NO_VERDICT, ROLES, Seen

DEVICE_SIGNING: Final = [
    Divergence(
        name="master-key-null",
        kind="device_signing",
        input="`master_key: null`, and no key is stored",
        here="400 M_INVALID_PARAM",
        why='"Optional. The user\'s master signing key." Of `null`: silent.',
        covers=verdicts("400 M_INVALID_PARAM", "200", lambda body: body.get("master_key", ABSENT) is None),
        parts=True,
    ),
    Divergence(
        name="master-key-null-over-a-stored-one",
        kind="device_signing",
        input="`master_key: null`, and a key is stored",
        here="400 M_INVALID_PARAM",
        why='"Optional. The user\'s master signing key." Of `null`: silent.',
        covers=verdicts("400 M_INVALID_PARAM", "401", lambda body: body.get("master_key", ABSENT) is None),
    ),
    Divergence(
        name="refused-before-authentication",
        kind="device_signing",
        input="keys that will be refused, where others are stored and authentication is needed",
        here="400 M_INVALID_SIGNATURE, or what else it is that will be refused",
        why="Silent on which comes first.",
        covers=lambda seen, difference: (
            difference.path == VERDICT
            and difference.here.startswith("400 ")
            and difference.there.startswith("401")
            and "master" in seen.asker.user.stored
            and seen.request.get("master_key", ABSENT) is not None
        ),
    ),
    Divergence(
        name="stored-key-with-another-signature",
        kind="device_signing",
        input="a key that is stored, with a signature that is not good, or with none",
        here="200, and the stored signature stays",
        why='No authentication where "the request contains no new keys", which "exactly matches" those stored.',
        covers=lambda seen, difference: (
            difference.path == VERDICT
            and difference.here == "200"
            and (difference.there.startswith("401") or difference.there == "400 M_INVALID_SIGNATURE")
            and all(
                seen.asker.user.stored.get(role) in key["keys"].values()
                for role, key in role_keys(seen.request).items()
            )
        ),
    ),
    Divergence(
        name="cross-signing-key-no-object",
        kind="device_signing",
        input="a key is a string, a number, a boolean or an array; or the self-signing or user-signing key is `null`",
        here="400 M_INVALID_PARAM",
        why='400: "The input was invalid in some way."',
        covers=verdicts(
            "400 M_INVALID_PARAM",
            NO_VERDICT,
            lambda body: any(not isinstance(body.get(f"{role}_key", {}), dict) for role in ROLES),
        ),
        parts=True,
    ),
    Divergence(
        name="one-more-key-beside-a-known-one",
        kind="device_signing",
        input="the stored master key together with a new self-signing key, authenticated",
        here="200",
        why='The self-signing key is "signed by the accompanying master signing key".',
        covers=lambda seen, difference: (
            difference == Difference(VERDICT, "200", NO_VERDICT)
            and seen.request["master_key"] == seen.asker.user.identity("master")["master_key"]
            and not happened(seen, "replaced role", seen.viewer)
        ),
        parts=True,
    ),
    Divergence(
        name="earlier-identity-comes-back",
        kind="device_signing",
        input="cross-signing keys that were replaced before, authenticated",
        here="200",
        why=SILENT,
        covers=lambda seen, difference: (
            difference == Difference(VERDICT, "200", NO_VERDICT)
            and happened(seen, "replaced", seen.viewer, *part(seen.request, "master_key")["keys"].values())
        ),
        parts=True,
    ),
    Divergence(
        name="usage-of-more-than-one-word",
        kind="device_signing",
        input="`usage` names the role and something else, or the role twice, or is a string",
        here="400 M_INVALID_PARAM",
        why='`usage` is an array of `master`, `self_signing` and `user_signing`: "What the key is used for." Of more than '
        "one: silent.",
        covers=verdicts(
            "400 M_INVALID_PARAM",
            "200",
            lambda body: any(key.get("usage") != [role] for role, key in role_keys(body).items()),
        ),
        parts=True,
    ),
    Divergence(
        name="key-under-another-name",
        kind="device_signing",
        input="a self-signing or user-signing key that is not called what it is, or in padded base64",
        here="400 M_INVALID_PARAM",
        why='"exactly one property, whose name is in the form `<algorithm>:<unpadded_base64_public_key>`, and whose value '
        'is the unpadded base64 public key".',
        covers=verdicts(
            "400 M_INVALID_PARAM",
            "200",
            lambda body: any(names_other_key(key) and not is_no_key(key) for key in role_keys(body).values()),
        ),
        parts=True,
    ),
    Divergence(
        name="master-key-under-another-name",
        kind="device_signing",
        input="a master key that is not called what it is, together with keys that it signed under its right name",
        here="400 M_INVALID_PARAM",
        why="As before; both error codes are those of the endpoint.",
        covers=verdicts(
            "400 M_INVALID_PARAM",
            "400 M_INVALID_SIGNATURE",
            lambda body: names_other_key(part(body, "master_key")),
        ),
    ),
    Divergence(
        name="user-signing-key-that-is-none",
        kind="device_signing",
        input="a user-signing key of another algorithm, too short, or no base64",
        here="400 M_INVALID_PARAM",
        why='"whose value is the unpadded base64 public key".',
        covers=verdicts("400 M_INVALID_PARAM", "200", lambda body: is_no_key(part(body, "user_signing_key"))),
        parts=True,
    ),
    Divergence(
        name="number-in-a-master-key",
        kind="device_signing",
        input="a float in a master key",
        here="400 M_INVALID_PARAM",
        why='Appendices, "Canonical JSON": "Float values are not permitted by this encoding."',
        covers=verdicts("400 M_INVALID_PARAM", "200", has_beyond),
        parts=True,
    ),
    Divergence(
        name="number-in-a-signed-key",
        kind="device_signing",
        input="a float in a self-signing or user-signing key",
        here="400 M_INVALID_PARAM",
        why="As before: what has no canonical JSON is signed by nobody.",
        covers=verdicts("400 M_INVALID_PARAM", "400 M_INVALID_SIGNATURE", has_beyond),
    ),
    Divergence(
        name="auth-null",
        kind="device_signing",
        input="`auth: null`",
        here="400 M_BAD_JSON",
        why="`auth` is an object. Of `null`: silent.",
        covers=verdicts("400 M_BAD_JSON", "200", lambda body: body.get("auth", ABSENT) is None),
        parts=True,
    ),
    Divergence(
        name="one-key-for-two-roles",
        kind="device_signing",
        input="the same key as self-signing and as user-signing key",
        here="400 M_INVALID_PARAM",
        why="Silent; cross-signing key ids are one namespace.",
        covers=verdicts(
            "400 M_INVALID_PARAM",
            NO_VERDICT,
            lambda body: (
                len(role_keys(body)) == 3
                and len({text for key in role_keys(body).values() for text in key["keys"].values()}) < 3
            ),
        ),
        parts=True,
    ),
    Divergence(
        name="key-named-as-a-device",
        kind="device_signing",
        input="a key that is the id of one of the user's devices",
        here="403 M_FORBIDDEN",
        why='403, `M_FORBIDDEN`: "The public key of one of the keys is the same as one of the user\'s device IDs".',
        covers=lambda seen, difference: (
            difference == Difference(VERDICT, "403 M_FORBIDDEN", NO_VERDICT)
            and any(
                name in seen.asker.user.names
                for key in role_keys(seen.request).values()
                for name in key["keys"].values()
            )
        ),
        parts=True,
    ),
]


def failing(here: str, there: str, is_so: Callable[[Seen, Difference, Any], bool]) -> Covers:
    """The error codes for one object, of which something is true; ``"(absent)"`` where there is no failure."""

    def covers(seen: Seen, difference: Difference) -> bool:
        if (difference.here, difference.there) != (here, there) or len(difference.path) != 2:
            return False
        user_id, name = difference.path
        return is_so(seen, difference, part(seen.request, user_id).get(name))

    return covers


def signatures_of(seen: Seen, obj: Any) -> dict[str, Any]:
    """Return the signatures of the requester on an object."""
    return part(part(obj, "signatures"), seen.viewer)


SIGNATURES: Final = [
    Divergence(
        name="signed-object-no-object",
        kind="signatures",
        input="a device or key is no object, or what another user's id leads to",
        here="200, with `M_INVALID_PARAM` for it among the failures",
        why='`failures`: "a map from user ID to key ID to an error for any signatures that failed".',
        covers=verdicts(
            "200",
            "400 M_INVALID_PARAM",
            lambda body: (
                any(not isinstance(of_user, dict) for of_user in body.values())
                or any(not isinstance(signed, dict) for signed in signed_objects(body))
            ),
        ),
    ),
    Divergence(
        name="own-objects-null",
        kind="signatures",
        input="one's own user id leads to `null`",
        here="200, with a failure `M_INVALID_PARAM`",
        why="Silent; it is an object.",
        covers=failing(
            "M_INVALID_PARAM", ABSENT, lambda seen, difference, _: seen.request.get(seen.viewer, ABSENT) is None
        ),
    ),
    Divergence(
        name="failures-of-nobody",
        kind="signatures",
        input="what is no user id leads to an empty object",
        here="200, with a failure `M_INVALID_PARAM`",
        why="Silent; the names are user ids.",
        covers=failing("M_INVALID_PARAM", ABSENT, lambda seen, difference, _: not difference.path[0].startswith("@")),
    ),
    Divergence(
        name="which-fault-comes-first",
        kind="signatures",
        input="an object without one's signature of the right kind, which is not what is stored, or of an unknown device",
        here="200, with `M_UNKNOWN` or `M_NOT_FOUND`",
        why='"If a signature was invalid, the `errcode` will be set to `M_INVALID_SIGNATURE`." Of several faults: silent.',
        covers=lambda seen, difference: any(
            failing(here, "M_INVALID_SIGNATURE", lacks_right_signer)(seen, difference)
            for here in ("M_UNKNOWN", "M_NOT_FOUND")
        ),
    ),
    Divergence(
        name="signatures-no-object",
        kind="signatures",
        input="`signatures` is no object, or what is in it",
        here="200, with a failure `M_INVALID_PARAM`",
        why="`signatures` is an object of objects.",
        covers=verdicts(
            "200",
            NO_VERDICT,
            lambda body: any(
                not isinstance(made, dict) or any(not isinstance(by_user, dict) for by_user in made.values())
                for made in signatures_in(body)
            ),
        ),
    ),
    Divergence(
        name="signature-key-id-without-colon",
        kind="signatures",
        input="a signature on one's own master key under a key id without a colon",
        here="200, with a failure `M_INVALID_SIGNATURE`",
        why='"If a signature was invalid, the `errcode` will be set to `M_INVALID_SIGNATURE`."',
        covers=verdicts(
            "200",
            NO_VERDICT,
            lambda body: any(
                ":" not in name
                for made in signatures_in(body)
                if isinstance(made, dict)
                for by_user in made.values()
                if isinstance(by_user, dict)
                for name in by_user
            ),
        ),
    ),
    Divergence(
        name="signed-object-malformed",
        kind="signatures",
        input="a signature is no string, or a float stands in the object",
        here="200, with a failure `M_INVALID_PARAM`",
        why='"If a signature was invalid, the `errcode` will be set to `M_INVALID_SIGNATURE`." Of what is no signature: '
        "silent.",
        covers=failing(
            "M_INVALID_PARAM",
            "M_INVALID_SIGNATURE",
            lambda seen, _, obj: (
                has_beyond(obj) or any(not isinstance(text, str) for text in signatures_of(seen, obj).values())
            ),
        ),
    ),
    Divergence(
        name="master-key-signed-without-self-signing-key",
        kind="signatures",
        input="the signature of a device on its owner's master key, and no self-signing key is stored",
        here="200, and it is stored",
        why='"The master signing key may also be signed by the user\'s own device keys".',
        covers=failing(
            ABSENT,
            "M_NOT_FOUND",
            lambda seen, difference, obj: (
                part(obj, "keys") == seen.asker.user.key("master")["keys"]
                and "self_signing" not in seen.asker.user.stored
            ),
        ),
        parts=True,
    ),
    Divergence(
        name="bad-signature-over-a-good-one",
        kind="signatures",
        input="a bad signature by a key of whom a good one is stored, or on an object that is not what is stored",
        here="200, with `M_INVALID_SIGNATURE` or `M_UNKNOWN`",
        why='"an error for any signatures that failed"; "The signed JSON object must match the key previously uploaded".',
        covers=lambda seen, difference: any(
            failing(here, ABSENT, has_signed)(seen, difference) for here in ("M_INVALID_SIGNATURE", "M_UNKNOWN")
        ),
    ),
    Divergence(
        name="signature-by-nobody-beside-a-good-one",
        kind="signatures",
        input="a good signature of the self-signing key on a device, and one that no key made",
        here="200, with a failure `M_INVALID_SIGNATURE`; the good one is stored",
        why='"an error for any signatures that failed".',
        covers=failing(
            "M_INVALID_SIGNATURE",
            ABSENT,
            lambda seen, difference, obj: "ed25519:NOBODY" in signatures_of(seen, obj),
        ),
    ),
    Divergence(
        name="signatures-without-device-keys",
        kind="signatures",
        input="one's own master key with some signature, while none of one's devices has keys",
        here="200, with `M_INVALID_SIGNATURE` or `M_UNKNOWN`",
        why='"If a signature was invalid, the `errcode` will be set to `M_INVALID_SIGNATURE`."',
        covers=lambda seen, difference: (
            difference.there == "M_NOT_FOUND"
            and difference.here in ("M_INVALID_SIGNATURE", "M_UNKNOWN")
            and difference.path[0] == seen.viewer
            and set(seen.asker.user.stored) <= set(ROLES)
        ),
    ),
    Divergence(
        name="master-key-signs-itself",
        kind="signatures",
        input="one's own master key with a good signature of a device, and with one by itself",
        here="200, and that of the device is stored",
        why="Silent on signatures of a key on itself.",
        covers=failing(
            ABSENT,
            "M_INVALID_SIGNATURE",
            lambda seen, difference, obj: "master" in signers(seen, obj) and len(signers(seen, obj)) > 1,
        ),
        parts=True,
    ),
    Divergence(
        name="cross-signing-key-as-a-target",
        kind="signatures",
        input="one's own self-signing or user-signing key with a signature of the self-signing key",
        here="200, with a failure `M_INVALID_SIGNATURE`",
        why="Silent: nothing is said to sign such a key but the master key, when it is uploaded.",
        covers=failing(
            "M_INVALID_SIGNATURE",
            "M_NOT_FOUND",
            lambda seen, difference, obj: (
                isinstance(obj, dict)
                and obj.get("usage") in (["self_signing"], ["user_signing"])
                and "self_signing" in signers(seen, obj)
            ),
        ),
    ),
    Divergence(
        name="remote-identity-replaced",
        kind="signatures",
        input="a signature on the new master key of a user of another server, with whom no room is shared, after one on "
        "the old",
        here="200, and it is stored",
        why='The key is one "previously uploaded or retrieved"; silent on how long a key of another server is kept.',
        covers=failing(
            ABSENT,
            "M_NOT_FOUND",
            lambda seen, difference, obj: (
                server_of(difference.path[0]) != server_of(seen.viewer)
                and happened(seen, "replaced role", difference.path[0], "master")
            ),
        ),
    ),
]


def signers(seen: Seen, obj: Any) -> set[str]:
    """Return the names of the requester's keys under whose ids an object is signed: roles, and device ids."""
    roles = {seen.asker.user.stored[role]: role for role in ROLES if role in seen.asker.user.stored}
    names = [key_id.partition(":")[2] for key_id in signatures_of(seen, obj)]
    return {roles.get(name, name) for name in names}


def lacks_right_signer(seen: Seen, difference: Difference, obj: Any) -> bool:
    """Tell whether no key that may sign what stands under a name is among those that did."""
    made = signers(seen, obj)
    if difference.path[1] == seen.asker.user.stored.get("master"):
        return made <= set(ROLES)
    return "self_signing" not in made


def has_signed(seen: Seen, difference: Difference, obj: Any) -> bool:
    """Tell whether a key under whose id an object is signed had signed that device or key before."""
    names = {seen.asker.user.stored.get(name, name) for name in signers(seen, obj)}
    return any(happened(seen, "signed", seen.viewer, difference.path[1], name) for name in names)
