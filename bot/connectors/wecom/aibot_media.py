"""What people send to an intelligent robot: encrypted files behind URLs that live for 5 minutes.

The URLs come out of messages, so that nothing but public addresses is called. Source: path/100719.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from yarl import URL

from bot.connectors.wecom.aibot_messages import is_within
from bot.connectors.wecom.crypto import Crypto, Undecipherable
from bot.errors import ConnectorError, Undeliverable

FETCH_WITHIN = 60.0
_PADDING = 32
_OF_IPV4 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
"""NAT64 and the old form of IPv4 addresses: they end in the address that is called."""
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")


class _Internal(OSError):
    """A host that is no public one."""


class _PublicOnly(AbstractResolver):
    """Resolves names; those of internal addresses are refused, so that no connection is made."""

    def __init__(self) -> None:
        self._resolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not all(is_public(item["host"]) for item in found):
            raise _Internal(f"{host} is an internal address")
        return found

    async def close(self) -> None:
        await self._resolver.close()


class MediaFiles:
    """Fetches and decrypts files; those of `api_base` may be internal, since the operator named it."""

    def __init__(self, crypto: Crypto, api_base: str) -> None:
        self._crypto = crypto
        self._api_base = URL(api_base)

    async def fetch(self, url: str, limit: int) -> bytes:
        """The bytes of a file, `limit` at most. Raises ConnectorError, or Undeliverable for good."""
        resolver = None if is_within(url, self._api_base) else _public(url)
        connector = aiohttp.TCPConnector(resolver=resolver, limit=1)
        timeout = aiohttp.ClientTimeout(total=FETCH_WITHIN)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
                ) as session,
                session.get(url, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise Undeliverable(f"no file: HTTP {response.status}", code=response.status)
                data = await _read(response, limit + _PADDING)
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a timeout is an OSError, too
            if isinstance(getattr(error, "os_error", None), _Internal):
                raise Undeliverable("the file is at an internal address") from None
            raise ConnectorError(f"no file: {type(error).__name__}") from None
        try:
            content = await asyncio.to_thread(self._crypto.decrypt_media, data)
        except Undecipherable as error:
            raise Undeliverable(f"no file: {error.problem}") from None
        if len(content) > limit:
            raise Undeliverable(f"the file has more than {limit} bytes")
        return content


def _public(url: str) -> _PublicOnly:
    """A resolver for a URL of https to a public host. Raises Undeliverable for any other."""
    try:
        given = URL(url)
        host = given.raw_host if given.scheme == "https" and given.user is None else None
    except ValueError:
        host = None
    # What looks like an address to aiohttp is never resolved; the system reads even 127.1 as one.
    literal = host is not None and (":" in host or host.replace(".", "").isdigit())
    if not host or (literal and not is_public(host)):
        raise Undeliverable("the file's URL is not one of https to a public host")
    return _PublicOnly()


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, or stands for such an IPv4 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if any(ip in network for network in _OF_IPV4):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
        if ip.is_site_local or ip in _LOCAL_NAT64:
            return False
    return ip.is_global and not ip.is_multicast


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise Undeliverable(f"the file has more than {limit - _PADDING} bytes")
    return bytes(body)
