"""Where ``KeyDirectory``, under the policy ``COMPAT``, answers otherwise than the homeserver that the tests run.

Each row says what each of them answers, and what the specification says. A difference that is in no row fails the tests;
so does a row whose difference does not show where it should.
"""

from __future__ import annotations

from typing import Any, Final

from interop.divergence import SILENT, Divergence, Form, keys_uploaded_as_fallback, moved_through, verdicts
from interop.divergences_cross_signing import DEVICE_SIGNING, SIGNATURES
from interop.divergences_query import CLAIM, QUERY
from interop.divergences_upload import UPLOAD
from interop.model_comparison import differences
from interop.model_world import Seen


def _told(kind: str) -> list[Divergence]:
    shown = "`/sync`" if kind == "sync" else "`/keys/changes`"
    return [
        Divergence(
            name=f"{kind}-of-who-joins",
            kind=kind,
            input=f"{shown} after one joined a room",
            here="200, with the others in `changed`",
            why='`changed`: users who "now share an encrypted room with the client since the previous sync response".',
            covers=lambda seen, difference: (
                difference.path == ("changed", seen.viewer)
                and difference.only_there
                and ("joined", seen.viewer) in seen.news
            ),
        ),
        Divergence(
            name=f"{kind}-of-the-same-name",
            kind=kind,
            input=f"{shown} after a device was renamed to the name it has, or to none",
            here="200, without the user",
            why='"If not given, the display name is unchanged."',
            covers=lambda seen, difference: (
                difference.path[0] == "changed"
                and difference.only_there
                and ("same name", difference.path[1]) in seen.news
            ),
        ),
        Divergence(
            name=f"{kind}-of-device-keys-again",
            kind=kind,
            input=f"{shown} after device keys were uploaded again without the signatures they had",
            here="200, without the user: nothing was changed",
            why='`changed`: users "who have updated their device identity or cross-signing keys".',
            covers=lambda seen, difference: (
                difference.path[0] == "changed"
                and difference.only_there
                and any(event[:2] == ("other signatures", difference.path[1]) for event in seen.news)
            ),
        ),
        Divergence(
            name=f"{kind}-of-who-came-and-went",
            kind=kind,
            input=f"{shown} after somebody joined the only common room and left it again",
            here="200, without the user",
            why='`left`: users "with whom we do not share any encrypted rooms anymore since the previous sync '
            'response"; they were not shared at the time of it either.',
            covers=lambda seen, difference: (
                difference.path[0] in ("changed", "left")
                and difference.only_there
                and moved_through(seen, difference.path[1])
            ),
        ),
    ]


_DEVICES: Final = [
    Divergence(
        name="empty-device-id",
        kind="log_in",
        input='logging in with `device_id: ""`',
        here="400 M_INVALID_PARAM",
        why='"The server will auto-generate a `device_id` if this is not specified." Of an empty one: silent.',
        covers=verdicts("400 M_INVALID_PARAM", "200", lambda device_id: device_id == ""),
        parts=True,
    ),
    Divergence(
        name="fallback-key-of-the-same-text",
        kind="sync",
        input="`/sync` after a used fallback key was uploaded again with another signature or one more member",
        here="200, and it is used",
        why='"unused fallback key algorithms"; silent on when a key is the same.',
        covers=lambda seen, difference: (
            difference.path == ("unused",)
            and len(set(keys_uploaded_as_fallback(seen))) < len(keys_uploaded_as_fallback(seen))
        ),
        parts=True,
    ),
    *_told("sync"),
    *_told("changes"),
    Divergence(
        name="changes-until-nothing",
        kind="changes",
        input="`/keys/changes` without `to`",
        here="400 M_MISSING_PARAM",
        why="`to` is required.",
        covers=verdicts("400 M_MISSING_PARAM", "200", lambda _: True),
    ),
]

DIVERGENCES: Final[list[Divergence]] = [*UPLOAD, *QUERY, *CLAIM, *DEVICE_SIGNING, *SIGNATURES, *_DEVICES]


def rows_of(seen: Seen) -> set[str]:
    """Return the rows that make two answers differ.

    Raises:
        AssertionError: something differs that is in no row.
    """
    names: set[str] = set()
    for difference in differences(seen):
        covering = {row.name for row in DIVERGENCES if row.kind == seen.kind and row.covers(seen, difference)}
        assert covering, f"{seen.kind} {seen.request!r}: {difference}"
        names |= covering
    return names


def _first(tree: Any, *names: str) -> Any:
    """Return what stands under some names, and then under the only name, as long as there is only one."""
    for name in names:
        tree = tree[name]
    while isinstance(tree, dict) and len(tree) == 1:
        (tree,) = tree.values()
    return tree


FORMS: Final = [
    Form(
        name="failed-signature",
        kind="signatures",
        input="a signature that is refused",
        here='`{"errcode": "M_INVALID_SIGNATURE", "error": "Invalid signature"}`',
        why='"a map from user ID to key ID to an error", `errcode` and `error` in the example. `decide_signatures_upload` '
        "writes either form.",
        shows=lambda seen: (
            (set(_first(seen.here.body, "failures")), set(_first(seen.there.body, "failures")))
            == ({"errcode", "error"}, {"status", "errcode", "message"})
        ),
    ),
    Form(
        name="no-failed-signatures-of-a-user",
        kind="signatures",
        input="a user id leads to an empty object",
        here="`failures` without the user",
        why=SILENT,
        shows=lambda seen: (seen.here.body["failures"], list(seen.there.body["failures"].values())) == ({}, [{}]),
    ),
    Form(
        name="no-signatures",
        kind="query",
        input="device keys without a signature by their owner",
        here="`signatures: {}`, or as it was uploaded",
        why=SILENT,
        shows=lambda seen: (
            [
                [keys["signatures"] for of_user in side.body["device_keys"].values() for keys in of_user.values()]
                for side in (seen.here, seen.there)
            ]
            == [[{}], [{seen.viewer: {}}]]
        ),
    ),
    Form(
        name="unreachable-server",
        kind="query",
        input="a server that cannot be reached",
        here='`{"status": 503, "message": "The server has not answered"}`',
        why="`failures` holds objects; silent on what is in them.",
        shows=lambda seen: (
            [
                (failed["status"], failed["message"].partition(":")[0])
                for side in (seen.here, seen.there)
                for failed in side.body["failures"].values()
            ]
            == [(503, "The server has not answered"), (503, "Failed to send request")]
        ),
    ),
    Form(
        name="authentication-session",
        kind="device_signing",
        input="cross-signing keys that need authentication",
        here="401 without `session`",
        why='"the session key given by the homeserver, if one was given". A `challenge` with a session can be given to `decide_device_signing_upload`.',
        shows=lambda seen: ("session" in seen.here.body, "session" in seen.there.body) == (False, True),
    ),
]
