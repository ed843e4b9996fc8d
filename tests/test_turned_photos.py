"""Photos that EXIF turns: every stage shows a model the page as people see it, or says that it will not."""

# ruff: noqa: F811 - imported fixtures are arguments by their name

import io
import json
from base64 import b64decode

import pytest
from fault_server import FaultServer
from test_server_client import GOOD, contract, extract  # noqa: F401

ORIENTATIONS = [3, 6, 8]
SIZE = (96, 64)  # of the page as people see it


def photo(orientation: int) -> bytes:
    """A JPEG of a page whose upper left corner is black, stored as a camera that was held otherwise does."""
    from PIL import Image

    seen = Image.new("RGB", SIZE, "white")
    seen.paste((0, 0, 0), (0, 0, 32, 32))
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    seen.transpose(back).save(file, "JPEG", exif=exif, quality=95)
    return file.getvalue()


def sent_to(server):
    """The one page that the server got."""
    from PIL import Image

    (body,) = server.requests
    return Image.open(io.BytesIO(b64decode(body["messages"][1]["content"][0]["image_url"]["url"].split(",")[1])))


def is_upright(image) -> bool:
    """Whether the black corner is where people see it, in a picture that no viewer would turn again."""
    grey = image.convert("L")
    corners = [grey.getpixel((x, y)) < 128 for x in (8, image.width - 9) for y in (8, image.height - 9)]
    return image.size == SIZE and corners == [True, False, False, False] and image.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_photo_is_rendered_upright(run, workspace, orientation):
    from PIL import Image

    (workspace / "in").mkdir()
    (workspace / "in/a.jpg").write_bytes(photo(orientation))
    assert run("pdf_to_images", "--in", "in", "--image-max-tokens", 64).code == 0
    assert is_upright(Image.open(workspace / "data/images/a_page_0001.png"))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_photo_is_sent_to_a_server_upright(run, contract, tmp_path, orientation):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(photo(orientation))
    with FaultServer(lambda _: None, answer=lambda _: GOOD) as server:
        done, _ = extract(run, server, contract, tmp_path / "in", tmp_path)
    assert done.code == 0 and is_upright(sent_to(server))


def test_a_turned_photo_in_a_gateways_request_is_read_upright():
    from served_gateway import LADING, LIMITS, Gateway, contract_of, reader

    from toolkit.answers.row_shards import AnswerPlan

    with FaultServer(lambda _: None, answer=reader(AnswerPlan(LADING, "json"))) as server:
        with Gateway(server.url, contract_of(), LIMITS) as gateway:
            assert gateway.http.post("/v1/extract", content=photo(6)).status_code == 200
    assert is_upright(sent_to(server))


def test_an_image_of_a_record_that_exif_turns_is_a_named_problem(run, workspace):
    """Training and serving take a record's images as they are stored."""
    from receipt_records import record, write_records

    (workspace / "a.jpg").write_bytes(photo(6))
    one = record()
    one["messages"][0]["content"][0]["image"] = "a.jpg"
    write_records(workspace / "d.jsonl", [one])
    done = run("verify_image_paths", "--in", "d.jsonl")
    assert done.code == 1 and "turned by EXIF" in done.err and "pdf_to_images.py" in done.err


def test_a_records_turned_image_is_sent_as_training_saw_it(run, contract, tmp_path):
    """No viewer's opinion: the pixels as stored, without the mark that would turn them at the server."""
    (tmp_path / "a.jpg").write_bytes(photo(6))
    content = [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "json"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": GOOD}]}
    line = {"id": "a", "messages": [{"role": "user", "content": content}, answer]}
    (tmp_path / "r.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    with FaultServer(lambda _: None, answer=lambda _: GOOD) as server:
        assert extract(run, server, contract, tmp_path / "r.jsonl", tmp_path, "--root", tmp_path)[0].code == 0
    sent = sent_to(server)
    assert sent.size == (SIZE[1], SIZE[0]) and sent.getexif().get(0x0112, 1) == 1
