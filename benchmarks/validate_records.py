"""Validation: CPU time a record with every check on, memory, and the same verdicts as plain jsonschema.

Makes --records records of about 1.5 KB (bills of lading with 1 to 8 containers) in a temporary file. Validates them
with scripts/validate_jsonl.py, and a sample with plain jsonschema validators that are reused. Then mutates 2,000
records and compares the verdicts one by one.

    python benchmarks/validate_records.py --records 1000000
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import jsonschema  # noqa: E402

from toolkit.files import read_json  # noqa: E402
from toolkit.json_text import strict_json  # noqa: E402
from toolkit.records.line_form import RECORD_SCHEMA  # noqa: E402
from toolkit.records.prompt import generated_prompt  # noqa: E402
from toolkit.records.record import answer_text, make_record  # noqa: E402
from toolkit.records.record_check import RecordCheck  # noqa: E402
from toolkit.samples.values import container_number  # noqa: E402
from toolkit.schema.target import TargetSchema, compact_json  # noqa: E402

SCHEMA = SCRIPTS.parent / "schemas/bill_of_lading.schema.json"


def record_lines(count: int, seed: int):
    """JSON lines of distinct records; the values vary, so that nothing can be cached."""
    from toolkit.records.prompt import Prompt

    schema = TargetSchema.load(SCHEMA)
    system = generated_prompt(schema).system[:420]
    draw = random.Random(seed)
    pool = [container_number(draw) for _ in range(5000)]
    for number in range(count):
        rows = [
            {"container_number": draw.choice(pool), "container_size": "40", "container_type": "HC"}
            for _ in range(draw.randint(1, 8))
        ]
        answer = schema.ordered(
            {
                "consignee_name": f"CONSIGNEE {draw.randrange(10**6)} LTD",
                "bl_number": f"BL{number:09d}",
                "vessel_name": "SITC INCHON",
                "port_of_loading": "SHANGHAI",
                "port_of_discharge": "Port Klang",
                "detention_free_days": draw.randint(0, 30),
                "containers": rows,
                "container_summary": f"{len(rows)} X 40HC",
            }
        )
        images = [f"data/images/bl_{number:09d}_page_{page:04d}.png" for page in (1, 2)]
        meta = {"schema": SCHEMA.as_posix(), "source": f"bl {number:09d}.pdf", "pages": 2, "images": "pages"}
        yield compact_json(make_record(f"bl {number:09d}.pdf", images, Prompt(system), compact_json(answer), meta))


def plain_verdict(record_schema, target, line: str) -> bool:
    """What jsonschema and the standard parser alone would say: the record's form and its answer's."""
    try:
        record = strict_json(line)
        if not record_schema.is_valid(record):
            return False
        answer = strict_json(answer_text(record))
    except ValueError:
        return False
    return target.is_valid(answer)


def mutated(line: str, draw: random.Random) -> str:
    """One fault of twelve kinds, in the record or in its answer; some leave the record valid."""
    kind = draw.randrange(12)
    record = json.loads(line)
    answer = json.loads(answer_text(record))
    content = record["messages"][-1]["content"][0]
    if kind == 0:
        return line[: draw.randrange(len(line))]
    if kind == 1:
        return line.replace('"id":', '"id":"twice","id":', 1)
    if kind == 2:
        del record[draw.choice(["id", "messages"])]
    elif kind == 3:
        record["messages"][draw.randrange(3)]["role"] = draw.choice(["tool", "user", None])
    elif kind == 4:
        record["messages"][1]["content"][draw.randrange(2)].pop(draw.choice(["type", "image", "text"]), None)
    elif kind == 5:
        answer[draw.choice(list(answer))] = draw.choice([[], {}, 7.5, True, "x" * 300, float("inf")])
    elif kind == 6:
        answer.pop(draw.choice(list(answer)))
    elif kind == 7:
        answer["unknown"] = 1
    elif kind == 8:
        answer["containers"][0]["container_number"] = draw.choice(["", "MSKU123456", None, 7])
    elif kind == 9:
        answer["containers"] *= 100
    elif kind == 10:
        content["text"] = content["text"][:-1] + draw.choice(["", ',"bl_number":"again"}', "}}", " NaN}"])
        return compact_json(record)
    else:
        answer["detention_free_days"] = draw.choice([10**30, 7.0, -1, 1e400, "7"])
    content["text"] = json.dumps(answer, ensure_ascii=bool(draw.randrange(2)))
    return json.dumps(record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    args = parser.parse_args()
    record_schema = jsonschema.Draft202012Validator(read_json(RECORD_SCHEMA))
    target = TargetSchema.load(SCHEMA).validator()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.jsonl")
        with path.open("w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in record_lines(args.records, 1))
        size = path.stat().st_size / args.records
        began, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run([sys.executable, SCRIPTS / "validate_jsonl.py", path, "--limit", "3"], check=True)
        wall = time.monotonic() - wall
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = (after.ru_utime + after.ru_stime - began.ru_utime - began.ru_stime) / args.records
        sample = list(record_lines(2000, 2))
        start = time.process_time()
        assert all(plain_verdict(record_schema, target, line) for line in sample)
        plain = (time.process_time() - start) / len(sample)
    cost = f"{ours * 1e6:.1f} us of CPU a record, {wall:.0f} s, {after.ru_maxrss / 1024:.0f} MB at most"
    print(f"{args.records} records of {size:.0f} bytes: {cost}")
    print(f"plain jsonschema, validators reused: {plain * 1e6:.0f} us a record; ratio {plain / ours:.1f}")

    draw = random.Random(3)
    check = RecordCheck(None)
    lines = [mutated(line, draw) for line in record_lines(2000, 4)]
    verdicts = [
        (
            plain_verdict(record_schema, target, line),
            not any(
                p[2] == "error"
                and (
                    "answer" in p[0]
                    or p[1].startswith(("not JSON", "the answer is"))
                    or not check.form.is_valid(json.loads(line))
                )
                for p in check.problems(line.encode("utf-8", "surrogatepass"))
            ),
        )
        for line in lines
    ]
    differ = [line for line, (a, b) in zip(lines, verdicts, strict=True) if a != b]
    print(
        f"2,000 mutated records: {sum(a for a, _ in verdicts)} valid by plain jsonschema, {len(differ)} verdicts differ"
    )
    for line in differ[:3]:
        print("  ", line[-300:])


if __name__ == "__main__":
    main()
