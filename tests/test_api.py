"""The page's functions as a program calls them: gradio_client, MCP, plain HTTP; and as an attacker does."""

from __future__ import annotations

import asyncio
import json
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
    with serve(folder, SPACE_ID="someone/cupscale", CUPSCALE_CAPTION_CHARS="100") as address:
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
    with pytest.raises(AppError, match="at most"):
        client.predict(handle_file(photo(folder / "wide.png", (900, 900))), scale=16, api_name="/upscale")


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
                return models.content[0].text

    assert "random" in asyncio.run(talk())
