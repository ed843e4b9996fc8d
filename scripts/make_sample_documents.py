"""Make sample documents with exact labels: PDFs, two zips of page images, and a results.json as messy as real exports.

Writes into --out-dir:
- pdfs/: the documents that are delivered as PDF;
- combined.zip and bls_another.zip: the documents that are delivered as page images, their names lightly changed;
- results.json: the labels, one row per container;
- gold.jsonl: the exact answers.

Some labels have no document and some documents no label, as in real exports. The same seed gives the same bytes.

    python scripts/make_sample_documents.py --out-dir data/samples --documents 60 --seed 1
    python scripts/make_sample_documents.py --out-dir data/scans --documents 20 --layout scan
"""

from __future__ import annotations

import io
import random
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.console import say
from toolkit.files import atomic, shown, write_json, write_jsonl
from toolkit.records.origins import Source, note_path, noted, origin_of
from toolkit.samples import values
from toolkit.samples.bills import realistic_pdf
from toolkit.samples.easy_pages import easy_pdf
from toolkit.samples.invoices import invoice_pdf, receipt_pdf
from toolkit.samples.sheet import scanned_pdf


def bill_name(rng: random.Random) -> str:
    return f"BL {values.digits(rng, 9)}.pdf"


def house_bill_name(rng: random.Random) -> str:
    number = f"{values.letters(rng, 2)}{values.digits(rng, 7)}"
    return f"HBL {number} ({values.digits(rng, 3)}{values.letters(rng, 2)}{values.digits(rng, 5)}).pdf"


def scanned_name(rng: random.Random) -> str:
    return f"{rng.randint(1, 40):02d}_{values.letters(rng, 5)}{values.digits(rng, 6)}_{rng.choice('ABC')}.PDF"


def vessel_name(rng: random.Random) -> str:
    voyage = f"{values.coined(rng)} V.{rng.randint(1000, 9999)}N"
    return f"MV {voyage}- {values.letters(rng, 4)}{values.digits(rng, 8)}.pdf"


def order_name(rng: random.Random) -> str:
    order = f"{rng.randint(1, 9)}. SO{rng.randint(1000, 9999)}-{values.digits(rng, 3)}"
    return f"{order}-P{rng.randint(1, 9)}-CC-PS_BL_FINAL_.pdf"


FILE_NAMES = [bill_name, house_bill_name, scanned_name, vessel_name, order_name]
ZIP_DATE = (2026, 1, 1, 0, 0, 0)
OWN = Source("make_sample_documents.py", "")  # the origin that the labels beside the zips are noted with


def build_parser() -> console.Parser:
    parser = console.Parser(__doc__)
    parser.add_argument(
        "--out-dir", type=Path, default=Path("data/samples"), help="folder to write (default: data/samples)"
    )
    parser.add_argument("--documents", type=int, default=60, help="how many documents (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other documents (default: 0)")
    parser.add_argument(
        "--layout",
        choices=["easy", "realistic", "scan"],
        default="realistic",
        help="easy: what the tiny model can read (default: realistic)",
    )
    parser.add_argument(
        "--type",
        choices=["bill_of_lading", "invoice", "receipt"],
        default="bill_of_lading",
        help="document type (default: bill_of_lading)",
    )
    parser.add_argument(
        "--image-max-tokens",
        type=int,
        help="vision tokens of the page images in the zips (default: 384 easy, else 1280)",
    )
    parser.add_argument(
        "--no-mess", action="store_true", help="no missing documents, no missing labels, no second images"
    )
    parser.add_argument(
        "--zips-to",
        type=Path,
        help="folder for the two zips and results.json, where the later stages look for them (default: --out-dir)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace zips and a results.json that this script did not write"
    )
    return parser


@console.script
def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.documents < 1:
        raise console.StageError("--documents must be at least 1")
    if args.layout == "easy" and args.type != "bill_of_lading":
        raise console.StageError("--layout easy exists for bills of lading only")
    zips_to = args.zips_to or args.out_dir
    budget = args.image_max_tokens or (384 if args.layout == "easy" else 1280)
    rows: list[dict[str, Any]] = []
    gold_lines: list[dict[str, Any]] = []
    archives: dict[str, list[tuple[str, bytes]]] = {"combined": [], "bls_another": []}
    counts = {"pdfs": 0, "labels_without_document": 0, "documents_without_label": 0}
    names: set[str] = set()
    for number in range(args.documents):
        # Each document has its own generator, so that the first N documents are the same whatever --documents says.
        document_rng = random.Random(f"{args.seed}/{args.layout}/{args.type}/{number}")
        gold, pdf = make_document(args.type, args.layout, document_rng)
        name = unique_name(document_rng, names, args.type)
        mess = 1.0 if args.no_mess else document_rng.random()
        if mess >= 0.02:
            rows += label_rows(args.type, name, gold, document_rng)
        else:
            counts["documents_without_label"] += 1
        gold_lines.append({"file": name, "gold": gold})
        if 0.02 <= mess < 0.05:
            counts["labels_without_document"] += 1
            continue
        # A third arrives as PDF, the rest as page images in the two zips.
        if number % 3 == 0:
            with atomic(args.out_dir / "pdfs" / name, "wb") as file:
                file.write(pdf)
            counts["pdfs"] += 1
        else:
            archive = "combined" if number % 3 == 1 or number % 2 else "bls_another"
            archives[archive] += zipped_pages(name, pdf, budget, args.layout, document_rng, grid=not args.no_mess)
    if not args.overwrite:
        refuse_to_replace(zips_to)
    zips_to.mkdir(parents=True, exist_ok=True)
    with noted(zips_to / "results.json", [OWN]):
        for stem, members in archives.items():
            with (
                atomic(zips_to / f"{stem}.zip", "wb") as file,
                zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed,
            ):
                for member, data in members:
                    packed.writestr(zipfile.ZipInfo(member, ZIP_DATE), data)
        write_json(zips_to / "results.json", rows)
    write_jsonl(args.out_dir / "gold.jsonl", sorted(gold_lines, key=lambda line: line["file"]))
    images = sum(len(members) for members in archives.values())
    contents = f"{counts['pdfs']} PDFs, {images} page images in two zips, {len(rows)} label rows"
    say(f"{args.documents} documents: {contents} -> {shown(args.out_dir)}")
    return console.finish(args, {"documents": args.documents, "rows": len(rows), "images_in_zips": images, **counts})


def refuse_to_replace(folder: Path) -> None:
    """Raise StageError where the folder holds zips or labels of another origin: somebody's own."""
    files = [folder / name for name in ("combined.zip", "bls_another.zip", "results.json") if (folder / name).exists()]
    origin = origin_of(folder / "results.json")
    # Without labels yet, the note alone tells that a run of ours was interrupted.
    known = note_path(folder / "results.json").is_file() if origin is None else origin.sources == (OWN,)
    if files and (not known or (origin is not None and origin.changed)):
        raise console.StageError(
            f"{shown(files[0])} is not as this script wrote it, so it may be yours; choose another folder, "
            "or replace it with --overwrite"
        )


def make_document(kind: str, layout: str, rng: random.Random) -> tuple[dict[str, Any], bytes]:
    """The gold answer and its PDF."""
    if kind == "bill_of_lading":
        gold: dict[str, Any] = values.bill_of_lading(rng, max_rows=60, easy=layout == "easy")
        pdf = easy_pdf(gold, rng) if layout == "easy" else realistic_pdf(gold, rng)
    elif kind == "invoice":
        gold = values.invoice(rng)
        pdf = invoice_pdf(gold, rng)
    else:
        gold = values.receipt(rng)
        pdf = receipt_pdf(gold, rng)
    return gold, scanned_pdf(pdf, rng) if layout == "scan" else pdf


def unique_name(rng: random.Random, taken: set[str], kind: str) -> str:
    while True:
        name = rng.choice(FILE_NAMES)(rng) if kind == "bill_of_lading" else f"{kind} {values.digits(rng, 6)}.pdf"
        if name.casefold() not in taken:
            taken.add(name.casefold())
            return name


def label_rows(kind: str, name: str, gold: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
    """The rows of results.json: the header repeated on each row of the list, one row where the list is empty."""
    list_name = {"bill_of_lading": "containers", "invoice": "lines"}.get(kind)
    header = {"Filename": name, **{key: value for key, value in gold.items() if key != list_name}}
    if kind == "bill_of_lading":
        # Whoever typed the labels wrote the port now and then as it is printed; the schema knows the synonyms.
        spellings = values.DISCHARGE_SPELLINGS[gold["port_of_discharge"]]
        if rng.random() < 0.2:
            header["port_of_discharge"] = rng.choice(spellings)
        columns = {f"Container_{part.title()}": f"container_{part}" for part in ("number", "size", "type")}
    elif kind == "invoice":
        columns = {f"line_{field}": field for field in ("description", "quantity", "unit_price", "amount")}
    else:
        return [header]
    items: list[dict[str, Any]] = gold[str(list_name)] or [{}]
    return [{**header, **{column: item.get(field) for column, field in columns.items()}} for item in items]


def zipped_pages(
    name: str, pdf: bytes, budget: int, layout: str, rng: random.Random, *, grid: bool
) -> list[tuple[str, bytes]]:
    """Zip members of one document: its pages under a lightly changed name, sometimes with a grid of all pages."""
    import pymupdf
    from PIL import Image

    from toolkit.pages.pdf_pages import page_image

    stem = re.sub(r"\.pdf$", "", name, flags=re.IGNORECASE)
    stem = rng.choice([stem, stem.replace(" ", "_"), re.sub(r"[()]", "", stem).replace(" ", "_")])
    folder = rng.choice(["images", "images/part 2", "scans"])
    pages = []
    with pymupdf.open(stream=pdf, filetype="pdf") as document:
        for page in document:
            pages.append(page_image(page, budget))
    lossless = layout == "easy"
    suffix = "png" if lossless else "jpg"
    if len(pages) == 1:
        numbered = [rng.choice(["_single_page", "_page_0001", "_1", ""])]
    else:
        form = rng.choice(["_page_{:04d}", "_{}", "-p{}"])
        numbered = [form.format(number) for number in range(1, len(pages) + 1)]
    members = [
        (f"{folder}/{stem}{mark}.{suffix}", encoded(page, lossless)) for mark, page in zip(numbered, pages, strict=True)
    ]
    if grid and rng.random() < 0.1:
        side = max(page.width for page in pages) // 2, max(page.height for page in pages) // 2
        sheet = Image.new("RGB", (side[0] * 2, side[1] * -(-len(pages) // 2)), "white")
        for i, page in enumerate(pages):
            sheet.paste(page.resize(side), ((i % 2) * side[0], (i // 2) * side[1]))
        members.append((f"{folder}/{stem}_combined_grid.{suffix}", encoded(sheet, lossless)))
    return members


def encoded(image: Any, lossless: bool) -> bytes:
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG", compress_level=1)
    else:
        image.save(buffer, "JPEG", quality=85, subsampling=0)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
