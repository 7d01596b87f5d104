"""The docstrings below the fields of a Struct: the one place where a configuration key is described.

Python discards a string below an assignment, so these docstrings are read from the module's source with ast. The
alternatives are worse: a generated file is a second copy, and does not cover the kinds of other packages;
``Annotated[..., Meta(description=...)]`` hides each field's type behind its text. Only ``syncagent schema``, the manual
and the message for a missing key use the docstrings. They omit them for a package that is installed without source.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from functools import cache

from msgspec import Struct


@cache
def field_docs(struct: type[Struct]) -> dict[str, str]:
    """Return the docstrings of a Struct's own and inherited fields by name, each as one line.

    Fields without a docstring are absent.
    """
    docs: dict[str, str] = {}
    for owner in reversed(struct.__mro__):
        if issubclass(owner, Struct) and owner is not Struct:
            docs |= _own(owner)
    return docs


def _own(struct: type[Struct]) -> dict[str, str]:
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    except (OSError, TypeError):
        return {}
    docs: dict[str, str] = {}
    for field, text in itertools.pairwise(definition.body if isinstance(definition, ast.ClassDef) else []):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                docs[name] = " ".join(words.split())
    return docs
