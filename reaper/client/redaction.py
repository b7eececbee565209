"""What an error message may show: no secret, nothing long, nothing that a terminal would obey."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def redact(dsn: str) -> str:
    """The DSN without its password, fit for an error message."""
    hidden = re.sub(
        r"([?&])([^=&]*)=[^&]*", lambda m: f"{m[1]}{m[2]}=***" if is_secret(m[2]) else m[0], dsn
    )
    # Greedy up to the last @: a password typed without percent-encoding may hold one itself.
    hidden = re.sub(r"(?s)^(.*?):(?!//).*@", r"\1:***@", hidden)
    # No @ at all: the host was forgotten, and what stands where its port would be is no port.
    return re.sub(r"(?s)^([^@\[]*?):(?!//|\d*(?:[/?]|$))[^@]*$", r"\1:***", hidden)


def hide_passwords(text: str) -> str:
    """A message without the passwords of DSNs that somebody else put into it; `redact` is for a DSN
    alone.
    """
    hidden = re.sub(r":(?!//)\S*@", ":***@", text)
    return re.sub(r"(://[^\s:/@\[]*):(?!//|\d*(?:[/?'\"\s]|$))[^\s@]*(?!\S*@)", r"\1:***", hidden)


def hint(word: object, known: Iterable[str]) -> str:
    """The end of an error about an unknown word: the nearest known one, else all of them."""
    near = nearest(word, known)
    return f"; did you mean {near!r}?" if near else f"; known: {', '.join(known)}"


def nearest(word: object, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that is most like this one, None where none is alike."""
    # No known word is so long, and to compare one of megabytes takes seconds.
    found = difflib.get_close_matches(str(word)[:100], list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def is_secret(key: str) -> bool:
    """Whether a key names a password, however it is spelt."""
    return (
        _SECRET.search(key) is not None
        or key.lower() == "pw"
        or nearest(key.lower(), ["password"]) is not None
    )


_SECRET = re.compile("pass|pwd|secret|token|credential", re.IGNORECASE)
_FROM_A_SECRET_ON = re.compile(rf"(?is)((?:pasw|{_SECRET.pattern})\w*\W{{0,6}}?[:=]).*")
# In characters. At most 60 are shown, but a password is found only where its end is seen as well.
_LOOKED_AT = 2000


def shown(key: str, value: object) -> str:
    """A value as an error message may show it: short, on one line, and never a secret.

    Within it, nothing is shown that follows a key for secrets, nor a DSN's password.
    """
    if is_secret(key):
        return "***"
    try:
        found = repr(value[:_LOOKED_AT] if isinstance(value, str) else value)
    # An integer has more digits than Python prints.
    except ValueError:
        return f"a huge {type(value).__name__}"
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    found = _FROM_A_SECRET_ON.sub(r"\1 ***", found[:_LOOKED_AT])
    found = hide_passwords(found)
    return found if len(found) <= 60 else found[:57] + "..."


def printable(text: str) -> str:
    """What somebody else chose to write, safe to show: one line, and nothing that a terminal would
    obey.
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)
