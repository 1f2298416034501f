"""The command line: the only door to files and standard streams.

Exit status, for every command: 0 the answer is yes, 1 the answer is no (something was refused; in the demonstration,
something was not), 2 the question could not be asked (wrong usage, an unreadable file, something that is not a
/keys/query answer, a closed output). Every failure is one line on standard error.

What comes from a server is shown with control characters and the like written out, so that it cannot take over a
terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, Self, TextIO

from attrs import define

from matrix_e2e_keys.canonical_json import encode_canonical_json, parse_json
from matrix_e2e_keys.client.queries.query import QueryResult, UserAnswer, check_query
from matrix_e2e_keys.client.trust.trust import explain_device, explain_user
from matrix_e2e_keys.client.trust.trust_graph import mermaid
from matrix_e2e_keys.client.trust.trust_links import TrustLink
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, RemoteProtocolError, shown
from matrix_e2e_keys.identifiers import is_user_id
from matrix_e2e_keys.json_trees import Numbers
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.user_identity import OwnIdentity
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson
from matrix_e2e_keys.signing.signers import Ed25519SecretKey, add_signature
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, SignatureCheck

__all__ = ["main"]

PROGRAM = "matrix-e2e-keys"
YES, NO, CANNOT = 0, 1, 2


class _CannotError(Exception):
    """The question could not be asked; the message is the line to print."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; that of the process by default.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    if sys.stdout is None:  # closed before the start
        return _fail("standard output is closed", CANNOT)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        status = run(options)
        sys.stdout.flush()
    except _CannotError as error:
        return _fail(str(error), CANNOT)
    except LocalProtocolError as error:
        return _fail(str(error), CANNOT)
    except E2EKeysError as error:
        return _fail(str(error), NO)
    except BrokenPipeError:
        # Whoever read the output has left. The interpreter must not try to flush what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail("the output was closed before everything was written", CANNOT)
    except OSError as error:
        return _fail(f"cannot write the output: {error.strerror}", CANNOT)
    except KeyboardInterrupt:
        return _fail("interrupted", CANNOT)
    return status


def _fail(message: str, status: int) -> int:
    if sys.stderr is not None:  # print would take standard output instead
        print(f"{PROGRAM}: {shown(message)}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Judge, sign and verify the key objects of Matrix end-to-end encryption."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="judge the answer to a /keys/query")
    check.add_argument("file", metavar="FILE", help="the body of the answer; - for standard input")
    form = check.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the result as JSON")
    form.add_argument("--graph", action="store_true", help="print who vouches for which key, as a Mermaid graph")
    check.add_argument("--own-user", metavar="USER_ID", help="who asked: whose user-signing key counts")
    check.add_argument(
        "--own-master-key", metavar="BASE64", help="the public master key of --own-user, as it should be"
    )
    check.set_defaults(run=_check)

    canonical = commands.add_parser("canonical", help="canonical JSON of the JSON on standard input")
    canonical.add_argument(
        "--normalise",
        action="store_true",
        help="take numbers written with a fraction or exponent whose value is an integer, and -0",
    )
    canonical.set_defaults(run=_canonical)

    verify = commands.add_parser("verify", help="check one signature of the JSON object on standard input")
    verify.add_argument("--entity", required=True, help="the user id or server name that must have signed")
    verify.add_argument("--key-id", required=True, help="the key id of the signature, ed25519:...")
    verify.add_argument("--key", required=True, metavar="BASE64", help="the public key")
    verify.set_defaults(run=_verify)

    sign = commands.add_parser("sign", help="sign the JSON object on standard input")
    sign.add_argument("--entity", required=True, help="the user id or server name that signs")
    sign.add_argument("--key-id", required=True, help="the key id of the signature, ed25519:...")
    sign.add_argument("--seed-file", required=True, metavar="FILE", help="holds the 32-byte seed in base64")
    sign.set_defaults(run=_sign)

    demo = commands.add_parser("demo", help="play the whole story: two homeservers, three devices, and an attacker")
    demo.set_defaults(run=_demo)
    return parser


# --------------------------------------------------------------------------------------------------------------
# Commands
# --------------------------------------------------------------------------------------------------------------


def _canonical(options: argparse.Namespace) -> int:
    numbers: Numbers = "normalise" if options.normalise else "refuse"
    _write_bytes(encode_canonical_json(parse_json(_read("-"), numbers=numbers)))
    return YES


def _verify(options: argparse.Namespace) -> int:
    key = _public_key(options.key, "--key")
    signed = SignedJson.from_bytes(_read("-"))
    signed.verify(entity=options.entity, key_id=options.key_id, key=key)
    print(f"good signature by {shown(options.entity)} with {shown(options.key_id)}")
    return YES


def _sign(options: argparse.Namespace) -> int:
    seed = _read(options.seed_file).decode("ascii", "replace").strip()
    signer = Ed25519SecretKey.from_base64(seed).signer(options.key_id)
    obj = SignedJson.from_json(parse_json(_read("-")))
    _write_bytes(encode_canonical_json(add_signature(obj, entity=options.entity, signer=signer).to_json()) + b"\n")
    return YES


def _demo(_options: argparse.Namespace) -> int:
    # The other commands need none of this, and start without it.
    from matrix_e2e_keys.demo.ratchets import load_vodozemac  # noqa: PLC0415
    from matrix_e2e_keys.demo.story import Story  # noqa: PLC0415

    tick, cross = _marks(sys.stdout)
    story = Story(olm=load_vodozemac(), tick=tick, cross=cross)
    for line in story.lines():
        print(line)
    return NO if story.succeeded else YES


def _check(options: argparse.Namespace) -> int:
    data = _read(options.file)
    try:
        response = KeysQueryResponse.from_bytes(data)
    except RemoteProtocolError as error:
        raise _CannotError(f"{options.file}: not a /keys/query answer: {error}") from None
    # Nobody knows what was asked, so it is taken to be what was answered.
    request = KeysQueryRequest.for_users([user_id for user_id in _user_ids(response) if is_user_id(user_id)])
    master_key = _own_master_key(options)
    own: OwnIdentity | None = None
    with _Progress(stream=sys.stderr, expected=sum(map(len, _device_maps(response)))) as progress:
        result = check_query(request, response, own_user_id=options.own_user, known={}, verifier=progress)
        identity = result.identities.accepted.get(options.own_user)
        if master_key is not None:
            if identity is None:
                raise _CannotError(f"the answer holds no identity of {options.own_user}")
            own = identity.confirm_as_own(master_key=master_key)
            result = check_query(request, response, own=own, known={}, verifier=progress)
    if options.graph:
        print(_as_graph(result, own))
    else:
        print(_as_json(result) if options.json else "\n".join(_as_text(response, result)))
    return NO if result.devices.rejected or result.identities.rejected else YES


def _own_master_key(options: argparse.Namespace) -> Ed25519PublicKey | None:
    if options.own_user is not None and not is_user_id(options.own_user):
        raise _CannotError("--own-user is not a user id")
    if options.own_master_key is None:
        return None
    if options.own_user is None:
        raise _CannotError("--own-master-key needs --own-user")
    return _public_key(options.own_master_key, "--own-master-key")


def _public_key(text: str, option: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_base64(text)
    except RemoteProtocolError as error:
        raise _CannotError(f"{option}: {error.detail}") from None


# --------------------------------------------------------------------------------------------------------------
# Showing a result
# --------------------------------------------------------------------------------------------------------------


def _as_json(result: QueryResult) -> str:
    rejections = (*result.identities.rejected, *result.devices.rejected)
    return json.dumps(
        {
            "devices": {
                "accepted": _count(result),
                "rejected": len(result.devices.rejected),
                "unsupported": len(result.devices.unsupported),
            },
            "identities": {
                "accepted": len(result.identities.accepted),
                "rejected": len(result.identities.rejected),
            },
            "cross_signed_devices": sum(1 for _ in result.cross_signed_devices),
            "rejections": [
                {"path": rejection.path, "reason": rejection.reason, "detail": rejection.detail}
                for rejection in rejections
            ],
        },
        indent=2,
    )


def _as_graph(result: QueryResult, own: OwnIdentity | None) -> str:
    """Return a Mermaid graph of all proofs about the devices of the answer, and of what was refused."""
    links: list[TrustLink] = []
    for user in result.known.values():
        for device_id in user.devices:
            links += explain_device(user, device_id, own=own).links
        if not user.devices:
            links += explain_user(user, own=own).links
    return mermaid(links, (*result.identities.rejected, *result.devices.rejected))


def _as_text(response: KeysQueryResponse, result: QueryResult) -> Iterator[str]:
    """Yield a line for each user, each identity and device of the user, whatever else there is, and a summary."""
    tick, cross = _marks(sys.stdout)
    refused: dict[str | None, list[Rejection]] = {}
    for rejection in (*result.identities.rejected, *result.devices.rejected):
        refused.setdefault(rejection.user_id, []).append(rejection)
    unsupported: dict[str | None, list[Rejection]] = {}
    for rejection in (*result.identities.unsupported, *result.devices.unsupported):
        unsupported.setdefault(rejection.user_id, []).append(rejection)

    for user_id in _user_ids(response):
        empty = " (no devices)" if result.users.get(user_id) is UserAnswer.NO_DEVICES else ""
        yield f"{shown(user_id)}{empty}"
        identity = result.identities.accepted.get(user_id)
        if identity is not None:
            yield f"  {tick} identity {shown(identity.master_key.key_name)}"
        for device_id, device in result.devices.accepted.get(user_id, {}).items():
            yield f"  {tick} {shown(device_id)}{' cross-signed' if device.is_cross_signed else ''}"
        for rejection in refused.pop(user_id, []):
            yield f"  {cross} {_explained(rejection)}"
        for rejection in unsupported.pop(user_id, []):
            yield f"  - {_explained(rejection)}"
    for rejection in refused.pop(None, []):
        yield f"{cross} {_explained(rejection)}"
    for server_name in result.failures:
        yield f"- {shown(server_name)} could not be reached"
    for notice in result.notices:
        yield f"note: {shown(notice.path)}: {shown(notice.detail)} [{notice.reason}]"
    cross_signed = sum(1 for _ in result.cross_signed_devices)
    yield (
        f"devices: {_count(result)} accepted ({cross_signed} cross-signed), {len(result.devices.rejected)} rejected, "
        f"{len(result.devices.unsupported)} unsupported; "
        f"identities: {len(result.identities.accepted)} accepted, {len(result.identities.rejected)} rejected"
    )


def _explained(rejection: Rejection) -> str:
    name = rejection.device_id if rejection.device_id is not None else rejection.path.split("/")[1]
    return f"{shown(name)} {rejection.reason}: {shown(rejection.detail)} [{shown(rejection.path)}]"


def _count(result: QueryResult) -> int:
    return sum(map(len, result.devices.accepted.values()))


def _user_ids(response: KeysQueryResponse) -> tuple[str, ...]:
    """Return all users of the answer, in its order."""
    return (*response.device_keys, *sorted(response.user_ids.difference(response.device_keys)))


def _device_maps(response: KeysQueryResponse) -> Iterator[Sequence[str]]:
    for devices in response.device_keys.values():
        if not isinstance(devices, Rejection):
            yield tuple(devices)


def _marks(stream: TextIO) -> tuple[str, str]:
    try:
        "\N{CHECK MARK}\N{BALLOT X}".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "ok", "!!"
    return "\N{CHECK MARK}", "\N{BALLOT X}"


@define
class _Progress:
    """A verifier that says how far it has come, where somebody is watching and there is something to wait for."""

    stream: TextIO | None
    expected: int
    done: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._show("\r\x1b[K")

    def _show(self, text: str) -> None:
        if self.expected > 1000 and self.stream is not None and self.stream.isatty():
            print(text, end="", file=self.stream, flush=True)

    def verify_many(self, checks: Sequence[SignatureCheck], /) -> list[bool]:
        answers = LIBSODIUM.verify_many(checks)
        self.done += len(checks)
        self._show(f"\r{self.done} signatures checked")
        return answers


# --------------------------------------------------------------------------------------------------------------
# Files and streams
# --------------------------------------------------------------------------------------------------------------


def _read(name: str) -> bytes:
    """Return the content of a file, or of standard input for ``-``."""
    try:
        if name != "-":
            return Path(name).read_bytes()
        if sys.stdin is None:
            _cannot_read("standard input is closed")
        return sys.stdin.buffer.read()
    except (OSError, ValueError) as error:  # a ValueError: the name holds a NUL
        _cannot_read(f"{name}: {getattr(error, 'strerror', None) or error}")


def _cannot_read(why: str) -> NoReturn:
    raise _CannotError(why) from None


def _write_bytes(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
