"""Secrets that one's own devices share, and an event that says nothing.

Specification: client-server API, "Secrets", "Sharing"; ``m.secret.request``, ``m.secret.send``, ``m.dummy``.

Facts:

* A request is sent in the open; a secret "must be encrypted". The recipient of a secret "must ensure that this event
  comes from a device that the m.secret.request event was originally sent to, and that the device is a verified device
  owned by the recipient".
* The names of secrets are an open list.
* What stands beside a cancellation does not matter, however malformed.
* ``m.dummy`` says that there is a new Olm session. It "does not have any content".
* A secret appears in no error and no ``repr``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast

from attrs import field, frozen

from matrix_e2e_keys.events.contents import EventContent, Member, some_string
from matrix_e2e_keys.events.key_requests import REQUEST_MEMBERS, RequestAction, check_requested, without_requested
from matrix_e2e_keys.events.shared_members import plain_text

__all__ = ["DummyContent", "SecretName", "SecretRequestContent", "SecretSendContent"]


class SecretName(enum.StrEnum):
    """The secrets that the specification names."""

    CROSS_SIGNING_MASTER = "m.cross_signing.master"
    CROSS_SIGNING_SELF_SIGNING = "m.cross_signing.self_signing"
    CROSS_SIGNING_USER_SIGNING = "m.cross_signing.user_signing"
    MEGOLM_BACKUP_V1 = "m.megolm_backup.v1"


@frozen(kw_only=True)
class SecretRequestContent(EventContent):
    """The content of ``m.secret.request``.

    Attributes:
        action: whether it asks, or takes back.
        requesting_device_id: the device that asks, according to the content.
        request_id: the name of the request. It is unique together with the device.
        name: which secret is asked for; ``None`` in a cancellation.
        extra: members that the specification does not name.
    """

    event_type: ClassVar[str] = "m.secret.request"
    members: ClassVar[Mapping[str, Member]] = {**REQUEST_MEMBERS, "name": Member(some_string, is_required=False)}

    action: RequestAction
    requesting_device_id: str
    request_id: str
    name: str | None = None

    def _check_whole(self) -> None:
        # "Required if action is request."
        check_requested(self.action, self.name, "name")

    @classmethod
    def read_tree(cls, tree: Any, what: str) -> Self:
        """Internal: as with every record, but a cancellation is read without its name."""
        return super().read_tree(without_requested(tree, what, "name"), what)

    @classmethod
    def build(cls, *, name: SecretName | str, request_id: str, requesting_device_id: str) -> Self:
        """Build a request.

        Args:
            name: which secret.
            request_id: a random text. The same may be used for each of several devices.
            requesting_device_id: this device.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        return cls(
            action=RequestAction.REQUEST,
            requesting_device_id=requesting_device_id,
            request_id=request_id,
            name=cast(str, plain_text(name)),
        )

    @classmethod
    def build_cancellation(cls, *, request_id: str, requesting_device_id: str) -> Self:
        """Build what takes a request back.

        Args:
            request_id: that of the request.
            requesting_device_id: this device.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        return cls(action=RequestAction.CANCELLATION, requesting_device_id=requesting_device_id, request_id=request_id)


@frozen(kw_only=True)
class SecretSendContent(EventContent):
    """The content of ``m.secret.send``.

    Attributes:
        request_id: the request that this answers.
        secret: the secret.
        extra: members that the specification does not name.
    """

    event_type: ClassVar[str] = "m.secret.send"
    members: ClassVar[Mapping[str, Member]] = {"request_id": Member(some_string), "secret": Member(some_string)}

    request_id: str
    secret: str = field(repr=False)

    @classmethod
    def build(cls, *, request_id: str, secret: str) -> Self:
        """Build an answer.

        Args:
            request_id: that of the request.
            secret: the secret. It is not quoted in any error.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        return cls(request_id=request_id, secret=secret)


@frozen(kw_only=True)
class DummyContent(EventContent):
    """The content of ``m.dummy``: nothing.

    Attributes:
        extra: members that the specification does not name. It names none.
    """

    event_type: ClassVar[str] = "m.dummy"
    members: ClassVar[Mapping[str, Member]] = {}

    @classmethod
    def build(cls) -> Self:
        """Build a content."""
        return cls()
