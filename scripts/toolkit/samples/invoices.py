"""Invoices and receipts, printed as PDF."""

from __future__ import annotations

import random
from typing import Any

from toolkit.samples import values
from toolkit.samples.sheet import Sheet, saved


def invoice_pdf(gold: dict[str, Any], rng: random.Random) -> bytes:
    """An invoice with these values, in one of two layouts."""
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
    """A till receipt with these values and invented items that add up to its total."""
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
