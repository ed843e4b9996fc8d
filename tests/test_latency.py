"""Latency: what is measured is what was asked, quantiles and objectives are the definitions', and calibration finds
what was put in."""

import json
import random
import re
import time

import pytest
from conftest import REPOSITORY, png
from fault_server import FaultServer

from toolkit.answers.row_shards import AnswerPlan
from toolkit.latency.measured import Load, Objective, quantile, server_figures, spread
from toolkit.latency.predicted import ASSUMED, calibrated, decode_bytes, predicted_latency, terms
from toolkit.model.contract import Contract
from toolkit.model.gpus import CPU, GPUS
from toolkit.model.shapes import SHAPES, shape_of_config
from toolkit.schema.target import TargetSchema

LADING = TargetSchema.load(REPOSITORY / "schemas/bill_of_lading.schema.json")


def bill(rows: int) -> dict:
    numbers = [{"container_number": f"ABCU{n:07d}", "container_size": "20"} for n in range(rows)]
    return LADING.ordered({"bl_number": "B1", "containers": numbers})


@pytest.fixture
def pages(tmp_path):
    for number in range(6):
        png(tmp_path / f"in/doc{number}.png", (64, 96), 20 * number + 20)
    return tmp_path / "in"


def contract_folder(tmp_path, **more):
    folder = tmp_path / "model"
    folder.mkdir()
    Contract(LADING.raw, "s.json", "read", "json", 64, 400, max_pages=1, prompt_tokens=20, **more).save(folder)
    return folder


def reader(plan: AnswerPlan, rows: int, names: set):
    """Answers as a model of this plan that reads `rows` rows on every page, and as vLLM does about pages that it only
    knows by name."""

    def answer(body):
        image, text = body["messages"][1]["content"]
        if image.get("image_url") is None and image["uuid"] not in names:
            return 400, "no such item in the cache"
        names.add(image.get("uuid"))
        line = text["text"].partition("\n")[2]
        shards = [plan.count, *plan.shards_for({"containers": 40})] if plan.sharded else [plan.whole]
        shard = next(shard for shard in shards if shard.line == line)
        (part,) = plan.cut(bill(rows), [shard]) if plan.sharded else [bill(rows)]
        return plan.wire_of(shard).encoded(part)

    return answer


def test_a_document_in_shards_sends_its_pages_once(run, pages, tmp_path):
    """Count, header and rows over one page: its bytes go with the first request and the others name it; a page that
    the server forgot is sent again."""
    plan = AnswerPlan(LADING, "positional", 2)
    contract = contract_folder(tmp_path, wire="positional", rows_per_shard=2, max_shards=8)
    names: set = set()
    answer = reader(plan, 5, names)
    with FaultServer(lambda _: None, answer=answer, vllm=True) as server:
        out = tmp_path / "out.jsonl"
        words = ["--server", server.url, "--contract", contract, "--in", pages, "--out", out, "--no-confidence"]
        done = run("extract_documents", *words)
        assert done.code == 0, done.err
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert all(line["prediction"] == bill(5) and line["shards"] == 5 for line in lines)
        sent = [body["messages"][1]["content"][0]["image_url"] is not None for body in server.requests]
        assert len(sent) == 6 * 5 and sum(sent) == 6
        questions = {body["messages"][1]["content"][1]["text"] for body in server.requests}
        assert questions == {
            "json\nrows",
            "json\nheader",
            "json\ncontainers 1-2",
            "json\ncontainers 3-4",
            "json\ncontainers 5-6",
        }
        # All before the last line is the same to the byte.
        systems = {json.dumps(body["messages"][0]) for body in server.requests}
        assert len(systems) == 1
    forgets: set = set()

    class Never(set):
        def add(self, _):
            pass

    with FaultServer(lambda _: None, answer=reader(plan, 5, Never(forgets)), vllm=True) as server:
        done = run("extract_documents", *["--server", server.url, *words[2:], "--overwrite"])
        assert done.code == 0, done.err
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()][-6:]
        assert all(line["prediction"] == bill(5) and line["attempts"] == 1 for line in lines)
    with FaultServer(lambda _: None, answer=answer) as server:  # no vLLM: every request carries its pages
        assert run("extract_documents", *["--server", server.url, *words[2:], "--overwrite"]).code == 0
        assert all("uuid" not in body["messages"][1]["content"][0] for body in server.requests)


def test_the_benchmark_counts_documents_requests_and_tokens(run, pages, tmp_path):
    plan = AnswerPlan(LADING, "positional", 2)
    contract = contract_folder(tmp_path, wire="positional", rows_per_shard=2, max_shards=8)
    out, report = tmp_path / "latency.json", tmp_path / "latency.html"
    with FaultServer(lambda _: None, answer=reader(plan, 3, set()), vllm=True) as server:
        words = ["--server", server.url, "--contract", contract, "--in", pages, "--out", out]
        words += "--concurrency 1 --concurrency 3 --rate 50".split()
        words += "--slo p95=60s@rows<=50 --slo p50=0.00001s --json".split()
        done = run("benchmark_latency", *words, "--report", report)
    assert done.code == 1 and "MISSED" in done.err and "met" in done.err, done.err
    result = json.loads(out.read_text(encoding="utf-8"))
    assert [run_["load"] for run_ in result["runs"]] == ["1 at a time", "3 at a time", "50 a second"]
    assert len(server.requests) == (1 + 3 * 6) * 4
    for run_ in result["runs"]:
        assert run_["documents_asked"] == 7 and run_["errors"] == {} and len(run_["cold"]) == 1
        assert run_["seconds"]["n"] == 6 and run_["rows"]["1-5"]["n"] == 6
        warm = [one for one in run_["documents"] if not one.get("cold")]
        assert all([len(wave) for wave in one["waves"]] == [1, 3] and one["rows"] == 3 for one in warm)
        assert all(0 < one["first_token"] < one["seconds"] and one["vision_tokens"] > 0 for one in warm)
    assert "late" in result["runs"][2]["documents"][1] and "prediction" not in result["runs"][0]["documents"][0]
    assert [one["met"] for one in result["slo"]] == [True, False] * 3
    page = report.read_text(encoding="utf-8")
    assert page.count("<svg") == 2 and "50 a second" in page and "http" not in re.sub(re.escape(server.url), "", page)
    again = run("benchmark_latency", *words)
    assert again.code == 2 and "there already" in again.err


def test_the_time_of_a_token_is_that_of_the_text_behind_the_first_one(run, pages, tmp_path):
    """A server that writes a piece each 5 ms, and waits before the first."""

    def writing(text: str) -> None:
        time.sleep(0.005 if text else 0.15)

    contract, out = contract_folder(tmp_path), tmp_path / "latency.json"
    answer = reader(AnswerPlan(LADING, "json"), 0, set())
    with FaultServer(lambda _: None, answer=answer, writing=writing) as server:
        words = ["--server", server.url, "--contract", contract, "--in", pages, "--out", out, "--limit", 2]
        assert run("benchmark_latency", *words).code == 0
    for one in json.loads(out.read_text(encoding="utf-8"))["runs"][0]["documents"]:
        tokens = one["completion_tokens"]
        assert tokens > 20 and one["first_token"] > 0.15
        assert 0.005 <= one["per_token"] <= (one["seconds"] - one["first_token"]) / (tokens - 1) + 1e-6
        assert one["waves"] == [[tokens]] and one["requests"] == 1 and one["rows"] == 0


def test_errors_are_counted_and_miss_every_objective(run, pages, tmp_path):
    contract = contract_folder(tmp_path)
    plan = AnswerPlan(LADING, "json")
    out = tmp_path / "latency.json"
    with FaultServer(lambda n: "500" if n == 3 else None, answer=reader(plan, 2, set())) as server:
        words = ["--server", server.url, "--contract", contract, "--in", pages, "--out", out]
        done = run("benchmark_latency", *words, "--no-stream", "--slo", "p99=60")
    result = json.loads(out.read_text(encoding="utf-8"))
    assert done.code == 1 and result["runs"][0]["errors"] == {"http_error": 1}
    assert result["slo"][0]["met"] is False and result["slo"][0]["seconds"] is None
    assert result["runs"][0]["first_token"] == {}  # nothing was streamed


def test_two_runs_are_compared(run, pages, tmp_path):
    contract = contract_folder(tmp_path)
    plan = AnswerPlan(LADING, "json")

    def slowly(body):
        time.sleep(0.2)
        return reader(plan, 2, set())(body)

    words = ["--contract", contract, "--in", pages]
    with FaultServer(lambda _: None, answer=slowly) as server:
        name = ["--name", "the slow one", "--out", tmp_path / "slow.json"]
        assert run("benchmark_latency", "--server", server.url, *words, *name).code == 0
    with FaultServer(lambda _: None, answer=reader(plan, 2, set())) as server:
        outputs = ["--out", tmp_path / "fast.json", "--report", tmp_path / "r.html"]
        against = ["--against", tmp_path / "slow.json"]
        done = run("benchmark_latency", "--server", server.url, *words, *outputs, *against)
    assert done.code == 0 and "against the slow one" in done.err
    assert "the slow one, 1 at a time" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "p50=SECONDS" not in done.err
    bad = run(
        "benchmark_latency", "--server", "http://127.0.0.1:9/v1", *words, "--out", tmp_path / "x.json", "--slo", "p42=1"
    )
    assert bad.code == 2 and "p95=1.0s" in bad.err


def test_quantiles_are_numpys_and_know_infinity():
    import numpy

    draw = random.Random(1)
    for size in (1, 2, 7, 100):
        values = [draw.random() for _ in range(size)]
        for percent in (50, 90, 95, 99):
            assert quantile(values, percent) == pytest.approx(float(numpy.quantile(values, percent / 100)))
    assert quantile([1.0, float("inf")], 50) == float("inf") and quantile([1.0, 1.0, float("inf")], 50) == 1.0
    low, high = spread([float(n) for n in range(101)])["p50_interval"]
    assert low < 50 < high and spread([]) == {}


def test_objectives_say_which_documents_they_concern():
    documents = [{"status": "ok", "rows": n, "seconds": n / 10} for n in range(11)]
    assert Objective.parse("p50=0.5@rows<=10").verdict(documents)["met"]
    assert not Objective.parse("p95=0.5s").verdict(documents)["met"]
    assert Objective.parse("p99=0.2s@rows<3").verdict(documents) == {
        "slo": "p99=0.2s@rows<3",
        "documents": 3,
        "seconds": 0.198,
        "met": True,
    }
    assert not Objective.parse("p50=9@rows>50").verdict(documents)["met"]  # nothing was measured
    assert Load(concurrency=4).name == "4 at a time" and Load(rate=0.5).name == "0.5 a second"


def test_the_servers_own_means_are_differences():
    def metrics(seconds: str, count: str, hits: str) -> str:
        return (
            f'vllm:request_queue_time_seconds_sum{{engine="0"}} {seconds}\n'
            f'vllm:request_queue_time_seconds_count{{engine="0"}} {count}\n'
            f'vllm:prefix_cache_hits_total{{engine="0"}} {hits}\n'
        )

    figures = server_figures(metrics("1.0", "10.0", "5.0"), metrics("3.0", "14.0", "1.05e2"))
    assert figures["requests"] == 4 and figures["queue"] == 0.5 and figures["prefix_cache_hits"] == 100
    assert server_figures("", "") is None


def test_shards_read_the_weights_once_a_step_and_the_pages_once_each():
    shape = SHAPES["8b"]
    one = decode_bytes(shape, "bf16", 1000, [[100]])
    weights = shape.active * 2.0 + 2 * shape.head
    assert one == pytest.approx(100 * weights + 100 * 147_456 * 1050)
    assert decode_bytes(shape, "bf16", 1000, [[100, 40]]) == pytest.approx(one + 40 * 147_456 * 1020)
    assert decode_bytes(shape, "bf16", 1000, [[100, 40]], 1) < decode_bytes(shape, "bf16", 1000, [[100, 40]])
    whole = predicted_latency(shape, GPUS["h200"], "bf16", vision_tokens=1260, text_tokens=400, answer_tokens=840)
    cut = predicted_latency(
        shape, GPUS["h200"], "bf16", vision_tokens=1260, text_tokens=400, waves=[[4], [150, *[70] * 13]]
    )
    assert cut.total < whole.total / 3 and cut.prefill < 1.1 * whole.prefill


# Milliseconds of an engine as no part of the library computes them: a document, each wave, each request, each token of
# a prompt, each decoding step, each token of an answer.
ENGINE = {"document": 30.0, "wave": 12.0, "request": 25.0, "prompt": 0.08, "step": 9.0, "token": 0.5}


def engine_time(vision_tokens, text_tokens, waves) -> float:
    """What such an engine takes: prompts are read once, and the requests of a wave take each step together."""
    counts = {
        "document": 1,
        "wave": len(waves),
        "request": sum(map(len, waves)),
        "prompt": vision_tokens + text_tokens,
        "step": sum(map(max, waves)),
        "token": sum(map(sum, waves)),
    }
    return sum(ENGINE[name] * count for name, count in counts.items())


def documents(draw: random.Random, count: int) -> list[dict]:
    found = []
    for _ in range(count):
        shards, rows = (
            draw.randint(1, 12),
            draw.randint(1, 10),
        )  # many short shards cost other things than few long ones
        waves = [[4], [60, *[10 * rows] * shards]] if draw.random() < 0.7 else [[60 + 10 * rows * shards]]
        found.append({"vision_tokens": 400 * draw.randint(1, 4), "text_tokens": 150, "waves": waves})
    return found


def test_a_calibrated_prediction_is_right_for_documents_that_were_not_measured():
    """The engine's times come from a law of its own, 5 % apart at random; single requests and shards alike."""
    draw = random.Random(2)
    measured = documents(draw, 80)
    times = [engine_time(**one) * draw.uniform(0.95, 1.05) for one in measured]
    found = calibrated([terms(SHAPES["2b"], CPU, "bf16", **one) for one in measured], times)
    assert found.bandwidth == ASSUMED.bandwidth and min(found.fixed_ms, found.step_ms, found.token_ms) >= 0
    for other in documents(draw, 40):
        predicted = predicted_latency(SHAPES["2b"], CPU, "bf16", **other, efficiency=found).total
        assert predicted == pytest.approx(engine_time(**other), rel=0.06)


def test_a_folder_gives_its_own_shape(tiny_model, tiny_moe):
    from toolkit.model.loading import load_model

    for folder in (tiny_model, tiny_moe):
        shape = shape_of_config(json.loads((folder / "config.json").read_text(encoding="utf-8")), "tiny")
        model = load_model(str(folder))
        language = model.model.language_model
        per_token = (
            2 * language.config.num_key_value_heads * language.config.head_dim * language.config.num_hidden_layers * 2
        )
        assert shape.kv_bytes() == per_token and shape.head == model.lm_head.weight.numel()


def test_the_estimate_compares_forms_and_takes_measured_runs(run, easy_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(easy_dataset)
    words = ["--in", "data/train.jsonl", *"--gpu a6000 --precision bf16 --wire positional".split()]
    words += "--rows-per-shard 0 --rows-per-shard 1".split()
    done = run("estimate_latency", *words, "--p95", 10, "--json")
    whole, cut = done.json["estimates"]
    assert (whole["rows_per_shard"], cut["rows_per_shard"]) == (0, 1) and cut["rows"]["6-20"]["p95"] < whole["rows"][
        "6-20"
    ]["p95"]
    assert done.json["meets_p95"] == ["a6000 bf16", "a6000 bf16 in shards of 1"]
    documents = [
        {"status": "ok", "seconds": 0.1 + 0.01 * n, "vision_tokens": 300, "text_tokens": 60, "waves": [[10 * n]]}
        for n in range(1, 12)
    ]
    file = tmp_path / "measured.json"
    file.write_text(json.dumps({"runs": [{"concurrency": 1, "documents": documents}]}), encoding="utf-8")
    words = "--in data/train.jsonl --gpu cpu --precision bf16 --json".split()
    done = run("estimate_latency", *words, "--calibrate", file)
    assert done.code == 0 and done.json["calibrated"] and done.json["efficiency"]["wave_ms"] == 0, done.err
    assert "needs --calibrate" in run("estimate_latency", "--in", "data/train.jsonl", "--gpu", "cpu").err
    assert "name them" in run("estimate_latency", "--in", "data/train.jsonl", "--calibrate", file).err
    file.write_text(json.dumps({"runs": []}), encoding="utf-8")
    assert (
        "at least 8"
        in run(
            "estimate_latency", "--in", "data/train.jsonl", "--gpu", "cpu", "--precision", "bf16", "--calibrate", file
        ).err
    )
