"""Every way to name a file of the server in a request, at every endpoint of the page."""

from __future__ import annotations

import base64
import io
import json
import os
import urllib.error
import urllib.request
from itertools import count
from pathlib import Path

import pytest
from page_server import photo, serve

from cupscale.models import ASSETS
from cupscale.page import references

META = {"_type": "gradio.FileData"}
FILE_COMPONENTS = {
    "image",
    "file",
    "uploadbutton",
    "gallery",
    "imageslider",
    "video",
    "audio",
    "downloadbutton",
}
NAMED = {"upscale", "plan", "caption", "read_settings"}
_sessions = count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("references")


@pytest.fixture(scope="module")
def url(folder):
    with serve(folder, CUPSCALE_UPLOAD_BYTES="200000") as address:
        yield address


@pytest.fixture(scope="module")
def uploads(folder, url):
    return next((folder / "tmp").glob("cupscale-*/uploads"))


@pytest.fixture(scope="module")
def config(url):
    with urllib.request.urlopen(f"{url}config") as answer:
        return json.load(answer)


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def upload(url, name, data):
    mark = "part"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    request = urllib.request.Request(
        f"{url}gradio_api/upload", head + data + f"\r\n--{mark}--\r\n".encode(), kind
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)[0]


def answer_of(url, dependency, data):
    """What an endpoint of the page says to these inputs: the text of its last message. Private ones are called as well."""
    session = f"attack{next(_sessions)}"
    body = {"fn_index": dependency["id"], "data": data, "session_hash": session}
    if not dependency["queue"]:
        try:
            return json.dumps(post(f"{url}gradio_api/run/predict", body))
        except urllib.error.HTTPError as error:
            return error.read().decode()
    post(f"{url}gradio_api/queue/join", body)
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
        for line in stream:
            if b'"process_completed"' in line:
                return line.decode()
    raise AssertionError("the stream ended with no answer")


def inputs_of(config):
    """(dependency, index of the input, its component) for every input that a request fills."""
    components = {c["id"]: c for c in config["components"]}
    for dependency in config["dependencies"]:
        if not dependency["backend_fn"]:
            continue
        for k, identity in enumerate(dependency["inputs"]):
            if components[identity]["type"] != "state":
                yield dependency, k, components[identity]


def data_of(config, dependency, index, value):
    components = {c["id"]: c for c in config["components"]}
    data = [components[i]["props"].get("value") for i in dependency["inputs"]]
    data[index] = value
    return data


def forbidden(folder, uploads):
    """name -> a value that names what is no upload of this page."""
    outside = photo(folder / "private.png")
    link, pipe, inner = uploads / "link.png", uploads / "pipe.png", uploads / "folder.png"
    loop = uploads / "loop.png"
    if not link.is_symlink():
        link.symlink_to(outside)
        loop.symlink_to(loop)
        os.mkfifo(pipe)
        inner.mkdir()
    relative = os.path.relpath(outside)
    named = {
        "outside": outside,
        "outside, from the upload folder": f"{uploads}/../../../private.png",
        "relative": relative,
        "link": link,
        "loop": loop,
        "pipe": pipe,
        "folder": inner,
        "the upload folder": uploads,
        "zero": "/dev/zero",
        "nothing": folder / "no such file.png",
        "a zero byte": f"{outside}\0",
        "a long name": "/" + "x" * 5000,
        "the process": "/proc/self/environ",
        "file URL": f"file://{outside}",
        "this server's address": f"http://127.0.0.1/gradio_api/file={outside}",
        "beside the examples": ASSETS / "examples" / "index.json",
    }
    values = {name: {"path": str(path), "meta": META} for name, path in named.items()}
    values["no meta"] = {"path": str(outside)}
    values["no meta, a pipe"] = {"path": str(pipe)}
    values["no meta, nothing"] = {"path": str(folder / "no such file.png")}
    values["another meta"] = {"path": str(outside), "meta": {"_type": "other"}}
    values["meta that is text"] = {"path": str(outside), "meta": "gradio.FileData"}
    values["a list for a path"] = {"path": [str(outside)], "meta": META}
    values["a stream"] = {"path": str(outside), "meta": META, "is_stream": True}
    values["with a data URL"] = {"path": str(outside), "meta": META, "url": "data:image/png;base64,AAAA"}
    return values


@pytest.mark.parametrize("each", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_every_file_input_refuses_every_file_that_is_no_upload(url, config, folder, uploads, each):
    """All of them at the endpoints that have a name, and at the page's own every fourth, by turns; or all everywhere."""
    values = list(forbidden(folder, uploads).items())
    tried = 0
    for dependency, k, component in inputs_of(config):
        if component["type"] not in FILE_COMPONENTS:
            continue
        tried += 1
        some = values if dependency["api_name"] in NAMED else values[tried % each :: each]
        for name, value in some:
            answer = answer_of(url, dependency, data_of(config, dependency, k, value))
            assert references.MISSING in answer.lower(), (
                dependency["api_name"],
                component["type"],
                name,
                answer,
            )
    assert tried >= 25
    named = {d["api_name"] for d, _, c in inputs_of(config) if c["type"] in FILE_COMPONENTS}
    assert named >= NAMED


def test_every_other_input_refuses_a_file_too(url, config, folder, uploads):
    outside = str(photo(folder / "private.png"))
    tried = set()
    for dependency, k, component in inputs_of(config):
        if component["type"] in FILE_COMPONENTS or (component["id"], dependency["queue"]) in tried:
            continue
        tried.add((component["id"], dependency["queue"]))
        for value in ({"path": outside}, {"deep": [{"path": outside, "meta": META}]}):
            answer = answer_of(url, dependency, data_of(config, dependency, k, value))
            assert references.MISSING in answer.lower(), (dependency["api_name"], component["type"], answer)
    assert {c["type"] for _, _, c in inputs_of(config)} >= {"dataframe", "textbox", "slider", "number"}


def test_the_answer_does_not_tell_whether_a_path_exists(url, config, folder, uploads):
    plan = next(d for d in config["dependencies"] if d["api_name"] == "plan")
    answers = set()
    for value in forbidden(folder, uploads).values():
        answer = json.loads(answer_of(url, plan, data_of(config, plan, 0, value)).removeprefix("data: "))
        answers.add(json.dumps(answer["output"], sort_keys=True))
    assert len(answers) == 1


def test_uploads_examples_and_data_urls_are_taken(url, config, folder):
    plan = next(d for d in config["dependencies"] if d["api_name"] == "plan")
    data = photo(folder / "mine.png").read_bytes()
    path = upload(url, "mine.png", data)
    given = [
        {"path": path, "meta": META},
        {"path": f"{url}gradio_api/file={path}", "meta": META},  # as an answer of this server names it
        {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}", "meta": META},
        {"path": str(ASSETS / "examples" / "arrow.png"), "meta": META},
    ]
    for value in given:
        answer = json.loads(answer_of(url, plan, data_of(config, plan, 0, value)).removeprefix("data: "))
        assert answer["success"], (value["meta"], answer)
        assert answer["output"]["data"][0]["output"]


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/a.png",
        "http://169.254.169.254/latest/meta-data/",
        "https://example.com/a.png",
        "HTTP://localhost/a.png",
        "http://[::1]/a.png",
    ],
)
def test_nothing_is_fetched_from_an_address(url, config, address):
    plan = next(d for d in config["dependencies"] if d["api_name"] == "plan")
    answer = answer_of(url, plan, data_of(config, plan, 0, {"path": address, "meta": META}))
    assert "not fetched" in answer
    only_url = answer_of(url, plan, data_of(config, plan, 0, {"url": address, "meta": META}))
    assert "not fetched" in only_url  # and not taken for no image, which words would be drawn in place of


def test_a_value_that_is_nested_too_deep_is_refused(url, config):
    plan = next(d for d in config["dependencies"] if d["api_name"] == "plan")
    value = {"path": "x"}
    for _ in range(100):
        value = [value]
    with pytest.raises(urllib.error.HTTPError) as refused:
        answer_of(url, plan, data_of(config, plan, 0, value))
    assert refused.value.code == 413 and b"levels of brackets" in refused.value.read()


def test_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(references.CupscaleError, match="upload it again"):
        references.opened(str(tmp_path / "pipe.png"))


def test_what_is_opened_is_what_was_uploaded(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"mine")
    assert references.content(str(tmp_path / "a.png")) == b"mine"
    beside = Path(f"{tmp_path}-beside.png")  # begins with the folder's name, and is not in it
    beside.write_bytes(io.BytesIO(b"another's").getvalue())
    with pytest.raises(references.CupscaleError):
        references.content(str(beside))
