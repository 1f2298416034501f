"""Sphinx configuration."""

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

import matrix_e2e_keys

project = "matrix-e2e-keys"
author = "the matrix-e2e-keys founders"
release = version = matrix_e2e_keys.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {release}"
exclude_patterns = ["_build", "examples"]
nitpicky = True
# Members that are called like something else, such as ``type`` and ``keys``, are not what the others mean.
suppress_warnings = ["ref.python"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False, "exclude-members": "__init__"}
add_module_names = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = True
napoleon_use_ivar = True

# Names of the standard library and of type aliases, which these pages do not document.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(collections|typing|types|enum|nacl|attrs|_VodozemacAccount|_Executor|Any|Segments|T|Event|Check)(\..*)?",
    ),
    (
        "py:.*",
        r"(Answer|Answer_co|DeviceMap|KeyMap|JsonValue|JsonObject|Usage|Numbers|SignatureQuestion|SignedParts|Refusal|Step)",
    ),
    ("py:.*", r"(bytes|str|int|bool|object|None|float|frozenset|tuple|dict|list|type)(\[.*\])?"),
    ("py:.*", r"matrix_e2e_keys\..*"),
]


def setup(app: Sphinx) -> None:
    """Show Mermaid diagrams as text, as Markdown viewers without Mermaid do."""
    app.add_lexer("mermaid", TextLexer)
