"""``POST /_matrix/client/v3/keys/signatures/upload``: signatures over keys, one's own and others'.

Specification: client-server API, "Cross-signing".

Facts:

* "200 OK" is no success yet: what was refused stands in ``failures``, one entry for each key.
* Two forms of such an entry exist in the field: the specification's ``{errcode, error}``, and ``{status, errcode,
  message}``. Both are read, and each is written as it was read.
* What is uploaded is the whole object with the new signatures in it. What is signed in it must equal what the
  server has, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final, Self, TypeAlias

from attrs import field, frozen

from matrix_e2e_keys.endpoints.dialects import ENDPOINTS, Endpoint
from matrix_e2e_keys.endpoints.entries import (
    malformed_members,
    or_rejection,
    read_entry,
    read_member,
    read_signed_object,
    read_users,
    user_entries,
    write_entries,
    write_malformed,
)
from matrix_e2e_keys.endpoints.members import (
    extra_beside,
    instances,
    integer,
    map_of,
    opaque_string,
    optional,
    settle,
)
from matrix_e2e_keys.endpoints.messages import BodyRequest, Response, others, refuse_error
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.json_trees import JsonObject, object_in, thaw
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson

__all__ = ["SignatureFailure", "SignaturesUploadRequest", "SignaturesUploadResponse"]

_FAILURE_MEMBERS: Final = ("errcode", "error", "message", "status")

SignedObjects: TypeAlias = Mapping[str, Mapping[str, SignedJson | Rejection] | Rejection]
"""User id to device id or public key to the object with its new signatures; a rejection where something else stands."""


@frozen(kw_only=True)
class SignaturesUploadRequest(BodyRequest["SignaturesUploadResponse"]):
    """What is uploaded.

    Attributes:
        signed_objects: user id to key to the signed object. The key is a device id, or the public key of a master key
            in unpadded base64.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["signatures_upload"]

    signed_objects: SignedObjects

    def __attrs_post_init__(self) -> None:
        settle(self, signed_objects=user_entries(map_of(or_rejection(instances(SignedJson)))))

    @classmethod
    def for_keys(cls, keys: Iterable[DeviceKeys | CrossSigningKey]) -> Self:
        """Upload the signatures that some keys carry, each under the name it goes by.

        Raises:
            LocalProtocolError: one of them is no key.
        """
        if not isinstance(keys, Iterable):
            raise LocalProtocolError(Reason.WRONG_TYPE, "several keys are needed", path="/keys")
        objects: dict[str, dict[str, SignedJson]] = {}
        for key in keys:
            if type(key) is DeviceKeys:
                name: str = key.device_id
            elif type(key) is CrossSigningKey:
                name = key.key_id.name
            else:
                raise LocalProtocolError(
                    Reason.WRONG_TYPE,
                    f"DeviceKeys or CrossSigningKey is needed, not {type(key).__name__}",
                    path="/keys",
                )
            objects.setdefault(key.user_id, {})[name] = key.signed
        return cls(signed_objects=objects)

    def to_json(self) -> JsonObject:
        """Return the request body. What was malformed stands in it as it was received, or as ``null``."""
        body: JsonObject = write_entries(self.signed_objects)
        return body

    @classmethod
    def _read_body(cls, body: dict[str, Any]) -> Self:

        def read_user(objects: Any, user: str) -> dict[str, Any]:
            object_in(objects, "the signed objects of a user")
            return {
                name: read_entry(read_signed_object, value, user, name, user=user) for name, value in objects.items()
            }

        return cls(signed_objects=read_users(body, read_user))

    @classmethod
    def answer_type(cls) -> type[SignaturesUploadResponse]:
        """Return the class of the answers."""
        return SignaturesUploadResponse


@frozen(kw_only=True)
class SignatureFailure:
    """Why the server refused the signatures on one key. Untrusted text, whatever the member.

    Attributes:
        errcode: the error code, for example ``"M_INVALID_SIGNATURE"``; ``None`` if the server names none.
        error: the text, where the specification puts it.
        message: the text, where it stands in the other form.
        status: the HTTP status that the other form states.
        extra: all other members.
    """

    errcode: str | None = None
    error: str | None = None
    message: str | None = None
    status: int | None = None
    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            errcode=optional(opaque_string),
            error=optional(opaque_string),
            message=optional(opaque_string),
            status=optional(integer),
            extra=extra_beside(*_FAILURE_MEMBERS),
        )

    @property
    def text(self) -> str:
        """What the server says to people, empty if nothing."""
        return next((text for text in (self.error, self.message) if text is not None), "")

    def to_json(self) -> JsonObject:
        """Return the failure in the form in which it was read or made."""
        body: JsonObject = thaw(dict(self.extra))
        for name in _FAILURE_MEMBERS:
            value = getattr(self, name)
            if value is not None:
                body[name] = value
        return body


def _read_failure(tree: Any) -> SignatureFailure:
    body = object_in(tree, "a failure")
    named = {name: body[name] for name in _FAILURE_MEMBERS if name in body}
    return SignatureFailure(**named, extra=thaw(others(body, *_FAILURE_MEMBERS)))


Failures: TypeAlias = Mapping[str, Mapping[str, SignatureFailure | Rejection] | Rejection]
"""User id to key to failure. What is no well-formed failure is a rejection, and a failure all the same."""


@frozen(kw_only=True)
class SignaturesUploadResponse(Response):
    """What the server refused; everything else it has stored.

    Attributes:
        failures: user id to device id or public key to failure.
        extra: members that the specification does not name.
        malformed: ``failures`` if it is no map. Then nobody knows what was stored.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["signatures_upload"]

    failures: Failures = field(factory=dict)
    extra: Mapping[str, Any] = field(factory=dict)
    malformed: tuple[Rejection, ...] = ()

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            failures=user_entries(map_of(or_rejection(instances(SignatureFailure)))),
            extra=extra_beside("failures"),
            malformed=malformed_members(self, "failures"),
        )

    @property
    def failed(self) -> Iterator[tuple[str, str | None, SignatureFailure | Rejection]]:
        """User id, key and failure, one after the other; the key is ``None`` where all of a user's are meant."""
        for user, failures in self.failures.items():
            if isinstance(failures, Rejection):
                yield user, None, failures
            else:
                for name, failure in failures.items():
                    yield user, name, failure

    def to_json(self) -> JsonObject:
        """Return the response body."""
        body: JsonObject = thaw(dict(self.extra))
        body["failures"] = write_entries(self.failures)
        return write_malformed(body, self.malformed)

    @classmethod
    def _read_tree(cls, tree: dict[str, Any]) -> Self:
        def read_user(failures: Any, user: str) -> dict[str, Any]:
            object_in(failures, "the failures of a user")
            return {
                name: read_entry(_read_failure, value, "failures", user, name, user=user)
                for name, value in failures.items()
            }

        refuse_error(tree, "failures")
        malformed: list[Rejection] = []
        return cls(
            failures=read_member(
                tree, "failures", lambda failures, name: read_users(failures, read_user, name), malformed
            ),
            extra=thaw(others(tree, "failures")),
            malformed=tuple(malformed),
        )
