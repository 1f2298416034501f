"""What a :class:`~matrix_e2e_keys.KeySupply` is told, and what it tells.

Specification: client-server API, "One-time and fallback keys".
"""

from __future__ import annotations

import enum
from typing import Final

from attrs import frozen

from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest
from matrix_e2e_keys.errors import LocalProtocolError, Reason

__all__ = ["KeyUse", "NeededKeys", "OutgoingUpload", "SupplyPolicy"]

_HOUR_MS: Final = 60 * 60 * 1000


@frozen(kw_only=True)
class SupplyPolicy:
    """How many keys to have, and for how long.

    Attributes:
        target: how many unclaimed one-time keys the server is to hold. At least 1.
        cap: how many one-time keys are remembered, at least ``target``. Nothing is known of the oldest beyond: their
            private halves may be given up, and only the Olm library can see to it that their names are not used again.
        fallback_max_age_ms: after how many milliseconds a fallback key is replaced even if nobody used it.
        fallback_grace_ms: how many milliseconds the previous fallback key is kept after a message has used it, or the
            current one.
    """

    target: int = 50
    cap: int = 5000
    fallback_max_age_ms: int = 7 * 24 * _HOUR_MS
    fallback_grace_ms: int = _HOUR_MS

    def __attrs_post_init__(self) -> None:
        for name, least in (("target", 1), ("cap", 1), ("fallback_max_age_ms", 1), ("fallback_grace_ms", 0)):
            value = getattr(self, name)
            if type(value) is not int:
                raise LocalProtocolError(Reason.WRONG_TYPE, f"{name} must be an integer", path=f"/{name}")
            if value < least:
                raise LocalProtocolError(Reason.INVALID_VALUE, f"{name} must be at least {least}", path=f"/{name}")
        if self.cap < self.target:
            raise LocalProtocolError(Reason.INVALID_VALUE, "cap must not be less than target", path="/cap")


@frozen(kw_only=True)
class NeededKeys:
    """What to ask the Olm library for.

    Attributes:
        one_time_keys: how many new one-time keys to make.
        fallback_key: whether to make a new fallback key.
        forget_previous_fallback_key: whether to destroy the private half of the fallback key before the current one;
            then call :meth:`KeySupply.previous_fallback_forgotten`.
    """

    one_time_keys: int
    fallback_key: bool
    forget_previous_fallback_key: bool

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to do."""
        return self == NeededKeys(one_time_keys=0, fallback_key=False, forget_previous_fallback_key=False)


@frozen(kw_only=True)
class OutgoingUpload:
    """An upload to send.

    Attributes:
        upload_id: to be named when the answer arrives. Not to be kept over a restart.
        request: what to upload. It may be empty: then it asks how many one-time keys the server holds.
    """

    upload_id: int
    request: KeysUploadRequest


class KeyUse(enum.StrEnum):
    """Which key of one's own a message used. The values are stable: programs may compare and store them."""

    ONE_TIME = "one-time"
    FALLBACK = "fallback"
    """The current fallback key. The message may be a replay of one that was received before."""
    PREVIOUS_FALLBACK = "previous-fallback"
    """The fallback key before the current one. The message may be a replay as well."""
    UNKNOWN = "unknown"
    """None that is remembered."""
