"""The review page in a real browser: what it saves, and what becomes of the edits that the browser keeps."""

import json
import random

import pytest
from browser import MISSING, Browser
from conftest import png
from review_cases import ODD_NAMES, any_answer, nested_schema

from toolkit.files import write_json

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture(scope="module")
def one_browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser") / "one") as browser:
        yield browser


@pytest.fixture
def browser(one_browser, tmp_path):
    """A browser that keeps nothing of another test."""
    (tmp_path / "empty.html").write_text("<!doctype html>", encoding="utf-8")
    one_browser.open(tmp_path / "empty.html")
    one_browser.run("localStorage.clear()")
    yield one_browser
    assert one_browser.errors() == []


@pytest.fixture
def review(run, tmp_path):
    """`review({id: answer}, schema)` writes predictions and their page, in one place, and returns the page."""

    def make(answers, schema=None, out="review.html"):
        schema = schema or nested_schema()
        write_json(tmp_path / "s.json", schema.raw)
        png(tmp_path / "images" / "another_document.png")
        lines = [{"id": name, "status": "ok", "prediction": answer} for name, answer in answers.items()]
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        inputs = ["--pred", tmp_path / "p.jsonl", "--images-dir", tmp_path / "images", "--schema", tmp_path / "s.json"]
        done = run("review_predictions", *inputs, "--out", tmp_path / out)
        assert done.code == 1 and "no page images" in done.err
        return tmp_path / out

    return make


def answer_of(name="a seller", **more):
    schema = nested_schema()
    return schema.ordered({"seller": {"name": name}, "party": ["A", "B"], **more})


def tick_all_and_save(browser, ids):
    for name in ids:
        browser.click("#list button", name)
        if not browser.run("return document.getElementById('reviewed').checked"):
            browser.click("#reviewed")
    browser.click("#save")
    return json.loads(browser.downloaded("reviewed.json"))


def earlier(browser, lines):
    """The page's lines on earlier runs, once there are `lines` of them."""
    texts = "return [...document.querySelectorAll('#earlier p')].map(e => e.firstChild.textContent)"
    found = browser.wait(lambda: browser.run(texts), lambda seen: len(seen) == lines)
    assert len(found) == lines
    return found


def shows(browser, label, text):
    return browser.wait(lambda: browser.value(label), lambda seen: seen == text) == text


def test_saved_labels_of_nested_answers_are_the_predictions(browser, review):
    rng = random.Random(3)
    answers = {f"document {number} ü.pdf": any_answer(nested_schema().raw, rng) for number in range(6)}
    browser.open(review(answers))
    table = tick_all_and_save(browser, answers)
    # The page lists the documents in an order of its own.
    assert {row.pop("Filename"): json.dumps(row, sort_keys=True) for row in table} == {
        name: json.dumps(answer, sort_keys=True) for name, answer in answers.items()
    }


def test_edits_reach_exactly_their_places(browser, review):
    answer = answer_of(goods={"lines": [{"item": {"name": "i"}, "maker": {"name": "m"}, "amount": 1}]})
    browser.open(review({"d": answer}))
    header = {"seller.name": "S", "buyer.name": "B", "seller.address.city": "Bern", "paid": "false", "total": "12.50"}
    lists = {"party[1]": "Second", "goods.lines[0].maker.name": "M", "goods.lines[0].amount": "2"}
    odd = {"status": "open", "odd.__proto__": "P", "odd.constructor": "C", "odd.a.b": "dotted"}
    for label, value in (header | lists | odd).items():
        browser.type(label, value)
    row = tick_all_and_save(browser, ["d"])[0]
    assert row == {"Filename": "d"} | answer | {
        "seller": {"name": "S", "address": {"city": "Bern", "zip": None}},
        "buyer": {"name": "B", "address": {"city": None, "zip": None}},
        "paid": False,
        "total": 12.5,
        "status": "open",
        "party": ["A", "Second"],
        "goods": {"lines": [{"item": {"name": "i"}, "maker": {"name": "M"}, "amount": 2}]},
        "odd": dict.fromkeys(ODD_NAMES) | {"__proto__": "P", "constructor": "C", "a.b": "dotted"},
    }


def test_edits_survive_a_reload_of_the_same_page(browser, review):
    page = review({"d": answer_of()})
    browser.open(page)
    browser.type("seller.name", "edited")
    browser.open(page)
    assert shows(browser, "seller.name", "edited") and earlier(browser, 0) == []
    # The same predictions written again, to another place, are the same run.
    browser.open(review({"d": answer_of()}, out="again.html"))
    assert shows(browser, "seller.name", "edited") and earlier(browser, 0) == []


def test_edits_of_an_earlier_run_never_show_over_new_predictions(browser, review):
    browser.open(review({"d": answer_of("first model"), "e": answer_of()}))
    browser.type("seller.name", "edited")
    browser.open(review({"d": answer_of("second model"), "e": answer_of()}))
    assert "Loading replaces the predictions of 1 document." in earlier(browser, 1)[0]
    assert browser.value("seller.name") == "second model"
    assert tick_all_and_save(browser, ["d"])[0]["seller"]["name"] == "second model"


def test_edits_of_an_earlier_run_can_be_loaded(browser, review):
    browser.open(review({"d": answer_of("first model"), "e": answer_of()}))
    browser.type("seller.name", "edited")
    browser.click("#reviewed")
    page = review({"d": answer_of("second model"), "e": answer_of()})
    browser.open(page)
    browser.click("#earlier button", "Load")
    assert shows(browser, "seller.name", "edited") and earlier(browser, 0) == []
    browser.open(page)
    assert shows(browser, "seller.name", "edited") and earlier(browser, 0) == []
    assert [row["seller"]["name"] for row in tick_all_and_save(browser, ["d"])] == ["edited"]
    browser.click("button", "Back to the prediction")
    assert shows(browser, "seller.name", "second model")


def test_loading_leaves_newer_edits_alone_and_keeps_the_older_ones(browser, review):
    browser.open(review({"d": answer_of("first model"), "e": answer_of("first model")}))
    browser.type("seller.name", "old d")
    browser.click("#list button", "e")
    browser.type("seller.name", "old e")
    page = review({"d": answer_of("second model"), "e": answer_of("second model")})
    browser.open(page)
    assert browser.wait(lambda: "2 documents)" in earlier(browser, 1)[0], bool)
    browser.type("seller.name", "new d")
    browser.click("#earlier button", "Load")
    assert shows(browser, "seller.name", "new d")
    browser.click("#list button", "e")
    assert shows(browser, "seller.name", "old e")
    assert "have newer edits" in earlier(browser, 1)[0]
    browser.click("#earlier button", "Download")
    kept = json.loads(browser.downloaded("earlier_edits.json"))
    assert [row["seller"]["name"] for row in kept["unfinished"]] == ["old d"] and kept["reviewed"] == []


def test_edits_of_other_documents_or_fields_can_be_downloaded_but_not_loaded(browser, review):
    browser.open(review({"d": answer_of("first model")}))
    browser.type("seller.name", "edited")
    browser.click("#reviewed")
    browser.open(review({"other": answer_of()}))
    assert "not those of this page" in earlier(browser, 1)[0]
    assert "Load" not in browser.run("return [...document.querySelectorAll('#earlier button')].map(e => e.textContent)")
    browser.open(review({"d": {}}, nested_schema().without({"paid"})))
    assert "not those of this page" in earlier(browser, 1)[0]
    browser.click("#earlier button", "Download")
    kept = json.loads(browser.downloaded("earlier_edits.json"))
    assert kept["reviewed"] == [{"Filename": "d"} | answer_of("edited")]


def test_edits_of_an_earlier_run_go_only_when_the_person_says_so(browser, review):
    browser.open(review({"d": answer_of("first model")}))
    browser.type("seller.name", "edited")
    page = review({"d": answer_of("second model")})
    browser.open(page)
    browser.run("window.confirm = () => false")
    browser.click("#earlier button", "Discard")
    assert earlier(browser, 1)
    browser.run("window.confirm = () => true")
    browser.click("#earlier button", "Discard")
    browser.open(page)
    assert earlier(browser, 0) == [] and browser.run("return localStorage.length") == 0


def test_work_that_an_older_version_of_the_page_kept_is_offered_for_download(browser, review):
    page = review({"d": answer_of()})
    browser.open(page)
    kept = json.dumps({"d": {"values": {"seller.name": "old"}}})
    browser.run("localStorage.setItem(`review ${location.pathname} 1 d`, arguments[0])", kept)
    browser.open(page)
    assert "cannot be loaded" in earlier(browser, 1)[0] and shows(browser, "seller.name", "a seller")
    browser.click("#earlier button", "Download")
    assert json.loads(browser.downloaded("earlier_edits.json"))["d"]["values"] == {"seller.name": "old"}


def test_kept_work_that_cannot_be_read_is_set_aside(browser, review):
    page = review({"d": answer_of()})
    browser.open(page)
    browser.type("seller.name", "edited")
    browser.run("localStorage.setItem(Object.keys(localStorage)[0], 'damaged')")
    browser.open(page)
    assert "cannot be loaded" in earlier(browser, 1)[0]
    browser.type("seller.name", "edited again")
    browser.click("#earlier button", "Download")
    assert browser.downloaded("earlier_edits.json") == "damaged"


def test_a_browser_that_keeps_nothing_says_so(browser, review):
    browser.open(review({"d": answer_of()}))
    browser.run("Storage.prototype.setItem = () => { throw new Error('full'); }")
    browser.type("seller.name", "edited")
    note = "return document.getElementById('note').textContent"
    assert "cannot keep unfinished work" in browser.run(note)
    assert tick_all_and_save(browser, ["d"])[0]["seller"]["name"] == "edited"


def test_saving_names_values_that_do_not_fit_the_schema(browser, review):
    browser.open(review({"d": answer_of()}))
    browser.type("total", "12,50")
    assert tick_all_and_save(browser, ["d"])[0]["total"] == "12,50"
    note = browser.run("return document.getElementById('note').textContent")
    assert note == "1 document saved. 1 of their values do not fit the schema: d, total, not a number"


def test_a_removed_row_leaves_the_others_as_they_were(browser, review):
    browser.open(review({"d": answer_of(party=["A", "B", "C"])}))
    browser.run("document.querySelectorAll('td button')[0].click()")
    changed = "return [...document.querySelectorAll('td .changed')].length"
    assert shows(browser, "party[0]", "B") and browser.run(changed) == 0
    assert tick_all_and_save(browser, ["d"])[0]["party"] == ["B", "C"]


@pytest.mark.parametrize(
    "value", ["</script><script>window.hit = 1</script>", "<!--<script>", "<!-- a", "]]>", "/*DATA*/null"]
)
def test_no_value_breaks_the_page(browser, review, value):
    browser.open(review({value[:12]: answer_of(value, party=[value])}))
    assert browser.run("return window.hit ?? null") is None and shows(browser, "seller.name", value)
    assert tick_all_and_save(browser, [value[:12]])[0]["party"] == [value]


def test_documents_may_have_the_names_of_javascripts_own_members(browser, review):
    names = ["__proto__", "constructor", "toString", "<!--<script>"]
    browser.open(review({name: answer_of(f"seller of {name}") for name in names}))
    for name in names:
        browser.click("#list button", name)
        browser.type("seller.name", f"edited {name}")
    table = tick_all_and_save(browser, names)
    assert {row["Filename"]: row["seller"]["name"] for row in table} == {name: f"edited {name}" for name in names}
