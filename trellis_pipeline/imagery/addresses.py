"""Which hosts a catalog may make us talk to.

A catalog row is written by somebody else, and `https://…` in it makes our machine open a connection. So a
host is resolved once, every address it resolves to is judged, and the caller connects to a judged address
and not to the name: a name that changes its mind between check and connection gains nothing.
Ranges: IANA special-purpose registries (RFC 6890), as the standard library's `ipaddress` knows them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from trellis_pipeline.errors import SourceImageError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Cloud instance metadata gives out credentials. No configuration opens these.
METADATA = (
    ipaddress.ip_network("169.254.0.0/16"),  # AWS, Google, Azure, and every other link-local host
    ipaddress.ip_network("fe80::/10"),
    ipaddress.ip_network("fd00:ec2::/32"),  # AWS over IPv6
    ipaddress.ip_network("100.100.100.200/32"),  # Alibaba
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's host agent, a public address
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def refusal(address: Address, *, allow_private: bool) -> str:
    """Why we do not connect to `address`; an empty string if we do.

    allow_private: accept private, loopback and carrier-grade NAT ranges. Metadata services, multicast and
    the unspecified address are refused all the same.
    """
    inner = _embedded_ipv4(address)
    if inner is not None:
        return refusal(inner, allow_private=allow_private)
    if any(address in network for network in METADATA if network.version == address.version):
        return "a link-local or cloud metadata address"
    if address.is_multicast or address.is_unspecified:
        return "not the address of a single host"
    private = address.is_loopback or address.is_reserved or not address.is_global
    return "a loopback, private or reserved address" if private and not allow_private else ""


def _embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for, where it stands for one."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


async def resolve_host(host: str, port: int, *, allow_private: bool) -> list[str]:
    """Addresses of `host`, in the resolver's order, all of them judged.

    One refused address refuses the host: a name that mixes public and private addresses is either
    misconfigured or meant to get us to try them in turn. Raises SourceImageError.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise SourceImageError(f"the host {host} has no address; check the URL or the name server") from None
    addresses = list(dict.fromkeys(str(entry[4][0]).split("%")[0] for entry in found))
    for text in addresses:
        why = refusal(ipaddress.ip_address(text), allow_private=allow_private)
        if why:
            hint = (
                "" if "metadata" in why else "; imagery.allow_private_addresses = true permits private ones"
            )
            raise SourceImageError(f"the host {host} is refused: {text} is {why}{hint}")
    if not addresses:
        raise SourceImageError(f"the host {host} has no address; check the URL or the name server")
    return addresses
