"""Proofs as Mermaid graphs: what is drawn, and that no name can become part of the drawing."""

from __future__ import annotations

import re
from typing import Any

import pytest
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys.client.queries.query import check_query
from matrix_e2e_keys.client.trust.trust import explain_device
from matrix_e2e_keys.client.trust.trust_graph import mermaid, text_lines
from matrix_e2e_keys.client.trust.trust_links import KeyName, KeyRole, LinkVerdict, TrustLink
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.errors import Reason, shown
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer

BOB = "@bob:b.example"
HOSTILE = [
    '"',
    '"]',
    '"]\n    k9["evil',
    "`",
    "`**bold**`",
    "end",
    "\nend\n",
    "\r\n",
    "\x00",
    ";",
    "#quot;",
    "#34;",
    "#",
    "%%{init: {}}%%",
    "%% comment",
    "<script>alert(1)</script>",
    "<br/>",
    "&lt;b&gt;",
    "](javascript:alert(1))",
    "|",
    '"| k0',
    "-->",
    "{{x}}",
    "((x))",
    "click k0 call evil()",
    "style k0 fill:#000;",
    "direction TB",
    "x direction\tLR x",
    "\u202eevil\u202c",
    "\u2066\u200b\ufeff",
    "\u2028\u2029\x85",
    "\ud800",
    "\\",
    "\N{PILE OF POO}",
    "x" * 500,
    '"' * 500,
    " ",
    "",
]


# --------------------------------------------------------------------------------------------------------------
# A strict reader of what is drawn, and of nothing else
# --------------------------------------------------------------------------------------------------------------

LABEL = r'"((?:[A-Za-z0-9 ,.:@+/=_-]|#[0-9]{1,7};|<br/>)+)"'
SUBGRAPH = re.compile(rf"    subgraph (u[0-9]+)\[{LABEL}\]")
NODE = re.compile(rf"        (k[0-9]+)\[{LABEL}\]")
ARROW = re.compile(rf"    (you|k[0-9]+) (-->|-\.->)\|{LABEL}\| (k[0-9]+)")
DIRECTION = re.compile(r".*direction\s+(?:TB|BT|RL|LR)")  # goes before what a line begins with, and before quotes
LINK_STYLE = re.compile(r"    linkStyle ([0-9]+(?:,[0-9]+)*) stroke:#c00,color:#c00")
CLASS_DEF = "    classDef refused stroke:#c00,color:#c00,stroke-dasharray:4"
CLASS = re.compile(r"    class (k[0-9]+(?:,k[0-9]+)*) refused")


@frozen(kw_only=True)
class Graph:
    """A graph as a reader of Mermaid sees it."""

    has_you: bool = False
    users: dict[str, str] = field(factory=dict)
    """Subgraph to label."""
    nodes: dict[str, tuple[str, ...]] = field(factory=dict)
    """Node to the lines of its label."""
    owners: dict[str, str] = field(factory=dict)
    """Node to subgraph."""
    arrows: list[tuple[str, str, str, str]] = field(factory=list)
    """From, arrow, label, to."""
    broken: set[int] = field(factory=set)
    refused: list[str] = field(factory=list)

    def name(self, node: str) -> str:
        return "you" if node == "you" else " ".join([self.users[self.owners[node]], *self.nodes[node]])


def lines_of(label: str) -> tuple[str, ...]:
    def character(match: re.Match[str]) -> str:
        return chr(int(match[1]))

    return tuple(re.sub(r"#([0-9]+);", character, line) for line in label.split("<br/>"))


def read(text: str) -> Graph:
    """Read a graph, line by line, in the one order there is. Whatever does not fit is an error."""
    lines = text.split("\n")
    assert all(line.isascii() and line.isprintable() and not DIRECTION.match(line) for line in lines)

    def take(pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.fullmatch(lines[0]) if lines else None
        if match is not None:
            del lines[0]
        return match

    assert lines.pop(0) == "flowchart LR"
    graph = Graph(has_you=lines[:1] == ['    you(["you"])'])
    if graph.has_you:
        del lines[0]
    while (match := take(SUBGRAPH)) is not None:
        assert match[1] not in graph.users
        (graph.users[match[1]],) = lines_of(match[2])
        owner = match[1]
        while (match := take(NODE)) is not None:
            assert match[1] not in graph.nodes
            graph.nodes[match[1]] = lines_of(match[2])
            graph.owners[match[1]] = owner
        assert lines.pop(0) == "    end"
    while (match := take(ARROW)) is not None:
        start, arrow, label, end = match.groups()
        assert {start, end} <= {*graph.nodes, "you"}
        (label,) = lines_of(label)
        graph.arrows.append((start, arrow, label, end))
    if (match := take(LINK_STYLE)) is not None:
        graph.broken.update(int(index) for index in match[1].split(","))
    if lines[:1] == [CLASS_DEF]:
        del lines[0]
        match = take(CLASS)
        assert match is not None
        graph.refused.extend(match[1].split(","))
    assert lines == []
    assert graph.broken == {index for index, it in enumerate(graph.arrows) if it[1] == "-.->"}
    assert graph.has_you is any(start == "you" for start, *_ in graph.arrows)
    assert set(graph.refused) <= set(graph.nodes)
    return graph


def as_label(text: str) -> str:
    """What a name is to look like in a graph."""
    text = shown(text)
    return text if len(text) <= 48 else text[:48] + "…"


class TestTheReader:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "flowchart TD",
            "flowchart LR\n",
            'flowchart LR\n    you(["you"])',
            'flowchart LR\n    subgraph u0[""]\n    end',
            'flowchart LR\n    subgraph u0["a"]',
            'flowchart LR\n    subgraph u0["a"b"]\n    end',
            'flowchart LR\n    subgraph u0["a;"]\n    end',
            'flowchart LR\n    subgraph u0["direction RL"]\n    end',
            'flowchart LR\n    subgraph u0["#quot;"]\n    end',
            'flowchart LR\n    subgraph u0["a"]\n        k0["<b>"]\n    end',
            'flowchart LR\n    subgraph u0["a"]\n        k0["a"]\n        k0["b"]\n    end',
            'flowchart LR\n    subgraph u0["a"]\n        k0["a"]\n    end\n    k0 -->|"good"| k1',
            'flowchart LR\n    subgraph u0["a"]\n        k0["a"]\n    end\n    k0 -.->|"bad"| k0',
        ],
    )
    def test_takes_nothing_else(self, text: str) -> None:
        with pytest.raises((AssertionError, IndexError)):
            read(text)


# --------------------------------------------------------------------------------------------------------------
# What is drawn
# --------------------------------------------------------------------------------------------------------------


def key(name: str, role: KeyRole = "device", user_id: str = BOB) -> KeyName:
    return KeyName(user_id=user_id, role=role, key_id=f"ed25519:{name}")


def link(
    to: KeyName, signer: KeyName | None = None, verdict: LinkVerdict = LinkVerdict.GOOD, reason: Reason | None = None
) -> TrustLink:
    return TrustLink(key=to, signer=signer, verdict=verdict, reason=reason, detail="")


class TestWhatIsDrawn:
    def test_nothing(self) -> None:
        assert mermaid([]) == "flowchart LR"

    def test_a_whole_graph(self) -> None:
        master, signing = key("M", "master"), key("S", "self_signing")
        user_signing = key("U", "user_signing", "@me:a.example")
        links = [
            link(user_signing, None, LinkVerdict.CONFIRMED),
            link(master, user_signing, LinkVerdict.BAD, Reason.INVALID_SIGNATURE),
            link(signing, master),
            link(key("PHONE"), signing, LinkVerdict.MISSING, Reason.MISSING_SIGNATURE),
            link(key("PHONE"), key("PHONE")),
            link(key("PHONE"), None, LinkVerdict.DENIED),
        ]
        refused = Rejection(
            path="/device_keys/@bob:b.example/EVIL",
            reason=Reason.WRONG_TYPE,
            detail="",
            user_id=BOB,
            device_id="EVIL",
        )
        assert mermaid(links, [refused]).split("\n") == [
            "flowchart LR",
            '    you(["you"])',
            '    subgraph u0["@me:a.example"]',
            '        k0["user-signing key<br/>U"]',
            "    end",
            '    subgraph u1["@bob:b.example"]',
            '        k1["master key<br/>M"]',
            '        k2["self-signing key<br/>S"]',
            '        k3["device key<br/>PHONE"]',
            '        k4["refused: EVIL<br/>wrong-type"]',
            "    end",
            '    you -->|"confirmed"| k0',
            '    k0 -.->|"invalid-signature"| k1',
            '    k1 -->|"good"| k2',
            '    k2 -.->|"missing-signature"| k3',
            '    you -.->|"denied"| k3',
            "    linkStyle 1,3,4 stroke:#c00,color:#c00",
            "    classDef refused stroke:#c00,color:#c00,stroke-dasharray:4",
            "    class k4 refused",
        ]

    def test_oneself_is_not_there_if_nothing_begins_there(self) -> None:
        graph = read(mermaid([link(key("S", "self_signing"), key("M", "master"))]))
        assert not graph.has_you
        assert graph.arrows == [("k1", "-->", "good", "k0")]

    def test_each_link_once(self) -> None:
        links = [link(key("M", "master"), None, LinkVerdict.PINNED), link(key("X"), key("M", "master"))]
        assert mermaid(links * 3) == mermaid(links)

    def test_a_good_signature_over_itself_is_left_out_and_a_bad_one_is_not(self) -> None:
        itself = key("PHONE")
        assert read(mermaid([link(itself, itself)])).arrows == []
        assert read(mermaid([link(itself, itself)])).nodes == {"k0": ("device key", "PHONE")}
        bad = read(mermaid([link(itself, itself, LinkVerdict.BAD, Reason.INVALID_SIGNATURE)]))
        assert bad.arrows == [("k0", "-.->", "invalid-signature", "k0")]

    def test_a_key_that_there_is_none_of(self) -> None:
        nobody = KeyName(user_id=BOB, role="self_signing", key_id="")
        assert read(mermaid([link(nobody)])).nodes["k0"] == ("self-signing key", "none")

    def test_a_name_with_colons(self) -> None:
        assert read(mermaid([link(key("a:b:c"))])).nodes["k0"] == ("device key", "a:b:c")

    def test_keys_are_one_node_only_if_they_are_one_key(self) -> None:
        """Attack 25: a device named like a cross-signing key is drawn as a key of its own; so is another user's."""
        named = [
            key("SAME"),
            key("SAME", "master"),
            key("SAME", "self_signing"),
            key("SAME", user_id="@eve:e.example"),
            key("x" * 50 + "1"),
            key("x" * 50 + "2"),
        ]
        graph = read(mermaid([link(it, None, LinkVerdict.PINNED) for it in (*named, *named)]))
        assert len(graph.nodes) == len(graph.arrows) == len(named)
        assert sorted(graph.users.values()) == [BOB, "@eve:e.example"]

    @pytest.mark.parametrize(
        ("rejection", "user", "label"),
        [
            (
                Rejection(path="/master_keys/@bob:b.example", reason=Reason.WEAK_KEY, detail="", user_id=BOB),
                BOB,
                ("refused: master_keys", "weak-key"),
            ),
            (
                Rejection(
                    path="/device_keys/@bob:b.example/", reason=Reason.WRONG_TYPE, detail="", user_id=BOB, device_id=""
                ),
                BOB,
                ("refused: ", "wrong-type"),
            ),
            (
                Rejection(path="/device_keys", reason=Reason.WRONG_TYPE, detail=""),
                "the answer",
                ("refused: device_keys", "wrong-type"),
            ),
            (
                Rejection(path="/device_keys/", reason=Reason.UNREQUESTED, detail="", user_id=""),
                "the answer",
                ("refused: device_keys", "unrequested"),
            ),
        ],
    )
    def test_what_was_refused(self, rejection: Rejection, user: str, label: tuple[str, ...]) -> None:
        graph = read(mermaid([], [rejection]))
        assert (graph.users, graph.nodes, graph.refused) == ({"u0": user}, {"k0": label}, ["k0"])

    def test_what_was_refused_stands_with_the_keys_of_its_user(self) -> None:
        refused = [
            Rejection(path="/device_keys/x/A", reason=Reason.WRONG_TYPE, detail="", user_id=BOB, device_id="A"),
            Rejection(path="/device_keys/x/B", reason=Reason.WRONG_TYPE, detail="", user_id=BOB, device_id="B"),
        ]
        graph = read(mermaid([link(key("A"), None, LinkVerdict.PINNED)], refused))
        assert graph.owners == {"k0": "u0", "k1": "u0", "k2": "u0"}
        assert graph.refused == ["k1", "k2"]

    def test_a_proof_keeps_its_links(self) -> None:
        user = SampleUser(BOB)
        body: Any = keys_query_answer([(user, [user.device("PHONE")])])
        request = KeysQueryRequest.for_users([BOB])
        known = check_query(request, KeysQueryResponse.from_json(body), known={}).known[BOB]
        proof = explain_device(known, "PHONE", own=None)
        graph = read(proof.to_mermaid())
        assert [(graph.name(start), label, graph.name(end)) for start, _, label, end in graph.arrows] == [
            (
                "you" if it.signer is None else f"{BOB} {it.signer.title} {it.signer.key_id[8:]}",
                it.reason or it.verdict,
                f"{BOB} {it.key.title} {it.key.key_id[8:]}",
            )
            for it in proof.links
            if it.signer != it.key
        ]


# --------------------------------------------------------------------------------------------------------------
# Names that would like to be more than names
# --------------------------------------------------------------------------------------------------------------

names = st.sampled_from(HOSTILE) | st.text(st.characters(), max_size=60) | st.text('"#;[]<>`|&\n\\e ndk0', max_size=60)
roles = st.sampled_from(["device", "master", "self_signing", "user_signing"])
key_names = st.builds(
    lambda user_id, role, name: KeyName(user_id="@" + user_id, role=role, key_id=f"ed25519:{name}"),
    names,
    roles,
    names,
)
links = st.builds(
    lambda to, signer, verdict, reason, text: TrustLink(
        key=to, signer=signer, verdict=verdict, reason=reason, detail=text, signature=text
    ),
    key_names,
    st.none() | key_names,
    st.sampled_from(LinkVerdict),
    st.none() | st.sampled_from(Reason),
    names,
)
rejections = st.builds(
    lambda user_id, device_id, reason: Rejection(
        path=f"/device_keys/{user_id}/{device_id}", reason=reason, detail="", user_id=user_id, device_id=device_id
    ),
    st.none() | names,
    st.none() | names,
    st.sampled_from(Reason),
)


def expected_name(it: KeyName | None) -> str:
    if it is None:
        return "you"
    return f"{as_label(it.user_id)} {it.title} {as_label(it.key_id[8:] or 'none')}"


class TestHostileNames:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_stay_names(self, name: str) -> None:
        to, signer = key(name, user_id=f"@{name}:b.example"), key(name, "self_signing", name or "@")
        refused = Rejection(
            path="/device_keys/x/y", reason=Reason.WRONG_TYPE, detail=name, user_id=name, device_id=name
        )
        graph = read(mermaid([link(to, signer)], [refused]))
        assert len(graph.nodes) == 3
        assert [*graph.users.values()][:2] == [as_label(f"@{name}:b.example"), as_label(name or "@")]
        assert graph.nodes["k0"] == ("device key", as_label(name or "none"))
        assert graph.nodes["k1"] == ("self-signing key", as_label(name or "none"))
        assert graph.nodes["k2"] == (f"refused: {as_label(name)}", "wrong-type")
        assert graph.arrows == [("k1", "-->", "good", "k0")]

    @pytest.mark.parametrize(("name", "label"), [("x" * 48, "x" * 48), ("x" * 49, "x" * 48 + "#8230;")])
    def test_that_are_long_are_cut(self, name: str, label: str) -> None:
        assert f'"device key<br/>{label}"' in mermaid([link(key(name))])

    @pytest.mark.parametrize("name", [it for it in HOSTILE if it and "\ud800" not in it and "\x00" not in it])
    def test_of_real_devices_and_users(self, name: str) -> None:
        user = SampleUser("@" + name[:40].replace(":", ".") + ":b.example")
        body: Any = keys_query_answer([(user, [user.device(name)])])
        request = KeysQueryRequest.for_users([user.user_id])
        known = check_query(request, KeysQueryResponse.from_json(body), known={}).known[user.user_id]
        graph = read(explain_device(known, name, own=None).to_mermaid())
        assert graph.users == {"u0": as_label(user.user_id)}
        assert graph.nodes["k2"] == ("device key", as_label(name))

    @given(st.lists(links, max_size=6), st.lists(rejections, max_size=3))
    def test_round_trip(self, drawn: list[TrustLink], refused: list[Rejection]) -> None:
        """Whatever they are called: what is read from the graph is what was drawn."""
        graph = read(mermaid(drawn, refused))
        once = list(dict.fromkeys(drawn))
        shown_links = [it for it in once if it.signer != it.key or not it.holds]
        assert [(graph.name(start), arrow, label, graph.name(end)) for start, arrow, label, end in graph.arrows] == [
            (
                expected_name(it.signer),
                "-->" if it.holds else "-.->",
                it.verdict if it.holds else it.reason or it.verdict,
                expected_name(it.key),
            )
            for it in shown_links
        ]
        keys = {it for each in once for it in (each.key, each.signer) if it is not None}
        assert len(graph.nodes) == len(keys) + len(set(refused))
        owners = {it.user_id for it in keys} | {it.user_id or "the answer" for it in refused}
        assert len(graph.users) == len(owners)
        assert len(graph.refused) == len(refused)


class TestAsLines:
    @given(st.lists(links, max_size=4))
    def test_one_printable_line_for_each_link(self, drawn: list[TrustLink]) -> None:
        lines = list(text_lines(drawn, ("+", "-")))
        assert len(lines) == len(drawn)
        for line, it in zip(lines, drawn, strict=True):
            assert line.isprintable()
            assert line[:4] == ("  + " if it.holds else "  - ")
            assert line.endswith("" if it.reason is None else f" [{it.reason}]")
            assert f"{it.key.title} {shown(it.key.key_id)} of {shown(it.key.user_id)}: {shown(it.detail)}" in line
