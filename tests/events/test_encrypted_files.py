"""Encrypted files: where they lie, and the key that opens them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from events.odd_values import only_own_errors, refusal
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.encrypted_files import EncryptedFile, FileHashes, FileKey
from matrix_e2e_keys.events.key_bundles import RoomKeyBundleContent

R = Reason
URL = "mxc://example.org/FHyPlCeYUSFFxlgbQYZmoEoe"
K = "aWF6-32KGYaC3A_FEUCk1Bt0JA37zP0wrStgmdCaW-0"
IV = "w+sE15fzSc0AAAAAAAAAAA"
SHA256 = "fdSLu/YkRx3Wyh3KQabP3rd6+SFiKg5lsJZQHtkSAYA"


def file(*, key: Any = None, hashes: Any = None, **members: Any) -> dict[str, Any]:
    """The file of the specification's example."""
    jwk = {"alg": "A256CTR", "ext": True, "k": K, "key_ops": ["encrypt", "decrypt"], "kty": "oct"}
    made = {
        "url": URL,
        "key": {**jwk, **key} if type(key) is dict else jwk if key is None else key,
        "iv": IV,
        "hashes": {"sha256": SHA256, **hashes}
        if type(hashes) is dict
        else {"sha256": SHA256}
        if hashes is None
        else hashes,
        "v": "v2",
        **members,
    }
    for part in (made, made["key"], made["hashes"]):
        if type(part) is dict:
            for name in [name for name, value in part.items() if value is ...]:
                del part[name]
    return made


def read(obj: object) -> EncryptedFile:
    return RoomKeyBundleContent.from_json({"room_id": "!r:a.example", "file": obj}).file


class TestReading:
    def test_the_example_of_the_specification(self) -> None:
        read_file = read(file())
        assert (read_file.url, read_file.server_name, read_file.media_id) == (URL, "example.org", URL[18:])
        assert (len(read_file.key.k), len(read_file.iv), len(read_file.hashes.sha256)) == (32, 16, 32)
        assert (read_file.key.k[:3], read_file.iv[:3], read_file.hashes.sha256[:3]) == (
            b"iaz",
            b"\xc3\xeb\x04",
            b"}\xd4\x8b",
        )
        assert read_file.key.key_ops == ("encrypt", "decrypt")
        assert json.loads(json.dumps(read_file.to_json())) == file()

    def test_what_is_not_known_is_kept(self) -> None:
        obj = file(key={"x": 1, "key_ops": ["wrapKey", "decrypt", "encrypt"]}, hashes={"sha512": "y"}, z=[1.5])
        assert read(obj).to_json() == obj
        assert (read(obj).key.extra, read(obj).hashes.extra, read(obj).extra) == (
            {"x": 1},
            {"sha512": "y"},
            {"z": [1.5]},
        )

    @pytest.mark.parametrize(
        ("obj", "expected"),
        [
            ([], ("", R.WRONG_TYPE)),
            (file(url=...), ("", R.MISSING_MEMBER)),
            (file(url=1), ("/url", R.WRONG_TYPE)),
            (file(url="https://example.org/x"), ("/url", R.INVALID_VALUE)),
            (file(url="mxc://example.org/../x"), ("/url", R.INVALID_VALUE)),
            (file(url="mxc://example.org/.."), ("/url", R.INVALID_VALUE)),
            (file(url="mxc://example.org/x?y"), ("/url", R.INVALID_VALUE)),
            (file(url="mxc://example.org/x\n"), ("/url", R.INVALID_VALUE)),
            (file(url="mxc://example.org/"), ("/url", R.INVALID_VALUE)),
            (file(url="mxc:///x"), ("/url", R.INVALID_VALUE)),
            (file(url="mxc://a b/x"), ("/url", R.INVALID_IDENTIFIER)),
            (file(url="mxc://user@host/x"), ("/url", R.INVALID_IDENTIFIER)),
            (file(key=...), ("", R.MISSING_MEMBER)),
            (file(key=[]), ("/key", R.WRONG_TYPE)),
            (file(key={"k": ...}), ("/key", R.MISSING_MEMBER)),
            (file(key={"k": 1}), ("/key/k", R.WRONG_TYPE)),
            (file(key={"k": K[:-3]}), ("/key/k", R.WRONG_LENGTH)),
            (file(key={"k": K.replace("-", "+")}), ("/key/k", R.INVALID_BASE64)),
            (file(key={"k": K.replace("_", "/")}), ("/key/k", R.INVALID_BASE64)),
            (file(key={"k": ""}), ("/key/k", R.INVALID_BASE64)),
            (file(key={"kty": "RSA"}), ("/key/kty", R.INVALID_VALUE)),
            (file(key={"alg": "A256GCM"}), ("/key/alg", R.INVALID_VALUE)),
            (file(key={"ext": False}), ("/key/ext", R.INVALID_VALUE)),
            (file(key={"ext": 1}), ("/key/ext", R.WRONG_TYPE)),
            (file(key={"ext": ...}), ("/key", R.MISSING_MEMBER)),
            (file(key={"key_ops": ["encrypt"]}), ("/key/key_ops", R.INVALID_VALUE)),
            (file(key={"key_ops": ["decrypt"]}), ("/key/key_ops", R.INVALID_VALUE)),
            (file(key={"key_ops": ["decrypt", "encrypt", 1]}), ("/key/key_ops/2", R.WRONG_TYPE)),
            (file(key={"key_ops": "encrypt decrypt"}), ("/key/key_ops", R.WRONG_TYPE)),
            (file(iv=...), ("", R.MISSING_MEMBER)),
            (file(iv=SHA256), ("/iv", R.WRONG_LENGTH)),
            (file(iv="w-sE15fzSc0AAAAAAAAAAA"), ("/iv", R.INVALID_BASE64)),
            (file(hashes=[]), ("/hashes", R.WRONG_TYPE)),
            (file(hashes={"sha256": ...}), ("/hashes", R.MISSING_MEMBER)),
            (file(hashes={"sha256": IV}), ("/hashes/sha256", R.WRONG_LENGTH)),
            (file(v="v1"), ("/v", R.INVALID_VALUE)),
            (file(v=2), ("/v", R.WRONG_TYPE)),
            (file(v=...), ("", R.MISSING_MEMBER)),
        ],
    )
    def test_what_is_malformed(self, obj: Any, expected: tuple[str, Reason]) -> None:
        path, reason = refusal(lambda: read(obj), RemoteProtocolError)
        assert (path.removeprefix("/file"), reason) == expected

    def test_whatever_is_handed_in(self) -> None:
        only_own_errors(read)
        for name in file():
            only_own_errors(lambda value, name=name: read(file(**{name: value})))
        for name in file()["key"]:
            only_own_errors(lambda value, name=name: read(file(key={name: value})))
            only_own_errors(lambda value, name=name: FileKey(**{"k": bytes(32), name: value}))


class TestBuilding:
    def test_is_what_would_be_read(self) -> None:
        read_file = read(file())
        built = EncryptedFile.build(url=URL, key=read_file.key.k, iv=read_file.iv, sha256=read_file.hashes.sha256)
        assert built == read_file

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({"url": "x"}, ("/url", R.INVALID_VALUE)),
            ({"key": K}, ("/key/k", R.WRONG_TYPE)),
            ({"key": bytearray(32)}, ("/key/k", R.WRONG_TYPE)),
            ({"key": bytes(31)}, ("/key/k", R.WRONG_LENGTH)),
            ({"iv": bytes(17)}, ("/iv", R.WRONG_LENGTH)),
            ({"sha256": bytes(16)}, ("/sha256", R.WRONG_LENGTH)),
        ],
    )
    def test_a_wrong_argument(self, arguments: dict[str, Any], expected: tuple[str, Reason]) -> None:
        good: dict[str, Any] = {"url": URL, "key": bytes(32), "iv": bytes(16), "sha256": bytes(32)}
        assert refusal(lambda: EncryptedFile.build(**{**good, **arguments}), LocalProtocolError) == expected
        for name in arguments:
            only_own_errors(lambda value, name=name: EncryptedFile.build(**{**good, name: value}))

    def test_parts_are_of_their_type(self) -> None:
        good: dict[str, Any] = {
            "url": URL,
            "key": FileKey(k=bytes(32)),
            "iv": bytes(16),
            "hashes": FileHashes(sha256=bytes(32)),
        }
        for name in ("key", "hashes"):
            make: Any = lambda name=name: EncryptedFile(**{**good, name: {}})  # noqa: E731
            assert refusal(make, LocalProtocolError) == (f"/{name}", R.WRONG_TYPE)


class TestSecrecy:
    def test_the_key_is_not_shown(self) -> None:
        read_file = read(file())
        assert URL in repr(read_file)
        for shown in (repr(read_file), repr(read_file.key)):
            assert repr(read_file.key.k)[2:-1] not in shown
            assert K not in shown

    @pytest.mark.parametrize("k", [K + "A", K[:-1], K + "!", K + "\ud800", [K], {K: K}])
    def test_nor_in_an_error(self, k: Any) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            read(file(key={"k": k}))
        assert K[:16] not in repr(caught.value)
