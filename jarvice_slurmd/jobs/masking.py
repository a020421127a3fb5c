"""A job's text as an administrator may read it: without passwords, tokens and keys. Pure.

What is known to be secret is masked as data; in a text, what its name or its form says. In doubt
more is masked than need be. All of it takes time in proportion to the text: what may repeat is
possessive, and no line is walked twice.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from shlex import quote
from typing import Final

MASK: Final = "********"

# A name says secret by what it holds anywhere, or by one of its words (API_KEY, --db-pass), which
# may be run together with what it is for (PGPASS, sshkey). Its words end at _ and -.
_TELLING: Final = re.compile(
    "SECRET|PASSWORD|PASSWD|PASSPHRASE|TOKEN|CREDENTIAL|DOCKER_USERNAME|PRIVATE_?KEY"
)
_WORDS: Final = frozenset(
    {"AUTHORIZATION", "AUTHS", "BEARER", "COOKIE", "CRED", "CREDS", "JWT", "PSK", "PW", "PWD"}
)
_ENDS: Final = ("KEY", "KEYS", "PASS", "AUTH")
_NO_SECRETS: Final = frozenset(
    {
        *("BYPASS", "COMPASS", "ENCOMPASS", "OVERPASS", "SURPASS", "TRESPASS", "UNDERPASS"),
        *("DONKEY", "HOCKEY", "HOTKEY", "HOTKEYS", "JOCKEY", "MONKEY", "TURKEY", "WHISKEY"),
    }
)
#: What a name ends with whose value is a path: SSH_AUTH_SOCK, TOKEN_FILE.
_PLACES: Final = frozenset({"DIR", "FILE", "FOLDER", "PATH", "SOCK", "SOCKET"})
_PLACE = re.compile(r"[\"']?(?:[/~.]|\$\{?\w)")

# NAME=, NAME+=, NAME[0]=, ${NAME:-, "NAME":, Header-Name:, and --name with its value behind it.
_ASSIGNMENT = re.compile(
    r"(?<![A-Za-z0-9_-])(?:(--[A-Za-z0-9_-]++)[ \t]++(?![-=])"
    r"|([A-Za-z0-9_-]++)((?:\[[^\]\n]{0,99}\])?\+?=|:[-=](?!\})|\\?[\"']\s{0,9}:\s{0,9}|:[ \t]))"
    r"(?=[^\n])"
)

# The parts of a shell's word. A quote reaches to its end, over lines; one that has none, to the
# text's. First the quotes of text that stands in quotes itself.
_NESTED: Final = (
    r"""'"'"'(?:(?!'"'"').)*+'"'"'""",
    r"""'\\''(?:(?!'\\'').)*+'\\''""",
    r"""\\"(?:(?!\\").)*+\\\"""",
    r"\\.",
)
_SINGLE: Final = (r"\$'(?:[^'\\]++|\\.)*+(?:'|\Z)", r"'[^']*+(?:'|\Z)")
_DOUBLE: Final = (r'"(?:[^"\\]++|\\.)*+(?:"|\Z)',)
_OTHERS: Final = (
    r"`[^`]*+(?:`|\Z)",
    r"\$?\((?:[^()]++|\([^()]*+\))*+(?:\)|\Z)",
    r"[^\s'\"\\;&|()<>`]",
)


def _value(*parts: str) -> re.Pattern[str]:
    first = "|".join((*_NESTED, *_SINGLE, *_DOUBLE, *_OTHERS))
    return re.compile(rf"(?:{first})?+(?:{'|'.join(parts)})*+[^\n]*+", re.DOTALL)


#: A value to its line's end, by the quote that the line has open before it: that one ends it.
_VALUES: Final = {
    "": _value(*_NESTED, *_SINGLE, *_DOUBLE, *_OTHERS),
    "'": _value(*_NESTED, *_DOUBLE, *_OTHERS),
    '"': _value(*_NESTED, *_SINGLE, *_OTHERS),
}
_CLOSED = re.compile(r"""(?:[^'"\\]++|\\.|'[^']*+'|"(?:[^"\\]++|\\.)*+")*+""", re.DOTALL)

_PRIVATE_KEY = re.compile(
    r"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----)"
    r"((?:[A-Za-z0-9+/=\s\\:,.()<>@_]++|-(?!----))*+)"
)
_AUTHORIZATION = re.compile(
    r"(\bAuthorization\\?[\"']?\s{0,9}[:=]\s{0,9}\\?[\"']?(?:[a-z]++[ \t]++)?+"
    r"|\b(?:Bearer|Basic)[ \t]++)([A-Za-z0-9._~+/=-]++)",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(://[^\s/@:'\"]*+:)[^\s/@'\"]++(?=@)")

#: The command of a text of JARVICE's, in base64 (PROTOCOL §2), as its head and as what is exported.
_COMMAND = re.compile(r"^((?:export )?JARVICE_CMD=(['\"]?))([A-Za-z0-9+/=]++)(?=\2$)", re.MULTILINE)

#: What executor.sh is given by the user, as shlex.quote leaves it where it quotes.
_USERS_TEXT = re.compile(
    r"""^(executor_command|executor_worker)='((?:[^']++|'"'"')*+)'$""", re.MULTILINE
)
#: A word that may be an environment's value; shorter ones are such as true, auto and 1.
_PIECE = re.compile(r"[^\s'\"`=:;,&|<>(){}\[\]@\\$]{6,}+")


def mask_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without its secrets.

    Masked are the given ones wherever they stand, the values of variables, options and JSON whose
    name says that they are secret, HTTP credentials, passwords in URLs, and private keys.
    """
    known = tuple(secrets)
    text = _COMMAND.sub(lambda found: found[1] + _mask_encoded(found[3], known), text)
    for secret in sorted({secret for secret in known if len(secret) >= 4}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _PRIVATE_KEY.sub(lambda key: key[1] + MASK if key[2].strip() else key[0], text)
    text = _AUTHORIZATION.sub(rf"\1{MASK}", text)
    text = _URL_PASSWORD.sub(rf"\1{MASK}", text)
    return _mask_assignments(text)


def _mask_encoded(encoded: str, secrets: Iterable[str]) -> str:
    """Base64 of the text without its secrets; what is no base64 of UTF-8 stays."""
    try:
        text = base64.b64decode(encoded, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return encoded
    return base64.b64encode(mask_secrets(text, secrets).encode("utf-8")).decode("ascii")


def mask_described(
    text: str, environment: Mapping[str, object], secrets: Iterable[str] = ()
) -> str:
    """The text of a job that `job` describes without its secrets.

    Every value of `environment` is taken for one, and masked where the command repeats it, too.
    """
    known = tuple(secrets)
    values = {name: str(value) for name, value in environment.items()}
    exports = "".join(f"export {name}={quote(value)}\n" for name, value in values.items())
    masked_exports = "".join(f"export {name}={MASK}\n" for name in values)
    pieces = {piece for value in values.values() for piece in _PIECE.findall(value)}
    parts: list[str] = []
    shown = 0
    for found in _USERS_TEXT.finditer(text):
        users = found[2].replace("'\"'\"'", "'")
        rest = users.removeprefix(exports)
        masked = _PIECE.sub(lambda word: MASK if word[0] in pieces else word[0], rest)
        masked = mask_secrets(masked, known)
        if len(rest) < len(users):
            masked = masked_exports + masked
        parts += [mask_secrets(text[shown : found.start()], known), f"{found[1]}={quote(masked)}"]
        shown = found.end()
    return "".join([*parts, mask_secrets(text[shown:], known)])


def _mask_assignments(text: str) -> str:
    parts: list[str] = []
    shown = 0
    for assignment in _ASSIGNMENT.finditer(text):
        if assignment.start() < shown or not _is_secret(assignment, text):
            continue
        begin = assignment.end()
        quoted = _open_quote(text, shown, begin)
        if quoted and text.endswith(quoted, 0, assignment.start()):
            value = _VALUES[""].match(text, assignment.start() - 1)  # "NAME=value"
        else:
            value = _VALUES[quoted].match(text, begin)
        if value is not None:
            parts += [text[shown:begin], MASK]
            shown = value.end()
    return "".join([*parts, text[shown:]])


def _is_secret(assignment: re.Match[str], text: str) -> bool:
    name = (assignment[1] or assignment[2]).upper().replace("-", "_")
    if assignment[3] in (": ", ":\t") and "-" not in assignment[2]:
        return False  # prose
    words = [word.rstrip("0123456789") for word in name.split("_")]
    if not _TELLING.search(name) and not any(map(_is_secret_word, words)):
        return False
    if name == "PWD":
        return False
    return not (words[-1] in _PLACES and _PLACE.match(text, assignment.end()))


def _is_secret_word(word: str) -> bool:
    return word in _WORDS or (word.endswith(_ENDS) and word not in _NO_SECRETS)


def _open_quote(text: str, shown: int, end: int) -> str:
    """The quote that the line has open at `end`; "" for none."""
    closed = _CLOSED.match(text, text.rfind("\n", shown, end) + 1 or shown, end)
    quote_at = end if closed is None else closed.end()
    return text[quote_at] if quote_at < end and text[quote_at] in "'\"" else ""
