"""A gateway over real HTTP for tests: it runs in a thread, in front of a stand-in for the model server."""

import contextlib
import io
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from conftest import REPOSITORY
from fault_server import FaultServer

from toolkit.answers.row_shards import AnswerPlan
from toolkit.model.contract import Contract
from toolkit.schema.target import TargetSchema
from toolkit.serving.settings import Limits, Settings

LADING = TargetSchema.load(REPOSITORY / "schemas/bill_of_lading.schema.json")
SECRET = "GEHEIMNIS-4711"  # stands in a document; must stand in no log
FORM = "multipart/form-data; boundary=x"
LIMITS = Limits(body_bytes=2_000_000, pages=4, files=4, seconds=20.0, documents=2, queue=2)


def bill(rows: int) -> dict:
    numbers = [{"container_number": f"ABCU{n:07d}", "container_size": "20"} for n in range(rows)]
    return LADING.ordered({"bl_number": "B1", "containers": numbers})


def pdf(pages: int = 1, text: str = SECRET) -> bytes:
    import pymupdf

    document = pymupdf.open()
    for number in range(pages):
        document.new_page().insert_text((72, 72), f"{text} page {number}")
    return document.tobytes()


def page(size=(64, 96), kind="PNG") -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(data, kind)
    return data.getvalue()


def encrypted() -> bytes:
    import pymupdf

    document = pymupdf.open()
    document.new_page()
    return document.tobytes(encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="x", owner_pw="y")


def part(name: str, data: bytes = b"", more: str = "") -> bytes:
    return (
        f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"{more}\r\n\r\n'.encode() + data + b"\r\n"
    )


def reader(plan: AnswerPlan):
    def answer(body):
        line = body["messages"][1]["content"][-1]["text"].partition("\n")[2]
        shards = [plan.count, *plan.shards_for({"containers": 40})] if plan.sharded else [plan.whole]
        shard = next(shard for shard in shards if shard.line == line)
        (part,) = plan.cut(bill(3), [shard]) if plan.sharded else [bill(3)]
        return plan.wire_of(shard).encoded(part)

    return answer


def files_below(folder: Path) -> set[Path]:
    """All that the gateways' scratch folders hold."""
    return {path for scratch in folder.glob("document-pages-*") for path in (scratch, *scratch.rglob("*"))}


class Gateway:
    """uvicorn with the application in a thread; `log` is what it said."""

    def __init__(
        self, url: str, contract: Contract, limits: Limits, key: str | None = "k", connections=None, **more
    ) -> None:
        from toolkit.serving.connections import Connections, server_of
        from toolkit.serving.gateway import Gateway as Application

        self.log = io.StringIO()
        settings = Settings(url, key=key, workers=1, **more)
        app = Application(contract, settings, limits, self.log).application()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.server = server_of(app, "127.0.0.1", self.port, connections or Connections(), shutdown_seconds=5)
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"authorization": "Bearer k"}, timeout=60
        )

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self.http.close()
        self.server.should_exit = True
        self.thread.join(10)


def contract_of(**more) -> Contract:
    return Contract(LADING.raw, "s.json", "read", "json", 64, 400, max_pages=2, prompt_tokens=20, **more)


@contextlib.contextmanager
def sharded_gateway(folder: Path) -> Iterator[Gateway]:
    """A gateway whose model answers in the positional form, in shards of two rows; `model` is the stand-in.

    Its files lie in `folder`, a temporary folder of its own: other tests run at the same time.
    """
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    contract = contract_of(wire="positional", rows_per_shard=2, max_shards=6)
    with (
        FaultServer(lambda _: None, answer=reader(contract.answer_plan), vllm=True) as server,
        Gateway(server.url, contract, LIMITS) as made,
    ):
        made.model, made.files = server, folder
        tempfile.tempdir = before
        yield made


def raw(port: int, data: bytes, *, wait: float = 5.0) -> bytes:
    """What the server sends back for these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        connection.sendall(data)
        received = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
        return received
