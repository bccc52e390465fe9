"""The page's functions as a program calls them: gradio_client, MCP, plain HTTP; and as an attacker does."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from page_server import FAST_SETTINGS, photo, serve
from PIL import Image

from cupscale import images

FAST = json.dumps(FAST_SETTINGS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def url(folder):
    with serve(
        folder,
        SPACE_ID="someone/cupscale",
        CUPSCALE_CAPTION_CHARS="100",
        CUPSCALE_UPLOAD_BYTES="100000",
        CUPSCALE_CAPTIONERS="away=http://127.0.0.1:9/v1",
    ) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


@pytest.fixture(scope="module")
def small(folder):
    return photo(folder / "small.png")


def test_every_function_has_a_name_and_a_description(client, url):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/upscale", "/plan", "/caption", "/read_settings", "/models"}
    with urllib.request.urlopen(f"{url}gradio_api/info") as answer:
        info = json.load(answer)["named_endpoints"]
    assert all(endpoint["description"] for endpoint in info.values())


def test_upscale_plan_and_read_settings(client, small):
    plan = client.predict(handle_file(small), scale=2.5, settings=FAST, api_name="/plan")
    assert tuple(plan["output"]) == (160, 120)
    path, report = client.predict(
        handle_file(small),
        prompt="a fox",
        scale=2.5,
        seed=9,
        settings=FAST,
        format="webp",
        api_name="/upscale",
    )
    with Image.open(path) as image:
        assert image.format == "WEBP" and image.size == (160, 120)
    assert (report["settings"]["seed"], report["settings"]["prompt"], report["plan"]["evaluations"]) == (
        9,
        "a fox",
        plan["evaluations"],
    )
    found = client.predict(handle_file(path), api_name="/read_settings")
    assert found == report["settings"] == images.read_settings(path)


def test_a_picture_from_words(client):
    """The first half alone at scale 1; and the whole is made again from its own settings."""
    words = {"prompt": "a lighthouse in a storm", "seed": 5}
    plan = client.predict(None, scale=2, settings=json.dumps(json.loads(FAST) | words), api_name="/plan")
    assert (plan["input"], plan["output"], plan["drawing"]) == ([64, 64], [128, 128], 4)
    path, report = client.predict(None, **words, scale=2, settings=FAST, api_name="/upscale")
    assert report["settings"]["size"] == "64x64" and report["plan"]["evaluations"] == plan["evaluations"]
    again, _ = client.predict(None, settings=json.dumps(images.read_settings(path)), api_name="/upscale")
    with Image.open(path) as first, Image.open(again) as second:
        assert first.size == (128, 128) and first.tobytes() == second.tobytes()
    for name in ("/plan", "/upscale"):
        with pytest.raises(Exception, match=r"[Nn]either an image nor a prompt"):
            client.predict(None, settings=FAST, api_name=name)


def test_a_transparent_jpeg_is_refused_before_the_run(client, folder):
    clear = folder / "clear.png"
    Image.new("RGBA", (64, 48), (9, 99, 9, 120)).save(clear)
    with pytest.raises(Exception, match=r"transparent.*choose format png or webp"):
        client.predict(handle_file(clear), settings=FAST, format="jpg", api_name="/upscale")
    whole = folder / "whole.png"
    Image.new("RGBA", (64, 48), (9, 99, 9, 255)).save(whole)
    path, _ = client.predict(handle_file(whole), settings=FAST, format="jpg", api_name="/upscale")
    with Image.open(path) as image:
        assert image.format == "JPEG"


def test_two_clients_at_once_get_their_own_results(url, folder):
    def call(k):
        own = Client(url, verbose=False)
        path, report = own.predict(
            handle_file(photo(folder / f"{k}.png", (40 + 8 * k, 48), k)),
            scale=2,
            seed=k,
            settings=FAST,
            api_name="/upscale",
        )
        with Image.open(path) as image:
            return image.size, report["settings"]["seed"]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(call, (1, 2))) == [((96, 96), 1), ((112, 96), 2)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scale": 4, "settings": '{"cutoff": 9}'}, "cutoff"),
        ({"settings": "{"}, "not JSON"),
        ({"settings": '{"mystery": 1}'}, "no such setting"),
        ({"model": "stabilityai/stable-diffusion-xl-base-1.0"}, "not on this page"),
        ({"model": "/etc"}, "not on this page"),
        ({"settings": '{"model": "../.."}'}, "not on this page"),
        ({"format": "exe"}, "unknown format"),
        (
            {"settings": json.dumps({"captions": [{"box": [0, 0, 64, 64], "caption": "x" * 101}]})},
            "limit is 100",
        ),
    ],
)
def test_bad_arguments_are_refused_in_one_line(client, small, arguments, words):
    with pytest.raises(AppError, match=f"(?i){words}") as refused:
        client.predict(handle_file(small), **arguments, api_name="/upscale")
    assert "Traceback" not in str(refused.value)


def call(url, name, data):
    """A bare HTTP call: what a client that uploads nothing can send. The text of its last event."""
    body = json.dumps({"data": data}).encode()
    request = urllib.request.Request(
        f"{url}gradio_api/call/{name}", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{url}gradio_api/call/{name}/{event}") as answer:
        return answer.read().decode()


def test_no_path_of_the_server_is_opened(url, folder, small):
    for path in ("/etc/hostname", str(small), str(folder / "random" / "model_index.json")):
        given = {"path": path, "meta": {"_type": "gradio.FileData"}}
        assert "event: error" in call(url, "plan", [given, 2, "", "none", "{}"])
        assert "event: error" in call(url, "read_settings", [given])
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}gradio_api/file={path}")
        assert refused.value.code in (403, 404)


def test_an_output_over_the_limit_is_refused(client, folder):
    wide = folder / "wide.png"
    Image.new("RGB", (900, 900), "teal").save(wide)
    with pytest.raises(AppError, match="at most"):
        client.predict(handle_file(wide), scale=16, api_name="/upscale")


def test_captions_for_every_region(client, small):
    answer = client.predict(
        handle_file(small),
        scale=2,
        prompt="a hill",
        captioner="appearance",
        settings=FAST,
        api_name="/caption",
    )
    assert answer["size"] == [128, 96] and answer["prompt"] == "a hill"
    assert all(set(region) >= {"box", "caption", "source"} for region in answer["regions"])
    captions = [{"box": region["box"], "caption": region["caption"]} for region in answer["regions"]]
    settings = json.dumps({**FAST_SETTINGS, "captions": captions})
    _, report = client.predict(handle_file(small), scale=2, settings=settings, api_name="/upscale")
    assert len(report["settings"]["captions"]) == len(captions)


def test_a_captioner_that_is_away_leaves_the_regions_to_the_prompt(client, small):
    answer = client.predict(
        handle_file(small), prompt="a hill", captioner="away", settings=FAST, api_name="/caption"
    )
    assert answer["regions"] == [] and answer["prompt"] == "a hill"
    notes = " ".join(answer["notes"])
    assert "use the prompt" in notes and "no connection" in notes
    with pytest.raises(AppError, match="not on this page"):
        client.predict(handle_file(small), captioner="http://127.0.0.1:9/v1", api_name="/caption")


def test_more_bytes_than_the_limit_are_refused(url):
    mark = "part"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()

    def upload(count):
        body = head + bytes(count) + f"\r\n--{mark}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        return urllib.request.urlopen(urllib.request.Request(f"{url}gradio_api/upload", body, kind)).status

    assert upload(90_000) == 200
    with pytest.raises(urllib.error.HTTPError) as refused:
        upload(110_000)
    assert refused.value.code == 413


def test_files_are_deleted_in_time(folder):
    def left(root):
        return [path for path in root.rglob("*") if path.suffix in (".png", ".webp", ".jpg")]

    own = folder / "short"
    own.mkdir()
    with serve(own, CUPSCALE_KEPT_SECONDS="6") as url:
        client = Client(url, verbose=False, download_files=False)
        client.predict(
            handle_file(photo(folder / "gone.png")),
            scale=2,
            settings=FAST,
            format="webp",
            api_name="/upscale",
        )
        files = left(own / "tmp")
        assert {path.suffix for path in files} >= {".png", ".webp"}  # the upload, and the result
        deadline = time.monotonic() + 40
        while left(own / "tmp") and time.monotonic() < deadline:
            time.sleep(0.5)
        assert left(own / "tmp") == []


def test_an_agent_finds_and_uses_the_tools(url, small):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        async with streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                tools = {tool.name: tool for tool in (await session.list_tools()).tools}
                name = next(name for name in tools if name.endswith("plan"))
                assert "scale" in tools[name].inputSchema["properties"] and tools[name].description
                models = await session.call_tool(next(n for n in tools if n.endswith("models")), {})
                tool = next(n for n in tools if n.endswith("upscale"))
                given = f"data:image/png;base64,{base64.b64encode(small.read_bytes()).decode()}"
                made = await session.call_tool(
                    tool, {"image": given, "scale": 2, "seed": 4, "settings": FAST}
                )
                return models.content[0].text, made

    models, made = asyncio.run(talk())
    assert "random" in models
    assert not made.isError, made.content
    text = " ".join(part.text for part in made.content)
    address = re.search(r"'url': '([^']+)'", text)[
        1
    ]  # of a function that yields, gradio gives the picture by address
    with urllib.request.urlopen(address) as answer, Image.open(answer) as image:
        assert image.size == (128, 96)
    assert "'seed': 4" in text
