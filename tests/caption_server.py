"""A caption server in this process: just enough of OpenAI's protocol, and it answers when it is let."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator


class CaptionServer(http.server.ThreadingHTTPServer):
    """`let(n)`: answer n more requests. `seen`: how many came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Speaks)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.seen = self.answered = 0
        self._may = threading.Semaphore(0)
        self._lock = threading.Lock()

    def let(self, count: int) -> None:
        for _ in range(count):
            self._may.release()

    def caption(self) -> str:
        """The next answer, when it may be given."""
        with self._lock:
            self.seen += 1
        self._may.acquire()
        with self._lock:
            self.answered += 1
            return f"a red barn, number {self.answered}"


class _Speaks(http.server.BaseHTTPRequestHandler):
    server: CaptionServer

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._reply({"data": [{"id": "small-vlm"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": json.dumps({"caption": self.server.caption()})}
        self._reply({"choices": [{"message": message}]})

    def _reply(self, answer: object) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())


@contextlib.contextmanager
def caption_server() -> Iterator[CaptionServer]:
    with CaptionServer() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.let(10_000)
        server.shutdown()
