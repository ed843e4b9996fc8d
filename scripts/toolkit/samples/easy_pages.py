"""The `easy` layout: one page of 16 rows and 24 columns in large fixed-pitch type, one character per vision token.

The tiny reading base of the quickstart can read it.
"""

from __future__ import annotations

import random
from typing import Any

from toolkit.samples import values
from toolkit.samples.sheet import saved

EASY_ROWS, EASY_COLUMNS, EASY_CELL = 16, 24, 24.0  # the cell in points; 32 px at 384 vision tokens
LABELS = [
    {
        "bl_number": "BL NO",
        "consignee_name": "CONSIGNEE",
        "vessel_name": "VESSEL",
        "port_of_loading": "POL",
        "port_of_discharge": "POD",
        "detention_free_days": "DETENTION",
        "demurrage_free_days": "DEMURRAGE",
        "combined_free_days": "COMBINED",
        "container_summary": "TOTAL",
    },
    {
        "bl_number": "B/L",
        "consignee_name": "CNEE",
        "vessel_name": "SHIP",
        "port_of_loading": "LOAD",
        "port_of_discharge": "DISCH",
        "detention_free_days": "DET",
        "demurrage_free_days": "DEM",
        "combined_free_days": "FREE",
        "container_summary": "CNTRS",
    },
]
# In which order the fields stand on the page; "free" are the free days, where there are any.
ORDERS = [
    "bl_number consignee_name vessel_name port_of_loading port_of_discharge free container_summary containers".split(),
    "consignee_name bl_number port_of_loading port_of_discharge vessel_name container_summary containers free".split(),
    "vessel_name port_of_loading port_of_discharge bl_number consignee_name containers container_summary free".split(),
    "bl_number vessel_name port_of_discharge port_of_loading free consignee_name containers container_summary".split(),
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
    """A document of one page in fixed-pitch letters, which a tiny model can learn to read."""
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
