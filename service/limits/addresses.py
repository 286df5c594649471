"""Which address a request counts under."""

import ipaddress

from starlette.requests import HTTPConnection


def is_loopback(address: str) -> bool:
    """True for a peer on this machine."""
    return address.startswith("127.") or address == "::/64"


def address_of(connection: HTTPConnection) -> str:
    """The peer's address as the server saw it, never a header's word.

    Behind nginx the server itself replaces it by X-Forwarded-For, for the proxies that FORWARDED_ALLOW_IPS names.
    An IPv6 user holds a /64 and could count under each of its 2^64 addresses, so the network stands for all of them.
    """
    host = connection.client.host if connection.client is not None else "unknown"
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False).network_address) + "/64"
    return str(address)
