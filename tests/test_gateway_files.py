"""Nothing of a document outlives its request: the whole temporary folder is looked at, however the request ended."""

import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from fault_server import FaultServer
from served_gateway import FORM, LADING, Gateway, contract_of, encrypted, page, part, pdf, reader
from test_page_workers import kill_workers, slow_picture, until

from toolkit.answers.row_shards import AnswerPlan
from toolkit.extraction.documents import Document, PageRenderer
from toolkit.pages.scratch import ScratchFolder
from toolkit.pages.workers import GRACE
from toolkit.serving.settings import Limits

ANSWER = reader(AnswerPlan(LADING, "json"))


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """A temporary folder of this test alone."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def slow_document(tmp_path_factory) -> bytes:
    return slow_picture(tmp_path_factory.mktemp("slow") / "slow.tiff", frames=4).read_bytes()


def kept(temporary: Path) -> list[str]:
    """All that lies there but for the gateway's own empty folder and its lock."""
    return sorted(path.relative_to(temporary).as_posix() for path in temporary.glob("*/**/*"))


def form(*files: bytes) -> dict:
    return {
        "content": b"".join(part("a.png", file) for file in files) + b"--x--\r\n",
        "headers": {"content-type": FORM},
    }


REQUESTS = {
    "a good document": ({"content": pdf(2)}, 200),
    "a second page that cannot be read": (form(page(), page()[:90]), 422),
    "a first page that cannot be read": (form(page()[:90], page()), 422),
    "a damaged document": ({"content": b"%PDF-1.7 nothing"}, 422),
    "an encrypted document": ({"content": encrypted()}, 422),
    "too many pages": ({"content": pdf(9)}, 422),
    "too many pages of all files together": (form(pdf(3), pdf(3)), 422),
    "a file of another kind among good ones": (form(page(), b"MZ"), 415),
}


def test_however_a_request_ends_its_files_are_gone(temporary):
    limits = Limits(pages=4, files=4, seconds=20.0, documents=2, queue=2)
    with FaultServer(lambda _: None, answer=ANSWER) as server:
        with Gateway(server.url, contract_of(), limits) as gateway:
            assert until(lambda: kept(temporary) == [])
            for name, (request, code) in REQUESTS.items():
                answer = gateway.http.post("/v1/extract", **request)
                assert answer.status_code == code, (name, answer.text)
                # What another worker was still rendering goes when that worker has let go of it.
                assert until(lambda: kept(temporary) == [], 3), (name, kept(temporary))
            assert len(list(temporary.iterdir())) == 2  # the folder and its lock
    assert list(temporary.iterdir()) == []


def test_after_a_render_timeout_and_a_killed_worker_the_files_are_gone(temporary, slow_document):
    limits = Limits(pages=4, seconds=20.0, documents=2, queue=2)
    with FaultServer(lambda _: None, answer=ANSWER) as server:
        with Gateway(server.url, contract_of(), limits, render_timeout=0.5) as gateway:
            answer = gateway.http.post("/v1/extract", content=slow_document)
            assert answer.status_code == 422 and "longer than 0.5 s" in answer.text
            assert until(lambda: kept(temporary) == [], 3), kept(temporary)
            threading.Timer(0.2, kill_workers).start()
            gateway.http.post("/v1/extract", content=slow_document)
            assert until(lambda: kept(temporary) == [], 3), kept(temporary)


def test_after_a_request_timeout_the_files_are_gone_also_those_that_come_late(temporary, slow_document):
    with FaultServer(lambda _: "slow", answer=ANSWER) as server:
        limits = Limits(pages=4, seconds=0.6, documents=2, queue=2)
        with Gateway(server.url, contract_of(), limits) as gateway:
            for body in (slow_document, page()):  # while it renders; while the model writes
                assert gateway.http.post("/v1/extract", content=body).status_code == 504
                time.sleep(GRACE + 0.5)  # so long a worker may still write, also into a folder that was just removed
                assert until(lambda: kept(temporary) == [], 5), kept(temporary)
                time.sleep(0.3)
                assert kept(temporary) == []


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_client_that_leaves_frees_its_place_and_its_files_are_gone(temporary, slow_document, accept):
    head = f"POST /v1/extract HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nAccept: {accept}\r\nContent-Length: "
    with FaultServer(lambda _: "slow", answer=ANSWER) as server:
        with Gateway(server.url, contract_of(), Limits(pages=4, documents=2, queue=2)) as gateway:
            for body, sent in ((slow_document, len(slow_document)), (page(), len(page())), (slow_document, 1000)):
                with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
                    connection.sendall(head.encode() + f"{len(body)}\r\n\r\n".encode() + body[:sent])
                    time.sleep(0.5)
                assert until(lambda: "under_way 0.0" in gateway.http.get("/metrics").text, 1.5)
                assert until(lambda: kept(temporary) == [], 3), kept(temporary)


def test_a_rendering_that_fails_or_is_cancelled_leaves_nothing_in_other_scripts_either(
    temporary, tmp_path, slow_document
):
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    slow = tmp_path / "slow.tiff"
    slow.write_bytes(slow_document)
    with PageRenderer(64, workers=1) as renderer:
        assert renderer.pages_of(Document("b", source=tmp_path / "broken.pdf")).exception(20) is not None
        running = renderer.pages_of(Document("s", source=slow))
        waiting = renderer.pages_of(Document("s", source=slow))
        assert until(running.job.running)
        running.cancel()
        waiting.cancel()
        assert until(lambda: kept(temporary) == [], 3), kept(temporary)
    assert list(temporary.iterdir()) == []


OWNER = """
import sys, time
sys.path.insert(0, "scripts")
from toolkit.pages.scratch import ScratchFolder
from toolkit.pages.workers import GRACE
owner = ScratchFolder()
folder = owner.__enter__()
(folder / "request").mkdir()
(folder / "request/page.png").write_bytes(b"of a document")
print(folder, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills processes by signal")
def test_what_a_killed_gateway_left_is_removed_by_the_next_and_what_a_living_one_uses_stays(temporary, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(temporary))
    (temporary / "document-pages-of-somebody").mkdir()  # without a lock it is not known whose it is
    owners = [
        subprocess.Popen([sys.executable, "-c", OWNER], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        killed, living = (Path(owner.stdout.readline().strip()) for owner in owners)
        owners[0].kill()
        owners[0].wait()
        assert (killed / "request/page.png").is_file()
        with ScratchFolder() as folder:
            assert not killed.exists() and (living / "request/page.png").is_file()
            assert folder.stat().st_mode & 0o077 == 0
            names = {folder.name, living.name}
            expected = names | {f"{name}.lock" for name in names} | {"document-pages-of-somebody"}
            assert {path.name for path in temporary.iterdir()} == expected
    finally:
        for owner in owners:
            owner.kill()
            owner.wait()
