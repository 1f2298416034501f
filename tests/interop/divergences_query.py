"""Divergences in answers to ``/keys/query`` and ``/keys/claim``."""

from __future__ import annotations

from typing import Any, Final

from interop.divergence import (
    Divergence,
    happened,
    innermost,
    is_unreadable,
    on_signature,
    part,
    server_of,
    verdicts,
    were_taken,
)
from interop.model_comparison import ABSENT, KEY_MAPS
from interop.model_world import NO_VERDICT
from matrix_e2e_keys import DeviceKeys, OneTimeKey

QUERY: Final = [
    Divergence(
        name="timeout-no-integer",
        kind="query",
        input="`timeout` is a string, a float, `null`, or negative",
        here="400 M_BAD_JSON",
        why="`timeout` is an integer.",
        covers=verdicts("400 M_BAD_JSON", "200", lambda body: "timeout" in body),
    ),
    Divergence(
        name="long-user-id",
        kind="query",
        input="a user id of this server of more than 255 bytes",
        here="200, and the user is left out",
        why='Appendices: a user id "MUST NOT exceed 255 bytes".',
        covers=lambda _, difference: (
            difference.path[0] == "device_keys"
            and len(difference.path[1]) > 255
            and (difference.here, difference.there) == (ABSENT, {})
        ),
    ),
    Divergence(
        name="refused-upload-leaves-nothing",
        kind="query",
        input="the device keys of an upload that was refused for its one-time keys",
        here="200, and there are none",
        why="Silent on what a refused upload leaves.",
        covers=lambda seen, difference: (
            difference.path[0] == "device_keys"
            and len(difference.path) == 3
            and difference.only_there
            and happened(seen, "refused", *difference.path[1:])
        ),
        parts=True,
    ),
    Divergence(
        name="foreign-signature",
        kind="query",
        input="a signature under another user's name on uploaded device or cross-signing keys",
        here="200, without it",
        why='"servers will only allow users to see" signatures of five kinds, of which it is none; but also "the same as '
        'uploaded".',
        covers=on_signature(
            lambda seen, difference, keys, owner, device, signer, _: (
                signer not in (owner, seen.viewer) and difference.only_there
            )
        ),
    ),
    Divergence(
        name="signature-by-no-key",
        kind="query",
        input="a signature of the owner on uploaded device or cross-signing keys that no key of the owner made, or none "
        "that signs such keys",
        here="200, without it",
        why='The signatures that a user sees are "made by" keys; but also "the same as uploaded".',
        covers=on_signature(
            lambda seen, difference, keys, owner, device, signer, name: (
                signer == owner
                and difference.only_there
                and (name == "NOBODY" or (keys in KEY_MAPS[1:] and name == "PHONE"))
            )
        ),
    ),
    Divergence(
        name="bad-signature-in-upload",
        kind="query",
        input="a signature on uploaded device keys under the name of the self-signing key, which did not make it",
        here="200, without it",
        why='The signatures that a user sees are "made by" keys; but also "the same as uploaded".',
        covers=on_signature(
            lambda seen, difference, keys, owner, device, signer, name: (
                keys == "device_keys"
                and difference.only_there
                and happened(seen, "uploaded a signature", owner, device, name)
            )
        ),
    ),
    Divergence(
        name="unsigned-in-a-cross-signing-key",
        kind="query",
        input="`unsigned` in an uploaded cross-signing key",
        here="200, without it",
        why='`unsigned` is "added [...] by intermediate servers, and not covered by the signatures"; but also "the same '
        'as uploaded".',
        covers=lambda _, difference: (
            difference.path[0] in KEY_MAPS and difference.path[2:] == ("unsigned",) and difference.only_there
        ),
    ),
    Divergence(
        name="device-keys-again-without-signature",
        kind="query",
        input="device keys that were uploaded again without the signatures they had",
        here="200, with them",
        why='"the same as uploaded", once with them and once without.',
        covers=on_signature(
            lambda seen, difference, keys, owner, device, signer, name: (
                keys == "device_keys"
                and difference.only_here
                and name in (device, seen.asker.world.users[owner].stored.get("self_signing"))
                and happened(seen, "other signatures", owner, device)
            )
        ),
    ),
    Divergence(
        name="device-signature-on-a-master-key",
        kind="query",
        input="the signature of a device on its owner's master key, asked for by others",
        here="200, with it",
        why='Users see "signatures made by other users\' devices about their respective master signing keys".',
        covers=on_signature(
            lambda seen, difference, keys, owner, device, signer, name: (
                keys == "master_keys" and difference.only_here and signer == owner != seen.viewer
            )
        ),
    ),
    Divergence(
        name="own-signature-on-a-remote-master-key",
        kind="query",
        input="the signature of one's own user-signing key on the master key of a user of another server, with whom no "
        "room is shared",
        here="200, with it",
        why='Users see "signatures made by the user\'s own [...] user-signing keys".',
        covers=on_signature(
            lambda seen, difference, keys, owner, device, signer, name: (
                keys == "master_keys"
                and difference.only_here
                and signer == seen.viewer
                and server_of(owner) != server_of(signer)
            )
        ),
    ),
    Divergence(
        name="signature-by-a-replaced-key",
        kind="query",
        input="signatures of a self-signing or user-signing key that was replaced",
        here="200, without them",
        why="Silent on how long signatures are kept.",
        covers=on_signature(
            lambda seen, difference, keys, owner, device, signer, name: (
                difference.only_there and happened(seen, "replaced", signer, name)
            )
        ),
    ),
    Divergence(
        name="keys-of-a-replaced-identity",
        kind="query",
        input="the self-signing and user-signing keys after the master key alone was replaced",
        here="200, without those that the new master key has not signed",
        why='Both "must be signed by the user\'s master signing key".',
        covers=lambda seen, difference: (
            difference.path[0] in KEY_MAPS[1:]
            and len(difference.path) == 2
            and difference.only_there
            and happened(seen, "replaced role", difference.path[1], "master")
            and not happened(seen, "refused identity", difference.path[1])
        ),
        parts=True,
    ),
    Divergence(
        name="signature-on-earlier-device-keys",
        kind="query",
        input="the signature of the self-signing key on keys that the device has replaced",
        here="200, without it, or with the one on the new keys",
        why='"The signed JSON object must match the key previously uploaded": it signs other bytes.',
        covers=on_signature(
            lambda seen, difference, keys, owner, device, signer, name: (
                keys == "device_keys"
                and not difference.only_here
                and name != device
                and (happened(seen, "other keys", owner, device) and not happened(seen, "deleted", owner, device))
            )
        ),
        parts=True,
    ),
    Divergence(
        name="signature-on-a-deleted-device",
        kind="query",
        input="the signature of the self-signing key on a device that was deleted, after another logs in by its id",
        here="200, without it",
        why="Silent on what is deleted with a device.",
        covers=on_signature(
            lambda seen, difference, keys, owner, device, signer, name: (
                keys == "device_keys"
                and not difference.only_here
                and name != device
                and happened(seen, "deleted", owner, device)
            )
        ),
        parts=True,
    ),
    Divergence(
        name="signature-by-a-deleted-device",
        kind="query",
        input="the signature of a deleted device on its owner's master key",
        here="200, without it",
        why="Silent on what is deleted with a device.",
        covers=on_signature(
            lambda seen, difference, keys, owner, device, signer, name: (
                keys == "master_keys" and difference.only_there and happened(seen, "deleted", owner, name)
            )
        ),
    ),
    Divergence(
        name="signature-by-earlier-device-keys",
        kind="query",
        input="the signature of a device on its owner's master key, made by keys that the device has replaced",
        here="200, without it",
        why='Users see "signatures made by" devices: that key is none any more.',
        covers=on_signature(
            lambda seen, difference, keys, owner, device, signer, name: (
                keys == "master_keys" and difference.only_there and happened(seen, "other keys", owner, name)
            )
        ),
    ),
    Divergence(
        name="remote-device-that-cannot-be-read",
        kind="query",
        input="device keys of a user of another server whose key ids or Ed25519 key are none",
        here="200, without the device",
        why='Names are "in the format `<algorithm>:<device_id>`"; silent on what a server makes of others\' answers.',
        covers=lambda seen, difference: (
            difference.path[0] == "device_keys"
            and len(difference.path) == 3
            and difference.only_there
            and server_of(difference.path[1]) != server_of(seen.viewer)
            and is_unreadable(DeviceKeys.from_json, difference.there)
        ),
    ),
    Divergence(
        name="refused-identity-leaves-nothing",
        kind="query",
        input="the cross-signing keys of an upload that was not answered with 200",
        here="200, and there are none of them",
        why="Silent on what a refused upload leaves.",
        covers=lambda seen, difference: (
            difference.path[0] in KEY_MAPS
            and len(difference.path) == 2
            and difference.only_there
            and happened(seen, "refused identity", difference.path[1])
        ),
        parts=True,
    ),
]


def claimed_devices(request: Any) -> list[Any]:
    return list(part(request, "one_time_keys").values())


CLAIM: Final = [
    Divergence(
        name="claim-without-keys",
        kind="claim",
        input="no `one_time_keys`",
        here="400 M_BAD_JSON",
        why="`one_time_keys` is required.",
        covers=verdicts("400 M_BAD_JSON", "200", lambda body: "one_time_keys" not in body),
    ),
    Divergence(
        name="claim-timeout-no-integer",
        kind="claim",
        input="`timeout` is a string or `null`",
        here="400 M_BAD_JSON",
        why="`timeout` is an integer.",
        covers=verdicts("400 M_BAD_JSON", "200", lambda body: "timeout" in body),
    ),
    Divergence(
        name="claim-no-object",
        kind="claim",
        input="`one_time_keys` or what a user id leads to is no object; an algorithm is an array or an object",
        here="400 M_BAD_JSON",
        why='"malformed in some way, e.g. [...] invalid values for keys".',
        covers=verdicts(
            "400 M_BAD_JSON",
            NO_VERDICT,
            lambda body: (
                not isinstance(body["one_time_keys"], dict)
                or any(
                    not isinstance(devices, dict) or any(isinstance(wanted, dict | list) for wanted in devices.values())
                    for devices in claimed_devices(body)
                )
            ),
        ),
    ),
    Divergence(
        name="claim-algorithm-no-string",
        kind="claim",
        input="an algorithm is a number or `null`",
        here="400 M_BAD_JSON",
        why="An algorithm is a string.",
        covers=verdicts(
            "400 M_BAD_JSON",
            "200",
            lambda body: any(
                wanted is None or isinstance(wanted, int)
                for devices in claimed_devices(body)
                for wanted in devices.values()
            ),
        ),
    ),
    Divergence(
        name="claim-from-no-user",
        kind="claim",
        input="a user id of more than 255 bytes, or with a server name that cannot be one",
        here="400 M_INVALID_PARAM",
        why="Silent on user ids that cannot be one.",
        covers=verdicts(
            "400 M_INVALID_PARAM",
            "200",
            lambda body: any(
                len(user_id) > 255 or " " in server_of(user_id) or server_of(user_id).count(":") > 1
                for user_id in part(body, "one_time_keys")
            ),
        ),
    ),
    Divergence(
        name="many-claims",
        kind="claim",
        input="an eleventh one-time key of one device, by one user within an hour",
        here="200, with the fallback key if there is one",
        why='"Rate limiting": "Homeservers SHOULD implement rate limiting to reduce the risk of being overloaded."',
        covers=lambda seen, difference: (
            difference.path[0] == "one_time_keys"
            and any(
                len(were_taken(seen, user_id, device_id)) >= 10
                for user_id, devices in part(seen.request, "one_time_keys").items()
                for device_id in devices
            )
        ),
        parts=True,
    ),
    Divergence(
        name="remote-one-time-key-that-is-none",
        kind="claim",
        input="a one-time key of a user of another server that holds no key, or `signed_curve25519` as a string",
        here="200, without it",
        why='"The format of the key is determined by the key algorithm"; silent on what a server makes of others\' '
        "answers.",
        covers=lambda seen, difference: (
            difference.path[0] == "one_time_keys"
            and difference.only_there
            and server_of(difference.path[1]) != server_of(seen.viewer)
            and all(
                is_unreadable(OneTimeKey.from_json, key_id, key) for key_id, key in innermost(difference, 4).items()
            )
        ),
    ),
    Divergence(
        name="foreign-signature-on-a-one-time-key",
        kind="claim",
        input="a signature under another user's name, or `unsigned`, on an uploaded one-time key",
        here="200, without it",
        why='"servers will only allow users to see" signatures of five kinds, of which it is none.',
        covers=lambda _, difference: (
            difference.only_there
            and (
                difference.path[4:] == ("unsigned",)
                or (difference.path[4:5] == ("signatures",) and difference.path[5] != difference.path[1])
            )
        ),
    ),
]
