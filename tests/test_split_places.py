"""Where the split puts a document: old ones stay, copies lie where their originals do, and a split of other data is
not replaced."""

import json
import random

import pytest
from conftest import Outcome
from hypothesis import given, settings, strategies

from toolkit.records.splits import NAMES, Documents, assign, grouped

RATIOS = [0.6, 0.2, 0.2]


def record(identity, image, answer, schema="schemas/receipt.schema.json"):
    text = answer if isinstance(answer, str) else json.dumps(answer)
    images = [{"type": "image", "image": path} for path in ([image] if isinstance(image, str) else image)]
    return {
        "id": identity,
        "messages": [
            {"role": "user", "content": [*images, {"type": "text", "text": "json"}]},
            {"role": "assistant", "content": [{"type": "text", "text": text}]},
        ],
        "meta": {"schema": schema},
    }


def receipt(number, **change):
    values = {"company": f"Company {number % 40}", "date": f"2026-01-{number % 28 + 1:02d}", "total": f"{number}.00"}
    return values | {"address": None} | change


def page(workspace, name, content):
    """A page for --compare-images bytes: any bytes will do, and equal ones are one page."""
    path = workspace / "i" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return f"i/{name}"


def documents_of(workspace, count, start=0):
    return [
        record(f"doc {n:05d}", page(workspace, f"{n}.png", f"page {n}"), receipt(n))
        for n in range(start, start + count)
    ]


def write(path, records):
    path.write_text("".join(json.dumps(line) + "\n" for line in records), encoding="utf-8")


@pytest.fixture
def split(run, workspace):
    """`split(records, *arguments)` writes d.jsonl and splits it by the bytes of its pages."""

    def call(records, *arguments, name="d.jsonl") -> Outcome:
        write(workspace / name, records)
        return run("split_jsonl", "--in", name, "--compare-images", "bytes", "--json", *arguments)

    return call


def places(folder):
    return {
        json.loads(line)["id"]: name for name in NAMES for line in (folder / f"{name}.jsonl").read_text().splitlines()
    }


def second_copies(workspace, originals, count, seed=0):
    """Copies whose names sort before every other: the same page and answer in a file of its own."""
    chosen = random.Random(seed).sample(originals, count)
    copies = []
    for number, one in enumerate(chosen):
        page_of = (workspace / one["messages"][0]["content"][0]["image"]).read_text()
        copy = page(workspace, f"copy {number}.png", page_of)
        copies.append(record(f"a copy of {one['id']}", copy, one["messages"][1]["content"][0]["text"]))
    return copies


# --- old documents stay ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hash", "balanced"])
def test_a_hundred_second_copies_move_none_of_two_thousand_documents(split, workspace, mode):
    old = documents_of(workspace, 2000)
    split(old, "--assign", mode)
    before = places(workspace / "data/splits")
    done = split(second_copies(workspace, old, 100) + old, "--assign", mode)
    after = places(workspace / "data/splits")
    assert done.code == 0 and (done.json["kept"], done.json["moved"]) == (2000, 0)
    assert [name for name in before if after[name] != before[name]] == []
    assert all(after[copy] == before[copy.removeprefix("a copy of ")] for copy in set(after) - set(before))


def test_exact_copies_move_none_when_all_is_split_from_scratch(split, workspace):
    old = documents_of(workspace, 2000)
    split(old, "--out-dir", "one")
    split(second_copies(workspace, old, 100) + old, "--out-dir", "two")
    before, after = places(workspace / "one"), places(workspace / "two")
    assert [name for name in before if after[name] != before[name]] == []


def test_revised_copies_with_the_same_label_key_move_none_from_scratch(split, workspace):
    schema = json.loads((workspace / "schemas/receipt.schema.json").read_text())
    schema["properties"]["total"]["x-extract"]["key"] = True
    (workspace / "revised_copies_with_the_.json").write_text(json.dumps(schema))
    old = [one | {"meta": {"schema": "revised_copies_with_the_.json"}} for one in documents_of(workspace, 300)]
    split(old, "--out-dir", "one")
    revised = [
        record(
            f"a{n}",
            page(workspace, f"r{n}.png", f"revised {n}"),
            receipt(n, company="NEW"),
            "revised_copies_with_the_.json",
        )
        for n in range(0, 300, 3)
    ]
    done = split(revised + old, "--out-dir", "two")
    before, after = places(workspace / "one"), places(workspace / "two")
    assert done.json["groups"] == 300 and all(after[name] == place for name, place in before.items())


def test_more_documents_of_one_shipper_move_none_from_scratch(split, workspace):
    old = documents_of(workspace, 400)
    split(old, "--out-dir", "one", "--group-by", "company")
    more = [one | {"id": f"a{one['id']}"} for one in documents_of(workspace, 400, start=400)]
    split(more + old, "--out-dir", "two", "--group-by", "company")
    before, after = places(workspace / "one"), places(workspace / "two")
    assert all(after[name] == place for name, place in before.items())
    assert len(set(before.values())) == 3  # the 40 shippers are spread


def test_new_ratios_seeds_and_modes_place_new_documents_only_unless_all_are_reassigned(split, workspace):
    old = documents_of(workspace, 200)
    split(old)
    before = places(workspace / "data/splits")
    done = split(old + documents_of(workspace, 100, start=200), "--ratios", "0/0/100", "--seed", "7")
    after = places(workspace / "data/splits")
    assert all(after[name] == place for name, place in before.items())
    assert {after[name] for name in set(after) - set(before)} == {"test"}
    assert "was split with --ratios 80/10/10, --seed 0" in done.err and "--reassign places all anew" in done.err
    assert split(old, "--ratios", "0/0/100", "--reassign").json["test"] == 200


def test_a_document_that_joins_two_sides_takes_its_group_to_the_earliest_and_every_move_is_named(split, workspace):
    old = documents_of(workspace, 200)
    split(old)
    before = places(workspace / "data/splits")
    sides = {side: next(one for one in old if before[one["id"]] == side) for side in NAMES}
    images = [sides[side]["messages"][0]["content"][0]["image"] for side in ("test", "val")]
    joins = record("aaa", images, receipt(9001))
    done = split([*old, joins])
    after = places(workspace / "data/splits")
    moved = sides["test"]["id"]
    assert after["aaa"] == after[moved] == after[sides["val"]["id"]] == "val"
    assert {name for name in before if after[name] != before[name]} == {moved} and done.json["moved"] == 1
    assert f"{moved} (test to val)" in done.err
    assert [json.loads(line) for line in (workspace / "data/splits/moved.jsonl").read_text().splitlines()] == [
        {"id": moved, "from": "test", "to": "val"}
    ]
    train = sides["train"]["messages"][0]["content"][0]["image"]
    done = split([*old, joins, record("aab", [images[0], train], receipt(9002))])
    assert done.json["moved"] == 3 and places(workspace / "data/splits")[moved] == "train"
    split([*old, joins])
    assert not (workspace / "data/splits/moved.jsonl").exists()


def test_the_places_of_removed_documents_are_remembered(split, workspace):
    old = documents_of(workspace, 200)
    split(old)
    before = places(workspace / "data/splits")
    gone = [one for one in old if before[one["id"]] == "test"][:3]
    # Renamed pages: from scratch they would lie elsewhere.
    back = [
        record(one["id"], page(workspace, f"back {n}.png", f"back {n}"), receipt(7000 + n))
        for n, one in enumerate(gone)
    ]
    done = split([one for one in old if one not in gone])
    assert done.json["removed"] == 3 and "3 documents of the earlier split are no longer in d.jsonl" in done.err
    split([one for one in old if one not in gone])
    done = split([one for one in old if one not in gone] + back)
    assert done.json["removed"] == 0 and not (workspace / "data/splits/removed.jsonl").exists()
    assert places(workspace / "data/splits") == before


def test_an_earlier_split_with_a_document_on_two_sides_is_mended_to_the_earliest(split, workspace):
    old = documents_of(workspace, 60)
    split(old)
    folder = workspace / "data/splits"
    (folder / "test.jsonl").write_text(
        (folder / "test.jsonl").read_text() + (folder / "train.jsonl").read_text().splitlines()[0] + "\n"
    )
    twice = json.loads((folder / "train.jsonl").read_text().splitlines()[0])["id"]
    done = split(old)
    assert f"1 documents stand twice in data/splits; the earliest of train, val, test counts: {twice}" in done.err
    assert places(folder)[twice] == "train" and len(places(folder)) == 60


# --- what is no identity --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        {"company": None, "date": None, "address": None, "total": None},
        {"company": "", "date": " ", "address": None, "total": ""},
        {},
        {"company": None, "date": None, "address": None, "total": "EUR"},
        {"company": "ACME", "date": None, "address": "acme", "total": "ACME "},
        "",
    ],
    ids=["nulls", "blanks", "empty", "one constant", "one value three times", "no answer"],
)
def test_answers_that_say_too_little_join_nothing(split, workspace, answer):
    records = [record(f"doc {n}", page(workspace, f"{n}.png", f"page {n}"), answer) for n in range(60)]
    done = split(records)
    assert done.json["groups"] == 60 and done.json["train"] < 60


def test_choices_of_the_schema_do_not_make_an_answer_an_identity(split, workspace):
    text = {"type": ["string", "null"], "maxLength": 9}
    choice = {"enum": ["EUR", "USD", None]}
    fields = {
        "a": choice,
        "b": choice | {"enum": ["invoice", None]},
        "paid": {"type": ["boolean", "null"]},
        "c": text,
        "d": text,
        "e": text,
    }
    schema = {"type": "object", "additionalProperties": False, "properties": fields}
    (workspace / "choices_of_the_schema_do.json").write_text(json.dumps(schema))
    weak = {"a": "EUR", "b": "invoice", "paid": True, "c": "x", "d": "y", "e": None}
    records = [
        record(
            f"doc {n}",
            page(workspace, f"{n}.png", f"page {n}"),
            weak | {"e": None if n < 20 else f"{n % 2}"},
            "choices_of_the_schema_do.json",
        )
        for n in range(40)
    ]
    assert split(records).json["groups"] == 22


def test_absent_values_of_a_group_by_field_and_of_a_label_key_join_nothing(split, workspace):
    schema = json.loads((workspace / "schemas/receipt.schema.json").read_text())
    for name in ("company", "total"):
        schema["properties"][name]["x-extract"]["key"] = True
    (workspace / "absent_values_of_a_group.json").write_text(json.dumps(schema))
    blank = {"company": "-", "date": " ", "address": "", "total": "."}
    records = [
        record(f"doc {n}", page(workspace, f"{n}.png", f"page {n}"), blank, "absent_values_of_a_group.json")
        for n in range(20)
    ]
    assert split(records, "--group-by", "date", "--group-by", "address").json["groups"] == 20


def test_documents_that_share_a_form_and_say_little_are_not_one_group(split, workspace):
    """Answers too small to identify a document still tell six documents on one form's back apart."""
    back = page(workspace, "back.png", "back")
    records = [
        record(f"doc {n}", [back, page(workspace, f"{n}.png", f"page {n}")], {"total": f"{n}"}) for n in range(20)
    ]
    done = split(records)
    assert done.json["groups"] == 20 and 0 < done.json["train"] < 20


def test_the_folder_that_images_lie_in_moves_none(run, workspace):
    records = documents_of(workspace, 100)
    write(workspace / "d.jsonl", records)
    for folder, root in (("one", "."), ("two", workspace), ("three", "elsewhere")):
        run("split_jsonl", "--in", "d.jsonl", "--compare-images", "names", "--root", root, "--out-dir", folder)
    assert places(workspace / "one") == places(workspace / "two") == places(workspace / "three")


# --- other data -----------------------------------------------------------------------------------------------------


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def other_data(workspace, *, same_ids):
    return [
        record(
            f"doc {n:05d}" if same_ids else f"other {n}", page(workspace, f"o{n}.png", f"other {n}"), receipt(n + 5000)
        )
        for n in range(80)
    ]


@pytest.mark.parametrize("same_ids", [True, False])
def test_a_split_of_other_data_is_replaced_only_when_told_to(split, workspace, same_ids):
    split(documents_of(workspace, 80))
    before, there = contents(workspace / "data/splits"), places(workspace / "data/splits")
    for more in ((), ("--reassign",)):
        done = split(other_data(workspace, same_ids=same_ids), *more, name="other.jsonl")
        assert done.code == 2 and "data/splits holds a split of other data: 0 of its 80 documents" in done.err
        assert "--overwrite" in done.err and contents(workspace / "data/splits") == before
    done = split(other_data(workspace, same_ids=same_ids), "--overwrite", name="other.jsonl")
    assert done.code == 0 and done.json["kept"] == 0 and done.json["removed"] == 0
    assert places(workspace / "data/splits") != there


def test_the_file_that_the_split_was_made_of_may_hold_new_documents_only_and_the_old_places_are_remembered(
    split, workspace
):
    old = documents_of(workspace, 40)
    split(old)
    before = places(workspace / "data/splits")
    done = split(other_data(workspace, same_ids=False))
    assert (done.code, done.json["kept"], done.json["removed"]) == (0, 0, 40)
    assert "40 documents of the earlier split are no longer in d.jsonl" in done.err
    split(old + other_data(workspace, same_ids=False))
    assert before.items() <= places(workspace / "data/splits").items()


def test_a_checked_copy_of_the_same_data_and_new_labels_keep_their_places(split, workspace):
    old = documents_of(workspace, 100)
    split(old)
    before = places(workspace / "data/splits")
    done = split(old[5:] + documents_of(workspace, 20, start=100), name="d.valid.jsonl")
    assert done.code == 0 and done.json["kept"] == 95
    relabelled = [record(f"doc {n:05d}", f"i/{n}.png", receipt(n + 300)) for n in range(100)]
    assert split(relabelled, name="labela_checked_copy_of_the_sa.jsonl").json["kept"] == 100
    assert places(workspace / "data/splits") == before


def test_what_both_data_sets_hold_stays_when_the_other_split_is_replaced(split, workspace):
    old = documents_of(workspace, 100)
    split(old)
    before = places(workspace / "data/splits")
    mixed = old[:30] + other_data(workspace, same_ids=False)
    done = split(mixed, "--overwrite", "--ratios", "0/0/100", name="mixed.jsonl")
    after = places(workspace / "data/splits")
    assert done.json["kept"] == 30 and all(after[one["id"]] == before[one["id"]] for one in old[:30])


def test_a_lone_training_file_is_no_split_and_the_input_is_never_replaced(split, run, workspace):
    records = documents_of(workspace, 30)
    (workspace / "data").mkdir()
    write(workspace / "data/train.jsonl", records)
    done = split(records, "--out-dir", "data")
    assert done.code == 2 and "data/train.jsonl is there already and is no part of a split" in done.err
    done = run(
        "split_jsonl", "--in", "data/train.jsonl", "--out-dir", "data", "--compare-images", "bytes", "--overwrite"
    )
    assert done.code == 2 and "train.jsonl there is the input" in done.err
    assert len((workspace / "data/train.jsonl").read_text().splitlines()) == 30


def test_keep_and_the_output_folder_must_agree(split, workspace):
    old = documents_of(workspace, 60)
    split(old, "--out-dir", "one")
    split(old, "--seed", "5", "--out-dir", "two")
    done = split(old, "--keep", "one", "--out-dir", "two")
    assert done.code == 2 and "lie in other files in two than in --keep one" in done.err
    assert split(old, "--keep", "one", "--out-dir", "two", "--reassign").code == 0
    assert places(workspace / "two") == places(workspace / "one")


def test_a_line_that_is_no_record_in_an_earlier_split_is_named(split, workspace):
    split(documents_of(workspace, 30))
    (workspace / "data/splits/val.jsonl").write_text('{"no": "id"}\n')
    done = split(documents_of(workspace, 30))
    assert done.code == 2 and "data/splits/val.jsonl:1: no record of a split" in done.err


# --- properties -----------------------------------------------------------------------------------------------------

KEYS = strategies.tuples(
    strategies.lists(strategies.integers(0, 9), min_size=1, max_size=3, unique=True),  # pages
    strategies.one_of(strategies.none(), strategies.integers(0, 9)),  # label key
)
POOL = strategies.lists(KEYS, min_size=2, max_size=12)


def table(members):
    """Documents by `(id, (pages, label))`; page keys and label keys never meet."""
    documents = Documents()
    for identity, (pages, label) in members:
        keys = [("image", 100 + number) for number in pages]
        keys += [("label", 1000 + label)] if label is not None else []
        documents.add(identity, "one", keys)
    return documents


def places_of(members, kept=(), **options):
    documents = table(members)
    found, moved = assign(
        documents, grouped(documents), RATIOS, 0, balanced=False, kept=dict(kept), held_out=set(), **options
    )
    return dict(zip(documents.ids, found, strict=True)), moved


@given(POOL, strategies.integers(1, 12), strategies.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_from_scratch_a_new_document_moves_old_ones_towards_train_only(pool, size, draw):
    members = [(f"{draw.random():.6f} {n}", keys) for n, keys in enumerate(pool)]
    before, _ = places_of(members[:size])
    after, _ = places_of(draw.sample(members, len(members)))
    assert all(after[name] <= place for name, place in before.items())


@given(POOL, strategies.lists(strategies.integers(0, 11), max_size=6), strategies.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_from_scratch_a_copy_moves_nothing_and_lies_with_its_original(pool, copied, draw):
    members = [(f"m{number}", keys) for number, keys in enumerate(pool)]
    before, _ = places_of(members)
    copies = [(f"{draw.choice('az')}{n}", pool[index % len(pool)]) for n, index in enumerate(copied)]
    after, _ = places_of(draw.sample(members + copies, len(members + copies)))
    assert all(after[name] == place for name, place in before.items())
    assert all(after[copies[n][0]] == before[f"m{index % len(pool)}"] for n, index in enumerate(copied))


@given(POOL, strategies.integers(1, 12), strategies.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_with_an_earlier_split_a_document_moves_only_where_its_group_lay_on_two_sides(pool, size, draw):
    members = [(f"{draw.random():.6f} {n}", keys) for n, keys in enumerate(pool)]
    before = {name: draw.randrange(3) for name, _ in members[:size]}
    after, moved = places_of(draw.sample(members, len(members)), kept=before)
    assert {move.identity for move in moved} == {name for name in before if after[name] != before[name]}
    documents = table(members)
    for group in grouped(documents).groups:
        names = [documents.ids[member] for member in group]
        earlier = [before[name] for name in names if name in before]
        assert not earlier or {after[name] for name in names} == {min(earlier)}
