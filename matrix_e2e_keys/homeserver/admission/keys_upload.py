"""``POST /keys/upload``: what a homeserver stores and answers.

Specification: client-server API, "Uploading keys", "One-time and fallback keys"; ``keys.yaml``.

Facts:

* Everything is checked before anything is stored. A refusal has no effects: not even the device keys of an upload are
  stored whose one-time keys are refused.
* A token without a device uploads nothing. A device that the view does not hold is answered 404, ``M_NOT_FOUND``. It
  was deleted a moment ago; but nobody is to be logged out, and lose all keys, because a row was not read.
* ``v2_alpha`` names the device in the path. Any but that of the token is refused: 403, ``M_FORBIDDEN``.
* The answer counts the unclaimed keys after the upload. It always names ``signed_curve25519``: clients take a missing
  count for "nothing has changed".
* Limits are counted before anything is decoded, encoded or verified, as far as they can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from attrs import evolve, field, frozen

from matrix_e2e_keys.algorithms import SIGNED_CURVE25519
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest, KeysUploadResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.members import counts, instances, map_of, opaque_string, settle
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, VerificationError
from matrix_e2e_keys.homeserver.admission.device_keys import AdmittedDeviceKeys, admit_device_keys
from matrix_e2e_keys.homeserver.admission.one_time_keys import (
    FALLBACK_KEYS,
    ONE_TIME_KEYS,
    check_device_signatures,
    is_key_id,
    new_fallback_keys,
    new_one_time_keys,
    read_keys,
    storable,
)
from matrix_e2e_keys.homeserver.admission.signature_roles import device_signing_key
from matrix_e2e_keys.homeserver.admission.uploaded_objects import refusal
from matrix_e2e_keys.homeserver.decisions import Decision, Requester, check_requester
from matrix_e2e_keys.homeserver.effects import Effect, ForgetOneTimeKeys, StoreFallbackKey, StoreOneTimeKeys, guarded
from matrix_e2e_keys.homeserver.policies import SPEC, Limits, Policy, check_policy
from matrix_e2e_keys.homeserver.stored_keys import (
    FallbackKeyRecord,
    StoredKey,
    UserKeys,
    algorithm_of,
    key_digest,
    stored_key,
)
from matrix_e2e_keys.signing.signed_json import SignedJson
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["UploadLookup", "UploadView", "decide_keys_upload", "upload_lookup"]

_NO_DEVICE: Final = "To upload keys, you must pass device_id when authenticating"


@frozen(kw_only=True)
class UploadLookup:
    """What to look up before an upload is decided: everything of the one device.

    Attributes:
        key_ids: ids to look for among the unclaimed and the claimed one-time keys.
        digests: digests to look for among them.
        algorithms: algorithms that are uploaded. A view tells the fallback keys and counts of all algorithms.
    """

    key_ids: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()


@frozen(kw_only=True)
class UploadView:
    """What is stored for one device, as far as an upload is concerned.

    Attributes:
        user: its owner, with all devices and the identity.
        one_time_keys: unclaimed one-time keys by id: at least those whose ids are uploaded.
        counts: algorithm to the number of unclaimed one-time keys, of all algorithms.
        claimed: id to digest of the keys that were claimed: at least those whose ids are uploaded.
        digests: digest to id of the one-time keys that are held or were claimed: at least those that are uploaded.
        fallback_keys: algorithm to fallback key, of all algorithms.
    """

    user: UserKeys
    one_time_keys: Mapping[str, StoredKey] = field(factory=dict)
    counts: Mapping[str, int] = field(factory=dict)
    claimed: Mapping[str, str] = field(factory=dict)
    digests: Mapping[str, str] = field(factory=dict)
    fallback_keys: Mapping[str, FallbackKeyRecord] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            user=instances(UserKeys),
            one_time_keys=map_of(stored_key),
            counts=counts,
            claimed=map_of(opaque_string),
            digests=map_of(opaque_string),
            fallback_keys=map_of(instances(FallbackKeyRecord)),
        )


def upload_lookup(request: KeysUploadRequest, *, policy: Policy = SPEC) -> UploadLookup:
    """Return what to look up before an upload is decided.

    Whatever no policy takes is left out, and so is everything if there are more keys than the policy takes.

    Args:
        request: the upload.
        policy: the one that will be used to decide.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    _check_request(request)
    if _key_count(request) > check_policy(policy).limits.one_time_keys_per_upload:
        return UploadLookup()
    entries = [
        (key_id, entry)
        for entries in (request.one_time_keys, request.fallback_keys)
        for key_id, entry in entries.items()
        if is_key_id(key_id)
    ]
    keys = [key for _, entry in entries if (key := storable(entry)) is not None]
    return UploadLookup(
        key_ids=tuple(key_id for key_id in request.one_time_keys if is_key_id(key_id)),
        digests=tuple(dict.fromkeys(map(key_digest, keys))),
        algorithms=tuple(dict.fromkeys(algorithm_of(key_id) for key_id, _ in entries)),
    )


def _check_request(request: object) -> None:
    if type(request) is not KeysUploadRequest:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a KeysUploadRequest is needed", path="/request")


def _key_count(request: KeysUploadRequest) -> int:
    return len(request.one_time_keys) + len(request.fallback_keys)


def decide_keys_upload(
    request: KeysUploadRequest,
    *,
    requester: Requester,
    view: UploadView,
    policy: Policy = SPEC,
    verifier: Verifier = LIBSODIUM,
) -> Decision[KeysUploadResponse]:
    """Decide about an upload.

    Args:
        request: the upload.
        requester: who uploads.
        view: what is stored for the device of the requester, see :func:`upload_lookup`. Without a device, only the user
            is looked at.
        policy: how much is checked.
        verifier: who checks signatures.

    Raises:
        LocalProtocolError: an argument has the wrong type, or the view is that of another user.
    """
    _check_request(request)
    check_requester(requester)
    check_policy(policy)
    check_verifier(verifier)
    if type(view) is not UploadView:
        raise LocalProtocolError(Reason.WRONG_TYPE, "an UploadView is needed", path="/view")
    if view.user.user_id != requester.user_id:
        raise LocalProtocolError(Reason.USER_ID_MISMATCH, "the view is that of another user", path="/view/user")
    try:
        return _decide(request, _device_of(requester, request, view.user), view, policy, verifier)
    except (MatrixError, RemoteProtocolError, VerificationError) as error:
        return Decision(answer=MatrixError.answering(error))


def _device_of(requester: Requester, request: KeysUploadRequest, user: UserKeys) -> str:
    """Return the device that uploads."""
    if requester.device_id is None:
        raise refusal("M_UNKNOWN", _NO_DEVICE)
    if request.device_id not in (None, requester.device_id):
        raise refusal("M_FORBIDDEN", "The device in the path is not that of the access token", status=403)
    if requester.device_id not in user.devices:
        raise refusal("M_NOT_FOUND", "Unknown device", status=404)
    return requester.device_id


def _decide(
    request: KeysUploadRequest, device_id: str, view: UploadView, policy: Policy, verifier: Verifier
) -> Decision[KeysUploadResponse]:
    user_id = view.user.user_id
    _check_frame(request, policy)
    one_time_keys = read_keys(request.one_time_keys, ONE_TIME_KEYS, owner=user_id, device_id=device_id, policy=policy)
    fallback_keys = read_keys(request.fallback_keys, FALLBACK_KEYS, owner=user_id, device_id=device_id, policy=policy)
    device = AdmittedDeviceKeys(keys=view.user.devices[device_id].keys)
    if request.device_keys is not None:
        device = admit_device_keys(
            request.device_keys, device_id=device_id, user=view.user, policy=policy, verifier=verifier
        )
    known = frozenset({*view.digests, *view.claimed.values()})
    begins_anew = policy.refuses_claimed_ids and _begins_anew(device_id, view.user, device.keys)
    if begins_anew:
        view = evolve(view, one_time_keys={}, counts={}, claimed={}, fallback_keys={})
    if policy.checks_one_time_key_signatures:
        keys = (*request.one_time_keys.values(), *request.fallback_keys.values())
        check_device_signatures(keys, device.keys, verifier)
    new = new_one_time_keys(
        one_time_keys,
        held=view.one_time_keys,
        claimed=view.claimed,
        digests=known,
        fallback_digests=frozenset(key_digest(record.key) for record in view.fallback_keys.values()),
        policy=policy,
    )
    new_fallback = new_fallback_keys(
        fallback_keys,
        held=view.fallback_keys,
        one_time_digests=known.union(map(key_digest, one_time_keys.values())),
        policy=policy,
    )
    added = Counter(map(algorithm_of, new))
    _check_counts(added, map(algorithm_of, new_fallback), view, policy.limits)
    effects: list[Effect] = [*device.effects]
    if begins_anew:
        effects.append(ForgetOneTimeKeys(user_id=user_id, device_id=device_id))
    if new:
        effects.append(StoreOneTimeKeys(user_id=user_id, device_id=device_id, keys=new))
    for key_id, key in new_fallback.items():
        effects.append(StoreFallbackKey(user_id=user_id, device_id=device_id, key_id=key_id, key=key))
    held = Counter(view.counts) + added  # only what is more than zero
    answer = KeysUploadResponse(one_time_key_counts={SIGNED_CURVE25519: 0, **held})
    return Decision(answer=answer, effects=guarded((*effects, *device.notices), view.user))


def _begins_anew(device_id: str, user: UserKeys, keys: SignedJson | None) -> bool:
    """Tell whether a device has another signing key than before: who has lost that has lost all its one-time keys."""
    before = user.devices[device_id].keys
    if before is None or keys is None:
        return False
    return device_signing_key(device_id, before) != device_signing_key(device_id, keys)


def _check_frame(request: KeysUploadRequest, policy: Policy) -> None:
    """Refuse too many keys, and what is no map of keys."""
    count, limit = _key_count(request), policy.limits.one_time_keys_per_upload
    if count > limit:
        raise refusal("M_TOO_LARGE", f"There are {count} one-time and fallback keys, over the limit of {limit}")
    for rejection in request.malformed:
        is_null = rejection.reason is Reason.WRONG_TYPE and rejection.raw is None
        if policy.checks_one_time_keys or not is_null:
            raise rejection.to_error()


def _check_counts(added: Counter[str], fallback: Iterable[str], view: UploadView, limits: Limits) -> None:
    """Refuse to hold too many keys of one algorithm, or keys of too many algorithms."""
    limit = limits.one_time_keys_per_algorithm
    for algorithm, count in added.items():
        total = view.counts.get(algorithm, 0) + count
        if total > limit:
            text = f"Uploading {count} more {algorithm} one-time keys would leave the device holding {total}"
            raise refusal("M_TOO_LARGE", f"{text}, over the limit of {limit}")
    held = {algorithm for algorithm, count in view.counts.items() if count}.union(view.fallback_keys)
    uploaded = {*added, *fallback}
    if not uploaded <= held and len(held | uploaded) > limits.algorithms_per_device:
        text = f"There would be keys of {len(held | uploaded)} algorithms, over the limit of"
        raise refusal("M_TOO_LARGE", f"{text} {limits.algorithms_per_device}")
