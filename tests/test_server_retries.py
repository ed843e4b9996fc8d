"""What an extraction asks a server again, when, and how warm; and what it never passes off as an answer."""

# ruff: noqa: F811 - imported fixtures are arguments by their name

import json
import time
from itertools import pairwise

import pytest
from fault_server import FaultServer
from test_server_client import GOOD, contract, extract, pages  # noqa: F401

from toolkit.schema.target import compact_json

LONG_KEY = '{"name":"A","rows":[{"key":"TOO-LONG-A-KEY","size":null}]}'  # breaks the schema's maxLength


class Timed:
    """An answerer that notes when it was asked; `answers` are given one after the other, the last one from then on."""

    def __init__(self, *answers) -> None:
        self.answers, self.times = list(answers), []

    def __call__(self, _body):
        self.times.append(time.monotonic())
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.times)]


def test_pauses_before_a_request_is_sent_again_grow(run, contract, pages, tmp_path):
    answers = Timed((500, "broken"), (500, "broken"), GOOD)
    with FaultServer(lambda _: None, answer=answers) as server:
        done, _ = extract(run, server, contract, pages, tmp_path, "--limit", 1)
    first, second = answers.pauses
    assert done.code == 0 and 0.5 < first < second


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(run, contract, pages, tmp_path):
    """Its pause is longer than the client's own first pause ever is."""
    times = []

    def busy_once(number):
        times.append(time.monotonic())
        return "429" if number == 0 else None

    with FaultServer(busy_once, answer=lambda _: GOOD) as server:
        server.retry_after = 1.8
        done, _ = extract(run, server, contract, pages, tmp_path, "--limit", 1)
    assert done.code == 0 and len(times) == 2 and times[1] - times[0] > 1.8


def test_timeouts_conflicts_and_too_early_are_asked_again_and_other_refusals_are_not(run, contract, pages, tmp_path):
    answers = Timed((408, "timeout"), (409, "conflict"), (425, "too early"), (410, "gone"), (413, "too large"), GOOD)
    with FaultServer(lambda _: None, answer=answers) as server:
        done, lines = extract(run, server, contract, pages, tmp_path, "--concurrency", 5)
    assert sorted(line["status"] for line in lines.values()) == ["ok"] * 6 + ["refused"] * 2
    assert done.code == 1 and len(server.requests) == 8 + 3


def test_an_invalid_answer_is_asked_again_warmer_each_time_and_with_another_seed(run, contract, pages, tmp_path):
    with FaultServer(lambda _: None, answer=lambda _: LONG_KEY) as server:
        done, lines = extract(run, server, contract, pages, tmp_path, "--limit", 1, "--tries", 4)
    temperatures = [body["temperature"] for body in server.requests]
    assert temperatures[0] == 0 and temperatures == sorted(set(temperatures)) and len(temperatures) == 4
    assert len({body["seed"] for body in server.requests}) == 4
    assert done.code == 1 and lines["doc0.png"]["status"] == "schema_error" and lines["doc0.png"]["attempts"] == 4


def test_the_next_run_asks_with_the_same_seeds(run, contract, pages, tmp_path):
    seeds = []
    for _ in range(2):
        with FaultServer(lambda _: None, answer=lambda _: LONG_KEY) as server:
            extract(run, server, contract, pages, tmp_path, "--limit", 1, "--overwrite")
        seeds.append([body["seed"] for body in server.requests])
    assert seeds[0] == seeds[1] and len(seeds[0]) > 1


@pytest.fixture
def three_pages(tmp_path):
    """A document of three pages, which are read in two windows of two."""
    from PIL import Image

    frames = [Image.new("RGB", (64, 96), (40 * n, 0, 0)) for n in range(3)]
    frames[0].save(tmp_path / "long.tiff", save_all=True, append_images=frames[1:])
    return tmp_path / "long.tiff"


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize(("answer", "status"), [("no JSON", "not_json"), ((400, "not this page"), "refused")])
def test_a_window_without_an_answer_fails_the_document(run, contract, three_pages, tmp_path, failing, answer, status):
    """What the other window read is not passed off as the document's answer."""

    def reader(_body):
        if len(server.requests) == failing:
            return answer
        return compact_json({"name": "N", "rows": [{"key": f"K{len(server.requests)}", "size": None}]})

    words = ["--concurrency", 1, "--tries", 1]
    with FaultServer(lambda _: None, answer=reader) as server:
        done, lines = extract(run, server, contract, three_pages, tmp_path, *words)
    line = lines["long.tiff"]
    assert done.code == 1 and line["status"] == status and line["prediction"] is None and line["error"]


def test_a_document_whose_rendering_takes_too_long_is_unreadable_and_the_others_are_answered(
    run, contract, pages, tmp_path
):
    from test_hostile_files import slow_pdf

    (pages / "hang.pdf").write_bytes(slow_pdf())
    with FaultServer(lambda _: None, answer=lambda _: GOOD) as server:
        done, lines = extract(run, server, contract, pages, tmp_path, "--render-timeout", 1.5)
    assert done.code == 1 and lines["hang.pdf"]["status"] == "unreadable" and "1.5 s" in lines["hang.pdf"]["error"]
    assert [line["status"] for name, line in lines.items() if name != "hang.pdf"] == ["ok"] * 8


# --- the check whether a model reads at all -------------------------------------------------------------------------


@pytest.fixture
def records(pages, tmp_path):
    """Records of eight pages, each with a shade of its own."""
    lines = []
    for number in range(8):
        content = [{"type": "image", "image": f"in/doc{number}.png"}, {"type": "text", "text": "json"}]
        answer = {"role": "assistant", "content": [{"type": "text", "text": GOOD}]}
        lines.append({"id": f"doc{number}", "messages": [{"role": "user", "content": content}, answer]})
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def shades_answered(run, contract, records, tmp_path, *more):
    """`{document: shade of the page that the server was sent for it}`"""
    from test_server_client import shade

    def reader(body):
        return compact_json({"name": str(shade(body)), "rows": []})

    with FaultServer(lambda _: None, answer=reader) as server:
        done, lines = extract(run, server, contract, records, tmp_path, "--root", tmp_path, "--overwrite", *more)
    assert done.code == 0, done.err
    return {name: line["prediction"]["name"] for name, line in lines.items()}


def test_with_shuffled_pages_every_document_gets_the_pages_of_another_one(run, contract, records, tmp_path):
    own = shades_answered(run, contract, records, tmp_path)
    shuffled = shades_answered(run, contract, records, tmp_path, "--shuffle-pages")
    assert own == {f"doc{n}": str(20 * n) for n in range(8)}
    assert sorted(shuffled.values()) == sorted(own.values())
    assert all(shuffled[name] != own[name] for name in own)
    assert shuffled == shades_answered(run, contract, records, tmp_path, "--shuffle-pages"), "each run the same"


def test_the_pages_of_one_document_cannot_be_shuffled(run, contract, records, tmp_path):
    words = ["--server", "http://127.0.0.1:9/v1", "--contract", contract, "--in", records, "--limit", 1]
    done = run("extract_documents", *words, "--out", tmp_path / "o.jsonl", "--root", tmp_path, "--shuffle-pages")
    assert done.code == 2 and "at least two documents" in done.err
