"""A server that speaks OpenAI's chat protocol: vLLM, llama.cpp, Ollama, or a company's own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import ipaddress
import json
import os
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import httpx
from PIL import Image

from cupscale.captioners import background
from cupscale.captioners.base import Answer, CaptionerError, Request
from cupscale.errors import CupscaleError

SECONDS = 60.0  # for one answer, from the first byte sent to the last received
CONNECT_SECONDS = 10.0
RETRIES = 2
AT_ONCE = 8
MAX_BYTES = 2**20  # of a response
MAX_TOKENS = 96
KEY = "OPENAI_API_KEY"
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
_KEY_HELP = f"it does not take the key: set {KEY}"
_NEVER = {
    401: _KEY_HELP,
    403: _KEY_HELP,
    404: "it does not know the address or the model: check both; the address usually ends with /v1",
}


class _Again(Exception):
    """Worth another try. after: seconds the server asks to wait. gone: the server was not reached."""

    def __init__(self, reason: str, after: float | None = None, gone: bool = False):
        super().__init__(reason)
        self.after = after
        self.gone = gone


class _Failed(Exception):
    """This request cannot succeed; others may."""


class Server:
    """Requests go out `at_once` at a time; a server batches them.

    base_url: up to and with "/v1". model: as the server calls it; None takes the first one it lists. seconds: that one
    answer may take. Redirects are not followed, and the key goes to `base_url` only.
    """

    bytes = 0
    device = "server"

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        seconds: float = SECONDS,
        retries: int = RETRIES,
        at_once: int = AT_ONCE,
    ):
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise CupscaleError(f"captioner '{base_url}': not an address ({error})") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise CupscaleError(f"captioner '{base_url}': give an address such as http://localhost:8000/v1")
        self.base_url = str(url).rstrip("/")
        self.model = model
        self.seconds = seconds
        self.retries = retries
        self.at_once = at_once
        self._host = f"{url.host}:{url.port}" if url.port else url.host  # no user name or password in it
        self._local = _is_local(url.host)

    @property
    def name(self) -> str:
        return f"{self.model or 'model'} at {self._host}"

    @property
    def identity(self) -> str:
        if self.model is None:  # its first model decides the answers

            def work(emit: Callable[[None], None], stop: threading.Event) -> None:
                asyncio.run(self._until(stop, self._listed()))

            with contextlib.suppress(CaptionerError):  # `ask` will say so
                for _ in background.run(work):
                    pass
        return f"{self._host} {self.model}"

    def load(self) -> None:
        """Nothing of it is on this machine."""

    def release(self) -> None:
        """Its memory is not ours."""

    def ask(self, requests: Sequence[Request]) -> Generator[Answer | None, None, None]:
        def work(emit: Callable[[Answer], None], stop: threading.Event) -> None:
            asyncio.run(self._until(stop, self._all(requests, emit)))

        yield from background.run(work)

    async def _until(self, stop: threading.Event, work: Any) -> None:
        """Run `work`, cancelled soon after `stop` is set."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait({task}, timeout=background.BEAT / 2)
            if stop.is_set():
                task.cancel()
                await asyncio.wait({task})
                return
        task.result()

    async def _all(self, requests: Sequence[Request], emit: Callable[[Answer], None]) -> None:
        async with self._client() as client:
            if self.model is None:
                self.model = await self._first_model(client)
            gate = asyncio.Semaphore(self.at_once)
            unreached = 0  # requests in a row that did not reach the server, with all their tries

            async def one(index: int) -> None:
                nonlocal unreached
                async with gate:
                    try:
                        emit(Answer(index, await self._caption(client, requests[index])))
                        unreached = 0
                    except _Failed as error:
                        unreached = 0
                        emit(Answer(index, None, str(error)))
                    except _Again as error:
                        unreached = unreached + 1 if error.gone else 0
                        if unreached >= 3:
                            raise CaptionerError(
                                f"the server at {self._host} cannot be reached: {error}"
                            ) from None
                        emit(Answer(index, None, str(error)))

            try:
                async with asyncio.TaskGroup() as group:
                    for index in range(len(requests)):
                        group.create_task(one(index))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None

    def _client(self) -> httpx.AsyncClient:
        key = os.environ.get(KEY)
        return httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx.Timeout(self.seconds, connect=min(CONNECT_SECONDS, self.seconds)),
            limits=httpx.Limits(max_connections=self.at_once),
            follow_redirects=False,
            trust_env=not self._local,  # a proxy has no business between a machine and itself
        )

    async def _listed(self) -> None:
        async with self._client() as client:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    self.model = await self._first_model(client)
            except TimeoutError:  # `ask` will say so
                pass

    async def _first_model(self, client: httpx.AsyncClient) -> str:
        try:
            data = await self._tried(client, "GET", "/models")
            return str(data["data"][0]["id"])
        except (_Again, _Failed) as error:
            raise CaptionerError(f"the server at {self._host} lists no models: {error}") from None
        except (KeyError, IndexError, TypeError):
            raise CaptionerError(
                f"the server at {self._host} lists no models: name one after a #, as in {self.base_url}#name"
            ) from None

    async def _caption(self, client: httpx.AsyncClient, request: Request) -> str:
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _data_url(image)}} for image in request.images
        ]
        content.append({"type": "text", "text": request.instruction})
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
        }
        data = await self._tried(client, "POST", "/chat/completions", body)
        try:
            text = data["choices"][0]["message"]["content"]
            if isinstance(text, list):  # some servers answer in parts
                text = " ".join(part["text"] for part in text if part.get("type") == "text")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise _Failed("the answer holds no text where the protocol has it") from None
        if not isinstance(text, str):
            raise _Failed("the answer holds no text where the protocol has it")
        return text

    async def _tried(self, client: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
        """An exchange, tried again after a failure that may pass."""
        for attempt in range(self.retries + 1):
            try:
                return await self._exchange(client, method, path, body)
            except _Again as error:
                if attempt == self.retries:
                    raise
                await asyncio.sleep(min(error.after if error.after is not None else 0.5 * 2**attempt, 10))
        raise AssertionError("unreachable")

    async def _exchange(self, client: httpx.AsyncClient, method: str, path: str, body: Any) -> Any:
        """One HTTP exchange within the limits of time and size: JSON in, JSON out."""
        data = bytearray()
        try:
            async with asyncio.timeout(self.seconds):
                async with client.stream(method, self.base_url + path, json=body) as response:
                    async for part in response.aiter_bytes():
                        data += part
                        if len(data) > MAX_BYTES:
                            raise _Failed(f"the answer is over {MAX_BYTES // 2**20} MiB")
        except httpx.ConnectTimeout:
            raise _Again("no connection in time", gone=True) from None
        except (TimeoutError, httpx.TimeoutException):
            raise _Failed(f"no answer within {self.seconds:g} s") from None
        except httpx.ConnectError as error:
            raise _Again(f"no connection ({str(error)[:80]})", gone=True) from None
        except httpx.HTTPError as error:
            raise _Again(f"{type(error).__name__}: {str(error)[:80]}") from None
        status = response.status_code
        if status in _NEVER:
            raise CaptionerError(f"the server at {self._host} says {status}: {_NEVER[status]}")
        if status in _AGAIN:
            raise _Again(f"the server says {status}", _seconds(response.headers.get("retry-after")))
        if not response.is_success:
            raise _Failed(
                f"the server says {status}: {' '.join(data[:120].decode(errors='replace').split())}"
            )
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise _Failed("the answer is not JSON") from None


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None
