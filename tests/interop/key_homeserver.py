"""A homeserver of our own that knows keys and nothing else: every request and every answer is one of the package's.

It answers what other servers ask for its users, takes their transactions, and asks them in turn.
"""

from __future__ import annotations

import itertools
import queue
import uuid
from collections.abc import Mapping
from typing import Any

from interop.certificates import Certificates
from interop.federation_http import send_over_tls
from interop.matrix_http import Answer
from interop.own_homeserver import OwnHomeserver
from interop.people import Person
from interop.server_keys import KnownServers, published_keys
from matrix_e2e_keys import (
    Authentication,
    DeviceKeys,
    Ed25519SecretKey,
    Edu,
    HttpRequest,
    HttpResponse,
    MatrixError,
    OneTimeKey,
    Rejection,
    RemoteProtocolError,
    Request,
    Response,
    SendTransactionRequest,
    SendTransactionResponse,
    ServerKeysRequest,
    UserDevice,
    UserDevicesRequest,
    UserDevicesResponse,
    UserKeysClaimRequest,
    UserKeysClaimResponse,
    UserKeysQueryRequest,
    UserKeysQueryResponse,
    find_endpoint,
    parse_user_id,
    read_request,
    server_name_of,
)
from matrix_e2e_keys.homeserver.federation_auth.authorization import sign_request

EDU_SECONDS = 10.0


class KeyHomeserver:
    """The server. It runs from the beginning; ``own`` stops it.

    Attributes:
        server_name: its name.
        asked: who asked what, in order.
        lies: endpoint to what is answered instead of the truth.
    """

    def __init__(self, own: OwnHomeserver, certificates: Certificates) -> None:
        self.server_name = own.server_name
        self.signer = Ed25519SecretKey.generate().signer("ed25519:own")
        self.asked: list[tuple[str, Request[Any]]] = []
        self.lies: dict[str, HttpResponse] = {}
        self._people: dict[str, Person] = {}
        self._one_time_keys: dict[str, dict[str, OneTimeKey]] = {}
        self._edus: queue.Queue[Edu | Rejection] = queue.Queue()
        self._stream_ids = itertools.count(1)
        self._certificates = certificates
        self._servers = KnownServers(certificates)
        own.start(self._handle)

    def add_user(self, localpart: str, device_id: str = "DEVICE", *, one_time_keys: int = 0) -> Person:
        """Add a user with one device, which is cross-signed."""
        person = Person(f"@{localpart}:{self.server_name}", device_id)
        self._people[person.user_id] = person
        self._one_time_keys[person.user_id] = person.one_time_keys(one_time_keys)
        return person

    def next_edu(self) -> Edu | Rejection:
        """Return the next ephemeral data unit, in the order in which they came."""
        return self._edus.get(timeout=EDU_SECONDS)

    # ----------------------------------------------------------------------------------------------------------
    # Asking
    # ----------------------------------------------------------------------------------------------------------

    def ask(self, server_name: str, request: Request[Answer]) -> Answer:
        """Ask another server; return what the package reads in the answer.

        Raises:
            MatrixError: the server refused.
        """
        return request.read_answer(self.send(server_name, request.to_http()))

    def send(self, server_name: str, request: HttpRequest) -> HttpResponse:
        """Sign and send a request of whatever kind."""
        (header,) = sign_request(request, origin=self.server_name, destination=server_name, signers=self.signer)
        return send_over_tls(server_name, self._certificates, request, header)

    def send_edus(self, server_name: str, *edus: Edu) -> None:
        """Send a transaction."""
        request = SendTransactionRequest(
            txn_id=uuid.uuid4().hex, origin=self.server_name, origin_server_ts=0, edus=edus
        )
        assert self.ask(server_name, request) == SendTransactionResponse()

    # ----------------------------------------------------------------------------------------------------------
    # Answering
    # ----------------------------------------------------------------------------------------------------------

    def _handle(self, request: HttpRequest, authorization: str | None) -> HttpResponse:
        try:
            match = find_endpoint(request)
            is_public = match.endpoint.authentication is Authentication.NONE
            origin = ""
            if not is_public:
                origin = self._servers.origin_of(request, authorization, asked=self.server_name)
            incoming = read_request(request, match=match)
            self.asked.append((origin, incoming.request))
            lie = self.lies.get(incoming.request.endpoint.name)
            return self._answer(origin, incoming.request).to_http(incoming.dialect) if lie is None else lie
        except (RemoteProtocolError, MatrixError) as error:  # anything else is a mistake of ours, and fails the test
            return MatrixError.answering(error).to_http()

    def _answer(self, origin: str, request: Request[Any]) -> Response:
        if isinstance(request, SendTransactionRequest):
            assert request.origin == origin
            for edu in request.edus:
                self._edus.put(edu)
            return SendTransactionResponse()
        if isinstance(request, ServerKeysRequest):
            return published_keys(self.server_name, self.signer)
        if isinstance(request, UserDevicesRequest):
            return self._devices_of(request.user_id)
        if isinstance(request, UserKeysQueryRequest):
            return self._queried(request)
        if isinstance(request, UserKeysClaimRequest):
            return self._claimed(request)
        raise MatrixError(status=404, errcode="M_UNRECOGNIZED", error="this is no homeserver for clients")

    def _person(self, user_id: str) -> Person | None:
        if server_name_of(parse_user_id(user_id)) != self.server_name:
            raise MatrixError(status=400, errcode="M_UNKNOWN", error="this is the user of another server")
        return self._people.get(user_id)

    def _devices_of(self, user_id: str) -> UserDevicesResponse:
        person = self._person(user_id)
        if person is None:
            raise MatrixError(status=404, errcode="M_NOT_FOUND", error="there is no such user")
        device = UserDevice(device_id=person.device_id, keys=person.cross_signed_device())
        return UserDevicesResponse(
            user_id=user_id,
            stream_id=next(self._stream_ids),
            devices=(device,),
            master_key=person.cross_signing_key("master"),
            self_signing_key=person.cross_signing_key("self_signing"),
        )

    def _queried(self, request: UserKeysQueryRequest) -> UserKeysQueryResponse:
        devices: dict[str, dict[str, DeviceKeys]] = {}
        people: list[Person] = []
        for user_id, device_ids in request.asked.items():
            person = self._person(user_id)
            devices[user_id] = {}
            if person is not None:
                people.append(person)
                if not device_ids or person.device_id in device_ids:
                    devices[user_id] = {person.device_id: person.cross_signed_device()}
        return UserKeysQueryResponse(
            device_keys=devices,
            master_keys={person.user_id: person.cross_signing_key("master") for person in people},
            self_signing_keys={person.user_id: person.cross_signing_key("self_signing") for person in people},
        )

    def _claimed(self, request: UserKeysClaimRequest) -> UserKeysClaimResponse:
        claimed: dict[str, dict[str, Mapping[str, OneTimeKey]]] = {}
        for user_id, devices in request.asked.items():
            person = self._person(user_id)
            keys = self._one_time_keys.get(user_id, {})
            for device_id, algorithm in devices.items():
                found = next((key_id for key_id, key in keys.items() if key.key_id.algorithm == algorithm), None)
                if person is not None and person.device_id == device_id and found is not None:
                    claimed.setdefault(user_id, {})[device_id] = {found: keys.pop(found)}
        return UserKeysClaimResponse(one_time_keys=claimed)
