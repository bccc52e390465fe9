"""What one HTTP request may take of the page's process: at most 500 MB more and 10 s of CPU, at every field of every endpoint.

Memory is the peak of the process since the request came (VmHWM, which `clear_refs` sets back) and what its workers have at a
time; CPU is both's.
"""

import io
import json
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from page_server import FAST_SETTINGS, photo, start
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_bombs import BOMBS, MEGA
from test_texts import REFUSED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# What a good call gives beside an image and the endpoint's own defaults; the fields themselves are the page's to tell.
GIVEN = {
    "upscale": {"settings": json.dumps(FAST_SETTINGS | {"steps": 1, "strength": 1})},
    "plan": {},
    "caption": {},
    "read_settings": {},
}
FILES = {
    "upscale": ("image", "mask"),
    "plan": ("image",),
    "caption": ("image",),
    "read_settings": ("result",),
}
DOORS = [(name, field) for name in ("plan", "caption", "read_settings") for field in FILES[name]]
DOORS += [("upscale", "mask")]  # its image goes where plan's goes, and then is enlarged
RAW = {  # bodies whole, as nothing of gradio's would build them
    "millions of lists": b'{"data": [' + b"[]," * 8_000_000 + b"[]]}",
    "lists in lists": b'{"data": ' + b"[" * 20_000_000,
    "a key again and again": b"{" + b'"a":{},' * 3_000_000 + b'"a":1}',
    "no JSON": bytes(24 * MEGA),
}
TEXTS = {
    "19 MB of letters": "a" * (19 * MEGA),
    "19 MB of brackets": "[" * (19 * MEGA),
    "a million keys": {str(k): k for k in range(1_000_000)},
    "a deep list": json.loads("[" * 400 + "]" * 400),
    "a long number": 10**4000,
    **{f"settings: {name}": text for name, text in REFUSED.items()},
}


class Page:
    """The page and what it takes."""

    def __init__(self, url, process):
        self.url = url
        self.process = psutil.Process(process.pid)
        with urllib.request.urlopen(f"{url}gradio_api/info") as answer:
            named = json.load(answer)["named_endpoints"]
        self.fields = {
            name.strip("/"): {p["parameter_name"]: p["parameter_default"] for p in it["parameters"]}
            for name, it in named.items()
            if it["parameters"]
        }

    def values(self, name, **changed):
        """Of all fields of an endpoint, in their order: good ones, but for the changed."""
        fields = self.fields[name]
        good = GIVEN[name] | dict.fromkeys(FILES[name], self.image) | changed
        assert good.keys() <= fields.keys()
        return list((fields | good).values())

    def ask(self, path, body, kind="application/json"):
        request = urllib.request.Request(
            f"{self.url}gradio_api/{path}", body, {"Content-Type": kind} if body else {}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.read()
        except urllib.error.HTTPError as refused:
            assert refused.code < 500 or refused.code == 503, refused.code
            return b""

    def call(self, name, values):
        """To the last event, or to the refusal."""
        answer = self.ask(f"call/{name}", json.dumps({"data": values}).encode())
        event = json.loads(answer or b"{}").get("event_id")
        return self.ask(f"call/{name}/{event}", None) if event else b""

    def upload(self, data):
        line = b"--line"
        head = b'\r\nContent-Disposition: form-data; name="files"; filename="it.png"\r\n\r\n'
        body = line + head + data + b"\r\n" + line + b"--\r\n"
        (path,) = json.loads(self.ask("upload", body, "multipart/form-data; boundary=line"))
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def cpu(self):
        used = self.process.cpu_times()
        return used.user + used.system + used.children_user + used.children_system

    def memory(self, peak):
        """Bytes of the process: the most since `forget`, or now."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        name = "VmHWM:" if peak else "VmRSS:"
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    def forget(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def workers(self):
        """Of its processes, in bytes. One that has not become its program yet shows the page's own memory, which it shares."""
        total, own = 0, self.process.cmdline()
        for child in self.process.children(recursive=True):
            try:
                total += child.memory_info().rss if child.cmdline() != own else 0
            except psutil.Error:
                continue
        return total

    def taken(self, request):
        """(bytes, CPU seconds) that a request took."""
        over, most = threading.Event(), [0]
        before_workers = self.workers()

        def watch():
            while not over.wait(0.02):
                most[0] = max(most[0], self.workers() - before_workers)

        watcher = threading.Thread(target=watch)
        self.forget()
        memory, cpu = self.memory(peak=False), self.cpu()
        watcher.start()
        try:
            request()
        finally:
            over.set()
            watcher.join()
        return max(0, self.memory(peak=True) - memory) + most[0], self.cpu() - cpu


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with start(folder, CUPSCALE_MAX_SECONDS="60") as (url, process):
        page = Page(url, process)
        page.image = page.upload(photo(folder / "small.png").read_bytes())
        assert page.fields.keys() == GIVEN.keys()
        for name in GIVEN:  # what is loaded once does not count
            answer = page.call(name, page.values(name))
            assert b"event: complete" in answer, (name, answer)
        try:
            page.forget()
        except PermissionError:
            pytest.skip("the peak of another process cannot be set back here")
        yield page


def bounded(taken, what):
    memory, cpu = taken
    assert memory < 500 * MEGA and cpu < 10, f"{what}: {memory / MEGA:.0f} MB, {cpu:.1f} s"


@pytest.mark.slow
@pytest.mark.parametrize("name", GIVEN)
def test_no_text_at_any_field_takes_much(page, name):
    for field in page.fields[name]:
        for kind, text in TEXTS.items():
            if kind.startswith("settings: ") and field != "settings":
                continue
            values = page.values(name, **{field: text})
            bounded(page.taken(lambda values=values: page.call(name, values)), f"{name} {field} {kind}")


@pytest.mark.parametrize("path", ["call/plan", "call/upscale", "queue/join", "run/plan", "cancel"])
def test_no_body_takes_much(page, path):
    for kind, body in RAW.items():
        bounded(page.taken(lambda body=body: page.ask(path, body)), f"{path} {kind}")


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_file_at_any_endpoint_takes_much(page, bomb):
    data = BOMBS[bomb]()
    for name, field in DOORS:
        values = page.values(name, **{field: page.upload(data)})
        bounded(
            page.taken(lambda values=values, name=name: page.call(name, values)), f"{name} {field} {bomb}"
        )


def grown(page, call, times):
    """By how many bytes the page is larger after `times` calls than after the first ones, which set up what stays."""
    for k in range(times // 10):
        call(k)
    page.call("plan", page.values("plan"))  # the ones before it are over
    before = page.memory(peak=False)
    for k in range(times):
        call(k)
    page.call("plan", page.values("plan"))
    return page.memory(peak=False) - before


@pytest.mark.slow
def test_settings_that_nobody_listens_to_do_not_stay(page):
    """200 answers of 0.5 MB, which are 100: 64 MB of them wait for a listener."""
    picture = Image.linear_gradient("L").resize((64, 48))
    texts = PngInfo()
    texts.add_itxt("cupscale", json.dumps({"prompt": "a" * 500_000}), zip=True)
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=texts)
    values = page.values("read_settings", result=page.upload(file.getvalue()))
    assert b"a" * 500_000 in page.call("read_settings", values)
    body = json.dumps({"data": values}).encode()
    more = grown(page, lambda k: page.ask("call/read_settings", body), 200)
    print(f"200 unheard answers: {more / MEGA:.0f} MB more")
    assert more < 120 * MEGA


@pytest.mark.slow
def test_large_pictures_in_a_row_leave_nothing_behind(page):
    """25 pictures of 3000 x 2000 px, each another one, each in a session of its own."""

    def plan(k):
        file = io.BytesIO()
        Image.linear_gradient("L").rotate(k).resize((3000, 2000)).convert("RGB").save(file, "PNG")
        answer = page.call("plan", page.values("plan", image=page.upload(file.getvalue()), scale=1))
        assert b"this page allows" in answer  # so much is known of a picture that was decoded

    more = grown(page, plan, 25)
    print(f"25 large pictures: {more / MEGA:.0f} MB more")
    assert more < 100 * MEGA
