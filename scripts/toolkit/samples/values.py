"""Made-up but well-formed values for sample documents: companies, vessels, container numbers, amounts. All seeded."""

from __future__ import annotations

import random

from toolkit.schema.checks import iso6346_check_digit

CARRIERS = [
    ("MERIDIAN LINE", "MDLU"),
    ("OCEANIC STAR", "OCSU"),
    ("PACIFIC CREST", "PCRU"),
    ("TITAN SHIPPING", "TTNU"),
    ("BLUE ANCHOR", "BANU"),
]
LOADING_PORTS = [
    "SHANGHAI",
    "NINGBO",
    "QINGDAO",
    "XIAMEN",
    "SHEKOU",
    "BUSAN",
    "TOKYO",
    "OSAKA",
    "MUMBAI",
    "HAMBURG",
    "ROTTERDAM",
    "ANTWERP",
    "JEBEL ALI",
    "MERSIN",
]
DISCHARGE_SPELLINGS = {
    "Port Klang": ["PORT KLANG", "PORT KLANG (WESTPORT)", "PORT KLANG (NORTHPORT)"],
    "Singapore": ["SINGAPORE"],
    "Tanjung Pelepas": ["TANJUNG PELEPAS", "PTP"],
    "Penang": ["PENANG"],
    "Pasir Gudang": ["PASIR GUDANG"],
    "Jakarta": ["JAKARTA", "TANJUNG PRIOK"],
    "Surabaya": ["SURABAYA"],
    "Laem Chabang": ["LAEM CHABANG"],
    "Manila": ["MANILA"],
    "Ho Chi Minh": ["HO CHI MINH", "CAT LAI"],
    "Haiphong": ["HAIPHONG"],
    "Colombo": ["COLOMBO"],
}
SIZES = ["20", "40", "45"]
TYPES = ["GP", "HC", "RF", "OT", "FR", "TK"]
_START = [
    "BA",
    "BE",
    "DA",
    "DE",
    "FA",
    "GO",
    "HA",
    "JO",
    "KA",
    "KE",
    "LA",
    "LI",
    "MA",
    "ME",
    "NO",
    "PA",
    "RA",
    "RI",
    "SA",
    "SE",
    "TA",
    "TO",
    "VA",
    "WI",
    "YU",
    "ZE",
]
_MIDDLE = [
    "BRI",
    "DOR",
    "GAN",
    "LEN",
    "LIN",
    "LO",
    "MAR",
    "NA",
    "NI",
    "RA",
    "RIN",
    "RO",
    "SHI",
    "SI",
    "TAN",
    "TE",
    "TO",
    "VER",
    "VI",
    "WEN",
]
_END = [
    "CO",
    "DA",
    "GEN",
    "KA",
    "LA",
    "LEX",
    "MAX",
    "MOR",
    "NA",
    "NEX",
    "PRO",
    "RA",
    "RIA",
    "RON",
    "SON",
    "TA",
    "TEC",
    "TON",
    "VA",
    "VIA",
]
_TRADES = ["TRADING", "FOODS", "STEEL", "PAPER", "TIMBER", "TEXTILE", "MOTORS", "GLASS", "RUBBER", "TOYS"]
_FORMS = ["SDN BHD", "CO LTD", "PTE LTD", "INC", "GMBH", "LLC", "BV", "LTD"]
_STREETS = ["JALAN", "HARBOUR", "INDUSTRI", "KING", "QUEEN", "MARKET", "STATION", "MILL", "LAKE", "RIVER"]


def coined(rng: random.Random) -> str:
    """A coined word, one of about 30,000."""
    return (
        rng.choice(_START)
        + rng.choice(_MIDDLE)
        + (rng.choice(_MIDDLE) if rng.random() < 0.4 else "")
        + rng.choice(_END)
    )


def company(rng: random.Random, room: int = 40) -> str:
    """An invented company name of at most `room` characters."""
    for _ in range(50):
        words = [coined(rng)]
        if rng.random() < 0.6:
            words.append(rng.choice(_TRADES))
        if rng.random() < 0.6:
            words.append(rng.choice(_FORMS))
        if len(name := " ".join(words)) <= room:
            return name
    return coined(rng)[:room]


def address(rng: random.Random) -> list[str]:
    """An invented street and town, one line each."""
    return [f"{rng.randint(1, 400)} {rng.choice(_STREETS)} {coined(rng)}", f"{rng.randint(10000, 99999)} {coined(rng)}"]


def vessel(rng: random.Random, room: int = 24) -> str:
    """An invented vessel name of at most `room` characters."""
    for _ in range(50):
        name = rng.choice(["", "", "MV ", "EVER ", "STAR ", "CAPE "]) + coined(rng)
        if len(name) <= room:
            return name
    return coined(rng)[:room]


def digits(rng: random.Random, count: int) -> str:
    """Random digits."""
    return "".join(rng.choice("0123456789") for _ in range(count))


def letters(rng: random.Random, count: int) -> str:
    """Random capital letters."""
    return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(count))


def bl_number(rng: random.Random) -> str:
    """A bill of lading number in one of four styles."""
    style = rng.randrange(4)
    if style == 0:
        return digits(rng, 9)
    if style == 1:
        return letters(rng, 4) + digits(rng, 8)
    if style == 2:
        return letters(rng, 2) + digits(rng, 7)
    return letters(rng, 3) + "-" + digits(rng, 6)


def container_number(rng: random.Random) -> str:
    """Four letters (the fourth is U), six digits and the ISO 6346 check digit."""
    first = letters(rng, 3) + "U" + digits(rng, 6)
    return first + str(iso6346_check_digit(first))


def containers(rng: random.Random, count: int, *, kinds: int) -> list[dict[str, str]]:
    """`count` containers of at most `kinds` kinds, as one shipment has them."""
    choices = [(rng.choice(SIZES), rng.choice(TYPES)) for _ in range(rng.randint(1, kinds))]
    result: dict[str, dict[str, str]] = {}
    while len(result) < count:
        size, kind = rng.choice(choices)
        number = container_number(rng)
        result[number] = {"container_number": number, "container_size": size, "container_type": kind}
    return list(result.values())


def summary(rows: list[dict[str, str]], *, times: str = "X", joint: str = " ") -> str:
    """The printed count: "2X20GP 1X40HC", kinds in order of appearance."""
    counts: dict[str, int] = {}
    for row in rows:
        kind = row["container_size"] + row["container_type"]
        counts[kind] = counts.get(kind, 0) + 1
    return joint.join(f"{count}{times}{kind}" for kind, count in counts.items())


def bill_of_lading(rng: random.Random, *, max_rows: int, easy: bool) -> dict[str, object]:
    """The gold answer of one bill of lading, keys as in `schemas/bill_of_lading.schema.json`."""
    if easy:
        count = rng.choice([0, 1, 1, 2, 2, 3, 3, 4, 5, 6])
    else:
        low, high = rng.choice([(0, 0), (1, 5), (1, 5), (6, 20), (6, 20), (21, 50), (51, 60)])
        count = rng.randint(low, max(low, min(high, max_rows)))
    rows = containers(rng, count, kinds=2 if easy else 3)
    free = rng.random()
    split, combined = free < 0.5, 0.5 <= free < 0.75
    return {
        "consignee_name": company(rng, 13 if easy else 40),
        "bl_number": bl_number(rng),
        "vessel_name": vessel(rng, 16 if easy else 24),
        "port_of_loading": rng.choice(LOADING_PORTS),
        "port_of_discharge": rng.choice(list(DISCHARGE_SPELLINGS)),
        "detention_free_days": rng.randint(3, 21) if split else None,
        "demurrage_free_days": rng.randint(3, 21) if split else None,
        "combined_free_days": rng.randint(5, 30) if combined else None,
        "container_summary": (summary(rows) if easy else summary(rows, times=" x ", joint=" + ")) if rows else None,
        "containers": rows,
    }


def money(rng: random.Random, low: int = 100, high: int = 500000) -> float:
    """An amount between `low` and `high` cents, in whole units."""
    return rng.randint(low, high) / 100


def invoice(rng: random.Random) -> dict[str, object]:
    """The values of an invoice whose lines add up."""
    lines: list[dict[str, object]] = []
    for _ in range(rng.randint(1, 12)):
        quantity, price = rng.randint(1, 40), money(rng, 100, 20000)
        lines.append(
            {
                "description": f"{coined(rng).title()} {rng.choice(_TRADES).lower()} {digits(rng, 3)}",
                "quantity": quantity,
                "unit_price": price,
                "amount": round(quantity * price, 2),
            }
        )
    subtotal = round(sum(float(str(line["amount"])) for line in lines), 2)
    tax = round(subtotal * rng.choice([0, 0.06, 0.19, 0.2]), 2)
    month, day = rng.randint(1, 11), rng.randint(1, 28)
    return {
        "invoice_number": "INV-" + digits(rng, 6),
        "invoice_date": f"2026-{month:02d}-{day:02d}",
        "due_date": f"2026-{month + 1:02d}-{day:02d}",
        "seller_name": company(rng),
        "buyer_name": company(rng),
        "currency": rng.choice(["EUR", "USD", "MYR", "SGD"]),
        "subtotal": subtotal,
        "tax_total": tax,
        "total": round(subtotal + tax, 2),
        "lines": lines,
    }


def receipt(rng: random.Random) -> dict[str, object]:
    """The values of a till receipt."""
    return {
        "company": company(rng),
        "date": f"{rng.randint(1, 28):02d}/{rng.randint(1, 12):02d}/20{rng.randint(18, 26)}",
        "address": ", ".join(address(rng)),
        "total": f"{money(rng, 100, 50000):.2f}",
    }
