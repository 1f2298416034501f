"""With which devices Olm sessions are needed, and when to claim keys for them.

Specification: client-server API, "Claiming one-time keys", "Recovering from undecryptable messages"; ``keys.yaml``;
``m.room_key.withheld``.

Facts:

* A device is its user id, its device id and its two keys. Under other keys it is another device: what was claimed of
  the older one is of no use for the newer one.
* Of one device, one key at a time is claimed. The next one is claimed when it is known that nothing came of this one.
* A one-time key is handed out once. That it was, is remembered over a restart. A fallback key may come again.
* A server that cannot be reached costs its own users a delay. A device that has no key left, or whose key was refused,
  costs nobody but itself anything. So does a device about which the answer says nothing.
* "Clients should not create a new session with another device if it has already created one for that given device in
  the past 1 hour": otherwise a device can empty the stock of its keys, and keep one busy, by sending garbage.
* That a session is missing, the caller sees. That one is broken, nobody sees any more once the message is gone that it
  did not open: until it is renewed, this is remembered over a restart.

Nothing is sent here, and no session is opened. :meth:`ClaimPlanner.next_claim` says what to ask; the caller asks, has
the answer judged by :func:`~matrix_e2e_keys.check_claim`, hands over the result, and says what came of each key. The
clock is the caller's, and has to be the same one after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from attrs import define, field, frozen

from matrix_e2e_keys.back_off import BatchSize, check_now, granted
from matrix_e2e_keys.client.claims.claim import ClaimResult
from matrix_e2e_keys.client.claims.claim_delays import ClaimDelays
from matrix_e2e_keys.client.claims.claim_memory import ClaimMemory, DeviceName, renewals_to_json, restore_renewals
from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimRequest
from matrix_e2e_keys.endpoints.members import count
from matrix_e2e_keys.errors import LocalProtocolError, Reason, json_pointer, raised_as
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.models.one_time_keys import VerifiedOneTimeKey
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier
from matrix_e2e_keys.stored import Stored

__all__ = ["ClaimPlanner", "OutgoingClaim"]

_VERSION: Final = 1
_RENEWALS: Final = "renewals"
_MAX_DEVICES: Final = 500
_TIMEOUT_MS: Final = 10_000


@frozen(kw_only=True)
class OutgoingClaim:
    """A claim to send.

    Attributes:
        claim_id: to be named when the answer arrives. Not to be kept over a restart.
        request: what to ask.
        devices: user id to device id to the device that is asked for, as :func:`~matrix_e2e_keys.check_claim` takes
            them.
    """

    claim_id: int
    request: KeysClaimRequest
    devices: Mapping[str, Mapping[str, VerifiedDevice]]


@define
class _Wanted:
    """A device with which a session is needed."""

    device: VerifiedDevice
    is_handed_out: bool = False
    """Whether there is a key of which nothing was said yet."""
    has_failed: bool = False
    """Whether the last answer gave no key for it, or nothing came of that key."""
    is_renewal: bool = False
    """Whether the session that there is, if there is one, is broken."""
    is_only_planned: bool = False
    """Whether its hour began when it was to be renewed, and no key was handed out since."""


@define(kw_only=True)
class ClaimPlanner:
    """Sessions that are needed, and claims for them. A state machine without input or output.

    It does not know which sessions there are: the caller does, and wants those that are missing. Which devices one
    writes to at all, and that one's own device is not among them, is the caller's decision as well.
    """

    _wanted: dict[DeviceName, _Wanted] = field(factory=dict, init=False)
    _last_claim: int = field(default=0, init=False)
    _in_flight: dict[int, dict[DeviceName, VerifiedDevice]] = field(factory=dict, init=False)
    _batch: BatchSize = field(factory=lambda: BatchSize(_MAX_DEVICES), init=False, repr=False)
    _memory: ClaimMemory = field(factory=ClaimMemory, init=False, repr=False)
    _delays: ClaimDelays = field(factory=ClaimDelays, init=False, repr=False)

    # ----------------------------------------------------------------------------------------------------------
    # Who is wanted
    # ----------------------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> frozenset[DeviceName]:
        """User id and device id of each device that is wanted, and with which no session was opened so far."""
        return frozenset(self._wanted)

    @property
    def without_session(self) -> frozenset[DeviceName]:
        """User id and device id of each wanted device with which no session can be opened for the time being.

        Its last answer gave no key for it: there was none, it was refused, or the device's server was not reached. Or
        nothing came of the key. Or the device does not support Olm, so that no key is ever claimed for it. A claim
        that got no answer says nothing of anybody.

        Whoever is listed here and not written to may be told: ``m.room_key.withheld`` with the code ``m.no_olm``. Tell
        each once. Remember over a restart whom you have told, until a session with them is opened.
        """
        return frozenset(
            name
            for name, wanted in self._wanted.items()
            if not wanted.device.supports_olm or (wanted.has_failed and not wanted.is_handed_out)
        )

    def want(self, devices: Iterable[VerifiedDevice]) -> None:
        """Note that sessions with some devices are needed, and that there are none.

        Those that are wanted already stay as they are: neither a delay nor a key that was handed out is forgotten. A
        device with other keys than before replaces the one before. A device that does not support Olm is taken as well;
        see :attr:`without_session`.

        Raises:
            LocalProtocolError: one of them is not a :class:`~matrix_e2e_keys.VerifiedDevice`; then nothing is changed.
        """
        for device in _checked_devices(devices):
            self._want(device)

    def _want(self, device: VerifiedDevice) -> None:
        name = _name_of(device)
        wanted = self._wanted.get(name)
        if wanted is not None and _has_keys_of(wanted.device, device):
            wanted.device = device  # its signatures may be others
        else:
            self._forget(name)
            self._wanted[name] = _Wanted(device)

    def unwant(self, names: Iterable[tuple[str, str]]) -> None:
        """Note that sessions with some devices are not needed any more, or that the devices are gone.

        A key that is in flight will not be handed out. One that was, is settled. If a session was to be renewed, and no
        key was handed out, :meth:`renew` need not wait: nothing was begun.

        Args:
            names: user id and device id of each. Those that are not wanted are not of interest.

        Raises:
            LocalProtocolError: one of them is not a pair of strings; then nothing is changed.
        """
        for name in _checked_names(names):
            wanted = self._wanted.get(name)
            if wanted is not None and wanted.is_only_planned:
                self._memory.withdraw(name)
            self._forget(name)

    def _forget(self, name: DeviceName) -> None:
        self._wanted.pop(name, None)
        self._delays.forget_device(name)

    def renew(self, device: VerifiedDevice, now: int) -> bool:
        """Note that a session is broken: a message from the device could not be decrypted. A new one is wanted then.

        It is not, if within the last hour a key for the device was handed out or a session with it was renewed; if the
        device is wanted anyway; and if it does not support Olm.

        Other than with :meth:`want`, the device is wanted after a restart as well, until a session with it is opened:
        see :meth:`session_opened`. So is one that was wanted anyway.

        Args:
            device: the device.
            now: the caller's time in milliseconds.

        Returns:
            Whether the device is wanted from now on, and was not before. Once its session is opened, send ``m.dummy``
            in it if there is nothing else to send.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        device, now = _checked(device), check_now(now)
        if not device.supports_olm:
            return False
        name, wanted = _name_of(device), self._find(device)
        if wanted is not None:
            wanted.is_renewal = True
            return False
        if self._memory.has_begun(name, now):
            return False
        self._memory.begin(name, now)
        self._forget(name)
        self._wanted[name] = _Wanted(device, is_renewal=True, is_only_planned=True)
        return True

    def _find(self, device: VerifiedDevice) -> _Wanted | None:
        """Return what is known of a device if it is wanted under the same keys."""
        wanted = self._wanted.get(_name_of(device))
        return None if wanted is None or not _has_keys_of(wanted.device, device) else wanted

    # ----------------------------------------------------------------------------------------------------------
    # Claims
    # ----------------------------------------------------------------------------------------------------------

    def next_claim(
        self, now: int, *, max_devices: int = _MAX_DEVICES, timeout_ms: int | None = _TIMEOUT_MS
    ) -> OutgoingClaim | None:
        """Return what to ask next, ``None`` if there is nothing to ask at this time.

        Devices whose claim is in flight are not asked for again before it is answered or has failed. To send several
        claims side by side, call this again.

        Args:
            now: the caller's time in milliseconds.
            max_devices: for how many devices to ask at most.
            timeout_ms: how long the server may wait for other servers, ``None`` to leave it to the server.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(max_devices) is not int or max_devices < 1:
            raise LocalProtocolError(
                Reason.INVALID_VALUE, "max_devices must be a positive integer", path="/max_devices"
            )
        with raised_as(LocalProtocolError):
            timeout = None if timeout_ms is None else count(timeout_ms, "timeout_ms")
        now = check_now(now)
        # One user's devices stay together, so that a server is asked once.
        ready = sorted(name for name, due in self._due() if due <= now)[: min(max_devices, self._batch.size)]
        if not ready:
            return None
        asked = {name: self._wanted[name].device for name in ready}
        devices: dict[str, dict[str, VerifiedDevice]] = {}
        for (user_id, device_id), device in asked.items():
            devices.setdefault(user_id, {})[device_id] = device
        request = KeysClaimRequest.for_devices({user_id: list(of) for user_id, of in devices.items()}, timeout=timeout)
        self._last_claim += 1
        self._in_flight[self._last_claim] = asked
        return OutgoingClaim(
            claim_id=self._last_claim,
            request=request,
            devices=FrozenMap({user_id: FrozenMap(of) for user_id, of in devices.items()}),
        )

    def next_claim_at(self) -> int | None:
        """Return the time from which :meth:`next_claim` has something to ask; ``None`` if that depends on others.

        A time that has passed means that there is something to ask now.
        """
        return min((due for _, due in self._due()), default=None)

    def _due(self) -> Iterator[tuple[DeviceName, int]]:
        """Yield the devices to ask for, and from when on."""
        in_flight = frozenset[DeviceName]().union(*self._in_flight.values())
        for name, wanted in self._wanted.items():
            if wanted.device.supports_olm and not wanted.is_handed_out and name not in in_flight:
                yield name, self._delays.ready_at(name)

    def was_used(self, key: Curve25519PublicKey) -> bool:
        """Tell whether a one-time key was handed out before: the ``was_used`` of :func:`~matrix_e2e_keys.check_claim`.

        The newest 10,000 are known. Fallback keys are not among them.

        Raises:
            LocalProtocolError: it is no ``Curve25519PublicKey``.
        """
        if type(key) is not Curve25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a Curve25519PublicKey is needed", path="/key")
        return self._memory.was_used(key)

    def receive_result(
        self, claim_id: int, result: ClaimResult, now: int
    ) -> Mapping[str, Mapping[str, VerifiedOneTimeKey]]:
        """Take over what the answer to a claim amounts to.

        Args:
            claim_id: which claim.
            result: what :func:`~matrix_e2e_keys.check_claim` made of its answer.
            now: the caller's time in milliseconds.

        Returns:
            User id to device id to the key to open a session with, for devices that are still wanted under the keys
            they were asked for with. Say of each what came of it: :meth:`session_opened` or :meth:`session_failed`. An
            answer that arrives again gives nothing. Neither does a one-time key that stands in it twice, or that came
            with another answer meanwhile: for the device that is second it counts as refused.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(result) is not ClaimResult:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a ClaimResult is needed", path="/result")
        now = check_now(now)
        asked = self._in_flight.pop(_checked_id(claim_id), None)
        if asked is None:
            return FrozenMap({})
        self._delays.answered(asked, result, now)
        self._batch.succeeded(len(asked))
        self._memory.forget_older(now)
        keys: dict[str, dict[str, VerifiedOneTimeKey]] = {}
        for name, device in asked.items():
            user_id, device_id = name
            wanted = self._find(device)
            if wanted is None:
                continue
            key = result.keys.accepted.get(user_id, {}).get(device_id)
            if key is not None and _has_keys_of(key.device, device) and self._memory.use(key):
                wanted.is_handed_out, wanted.is_only_planned = True, False
                self._memory.begin(name, now)
                keys.setdefault(user_id, {})[device_id] = key
                continue
            wanted.has_failed = True
            if device_id not in result.unreachable.get(user_id, ()):
                self._delays.device_failed(name, now)
        return FrozenMap({user_id: FrozenMap(of) for user_id, of in keys.items()})

    def receive_failure(self, claim_id: int, now: int, *, retry_after_ms: int | None = None) -> None:
        """Note that a claim got no answer, or a :class:`~matrix_e2e_keys.MatrixError`. It will be asked again, later.

        Args:
            claim_id: which claim.
            now: the caller's time in milliseconds.
            retry_after_ms: how long the server wants one to wait, if it says so.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(retry_after_ms) not in (int, type(None)):
            raise LocalProtocolError(Reason.WRONG_TYPE, "a delay is an integer", path="/retry_after_ms")
        now = check_now(now)
        asked = self._in_flight.pop(_checked_id(claim_id), None)
        if asked is None:
            return
        self._delays.no_answer(now, granted(retry_after_ms))
        if retry_after_ms is None:
            self._batch.failed(len(asked))
            if len(asked) == 1 < len(self._wanted):
                self._delays.failed_alone(next(iter(asked)), now)

    def session_opened(self, device: VerifiedDevice) -> None:
        """Note that there is a session with a device: of the key that was handed out, or because the device began one.

        Raises:
            LocalProtocolError: it is not a :class:`~matrix_e2e_keys.VerifiedDevice`.
        """
        if self._find(_checked(device)) is not None:
            self._forget(_name_of(device))

    def session_failed(self, device: VerifiedDevice, now: int) -> None:
        """Note that nothing came of the key that was handed out for a device. Another one will be claimed, later.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        device, now = _checked(device), check_now(now)
        wanted = self._find(device)
        if wanted is not None and wanted.is_handed_out:
            wanted.is_handed_out, wanted.has_failed = False, True
            self._delays.device_failed(_name_of(device), now)

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart: keys that were handed out, when sessions were begun, whose are broken.

        Who else is wanted, claims in flight and delays do not survive: want again those with whom you have no session.
        Store it together with the sessions, before anything is sent in them.
        """
        renewals = renewals_to_json(wanted.device for wanted in self._wanted.values() if wanted.is_renewal)
        return {"version": _VERSION, **self._memory.to_json(), _RENEWALS: renewals}

    @classmethod
    def from_json(cls, obj: object, *, verifier: Verifier = LIBSODIUM) -> ClaimPlanner:
        """Restore a planner.

        Devices whose session is to be renewed are wanted. Whether their owner has cross-signed them is not known before
        they are wanted again, as the devices that are known.

        Args:
            obj: what :meth:`to_json` returned.
            verifier: who checks that those devices signed themselves.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned, or the verifier is none.
        """
        check_verifier(verifier)
        stored = Stored(obj)
        stored.require_version(_VERSION)
        planner = cls()
        planner._memory = ClaimMemory.from_stored(stored)
        for device in restore_renewals(stored, _RENEWALS, verifier):
            planner._wanted[_name_of(device)] = _Wanted(device, is_renewal=True)
        return planner


def _checked_devices(devices: object) -> list[VerifiedDevice]:
    if not isinstance(devices, Iterable):
        raise LocalProtocolError(Reason.WRONG_TYPE, "several devices are needed", path="/devices")
    return [_checked(device, "devices", place) for place, device in enumerate(devices)]


def _checked(device: object, *at: str | int) -> VerifiedDevice:
    if type(device) is not VerifiedDevice:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a VerifiedDevice is needed", path=json_pointer(at or ["device"]))
    return device


def _checked_names(names: Iterable[tuple[str, str]]) -> list[DeviceName]:
    if not isinstance(names, Iterable):
        raise LocalProtocolError(Reason.WRONG_TYPE, "several names of devices are needed", path="/names")
    listed = list(names)
    for place, name in enumerate(listed):
        if type(name) is not tuple or [type(part) for part in name] != [str, str]:
            detail = "a device is named by a pair of its user id and its device id"
            raise LocalProtocolError(Reason.WRONG_TYPE, detail, path=f"/names/{place}")
    return listed  # type: ignore[return-value]  # other strings name nobody


def _checked_id(claim_id: object) -> int:
    if type(claim_id) is not int:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the id of a claim is an integer", path="/claim_id")
    return claim_id


def _name_of(device: VerifiedDevice) -> DeviceName:
    return device.user_id, device.device_id


def _has_keys_of(one: VerifiedDevice, other: VerifiedDevice) -> bool:
    """Tell whether two devices of the same name are the same."""
    return one.keys.raw_keys == other.keys.raw_keys
