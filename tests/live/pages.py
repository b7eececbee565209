"""What the pages show: blocks between fences, and commands, those that stand in a line of text as
well.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.unit.test_pages import PAGES, unfenced

SHELL, CONSOLE = "sh", "console"
_PROMPT = "$ "
# What a command within a line of text begins with; in a block whatever stands there is a command.
_PROGRAMS = frozenset({
    "apt", "apt-get", "aws", "brew", "cd", "cp", "curl", "docker", "export", "git", "kubectl",
    "make", "mariadb", "mysql", "mysqladmin", "mysqldump", "npm", "npx", "pg_dump", "pip", "pipx",
    "psql", "pt-kill", "pytest", "python", "python3", "reaper", "ruff", "sam", "sudo", "systemctl",
    "uv", "wget",
})  # fmt: skip
# With what it is done to
_SQL = re.compile(r"(ALTER|CALL|CREATE|DROP|FLUSH|GRANT|KILL|REVOKE|SET|UPDATE) \S+ \S")


@dataclass(frozen=True)
class Block:
    page: Path
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One program and its arguments, as a shell reads them; `text` is the whole line it stands
    in.
    """

    page: Path
    words: tuple[str, ...]
    text: str
    in_a_line: bool = False

    @property
    def program(self) -> str:
        return Path(self.words[0]).name

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words[1:]

    def option(self, name: str) -> str | None:
        return self.words[self.words.index(name) + 1] if name in self.words else None

    def __str__(self) -> str:
        return " ".join(self.words)


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for language, text in re.findall(
            r"^```(.*)\n((?:.*\n)*?)```$", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            yield Block(page, language, text)


def commands() -> list[Command]:
    """Every command of every page, each once in a folder."""
    typed = [
        command
        for block in blocks()
        for line in _lines(block)
        for command in _parsed(block.page, line)
    ]
    told = [
        replace(command, in_a_line=True)
        for page in PAGES
        for code in in_text(page)
        if len(code.split()) > 1 and code.split()[0] in _PROGRAMS
        for command in _parsed(page, code)
    ]
    return list(
        {(command.page.parent, command.words): command for command in [*told, *typed]}.values()
    )


def statements() -> list[str]:
    """Every SQL statement in a line of text, grants first and drops last; a shorter one is no more
    than its name.
    """
    found = dict.fromkeys(code for page in PAGES for code in in_text(page) if _SQL.match(code))
    return sorted(
        found,
        key=lambda statement: (not statement.startswith("GRANT"), statement.startswith("DROP")),
    )


def in_text(page: Path) -> list[str]:
    """The code in the lines of a page's text."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", unfenced(page))]


def shown_by(command: str) -> str:
    """What the README's console shows below a command."""
    (found,) = (block.text for block in blocks() if block.text.startswith(f"{_PROMPT}{command}"))
    return found.partition("\n")[2]


def _lines(block: Block) -> Iterator[str]:
    """The lines of a block that somebody types, those that go on in the next one as one."""
    if block.language == SHELL:
        yield from block.text.replace("\\\n", "").splitlines()
    elif block.language == CONSOLE:
        yield from (
            line.removeprefix(_PROMPT)
            for line in block.text.splitlines()
            if line.startswith(_PROMPT)
        )


def _parsed(page: Path, line: str) -> Iterator[Command]:
    """The commands between `&&` and `|`, without comments and the variables that are set for
    them.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("&|;"):
            if words:
                yield Command(page, tuple(words), line)
            words = []
        elif words or not re.match(r"[A-Z_]+=", word):
            words.append(word)
