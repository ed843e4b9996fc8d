"""Symbolic pages of random words and codes, and questions about them with compact JSON answers."""

from __future__ import annotations

import json
import random
from typing import Any

PAGE_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,-/:()&+'#"
WORDS = """
    NAME CODE ITEM UNIT PRICE COLOR MODEL BRAND STATE CITY ROAD STREET HOUSE PHONE MAIL NOTE GROUP CLASS LEVEL GRADE
    SCORE TEAM ROOM FLOOR DESK SHELF BOX PART KIND TYPE SIZE WIDTH HEIGHT DEPTH SPEED POWER START END FIRST LAST
    OWNER AUTHOR TITLE PAGE BOOK PAPER STONE RIVER MOUNT LAKE FOREST GREEN BLUE RED WHITE BLACK GOLD SILVER NORTH
    SOUTH EAST WEST OLD NEW LONG SHORT OF THE AND FOR BY TO IN ON AT NO NET SUM TAX DUE PAID OPEN CLOSED DATE TIME
    DAY DAYS MONTH YEAR WEEK HOUR FREE TOTAL COUNT LIST LINE ROW STAR MOON SUN
""".split()
# Words of the system turn that half of the pages get, so that answers do not depend on what stands before the image.
FILLER = (
    "you read the page and answer with json only copy values exactly as printed use null for none fields document"
).split()
UNITS = ["DAYS", "DAY", "KG", "PCS", "BOX", "HOURS", "PAGES", "CM"]


class PageMaker:
    """Random symbolic pages and the questions about them; one instance per seed, all randomness from `self.rng`."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def word(self) -> str:
        rng = self.rng
        if rng.random() < 0.35:
            return rng.choice(WORDS)
        length = rng.randint(2, 7)
        if rng.random() < 0.5:
            return "".join(rng.choice("BCDFGHJKLMNPRSTVWXYZ" if (i + length) % 2 else "AEIOU") for i in range(length))
        return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(length))

    def digits(self, low: int, high: int) -> str:
        rng = self.rng
        length = rng.randint(low, high)
        # Repeats ("1100", "7777") are what a small copier gets wrong, so they are more frequent than chance.
        alphabet = rng.choice(["0123456789", "0123456789", "01", "".join(rng.sample("0123456789", 3))])
        return "".join(rng.choice(alphabet) for _ in range(length))

    def value(self, width: int) -> str:
        """A value of at most `width` characters."""
        rng = self.rng
        for _ in range(20):
            kind = rng.random()
            if kind < 0.35:
                text = " ".join(self.word() for _ in range(rng.randint(1, 3)))
            elif kind < 0.42:
                text = self.digits(1, 3)
            elif kind < 0.5:
                text = f"{rng.randint(0, 99)} {rng.choice(UNITS)}"
            elif kind < 0.65:
                text = self.digits(4, 10)
            elif kind < 0.85:
                letters = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 4)))
                text = letters + rng.choice(["", "", " ", "-", "/"]) + self.digits(3, 8)
            elif kind < 0.92:
                text = rng.choice(["-", "/", "."]).join([self.digits(2, 2), self.digits(2, 2), self.digits(4, 4)])
            else:
                count = self.digits(1, 2) + rng.choice(["X", " X "])
                text = count + self.digits(2, 2) + rng.choice(["AB", "CD", "QF", ""])
            if len(text) <= width:
                return text
        return self.digits(1, max(1, min(width, 3)))

    def page(self, rows: int, columns: int) -> tuple[list[str], list[tuple[str, str]], list[list[str]]]:
        """`(lines, pairs, table)`: the page's lines (each `columns` long), its label-value pairs and its table rows."""
        rng = self.rng
        lines: list[str] = []
        pairs: list[tuple[str, str]] = []
        table: list[list[str]] = []
        labels: set[str] = set()
        style = rng.choice([": ", ":", " ", "  ", "column", "mixed"])
        value_column = rng.randint(min(5, columns // 2), max(5, columns // 2))
        want_table = rows >= 3 and rng.random() < 0.75
        table_at = rng.randint(1, rows - 1) if want_table else rows
        while len(lines) < rows:
            if len(lines) >= table_at and not table:
                table = self.table(min(rows - len(lines), rng.randint(1, 7)))
                offsets, start = [], rng.randint(0, 2)
                for column in range(len(table[0])):
                    offsets.append(start)
                    start += max(len(row[column]) for row in table) + rng.randint(1, 2)
                if start - 1 <= columns + 1:
                    for row in table:
                        line = ""
                        for offset, cell in zip(offsets, row, strict=True):
                            line = line.ljust(offset) + cell
                        lines.append(line[:columns].ljust(columns))
                    continue
                table = []
                table_at = rows
            draw = rng.random()
            if draw < 0.08:
                lines.append(" " * columns)
            elif draw < 0.2:
                text = " ".join(self.word() for _ in range(3))
                lines.append((" " * rng.randint(0, 3) + text)[:columns].ljust(columns))
            else:
                line = " " * rng.choice([0, 0, 0, 1, 2])
                for _ in range(rng.choice([1, 1, 1, 2])):
                    label = self.word() if rng.random() < 0.6 else self.word() + " " + self.word()
                    separator = style if style != "mixed" else rng.choice([": ", " ", ":"])
                    head = line + label
                    head = (head + " ").ljust(value_column) if separator == "column" else head + separator
                    room = columns - len(head)
                    if label in labels or room < 1 or any(label in known or known in label for known in labels):
                        break
                    text = self.value(room)
                    labels.add(label)
                    pairs.append((label, text))
                    line = head + text + "  "
                    if len(line) > columns * 0.6:
                        break
                lines.append(line[:columns].ljust(columns))
        return lines, pairs, table

    def table(self, count: int) -> list[list[str]]:
        rng = self.rng
        width = rng.randint(1, 3)
        kinds = [rng.random() for _ in range(width)]
        prefix_length = rng.randint(2, 4)
        number_length = rng.randint(2, 7)
        tag_choices = [self.word()[:2] for _ in range(3)]
        size_choices = [self.digits(2, 2) for _ in range(3)]
        rows = []
        for _ in range(count):
            row = []
            for column in range(width):
                if column == 0 and kinds[0] < 0.7:
                    letters = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(prefix_length))
                    row.append(letters + self.digits(number_length, number_length))
                elif kinds[column] < 0.35:
                    row.append(self.digits(2, 5))
                elif kinds[column] < 0.6:
                    row.append(rng.choice(tag_choices))
                elif kinds[column] < 0.85:
                    row.append(rng.choice(size_choices))
                else:
                    row.append(self.word())
            rows.append(row)
        return rows

    def fields_question(self, pairs: list[tuple[str, str]]) -> tuple[str, str]:
        """Several labels under given names, as strings or whole numbers (count, number, total); null where absent."""
        rng = self.rng
        texts = rng.sample(["first", "name", "last", "code", "date"], rng.randint(1, 4))
        numbers = rng.sample(["count", "number", "total"], rng.randint(0, 2))
        numeric = [pair for pair in pairs if whole_number(pair[1]) is not None]
        wanted: list[tuple[str, str, Any]] = []
        for key in rng.sample(texts + numbers, len(texts) + len(numbers)):
            pool = numeric if key in numbers else pairs
            if not pool or rng.random() < 0.15:
                wanted.append((key, self.word(), None))
                continue
            label, value = rng.choice(pool)
            wanted.append((key, label, whole_number(value) if key in numbers else value))
        known = {label for label, _ in pairs}
        wanted = [(k, label, v) for k, label, v in wanted if v is not None or label not in known]
        question = "fields " + ", ".join(f"{key} {label}" for key, label, _ in wanted)
        return question, compact({key: value for key, _, value in wanted})

    def question(self, lines: list[str], pairs: list[tuple[str, str]], table: list[list[str]]) -> tuple[str, str]:
        """One `(question, answer)` about the page; answers are compact JSON."""
        rng = self.rng
        choices = ["line"]
        if pairs:
            choices += ["value"] * 2 + ["several"] * 3 + ["pairs"] * 2 + ["fields"] * 5
        if table:
            choices += ["table"] * 3 + ["rows"] * 2 + ["count"]
        kind = rng.choice(choices)
        if kind == "value":
            label, value = rng.choice(pairs)
            return f"value {label}", compact({"value": value})
        if kind == "several":
            asked = [(label, value) for label, value in rng.sample(pairs, min(len(pairs), rng.randint(1, 5)))]
            wanted: list[tuple[str, str | None]] = list(asked)
            if rng.random() < 0.4:
                wanted.insert(rng.randint(0, len(wanted)), (self.word() + " " + self.word(), None))
            return "several " + ", ".join(label for label, _ in wanted), compact([value for _, value in wanted])
        if kind == "fields":
            return self.fields_question(pairs)
        if kind == "pairs":
            return "pairs", compact(dict(pairs))
        if kind == "table":
            return "table", compact(table)
        if kind == "rows":
            names = ["first", "name", "last"][: len(table[0])]
            return "rows " + " ".join(names), compact({"rows": [dict(zip(names, row, strict=True)) for row in table]})
        if kind == "count":
            return "count", compact({"rows": len(table)})
        filled = [index for index, line in enumerate(lines) if line.strip()]
        index = rng.choice(filled) if filled else 0
        return f"line {index + 1}", compact(" ".join(lines[index].split()))


def whole_number(text: str) -> int | None:
    """The number of "14" and "14 DAYS"; None for anything else (also for "007", which is a code)."""
    head, _, unit = text.partition(" ")
    return int(head) if head.isdigit() and str(int(head)) == head and len(head) <= 3 and unit in ("", *UNITS) else None


def compact(value: Any) -> str:
    """JSON without white space."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
