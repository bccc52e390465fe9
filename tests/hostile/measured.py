"""Runs one reading of a file in a fresh process and reports what it took: `python measured.py FILE [settings]`."""

import json
import resource
import sys
from pathlib import Path

from cupscale import images
from cupscale.errors import CupscaleError


def taken() -> tuple[float, float]:
    """CPU seconds and peak bytes of this process and of those it started."""
    cpu = peak = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        cpu += used.ru_utime + used.ru_stime
        if who == resource.RUSAGE_SELF:
            peak = used.ru_maxrss * 1024
    return cpu, peak


def main() -> None:
    data = Path(sys.argv[1]).read_bytes()
    door = (
        images.read_settings if sys.argv[2:] == ["settings"] else lambda d: images.read(d, max_pixels=2**24)
    )
    cpu, peak = taken()
    try:
        door(data)
        end = "read"
    except CupscaleError as error:
        end = str(error)
    after, top = taken()
    print(json.dumps({"cpu": after - cpu, "bytes": max(0, top - peak), "end": end}))


if __name__ == "__main__":
    main()
