"""The real vLLM, without a GPU, with the quickstart's fine-tuned model: its merged, quantized and live-adapter forms.

Slow: each server takes about a minute to start. Every figure that is asserted is printed too (pytest -s).
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import READING_BASE, REPOSITORY, free_port, made_once, script
from real_server import Server, answers, asked, first_lines, scores, serving

from toolkit.files import read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="vLLM runs on Linux")]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("servers")


def check_confidence_is_alike(one: dict[str, dict], other: dict[str, dict]) -> None:
    """The server's log-probabilities are the local model's: the same confidence, one in bfloat16 and one in float32."""
    apart = [
        abs(other[key]["confidence"][name] - share)
        for key, line in one.items()
        if other[key]["raw"] == line["raw"]
        for name, share in line["confidence"].items()
    ]
    mean = sum(apart) / len(apart)
    print(f"confidence of {len(apart)} values: mean difference {mean:.4f}, most {max(apart):.3f}")
    assert mean < 0.02


@pytest.fixture(scope="session")
def local_file(merged, held_out, shared) -> Path:
    """What the merged model answers locally."""

    def make(folder: Path) -> None:
        answers(folder / "local.jsonl", held_out, ["--model", merged], "--batch-size", 24)

    return made_once(shared / "local", make) / "local.jsonl"


@pytest.fixture(scope="session")
def local(local_file) -> dict[str, dict]:
    return {line["id"]: line for _, line in read_jsonl(local_file)}


def with_pages(model: Path, pages: int, out: Path) -> Path:
    """The model with the contract of one that was trained on documents of so many pages."""
    shutil.copytree(model, out)
    contract = json.loads((out / "extraction_config.json").read_text())
    (out / "extraction_config.json").write_text(json.dumps(contract | {"max_pages": pages}))
    return out


def test_the_merged_model_is_served_and_answers_as_it_does_locally(vllm_python, merged, held_out, work, local):
    """Valid JSON only, the local backend's answers, the training's token ids, image grids and pixels."""
    two_pages = with_pages(merged, 2, work / "two_pages")
    with serving(vllm_python, two_pages, "--", "--enable-scale-out") as server:
        served = answers(work / "served.jsonl", held_out, asked(server, two_pages))
        assert {line["status"] for line in served.values()} == {"ok"}
        same = sum(served[key]["raw"] == local[key]["raw"] for key in local) / len(local)
        found = scores(work / "served.jsonl", held_out)["micro_f1"]
        print(f"same answers: {same:.3f} of {len(local)}; {found:.4f}")
        assert same >= 0.98
        check_confidence_is_alike(local, served)
        check_that_nothing_is_fetched(server, two_pages)
        check_prompt_and_pixels(vllm_python, server, two_pages, held_out, work)
        pdfs = REPOSITORY / "data/quickstart/held_out/samples/pdfs"
        from_pdfs = answers(work / "pdfs.jsonl", pdfs, asked(server, two_pages), "--limit", 12)
        assert all(from_pdfs[key]["raw"] == served[key]["raw"] for key in from_pdfs if key in served)


def check_that_nothing_is_fetched(server: Server, model: Path) -> None:
    """A page that lies elsewhere, also behind a redirect: the server refuses it and asks nobody for it."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    import httpx

    from toolkit.extraction.chat_request import blank_request
    from toolkit.model.contract import load_contract

    asked = []

    class Trap(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/again")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Trap) as trap:
        threading.Thread(target=trap.serve_forever, args=(0.05,), daemon=True).start()
        here = f"http://127.0.0.1:{trap.server_address[1]}/page.png"
        local = (REPOSITORY / "examples").rglob("*.png").__next__().as_uri()
        for address in (here, here.replace("http:", "HTTP:"), here.replace("127.0.0.1", "localhost"), local):
            for kind in ("image_url", "video_url"):
                body = blank_request(load_contract(model), model.name, max_tokens=4)
                body["messages"][1]["content"][0] = {"type": kind, kind: {"url": address}}
                answer = httpx.post(f"{server.url}/chat/completions", json=body, timeout=60)
                assert answer.status_code >= 400, (address, answer.text)
        trap.shutdown()
    assert asked == []
    body = blank_request(load_contract(model), model.name, max_tokens=4)
    assert httpx.post(f"{server.url}/chat/completions", json=body, timeout=60).status_code == 200


# vLLM hands bytes to the device and normalises there: mean and deviation 0.5.
COMPARE_PIXELS = """
import json, sys, torch
from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import decode_mm_kwargs_item
items = [decode_mm_kwargs_item(b) for b in json.load(open(sys.argv[1]))]
wanted = torch.load(sys.argv[2])
assert torch.equal(torch.stack([i['image_grid_thw'].data for i in items]), wanted['image_grid_thw'])
pixels = torch.cat([i['pixel_values'].data for i in items])
pixels = pixels if pixels.is_floating_point() else (pixels.float() / 255 - 0.5) / 0.5
print(float((pixels - wanted['pixel_values']).abs().max()))
"""


def check_prompt_and_pixels(vllm_python, server: Server, model: Path, held_out: Path, work: Path) -> None:
    """What the server makes of a request (its render route) against what training made of the record.

    One page, another one, two pages in one request; and one page more than the contract has, which is refused.
    """
    import httpx
    import torch

    from toolkit.extraction.chat_request import page_url, request_body
    from toolkit.model.contract import load_contract
    from toolkit.model.encoding import encode_prompt
    from toolkit.model.loading import load_processor
    from toolkit.pages.opening import open_page
    from toolkit.records.record import images_of, read_records

    contract = load_contract(model)
    processor = load_processor(str(model), contract.image_max_tokens)
    first, second, third, *_ = ([REPOSITORY / image for image in images_of(r)] for r in read_records(held_out))
    asked_for = ([first[0]], [second[0]], [first[0], third[0]], [first[0], second[0], third[0]])
    for number, pages in enumerate(asked_for):
        wanted = encode_prompt(processor, contract.prompt, [open_page(page) for page in pages])
        body = request_body(contract, model.name, [page_url(page) for page in pages])
        route = f"http://127.0.0.1:{server.port}/v1/chat/completions/render"
        answer = httpx.post(route, json=body, timeout=60)
        if len(pages) > contract.max_pages:
            assert answer.status_code == 400 and "image" in answer.text
            continue
        assert answer.status_code == 200, answer.text
        assert answer.json()["token_ids"] == wanted["input_ids"].tolist()
        blobs = answer.json()["features"]["kwargs_data"]["image"]
        (work / "blobs.json").write_text(json.dumps(blobs))
        torch.save({k: wanted[k] for k in ("pixel_values", "image_grid_thw")}, work / "wanted.pt")
        words = [vllm_python, "-c", COMPARE_PIXELS, work / "blobs.json", work / "wanted.pt"]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert float(done.stdout.split()[-1]) < 1e-6, f"document {number}"


@pytest.mark.parametrize("method", ["awq", "gptq", "fp8", "autoawq"])
def test_a_quantized_model_is_served_and_its_loss_is_known(vllm_python, merged, held_out, work, local_file, method):
    splits, quantized = REPOSITORY / "data/quickstart/splits", work / method
    how = ["--backend", "autoawq"] if method == "autoawq" else ["--method", method]
    calibration = ["--calibration", splits / "train.jsonl", "--calibration-records", 24]
    check = ["--check", splits / "val.jsonl", "--max-drop", 0.1]
    result = script("quantize_awq", "--model", merged, "--out", quantized, *how, *calibration, *check)
    assert result["gigabytes"] < result["gigabytes_before"]
    # vLLM multiplies FP8 matrices on some processors by a plain loop: half a minute a document.
    count = 4 if method == "fp8" else len(held_out.read_text(encoding="utf-8").splitlines())
    documents = first_lines(held_out, count, work / f"documents-{method}.jsonl")
    with serving(vllm_python, quantized) as server:
        served = answers(work / f"{method}.jsonl", documents, asked(server, quantized))
    assert len(served) == count and {line["status"] for line in served.values()} == {"ok"}
    before, after = (scores(file, documents)["micro_f1"] for file in (local_file, work / f"{method}.jsonl"))
    checked = f"{result['before']['micro_f1']:.4f} -> {result['after']['micro_f1']:.4f}"
    print(f"{method}: micro-F1 {before:.4f} -> {after:.4f}; on the check set {checked}")
    # Two million parameters have no redundancy: 4 bit costs them more than it costs a large model.
    assert after > before - 0.1


def test_a_live_adapter_is_another_model_than_its_base(vllm_python, quickstart, held_out, work, local, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret-7")  # the server wants it, and the client gives it
    adapters = ["--adapter", f"bl={quickstart}", "--adapter", f"again={quickstart}"]
    with serving(vllm_python, READING_BASE, *adapters) as server:
        source = asked(server, quickstart)
        served = answers(work / "adapter.jsonl", held_out, [*source, "--served-model", "bl"], "--limit", 40)
        named = [*source, "--served-model", "reading_base"]
        base = answers(work / "base.jsonl", held_out, named, "--limit", 8, "--tries", 1)
        monkeypatch.setenv("VLLM_API_KEY", "wrong")
        words = ["scripts/extract_documents.py", *source, "--in", held_out, "--out", work / "no.jsonl"]
        refused = subprocess.run([sys.executable, *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True)
        assert refused.returncode == 2 and "another API key" in refused.stderr
    assert {line["status"] for line in served.values()} == {"ok"}
    same = sum(served[key]["prediction"] == local[key]["prediction"] for key in served) / len(served)
    print(f"live adapter: {same:.3f} of {len(served)} answers as the merged model's")
    assert same >= 0.85  # the merged weights are rounded to bf16, the adapter's are not
    assert all(base[key]["raw"] != served[key]["raw"] for key in base)


@pytest.fixture(scope="module")
def in_shards(quickstart, work) -> Path:
    """A model that answers in shards of two rows, merged; a short training, so that it still errs."""
    adapter, out = work / "shards", work / "shards-merged"
    data = ["--train", REPOSITORY / "data/quickstart/splits/train.jsonl", "--image-max-tokens", 384]
    rates = ["--epochs", 1, "--learning-rate", "5e-3", "--batch-size", 8, "--accumulate", 1]
    how = ["--preset", "none", *rates, "--rows-per-shard", 2]
    script("train_lora", "--model", READING_BASE, *data, "--out", adapter, *how)
    script("merge_adapter", "--adapter", adapter, "--model", READING_BASE, "--out", out)
    return out


def test_shards_read_the_pages_once_and_answer_as_they_do_locally(vllm_python, in_shards, held_out, work):
    """On the real server: pages are sent and encoded once a document, the prefix is taken from the cache.

    The answers are the local ones, and half of the documents' times predict those of the other half.
    """
    documents = first_lines(held_out, 20, work / "some.jsonl")
    here = answers(work / "shards-local.jsonl", documents, ["--model", in_shards], "--batch-size", 24)
    with serving(vllm_python, in_shards) as server:
        source = asked(server, in_shards)
        there = answers(work / "shards-served.jsonl", documents, source)
        same = sum(there[key]["raw"] == here[key]["raw"] for key in here) / len(here)
        found = scores(work / "shards-served.jsonl", documents)["micro_f1"]
        print(f"shards: same answers {same:.3f} of {len(here)}; {found:.4f}")
        assert {line["status"] for line in there.values()} == {"ok"} and same >= 0.9
        check_confidence_is_alike(here, there)
        out = work / "shards-latency.json"
        result = script("benchmark_latency", *source, "--in", documents, "--out", out, "--slo", "p95=60")
        runs = json.loads(out.read_text(encoding="utf-8"))["runs"]
        timed = [line for line in runs[0]["documents"] if not line.get("cold")]
        check_the_cache(timed, result["runs"][0])
        # What a gold answer costs before anything was trained for it.
        as_gold = ["--limit", 4, "--as-gold", "--out", work / "as-gold.json"]
        forced = script("benchmark_latency", *source, "--in", documents, *as_gold)
        assert forced["as_gold"] and forced["runs"][0]["errors"] == {}
    check_one_half_predicts_the_other(out, timed, documents, in_shards, work)


def check_the_cache(timed: list[dict], run: dict) -> None:
    for line in timed:
        # All but the first request find system turn and page in the cache, to the last whole block of 128 or fewer.
        cached = line["vision_tokens"] // 128 * 128
        assert line["cached_tokens"] >= (line["requests"] - 1) * cached, line
    figures = run["server"]
    assert figures["page_cache_hits"] >= figures["page_cache_queries"] - len(timed)
    assert figures["requests"] == sum(line["requests"] for line in timed)
    share = figures["prefix_cache_hits"] / figures["prefix_cache_queries"]
    print(f"prefix cache: {share:.2f} of the prompt; p50 {run['seconds']['p50']:.3f} s")


def check_one_half_predicts_the_other(measured: Path, timed: list[dict], documents: Path, model: Path, work: Path):
    halves = json.loads(measured.read_text(encoding="utf-8"))
    halves["runs"][0]["documents"] = timed[::2]
    (work / "half.json").write_text(json.dumps(halves), encoding="utf-8")
    second_half = {line["id"] for line in timed[1::2]}
    records = [record for _, record in read_jsonl(documents) if record["id"] in second_half]
    (work / "others.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    shape = ["--shape", model, "--model", model, "--gpu", "cpu", "--precision", "bf16", "--image-max-tokens", 384]
    calibrated = ["--rows-per-shard", 2, "--calibrate", work / "half.json"]
    estimate = script("estimate_latency", "--in", work / "others.jsonl", *shape, *calibrated)
    truth = sorted(line["seconds"] for line in timed[1::2])[len(timed) // 4]
    print(f"p50 predicted {estimate['estimates'][0]['p50']:.3f}, measured {truth:.3f}")
    assert estimate["estimates"][0]["p50"] == pytest.approx(truth, rel=0.5)


# By the number of the request that they befall; all of them before the server is killed.
def test_a_merged_moe_is_read_by_vllm_as_transformers_reads_it(vllm_python, run, tiny_moe, work):
    """The hub's layout of the experts.

    With the transposed one the server would start, and answer from other weights.
    """
    import base64
    import io

    import httpx
    import torch
    from PIL import Image
    from test_serving import made_adapter

    from toolkit.extraction.chat_request import blank_request
    from toolkit.model import loading as qwen3vl
    from toolkit.model.contract import load_contract
    from toolkit.model.encoding import collate, encode_prompt

    adapter = made_adapter(tiny_moe, work / "moe_adapter")
    assert run("merge_adapter", "--adapter", adapter, "--out", work / "moe").code == 0
    contract = load_contract(work / "moe")
    body = blank_request(contract, "moe", max_tokens=8, grammar=False, logprobs=True)
    with serving(vllm_python, work / "moe") as server:
        answer = httpx.post(f"{server.url}/chat/completions", json=body, timeout=60).json()
    served = [token["logprob"] for token in answer["choices"][0]["logprobs"]["content"]]
    url = body["messages"][1]["content"][0]["image_url"]["url"]
    page = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")
    processor = qwen3vl.load_processor(str(work / "moe"), contract.image_max_tokens)
    inputs = collate([encode_prompt(processor, contract.prompt, [page])], 0)
    model = qwen3vl.load_model(str(work / "moe")).eval()
    with torch.no_grad():
        how = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        out = model.generate(**inputs, **how)
    tokens = out.sequences[0, inputs["input_ids"].shape[1] :]
    local = [
        float(torch.log_softmax(step[0].float(), -1)[token]) for token, step in zip(tokens, out.logits, strict=True)
    ]
    apart = max(abs(a - b) for a, b in zip(served, local, strict=True))
    assert apart < 1e-3, (served, local)


@pytest.mark.xdist_group("ray")
def test_an_offline_batch_runs_with_ray_and_vllm(vllm_python, merged, held_out, work, local):
    words = ["--ray", "--model", merged, "--in", held_out, "--limit", 24, "--batch-size", 12]
    script("extract_documents", *words, "--out", work / "ray.jsonl", python=vllm_python)
    lines = {line["id"]: line for _, line in read_jsonl(work / "ray.jsonl")}
    assert len(lines) == 24 and all(line["raw"] == local[key]["raw"] for key, line in lines.items())
    assert all(set(line["confidence"]) == set(local[key]["confidence"]) for key, line in lines.items())


@pytest.mark.xdist_group("ray")
def test_a_ray_cluster_renders_what_one_machine_renders(vllm_python, quickstart, work):
    pdfs = REPOSITORY / "data/quickstart/held_out/samples/pdfs"
    for name, more in (("one", []), ("ray", ["--ray"])):
        words = ["--in", pdfs, "--out-dir", work / name, "--image-max-tokens", 64, *more]
        script("pdf_to_images", *words, python=vllm_python)
    one, ray = ({p.name: p.read_bytes() for p in (work / name).glob("*.png")} for name in ("one", "ray"))
    assert one == ray and len(one) > 10


def test_a_server_that_cannot_start_says_why(vllm_python, merged, work):
    broken = work / "broken"
    shutil.copytree(merged, broken)
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 6
    (broken / "config.json").write_text(json.dumps(config))
    words = [sys.executable, "scripts/serve_vllm.py", broken, "--port", free_port(), "--python", vllm_python]
    done = subprocess.run([str(word) for word in words], cwd=REPOSITORY, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 3 and "vLLM did not start" in last and "layers.5" in last, done.stderr[-2000:]
