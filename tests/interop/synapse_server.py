"""One Synapse on 127.0.0.1, for the length of a test run.

A plain HTTP listener for clients is all there is. Nothing federates with it; outgoing requests to a port on which
nobody listens fail at once, which is what the tests want of them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from interop.matrix_http import Http, HttpFailure
from matrix_e2e_keys import Ed25519SecretKey

START_SECONDS = 60.0
STOP_SECONDS = 10.0

# The child asks the kernel for a SIGTERM at its parent's death, so that a killed pytest leaves no server behind.
PROGRAM = f"""
import contextlib, ctypes, runpy
with contextlib.suppress(AttributeError, OSError):  # Linux only
    ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})
runpy.run_module("synapse.app.homeserver", run_name="__main__", alter_sys=True)
"""


def free_port() -> int:
    """Return a port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def configuration(directory: Path, port: int) -> dict[str, Any]:
    """Return a configuration without rate limits, waiting or traffic to the outside."""
    unlimited = {"per_second": 10_000, "burst_count": 10_000}
    return {
        "server_name": f"localhost:{port}",
        "public_baseurl": f"http://127.0.0.1:{port}/",
        "pid_file": str(directory / "homeserver.pid"),
        "listeners": [
            {
                "port": port,
                "type": "http",
                "tls": False,
                "bind_addresses": ["127.0.0.1"],
                "resources": [{"names": ["client"], "compress": False}],
            }
        ],
        "database": {"name": "sqlite3", "args": {"database": str(directory / "homeserver.db")}},
        "media_store_path": str(directory / "media"),
        "signing_key_path": str(directory / "signing.key"),
        "macaroon_secret_key": "interop",
        "form_secret": "interop",
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "bcrypt_rounds": 4,
        "report_stats": False,
        "presence": {"enabled": False},
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "ip_range_blacklist": [],  # else requests to 127.0.0.1 are not even tried
        "federation": {
            "client_timeout": "5s",
            "max_short_retries": 0,
            "max_long_retries": 0,
            "destination_min_retry_interval": 1,
            "destination_max_retry_interval": 1,
            "destination_retry_multiplier": 1,
        },
        "rc_message": unlimited,
        "rc_registration": unlimited,
        "rc_login": {"address": unlimited, "account": unlimited, "failed_attempts": unlimited},
        "rc_key_requests": unlimited,
    }


class SynapseServer:
    """A server process. :meth:`stop` must be called, whatever happens."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.server_name = f"localhost:{port}"
        self.base_url = f"http://127.0.0.1:{port}"
        self._output = directory / "output.log"
        config = directory / "homeserver.yaml"
        config.write_text(json.dumps(configuration(directory, port)))  # JSON is YAML
        (directory / "signing.key").write_text(f"ed25519 interop {Ed25519SecretKey.generate().export_base64()}\n")
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=environment,
            )

    def wait_until_healthy(self) -> None:
        """Return as soon as the server answers.

        Raises:
            RuntimeError: it does not.
        """
        end = time.monotonic() + START_SECONDS
        http = Http(self.base_url)
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if http.request("GET", "/health", timeout=2)[0] == 200:
                    return
            except HttpFailure:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"Synapse did not start; the end of its output:\n{self._output.read_text()[-3000:]}")

    def stop(self) -> None:
        """Stop the server, gently if it lets itself be stopped so."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
