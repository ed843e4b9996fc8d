"""CPU time and memory of evaluate_predictions.py on many documents of 20 rows, an eighth of them with errors.

python benchmarks/evaluate_documents.py --documents 100000
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from data_stages_at_scale import measured  # noqa: E402

from toolkit.samples.values import container_number  # noqa: E402
from toolkit.schema.target import TargetSchema, compact_json  # noqa: E402

SCHEMA = SCRIPTS.parent / "schemas/bill_of_lading.schema.json"


def write(folder: Path, documents: int) -> None:
    """gold.jsonl and pred.jsonl; wrong values, missing, extra and misread rows among the predictions."""
    draw, schema = random.Random(3), TargetSchema.load(SCHEMA)
    pool = [container_number(draw) for _ in range(5000)]
    with (folder / "gold.jsonl").open("w") as gold_file, (folder / "pred.jsonl").open("w") as pred_file:
        for number in range(documents):
            rows = [
                {"container_number": n, "container_size": draw.choice(("20", "40")), "container_type": "HC"}
                for n in draw.sample(pool, 20)
            ]
            gold = schema.ordered(
                {
                    "consignee_name": f"CONSIGNEE {draw.randrange(10**6)} LTD",
                    "bl_number": f"BL{number:09d}",
                    "vessel_name": "SITC INCHON",
                    "port_of_loading": "SHANGHAI",
                    "port_of_discharge": "Port Klang",
                    "detention_free_days": draw.randint(0, 30),
                    "container_summary": "20 X 40HC",
                    "containers": rows,
                }
            )
            answer = copy.deepcopy(gold)
            if number % 8 == 0:
                answer["consignee_name"] += "."
                answer["vessel_name"] = "SITC INCHEON"
                answer["containers"][3]["container_number"] = answer["containers"][3]["container_number"][:-1] + "X"
                del answer["containers"][7]
            gold_file.write(compact_json({"id": str(number), "gold": gold}) + "\n")
            line = {"id": str(number), "status": "ok", "prediction": answer, "raw": compact_json(answer)}
            pred_file.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, args.documents)
        seconds, memory = measured(
            folder, "evaluate_predictions.py", "--pred", "pred.jsonl", "--gold", "gold.jsonl", "--schema", SCHEMA
        )
    print(
        f"{args.documents} documents of 20 rows: {seconds:.1f} s CPU, {1e6 * seconds / args.documents:.0f} us a document, {memory:.0f} MiB"
    )


if __name__ == "__main__":
    main()
