"""Layouts of the sample documents: how a gold answer is printed on PDF pages.

`easy` is one page of 16 rows and 24 columns in large fixed-pitch type, one character per vision token: what the tiny
reading base of the quickstart can read. `realistic` has four carriers' A4 layouts on one to four pages; `scan` is the same,
photographed: turned, noisy, JPEG, with no text layer.
"""

from __future__ import annotations

import io
import random
from typing import Any

from toolkit.samples import values

EASY_ROWS, EASY_COLUMNS, EASY_CELL = 16, 24, 24.0  # the cell in points; 32 px at 384 vision tokens
LABELS = [
    {"bl_number": "BL NO", "consignee_name": "CONSIGNEE", "vessel_name": "VESSEL", "port_of_loading": "POL", "port_of_discharge": "POD",
     "detention_free_days": "DETENTION", "demurrage_free_days": "DEMURRAGE", "combined_free_days": "COMBINED", "container_summary": "TOTAL"},
    {"bl_number": "B/L", "consignee_name": "CNEE", "vessel_name": "SHIP", "port_of_loading": "LOAD", "port_of_discharge": "DISCH",
     "detention_free_days": "DET", "demurrage_free_days": "DEM", "combined_free_days": "FREE", "container_summary": "CNTRS"},
]  # fmt: skip
ORDERS = [
    [
        "bl_number",
        "consignee_name",
        "vessel_name",
        "port_of_loading",
        "port_of_discharge",
        "free",
        "container_summary",
        "containers",
    ],
    [
        "consignee_name",
        "bl_number",
        "port_of_loading",
        "port_of_discharge",
        "vessel_name",
        "container_summary",
        "containers",
        "free",
    ],
    [
        "vessel_name",
        "port_of_loading",
        "port_of_discharge",
        "bl_number",
        "consignee_name",
        "containers",
        "container_summary",
        "free",
    ],
    [
        "bl_number",
        "vessel_name",
        "port_of_discharge",
        "port_of_loading",
        "free",
        "consignee_name",
        "containers",
        "container_summary",
    ],
]
DISTRACTORS = ["SHIPPER", "REF", "PHONE", "AGENT", "BOOKING"]


def easy_lines(gold: dict[str, Any], rng: random.Random) -> list[str]:
    """The 16 lines of an easy page; two label sets, four orders, three ways to set a label from its value."""
    labels, order = rng.choice(LABELS), rng.choice(ORDERS)
    separator = rng.choice([": ", " ", ":"])
    gap = rng.choice([" ", "  "])
    lines = [rng.choice(values.CARRIERS)[0] if rng.random() < 0.7 else "BILL OF LADING"]
    spare = EASY_ROWS - 9 - len(gold["containers"])
    for name in order:
        if spare > 0 and rng.random() < 0.25 and name != "containers":
            label = rng.choice(DISTRACTORS)
            other = values.company(rng, 14) if label in ("SHIPPER", "AGENT") else values.digits(rng, rng.randint(5, 9))
            lines.append(f"{label}{separator}{other}")
            spare -= 1
        if name == "free":
            free = [
                n for n in ("detention_free_days", "demurrage_free_days", "combined_free_days") if gold[n] is not None
            ]
            lines += [f"{labels[n]}{separator}{gold[n]} DAYS" for n in free]
        elif name == "containers":
            lines += [
                f"{row['container_number']}{gap}{row['container_size']}{gap}{row['container_type']}"
                for row in gold["containers"]
            ]
        elif gold[name] is not None:
            lines.append(f"{labels[name]}{separator}{str(gold[name]).upper()}")
    too_wide = [line for line in lines if len(line) > EASY_COLUMNS]
    if too_wide or len(lines) > EASY_ROWS:
        raise ValueError(f"the easy page overflows: {too_wide or len(lines)}")
    return lines


def easy_pdf(gold: dict[str, Any], rng: random.Random) -> bytes:
    import pymupdf

    document = pymupdf.open()
    page = document.new_page(width=EASY_COLUMNS * EASY_CELL, height=EASY_ROWS * EASY_CELL)
    font, size = rng.choice(["cour", "cobo"]), rng.choice([19.5, 21.0, 22.5])
    width = pymupdf.get_text_length("M", fontname=font, fontsize=size)  # fixed pitch: every character is as wide
    shape = page.new_shape()
    for row, line in enumerate(easy_lines(gold, rng)):
        for column, character in enumerate(line):
            if character != " ":
                shape.insert_text(
                    (column * EASY_CELL + (EASY_CELL - width) / 2, row * EASY_CELL + 18),
                    character,
                    fontname=font,
                    fontsize=size,
                )
    shape.commit()
    return saved(document)


def saved(document: Any) -> bytes:
    """The PDF's bytes; no random file id and no date, so that the same seed gives the same bytes."""
    data: bytes = document.tobytes(garbage=3, deflate=True, no_new_id=True)
    document.close()
    return data


class Sheet:
    """A4 pages written from top to bottom; a new page starts where the old one is full."""

    def __init__(self, font: str, size: float) -> None:
        import pymupdf

        self.document = pymupdf.open()
        self.font, self.size = font, size
        self.new_page()

    def new_page(self) -> None:
        self.page = self.document.new_page(width=595, height=842)
        self.y = 50.0

    def text(
        self, x: float, text: str, *, size: float | None = None, bold: bool = False, y: float | None = None
    ) -> None:
        font = {"helv": "hebo", "tiro": "tibo", "cour": "cobo"}[self.font] if bold else self.font
        self.page.insert_text((x, self.y if y is None else y), text, fontname=font, fontsize=size or self.size)

    def down(self, points: float) -> None:
        self.y += points

    def room(self, points: float) -> bool:
        return self.y + points < 800


def free_days_text(gold: dict[str, Any], rng: random.Random) -> list[str]:
    if gold["combined_free_days"] is not None:
        n = gold["combined_free_days"]
        return [
            rng.choice(
                [
                    f"{n} DAYS COMBINED DETENTION AND DEMURRAGE FREE AT DESTINATION",
                    f"FREE TIME AT POD: {n} DAYS (DEM/DET COMBINED)",
                ]
            )
        ]
    if gold["detention_free_days"] is not None:
        det, dem = gold["detention_free_days"], gold["demurrage_free_days"]
        return rng.choice(
            [[f"{det} DAYS FREE DETENTION", f"{dem} DAYS FREE DEMURRAGE"], [f"DEMURRAGE FREE: {dem} DAYS / DETENTION FREE: {det} DAYS AT PORT OF DISCHARGE"],
             [f"DETENTION: {det} CALENDAR DAYS FREE", f"DEMURRAGE: {dem} CALENDAR DAYS FREE"]]
        )  # fmt: skip
    return []


def realistic_pdf(gold: dict[str, Any], rng: random.Random) -> bytes:
    """One of four carriers' layouts: where the blocks stand, how they are ruled, which words label them."""
    style = rng.randrange(4)
    carrier, prefix = values.CARRIERS[style]
    sheet = Sheet(["helv", "tiro", "helv", "cour"][style], [9.0, 9.5, 8.5, 8.5][style])
    names = [
        ("Shipper", "Consignee", "Notify Party", "Vessel / Voyage", "Port of Loading", "Port of Discharge", "B/L No."),
        (
            "SHIPPER/EXPORTER",
            "CONSIGNEE",
            "NOTIFY PARTY",
            "OCEAN VESSEL",
            "PORT OF LOADING",
            "PORT OF DISCHARGE",
            "BILL OF LADING NO.",
        ),
        (
            "1. Shipper",
            "2. Consigned to",
            "3. Notify address",
            "4. Vessel",
            "5. Load port",
            "6. Discharge port",
            "Document no.",
        ),
        (
            "SHIPPER",
            "CONSIGNEE (NON-NEGOTIABLE UNLESS TO ORDER)",
            "NOTIFY",
            "VESSEL AND VOYAGE NO",
            "POL",
            "POD",
            "SEA WAYBILL / BL NO",
        ),
    ][style]
    to_order = rng.random() < 0.25
    shipper, party, agent = values.company(rng), [gold["consignee_name"], *values.address(rng)], values.company(rng)
    consignee = (
        ["TO ORDER" if rng.random() < 0.5 else "TO THE ORDER OF " + values.coined(rng) + " BANK"] if to_order else party
    )
    notify = party if to_order else rng.choice([["SAME AS CONSIGNEE"], [agent, *values.address(rng)]])
    voyage = f"{rng.randint(1, 999):03d}{rng.choice('NSEW')}"
    pod = rng.choice(values.DISCHARGE_SPELLINGS[gold["port_of_discharge"]])
    pol = gold["port_of_loading"] + rng.choice(
        ["", ", CHINA"] if gold["port_of_loading"] in values.LOADING_PORTS[:5] else [""]
    )

    sheet.text(40, carrier, size=16, bold=True)
    sheet.text(360, "BILL OF LADING" if style != 3 else "SEA WAYBILL", size=13, bold=True)
    sheet.down(24)
    blocks = [(names[0], [shipper, *values.address(rng)]), (names[1], consignee), (names[2], notify)]
    right = [
        (names[6], [gold["bl_number"]]),
        ("Booking ref", [prefix + values.digits(rng, 7)]),
        ("Export references", [values.digits(rng, 8), agent]),
    ]
    columns = (40, 330) if style != 2 else (330, 40)
    top = sheet.y
    for block, (label, lines) in enumerate(blocks):
        y = top + block * 62
        for x, (head, body) in ((columns[0], (label, lines)), (columns[1], right[block])):
            if style in (0, 1):
                sheet.page.draw_rect((x - 4, y - 10, x + 255, y + 50), width=0.6)
            sheet.text(x, head, size=6.5, y=y)
            for i, line in enumerate(body[:3]):
                sheet.text(x, line, y=y + 12 + i * 12)
    sheet.y = top + 3 * 62 + 8
    for i, (label, body_text) in enumerate(
        [
            (names[3], f"{gold['vessel_name']} V.{voyage}" if style != 1 else gold["vessel_name"]),
            (names[4], pol),
            (names[5], pod),
        ]
    ):
        x = 40 + i * 185
        sheet.text(x, label, size=6.5)
        sheet.text(x, body_text, y=sheet.y + 12)
    sheet.down(36)
    summary = gold["container_summary"]
    if summary:
        sheet.text(40, rng.choice(["SAID TO CONTAIN ", "TOTAL: ", "CONTAINERS: "]) + summary)
        sheet.down(14)
    sheet.text(40, f"{rng.randint(10, 900)} PACKAGES  {values.coined(rng)} GOODS  HS CODE {values.digits(rng, 6)}")
    sheet.down(14)
    for line in free_days_text(gold, rng):
        sheet.text(40, line)
        sheet.down(13)
    sheet.down(8)
    container_table(sheet, gold["containers"], style, rng)
    sheet.down(20)
    if not sheet.room(70):
        sheet.new_page()
    sheet.text(
        40,
        f"FREIGHT {rng.choice(['PREPAID', 'COLLECT'])}   ISSUED {rng.randint(1, 28):02d}/{rng.randint(1, 12):02d}/2026   TEL +60 {values.digits(rng, 8)}",
    )
    if rng.random() < 0.6:
        stamp(sheet, rng.choice(["ORIGINAL", "SURRENDERED", "TELEX RELEASE", "COPY NON NEGOTIABLE"]), rng)
    for _ in range(rng.choice([0, 0, 1, 2])):
        terms_page(sheet, carrier, rng)
    for number, page in enumerate(sheet.document.pages(), 1):
        page.insert_text((500, 825), f"Page {number} of {sheet.document.page_count}", fontsize=7)
    return saved(sheet.document)


def container_table(sheet: Sheet, rows: list[dict[str, str]], style: int, rng: random.Random) -> None:
    if not rows:
        return
    heads = [
        (40, "Container No."),
        (150, "Type"),
        (230, "Seal No."),
        (320, "Gross weight KGS"),
        (430, "Measurement CBM"),
    ]

    def head() -> None:
        for x, label in heads:
            sheet.text(x, label, size=7, bold=True)
        sheet.down(12)

    head()
    for row in rows:
        if not sheet.room(14):
            sheet.new_page()
            sheet.text(40, "CONTINUATION SHEET", size=8, bold=True)
            sheet.down(18)
            head()
        number = row["container_number"]
        shown = f"{number[:4]} {number[4:10]}-{number[10]}" if style == 1 else number
        kind = [
            f"{row['container_size']}{row['container_type']}",
            f"{row['container_size']}' {row['container_type']}",
            f"{row['container_type']} {row['container_size']}",
            f"{row['container_size']}/{row['container_type']}",
        ][style]
        cells = [
            shown,
            kind,
            values.letters(rng, 2) + values.digits(rng, 6),
            f"{rng.randint(2000, 28000)}.{values.digits(rng, 2)}",
            f"{rng.randint(10, 70)}.{values.digits(rng, 3)}",
        ]
        for (x, _), cell in zip(heads, cells, strict=True):
            sheet.text(x, cell)
        sheet.down(13 if style != 2 else 14)


def terms_page(sheet: Sheet, carrier: str, rng: random.Random) -> None:
    """A page of small print without a value that is asked for, but with numbers that look like some."""
    sheet.new_page()
    sheet.text(40, f"{carrier} TERMS OF CARRIAGE", size=10, bold=True)
    sheet.down(20)
    for clause in range(1, rng.randint(15, 40)):
        words = " ".join(values.coined(rng).lower() for _ in range(9))
        sheet.text(40, f"{clause}. {words} {rng.randint(2, 30)} days, form {values.digits(rng, 7)}", size=7)
        sheet.down(15)


def stamp(sheet: Sheet, text: str, rng: random.Random) -> None:
    import pymupdf

    x, y = rng.randint(260, 340), rng.randint(560, 720)
    turn = pymupdf.Matrix(1, 1).prerotate(rng.uniform(-25, 25))
    sheet.page.insert_text(
        (x, y),
        text,
        fontsize=22,
        fontname="hebo",
        color=(0.75, 0.1, 0.15),
        fill_opacity=0.45,
        morph=(pymupdf.Point(x, y), turn),
    )


def invoice_pdf(gold: dict[str, Any], rng: random.Random) -> bytes:
    style = rng.randrange(2)
    sheet = Sheet(["helv", "tiro"][style], 10)
    sheet.text(40, gold["seller_name"], size=15, bold=True)
    sheet.down(26)
    sheet.text(40, rng.choice(["Bill to", "Customer"]) + ": " + gold["buyer_name"])
    sheet.down(16)
    for label, name in (("Invoice no.", "invoice_number"), ("Date", "invoice_date"), ("Due", "due_date")):
        sheet.text(40 if style else 360, f"{label}: {gold[name]}")
        sheet.down(15)
    sheet.down(12)
    for x, label in ((40, "Description"), (330, "Qty"), (400, "Price"), (490, "Amount")):
        sheet.text(x, label, bold=True)
    for line in gold["lines"]:
        sheet.down(16)
        for x, cell in (
            (40, line["description"]),
            (330, str(line["quantity"])),
            (400, f"{line['unit_price']:.2f}"),
            (490, f"{line['amount']:,.2f}"),
        ):
            sheet.text(x, cell)
    sheet.down(28)
    for label, name in (("Net", "subtotal"), ("Tax", "tax_total"), ("Total " + gold["currency"], "total")):
        sheet.text(380, label, bold=name == "total")
        sheet.text(490, f"{gold[name]:,.2f}", bold=name == "total")
        sheet.down(16)
    return saved(sheet.document)


def receipt_pdf(gold: dict[str, Any], rng: random.Random) -> bytes:
    import pymupdf

    document = pymupdf.open()
    cents = round(float(gold["total"]) * 100)
    cuts = sorted(rng.sample(range(1, cents), rng.randint(0, 5)))
    prices = [(stop - start) / 100 for start, stop in zip([0, *cuts], [*cuts, cents], strict=True)]
    items = [(values.coined(rng), price) for price in prices]
    page = document.new_page(width=230, height=260 + 14 * len(items))
    lines = [
        gold["company"],
        *gold["address"].split(", "),
        "",
        f"DATE {gold['date']}   {rng.randint(8, 21):02d}:{rng.randint(0, 59):02d}",
        "-" * 34,
    ]
    lines += [f"{name[:20]:<22}{price:>9.2f}" for name, price in items]
    cash = float(gold["total"]) + rng.choice([0, 5, 10])
    lines += [
        "-" * 34,
        f"{'TOTAL':<22}{gold['total']:>9}",
        f"{'CASH':<22}{cash:>9.2f}",
        "",
        rng.choice(["THANK YOU", "PLEASE COME AGAIN"]),
    ]
    for i, line in enumerate(lines):
        page.insert_text((14, 24 + i * 14), line, fontname="cour", fontsize=9)
    return saved(document)


def scanned_pdf(pdf: bytes, rng: random.Random) -> bytes:
    """The pages as a photocopier delivers them: grey, turned by up to 2 degrees, specks, JPEG; no text layer."""
    import numpy as np
    import pymupdf
    from PIL import Image, ImageFilter

    source = pymupdf.open(stream=pdf, filetype="pdf")
    target = pymupdf.open()
    noise = np.random.default_rng(rng.randrange(2**32))
    for page in source.pages():
        pixmap = page.get_pixmap(dpi=150, colorspace=pymupdf.csGRAY)
        image = Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)
        image = image.rotate(rng.uniform(-2, 2), resample=Image.Resampling.BICUBIC, fillcolor=255)
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
        pixels = np.asarray(image).astype(np.float64)
        pixels = 255 - (255 - pixels) * rng.uniform(0.75, 1.0) + noise.normal(0, rng.uniform(3, 12), pixels.shape)
        pixels[noise.random(pixels.shape) < 0.0006] = 20
        if rng.random() < 0.3:
            column = rng.randrange(pixels.shape[1])
            pixels[:, column : column + 2] -= 70
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=rng.randint(40, 80))
        target.new_page(width=page.rect.width, height=page.rect.height).insert_image(
            page.rect, stream=buffer.getvalue()
        )
    return saved(target)
