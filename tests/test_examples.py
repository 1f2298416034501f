"""Every example in the documentation runs, and prints what the documentation says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from matrix_e2e_keys import Reason

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


PYTHON_PAGES = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page run one after the other, in a checkout."""
    code = "\n".join(blocks(page, "python"))
    if "vodozemac" in code:
        pytest.importorskip("vodozemac")
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {"__name__": "example"}
    exec(compile(code, str(page), "exec"), namespace)
    for name, value in namespace.items():
        if name.startswith("test_") and callable(value):
            value()


def test_there_are_examples() -> None:
    assert {page.stem for page in PYTHON_PAGES} >= {"README", "client", "homeserver", "testing"}


def test_the_example_answer_is_made_by_its_script() -> None:
    script = ROOT / "docs" / "examples" / "make_answer.py"
    made = subprocess.run([sys.executable, "-P", str(script)], capture_output=True, check=True, timeout=60)
    assert made.stdout == (ROOT / "docs" / "examples" / "keys_query_answer.json").read_bytes()


@pytest.mark.parametrize(
    ("page", "arguments", "status"),
    [
        ("README.md", ["demo"], 0),
        ("docs/cli.md", ["check", "docs/examples/keys_query_answer.json"], 1),
    ],
)
def test_a_page_shows_what_a_command_prints(page: str, arguments: list[str], status: int) -> None:
    if arguments == ["demo"]:
        pytest.importorskip("vodozemac")
    (shown,) = blocks(ROOT / page, "text")
    result = subprocess.run(
        [sys.executable, "-P", "-X", "utf8", "-m", "matrix_e2e_keys", *arguments],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (status, b"")
    assert result.stdout.decode() == shown
    assert " ".join(["matrix-e2e-keys", *arguments]) in (ROOT / page).read_text()


def test_the_readme_has_two_set_up_commands() -> None:
    commands = blocks(ROOT / "README.md", "sh")
    assert len(commands) == 2
    assert all(command.count("\n") == 1 for command in commands)


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def test_every_reason_is_listed_with_its_check() -> None:
    listed = set(re.findall(r"`([a-z0-9-]+)`", (ROOT / "docs" / "checks.md").read_text()))
    used_elsewhere = {Reason.INVALID_VALUE}  # arguments of our own caller
    assert set(Reason) - used_elsewhere <= listed


@pytest.mark.parametrize(
    ("script", "page"), [("make_endpoint_table.py", "endpoints.md"), ("make_identity_diagram.py", "identities.md")]
)
def test_a_page_is_made_of_the_table_the_library_goes_by(script: str, page: str) -> None:
    command = [sys.executable, "-P", str(ROOT / "docs" / script)]
    made = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert made.stdout.decode() == (ROOT / "docs" / page).read_text()
