"""Write examples/example.jsonl: two training records, with their page images, that show the format.

python scripts/make_example_jsonl.py
python scripts/validate_jsonl.py examples/example.jsonl
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from toolkit import console
from toolkit.console import say
from toolkit.files import argument_path, atomic, shown, write_jsonl
from toolkit.records.prompt import generated_prompt
from toolkit.records.record import make_record
from toolkit.schema.target import DEFAULT_SCHEMA, TargetSchema, compact_json

PAGE_TOKENS = 640


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument(
        "--out",
        type=argument_path,
        default=Path("examples/example.jsonl"),
        help="where (default: examples/example.jsonl)",
    )
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    import pymupdf

    from toolkit.pages.pdf_pages import page_image
    from toolkit.samples import values as sample_values
    from toolkit.samples.bills import realistic_pdf

    repository = Path(__file__).parents[1]
    schema = TargetSchema.load(repository / DEFAULT_SCHEMA)
    prompt = generated_prompt(schema)
    records = []
    for number in (1, 2):
        rng = random.Random(f"example/{number}")
        gold = sample_values.bill_of_lading(rng, max_rows=8, easy=False)
        images = []
        with pymupdf.open(stream=realistic_pdf(gold, rng), filetype="pdf") as document:
            for page in document:
                path = args.out.parent / "images" / f"example {number}_page_{page.number + 1:04d}.png"
                with atomic(path, "wb") as file:
                    page_image(page, PAGE_TOKENS).quantize(32).save(file, "PNG", optimize=True)
                images.append(shown(path))
        meta = {"schema": DEFAULT_SCHEMA, "source": f"example {number}.pdf", "pages": len(images)}
        records.append(make_record(f"example {number}.pdf", images, prompt, compact_json(schema.ordered(gold)), meta))
    write_jsonl(args.out, records)
    say(f"{len(records)} records -> {shown(args.out)}")
    return console.finish(args, {"records": len(records), "out": shown(args.out)})


if __name__ == "__main__":
    sys.exit(main())
