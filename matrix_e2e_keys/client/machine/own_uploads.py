"""What one uploads of oneself: this device, its one-time keys, one's cross-signing keys, signatures.

Facts:

* The order is fixed: cross-signing keys once the server has the device, signatures once it has these keys.
* Nothing is uploaded before it is stored; see :meth:`OwnUploads.mark_stored`.
* What was asked before this device changed says nothing about what it is now.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from attrs import define, field

from matrix_e2e_keys.client.cross_signing.bootstrap import BootstrapState, BootstrapStep, CrossSigningBootstrap
from matrix_e2e_keys.client.cross_signing.own_signing import OwnSigning
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.cross_signing.signature_queue import OutgoingSignatures
from matrix_e2e_keys.client.machine.exchange import Exchange, Question
from matrix_e2e_keys.client.machine.values import Received
from matrix_e2e_keys.client.queries.device_lists import DeviceListTracker
from matrix_e2e_keys.client.supply.key_supply import KeySupply
from matrix_e2e_keys.client.supply.upload import plan_device_upload
from matrix_e2e_keys.client.supply.values import OutgoingUpload
from matrix_e2e_keys.client.users.changes import KeyChange
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.endpoints.client_server.device_signing_upload import DeviceSigningUploadResponse
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadResponse
from matrix_e2e_keys.endpoints.client_server.signatures_upload import SignaturesUploadResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.merged_signatures import merge_signatures
from matrix_e2e_keys.stored import Stored

__all__ = ["OwnUploads"]

_BOOTSTRAP: Final = "bootstrap"


@define(kw_only=True, eq=False)
class OwnUploads:
    """What one uploads of oneself.

    Attributes:
        is_uploaded: whether the server has the keys of this device, as they are here.
        revision: rises whenever there is something that must be stored before it is uploaded.
    """

    lists: DeviceListTracker
    supply: KeySupply
    signing: OwnSigning
    exchange: Exchange
    is_uploaded: bool = field(default=False, init=False)
    revision: int = field(default=1, init=False)
    _stored: int = field(default=0, init=False)
    _device_revision: int = field(default=1, init=False)
    _asked_for: int = field(default=0, init=False)

    @property
    def device(self) -> VerifiedDevice:
        """This device, as it was built here."""
        return self.signing.device

    @property
    def uploaded_form(self) -> int | None:
        """What stands for this device as the server has it, ``None`` if it does not have it."""
        return self._asked_for if self.is_uploaded else None

    def is_known_form(self, form: int | None) -> bool:
        """Whether this device still is what :attr:`uploaded_form` stood for, and the server had it."""
        return form == self._asked_for

    def start_bootstrap(self, secrets: CrossSigningSecrets, *, reset: bool) -> None:
        """See :meth:`KeyMachine.start_bootstrap`."""
        self.signing.start_bootstrap(secrets, reset=reset)
        self.revision += 1

    @property
    def needs_storing(self) -> bool:
        """Whether something waits for being stored."""
        return self._stored < self.revision or self.supply.needs_storing

    def restore(self, revision: int, *, is_uploaded: bool) -> None:
        """Go on where a stored state stopped."""
        self.is_uploaded = is_uploaded
        self.revision = self._stored = revision

    def mark_stored(self, stored: Stored) -> None:
        """See :meth:`KeyMachine.mark_stored`."""
        revision = stored.member("revision", int)
        if not 0 < revision <= self.revision:
            raise LocalProtocolError(Reason.INVALID_VALUE, f"there was no revision {revision}", path="/revision")
        of_supply = stored.object("supply").member("revision", int)
        with stored.reading("supply"):
            self.supply.mark_stored(of_supply)
        self._stored = max(self._stored, revision)
        if self.signing.bootstrap is not None and stored.member("set_ups", int) == self.signing.set_ups:
            self.signing.bootstrap.mark_stored()

    def upload_device(self, device_keys: DeviceKeys | None = None) -> None:
        """See :meth:`KeyMachine.upload_device`."""
        if device_keys is None or self._take_over(device_keys):
            self.is_uploaded = False
        self._asked_for += 1

    def _take_over(self, device_keys: DeviceKeys) -> bool:
        """Make other keys those of this device, and return whether the server lacks them."""
        if type(device_keys) is not DeviceKeys:
            raise LocalProtocolError(Reason.WRONG_TYPE, "DeviceKeys are needed", path="/device_keys")
        if (device_keys.user_id, device_keys.device_id) != (self.device.user_id, self.device.device_id):
            detail = f"{device_keys!r} is another device"
            raise LocalProtocolError(Reason.DEVICE_ID_MISMATCH, detail, path="/device_keys")
        bootstrap = self.signing.bootstrap
        if device_keys != self.device.keys and bootstrap is not None and bootstrap.state is not BootstrapState.DONE:
            detail = "a set-up is under way, and has signed the keys as they were"
            raise LocalProtocolError(Reason.WRONG_STATE, detail, path="/device_keys")
        oneself, served = self._oneself, self._served
        plan = plan_device_upload(
            device_keys,
            self.device.keys if served is None else served,
            identity=None if oneself is None else oneself.identity,
            verifier=self.signing.users.verifier,
        )
        if plan.reason is not None:
            raise LocalProtocolError(plan.reason, plan.detail, path="/device_keys")
        self.signing.device = (device_keys if plan.upload is None else plan.upload).verify(
            verifier=self.signing.users.verifier
        )
        if plan.upload is None and served is not None:
            return False
        self.revision += 1
        self._device_revision = self.revision
        return True

    def next_questions(self, now: int) -> Iterator[Question]:
        """Yield what to upload: first this device, then one's cross-signing keys, then signatures."""
        if self._stored >= self._device_revision:
            upload = self.supply.next_upload(now, device_keys=self._device_to_upload())
            if upload is not None:
                answered = partial(self._upload_answered, upload, self._asked_for)
                yield Question("upload", upload.request, answered, partial(self._upload_failed, upload))
        bootstrap = self._bootstrap_to_go_on
        step = None if bootstrap is None else bootstrap.next_request(now)
        if bootstrap is not None and step is not None:
            answered = partial(self._bootstrap_answered, bootstrap, step)
            yield Question(_BOOTSTRAP, step.request, answered, partial(self._bootstrap_failed, bootstrap, step))
        signatures = self.signing.queue.next_upload(now) if self._can_upload_signatures else None
        if signatures is not None:
            answered = partial(self._signatures_answered, signatures)
            yield Question("signatures", signatures.request, answered, partial(self._signatures_failed, signatures))

    def next_times(self) -> Iterator[int | None]:
        """Yield from when on each part has something to upload; ``None`` if that depends on something else."""
        if self._stored >= self._device_revision:
            yield self.supply.next_upload_at(device_keys=self._device_to_upload())
        bootstrap = self._bootstrap_to_go_on
        if bootstrap is not None:
            yield bootstrap.next_request_at()
        if self._can_upload_signatures:
            yield self.signing.queue.next_upload_at()

    def _device_to_upload(self) -> DeviceKeys | None:
        """Return this device with all signatures that others should see, ``None`` if the server has it."""
        if self.is_uploaded:
            return None
        keys = self.device.keys
        own_signature = None if self.signing.is_setting_up else self.signing.own_signature
        for signed in (self._served, own_signature):
            if signed is not None and signed == keys:
                keys = merge_signatures(keys, signed)
        return keys

    @property
    def _served(self) -> DeviceKeys | None:
        """This device, as it was served last."""
        known = None if self._oneself is None else self._oneself.devices.get(self.device.device_id)
        return None if known is None else known.keys

    @property
    def _oneself(self) -> KnownUser | None:
        return self.signing.users.users.get(self.device.user_id)

    @property
    def _bootstrap_to_go_on(self) -> CrossSigningBootstrap | None:
        """The set-up, unless the server lacks this device, may yet get the keys of the one before, or has others."""
        bootstrap = self.signing.bootstrap
        if bootstrap is None or not self.is_uploaded or self.exchange.is_under_way(_BOOTSTRAP):
            return None
        identity = None if self._oneself is None else self._oneself.identity
        is_replaced = identity is not None and identity.master_key != bootstrap.identity.master_key
        return None if is_replaced and bootstrap.state is BootstrapState.UPLOAD_SIGNATURES else bootstrap

    @property
    def _can_upload_signatures(self) -> bool:
        """Whether the server has all keys that signatures may be about, and by."""
        return self.is_uploaded and not self.signing.is_setting_up

    def _upload_answered(
        self, upload: OutgoingUpload, asked_for: int, response: KeysUploadResponse, now: int
    ) -> Received:
        self.supply.receive_response(upload.upload_id, response, now)
        if upload.request.device_keys is not None and asked_for == self._asked_for:
            self.is_uploaded = True
            self.lists.mark_outdated([self.device.user_id])  # to see that it is served
        return Received()

    def _upload_failed(self, upload: OutgoingUpload, error: MatrixError | None, now: int) -> Received:
        return Received(conflict=self.supply.receive_error(upload.upload_id, error, now))

    def _bootstrap_answered(
        self,
        bootstrap: CrossSigningBootstrap,
        step: BootstrapStep,
        response: DeviceSigningUploadResponse | SignaturesUploadResponse,
        now: int,
    ) -> Received:
        before = bootstrap.state
        after = bootstrap.receive_response(step.step_id, response, now)
        changes: tuple[KeyChange, ...] = ()
        if bootstrap is self.signing.bootstrap and after is not before:
            if after is BootstrapState.UPLOAD_SIGNATURES:
                changes = self.signing.users.install_own_identity(bootstrap.identity)
            self.lists.supersede([self.device.user_id])
        return Received(changes=changes, signatures=bootstrap.last_result)

    def _bootstrap_failed(
        self, bootstrap: CrossSigningBootstrap, step: BootstrapStep, error: MatrixError | None, now: int
    ) -> Received:
        authentication = bootstrap.receive_error(step.step_id, error, now)
        if authentication is not None and not self.signing.resets:
            self.lists.mark_outdated([self.device.user_id])  # the server may ask since there is an identity by now
        return Received(authentication=authentication)

    def _signatures_answered(
        self, signatures: OutgoingSignatures, response: SignaturesUploadResponse, _now: int
    ) -> Received:
        result = self.signing.queue.receive_response(signatures.upload_id, response)
        self.lists.mark_outdated({user_id for user_id, _ in self.signing.queue.unconfirmed})
        return Received(signatures=result)

    def _signatures_failed(self, signatures: OutgoingSignatures, error: MatrixError | None, now: int) -> Received:
        self.signing.queue.receive_error(signatures.upload_id, error, now)
        return Received()
