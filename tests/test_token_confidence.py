"""Token probabilities: each reaches the value that it spells, and only where the model had a choice."""

import json

import pytest
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from test_server_client import SCHEMA, extract, pages  # noqa: F401 - a fixture

from toolkit.answers.token_confidence import text_tokens, value_scores, value_spans
from toolkit.answers.wire_format import WireFormat
from toolkit.model.contract import Contract
from toolkit.schema.answer_values import value_named
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
    words = ("a", "\ufffd", "\ufffd", "b", "", "漢", "c", "<end>")
    logprobs = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0)
    places = ((0, 1), (1, 2), (1, 2), (2, 3), (3, 3), (3, 4), (4, 5))
    expected = [(start, end, logprob) for (start, end), logprob in zip(places, logprobs, strict=False)]
    assert text_tokens(list(zip(words, logprobs, strict=True)), text) == expected
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
    items = [f"tags[{n}]" for n in range(len(tags))]
    assert [span.name for span in spans] == ["port", "days", "paid", *items, "tags", "seller.name"]
    for span in spans:
        if span.leaf is not None:
            assert json.loads(raw[span.start : span.end]) == value_named(answer, span.name)


def test_the_local_model_and_a_hand_computed_softmax_agree(easy_dataset, tiny_model):
    """Without the grammar the recorded log-probabilities are the model's; with it, those among the tokens it allows."""
    import torch

    from toolkit.extraction.local_model import LocalModel
    from toolkit.model.encoding import collate, encode_prompt
    from toolkit.pages.opening import open_page
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
    # A random model spreads over all words, and the grammar leaves a few.
    assert opening[0] > -5 and logits.max(-1).values[0] < -0.01
