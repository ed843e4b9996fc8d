"""Confidence: token probabilities reach the value they spell, the fitted model is monotone and calibrated, the figures are those of
their definitions, and unsure values reach a person."""

import json
import math
import random

import pytest
from conftest import REPOSITORY
from fault_server import FaultServer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_server_client import SCHEMA, extract, pages  # noqa: F401 - a fixture

from toolkit.answers.answer import Answer
from toolkit.answers.confidence import FEATURES, LIMIT, features_of, fitted, log_odds, places_of, quality
from toolkit.answers.predictions import unsure_values, value_of
from toolkit.answers.row_shards import AnswerPlan
from toolkit.answers.token_confidence import text_tokens, value_scores, value_spans
from toolkit.answers.wire_format import WireFormat
from toolkit.evaluation.scoring import judged_values, score_document
from toolkit.extraction.run import Judge
from toolkit.model.contract import Contract, load_contract
from toolkit.pages.evidence import DocumentWords
from toolkit.schema.checks import check_states
from toolkit.schema.target import TargetSchema, compact_json

LADING = TargetSchema.load(REPOSITORY / "schemas/bill_of_lading.schema.json")
ENUM = TargetSchema.parse(
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "port": {"enum": ["Hamburg", "Haifa", None]},
            "days": {"type": ["integer", "null"]},
            "paid": {"type": ["boolean", "null"]},
            "tags": {"type": "array", "maxItems": 4, "items": {"type": "string", "maxLength": 9}},
            "seller": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"name": {"type": ["string", "null"], "maxLength": 20}},
            },
        },
    },
    "enum.json",
)
WIRE, SHORT = WireFormat(ENUM, "json"), WireFormat(ENUM, "positional")


def characters(text: str, logprob: float = -0.5) -> list[tuple[int, int, float]]:
    return [(index, index + 1, logprob) for index in range(len(text))]


def test_only_free_tokens_of_a_value_count():
    raw = compact_json({"port": "Hamburg", "days": 14, "paid": None, "tags": ["a", "b"], "seller": {"name": "Æ\\x"}})
    scores = value_scores(WIRE, raw, characters(raw))
    # `"Ha` leaves two choices (and the quote leaves null out), `"Ham` one: the quote, H, a and m are free.
    assert scores["port"].logprob == pytest.approx(-0.5 * 4)
    assert scores["days"].logprob == pytest.approx(-0.5 * 3)  # 1, 4, and the comma that ends the number
    assert scores["paid"].logprob == pytest.approx(-0.5)  # n; ull follows from it
    assert scores["tags"].logprob == pytest.approx(-0.5 * 3)  # that it starts, goes on, and ends
    assert scores["tags[1]"].logprob == pytest.approx(-0.5 * 3)  # quote, b, quote
    assert scores["seller.name"].logprob == pytest.approx(-0.5 * len('"Æ\\\\x"'))
    assert all(score.lowest == -0.5 for score in scores.values())


def test_the_short_form_has_the_same_values():
    answer = {"port": "Haifa", "days": 14, "paid": None, "tags": ["a", "b"], "seller": {"name": "x"}}
    raw = SHORT.encoded(answer)
    assert raw == '[2,14,null,["a","b"],["x"]]'
    scores = value_scores(SHORT, raw, characters(raw))
    assert {name: score.logprob for name, score in scores.items()} == {
        "port": pytest.approx(-0.5),  # of two choices; that the number ends behind its digit is forced
        "days": pytest.approx(-1.5),
        "paid": pytest.approx(-0.5),
        "tags[0]": pytest.approx(-1.5),
        "tags[1]": pytest.approx(-1.5),
        "tags": pytest.approx(-1.5),
        "seller.name": pytest.approx(-1.5),
    }
    assert [s.name for s in value_spans(SHORT, raw)] == [s.name for s in value_spans(WIRE, WIRE.encoded(answer))]


def test_a_token_that_reaches_over_a_value_belongs_to_it():
    raw = '{"port":null,"days":null,"paid":true,"tags":[],"seller":{"name":null}}'
    cut = [
        ('{"port":null', -1.0),
        (',"days":', -9.0),
        ("null,", -2.0),
        ('"paid":', -9.0),
        ("tr", -3.0),
        ("ue", -9.0),
        (',"tags":', -9.0),
        ("[]", -4.0),
        (',"seller":{"name":', -9.0),
        ("null}}", -5.0),
        ("<|im_end|>", -9.0),
    ]
    tokens = text_tokens(cut, raw)
    assert tokens is not None and tokens[-1][1] == len(raw)
    scores = {name: score.logprob for name, score in value_scores(WIRE, raw, tokens).items()}
    assert scores == {"port": -1.0, "days": -2.0, "paid": -3.0, "tags": -4.0, "seller.name": -5.0}


def test_characters_spread_over_tokens_are_found_again():
    text = "a€b漢c"
    assert text_tokens(
        [("a", 0.1), ("\ufffd", 0.2), ("\ufffd", 0.3), ("b", 0.4), ("", 0.5), ("漢", 0.6), ("c", 0.7), ("<end>", 0)],
        text,
    ) == [
        (0, 1, 0.1),
        (1, 2, 0.2),
        (1, 2, 0.3),
        (2, 3, 0.4),
        (3, 3, 0.5),
        (3, 4, 0.6),
        (4, 5, 0.7),
    ]
    assert text_tokens([("a", 0.1), ("x", 0.2)], "ab") is None
    assert text_tokens([("a", 0.1)], "ab") is None


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    st.sampled_from(["Hamburg", "Haifa", None]),
    st.one_of(st.none(), st.integers(-99, 9999)),
    st.lists(TEXTS, max_size=4),
    st.one_of(st.none(), TEXTS),
    st.booleans(),
)
def test_every_value_has_its_span(port, days, tags, name, spaced):
    answer = {"port": port, "days": days, "paid": True, "tags": tags, "seller": {"name": name}}
    raw = json.dumps(answer, ensure_ascii=spaced, indent=1 if spaced else None)
    spans = value_spans(WIRE, raw)
    assert [span.name for span in spans] == [
        "port",
        "days",
        "paid",
        *(f"tags[{n}]" for n in range(len(tags))),
        "tags",
        "seller.name",
    ]
    for span in spans:
        if span.leaf is not None:
            assert json.loads(raw[span.start : span.end]) == value_of(answer, span.name)


def test_the_local_model_and_a_hand_computed_softmax_agree(easy_dataset, tiny_model):
    """Without the grammar the recorded log-probabilities are the model's; with it they are those among the tokens it allows."""
    import torch

    from toolkit.extraction.local_model import LocalModel
    from toolkit.model.encoding import collate, encode_prompt, open_page
    from toolkit.records.prompt import Prompt
    from toolkit.records.record import images_of, read_records

    record = next(iter(read_records(easy_dataset / "data/train.jsonl")))
    contract = Contract(LADING.raw, LADING.source, "read", "json", 384, 48)
    model = LocalModel(str(tiny_model), None, contract, grammar=False)
    pages_ = [open_page(easy_dataset / image) for image in images_of(record)]
    answer = model.answers([pages_, pages_])[1]
    assert answer.tokens and answer.tokens[-1][1] == len(answer.raw)
    inputs = encode_prompt(model.processor, Prompt("read", "json"), pages_)
    said = model.processor.tokenizer.encode(answer.raw, add_special_tokens=False)
    batch = collate([inputs], model.processor.tokenizer.pad_token_id)
    generated = torch.tensor([said])
    batch["input_ids"] = torch.cat([batch["input_ids"], generated], 1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(generated)], 1)
    with torch.no_grad():
        logits = model.model(**batch).logits[0, -len(said) - 1 : -1].log_softmax(-1)
    if len(said) == len(answer.tokens):  # the tokenizer cuts the text as the model wrote it
        by_hand = logits.gather(-1, generated[0][:, None])[:, 0].tolist()
        assert [logprob for _, _, logprob in answer.tokens] == pytest.approx(by_hand, abs=1e-3)
    under_grammar = LocalModel(str(tiny_model), None, contract).answers([pages_])[0]
    assert under_grammar.tokens and under_grammar.raw.startswith('{"consignee_name":')
    opening = [logprob for start, _, logprob in under_grammar.tokens if start == 0]
    assert (
        opening[0] > -5 and logits.max(-1).values[0] < -0.01
    )  # a random model spreads over all words, the grammar leaves a few


def test_checks_and_the_pages_text_are_features():
    rows = [
        {"container_number": "CSQU3054383", "container_size": "20", "container_type": "GP"},
        {"container_number": "CSQU3054384", "container_size": "40", "container_type": "HC"},
    ]
    answer = LADING.ordered(
        {"bl_number": "A1234", "vessel_name": "RINAVIA", "container_summary": "2 X 20GP", "containers": rows}
    )
    states = check_states(LADING, answer)
    assert states["containers[0].container_number"] == 1 and states["containers[1].container_number"] == -1
    assert states["containers"] == 1 and states["container_summary"] == 1
    assert check_states(LADING, answer | {"containers": rows[:1]})["containers"] == -1
    page = {
        "page": 1,
        "width": 400,
        "height": 400,
        "words": [
            [0, 0, 50, 10, "A1234"],
            [0, 50, 90, 60, "CSQU3054383"],
            [100, 50, 120, 60, "20"],
            [0, 100, 20, 110, "40"],
        ],
    }
    places = places_of(LADING, answer, DocumentWords([page]))
    assert places["bl_number"] and places["vessel_name"] is None
    assert places["containers[0].container_size"] and "containers[1].container_size" not in places
    raw = compact_json(answer)
    features = features_of(LADING, answer, value_scores(WireFormat(LADING, "json"), raw, characters(raw, -0.1)), places)
    assert features["bl_number"] == [pytest.approx(-0.7), -0.1, None, 0, 1] and features["vessel_name"][-2:] == [0, -1]
    assert features["containers[1].container_number"][2:] == [-0.1, -1, -1]


def synthetic(count: int, seed: int):
    """Values whose chance to be right is a known function of their features."""
    draw = random.Random(seed)
    names, features, right = [], [], []
    for index in range(count):
        p = draw.uniform(0.05, 0.999)
        check, text = draw.choice([-1, 0, 1]), draw.choice([-1, 0, 1])
        names.append(f"rows[{index}].a" if index % 2 else "b")
        features.append([math.log(p), math.log(p) / 2, None, check, text])
        odds = 0.8 * log_odds(math.log(p)) + 1.0 * check + 0.5 * text + (0.7 if index % 2 else -0.7)
        right.append(draw.random() < 1 / (1 + math.exp(-odds)))
    return names, features, right


def test_the_fitted_model_is_calibrated_and_monotone():
    model = fitted(*synthetic(4000, 1))
    names, features, right = synthetic(4000, 2)
    found = quality([model.probability(n, f) for n, f in zip(names, features)], right)
    assert found["ece"] < 0.03 and found["auroc"] > 0.8
    assert model.weights["check"] == pytest.approx(1.0, abs=0.15) and model.offsets["rows[].a"] > model.offsets["b"]
    assert all(weight >= 0 for weight in model.weights.values())
    for place in range(len(FEATURES)):
        lower = [-2.0, -2.0, -2.0, -1, -1]
        higher = [*lower[:place], lower[place] + 1.5, *lower[place + 1 :]]
        assert model.probability("b", higher) >= model.probability("b", lower)
    assert 0 < model.probability("never seen", [0.0, 0.0, None, 0, 0]) < 1


def test_nothing_is_learned_against_the_direction_of_a_feature():
    names, features, right = synthetic(1000, 3)
    model = fitted(names, features, [not value for value in right])
    assert all(weight == 0 for weight in model.weights.values())


def test_the_figures_are_those_of_their_definitions():
    confidence, right = [0.9, 0.8, 0.8, 0.3, 0.1], [True, True, False, True, False]
    found = quality(confidence, right)
    pairs = [
        (a > b) + 0.5 * (a == b) for a, r in zip(confidence, right) if r for b, s in zip(confidence, right) if not s
    ]
    assert found["auroc"] == pytest.approx(sum(pairs) / len(pairs))
    assert found["accuracy"] == 0.6 and found["accuracy_at_80"] == pytest.approx(3 / 4)
    # A fifth of the values is the first one alone; two fifths take half of the two that are equally sure.
    assert dict(map(tuple, found["risk_coverage"]))[0.4] == pytest.approx(0.5 / 2)
    assert found["ece"] == pytest.approx((0.1 + 0.2 + 0.8 + 0.7 + 0.1) / 5)
    assert quality([0.5, 0.5], [True, True])["auroc"] is None
    assert log_odds(0.0) == LIMIT and log_odds(math.log(0.5)) == pytest.approx(0) and log_odds(-50) == -LIMIT


def test_values_are_judged_as_they_are_scored():
    draw = random.Random(4)
    for _ in range(50):
        gold, answer = (
            LADING.ordered(
                {
                    "bl_number": draw.choice([None, "A", "B"]),
                    "vessel_name": draw.choice([None, "V"]),
                    "containers": [
                        {
                            "container_number": draw.choice(["CSQU3054383", "MSKU1234565", "TGHU1234563"]),
                            "container_size": draw.choice(["20", "40"]),
                        }
                        for _ in range(draw.randrange(4))
                    ],
                }
            )
            for _ in range(2)
        )
        judged = dict(judged_values(LADING, gold, answer))
        score = score_document(LADING, "x", gold, answer, "ok")
        wrong = sum(c["wrong"] + c["spurious"] for c in score.fields.values())
        missed_header = sum(score.fields[leaf.name]["miss"] for leaf in LADING.header)
        missed_in_rows = sum(1 for name, kind, _, _, row in score.errors if kind == "miss" and row is not None)
        found = sum(not value for name, value in judged.items() if name != "containers")
        # What a row that was never predicted lacks has no value to be judged.
        assert wrong + missed_header <= found <= wrong + missed_header + missed_in_rows
        assert judged["containers"] == (len(gold["containers"]) == len(answer["containers"]))


def test_windows_keep_the_confidence_of_the_window_that_said_it():
    import asyncio

    from toolkit.extraction.documents import Document
    from toolkit.extraction.run import prediction_of

    schema = TargetSchema.parse(SCHEMA, "s.json")
    said = {
        "p1": ({"name": "A", "rows": [{"key": "K1", "size": "20"}]}, -0.1),
        "p2": ({"name": None, "rows": [{"key": "K1", "size": None}, {"key": "K2", "size": "40"}]}, -0.2),
    }

    class Said:
        def prepare(self, page):
            return page

        async def __call__(self, part, shard, temperature, seed, hearing):
            answer, logprob = said[part[0]]
            raw = compact_json(answer)
            return Answer(raw, "stop", {}, 0.0, characters(raw, logprob))

    line = asyncio.run(
        prediction_of(Judge(AnswerPlan(schema, "json")), Said(), Document("d"), ["p1", "p2"], window=1, tries=1)
    )
    assert line["status"] == "ok" and len(line["prediction"]["rows"]) == 2
    lowest = {name: features[1] for name, features in line["features"].items()}
    assert lowest["name"] == -0.1 and lowest["rows[0].size"] == -0.1 and lowest["rows[1].key"] == -0.2
    assert lowest["rows"] == -0.2 and set(line["confidence"]) == set(lowest)


def answered(text: str, logprobs: list[tuple[str, float]]):
    content = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in logprobs]
    return {"message": {"content": text}, "finish_reason": "stop", "logprobs": {"content": content}}


def test_a_servers_log_probabilities_become_confidence_and_a_review_file(run, pages, tmp_path):  # noqa: F811
    folder = tmp_path / "model"
    Contract(SCHEMA, "s.json", "read", "json", 64, 100).save(folder)
    text = '{"name":"A","rows":[{"key":"K1","size":"20"}]}'
    pieces = [
        ('{"name":', -1.0),
        ('"A"', -0.7),
        (',"rows":[', -0.01),
        ('{"key":"', -0.01),
        ("K1", -0.02),
        ('","size":"', -0.01),
        ("20", -0.03),
        ('"}]}', -0.04),
        ("<|im_end|>", 0.0),
    ]
    with FaultServer(lambda _: None, answer=lambda _: answered(text, pieces)) as server:
        done, lines = extract(run, server, folder, pages, tmp_path, "--limit", 1, "--review-below", 0.9)
    assert done.code == 0, done.err
    assert server.requests[0]["logprobs"] is True
    line = lines["doc0.png"]
    assert line["confidence"]["name"] == pytest.approx(math.exp(-0.7), abs=1e-4)
    assert "not calibrated" in done.err and done.json["to_review"] == 1
    review = [json.loads(entry) for entry in (tmp_path / "out.review.jsonl").read_text(encoding="utf-8").splitlines()]
    assert review == [{"id": "doc0.png", "name": "name", "value": "A", "confidence": line["confidence"]["name"]}]


def test_without_log_probabilities_nothing_is_invented(run, pages, tmp_path):  # noqa: F811
    folder = tmp_path / "model"
    Contract(SCHEMA, "s.json", "read", "json", 64, 100).save(folder)
    good = compact_json({"name": "A", "rows": []})
    with FaultServer(lambda _: None, answer=lambda _: good) as server:
        done, lines = extract(run, server, folder, pages, tmp_path, "--limit", 1, "--no-confidence")
    assert done.code == 0 and "logprobs" not in server.requests[0]
    assert lines["doc0.png"]["confidence"] is None and "features" not in lines["doc0.png"]
    assert unsure_values(lines["doc0.png"], 0.5) == [{"error": "the confidence of its values is not known"}]
    wrong = run(
        "extract_documents",
        "--server",
        "http://127.0.0.1:9/v1",
        "--contract",
        folder,
        "--in",
        pages,
        "--out",
        tmp_path / "o.jsonl",
        "--review-below",
        0.5,
        "--no-confidence",
    )
    assert wrong.code == 2 and "--no-confidence" in wrong.err


def test_a_model_of_the_short_form_is_asked_in_it_and_answers_publicly(run, pages, tmp_path):  # noqa: F811
    folder = tmp_path / "model"
    Contract(SCHEMA, "s.json", "read", "json", 64, 100, wire="positional").save(folder)
    public = {"name": "A", "rows": [{"key": "K1", "size": "20"}]}
    with FaultServer(lambda _: None, answer=lambda _: '["A",[["K1","20"]]]') as server:
        done, lines = extract(run, server, folder, pages, tmp_path, "--limit", 1)
    assert done.code == 0, done.err
    assert lines["doc0.png"]["prediction"] == public and lines["doc0.png"]["raw"].startswith('["A"')
    sent = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert sent["type"] == "array" and len(sent["prefixItems"]) == 2
    with FaultServer(lambda _: None, answer=lambda _: '["A"]') as server:
        done, lines = extract(run, server, folder, pages, tmp_path, "--limit", 1, "--overwrite", "--tries", 1)
    assert done.code == 1 and lines["doc0.png"]["status"] == "schema_error"


@pytest.fixture
def predicted(workspace):
    """Predictions of 40 documents with one value each side, and their gold; sure ones are right more often."""
    Contract(LADING.raw, LADING.source, "read", "json", 64, 100).save(workspace / "model")
    draw = random.Random(5)
    gold, lines = [], []
    for number in range(40):
        answer = LADING.ordered({"bl_number": f"B{number}", "vessel_name": "V", "containers": []})
        given, features = dict(answer), {}
        for name in ("bl_number", "vessel_name"):
            p = draw.uniform(0.3, 1.0)
            features[name] = [math.log(p), math.log(p), None, 0, 0]
            if draw.random() > p:
                given[name] = "XX"
        gold.append({"id": f"d{number}", "gold": answer, "meta": {"schema": "schemas/bill_of_lading.schema.json"}})
        lines.append(
            {
                "id": f"d{number}",
                "status": "ok",
                "prediction": given,
                "features": features,
                "confidence": {n: round(math.exp(f[0]), 4) for n, f in features.items()},
            }
        )
    for name, values in (("gold.jsonl", gold), ("pred.jsonl", lines)):
        (workspace / name).write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    return workspace


def test_calibration_is_stored_with_the_contract_and_reported(run, predicted):
    done = run("calibrate_confidence", "--pred", "pred.jsonl", "--gold", "gold.jsonl", "--contract", "model", "--json")
    assert done.code == 0, done.err
    stored = load_contract(predicted / "model")
    assert stored.confidence and stored.confidence["values"] == 80 and stored.confidence["weights"]["logprob"] > 0
    assert Judge(stored.answer_plan, stored.confidence).model is not None
    scores = run("evaluate_predictions", "--pred", "pred.jsonl", "--gold", "gold.jsonl", "--report", "r.html", "--json")
    assert scores.code == 0, scores.err
    found = scores.json["confidence"]
    assert found["values"] == 80 and 0.5 < found["auroc"] < 1 and "AUROC" in scores.out
    assert "risk_coverage" in (predicted / "r.html").read_text(encoding="utf-8")
    assert (
        len(
            json.loads((predicted / "r.json").read_text(encoding="utf-8"))["predictions"]["confidence"]["risk_coverage"]
        )
        == 20
    )


def test_too_few_errors_to_calibrate_are_one_sentence(run, predicted):
    lines = [json.loads(line) for line in (predicted / "gold.jsonl").read_text(encoding="utf-8").splitlines()]
    right = [
        {
            "id": line["id"],
            "status": "ok",
            "prediction": line["gold"],
            "features": {"bl_number": [-0.1, -0.1, None, 0, 0]},
        }
        for line in lines
    ]
    (predicted / "right.jsonl").write_text("".join(json.dumps(line) + "\n" for line in right), encoding="utf-8")
    done = run("calibrate_confidence", "--pred", "right.jsonl", "--gold", "gold.jsonl", "--contract", "model")
    assert done.code == 1 and "not enough" in done.err and load_contract(predicted / "model").confidence is None
