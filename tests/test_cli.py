"""The command line, as a process and in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from matrix_e2e_keys import verify_json
from matrix_e2e_keys.cli import main
from matrix_e2e_keys.demo import story
from matrix_e2e_keys.demo.attacks import Attack
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


class TestDemo:
    def test_every_attack_is_refused(self) -> None:
        result = run("demo", env={**os.environ, "PYTHONUTF8": "1"})
        assert (result.returncode, result.stderr) == (0, b"")
        text = result.stdout.decode()
        assert text.count("  \N{CHECK MARK} ") >= 10
        assert text.count("  \N{BALLOT X} ") >= 10
        assert "NOT REFUSED" not in text

    def test_a_terminal_without_utf8(self) -> None:
        result = run("demo", env={**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
        assert result.returncode == 0
        text = result.stdout.decode("ascii")
        assert "  ok Bob has a LAPTOP" in text
        assert "  !! swaps a key of LAPTOP" in text
        assert "\\u" not in text

    def test_an_attack_that_is_not_refused(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        succeeds: Attack[Any] = Attack(what="wins", how="", reason="none", carry_out=lambda _: None)
        monkeypatch.setattr(story, "CLIENTS_TO_SERVERS", (succeeds,))
        assert main(["demo"]) == 1
        output = capsys.readouterr()
        assert "!!! wins: THIS SHOULD BE REFUSED" in output.out
        assert "1 NOT REFUSED." in output.out
        assert output.err == ""


EXAMPLE = str(Path(__file__).parents[1] / "docs" / "examples" / "keys_query_answer.json")
LABEL = r'"(?:[A-Za-z0-9 ,.:@+/=_-]|#[0-9]+;|<br/>)+"'
GRAPH_LINE = re.compile(
    "|".join(
        [
            r"flowchart LR",
            r' {4}you\(\["you"\]\)',
            rf" {{4}}subgraph u\d+\[{LABEL}\]",
            rf" {{8}}k\d+\[{LABEL}\]",
            r" {4}end",
            rf" {{4}}(?:you|k\d+) (?:-->|-\.->)\|{LABEL}\| k\d+",
            r" {4}linkStyle [0-9,]+ stroke:#c00,color:#c00",
            r" {4}classDef refused stroke:#c00,color:#c00,stroke-dasharray:4",
            r" {4}class k\d+(?:,k\d+)* refused",
        ]
    )
)


def graph_lines(result: subprocess.CompletedProcess[bytes]) -> list[str]:
    """Return the lines of a graph without their indentation; each is one that a graph may have."""
    lines = result.stdout.decode("ascii").splitlines()
    assert [line for line in lines if not GRAPH_LINE.fullmatch(line)] == []
    return [line.strip() for line in lines]


def asked_by_alice() -> dict[str, Any]:
    """What Alice is answered, who has verified Bob. He has a device that the server has added."""
    body: dict[str, Any] = keys_query_answer(
        [(ALICE, [ALICE.device("PHONE")]), (BOB, [BOB.device("X"), BOB.device("EVIL", cross_signed=False)])],
        viewer=ALICE.user_id,
    )
    body["master_keys"][BOB.user_id] = ALICE.verified(BOB.master_key).to_json()
    return body


MASTER_KEY = ALICE.master_public_key.to_base64()
AS_ALICE = ["--own-user", ALICE.user_id, "--own-master-key", MASTER_KEY]


class TestGraph:
    def test_of_the_example(self) -> None:
        result = run("check", EXAMPLE, "--graph")
        assert result.returncode == run("check", EXAMPLE).returncode == 1
        lines = graph_lines(result)
        assert 'subgraph u0["@alice:a.example"]' in lines
        assert 'k3["device key<br/>OLDPHONE"]' in lines
        assert 'k1 -.->|"missing-signature"| k3' in lines
        assert 'k0 -->|"good"| k1' in lines
        assert sum(line.startswith("k") and "refused: " in line for line in lines) == 6
        assert lines[-1] == "class k8,k9,k10,k11,k12,k13 refused"

    def test_of_the_example_as_one_of_its_users(self) -> None:
        result = run("check", EXAMPLE, "--graph", *AS_ALICE)
        assert result.returncode == 1
        assert 'you -->|"confirmed"| k0' in graph_lines(result)

    def test_from_oneself_to_a_verified_user(self, write: Any) -> None:
        result = run("check", "--graph", *AS_ALICE, write(asked_by_alice()))
        assert (result.returncode, result.stderr) == (0, b"")
        assert graph_lines(result) == [
            "flowchart LR",
            'you(["you"])',
            'subgraph u0["@alice:a.example"]',
            f'k0["master key<br/>{MASTER_KEY}"]',
            f'k1["self-signing key<br/>{ALICE.self_signing_key.key_name[8:]}"]',
            'k2["device key<br/>PHONE"]',
            f'k3["user-signing key<br/>{ALICE.user_signing_key.key_name[8:]}"]',
            "end",
            'subgraph u1["@bob:b.example"]',
            f'k4["master key<br/>{BOB.master_key.key_name[8:]}"]',
            f'k5["self-signing key<br/>{BOB.self_signing_key.key_name[8:]}"]',
            'k6["device key<br/>X"]',
            'k7["device key<br/>EVIL"]',
            "end",
            'you -->|"confirmed"| k0',
            'k0 -->|"good"| k1',
            'k1 -->|"good"| k2',
            'k0 -->|"good"| k3',
            'k3 -->|"good"| k4',
            'you -->|"pinned"| k4',
            'k4 -->|"good"| k5',
            'k5 -->|"good"| k6',
            'k5 -.->|"missing-signature"| k7',
            "linkStyle 8 stroke:#c00,color:#c00",
        ]

    def test_nobody_is_verified_unless_ones_own_master_key_is_given(self, write: Any) -> None:
        """Attack 32: what the server shows as one's own identity vouches for nobody."""
        for options in ([], ["--own-user", ALICE.user_id]):
            lines = graph_lines(run("check", "--graph", *options, write(asked_by_alice())))
            assert not [line for line in lines if "confirmed" in line or "user-signing" in line]
            assert 'you -.->|"missing-key"| k3' in lines

    def test_is_the_same_each_time(self) -> None:
        runs = [run("check", "--graph", EXAMPLE, env={**os.environ, "PYTHONHASHSEED": seed}) for seed in "1234"]
        assert len({it.stdout for it in runs}) == 1

    def test_a_user_without_devices(self, write: Any) -> None:
        lines = graph_lines(run("check", "--graph", write(keys_query_answer([(ALICE, [])]))))
        assert 'k0 -->|"good"| k1' in lines
        assert run("check", "--graph", write({"device_keys": {ALICE.user_id: {}}})).stdout == b"flowchart LR\n"

    def test_what_was_refused(self, write: Any) -> None:
        result = run("check", "--graph", write({**rotten(), "self_signing_keys": None}))
        assert result.returncode == 1
        lines = graph_lines(result)
        assert 'subgraph u2["the#32;answer"]' in lines
        for label in ("EVIL<br/>wrong-type", "device_keys<br/>wrong-type", "self_signing_keys<br/>wrong-type"):
            assert any(f'["refused: {label}"]' in line for line in lines)

    def test_another_master_key(self, write: Any) -> None:
        """Attack 33: the server shows another identity as one's own."""
        other = BOB.master_public_key.to_base64()
        for form in ([], ["--graph"], ["--json"]):
            options = ["--own-user", ALICE.user_id, "--own-master-key", other]
            result = run("check", *form, *options, write(asked_by_alice()))
            assert (result.returncode, result.stdout) == (1, b"")
            assert "another master key" in one_line(result)

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            (["--own-master-key", MASTER_KEY], "--own-master-key needs --own-user"),
            (["--own-user", ALICE.user_id, "--own-master-key", "!"], "--own-master-key: "),
            (["--own-user", ALICE.user_id, "--own-master-key", ""], "--own-master-key: "),
            (["--own-user", ALICE.user_id, "--own-master-key", "AAAA"], "--own-master-key: "),
            (["--own-user", ALICE.user_id, "--own-master-key", "A" * 43], "--own-master-key: "),
            (["--own-user", "@carol:c.example", "--own-master-key", MASTER_KEY], "no identity of @carol:c.example"),
            (["--own-user", "alice"], "--own-user is not a user id"),
            (["--own-user", "", "--own-master-key", MASTER_KEY], "--own-user is not a user id"),
            (
                ["--own-user", "@\x1b[2J:a.example", "--own-master-key", MASTER_KEY],
                "no identity of @\\x1b[2J:a.example",
            ),
        ],
    )
    def test_questions_that_cannot_be_asked(self, options: list[str], why: str, write: Any) -> None:
        result = run("check", "--graph", *options, write(asked_by_alice()))
        assert (result.returncode, result.stdout) == (2, b"")
        assert why in one_line(result)

    def test_as_oneself_without_a_graph(self, write: Any) -> None:
        path = write(asked_by_alice())
        for form in ([], ["--json"]):
            assert run("check", *form, *AS_ALICE, path).stdout == run("check", *form, path).stdout

    def test_somebody_elses_user_signing_key_is_refused(self, write: Any) -> None:
        result = run("check", "--graph", "--own-user", BOB.user_id, write(asked_by_alice()))
        assert result.returncode == 1
        assert any('["refused: user_signing_keys<br/>not-own-user"]' in line for line in graph_lines(result))

    def test_one_form_at_a_time(self) -> None:
        result = run("check", "--json", "--graph", EXAMPLE)
        assert (result.returncode, result.stdout) == (2, b"")
        assert b"not allowed with" in result.stderr

    def test_no_name_leaves_its_label(self, write: Any) -> None:
        body = good()
        mallory = SampleUser('@"]\n    k0["x:a.example')
        names = ['"] --> k0', "\x1b[2J\u202e\n", "end\n    end", "#quot;;<script>", "`x`", "日" * 60, "direction TB"]
        body["device_keys"][mallory.user_id] = {it: mallory.device(it, cross_signed=False).to_json() for it in names}
        body["device_keys"][ALICE.user_id]['\x9b31m\ud800"'] = None
        result = run("check", "--graph", write(body))
        assert result.returncode == 1
        lines = graph_lines(result)
        assert 'subgraph u1["@#34;#93;#92;n#32;#32;#32;#32;k0#91;#34;x:a.example"]' in lines
        assert 'k6["device key<br/>#92;x1b#91;2J#92;u202e#92;n"]' in lines
        assert 'k11["device key<br/>direction#32;TB"]' in lines
        assert sum(line.startswith("k") and "device key" in line for line in lines) == 2 + len(names)


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
    assert main(["check", "--graph", *AS_ALICE, write(asked_by_alice())]) == 0
    assert capsys.readouterr().out.startswith("flowchart LR")
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
