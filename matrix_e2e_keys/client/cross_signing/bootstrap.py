"""Setting up cross-signing: upload the keys, upload the signatures, see that both are served.

Specification: client-server API, "Cross-signing", "User-Interactive Authentication API".

Facts:

* The order is fixed: who uploads signatures by keys that the server does not have is refused. The device keys must have
  been uploaded before all this.
* Everything is signed at the start. From then on no private key is needed, what is sent is the same to the byte however
  often it is sent, and a server that has it already says yes to the same keys again.
* Private keys that are lost after the upload leave the user with an identity that nobody can use. So nothing is sent
  before the caller says that they are stored: :meth:`CrossSigningBootstrap.mark_stored`.
* A server that has another identity of the user asks for authentication first. One that has none, or this one, does
  not have to.
* An answer that says yes is not the end: :meth:`CrossSigningBootstrap.confirm` takes what a later query serves.

Nothing is sent here. The clock is the caller's.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field, frozen

from matrix_e2e_keys.back_off import BackOff, check_now, granted
from matrix_e2e_keys.client.cross_signing.bootstrap_plan import BootstrapPlan
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.cross_signing.served import SignatureConfirmation, confirm_signatures
from matrix_e2e_keys.client.cross_signing.signatures import SignaturesUploadResult, check_signatures_upload
from matrix_e2e_keys.client.queries.query import QueryResult
from matrix_e2e_keys.endpoints.client_server.device_signing_upload import (
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
)
from matrix_e2e_keys.endpoints.client_server.signatures_upload import SignaturesUploadRequest, SignaturesUploadResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.user_interactive import UserInteractiveAuth
from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.models.user_identity import UserIdentity
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.signers import Signer
from matrix_e2e_keys.stored import Stored

__all__ = ["BootstrapState", "BootstrapStep", "CrossSigningBootstrap"]

_VERSION: Final = 1
_SERVER: Final = ""
_TOO_MANY_REQUESTS: Final = 429


class BootstrapState(enum.StrEnum):
    """What comes next."""

    STORE_SECRETS = "store-secrets"
    """The caller stores the private keys, and calls :meth:`CrossSigningBootstrap.mark_stored`."""
    UPLOAD_KEYS = "upload-keys"
    """The cross-signing keys are to be uploaded."""
    AUTHENTICATE = "authenticate"
    """The server asks who it is; the caller calls :meth:`CrossSigningBootstrap.authenticate`."""
    UPLOAD_SIGNATURES = "upload-signatures"
    """The server has the keys. The signatures are to be uploaded."""
    CONFIRM = "confirm"
    """The server says that it has everything; the caller calls :meth:`CrossSigningBootstrap.confirm`."""
    DONE = "done"
    """The server has served everything."""


@frozen(kw_only=True)
class BootstrapStep:
    """A request to send.

    Attributes:
        step_id: to be named when the answer arrives. Not to be kept over a restart.
        request: what to send. It may hold a password, which its ``repr`` leaves out.
    """

    step_id: int
    request: DeviceSigningUploadRequest | SignaturesUploadRequest


@define(repr=False, eq=False)
class CrossSigningBootstrap(metaclass=Sealed):
    """The set-up of a user's cross-signing by one device. A state machine without input or output.

    Made by :meth:`start` and :meth:`from_json`. It holds no private key.
    """

    _plan: BootstrapPlan
    _state: BootstrapState
    _moment: int = field(default=0, init=False)
    _in_flight: BootstrapStep | None = field(default=None, init=False)
    _back_off: BackOff = field(factory=BackOff, init=False)
    _authentication: UserInteractiveAuth | None = field(default=None, init=False)
    _auth: Mapping[str, Any] | None = field(default=None, init=False)
    _last_error: MatrixError | None = field(default=None, init=False)
    _last_result: SignaturesUploadResult | None = field(default=None, init=False)

    @classmethod
    def start(
        cls, secrets: CrossSigningSecrets, *, device: VerifiedDevice, device_signer: Signer
    ) -> CrossSigningBootstrap:
        """Sign everything there is to sign.

        Args:
            secrets: all three private keys. They are not kept.
            device: one's own device; its keys have been uploaded.
            device_signer: its private half, under the key id ``ed25519:<device_id>``.

        Raises:
            LocalProtocolError: a private key is not at hand, the device is another user's, the signer is not that of
                the device, or the device can be taken for one of the keys.
        """
        return _new_bootstrap(BootstrapPlan.make(secrets, device, device_signer), BootstrapState.STORE_SECRETS)

    @property
    def state(self) -> BootstrapState:
        """What comes next."""
        return self._state

    @property
    def identity(self) -> UserIdentity:
        """The identity that is being set up."""
        return self._plan.identity

    @property
    def device(self) -> VerifiedDevice:
        """One's own device, signed by itself and by the identity, and by nobody else."""
        return self._plan.device

    @property
    def authentication(self) -> UserInteractiveAuth | None:
        """What the server wants to have proved, ``None`` unless the state is ``AUTHENTICATE``."""
        return self._authentication

    @property
    def last_error(self) -> MatrixError | None:
        """Why the step at hand failed last, ``None`` if it did not, or if there was no answer."""
        return self._last_error

    @property
    def last_result(self) -> SignaturesUploadResult | None:
        """What the server made of the signatures when it last said anything about them."""
        return self._last_result

    # ----------------------------------------------------------------------------------------------------------
    # What to send
    # ----------------------------------------------------------------------------------------------------------

    def mark_stored(self) -> None:
        """Note that the private keys are stored, together with :meth:`to_json`: from now on there is what to send."""
        if self._state is BootstrapState.STORE_SECRETS:
            self._state = BootstrapState.UPLOAD_KEYS

    def next_request(self, now: int) -> BootstrapStep | None:
        """Return what to send next, ``None`` if there is nothing to send at this time.

        There is nothing while a step is in flight, and nothing unless the state is one of uploading. What failed is
        sent again, after a delay that grows: also what the server seems to refuse for good. See :attr:`last_error`.

        Args:
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: ``now`` is no integer.
        """
        now = check_now(now)
        ready_at = self.next_request_at()
        if ready_at is None or now < ready_at:
            return None
        self._moment += 1
        request = self._keys_request() if self._state is BootstrapState.UPLOAD_KEYS else self._plan.signatures_request()
        self._in_flight = BootstrapStep(step_id=self._moment, request=request)
        return self._in_flight

    def next_request_at(self) -> int | None:
        """Return the time from which :meth:`next_request` has something; ``None`` if that depends on something else.

        A time that has passed means that there is something to send now.
        """
        if self._in_flight is not None or self._state not in _UPLOADING:
            return None
        return self._back_off.ready_at(_SERVER)

    def upload_again(self) -> None:
        """Begin again with the first upload, and the same bytes: what was uploaded is not served, and will not be.

        If somebody else has replaced the identity meanwhile, this replaces theirs, once the server has been satisfied.
        A delay that is under way goes on.

        Raises:
            LocalProtocolError: the private keys are not stored yet.
        """
        self._require(*_UPLOADING, *_AFTER, BootstrapState.AUTHENTICATE)
        self._in_flight = self._auth = None
        self._enter(BootstrapState.UPLOAD_KEYS)

    def _keys_request(self) -> DeviceSigningUploadRequest:
        request = self._plan.keys.upload_request()
        return request if self._auth is None else request.with_auth(self._auth)

    # ----------------------------------------------------------------------------------------------------------
    # What the server says
    # ----------------------------------------------------------------------------------------------------------

    def receive_response(
        self, step_id: int, response: DeviceSigningUploadResponse | SignaturesUploadResponse, now: int
    ) -> BootstrapState:
        """Take over an answer. An answer to anything but the step in flight is ignored.

        Args:
            step_id: which step.
            response: its answer.
            now: the caller's time in milliseconds.

        Returns:
            The state. If the server refused a signature, it is the same as before, and :attr:`last_result` says why.

        Raises:
            LocalProtocolError: an argument has the wrong type, or it is the answer to the other kind of request.
        """
        now = check_now(now)
        if type(response) not in (DeviceSigningUploadResponse, SignaturesUploadResponse):
            raise LocalProtocolError(Reason.WRONG_TYPE, "an answer to an upload is needed", path="/response")
        step = self._step(step_id)
        if step is None:
            return self._state
        if type(response) is not step.request.answer_type():
            raise LocalProtocolError(Reason.WRONG_TYPE, "this is no answer to that request", path="/response")
        if isinstance(step.request, SignaturesUploadRequest) and isinstance(response, SignaturesUploadResponse):
            result = check_signatures_upload(step.request, response)
            if result.is_complete:
                self._back_off.succeeded(_SERVER)
            else:
                self._back_off.failed(_SERVER, now)
            self._enter(BootstrapState.CONFIRM if result.is_complete else self._state)
            self._last_result = result
        else:
            self._auth = None
            self._back_off.succeeded(_SERVER)
            self._enter(BootstrapState.UPLOAD_SIGNATURES)
        self._in_flight = None
        return self._state

    def receive_error(self, step_id: int, error: MatrixError | None, now: int) -> UserInteractiveAuth | None:
        """Note that a step failed. It will be sent again, later. The failure of another step is ignored.

        Args:
            step_id: which step.
            error: what the server answered, ``None`` if there was no answer that can be read.
            now: the caller's time in milliseconds.

        Returns:
            What the server wants to have proved first, if that is what it answered to the upload of the keys. Then
            answer it with :meth:`authenticate`. ``None`` otherwise.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        now = check_now(now)
        if error is not None and type(error) is not MatrixError:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a MatrixError is needed", path="/error")
        step = self._step(step_id)
        if step is None:
            return None
        self._in_flight = None
        self._last_error = error
        if error is None:
            self._back_off.failed(_SERVER, now)
            return None
        if 400 <= error.status < 500 and error.status != _TOO_MANY_REQUESTS:
            self._auth = None  # whether it was wrong or used up: it will not do
        if error.user_interactive is None or isinstance(step.request, SignaturesUploadRequest):
            self._back_off.failed(_SERVER, now, at_least_ms=granted(error.retry_after_ms))
            return None
        self._back_off.succeeded(_SERVER)
        self._state, self._authentication = BootstrapState.AUTHENTICATE, error.user_interactive
        return error.user_interactive

    def authenticate(self, auth: Mapping[str, object]) -> None:
        """Answer what the server wants to have proved: the keys will be sent again, with ``auth``.

        It is kept until the server has answered, and never stored. The server may ask for more then.

        Args:
            auth: for example ``authentication.auth("m.login.password", {...})``.

        Raises:
            LocalProtocolError: nobody asked, or it is not a JSON object.
        """
        self._require(BootstrapState.AUTHENTICATE)
        if auth is None:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a proof is needed", path="/auth")
        self._auth = self._keys_request().with_auth(auth).auth
        self._state, self._authentication = BootstrapState.UPLOAD_KEYS, None

    def confirm(self, result: QueryResult) -> SignatureConfirmation:
        """Compare what was uploaded with what the server serves now: the three keys, the device, all signatures.

        Args:
            result: what a later answer about oneself amounts to, to the question for all devices.

        Returns:
            Which of the four signatures are served, each on the very object that was uploaded. If all are, the state
            is ``DONE``, and ``CONFIRM`` otherwise: what is missing may be there in the next answer. If it stays away,
            see :meth:`upload_again`.

        Raises:
            LocalProtocolError: not everything is uploaded yet, or it is no result.
        """
        self._require(*_AFTER)
        confirmation = confirm_signatures(self._plan.everything(), result, own_device=self._plan.device)
        self._state = BootstrapState.DONE if confirmation.is_complete else BootstrapState.CONFIRM
        return confirmation

    def _step(self, step_id: object) -> BootstrapStep | None:
        """Return the step in flight if it is the one named."""
        if type(step_id) is not int:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the id of a step is an integer", path="/step_id")
        step = self._in_flight
        return step if step is not None and step.step_id == step_id else None

    def _enter(self, state: BootstrapState) -> None:
        self._state, self._authentication, self._last_error, self._last_result = state, None, None, None

    def _require(self, *states: BootstrapState) -> None:
        if self._state not in states:
            raise LocalProtocolError(Reason.WRONG_STATE, f"the set-up is at {self._state}")

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart. What is in flight, delays and proofs do not; private keys are not here.

        Store it together with the private keys: what is restored takes them for stored.
        """
        state = self._state if self._state in _STORED else BootstrapState.UPLOAD_KEYS
        return {"version": _VERSION, "state": state.value, **self._plan.to_json()}

    @classmethod
    def from_json(cls, obj: object) -> CrossSigningBootstrap:
        """Restore a set-up. Its signatures are checked anew.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        state = stored.member("state", str)
        if state not in _STORED:
            raise LocalProtocolError(Reason.INVALID_VALUE, f"{quoted(state)} is not a state", path="/state")
        return _new_bootstrap(BootstrapPlan.from_stored(stored), BootstrapState(state))

    def __repr__(self) -> str:
        return f"<CrossSigningBootstrap of {quoted(self.identity.user_id)}: {self._state}>"


_new_bootstrap: Final = constructor_of(CrossSigningBootstrap)

_UPLOADING: Final = frozenset({BootstrapState.UPLOAD_KEYS, BootstrapState.UPLOAD_SIGNATURES})
_AFTER: Final = frozenset({BootstrapState.CONFIRM, BootstrapState.DONE})
_STORED: Final = _UPLOADING | _AFTER
