"""The one upload that is in flight, and when the next one may follow.

Specification: client-server API, "Key management API", "Rate limiting".

Facts:

* The first refusal for the sake of a one-time key is followed by another upload at once, since that is what helps. Each
  further one in a row delays for longer, and so does every other failure.
* A request that is too large is followed by one with half as many keys.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from matrix_e2e_keys.back_off import BackOff, granted
from matrix_e2e_keys.client.supply.fallback_keys import FallbackKey
from matrix_e2e_keys.client.supply.key_counts import longer
from matrix_e2e_keys.client.supply.values import OutgoingUpload
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import LocalProtocolError, Reason

__all__ = ["Flight", "Uploads"]

_MAX_BATCH: Final = 100
_SERVER: Final = "server"
_TOO_LARGE: Final = 413


@define
class Flight:
    """Internal: an upload under way.

    Attributes:
        upload: the upload.
        names: the one-time keys it carries.
        fallback: the fallback key it carries.
        heard: what ``/sync`` said meanwhile of how many one-time keys there are, from before the upload or after it.
    """

    upload: OutgoingUpload
    names: list[str]
    fallback: FallbackKey | None
    heard: int | None = None


@define
class Uploads:
    """Internal: uploads, one after the other.

    Attributes:
        flight: the one under way.
        batch: how many one-time keys the next one may carry.
    """

    flight: Flight | None = None
    batch: int = _MAX_BATCH
    _last_id: int = 0
    _conflicts: int = 0
    _delays: BackOff = field(factory=BackOff)

    @property
    def ready_at(self) -> int:
        """From when on the next one may follow, if none is under way."""
        return self._delays.ready_at(_SERVER)

    def start(self, request: KeysUploadRequest, names: list[str], fallback: FallbackKey | None) -> OutgoingUpload:
        """Begin an upload."""
        self._last_id += 1
        self.flight = Flight(OutgoingUpload(upload_id=self._last_id, request=request), names, fallback)
        return self.flight.upload

    def land(self, upload_id: int) -> Flight | None:
        """Return the upload under way, if it is this one. It is under way no longer.

        Raises:
            LocalProtocolError: the id has the wrong type.
        """
        if type(upload_id) is not int:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the id of an upload is an integer", path="/upload_id")
        flight = self.flight
        if flight is None or flight.upload.upload_id != upload_id:
            return None
        self.flight = None
        return flight

    def succeeded(self) -> None:
        """Note that one was answered."""
        self._delays.succeeded(_SERVER)
        self._conflicts, self.batch = 0, _MAX_BATCH

    def failed(self, flight: Flight, error: MatrixError | None, now: int) -> None:
        """Note that one was refused, but not for the sake of a one-time key, or got no answer."""
        if error is not None and (error.status == _TOO_LARGE or error.errcode == "M_TOO_LARGE"):
            self.batch = max(1, len(flight.names) // 2)
        retry_after_ms = None if error is None else error.retry_after_ms
        self._delays.failed(_SERVER, now, at_least_ms=granted(retry_after_ms))

    def conflicted(self, now: int) -> None:
        """Note that one was refused for the sake of a one-time key."""
        if self._conflicts:
            self._delays.failed(_SERVER, now, at_least_ms=longer(self._conflicts - 1))
        self._conflicts += 1

    def forget_delays(self) -> None:
        """Begin with the delays anew, since the clock was set back."""
        self._delays = BackOff()
