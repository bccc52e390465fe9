"""Who asks, as far as an address tells."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any


def visitor(host: str, headers: Mapping[str, Any], behind_proxy: bool) -> str:
    """A visitor's address.

    Args:
        host: The other end of the connection.
        headers: Of the request, with names in lower case.
        behind_proxy: Whether the page stands behind a proxy that can be believed, as on a Space.

    Returns:
        The last public address that the proxies name, where they can be believed: what stands before it is the visitor's
        own text, what is private after it are the proxies. Else the other end.
    """
    if not behind_proxy:
        return host
    for part in reversed(str(headers.get("x-forwarded-for") or "").split(",")):
        try:
            address = ipaddress.ip_address(part.strip())
        except ValueError:
            break
        if address.is_global:
            # A visitor has a whole network of IPv6 addresses.
            wide = ipaddress.ip_network((address, 64), strict=False) if address.version == 6 else address
            return str(wide)
    return host
