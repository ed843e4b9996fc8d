"""The `realistic` layouts of a bill of lading: four carriers' A4 forms on one to four pages."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from toolkit.samples import values
from toolkit.samples.sheet import Sheet, saved

Block = tuple[str, list[str]]  # a label and the lines below it


@dataclass(frozen=True)
class Style:
    """How one carrier's form looks: its type and the words that label its blocks."""

    font: str
    size: float
    title: str
    shipper: str
    consignee: str
    notify: str
    vessel: str
    loading: str
    discharge: str
    number: str


STYLES = (
    Style(
        "helv",
        9.0,
        "BILL OF LADING",
        "Shipper",
        "Consignee",
        "Notify Party",
        "Vessel / Voyage",
        "Port of Loading",
        "Port of Discharge",
        "B/L No.",
    ),
    Style(
        "tiro",
        9.5,
        "BILL OF LADING",
        "SHIPPER/EXPORTER",
        "CONSIGNEE",
        "NOTIFY PARTY",
        "OCEAN VESSEL",
        "PORT OF LOADING",
        "PORT OF DISCHARGE",
        "BILL OF LADING NO.",
    ),
    Style(
        "helv",
        8.5,
        "BILL OF LADING",
        "1. Shipper",
        "2. Consigned to",
        "3. Notify address",
        "4. Vessel",
        "5. Load port",
        "6. Discharge port",
        "Document no.",
    ),
    Style(
        "cour",
        8.5,
        "SEA WAYBILL",
        "SHIPPER",
        "CONSIGNEE (NON-NEGOTIABLE UNLESS TO ORDER)",
        "NOTIFY",
        "VESSEL AND VOYAGE NO",
        "POL",
        "POD",
        "SEA WAYBILL / BL NO",
    ),
)


def realistic_pdf(gold: dict[str, Any], rng: random.Random) -> bytes:
    """One of four carriers' layouts: where the blocks stand, how they are ruled, which words label them."""
    number = rng.randrange(4)
    carrier, prefix = values.CARRIERS[number]
    style = STYLES[number]
    sheet = Sheet(style.font, style.size)
    to_order = rng.random() < 0.25
    shipper, party, agent = values.company(rng), [gold["consignee_name"], *values.address(rng)], values.company(rng)
    consignee = order_party(rng) if to_order else party
    notify = party if to_order else rng.choice([["SAME AS CONSIGNEE"], [agent, *values.address(rng)]])
    voyage = f"{rng.randint(1, 999):03d}{rng.choice('NSEW')}"
    discharge = rng.choice(values.DISCHARGE_SPELLINGS[gold["port_of_discharge"]])
    of_china = gold["port_of_loading"] in values.LOADING_PORTS[:5]
    loading = gold["port_of_loading"] + rng.choice(["", ", CHINA"] if of_china else [""])

    sheet.text(40, carrier, size=16, bold=True)
    sheet.text(360, style.title, size=13, bold=True)
    sheet.down(24)
    parties = [(style.shipper, [shipper, *values.address(rng)]), (style.consignee, consignee), (style.notify, notify)]
    references = [
        (style.number, [gold["bl_number"]]),
        ("Booking ref", [prefix + values.digits(rng, 7)]),
        ("Export references", [values.digits(rng, 8), agent]),
    ]
    party_blocks(sheet, number, parties, references)
    vessel = gold["vessel_name"] if number == 1 else f"{gold['vessel_name']} V.{voyage}"
    for column, (label, text) in enumerate(
        [(style.vessel, vessel), (style.loading, loading), (style.discharge, discharge)]
    ):
        sheet.text(40 + column * 185, label, size=6.5)
        sheet.text(40 + column * 185, text, y=sheet.y + 12)
    sheet.down(36)
    cargo(sheet, gold, rng)
    container_table(sheet, gold["containers"], number, rng)
    footer(sheet, carrier, rng)
    return saved(sheet.document)


def order_party(rng: random.Random) -> list[str]:
    """The consignee of a bill to order."""
    return ["TO ORDER" if rng.random() < 0.5 else "TO THE ORDER OF " + values.coined(rng) + " BANK"]


def party_blocks(sheet: Sheet, style: int, parties: list[Block], references: list[Block]) -> None:
    """Three rows of two blocks: parties on one side, references on the other; two of the forms rule them."""
    left, right = (330, 40) if style == 2 else (40, 330)
    top = sheet.y
    for row, (party, reference) in enumerate(zip(parties, references, strict=True)):
        y = top + row * 62
        for x, (label, lines) in ((left, party), (right, reference)):
            if style in (0, 1):
                sheet.page.draw_rect((x - 4, y - 10, x + 255, y + 50), width=0.6)
            sheet.text(x, label, size=6.5, y=y)
            for line, text in enumerate(lines[:3]):
                sheet.text(x, text, y=y + 12 + line * 12)
    sheet.y = top + 3 * 62 + 8


def cargo(sheet: Sheet, gold: dict[str, Any], rng: random.Random) -> None:
    """The count of containers, the goods, and the free days."""
    if gold["container_summary"]:
        sheet.text(40, rng.choice(["SAID TO CONTAIN ", "TOTAL: ", "CONTAINERS: "]) + gold["container_summary"])
        sheet.down(14)
    sheet.text(40, f"{rng.randint(10, 900)} PACKAGES  {values.coined(rng)} GOODS  HS CODE {values.digits(rng, 6)}")
    sheet.down(14)
    for line in free_days_text(gold, rng):
        sheet.text(40, line)
        sheet.down(13)
    sheet.down(8)


def footer(sheet: Sheet, carrier: str, rng: random.Random) -> None:
    """Freight and date, perhaps a stamp and pages of terms, and the page numbers."""
    sheet.down(20)
    if not sheet.room(70):
        sheet.new_page()
    freight = rng.choice(["PREPAID", "COLLECT"])
    issued = f"{rng.randint(1, 28):02d}/{rng.randint(1, 12):02d}/2026"
    sheet.text(40, f"FREIGHT {freight}   ISSUED {issued}   TEL +60 {values.digits(rng, 8)}")
    if rng.random() < 0.6:
        stamp(sheet, rng.choice(["ORIGINAL", "SURRENDERED", "TELEX RELEASE", "COPY NON NEGOTIABLE"]), rng)
    for _ in range(rng.choice([0, 0, 1, 2])):
        terms_page(sheet, carrier, rng)
    for number, page in enumerate(sheet.document.pages(), 1):
        page.insert_text((500, 825), f"Page {number} of {sheet.document.page_count}", fontsize=7)


def free_days_text(gold: dict[str, Any], rng: random.Random) -> list[str]:
    """How the form words the free days; empty where the bill grants none."""
    if gold["combined_free_days"] is not None:
        n = gold["combined_free_days"]
        together = f"{n} DAYS COMBINED DETENTION AND DEMURRAGE FREE AT DESTINATION"
        return [rng.choice([together, f"FREE TIME AT POD: {n} DAYS (DEM/DET COMBINED)"])]
    if gold["detention_free_days"] is not None:
        det, dem = gold["detention_free_days"], gold["demurrage_free_days"]
        return rng.choice(
            [
                [f"{det} DAYS FREE DETENTION", f"{dem} DAYS FREE DEMURRAGE"],
                [f"DEMURRAGE FREE: {dem} DAYS / DETENTION FREE: {det} DAYS AT PORT OF DISCHARGE"],
                [f"DETENTION: {det} CALENDAR DAYS FREE", f"DEMURRAGE: {dem} CALENDAR DAYS FREE"],
            ]
        )
    return []


def container_table(sheet: Sheet, rows: list[dict[str, str]], style: int, rng: random.Random) -> None:
    """Draw the containers as a table, continued on further pages where it is long."""
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
    """Draw a turned, half transparent stamp near the foot of the page."""
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
