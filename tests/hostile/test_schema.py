"""What the page's own OpenAPI document allows never fails at the server: schemathesis makes the requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.request

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from page_server import serve
from schemathesis.core.result import Ok

from cupscale.page.agents import settings_schema

MARK = "part"


def field(name, value, filename=None):
    """A part of a multipart body."""
    named = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{MARK}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()
    return head + value + b"\r\n"


def upload(url, *parts, boundary=MARK, query=""):
    """The status of an upload of these parts, or of one generator of them, and what was said."""
    host = url.removeprefix("http://").rstrip("/")
    line = http.client.HTTPConnection(host, timeout=60)
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    body = b"".join(parts) + f"--{MARK}--\r\n".encode() if isinstance(parts[0], bytes) else parts[0]
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the answer may come before all is sent
        line.request("POST", f"/gradio_api/upload{query}", body, kind)
    answer = line.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.parametrize("examples", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_no_request_of_the_schema_fails_at_the_server(tmp_path, examples):
    bounds = {"CUPSCALE_MAX_SAMPLES": "40", "CUPSCALE_UNHEARD_SECONDS": "1", "CUPSCALE_QUEUE": "200"}
    with serve(tmp_path, **bounds) as url:
        schema = schemathesis.openapi.from_url(f"{url}gradio_api/openapi.json", timeout=60)
        names = set()
        for found in schema.get_all_operations():
            assert isinstance(found, Ok), found.err()  # else the document itself is wrong
            operation = found.ok()
            names.add(operation.label)
            quick = {"max_examples": examples, "deadline": None, "database": None, "derandomize": True}

            @settings(**quick, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy())
            def ask(case):
                answer = case.call(base_url=url.rstrip("/"), timeout=60)
                assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text[:500]}"

            ask()
        assert {"POST /gradio_api/upload", "POST /gradio_api/call/v2/upscale"} <= names
        with urllib.request.urlopen(url) as answer:  # and it stands
            assert answer.status == 200


def test_an_upload_of_anything_but_files_is_refused(tmp_path):
    with serve(tmp_path, CUPSCALE_UPLOAD_BYTES="1000", CUPSCALE_BATCH="2", CUPSCALE_OUTPUT_PX="1000") as url:
        good = field("files", b"abc", "a.png")
        status, said = upload(url, good, good)
        assert status == 200 and len(json.loads(said)) == 2
        for query in ("", "?upload_id=x"):  # gradio holds such a part in memory, or fails at it
            status, said = upload(url, good, field("note", b"\x01" * 100), query=query)
            assert status == 400 and "no file name" in said
        status, said = upload(url, good, boundary="b" * 300)
        assert status == 413 and "Boundary length 300" in said
        assert upload(url, good, boundary="")[0] == 400
        # Two images of 1000 bytes against a result of 1000 * 4 + 2**20: the larger, and 2**20 for what lies between.
        limit = 1000 * 4 + 2 * 2**20
        files = (field("files", b"a" * 500_000, f"{k}.png") for k in range(6))  # each within its own limit
        status, said = upload(url, files)  # in pieces, without a length
        assert status == 413 and f"more than {limit} bytes" in said and "send fewer files" in said


def test_the_settings_are_described_in_words_of_openapi_3_0():
    """By hand: a tuple, a constant, a bound that is left out, in the words that 3.0 has."""
    fields = settings_schema()["properties"]
    box = fields["captions"]["items"]["properties"]["box"]
    assert (box["items"]["type"], box["minItems"], box["maxItems"]) == ("integer", 4, 4)
    assert {"enum": ["auto"]} in fields["fidelity"]["anyOf"]
    assert fields["strength"]["minimum"] == 0 and fields["seed"]["maximum"] == 4294967295
    assert not any(word in json.dumps(fields) for word in ("const", "prefixItems", "exclusiveM"))
