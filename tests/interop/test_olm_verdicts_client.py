"""The same answers to an OlmMachine and to this library: what each knows afterwards, and to whom each sends a room key.

Each answer comes twice: about a user of whom nothing is known, and about one of whom a good answer came before. The
rows of ``test_olm_verdicts`` are among them. Then one-time keys. Where the two come to different ends,
:data:`DIFFERENCES` says why ours is what it is; a difference that is not in it fails.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from interop import answers
from interop.answers import good_answer
from interop.claim_rows import CLAIMED, CLAIMS, WHOLE_CLAIMS, ClaimRow, WholeClaimRow, claim_text
from interop.olm_machine import OlmDriver, OlmMachine
from interop.query_rows import (
    ANSWERS,
    GOOD,
    NO_DEVICE,
    QUERIES,
    WHOLE,
    Row,
    WholeRow,
    other_device_of_the_same_identity,
)
from interop.verdicts import OBSERVER, Bench, Subject, View, Views, query_answer

pytestmark = pytest.mark.interop

FRESH, KNOWN, CLAIM = "nothing known before", "known before", "claim"


# --------------------------------------------------------------------------------------------------------------
# Where we differ
# --------------------------------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """A row on which the two come to different ends.

    Attributes:
        name: which row.
        stages: where they do.
        because: why ours is what it is.
    """

    name: str
    stages: frozenset[str]
    because: str


def differ(name: str, because: str, *stages: str) -> Difference:
    return Difference(name, frozenset(stages), because)


PADDING = "we take more: base64 is read with or without padding; the signature is over the text as it stands"
NOT_LOOKED_AT = "we take more: what is not signed is not looked at"
GOES_ON = "we take more: what is malformed costs itself, and never what stands beside it"
ONE_ROLE = "we take less: one key has one role, or a signature for one of them passes for the other"
TWICE = "we take less: two readers may choose differently between two members of one name"
NEEDS_OLM = "we take less: nothing is sent in an algorithm that the device does not name"

DIFFERENCES = (
    differ("device with padded keys", PADDING, FRESH),
    differ("device with a padded curve25519 key", PADDING, FRESH),
    differ("padded key", PADDING, CLAIM),
    differ("device with an unsigned part that is null", NOT_LOOKED_AT, FRESH),
    differ("key with an unsigned part", NOT_LOOKED_AT, CLAIM),
    differ(
        "device with a curve25519 key of zeros",
        "we take less: a key of small order makes every secret that is agreed on with it the same",
        *(FRESH, KNOWN),
    ),
    differ("device with a curve25519 key that is its ed25519 key", ONE_ROLE, FRESH, KNOWN),
    differ("self-signing key that is the master key", ONE_ROLE, FRESH, KNOWN),
    differ("self-signing key that is the key of the device", ONE_ROLE, FRESH),
    differ("key that is the device's own", ONE_ROLE, CLAIM),
    differ(
        "device with an ed25519 key of another device beside its own",
        "we take less: the keys of a device are named after it",
        FRESH,
    ),
    differ(
        "master key that is padded",
        "we take less: a cross-signing key is named by itself, in unpadded base64",
        FRESH,
    ),
    differ(
        "master key and a second key after it",
        "we take less: a cross-signing key object has exactly one key, or it is unclear who signed",
        FRESH,
    ),
    differ(
        "another device named like the master key",
        "we take less: a signature under that name could be the device's or the key's, so the user is blocked at once",
        FRESH,
    ),
    differ("device without algorithms", NEEDS_OLM, FRESH, KNOWN),
    differ("device with algorithms nobody knows", NEEDS_OLM, FRESH, KNOWN),
    differ("device without Olm", NEEDS_OLM, FRESH, KNOWN),
    differ("member that appears twice, the last one signed", TWICE, FRESH),
    differ("key with a member that appears twice", TWICE, CLAIM),
    differ("NaN", GOES_ON, FRESH),
    differ("user that is null", GOES_ON, FRESH, CLAIM),
    differ("user that is a list", GOES_ON, FRESH, CLAIM),
    differ("answer with devices that are null", GOES_ON, FRESH),
    differ("answer with devices that are a list", GOES_ON, FRESH),
    differ("answer with master keys that are null", GOES_ON, FRESH),
    differ("answer with master keys that are a list", GOES_ON, FRESH),
    differ("answer with failures that are a list", GOES_ON, FRESH, CLAIM),
    differ("answer about something that is no user id", GOES_ON, FRESH),
    differ("answer about a user that is null, and nobody asked about", GOES_ON, FRESH),
    differ("answer with NaN in a device of somebody else", GOES_ON, FRESH),
    differ("key under an id without a name", GOES_ON, CLAIM),
    differ("key with NaN", GOES_ON, CLAIM),
    differ("device that is null", GOES_ON, CLAIM),
    differ("device that is a list", GOES_ON, CLAIM),
    differ(
        "key beside one of another algorithm",
        "we take more: what nobody claimed is refused by itself, and what was claimed is there",
        CLAIM,
    ),
    differ("two keys", "we take less: one key was claimed; of two, the server could choose which one is used", CLAIM),
)


# --------------------------------------------------------------------------------------------------------------
# Queries
# --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def views(olm_driver: OlmDriver) -> dict[tuple[str, str], Views]:
    """What both make of each row, by name and stage."""
    found: dict[tuple[str, str], Views] = {}
    together = [row for row in ANSWERS if not row.alone]
    for stage in (FRESH, KNOWN):
        subjects = [Subject.numbered(number) for number in range(len(together))]
        bench = Bench(observer(olm_driver), subjects)
        prepare(bench, subjects, stage)
        bench.query(query_answer([(it, row.answer(it)) for it, row in zip(subjects, together, strict=True)]))
        found |= {(row.name, stage): it for row, it in zip(together, bench.views(), strict=True)}
        bench.close()
        alone: list[Row | WholeRow] = [*[row for row in ANSWERS if row.alone], *WHOLE]
        for special in alone:
            subject = Subject.numbered(0)
            bench = Bench(observer(olm_driver), [subject])
            prepare(bench, [subject], stage)
            if isinstance(special, Row):
                bench.query(query_answer([(subject, special.answer(subject))]))
            else:
                bench.query(special.text(subject))
            (found[special.name, stage],) = bench.views()
            bench.close()
    return found


def observer(olm_driver: OlmDriver) -> OlmMachine:
    return olm_driver.open(OBSERVER, "OBSERVER")


def prepare(bench: Bench, subjects: list[Subject], stage: str) -> None:
    if stage != FRESH:
        bench.query(query_answer([(it, good_answer(it.person)) for it in subjects]))


def is_explained(name: str, stage: str) -> bool:
    return any(it.name == name and stage in it.stages for it in DIFFERENCES)


@pytest.mark.parametrize("stage", [FRESH, KNOWN])
@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in QUERIES])
def test_both_know_the_same_or_the_table_says_why(
    row: Row | WholeRow, stage: str, views: dict[tuple[str, str], Views]
) -> None:
    found = views[row.name, stage]

    if row.ours is not None:
        assert found.ours == (row.ours if stage == FRESH else row.known)
    assert (found.ours != found.theirs) is is_explained(row.name, stage), found


def test_a_device_that_was_gone_may_come_back_with_another_key(olm_driver: OlmDriver) -> None:
    """Attack 34: which takes an answer in which it was not there."""
    subject = Subject.numbered(0)
    bench = Bench(observer(olm_driver), [subject])
    steps = (
        (good_answer(subject.person), GOOD),
        (good_answer(subject.person)._replace(device=answers.device(subject.other)), GOOD),
        (good_answer(subject.person)._replace(device=None), NO_DEVICE),
        (other_device_of_the_same_identity(subject), View("other+", "first", witness=True, sent=True)),
        (good_answer(subject.person), View("other+", "first", witness=True, sent=True)),
    )
    for answer, expected in steps:
        bench.query(query_answer([(subject, answer)]))
        assert bench.views() == [Views(expected, expected)]


# --------------------------------------------------------------------------------------------------------------
# Claims
# --------------------------------------------------------------------------------------------------------------


class Sessions(NamedTuple):
    """With whom there is a session after a claim: ``user`` and ``witness``."""

    ours: set[str]
    theirs: set[str]


@pytest.fixture(scope="module")
def sessions(olm_driver: OlmDriver) -> dict[str, Sessions]:
    """What both make of each row, by name."""
    found: dict[str, Sessions] = {}

    def judge(names: list[str], subjects: list[Subject], text: str) -> None:
        bench = Bench(observer(olm_driver), subjects)
        prepare(bench, subjects, CLAIM)
        both = bench.claim(text)
        bench.close()
        for name, it in zip(names, subjects, strict=True):
            roles = {it.person.user_id: "user", it.witness.user_id: "witness"}
            found[name] = Sessions(*({roles[user_id] for user_id in users & roles.keys()} for users in both))

    together = [row for row in CLAIMED if not row.alone]
    subjects = [Subject.numbered(number) for number in range(len(together))]
    text = claim_text([(it, row.keys(it.person)) for it, row in zip(subjects, together, strict=True)])
    judge([row.name for row in together], subjects, text)
    alone: list[ClaimRow | WholeClaimRow] = [*[row for row in CLAIMED if row.alone], *WHOLE_CLAIMS]
    for it in alone:
        subject = Subject.numbered(0)
        text = claim_text([(subject, it.keys(subject.person))]) if isinstance(it, ClaimRow) else it.text(subject)
        judge([it.name], [subject], text)
    return found


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in CLAIMS])
def test_both_open_the_same_sessions_or_the_table_says_why(
    row: ClaimRow | WholeClaimRow, sessions: dict[str, Sessions]
) -> None:
    found = sessions[row.name]

    assert ("user" in found.ours) is row.ours
    assert (found.ours != found.theirs) is is_explained(row.name, CLAIM), found


def test_every_difference_is_about_a_row() -> None:
    stages = {it.name: {FRESH, KNOWN} for it in QUERIES}
    for row in CLAIMS:
        stages.setdefault(row.name, set()).add(CLAIM)
    assert len({it.name for it in QUERIES}) == len(QUERIES)
    assert len({it.name for it in CLAIMS}) == len(CLAIMS)
    assert len({it.name for it in DIFFERENCES}) == len(DIFFERENCES)
    for difference in DIFFERENCES:
        assert difference.stages <= stages.get(difference.name, set()), difference.name
