"""Signatures to upload, and what the server says of them.

Specification: client-server API, "Cross-signing"; ``cross_signing.yaml``.

Facts:

* An upload is answered with "200 OK" even if everything in it was refused. What was refused stands in ``failures``.
* What was not refused need not be stored. Servers skip a signature if they have any under the same key id. Only a
  later ``/keys/query`` shows what everybody else sees: :func:`~matrix_e2e_keys.confirm_signatures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from attrs import frozen

from matrix_e2e_keys.endpoints.client_server.signatures_upload import (
    SignatureFailure,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
)
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    json_pointer,
    quoted,
)
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.outcome import Notice, Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson

__all__ = [
    "RefusedSignatures",
    "SignaturesUploadResult",
    "check_signatures_upload",
    "uploaded_objects",
]

# --------------------------------------------------------------------------------------------------------------
# What the server says
# --------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class RefusedSignatures:
    """An object whose signatures the server refused.

    Attributes:
        user_id: under whose name it was uploaded.
        name: the device id, or the public key of a master key, under which it was uploaded.
        failure: why, in the server's words; a rejection if these are not well formed.
    """

    user_id: str
    name: str
    failure: SignatureFailure | Rejection


@frozen(kw_only=True)
class SignaturesUploadResult:
    """What the answer to an upload of signatures amounts to. Each uploaded object is in one of the first three.

    Attributes:
        stored: user id to the names of the objects that the server did not refuse.
        refused: the objects that it did refuse.
        unknown: user id to the names of the objects of which nobody knows, since the answer is malformed.
        notices: failures about what was never uploaded, and what is malformed.
    """

    stored: Mapping[str, frozenset[str]]
    refused: tuple[RefusedSignatures, ...]
    unknown: Mapping[str, frozenset[str]]
    notices: tuple[Notice, ...]

    @property
    def is_complete(self) -> bool:
        """Whether the server took everything, as far as it says."""
        return not self.refused and not self.unknown

    def require_all(self) -> None:
        """Stop at what the server did not take.

        Raises:
            RemoteProtocolError: for the first object that was refused, or of which nobody knows.
        """
        for refused in self.refused:
            failure = refused.failure
            said = (
                f"{quoted(failure.errcode or '')}, {quoted(failure.text)}"
                if isinstance(failure, SignatureFailure)
                else failure.detail
            )
            raise _in_answer(
                Reason.ANSWERED_WITH_ERROR,
                f"the server refused the signatures on {quoted(refused.name)}: {said}",
                ("failures", refused.user_id, refused.name),
            )
        for _ in self.unknown:
            raise _in_answer(Reason.WRONG_TYPE, "nobody can tell which signatures were refused", ("failures",))

    def __bool__(self) -> NoReturn:
        raise LocalProtocolError(Reason.INVALID_VALUE, "a SignaturesUploadResult has no truth value: ask .is_complete")


def check_signatures_upload(
    request: SignaturesUploadRequest, response: SignaturesUploadResponse
) -> SignaturesUploadResult:
    """Judge an answer against what was uploaded.

    Args:
        request: what was uploaded.
        response: what was answered.

    Raises:
        LocalProtocolError: an argument has the wrong type, or nothing was uploaded that can be judged.
    """
    if type(response) is not SignaturesUploadResponse:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a SignaturesUploadResponse is needed", path="/response")
    uploaded: dict[str, dict[str, None]] = {}  # the names in their order
    for user_id, name, _ in uploaded_objects(request):
        uploaded.setdefault(user_id, {})[name] = None
    if response.malformed:
        return SignaturesUploadResult(
            stored=FrozenMap({}),
            refused=(),
            unknown=_names(uploaded),
            notices=tuple([Notice(path=it.path, reason=it.reason, detail=it.detail) for it in response.malformed]),
        )
    refused: list[RefusedSignatures] = []
    notices: list[Notice] = []
    for user_id, refused_name, failure in response.failed:
        names = uploaded.get(user_id, {})
        meant = [*names] if refused_name is None else [refused_name] if refused_name in names else []
        for name in meant:
            del names[name]
            refused.append(RefusedSignatures(user_id=user_id, name=name, failure=failure))
        if not meant:
            path = json_pointer(("failures", user_id, *(() if refused_name is None else (refused_name,))))
            notices.append(Notice(path=path, reason=Reason.UNREQUESTED, detail="nothing was uploaded under this name"))
    return SignaturesUploadResult(
        stored=_names(uploaded), refused=tuple(refused), unknown=FrozenMap({}), notices=tuple(notices)
    )


def _names(uploaded: Mapping[str, Mapping[str, None]]) -> Mapping[str, frozenset[str]]:
    return FrozenMap({user_id: frozenset(names) for user_id, names in uploaded.items() if names})


def _in_answer(reason: Reason, detail: str, at: tuple[str, ...]) -> RemoteProtocolError:
    error = RemoteProtocolError(reason, detail, path=json_pointer(at))
    error.in_answer = True
    return error


def uploaded_objects(request: SignaturesUploadRequest) -> list[tuple[str, str, SignedJson]]:
    """Return user id, name and object of what was uploaded.

    Raises:
        LocalProtocolError: nothing was, or something that is no object with signatures.
    """
    if type(request) is not SignaturesUploadRequest:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a SignaturesUploadRequest is needed", path="/request")
    objects: list[tuple[str, str, SignedJson]] = []
    for user_id, of_user in request.signed_objects.items():
        if isinstance(of_user, Rejection):
            raise LocalProtocolError(of_user.reason, of_user.detail, path=json_pointer(("request", user_id)))
        for name, signed in of_user.items():
            path = json_pointer(("request", user_id, name))
            if isinstance(signed, Rejection):
                raise LocalProtocolError(signed.reason, signed.detail, path=path)
            if not any(signed.signatures.values()):
                raise LocalProtocolError(Reason.MISSING_SIGNATURE, "the object carries no signature", path=path)
            objects.append((user_id, name, signed))
    if not objects:
        raise LocalProtocolError(Reason.INVALID_VALUE, "nothing was uploaded", path="/request")
    return objects
