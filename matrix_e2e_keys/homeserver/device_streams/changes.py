"""What a client is told: whose devices changed, with whom no room is shared any more, which keys the server holds.

Specification: client-server API, "Extensions to /sync", "Tracking the device list for a user".

Facts:

* "``changed``: List of users who have updated their device identity or cross-signing keys, or who now share an
  encrypted room with the client"; "``left``: List of users with whom we do not share any encrypted rooms anymore".
* With whom no room is shared, one is told nothing about, except whom one has signed oneself.
* Nobody is in both lists: who has left and come back has changed. Oneself is never left.
* Whatever a client could take for "nothing said" is said: the number of ``signed_curve25519`` keys, be it zero, and the
  unused fallback keys, be there none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matrix_e2e_keys.algorithms import SIGNED_CURVE25519
from matrix_e2e_keys.endpoints.client_server.sync import DeviceLists, SyncKeys
from matrix_e2e_keys.endpoints.members import counts as checked_counts
from matrix_e2e_keys.endpoints.members import instances, map_of, optional, user_id, user_ids
from matrix_e2e_keys.errors import LocalProtocolError, raised_as
from matrix_e2e_keys.homeserver.device_streams.names import names_in
from matrix_e2e_keys.homeserver.stored_keys import FallbackKeyRecord

__all__ = ["device_list_changes", "sync_keys"]


def device_list_changes(
    viewer_id: str,
    *,
    moved: Iterable[str],
    shared_before: Iterable[str],
    shared_now: Iterable[str],
    newly_met: Iterable[str] = (),
    signed: Iterable[str] = (),
) -> DeviceLists:
    """Return what a user is told about a stretch of the stream: in ``/sync``, or as answer to ``/keys/changes``.

    Of a mapping, the users are its names.

    Args:
        viewer_id: the user.
        moved: whose devices or identity changed in that stretch.
        shared_before: the users who shared a room with the viewer at its beginning.
        shared_now: those who do now.
        newly_met: users who came to share a room in between, whether or not another was shared before.
        signed: whom the viewer signed in that stretch.

    Returns:
        Both lists, sorted, each user once.

    Raises:
        LocalProtocolError: an argument has the wrong type, or names what is no user id.
    """
    with raised_as(LocalProtocolError):
        viewer = frozenset({user_id(viewer_id, "viewer_id")})
        before = _users(shared_before, "shared_before") - viewer
        now = _users(shared_now, "shared_now") - viewer
        changed = _users(moved, "moved") & (now | viewer)
        changed |= _users(newly_met, "newly_met") & now
        of_viewer = _users(signed, "signed")
    left = before - now
    changed |= (now - before) | (of_viewer - left)
    return DeviceLists(changed=tuple(sorted(changed)), left=tuple(sorted(left)))


def sync_keys(
    counts: Mapping[str, int],
    fallback_keys: Mapping[str, FallbackKeyRecord],
    lists: DeviceLists | None = None,
) -> SyncKeys:
    """Return what an answer to ``/sync`` says about keys.

    Args:
        counts: algorithm to the number of unclaimed one-time keys of the device.
        fallback_keys: algorithm to the fallback key of the device.
        lists: whose devices changed; ``None`` in an initial sync.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    with raised_as(LocalProtocolError):
        numbers = checked_counts(counts, "counts")
        records = map_of(instances(FallbackKeyRecord))(fallback_keys, "fallback_keys")
        optional(instances(DeviceLists))(lists, "lists")
    return SyncKeys(
        device_lists=lists,
        one_time_key_counts={SIGNED_CURVE25519: 0, **{name: number for name, number in numbers.items() if number}},
        unused_fallback_key_types=tuple(sorted(name for name, record in records.items() if not record.is_used)),
    )


def _users(value: object, name: str) -> frozenset[str]:
    return frozenset(user_ids(names_in(value), name))
