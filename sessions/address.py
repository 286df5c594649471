"""Where Redis is, as one setting says it: a server, a cluster, or a primary that Sentinels know.

redis://[user[:password]@]host[:port][/db]                          one server (also rediss:// and unix://)
redis+cluster://[user[:password]@]host[:port],host[:port]           some nodes of a cluster
redis+sentinel://[user[:password]@]host[:port],host[:port]/name[/db]    the primary that these Sentinels call `name`
"""

from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio.connection import parse_url

SCHEMES = {
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
}
DEFAULT_PORTS = {"cluster": 6379, "sentinel": 26379}
SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class RedisAddress:
    kind: Literal["server", "cluster", "sentinel"]
    url: str = field(repr=False)
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    """How to connect to a server: user, password, database, TLS."""
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """Raises `ValueError`, whose message never holds the password."""
        scheme, separator, _ = url.partition("://")
        if not separator:
            raise ValueError("it begins with redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://")
        if scheme not in SCHEMES:
            parse_url(url)
            return cls("server", url)
        kind, tls = SCHEMES[scheme]
        parts = urlsplit(f"redis://{url.partition('://')[2]}")
        login, _, listed = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        options: dict[str, Any] = {"username": unquote(user) or None, "password": unquote(password) or None}
        hosts = tuple(_host(text.strip(), DEFAULT_PORTS[kind]) for text in listed.split(",") if text.strip())
        if not hosts:
            raise ValueError(f"{scheme}:// names no host")
        sentinel: dict[str, Any] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if kind == "sentinel" and name in SENTINEL_OPTIONS:
                sentinel[name.removeprefix("sentinel_")] = value
            elif tls and name.startswith("ssl_"):
                options[name] = value
            else:
                raise ValueError(f"{scheme}:// knows no option {name!r}")
        path = [unquote(part) for part in parts.path.split("/") if part]
        if kind == "cluster":
            if path and path != ["0"]:
                raise ValueError("a cluster has no numbered databases: leave the path away")
            return cls("cluster", url, hosts, options={**options, "ssl": tls})
        if not path or len(path) > 2 or (len(path) == 2 and not path[1].isdigit()):
            raise ValueError(f"{scheme}:// ends with the primary's name, as in …:26379/mymaster or …/mymaster/1")
        options["db"] = int(path[1]) if len(path) == 2 else 0
        sentinel["ssl"] = tls
        return cls("sentinel", url, hosts, path[0], {**options, "ssl": tls}, sentinel)


def _host(text: str, default: int) -> tuple[str, int]:
    name, colon, port = text.rpartition(":")
    if text.endswith("]") or not colon:  # [::1] or a bare name
        name, port = text, str(default)
    if not name or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not host:port")
    return name.strip("[]"), int(port)
