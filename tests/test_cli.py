"""The command line, as a process and in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from matrix_e2e_keys import verify_json
from matrix_e2e_keys.cli import main
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer, sample_secret_key

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
SEED = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
COMMAND = [sys.executable, "-P", "-m", "matrix_e2e_keys"]  # -P: what is installed, not what lies here


def run(*arguments: str, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], input=stdin, capture_output=True, check=False, timeout=60, **options)


def one_line(result: subprocess.CompletedProcess[bytes]) -> str:
    """Return the line on standard error: one, without a traceback."""
    text = result.stderr.decode()
    assert text.startswith("matrix-e2e-keys: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text


def good() -> dict[str, Any]:
    return keys_query_answer([(ALICE, [ALICE.device("PHONE"), ALICE.device("TV", cross_signed=False)])])


def rotten() -> dict[str, Any]:
    body = good()
    body["device_keys"][ALICE.user_id]["EVIL"] = None
    body["device_keys"][BOB.user_id] = {}
    body["device_keys"]["@carol:c.example"] = 5
    body["master_keys"][BOB.user_id] = []
    body["failures"] = {"down.example": {}}
    body["device_keys"][ALICE.user_id]["NEW"] = {
        "user_id": ALICE.user_id,
        "device_id": "NEW",
        "algorithms": [],
        "keys": {"m.future:NEW": "abc"},
    }
    return body


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(body: Any) -> str:
        path = tmp_path / "answer.json"
        path.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
        return str(path)

    return write


class TestCheck:
    def test_all_accepted(self, write: Any) -> None:
        result = run("check", write(good()), env={**os.environ, "PYTHONUTF8": "1"})
        assert result.returncode == 0
        assert result.stdout.decode().splitlines() == [
            "@alice:a.example",
            f"  ✓ identity {ALICE.master_key.key_name}",
            "  ✓ PHONE cross-signed",
            "  ✓ TV",
            "devices: 2 accepted (1 cross-signed), 0 rejected, 0 unsupported; identities: 1 accepted, 0 rejected",
        ]
        assert result.stderr == b""

    def test_some_rejected(self, write: Any) -> None:
        result = run("check", write(rotten()), env={**os.environ, "PYTHONUTF8": "1"})
        assert result.returncode == 1
        assert result.stdout.decode().splitlines() == [
            "@alice:a.example",
            f"  ✓ identity {ALICE.master_key.key_name}",
            "  ✓ PHONE cross-signed",
            "  ✓ TV",
            "  ✗ EVIL wrong-type: a signed object must be an object, not null [/device_keys/@alice:a.example/EVIL]",
            (
                "  - NEW unsupported-algorithm: the device has no key of an algorithm this library knows "
                "[/device_keys/@alice:a.example/NEW/keys]"
            ),
            "@bob:b.example (no devices)",
            "  ✗ master_keys wrong-type: a signed object must be an object, not an array [/master_keys/@bob:b.example]",
            "@carol:c.example",
            (
                "  ✗ device_keys wrong-type: the devices of a user must be an object, not a number "
                "[/device_keys/@carol:c.example]"
            ),
            "- down.example could not be reached",
            "devices: 2 accepted (1 cross-signed), 2 rejected, 1 unsupported; identities: 1 accepted, 1 rejected",
        ]

    def test_json(self, write: Any) -> None:
        result = run("check", "--json", write(rotten()))
        assert result.returncode == 1
        assert json.loads(result.stdout) == {
            "devices": {"accepted": 2, "rejected": 2, "unsupported": 1},
            "identities": {"accepted": 1, "rejected": 1},
            "cross_signed_devices": 1,
            "rejections": [
                {
                    "path": "/master_keys/@bob:b.example",
                    "reason": "wrong-type",
                    "detail": "a signed object must be an object, not an array",
                },
                {
                    "path": "/device_keys/@alice:a.example/EVIL",
                    "reason": "wrong-type",
                    "detail": "a signed object must be an object, not null",
                },
                {
                    "path": "/device_keys/@carol:c.example",
                    "reason": "wrong-type",
                    "detail": "the devices of a user must be an object, not a number",
                },
            ],
        }

    def test_standard_input(self) -> None:
        assert run("check", "-", stdin=json.dumps(good()).encode()).returncode == 0

    def test_whole_maps_and_notes(self, write: Any) -> None:
        body = {**good(), "device_keys": None, "failures": 5}
        result = run("check", write(body), env={**os.environ, "PYTHONUTF8": "1"})
        assert result.returncode == 1
        lines = result.stdout.decode().splitlines()
        assert "✗ device_keys wrong-type: device_keys must be an object, not null [/device_keys]" in lines
        assert "note: /failures: failures must be an object, not a number [wrong-type]" in lines

    @pytest.mark.parametrize(
        "body",
        [b"", b"nonsense", b"[]", b"5", b"\xff\xfe", b'{"errcode": "M_FORBIDDEN"}', b"[" * 10**6, b"\xef\xbb\xbf{}"],
        ids=lambda body: repr(body[:12]),
    )
    def test_not_an_answer(self, body: bytes, write: Any) -> None:
        for options in ([], ["--json"]):
            result = run("check", *options, write(body))
            assert result.returncode == 2
            assert result.stdout == b""
            assert "not a /keys/query answer" in one_line(result)

    def test_unreadable_files(self, tmp_path: Path) -> None:
        for name, why in ((str(tmp_path), "Is a directory"), (str(tmp_path / "none"), "No such file")):
            result = run("check", name)
            assert result.returncode == 2
            assert why in one_line(result)
        assert main(["check", "nul\0"]) == 2

    def test_a_name_that_is_not_utf8(self) -> None:
        result = run("check", "no\udcff\n")
        assert result.returncode == 2
        one_line(result)

    def test_nothing_from_the_server_reaches_the_terminal_raw(self, write: Any) -> None:
        body = good()
        body["device_keys"][ALICE.user_id]["\x1b[2J\u202e\ud800\n"] = None
        body["device_keys"]["@\x1b]0;x\x07:a"] = {}
        body["failures"] = {"\x9b31m": {}}
        for options in ([], ["--json"]):
            result = run("check", *options, write(body))
            assert result.returncode == 1
            text = result.stdout.decode()
            assert not set(text) & set("\x1b\u202e\x07\x9b\r")
            assert all(line.isprintable() for line in text.splitlines())

    def test_a_terminal_without_utf8(self, write: Any) -> None:
        env = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
        body = good()
        body["device_keys"]["@日:a.example"] = None
        result = run("check", write(body), env=env)
        assert result.returncode == 1
        assert "  ok PHONE cross-signed" in result.stdout.decode("ascii")
        assert "  !! device_keys wrong-type" in result.stdout.decode("ascii")

    def test_a_closed_pipe(self, write: Any) -> None:
        body = good()
        phone = body["device_keys"][ALICE.user_id]["PHONE"]
        body["device_keys"][ALICE.user_id] = {f"D{number}": phone for number in range(20_000)}
        with subprocess.Popen(
            [*COMMAND, "check", write(body)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            text = process.stderr.read().decode()
            assert process.wait(60) == 2
        assert text == "matrix-e2e-keys: the output was closed before everything was written\n"

    def test_a_full_disk(self, write: Any) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("needs /dev/full")
        with Path("/dev/full").open("wb") as full:
            result = subprocess.run(
                [*COMMAND, "check", write(good())], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
            )
        assert result.returncode == 2
        assert "No space left" in one_line(result)

    def test_closed_standard_input(self) -> None:
        command = " ".join([*COMMAND, "check", "-", "<&-"])
        result = subprocess.run(["sh", "-c", command], capture_output=True, check=False, timeout=60)
        assert result.returncode == 2
        one_line(result)

    def test_closed_outputs(self, write: Any) -> None:
        devices = [ALICE.device(f"D{number}", cross_signed=False) for number in range(1001)]
        path = write({"device_keys": {ALICE.user_id: {device.device_id: device.to_json() for device in devices}}})
        for command, closed, status in (
            (["check", path], ">&-", 2),
            (["canonical"], ">&-", 2),
            (["check", path], "2>&-", 0),
            (["check", path + "x"], "2>&-", 2),
            (["check", path], ">&- 2>&-", 2),
        ):
            line = " ".join([*COMMAND, *command, closed])
            result = subprocess.run(["sh", "-c", line], input=b"{}", capture_output=True, check=False, timeout=60)
            assert result.returncode == status
            assert bool(result.stdout) is (status == 0)
            if closed == ">&-":
                assert "standard output is closed" in one_line(result)

    def test_progress_is_for_people_who_wait(self, write: Any) -> None:
        devices = [ALICE.device(f"D{number}", cross_signed=False) for number in range(1100)]
        path = write({"device_keys": {ALICE.user_id: {device.device_id: device.to_json() for device in devices}}})
        ours, theirs = pty.openpty()
        try:
            with subprocess.Popen([*COMMAND, "check", path], stdout=subprocess.DEVNULL, stderr=theirs) as process:
                assert process.wait(60) == 0
            shown = ""
            while not shown.endswith("\r\x1b[K"):
                shown += os.read(ours, 10_000).decode()
        finally:
            os.close(ours)
            os.close(theirs)
        assert "signatures checked" in shown
        assert "1100 signatures checked" in shown
        assert run("check", path).stderr == b""


class TestCanonical:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (b'{"one": 1, "two": "Two"}', b'{"one":1,"two":"Two"}'),
            ('{"本": 2, "日": 1}'.encode(), '{"日":1,"本":2}'.encode()),
            (b'{"a": "\\u65E5"}', '{"a":"日"}'.encode()),
            (b" null\n", b"null"),
        ],
    )
    def test_bytes(self, given: bytes, expected: bytes) -> None:
        result = run("canonical", stdin=given)
        assert (result.returncode, result.stdout, result.stderr) == (0, expected, b"")

    def test_numbers(self) -> None:
        refused = run("canonical", stdin=b'{"a":-0,"b":1e10}')
        assert (refused.returncode, refused.stdout) == (1, b"")
        assert "/a" in one_line(refused)
        assert run("canonical", "--normalise", stdin=b'{"a":-0,"b":1e10}').stdout == b'{"a":0,"b":10000000000}'

    @pytest.mark.parametrize("given", [b"", b"\xff", b'{"a":1,"a":2}', b'"\\ud800"', b"[" * 10**6])
    def test_refused(self, given: bytes) -> None:
        result = run("canonical", stdin=given)
        assert result.returncode == 1
        one_line(result)


class TestSignAndVerify:
    @pytest.fixture
    def seed_file(self, tmp_path: Path) -> str:
        path = tmp_path / "seed"
        path.write_text(SEED + "\n")
        return str(path)

    def test_the_specifications_vector(self, seed_file: str) -> None:
        options = ["--entity", "domain", "--key-id", "ed25519:1"]
        signed = run("sign", *options, "--seed-file", seed_file, stdin=b'{"one": 1, "two": "Two"}')
        assert signed.returncode == 0
        assert json.loads(signed.stdout)["signatures"]["domain"]["ed25519:1"] == (
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"
        )
        key = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI"
        good = run("verify", *options, "--key", key, stdin=signed.stdout)
        assert (good.returncode, good.stderr) == (0, b"")
        bad = run("verify", *options, "--key", key, stdin=signed.stdout.replace(b"Two", b"two"))
        assert bad.returncode == 1
        assert "invalid-signature" in one_line(bad)

    def test_signing_is_the_librarys_signing(self, tmp_path: Path) -> None:
        secret = sample_secret_key("cli")
        path = tmp_path / "seed"
        path.write_text(secret.export_base64())
        result = run("sign", "--entity", "é", "--key-id", "ed25519:1", "--seed-file", str(path), stdin=b'{"a": []}')
        verify_json(json.loads(result.stdout), entity="é", key_id="ed25519:1", key=secret.public_key)

    @pytest.mark.parametrize("given", [b"", b"{", b"5", b'{"a": 1.5}', b"{}", b'{"signatures": []}'])
    def test_nothing_to_verify(self, given: bytes) -> None:
        options = ["--entity", "domain", "--key-id", "ed25519:1", "--key", ALICE.master_public_key.to_base64()]
        result = run("verify", *options, stdin=given)
        assert result.returncode == 1
        one_line(result)

    @pytest.mark.parametrize("changes", [{"--key": "!"}, {"--key": "A" * 43}, {"--key-id": "nocolon"}])
    def test_bad_options_for_verify(self, changes: dict[str, str]) -> None:
        options = {"--entity": "e", "--key-id": "ed25519:1", "--key": ALICE.master_public_key.to_base64(), **changes}
        result = run("verify", *[part for pair in options.items() for part in pair], stdin=b"{}")
        assert result.returncode == 2
        one_line(result)

    @pytest.mark.parametrize("seed", [b"", b"!!!!", b"AAAA", b"\xff\xff"])
    def test_a_bad_seed_is_refused_and_not_shown(self, seed: bytes, tmp_path: Path) -> None:
        path = tmp_path / "seed"
        path.write_bytes(seed)
        result = run("sign", "--entity", "e", "--key-id", "ed25519:1", "--seed-file", str(path), stdin=b"{}")
        assert result.returncode == 2
        assert "AAAA" not in one_line(result)

    def test_what_cannot_be_signed(self, seed_file: str) -> None:
        for options, given, status in (
            (["--key-id", "ed25519:1"], b'{"a": 1.5}', 1),
            (["--key-id", "ed25519:1"], b"[]", 1),
            (["--key-id", "ed25519:1"], b'{"signatures": 1}', 1),
            (["--key-id", "curve25519:1"], b"{}", 2),
        ):
            result = run("sign", "--entity", "e", *options, "--seed-file", seed_file, stdin=given)
            assert (result.returncode, result.stdout) == (status, b"")
            one_line(result)


def test_usage() -> None:
    assert run().returncode == 2
    assert run("nonsense").returncode == 2
    help_text = run("--help").stdout.decode()
    for command in ("check", "canonical", "verify", "sign"):
        assert command in help_text


def test_in_this_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    assert main(["check", write(good())]) == 0
    assert "2 accepted" in capsys.readouterr().out
    plain = io.StringIO()
    with contextlib.redirect_stdout(plain):
        assert main(["check", write(good())]) == 0
    assert "  ok PHONE cross-signed" in plain.getvalue()
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["check", "-"]) == 2
    assert "standard input is closed" in capsys.readouterr().err

    class Interrupted(io.StringIO):
        @property
        def buffer(self) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert main(["check", "-"]) == 2
    assert "interrupted" in capsys.readouterr().err
