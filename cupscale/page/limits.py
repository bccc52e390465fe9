"""What a public page allows. A machine of one's own allows more; the environment can say otherwise."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, fields

from cupscale.errors import CupscaleError
from cupscale.planning import Plan


@dataclass(frozen=True)
class Limits:
    """upload_bytes, input_px, output_px: of one image. queue: runs that may wait. captions, caption_chars: of one run.

    kept_seconds: how long a file stays on the server. link_chars: of a query that every proxy passes on.
    max_seconds, max_samples: of one run; 0 for no bound. share: runs that one visitor may have waiting or running; 0 for
    as many as the queue takes. unheard_seconds: how long a run goes on that nobody listens to. calls: of one visitor that are
    not answered yet, runs aside; 0 for no bound. batch: images of one batch.
    link_seconds: how long a visitor may keep a result under a link; 0 for not at all. links, links_bytes: of all such results.
    own_links: of those of one visitor; 0 for as many as the page has room for.
    """

    upload_bytes: int = 64 * 2**20
    input_px: int = 2**26
    output_px: int = 2**28
    queue: int = 20
    captions: int = 1024
    caption_chars: int = 500
    captions_bytes: int = 2**20
    kept_seconds: int = 3600
    link_chars: int = 6000
    max_seconds: int = 0
    max_samples: int = 0
    share: int = 0
    unheard_seconds: int = 60
    calls: int = 0
    batch: int = 200
    link_seconds: int = 86_400
    links: int = 200
    links_bytes: int = 2**31
    own_links: int = 0

    @property
    def body_bytes(self) -> int:
        """Of a request that is no upload: an image within it, as a data URL has it, and what else belongs to a run."""
        return self.upload_bytes * 4 // 3 + 4 * 2**20

    @property
    def calls_bytes(self) -> int:
        """Of all calls of one visitor that are not answered yet."""
        return self.body_bytes * 2

    @property
    def file_bytes(self) -> int:
        """Of a file that is uploaded: an image, or a result of this page, which gives its settings back."""
        return max(self.upload_bytes, self.output_px * 4 + 2**20)

    @property
    def uploads_bytes(self) -> int:
        """Of one request that uploads files: a batch of images, or one result of this page."""
        return max(self.batch * self.upload_bytes, self.file_bytes) + 2**20

    def check_output(self, plan: Plan) -> None:
        """Raises CupscaleError where the output has more pixels than the page makes."""
        width, height = plan.output
        if width * height > self.output_px:
            scale = plan.output[0] / plan.input[0]
            fits = int(scale * (self.output_px / (width * height)) ** 0.5 * 10) / 10
            remedy = f"choose a scale of at most {fits:g}" if fits >= 1 else "give a smaller image"
            raise CupscaleError(
                f"the output would be {width} x {height} = {width * height / 2**20:.1f} megapixels: "
                f"this page makes at most {self.output_px / 2**20:.3g}; {remedy}"
            )


SPACE = Limits(
    upload_bytes=20 * 2**20,
    input_px=2**24,
    output_px=2**25,
    queue=12,
    max_seconds=900,
    max_samples=12_000,
    share=2,
    calls=32,
    batch=20,
    link_seconds=0,
    own_links=5,
)


OPEN = Limits(max_seconds=3600, share=4, calls=100, own_links=20)


def on_space() -> bool:
    """Whether this is a Hugging Face Space."""
    return bool(os.environ.get("SPACE_ID"))


def lent_gpu() -> bool:
    """Whether a GPU comes and goes here (ZeroGPU), as the package `spaces` reads it."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def in_reach() -> bool:
    """Whether others than this machine may reach the page: GRADIO_SERVER_NAME is no loopback address, or it is shared."""
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1").strip("[]")
    if os.environ.get("GRADIO_SHARE", "").lower() == "true":
        return True
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def current() -> Limits:
    """The limits of a Space, of a machine in reach of others, or of one's own; CUPSCALE_<NAME>, a whole number, goes first.

    Raises:
        CupscaleError: Such a variable is no whole number.
    """
    base = SPACE if on_space() else OPEN if in_reach() else Limits()
    given = {f.name: os.environ.get(f"CUPSCALE_{f.name.upper()}") for f in fields(Limits)}
    try:
        return Limits(**{name: int(given[name] or getattr(base, name)) for name in given})
    except ValueError as error:
        raise CupscaleError(f"a limit in the environment is not a whole number: {error}") from None
