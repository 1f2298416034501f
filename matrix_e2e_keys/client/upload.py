"""What to make of a refused upload: a one-time key whose id the server has under another key already.

Specification: none. Servers refuse such an upload with status 400, ``M_UNKNOWN`` and a text that clients have come to
read: ``One time key <key id> already exists. Old key: <JSON>; new key: <text>``.

Facts:

* It means that the client has lost part of its state, or that an upload was repeated with other keys. Sending the same
  request again never helps.
* Nothing of the refused request's one-time keys is stored; its device keys may be.
* The text is the server's word. What the new key was is taken from the request, not from the text.
"""

from __future__ import annotations

import json
import re
from typing import Final

from attrs import frozen

from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.models.one_time_keys import OneTimeKey

__all__ = ["OneTimeKeyConflict", "one_time_key_conflict"]

_TEXT: Final = re.compile(r"One time key (?P<key_id>\S+) already exists\. Old key: ", re.DOTALL)
_JSON: Final = json.JSONDecoder()


@frozen(kw_only=True)
class OneTimeKeyConflict:
    """A one-time key that was not uploaded, since the server holds another one under its id.

    Attributes:
        uploaded: the key that was to be uploaded.
        held: the key that the server says it holds, ``None`` if that cannot be read.
    """

    uploaded: OneTimeKey
    held: OneTimeKey | None

    @property
    def key_id(self) -> str:
        """The id of both."""
        return str(self.uploaded.key_id)

    @property
    def is_same_key(self) -> bool:
        """Whether the key itself is the same, and only something around it differs.

        Then the key may be regarded as uploaded. Otherwise its id must never be used again, and neither must any other
        that may have been used before: generate keys with higher ids.
        """
        return (
            self.held is not None
            and self.held.public_key is not None
            and (self.held.public_key == self.uploaded.public_key)
        )


def one_time_key_conflict(request: KeysUploadRequest, error: MatrixError) -> OneTimeKeyConflict | None:
    """Return which one-time key an upload was refused for, ``None`` if it was refused for something else.

    Args:
        request: the upload.
        error: its answer.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    if type(request) is not KeysUploadRequest or type(error) is not MatrixError:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a KeysUploadRequest and a MatrixError are needed")
    said = _TEXT.match(error.error)
    if said is None:
        return None
    uploaded = request.one_time_keys.get(said["key_id"])
    if not isinstance(uploaded, OneTimeKey):
        return None
    return OneTimeKeyConflict(uploaded=uploaded, held=_held(said["key_id"], error.error[said.end() :]))


def _held(key_id: str, text: str) -> OneTimeKey | None:
    """Read the key at the beginning of ``text``: an object or a string, as JSON."""
    try:
        _, end = _JSON.raw_decode(text)
        return OneTimeKey.from_json(key_id, parse_frame(text[:end]))
    except (ValueError, RecursionError, RemoteProtocolError):
        return None
