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
from cupscale.page import agents
from cupscale.page.limits import SPACE
from cupscale.settings import Settings

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


@pytest.mark.parametrize(
    ("size", "output"),
    [
        ({"width": 160}, (160, 120)),
        ({"height": 120}, (160, 120)),
        ({"megapixels": 0.0192}, (160, 120)),
        ({"fit": "400x120"}, (160, 120)),
        ({"settings": json.dumps({**FAST_SETTINGS, "width": 160})}, (160, 120)),
    ],
)
def test_a_size_in_place_of_a_scale(client, small, size, output):
    """Of 64 x 48: 2.5 times each side, and the cutoff that goes with it."""
    plan = client.predict(handle_file(small), **{"settings": FAST, **size}, api_name="/plan")
    assert tuple(plan["output"]) == output
    _, report = client.predict(handle_file(small), **{"settings": FAST, **size}, api_name="/upscale")
    assert report["settings"]["scale"] == 2.5 and report["settings"]["cutoff"] == 0.32
    found = client.predict(
        handle_file(small), **{"settings": FAST, **size}, captioner="appearance", api_name="/caption"
    )
    assert tuple(found["size"]) == output


def test_a_size_of_a_picture_from_words_is_of_what_the_model_draws(client):
    plan = client.predict(
        None, height=160, settings=json.dumps({"prompt": "a hill", "size": "64x64"}), api_name="/plan"
    )
    assert plan["input"] == [64, 64] and plan["output"] == [160, 160]


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ({"width": 60}, r"that width needs a scale of 0\.938, and the limits are 1 and 16: .* reaches"),
        ({"to": "4k"}, r"that long side needs a scale of 64, and the limits"),
        ({"width": 100, "height": 100}, "width and height are given: give one of"),
        ({"width": 100, "scale": 3}, "scale and a size are given"),
        ({"fit": "wide"}, "give WIDTHxHEIGHT"),
        ({"megapixels": 0.1, "settings": '{"megapixels": 0.2}'}, "megapixels is given twice"),
        ({"width": 100, "settings": '{"scale": 2}'}, "scale and a size are given"),
    ],
)
def test_a_size_out_of_reach_is_refused_with_what_is_in_it(client, small, size, words):
    for name in ("/plan", "/upscale", "/caption"):
        with pytest.raises(AppError, match=f"(?i){words}"):
            client.predict(handle_file(small), **size, api_name=name)


def test_seamless_goes_through_the_api(client, small):
    settings = json.dumps({**FAST_SETTINGS, "seamless": "x"})
    plan = client.predict(handle_file(small), settings=settings, api_name="/plan")
    assert plan["lap"][0] > 0 == plan["lap"][1]
    _, report = client.predict(handle_file(small), settings=settings, api_name="/upscale")
    assert report["settings"]["seamless"] == "x"
    with pytest.raises(AppError, match=r"width is a multiple of 4 px, not 161"):
        client.predict(handle_file(small), width=161, settings=settings, api_name="/plan")


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
        plan = call(url, "plan", [given, 2, "", "none", "{}", None, None, None, "", ""])
        for answer in (plan, call(url, "read_settings", [given])):
            assert "event: error" in answer and "not among this page's uploads" in answer
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

    assert upload(110_000) == 200  # more than an image may have: a result of this page, for its settings
    with pytest.raises(urllib.error.HTTPError) as refused:
        upload(SPACE.file_bytes + 2**20)
    assert refused.value.code == 413


@pytest.mark.slow
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


def talk(url, say):
    """What a coroutine makes of a session with the page's MCP server."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def open_session():
        async with streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                return await say(session)

    return asyncio.run(open_session())


async def tools_of(session):
    return {tool.name: tool for tool in (await session.list_tools()).tools}


async def answers(session, name, **arguments):
    """Every part of a tool's answer, read as JSON."""
    made = await session.call_tool(name, arguments)
    assert not made.isError, made.content
    return [json.loads(part.text) for part in made.content]


def data_url(file):
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def test_an_agent_reads_all_it_needs_in_the_schemas(url):
    tools = talk(url, tools_of)
    assert set(tools) == {"upscale", "plan", "caption", "read_settings", "models"}
    for tool in tools.values():
        schema = tool.inputSchema
        assert "Returns: " in tool.description and tool.description.endswith(".")
        for name, given in schema["properties"].items():
            assert given["description"].endswith("."), (tool.name, name)
            assert "type" in given or "anyOf" in given
    upscale = tools["upscale"].inputSchema
    given = upscale["properties"]
    assert "required" not in upscale and tools["caption"].inputSchema["required"] == ["image"]
    assert (given["scale"]["minimum"], given["scale"]["maximum"]) == (1, 16)
    for name in ("upscale", "plan", "caption"):
        sizes = tools[name].inputSchema["properties"]
        assert (sizes["width"]["minimum"], sizes["megapixels"]["maximum"]) == (1, 1000)
        assert sizes["to"]["enum"] == ["", "4k", "8k"] and "WIDTHxHEIGHT" in sizes["fit"]["description"]
    assert given["format"]["enum"] == ["png", "webp", "jpg"]
    assert (
        given["preset"]["enum"] == ["none", "quick", "turbo", "paper"] and "random" in given["model"]["enum"]
    )
    assert "away" in tools["caption"].inputSchema["properties"]["captioner"]["enum"]
    for picture in (given["image"], tools["read_settings"].inputSchema["properties"]["result"]):
        assert picture["format"] == "uri" and "data URL" in picture["description"]
    assert given["image"]["description"].endswith(
        'or at "size" among the settings.'
    )  # the last of four lines
    assert set(given["settings"]["anyOf"][0]["properties"]) == set(Settings.model_fields)
    assert "$ref" not in json.dumps(upscale)


def test_an_agent_that_reads_the_schemas_alone_makes_a_picture(url, small):
    """It takes values from the schema, gives its picture as a data URL, and goes on with what it was answered."""

    async def say(session):
        given = (await tools_of(session))["upscale"].inputSchema["properties"]
        known = given["settings"]["anyOf"][0]["properties"]
        settings = {name: known[name]["minimum"] for name in ("attention", "guidance", "overlap")}
        settings |= {"steps": 4, "strength": known["strength"]["maximum"] / 2}
        settings["upscaler"] = known["upscaler"]["enum"][-2]
        (models,) = await answers(session, "models")
        arguments = {
            "image": data_url(small),
            "model": models["default"],
            "seed": 4,
            "settings": settings,
            "format": given["format"]["enum"][1],
        }
        (plan,) = await answers(session, "plan", image=data_url(small), settings=settings)
        file, report = await answers(session, "upscale", **arguments)
        (found,) = await answers(session, "read_settings", result=file["url"])
        (none,) = await answers(session, "read_settings", result=data_url(small))
        (captions,) = await answers(session, "caption", image=file["url"], captioner="appearance", scale=1)
        return settings, plan, file, report, found, none, captions

    settings, plan, file, report, found, none, captions = talk(url, say)
    with urllib.request.urlopen(file["url"]) as answer, Image.open(answer) as image:
        assert (image.format, image.size) == ("WEBP", (128, 96))
    assert set(file) == {"url"}
    assert report["settings"]["seed"] == 4 and settings.items() <= report["settings"].items()
    assert report["plan"]["evaluations"] == plan["evaluations"]
    assert found == report["settings"] and none is None
    assert captions["size"] == [128, 96] and captions["regions"][0]["caption"]


def test_an_agent_draws_from_words_and_hears_how_it_goes(url):
    async def say(session):
        heard = []

        async def hear(progress, total, message):
            heard.append(message)

        arguments = {"prompt": "a lighthouse", "settings": FAST_SETTINGS}
        made = await session.call_tool("upscale", arguments, progress_callback=hear)
        return [json.loads(part.text) for part in made.content], heard

    (file, report), heard = talk(url, say)
    assert report["settings"]["size"] == "64x64" and file["url"].endswith(".png") and heard


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"format": "exe"}, r"'exe' is not one of \['png', 'webp', 'jpg'\]"),
        ({"scale": 17}, "17 is greater than the maximum of 16"),
        ({"width": 63}, r"needs a scale of 0\.984, and the limits are 1 and 16"),
        ({"settings": {"steps": 0}}, "0 is less than the minimum of 1"),
        ({"settings": '{"mystery": 1}'}, "no such setting"),
        ({"settings": {"mystery": 1}}, "no such setting"),
        ({"image": "http://127.0.0.1:9/a.png"}, "not fetched from an address.*as a data: URL"),
        ({"image": "/etc/hostname"}, "Invalid file data format"),
    ],
)
def test_an_agent_is_told_what_was_wrong(url, small, arguments, words):
    tool = "upscale" if "format" in arguments else "plan"
    made = talk(url, lambda session: session.call_tool(tool, {"image": data_url(small), **arguments}))
    assert made.isError and re.search(words, made.content[0].text), made.content
    assert "Traceback" not in made.content[0].text


def test_settings_are_an_object_or_its_text(client, small):
    as_text, as_object = (
        client.predict(handle_file(small), settings=given, api_name="/plan")
        for given in (FAST, FAST_SETTINGS)
    )
    assert as_text == as_object and as_object["steps"] == 2


def test_descriptions_are_on_one_line_each():
    def example(first, second):
        """What it does,
        in two lines.

        Args:
            first: Of a line.
            second: Of two, with
                a colon: in it.

        Returns:
            A thing, and
                another.
        """

    assert agents.described(example).__doc__.splitlines() == [
        "What it does,",
        "in two lines.",
        "",
        "Args:",
        "    first: Of a line.",
        "    second: Of two, with a colon: in it.",
        "",
        "Returns:",
        "    A thing, and another.",
    ]
