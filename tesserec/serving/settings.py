"""What a service is told when it starts; travels to its worker processes as JSON."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
from typing_extensions import Self

from tesserec.errors import ConfigError

TOKEN = "TESSEREC_TOKEN"
_LEAST_TOKEN = 16


@dataclass(frozen=True)
class Settings:
    """How to serve one bundle root.

    Attributes
    ----------
    bundles
        Bundle root whose current generation is served.
    host, port
        Where to listen.
    workers
        Processes; all map the same files.
    threads
        Searches that run at once in one worker; with two a short one need not wait for a long one.
    queue
        Searches that may be in work or waited for at once in one worker; further requests get 429.
    body
        Largest request body in bytes.
    state
        Path of the SQLite file that keeps events, or a ``redis://`` address; None keeps no events.
    retention
        Days after which events are forgotten; None keeps them.
    candidate_log
        Directory of the candidate log; None writes none.
    poll
        Seconds between two looks for a new generation.
    token
        Bearer token of writes, of what concerns a stored user, and of metrics; never printed.
    open_to_all
        No authentication at all.
    explorer
        Serve the explorer page.
    """

    bundles: str
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    threads: int = 2
    queue: int = 32
    body: int = 1 << 20
    state: str | None = None
    retention: float | None = None
    candidate_log: str | None = None
    poll: float = 0.2
    token: str | None = field(default=None, repr=False)
    open_to_all: bool = False
    explorer: bool = True

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "queue", "body"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} = {value}; expected at least 1")
        for name in ("poll", "retention"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ConfigError(f"{name} = {value}; expected a number above 0")
        if self.token is not None and len(self.token) < _LEAST_TOKEN:
            raise ConfigError(f"the token has {len(self.token)} characters; use at least {_LEAST_TOKEN} random ones")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise ConfigError("the token holds characters that cannot stand in a header; use letters and digits")
        if self.token is not None and self.open_to_all:
            raise ConfigError("a token is given, but authentication is switched off; choose one of the two")
        if self.token is None and not self.open_to_all and not _is_loopback(self.host):
            raise ConfigError(
                f"{self.host} can be reached from other machines, and there is no token; set {TOKEN} or --token-file, "
                "or switch authentication off with --no-auth"
            )

    def to_json(self) -> str:
        """For :meth:`from_json` in a worker process."""
        return msgspec.json.encode(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What :meth:`to_json` wrote."""
        return msgspec.json.decode(text, type=cls)


def read_token(file: Path | None) -> str | None:
    """The token from a file or from the environment, None where neither names one.

    Raises
    ------
    ConfigError
        If the file cannot be read.
    """
    if file is None:
        return os.environ.get(TOKEN) or None
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}, the token file, cannot be read ({error})") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
