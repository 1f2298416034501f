"""Links of trust as a Mermaid graph, and as lines of text.

Fact: names come from servers and strangers. In the graph, whatever is not a plain character is written as its number,
so that no name can end a label and become part of the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import define, field

from matrix_e2e_keys.client.trust.trust_links import KeyName, TrustLink
from matrix_e2e_keys.errors import shown
from matrix_e2e_keys.outcome import Rejection

__all__ = ["mermaid", "text_lines"]

_LONGEST: Final = 48
# A space is not plain: Mermaid takes a line with "direction LR" in it for that statement, even inside of a label.
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9,.:@+/=_-]")


def text_lines(links: Iterable[TrustLink], marks: tuple[str, str]) -> Iterator[str]:
    """Yield one line for each link."""
    for link in links:
        mark = marks[0] if link.holds else marks[1]
        reason = "" if link.reason is None else f" [{link.reason}]"
        whose = f"{link.key.title} {shown(link.key.key_id)} of {shown(link.key.user_id)}"
        yield f"  {mark} {whose}: {shown(link.detail)}{reason}"


def mermaid(links: Iterable[TrustLink], refused: Iterable[Rejection] = ()) -> str:
    """Return a graph of keys, an arrow for each link. Good signatures of a key over itself are left out.

    Args:
        links: the links, each drawn once.
        refused: entries of an answer that were refused, to be drawn as keys that nobody vouches for.
    """
    graph = _Graph()
    for link in dict.fromkeys(links):
        graph.draw(link)
    for rejection in refused:
        graph.draw_refused(rejection)
    return graph.text()


@define
class _Graph:
    """A graph under way."""

    users: dict[str, dict[KeyName | Rejection, str]] = field(factory=dict)
    labels: dict[str, str] = field(factory=dict)
    arrows: list[str] = field(factory=list)
    broken: list[int] = field(factory=list)
    refused: list[str] = field(factory=list)
    oneself: bool = False

    def draw(self, link: TrustLink) -> None:
        key = self.node(link.key)
        if link.signer == link.key and link.holds:
            return
        if link.signer is None:
            self.oneself = True
        self.arrow("you" if link.signer is None else self.node(link.signer), key, link)

    def node(self, key: KeyName) -> str:
        """Return the name of a key in the graph."""
        _, _, name = key.key_id.partition(":")
        return self.place(key.user_id, key, f"{key.title}<br/>{_escaped(name or 'none')}")

    def place(self, user_id: str, key: KeyName | Rejection, label: str) -> str:
        keys = self.users.setdefault(user_id, {})
        if key not in keys:
            keys[key] = f"k{len(self.labels)}"
            self.labels[keys[key]] = label
        return keys[key]

    def arrow(self, signer: str, key: str, link: TrustLink) -> None:
        if link.holds:
            self.arrows.append(f'{signer} -->|"{_escaped(link.verdict)}"| {key}')
        else:
            self.broken.append(len(self.arrows))
            self.arrows.append(f'{signer} -.->|"{_escaped(link.reason or link.verdict)}"| {key}')

    def draw_refused(self, rejection: Rejection) -> None:
        name = rejection.device_id if rejection.device_id is not None else rejection.path.split("/")[1]
        label = f"refused: {_escaped(name)}<br/>{_escaped(rejection.reason)}"
        # A label that is empty is none to Mermaid.
        self.refused.append(self.place(rejection.user_id or "the answer", rejection, label))

    def text(self) -> str:
        """Return the graph as Mermaid text."""
        lines = ["flowchart LR"]
        if self.oneself:
            lines.append('    you(["you"])')
        for number, (user_id, keys) in enumerate(self.users.items()):
            lines.append(f'    subgraph u{number}["{_escaped(user_id)}"]')
            lines += [f'        {name}["{self.labels[name]}"]' for name in keys.values()]
            lines.append("    end")
        lines += [f"    {arrow}" for arrow in self.arrows]
        if self.broken:
            lines.append(f"    linkStyle {','.join(map(str, self.broken))} stroke:#c00,color:#c00")
        if self.refused:
            lines.append("    classDef refused stroke:#c00,color:#c00,stroke-dasharray:4")
            lines.append(f"    class {','.join(self.refused)} refused")
        return "\n".join(lines)


def _escaped(text: str) -> str:
    text = shown(text)
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "\N{HORIZONTAL ELLIPSIS}"
    return _NOT_PLAIN.sub(lambda match: f"#{ord(match[0])};", text)
