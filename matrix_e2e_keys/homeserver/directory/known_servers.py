"""The published keys of other servers, as long as they may be used, and when to ask for them.

Specification: server-server API, "Retrieving server keys", "Publishing Keys".

Facts:

* Whose keys are asked for is what an unsigned header says: anybody can name any server, and any key of it. So a server
  is asked once a minute at most, whether or not it has answered, and whether or not its answer has the key.
* "Keys used beyond this timestamp MUST be considered invalid", and none is used for more than seven days. A server that
  has other keys by then, or signs with one that is not known, is asked again.
* What cannot be fetched takes nothing away: keys that are known are good until their time is over.
* One's own keys are not asked for. No server sends a request to itself.
* Nothing is fetched here. The clock is the caller's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeVar

from attrs import define, field

from matrix_e2e_keys.back_off import check_now
from matrix_e2e_keys.endpoints.federation.server_keys import ServerKeysRequest
from matrix_e2e_keys.endpoints.http_values import HttpResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, VerificationError
from matrix_e2e_keys.homeserver.federation_auth.authorization import XMatrixClaim
from matrix_e2e_keys.identifiers import check_server_name
from matrix_e2e_keys.models.server_keys import VerifiedServerKeys
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["KnownServers"]

T = TypeVar("T")

_REMEMBERED: Final = 10_000
_PAUSE_MS: Final = 60_000


@define(kw_only=True)
class KnownServers:
    """The keys of servers that have asked. A state machine without input or output.

    To find out who sent a request, with a ``fetch`` of one's own that sends a request to a server::

        claim = read_authorization(headers, server_name="a.example")
        known = servers.keys_for(claim, now=now)
        if known is None and servers.may_ask(claim.origin, now=now):
            response = fetch(claim.origin, ServerKeysRequest().to_http())
            if response is None:  # no answer
                servers.receive_failure(claim.origin, now=now)
            else:
                with contextlib.suppress(MatrixError, RemoteProtocolError, VerificationError):
                    servers.receive(claim.origin, response, now=now)
            known = servers.keys_for(claim, now=now)
        keys, received_ts = known or ({}, now)
        origin = claim.verify(request, keys=keys, received_ts=received_ts, now=now)

    :meth:`XMatrixClaim.verify` says 401 where keys are missing. If several requests of one server come at once, fetch
    its keys once and let all of them wait for that.

    Times are milliseconds since the epoch. The keys of the 10,000 servers that answered last are remembered, and the
    failures of the 10,000 that failed last. They are not worth storing.

    Attributes:
        verifier: who checks the signatures of the documents.
    """

    verifier: Verifier = field(default=LIBSODIUM, repr=False)
    _keys: OrderedDict[str, tuple[VerifiedServerKeys, int]] = field(factory=OrderedDict, init=False, repr=False)
    _failed: OrderedDict[str, int] = field(factory=OrderedDict, init=False, repr=False)
    """When servers were asked in vain."""

    def __attrs_post_init__(self) -> None:
        check_verifier(self.verifier)

    def keys_for(self, claim: XMatrixClaim, *, now: int) -> tuple[VerifiedServerKeys, int] | None:
        """Return the keys to judge a claim by.

        Keys that do not suffice, since they may not be used any more or the claim names others, are returned if their
        server may not be asked at this time: :meth:`XMatrixClaim.verify` refuses the request then.

        Args:
            claim: who says that a request is his.
            now: the time, in milliseconds since the epoch.

        Returns:
            The keys and when they were received, in milliseconds since the epoch. ``None`` if they must be fetched; or
            if there are none, and :meth:`may_ask` says that the server cannot be asked for them.

        Raises:
            MatrixError: what to answer: 401 if the request claims to be by this server itself.
            LocalProtocolError: an argument has the wrong type.
        """
        if type(claim) is not XMatrixClaim:
            raise LocalProtocolError(Reason.WRONG_TYPE, "an XMatrixClaim is needed", path="/claim")
        check_now(now)
        if claim.origin == claim.server_name:
            error = f"The request claims to be by {claim.origin}, which is this server"
            raise MatrixError(status=401, errcode="M_UNAUTHORIZED", error=error)
        known = self._keys.get(claim.origin)
        if known is None or not self.may_ask(claim.origin, now=now):
            return known
        keys, received_ts = known
        suffices = now <= keys.usable_until(received_ts) and any(name in keys.verify_keys for name in claim.key_ids)
        return known if suffices else None

    def may_ask(self, origin: str, *, now: int) -> bool:
        """Tell whether a server may be asked for its keys: it was not within the last minute.

        Args:
            origin: the server.
            now: the time, in milliseconds since the epoch.

        Raises:
            LocalProtocolError: it is no server name, or an argument has the wrong type.
        """
        name = check_server_name(origin, "origin")
        check_now(now)
        _, received_ts = self._keys.get(name, (None, None))
        asked = (received_ts, self._failed.get(name))
        return not any(since is not None and abs(now - since) < _PAUSE_MS for since in asked)

    def receive(self, server_name: str, response: HttpResponse, *, now: int) -> None:
        """Take the answer of a server that was asked for its keys.

        Args:
            server_name: the server that was asked.
            response: its answer to a :class:`~matrix_e2e_keys.ServerKeysRequest`.
            now: the time, in milliseconds since the epoch.

        Raises:
            MatrixError: the server refused.
            RemoteProtocolError: the answer is not a document of keys.
            VerificationError: it is another server's, it holds no key, or one of its keys has not signed it. After each
                of these three the server counts as having failed, and the keys that were known stay.
            LocalProtocolError: an argument is not what it should be. Nothing is changed.
        """
        name = check_server_name(server_name, "server_name")
        if type(response) is not HttpResponse:
            raise LocalProtocolError(Reason.WRONG_TYPE, "an HttpResponse is needed", path="/response")
        check_now(now)
        try:
            document = ServerKeysRequest().read_answer(response).server_keys
            keys = document.verify(server_name=name, verifier=self.verifier)
        except (MatrixError, RemoteProtocolError, VerificationError):
            _remember(self._failed, name, now)
            raise
        self._failed.pop(name, None)
        _remember(self._keys, name, (keys, now))

    def receive_failure(self, server_name: str, *, now: int) -> None:
        """Note that a server that was asked for its keys gave no answer.

        Args:
            server_name: the server that was asked.
            now: the time, in milliseconds since the epoch.

        Raises:
            LocalProtocolError: it is no server name, or an argument has the wrong type.
        """
        _remember(self._failed, check_server_name(server_name, "server_name"), check_now(now))


def _remember(things: OrderedDict[str, T], name: str, thing: T) -> None:
    things[name] = thing
    things.move_to_end(name)
    if len(things) > _REMEMBERED:
        things.popitem(last=False)
