"""The documentation as the tests read it: the README and the pages, and their fenced blocks."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = "README.md"
PAGES = (README, *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "contrib" / "docs").glob("*.md")))
"""Path of each page, from the top of the repository."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language and its text, without the fences."""

    page: str
    language: str
    text: str

    @property
    def name(self) -> str:
        """Return a name for test IDs: the page and the first line."""
        return f"{Path(self.page).stem}:{self.text.partition(chr(10))[0][:40]}"

    @property
    def commands(self) -> list[str]:
        """Return the lines of a shell block, without comments behind two spaces."""
        return [re.split(r" {2,}#", line)[0].rstrip() for line in self.text.splitlines() if line.strip()]


@cache
def page(name: str) -> str:
    """Return the text of a page."""
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def blocks(*languages: str, of: str | None = None) -> tuple[Block, ...]:
    """Return the blocks of these languages, or of all, of one page or of all, in their order."""
    found = (
        Block(name, match[1], match[2])
        for name in PAGES
        if of in {None, name}
        for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", page(name), re.MULTILINE)
    )
    return tuple(block for block in found if not languages or block.language in languages)


def block(language: str, beginning: str, *, of: str | None = None) -> str:
    """Return the text of the first block that begins so. Raises StopIteration if there is none."""
    return next(one.text for one in blocks(language, of=of) if one.text.startswith(beginning))


def section(name: str, heading: str) -> str:
    """Return the text of a page below a heading (with its hashes), up to the next heading of that level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    rest = page(name).partition(f"\n{heading}\n")[2]
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]
