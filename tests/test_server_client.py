"""Extraction through a server: the request's one shape, retries that lose nothing, windows, loops, watched folders.

The server here is real HTTP and answers from a table; the real vLLM is in test_servers.py.
"""

import base64
import io
import json
import threading
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, png
from fault_server import FaultServer

from toolkit.answers.answer import repeated_key, repeated_tail
from toolkit.answers.page_windows import union, windows_of
from toolkit.model.contract import Contract
from toolkit.schema.target import TargetSchema, compact_json

SCHEMA = {
    "type": "object",
    "title": "list",
    "additionalProperties": False,
    "required": ["name", "rows"],
    "properties": {
        "name": {"type": ["string", "null"], "maxLength": 20},
        "rows": {
            "type": "array",
            "maxItems": 6,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["key", "size"],
                "properties": {
                    "key": {"type": "string", "maxLength": 8, "x-extract": {"compare": "id", "key": True}},
                    "size": {"type": ["string", "null"], "maxLength": 4},
                },
            },
        },
    },
}
GOOD = compact_json({"name": "A", "rows": [{"key": "K1", "size": "20"}]})


@pytest.fixture
def contract(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    Contract(SCHEMA, "s.json", "read the page", "json", 64, 100, max_pages=2, prompt_tokens=20).save(folder)
    return folder


@pytest.fixture
def pages(tmp_path) -> Path:
    for number in range(8):
        png(tmp_path / f"in/doc{number}.png", (64, 96), 20 * number)
    return tmp_path / "in"


def shade(body) -> int:
    """The grey of the request's page, which tells the documents apart."""
    from PIL import Image

    data = body["messages"][1]["content"][0]["image_url"]["url"].split(",")[1]
    return Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0))[0]


def extract(run, server, contract, pages, tmp_path, *more):
    out = tmp_path / "out.jsonl"
    done = run(
        "extract_documents",
        "--server",
        server.url,
        "--contract",
        contract,
        "--in",
        pages,
        "--out",
        out,
        "--json",
        *more,
    )
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []
    return done, {line["id"]: line for line in lines}


def test_the_request_has_the_one_shape_and_carries_the_page_at_its_exact_size(run, contract, pages, tmp_path):
    from PIL import Image

    with FaultServer(lambda _: None, answer=lambda _: GOOD) as server:
        done, lines = extract(run, server, contract, pages, tmp_path, "--limit", 1)
    assert done.code == 0 and lines["doc0.png"]["prediction"] == json.loads(GOOD)
    (body,) = server.requests
    assert body["model"] == "stand-in" and body["temperature"] == 0 and body["max_tokens"] == 100
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert [c["type"] for c in body["messages"][1]["content"]] == ["image_url", "text"]
    kind, data = body["messages"][1]["content"][0]["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (64, 96)
    sent = body["response_format"]["json_schema"]
    assert sent["strict"] and sent["schema"] == TargetSchema.parse(SCHEMA, "s").grammar()
    assert "x-extract" not in json.dumps(sent)


@pytest.mark.parametrize("fault", ["429", "500", "cut", "close", "garbage"])
def test_a_request_that_fails_on_the_way_is_sent_again(run, contract, pages, tmp_path, fault):
    with FaultServer(lambda n: fault if n in (0, 3, 4) else None, answer=lambda _: GOOD) as server:
        done, lines = extract(run, server, contract, pages, tmp_path, "--concurrency", 4)
    assert done.code == 0 and len(lines) == 8 and {line["status"] for line in lines.values()} == {"ok"}
    assert len(server.requests) == 11


def test_what_never_succeeds_is_named_and_only_that_is_asked_again(run, contract, pages, tmp_path):
    with FaultServer(lambda n: "500" if shade(server.requests[n]) == 60 else None, answer=lambda _: GOOD) as server:
        done, lines = extract(run, server, contract, pages, tmp_path, "--attempts", 2)
        assert done.code == 1 and done.json["status"] == {"http_error": 1, "ok": 7}
        assert "engine fell over" in lines["doc3.png"]["error"] and "doc3.png" in done.err
        server.fault = lambda _: None
        again, lines = extract(run, server, contract, pages, tmp_path)
    assert again.json["documents"] == 1 and lines["doc3.png"]["status"] == "ok"


def test_a_page_that_the_server_refuses_is_not_sent_again(run, contract, pages, tmp_path):
    with FaultServer(lambda n: "refuse" if n == 0 else None, answer=lambda _: GOOD) as server:
        done, lines = extract(run, server, contract, pages, tmp_path, "--concurrency", 1)
    refused = [line for line in lines.values() if line["status"] == "refused"]
    assert done.code == 1 and len(lines) == 8 and len(server.requests) == 8
    assert len(refused) == 1 and "this page is not welcome" in refused[0]["error"]


def test_a_wrong_key_stops_the_run_with_one_sentence(run, contract, pages, tmp_path):
    with FaultServer(lambda _: "401", answer=lambda _: GOOD) as server:
        done, lines = extract(run, server, contract, pages, tmp_path)
    assert done.code == 2 and "another API key" in done.err and done.err.count("error:") == 1 and lines == {}


def test_no_server_and_a_server_of_another_kind_are_one_sentence(run, contract, pages, tmp_path):
    with FaultServer(lambda _: None, answer=lambda _: GOOD) as server:
        wrong = run(
            "extract_documents",
            "--server",
            server.url,
            "--served-model",
            "other",
            "--contract",
            contract,
            "--in",
            pages,
            "--out",
            tmp_path / "o.jsonl",
        )
    assert wrong.code == 2 and "no model 'other' there; it serves stand-in" in wrong.err
    gone, _ = extract(run, server, contract, pages, tmp_path)
    assert gone.code == 2 and "no server answers" in gone.err


def test_a_server_that_goes_away_is_waited_for(run, contract, pages, tmp_path):
    """Nobody's attempts run out meanwhile, and every document is answered in the end."""
    first = FaultServer(lambda _: None, answer=lambda _: GOOD).__enter__()
    second = []

    def replace_it():
        while len(first.requests) < 3:
            time.sleep(0.01)
        first.__exit__()
        time.sleep(2.5)
        second.append(FaultServer(lambda _: None, answer=lambda _: GOOD, port=first.port).__enter__())

    first.answer = lambda _: (time.sleep(0.2), GOOD)[1]
    thread = threading.Thread(target=replace_it)
    thread.start()
    done, lines = extract(run, first, contract, pages, tmp_path, "--concurrency", 2, "--attempts", 2)
    thread.join()
    second[0].__exit__()
    assert done.code == 0 and len(lines) == 8 and len(second[0].requests) >= 3


def test_a_gateway_whose_server_is_gone_is_waited_for_too(run, contract, pages, tmp_path):
    """Behind a proxy a dead server is no refused connection but one that breaks off, again and again."""
    back = FaultServer(lambda _: None, answer=lambda _: GOOD)
    with FaultServer(lambda _: None, target=back.port) as gateway:
        back.__enter__()
        port = back.port

        def restart():
            while len(gateway.requests) < 3:
                time.sleep(0.01)
            back.__exit__()
            time.sleep(4)
            replacements.append(FaultServer(lambda _: None, answer=lambda _: GOOD, port=port).__enter__())

        replacements: list[FaultServer] = []
        back.answer = lambda _: (time.sleep(0.2), GOOD)[1]
        thread = threading.Thread(target=restart)
        thread.start()
        done, lines = extract(run, gateway, contract, pages, tmp_path, "--concurrency", 2, "--attempts", 2)
        thread.join()
        replacements[0].__exit__()
    assert done.code == 0 and len(lines) == 8 and "the server is back" in done.err


def test_a_server_that_stays_away_ends_the_run_with_every_document_named(run, contract, pages, tmp_path):
    server = FaultServer(lambda _: None, answer=lambda _: (time.sleep(0.3), GOOD)[1]).__enter__()
    threading.Timer(0.5, server.__exit__).start()
    done, lines = extract(run, server, contract, pages, tmp_path, "--concurrency", 1, "--attempts", 2, "--patience", 2)
    assert done.code == 1 and len(lines) == 8 and done.json["status"]["http_error"] >= 5


def test_an_invalid_answer_is_asked_again_warmer(run, contract, pages, tmp_path):
    def answer(body):
        return '{"name":"A","rows":[{"key":"TOO-LONG-A-KEY","size":null}]}' if body["temperature"] == 0 else GOOD

    with FaultServer(lambda _: None, answer=answer) as server:
        done, lines = extract(run, server, contract, pages, tmp_path, "--limit", 1)
        assert done.code == 0 and lines["doc0.png"]["attempts"] == 2
        assert [body["temperature"] for body in server.requests] == [0.0, 0.2]
        once, lines = extract(run, server, contract, pages, tmp_path, "--limit", 1, "--overwrite", "--tries", 1)
    assert once.code == 1 and lines["doc0.png"]["status"] == "schema_error"
    assert "$.rows[0].key" in lines["doc0.png"]["error"]


def test_a_truncated_answer_is_no_answer_and_a_loop_is_called_one(run, contract, pages, tmp_path):
    looped = {"message": {"content": '{"name":"' + "AB 12 " * 60}, "finish_reason": "length"}
    with FaultServer(lambda _: None, answer=lambda _: looped) as server:
        done, lines = extract(run, server, contract, pages, tmp_path, "--limit", 1)
    assert done.code == 1 and len(server.requests) == 2
    assert lines["doc0.png"]["status"] == "truncated" and "a loop" in lines["doc0.png"]["error"]


def test_repetitions_are_told_from_tables():
    table = "".join(f'{{"key":"MSKU{n:07d}","size":"40"}},' for n in range(40))
    assert repeated_tail(table) == 0
    assert repeated_tail(table + '{"key":"MSKU0000040","size":"40"},' * 6) >= 6 * 33
    assert repeated_tail("x" * 119) == 0 and repeated_tail("x" * 130) == 130
    schema = TargetSchema.parse(SCHEMA, "s")
    row = {"key": "K1", "size": None}
    assert repeated_key(schema, {"name": None, "rows": [row] * 4}) == ""
    assert "'K1' 5 times" in repeated_key(schema, {"name": None, "rows": [row] * 5})


def test_long_documents_are_read_in_overlapping_windows(run, contract, pages, tmp_path):
    from PIL import Image

    frames = [Image.new("RGB", (64, 96), (40 * n, 0, 0)) for n in range(4)]
    frames[0].save(tmp_path / "long.tiff", save_all=True, append_images=frames[1:])
    keys = [["K1", "K2"], ["K2", "K3"], ["K3"]]

    def answer(body):
        count = sum(c["type"] == "image_url" for c in body["messages"][1]["content"])
        assert count == 2
        rows = [{"key": key, "size": None} for key in keys[len(server.requests) - 1]]
        return compact_json({"name": None if len(server.requests) == 1 else "N", "rows": rows})

    with FaultServer(lambda _: None, answer=answer) as server:
        done, lines = extract(run, server, contract, tmp_path / "long.tiff", tmp_path, "--concurrency", 1)
    assert done.code == 0 and lines["long.tiff"]["windows"] == 3
    assert sorted(row["key"] for row in lines["long.tiff"]["prediction"]["rows"]) == ["K1", "K2", "K3"]
    assert lines["long.tiff"]["prediction"]["name"] == "N"


def test_windows_share_a_page_and_lose_none():
    assert windows_of([1, 2, 3], 3) == [[1, 2, 3]]
    assert windows_of([1, 2, 3, 4, 5], 2) == [[1, 2], [2, 3], [3, 4], [4, 5]]
    assert windows_of([1, 2, 3, 4, 5], 3) == [[1, 2, 3], [3, 4, 5]]
    assert windows_of([1, 2, 3], 1) == [[1], [2], [3]]
    for pages in range(1, 40):
        for size in range(1, 9):
            found = windows_of(list(range(pages)), size)
            assert sorted({page for window in found for page in window}) == list(range(pages))
            assert all(len(window) <= size for window in found)


def test_the_union_of_windows():
    schema = TargetSchema.parse(SCHEMA, "s")
    first = {
        "name": "A",
        "rows": [{"key": "K1", "size": None}, {"key": "k-2", "size": "20"}, {"key": "K1", "size": "40"}],
    }
    second = {
        "name": "B",
        "rows": [{"key": "K2", "size": "20"}, {"key": "K1", "size": "45"}, {"key": "K9", "size": None}],
    }
    merged, disagreements = union(schema, [first, second])
    assert [row["key"] for row in merged["rows"]] == ["K1", "k-2", "K1", "K9"], "twice on one page is twice"
    assert merged["rows"][0]["size"] == "45" and merged["name"] == "A"
    assert disagreements == ["name: 'A' on earlier pages, 'B' on later ones"]
    keyless = TargetSchema.parse(
        {
            **SCHEMA,
            "properties": {"rows": {"type": "array", "maxItems": 9, "items": {"type": "string", "maxLength": 3}}},
            "required": [],
        },
        "s",
    )
    merged, _ = union(keyless, [{"rows": ["a", "b", "b"]}, {"rows": ["b", "b", "c"]}])
    assert merged["rows"] == ["a", "b", "b", "c"]


def test_too_many_rows_of_all_windows_together_break_the_schema_and_say_so(run, contract, pages, tmp_path):
    from PIL import Image

    frames = [Image.new("RGB", (64, 96), (40 * n, 0, 0)) for n in range(3)]
    frames[0].save(tmp_path / "long.tiff", save_all=True, append_images=frames[1:])

    def answer(body):
        rows = [{"key": f"K{len(server.requests)}{n}", "size": None} for n in range(4)]
        return compact_json({"name": None, "rows": rows})

    with FaultServer(lambda _: None, answer=answer) as server:
        done, lines = extract(run, server, contract, tmp_path / "long.tiff", tmp_path)
    assert done.code == 1 and lines["long.tiff"]["status"] == "schema_error"
    assert "the 2 windows together: $.rows" in lines["long.tiff"]["error"]


def test_a_document_that_hangs_or_breaks_its_engine_stops_nothing_else(run, contract, pages, tmp_path):
    (pages / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    (pages / "cut.jpg").write_bytes((REPOSITORY / "examples").rglob("*.png").__next__().read_bytes()[:200])
    with FaultServer(lambda _: None, answer=lambda _: GOOD) as server:
        done, lines = extract(run, server, contract, pages, tmp_path)
    assert done.code == 1 and len(lines) == 10 and done.json["status"] == {"ok": 8, "unreadable": 2}
    assert lines["broken.pdf"]["error"] and lines["cut.jpg"]["error"]


def test_a_watched_folder_is_answered_as_it_fills(run, contract, pages, tmp_path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()

    def drop():
        for number in range(3):
            time.sleep(0.4)
            (pages / f"doc{number}.png").rename(inbox / f"doc{number}.png")

    thread = threading.Thread(target=drop)
    with FaultServer(lambda _: None, answer=lambda _: GOOD) as server:
        thread.start()
        done, lines = extract(run, server, contract, inbox, tmp_path, "--watch", "--watch-for", 5)
        thread.join()
    assert done.code == 0 and sorted(lines) == ["doc0.png", "doc1.png", "doc2.png"]


def test_flags_that_do_not_go_together_are_refused(run, contract, tmp_path):
    base = ["--in", tmp_path, "--out", tmp_path / "o.jsonl"]
    assert "either --server URL or --model" in run("extract_documents", *base).err
    assert "--server needs --contract" in run("extract_documents", *base, "--server", "http://127.0.0.1:1/v1").err
    both = run("extract_documents", *base, "--server", "x", "--contract", contract, "--no-grammar")
    assert both.code == 2 and "belong to --model" in both.err
