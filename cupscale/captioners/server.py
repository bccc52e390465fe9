"""A server that speaks OpenAI's chat protocol: vLLM, llama.cpp, Ollama, or a company's own.

The client is written on httpx and not on huggingface_hub's inference client, which sends the user's Hugging Face token to
whatever address it is given, follows redirects with the pictures, refuses a server on this machine in offline mode, and
replaces the schema of structured answers with a form that only one server knows (huggingface_hub 2.4).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import ipaddress
import json
import os
import threading
from collections.abc import Callable, Coroutine, Generator, Sequence
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
UNREACHED = 3  # requests in a row that do not reach the server, with all their tries, end the asking
MAX_BYTES = 2**20  # of a response
MAX_TOKENS = 128
KEY = "OPENAI_API_KEY"
_SCHEMA = {
    "type": "object",
    "properties": {"caption": {"type": "string"}},
    "required": ["caption"],
    "additionalProperties": False,
}
_STRUCTURED = {
    "type": "json_schema",
    "json_schema": {"name": "caption", "strict": True, "schema": _SCHEMA},
}
_AS_JSON = ' Answer with JSON: {"caption": "..."}'
_NOT_STRUCTURED = (400, 415, 422, 501)  # what servers say to a response format they do not know
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
_KEY_HELP = f"it does not take the key: set {KEY}"
_NEVER = {
    401: _KEY_HELP,
    403: _KEY_HELP,
    404: "it does not know the address or the model: check both; the address usually ends with /v1",
}


class _Failed(Exception):
    """This request failed; others may succeed.

    Attributes:
        status: Of the answer; 0 where none came.
        again: Another try may succeed.
        after: Seconds that the server asks to wait before it.
        gone: The server was not reached.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int = 0,
        again: bool = False,
        after: float | None = None,
        gone: bool = False,
    ):
        super().__init__(reason)
        self.status, self.again, self.after, self.gone = status, again or gone, after, gone


class Server:
    """Sends several requests at a time, since a server batches them. Nothing but its address is contacted.

    Captions are asked for as JSON; a server that refuses that is asked for plain text from then on. Redirects are not
    followed.

    Args:
        base_url: Up to and with "/v1".
        model: As the server calls it; None for the first one it lists.
        seconds: That one answer may take.
        retries: After failures that may pass.
        at_once: The most requests under way.
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
        self._structured = True
        self._host = f"{url.host}:{url.port}" if url.port else url.host  # no user name or password in it
        self._local = _is_local(url.host)

    @property
    def name(self) -> str:
        """The model and where it runs."""
        return f"{self.model or 'model'} at {self._host}"

    @property
    def identity(self) -> str:
        """The server is asked for its first model where none is named, since that decides the answers."""
        if self.model is None:
            with contextlib.suppress(CaptionerError):  # `ask` will say so
                for _ in background.run(lambda emit, stop: _run(self._choose_model(), stop)):
                    pass
        return f"{self._host} {self.model}"

    def load(self) -> None:
        """Do nothing: the model is elsewhere."""

    def release(self) -> None:
        """Do nothing: the memory is the server's."""

    def ask(self, requests: Sequence[Request]) -> Generator[Answer | None, None, None]:
        """See `Captioner.ask`."""

        def work(emit: Callable[[Answer], None], stop: threading.Event) -> None:
            _run(self._answer_all(requests, emit), stop)

        yield from background.run(work)

    async def _answer_all(self, requests: Sequence[Request], emit: Callable[[Answer], None]) -> None:
        await self._choose_model()
        gate = asyncio.Semaphore(self.at_once)
        unreached = 0

        async def answer(index: int) -> None:
            nonlocal unreached
            async with gate:
                try:
                    emit(Answer(index, await self._caption(client, requests[index])))
                    unreached = 0
                except _Failed as error:
                    unreached = unreached + 1 if error.gone else 0
                    if unreached >= UNREACHED:
                        reason = f"the server at {self._host} cannot be reached: {error}"
                        raise CaptionerError(reason) from None
                    emit(Answer(index, None, str(error)))

        try:
            async with self._client() as client, asyncio.TaskGroup() as group:
                for index in range(len(requests)):
                    group.create_task(answer(index))
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

    async def _choose_model(self) -> None:
        """Take the first model that the server lists, where none is named."""
        if self.model is not None:
            return
        lists_none = f"the server at {self._host} lists no models"
        try:
            async with asyncio.timeout(CONNECT_SECONDS), self._client() as client:
                self.model = str((await self._tried(client, "GET", "/models"))["data"][0]["id"])
        except _Failed as error:
            raise CaptionerError(f"{lists_none}: {error}") from None
        except TimeoutError:
            raise CaptionerError(f"{lists_none} within {CONNECT_SECONDS:g} s") from None
        except (KeyError, IndexError, TypeError):
            raise CaptionerError(
                f"{lists_none}: name one after a #, as in {self.base_url.rpartition('@')[2]}#name"
            ) from None

    async def _caption(self, client: httpx.AsyncClient, request: Request) -> str:
        """The raw answer to a request, as JSON where the server takes a schema."""
        structured = self._structured
        images = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in request.images]
        text = {"type": "text", "text": request.instruction + (_AS_JSON if structured else "")}
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": [*images, text]}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
        } | ({"response_format": _STRUCTURED} if structured else {})
        try:
            return _text(await self._tried(client, "POST", "/chat/completions", body))
        except _Failed as error:
            if not structured or error.status not in _NOT_STRUCTURED:
                raise
        self._structured = False
        return await self._caption(client, request)

    async def _tried(self, client: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
        """An exchange, tried again after a failure that may pass."""
        for attempt in range(self.retries):
            try:
                return await self._exchange(client, method, path, body)
            except _Failed as error:
                if not error.again:
                    raise
                wait = 0.5 * 2**attempt if error.after is None else error.after
            await asyncio.sleep(min(wait, 10))
        return await self._exchange(client, method, path, body)

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
            raise _Failed("no connection in time", gone=True) from None
        except (TimeoutError, httpx.TimeoutException):
            raise _Failed(f"no answer within {self.seconds:g} s") from None
        except httpx.ConnectError as error:
            raise _Failed(f"no connection ({str(error)[:80]})", gone=True) from None
        except httpx.HTTPError as error:
            raise _Failed(f"{type(error).__name__}: {str(error)[:80]}", again=True) from None
        status = response.status_code
        if status in _NEVER:
            raise CaptionerError(f"the server at {self._host} says {status}: {_NEVER[status]}")
        if status in _AGAIN:
            after = _seconds(response.headers.get("retry-after"))
            raise _Failed(f"the server says {status}", again=True, after=after)
        if not response.is_success:
            said = " ".join(data[:120].decode(errors="replace").split())
            raise _Failed(f"the server says {status}: {said}", status=status)
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise _Failed("the answer is not JSON") from None


def _run(work: Coroutine[Any, Any, None], stop: threading.Event) -> None:
    """Run `work` to its end, or cancel it soon after `stop` is set."""

    async def watched() -> None:
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait({task}, timeout=background.BEAT / 2)
            if stop.is_set():
                task.cancel()
                await asyncio.wait({task})
                return
        task.result()

    asyncio.run(watched())


def _text(data: Any) -> str:
    """The text of a chat completion; some servers answer in parts."""
    try:
        text = data["choices"][0]["message"]["content"]
        if isinstance(text, list):
            text = " ".join(part["text"] for part in text if part.get("type") == "text")
    except (KeyError, IndexError, TypeError, AttributeError):
        text = None
    if not isinstance(text, str):
        raise _Failed("the answer holds no text where the protocol has it")
    return text


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
