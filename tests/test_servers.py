"""The real vLLM, without a GPU, with the quickstart's fine-tuned model: its merged, quantized and live-adapter forms.

Slow: each server takes about a minute to start. Every figure that is asserted is printed too (pytest -s).
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, server_processes
from fault_server import FaultServer

from toolkit.files import read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="vLLM runs on Linux")]
PORT = 8790
BASE = REPOSITORY / "examples/reading_base"


def script(name: str, *arguments: object, python: object = sys.executable, code: tuple[int, ...] = (0,)) -> dict:
    """Run a script from the repository; its --json line."""
    words = [str(python), f"scripts/{name}.py", *map(str, arguments), "--json"]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=environment)
    assert done.returncode in code, f"{words}: {done.returncode}"
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def vllm_python() -> Path:
    return Path(script("make_environment", "ray-cpu", python=Path(sys.base_prefix) / "bin/python3")["python"])


@pytest.fixture(scope="module")
def fine_tuned() -> Path:
    """The quickstart's adapter and held-out documents; made here where they are not there yet."""
    adapter = REPOSITORY / "outputs/quickstart/adapter"
    if not (adapter / "extraction_config.json").is_file():
        script("quickstart", "--here")
    return adapter


@pytest.fixture(scope="module")
def held_out(fine_tuned) -> Path:
    return REPOSITORY / "data/quickstart/held_out/records.jsonl"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="module")
def merged(fine_tuned, work) -> Path:
    out = work / "merged"
    result = script("merge_adapter", "--adapter", fine_tuned, "--model", BASE, "--out", out)
    assert result["targets"] == 35 and result["smallest_delta"] > 0
    return out


@contextlib.contextmanager
def serving(vllm_python, model, *arguments, port=PORT):
    """serve_vllm.py until it says ready; afterwards stopped as a terminal's Ctrl-C or a container would."""
    words = [sys.executable, "scripts/serve_vllm.py", str(model), "--port", str(port), "--python", str(vllm_python)]
    process = subprocess.Popen(
        [*words, *map(str, arguments)], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    said = []
    try:
        for line in process.stderr:
            said.append(line.rstrip())
            if line.startswith("ready: "):
                break
        else:
            raise AssertionError("\n".join(said[-20:]))
        print("\n".join(said[-3:]))
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=60)
        assert not server_processes(port), "the server and its workers end with the script"


def extract(out: Path, documents: Path, contract: Path, *more: object, code=(0, 1), port=PORT) -> dict[str, dict]:
    where = ["--server", f"http://127.0.0.1:{port}/v1"] if "--model" not in more and "--server" not in more else []
    contracts = ["--contract", contract] if "--model" not in more else []
    script("extract_documents", *where, *contracts, "--in", documents, "--out", out, *more, code=code)
    return {line["id"]: line for _, line in read_jsonl(out)}


def scores(predictions: Path, gold: Path) -> dict:
    return script("evaluate_predictions", "--pred", predictions, "--gold", gold)


@pytest.fixture(scope="module")
def local(merged, held_out, work) -> dict[str, dict]:
    return extract(work / "local.jsonl", held_out, merged, "--model", merged, "--batch-size", 24)


def test_the_merged_model_is_served_and_answers_as_it_does_locally(vllm_python, merged, held_out, work, local):
    """Valid JSON only, the local backend's answers, the training's token ids, image grids and pixels."""
    with serving(vllm_python, merged, "--", "--enable-scale-out"):
        served = extract(work / "served.jsonl", held_out, merged)
        assert {line["status"] for line in served.values()} == {"ok"}
        same = sum(served[key]["raw"] == local[key]["raw"] for key in local) / len(local)
        print(f"same answers: {same:.3f} of {len(local)}; {scores(work / 'served.jsonl', held_out)['micro_f1']:.4f}")
        assert same >= 0.98
        # The server's log-probabilities are the local model's: the same confidence, one in bfloat16 and one in float32.
        apart = [
            abs(served[key]["confidence"][name] - share)
            for key, line in local.items() if served[key]["raw"] == line["raw"]
            for name, share in line["confidence"].items()
        ]  # fmt: skip
        print(
            f"confidence of {len(apart)} values: mean difference {sum(apart) / len(apart):.4f}, most {max(apart):.3f}"
        )
        assert sum(apart) / len(apart) < 0.02
        check_that_nothing_is_fetched(merged)
        check_prompt_and_pixels(vllm_python, merged, held_out, work)
        pdfs = REPOSITORY / "data/quickstart/held_out/samples/pdfs"
        from_pdfs = extract(work / "pdfs.jsonl", pdfs, merged, "--limit", 12)
        assert all(from_pdfs[key]["raw"] == served[key]["raw"] for key in from_pdfs if key in served)


def check_that_nothing_is_fetched(model):
    """A page that lies elsewhere, also behind a redirect: the server refuses it and asks nobody for it."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    import httpx

    from toolkit.extraction.server_client import blank_request
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
                answer = httpx.post(f"http://127.0.0.1:{PORT}/v1/chat/completions", json=body, timeout=60)
                assert answer.status_code >= 400, (address, answer.text)
        trap.shutdown()
    assert asked == []
    body = blank_request(load_contract(model), model.name, max_tokens=4)
    assert httpx.post(f"http://127.0.0.1:{PORT}/v1/chat/completions", json=body, timeout=60).status_code == 200


def check_prompt_and_pixels(vllm_python, model, held_out, work):
    """What the server makes of a request (its render route) against what training made of the record."""
    import httpx
    import torch

    from toolkit.extraction.server_client import page_url, request_body
    from toolkit.model.contract import load_contract
    from toolkit.model.encoding import encode_prompt, open_page
    from toolkit.model.loading import load_processor
    from toolkit.records.record import images_of, read_records

    contract = load_contract(model)
    processor = load_processor(str(model), contract.image_max_tokens)
    first, second, third, *_ = ([REPOSITORY / image for image in images_of(r)] for r in read_records(held_out))
    for number, pages in enumerate(([first[0]], [second[0]], [first[0], third[0]])):
        wanted = encode_prompt(processor, contract.prompt, [open_page(page) for page in pages])
        body = request_body(contract, model.name, [page_url(page) for page in pages])
        answer = httpx.post(f"http://127.0.0.1:{PORT}/v1/chat/completions/render", json=body, timeout=60)
        if len(pages) > contract.max_pages:
            assert answer.status_code == 400 and "image" in answer.text
            continue
        assert answer.status_code == 200, answer.text
        assert answer.json()["token_ids"] == wanted["input_ids"].tolist()
        blobs = answer.json()["features"]["kwargs_data"]["image"]
        (work / "blobs.json").write_text(json.dumps(blobs))
        torch.save({k: wanted[k] for k in ("pixel_values", "image_grid_thw")}, work / "wanted.pt")
        code = (
            "import json, sys, torch\n"
            "from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import decode_mm_kwargs_item\n"
            "items = [decode_mm_kwargs_item(b) for b in json.load(open(sys.argv[1]))]\n"
            "wanted = torch.load(sys.argv[2])\n"
            "assert torch.equal(torch.stack([i['image_grid_thw'].data for i in items]), wanted['image_grid_thw'])\n"
            "pixels = torch.cat([i['pixel_values'].data for i in items])\n"
            # vLLM hands bytes to the device and normalises there: mean and deviation 0.5.
            "pixels = pixels if pixels.is_floating_point() else (pixels.float() / 255 - 0.5) / 0.5\n"
            "print(float((pixels - wanted['pixel_values']).abs().max()))\n"
        )
        done = subprocess.run(
            [str(vllm_python), "-c", code, str(work / "blobs.json"), str(work / "wanted.pt")], capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert float(done.stdout.split()[-1]) < 1e-6, f"document {number}"


def test_pages_of_one_document_are_the_same_for_training_and_server(vllm_python, merged, held_out, work):
    """Two pages in one request: a contract that was trained on two-page documents."""
    two = work / "two_pages"
    shutil.copytree(merged, two)
    contract = json.loads((two / "extraction_config.json").read_text())
    (two / "extraction_config.json").write_text(json.dumps(contract | {"max_pages": 2}))
    with serving(vllm_python, two, "--", "--enable-scale-out"):
        check_prompt_and_pixels(vllm_python, two, held_out, work)


@pytest.mark.parametrize("method", ["awq", "gptq", "fp8", "autoawq"])
def test_a_quantized_model_is_served_and_its_loss_is_known(vllm_python, merged, held_out, work, local, method):
    quick = REPOSITORY / "data/quickstart/splits"
    how = ["--backend", "autoawq"] if method == "autoawq" else ["--method", method]
    result = script(
        "quantize_awq", "--model", merged, "--out", work / method, *how, "--calibration", quick / "train.jsonl", "--calibration-records", 48,
        "--check", quick / "val.jsonl", "--max-drop", 0.1,
    )  # fmt: skip
    assert result["gigabytes"] < result["gigabytes_before"]
    with serving(vllm_python, work / method):
        served = extract(work / f"{method}.jsonl", held_out, work / method)
    assert {line["status"] for line in served.values()} == {"ok"}
    found, reference = scores(work / f"{method}.jsonl", held_out), scores(work / "local.jsonl", held_out)
    print(f"{method}: micro-F1 {reference['micro_f1']:.4f} -> {found['micro_f1']:.4f}; on the check set {result['before']['micro_f1']:.4f} -> {result['after']['micro_f1']:.4f}")  # fmt: skip
    # Two million parameters have no redundancy: 4 bit costs them more than it costs a large model.
    assert found["micro_f1"] > reference["micro_f1"] - 0.1


def test_a_live_adapter_is_another_model_than_its_base(vllm_python, fine_tuned, held_out, work, local, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret-7")  # the server wants it, and the client gives it
    with serving(vllm_python, BASE, "--adapter", f"bl={fine_tuned}", "--adapter", f"again={fine_tuned}"):
        served = extract(work / "adapter.jsonl", held_out, fine_tuned, "--served-model", "bl", "--limit", 40)
        base = extract(work / "base.jsonl", held_out, fine_tuned, "--served-model", "reading_base", "--limit", 8, "--tries", 1)  # fmt: skip
        monkeypatch.setenv("VLLM_API_KEY", "wrong")
        words = [
            "--server",
            f"http://127.0.0.1:{PORT}/v1",
            "--contract",
            fine_tuned,
            "--in",
            held_out,
            "--out",
            work / "no.jsonl",
        ]
        refused = subprocess.run([sys.executable, "scripts/extract_documents.py", *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True)  # fmt: skip
        assert refused.returncode == 2 and "another API key" in refused.stderr
    assert {line["status"] for line in served.values()} == {"ok"}
    same = sum(served[key]["prediction"] == local[key]["prediction"] for key in served) / len(served)
    print(f"live adapter: {same:.3f} of {len(served)} answers as the merged model's")
    assert same >= 0.85  # the merged weights are rounded to bf16, the adapter's are not
    assert all(base[key]["raw"] != served[key]["raw"] for key in base)


@pytest.fixture(scope="module")
def in_shards(fine_tuned, work) -> Path:
    """A model that answers in shards of two rows, merged; a short training, so that it still errs."""
    adapter, out = work / "shards", work / "shards-merged"
    splits = REPOSITORY / "data/quickstart/splits"
    script(
        "train_lora", "--model", BASE, "--train", splits / "train.jsonl", "--out", adapter, "--image-max-tokens", 384, "--preset", "none", "--epochs", 1.5,
        "--learning-rate", "5e-3", "--batch-size", 8, "--accumulate", 1, "--rows-per-shard", 2,
    )  # fmt: skip
    script("merge_adapter", "--adapter", adapter, "--model", BASE, "--out", out)
    return out


def test_shards_read_the_pages_once_and_answer_as_they_do_locally(vllm_python, in_shards, held_out, work):
    """On the real server: pages are sent and encoded once a document, the prefix is taken from the cache, answers are the local ones."""
    documents = work / "some.jsonl"
    documents.write_text("".join(held_out.read_text(encoding="utf-8").splitlines(keepends=True)[:20]), encoding="utf-8")
    here = extract(work / "shards-local.jsonl", documents, in_shards, "--model", in_shards, "--batch-size", 24)
    with serving(vllm_python, in_shards):
        there = extract(work / "shards-served.jsonl", documents, in_shards)
        same = sum(there[key]["raw"] == here[key]["raw"] for key in here) / len(here)
        print(f"shards: same answers {same:.3f} of {len(here)}; {scores(work / 'shards-served.jsonl', documents)['micro_f1']:.4f}")  # fmt: skip
        assert {line["status"] for line in there.values()} == {"ok"} and same >= 0.9
        apart = [
            abs(there[key]["confidence"][name] - share)
            for key, line in here.items() if there[key]["raw"] == line["raw"]
            for name, share in line["confidence"].items()
        ]  # fmt: skip
        assert sum(apart) / len(apart) < 0.02
        out = work / "shards-latency.json"
        url = f"http://127.0.0.1:{PORT}/v1"
        result = script("benchmark_latency", "--server", url, "--contract", in_shards, "--in", documents, "--out", out, "--slo", "p95=60")  # fmt: skip
        (run,) = result["runs"]
        asked = [
            one for one in json.loads(out.read_text(encoding="utf-8"))["runs"][0]["documents"] if not one.get("cold")
        ]
        for one in asked:
            # All but the first request find system turn and page in the cache, up to the last whole block of 128 tokens or fewer.
            shared = one["vision_tokens"] // 128 * 128
            assert one["cached_tokens"] >= (one["requests"] - 1) * shared, one
        figures = run["server"]
        assert figures["page_cache_hits"] >= figures["page_cache_queries"] - len(asked) and figures["requests"] == sum(one["requests"] for one in asked)  # fmt: skip
        print(f"prefix cache: {figures['prefix_cache_hits'] / figures['prefix_cache_queries']:.2f} of the prompt; p50 {run['seconds']['p50']:.3f} s")  # fmt: skip
        # What a gold answer costs before anything was trained for it.
        gold = work / "as-gold.json"
        forced = script("benchmark_latency", "--server", url, "--contract", in_shards, "--in", documents, "--limit", 4, "--as-gold", "--out", gold)  # fmt: skip
        assert forced["as_gold"] and forced["runs"][0]["errors"] == {}
        # Half of the documents predict the other half.
        halves = json.loads(out.read_text(encoding="utf-8"))
        halves["runs"][0]["documents"] = asked[::2]
        (work / "half.json").write_text(json.dumps(halves), encoding="utf-8")
        others = [json.loads(line) for line in documents.read_text(encoding="utf-8").splitlines()]
        others = [record for record in others if record["id"] in {one["id"] for one in asked[1::2]}]
        (work / "others.jsonl").write_text("".join(json.dumps(record) + "\n" for record in others), encoding="utf-8")
        said = script("estimate_latency", "--in", work / "others.jsonl", "--shape", in_shards, "--model", in_shards, "--gpu", "cpu", "--precision", "bf16",
                      "--rows-per-shard", 2, "--image-max-tokens", 384, "--calibrate", work / "half.json")  # fmt: skip
        truth = sorted(one["seconds"] for one in asked[1::2])[len(asked) // 4]
        print(f"p50 predicted {said['estimates'][0]['p50']:.3f}, measured {truth:.3f}")
        assert said["estimates"][0]["p50"] == pytest.approx(truth, rel=0.5)


def test_a_thousand_documents_with_nothing_lost(vllm_python, merged, held_out, work):
    """Bursts of 429 and 500, cut connections, garbage, a slow answer, and the server killed in the middle and started anew."""
    many = work / "thousand.jsonl"
    records = [record for _, record in read_jsonl(held_out)]
    with many.open("w", encoding="utf-8") as file:
        for number in range(1000):
            record = records[number % len(records)]
            file.write(json.dumps(record | {"id": f"{number:04d} {record['id']}"}) + "\n")
    bursts = {
        **dict.fromkeys(range(20, 40), "429"),
        **dict.fromkeys(range(100, 112), "500"),
        150: "cut",
        151: "close",
        152: "garbage",
        153: "slow",
    }
    out = work / "thousand_predictions.jsonl"

    def answered() -> int:
        return out.read_bytes().count(b"\n") if out.exists() else 0

    began = time.monotonic()
    with FaultServer(bursts.get, target=PORT) as proxy:
        words = [
            "--server",
            proxy.url,
            "--contract",
            merged,
            "--in",
            many,
            "--out",
            out,
            "--concurrency",
            16,
            "--patience",
            400,
        ]
        with serving(vllm_python, merged, "--profile", "throughput"):
            client = subprocess.Popen(
                [sys.executable, "scripts/extract_documents.py", *map(str, words), "--json"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
            )  # fmt: skip
            while answered() < 300 and client.poll() is None:
                time.sleep(0.2)
            servers = server_processes(PORT)
            assert servers, "the server was there when the client had 300 answers"
            for process in servers:
                os.kill(process, signal.SIGKILL)
            subprocess.run(["pkill", "-KILL", "-f", "VLLM::EngineCore"], check=False)
            time.sleep(2)
        before = answered()
        with serving(vllm_python, merged, "--profile", "throughput"):
            output, _ = client.communicate(timeout=1500)
            lines = [line for _, line in read_jsonl(out)]
            assert len(lines) == len({line["id"] for line in lines}) == 1000
            assert before < 1000 and {line["status"] for line in lines} == {"ok"}
            assert client.returncode == 0, output
            print(
                f"1,000 documents in {time.monotonic() - began:.0f} s, {before} before the server was killed; {proxy.faults}"
            )
            # A second run does only what is missing.
            kept = out.read_text(encoding="utf-8").splitlines()
            out.write_text("\n".join(kept[:-5]) + "\n" + kept[-5][:40], encoding="utf-8")
            result = script("extract_documents", *words)
            assert result["documents"] == 5 and result["already_there"] == 995
            # Truncated answers, and a page that the server refuses, are named and end in exit code 1.
            short = work / "short"
            short.mkdir()
            contract = json.loads((merged / "extraction_config.json").read_text())
            (short / "extraction_config.json").write_text(json.dumps(contract | {"max_answer_tokens": 12}))
            cut = extract(work / "short.jsonl", held_out, short, "--limit", 4, "--tries", 2, code=(1,))
            assert {line["status"] for line in cut.values()} == {"truncated"}
            pages = work / "long.tiff"
            long_document(pages)
            refused = extract(work / "refused.jsonl", pages, merged, "--window", 6, code=(1,))
            assert refused["long.tiff"]["status"] == "refused" and "HTTP 400" in refused["long.tiff"]["error"]


def long_document(path: Path) -> None:
    from PIL import Image

    frames = [Image.new("RGB", (640, 480), (255, 255 - n, 255)) for n in range(6)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def test_a_merged_moe_is_read_by_vllm_as_transformers_reads_it(vllm_python, run, tiny_moe, work):
    """The hub's layout of the experts: with the transposed one the server would start, and answer from other weights."""
    import base64
    import io

    import httpx
    import torch
    from PIL import Image
    from test_serving import made_adapter

    from toolkit.extraction.server_client import blank_request
    from toolkit.model import loading as qwen3vl
    from toolkit.model.contract import load_contract
    from toolkit.model.encoding import collate, encode_prompt

    adapter = made_adapter(tiny_moe, work / "moe_adapter")
    assert run("merge_adapter", "--adapter", adapter, "--out", work / "moe").code == 0
    contract = load_contract(work / "moe")
    body = blank_request(contract, "moe", max_tokens=8, grammar=False, logprobs=True)
    with serving(vllm_python, work / "moe"):
        answer = httpx.post(f"http://127.0.0.1:{PORT}/v1/chat/completions", json=body, timeout=60).json()
    served = [token["logprob"] for token in answer["choices"][0]["logprobs"]["content"]]
    url = body["messages"][1]["content"][0]["image_url"]["url"]
    page = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")
    processor = qwen3vl.load_processor(str(work / "moe"), contract.image_max_tokens)
    inputs = collate([encode_prompt(processor, contract.prompt, [page])], 0)
    model = qwen3vl.load_model(str(work / "moe")).eval()
    with torch.no_grad():
        out = model.generate(
            **inputs, max_new_tokens=8, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    tokens = out.sequences[0, inputs["input_ids"].shape[1] :]
    local = [
        float(torch.log_softmax(step[0].float(), -1)[token]) for token, step in zip(tokens, out.logits, strict=True)
    ]
    assert len(served) == len(local) and max(abs(a - b) for a, b in zip(served, local, strict=True)) < 1e-3, (
        served,
        local,
    )


def test_an_offline_batch_runs_with_ray_and_vllm(vllm_python, merged, held_out, work, local):
    words = [
        "--ray",
        "--model",
        merged,
        "--in",
        held_out,
        "--limit",
        24,
        "--batch-size",
        12,
        "--out",
        work / "ray.jsonl",
    ]
    script("extract_documents", *words, python=vllm_python)
    lines = {line["id"]: line for _, line in read_jsonl(work / "ray.jsonl")}
    assert len(lines) == 24 and all(line["raw"] == local[key]["raw"] for key, line in lines.items())
    assert all(set(line["confidence"]) == set(local[key]["confidence"]) for key, line in lines.items())


def test_a_ray_cluster_renders_what_one_machine_renders(vllm_python, work):
    pdfs = REPOSITORY / "data/quickstart/held_out/samples/pdfs"
    for name, more in (("one", []), ("ray", ["--ray"])):
        script(
            "pdf_to_images", "--in", pdfs, "--out-dir", work / name, "--image-max-tokens", 64, *more, python=vllm_python
        )
    one, ray = ({p.name: p.read_bytes() for p in (work / name).glob("*.png")} for name in ("one", "ray"))
    assert one == ray and len(one) > 10


def test_a_server_that_cannot_start_says_why(vllm_python, merged, work):
    broken = work / "broken"
    shutil.copytree(merged, broken)
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 6
    (broken / "config.json").write_text(json.dumps(config))
    words = [sys.executable, "scripts/serve_vllm.py", broken, "--port", PORT, "--python", vllm_python]
    done = subprocess.run([str(word) for word in words], cwd=REPOSITORY, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 3 and "vLLM did not start" in last and "layers.5" in last, done.stderr[-2000:]
