"""Labels tables that are broken, malicious or merely odd, made anew for every run; the last row of each is good."""

import io
import json
import struct
import zipfile

HEAD = ["Filename", "company", "date", "address", "total"]
GOOD = ["good.pdf", "A", "01/02/2024", "Street 1", "12.50"]
NO_EXCEL = "not an Excel file"
SHEET = "xl/worksheets/sheet1.xml"


def workbook(*rows, header=HEAD, cells=None, format_of=None) -> bytes:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    for row in (header, *rows, GOOD):
        sheet.append(row)
    for place, value in (cells or {}).items():
        sheet[place] = value
    for place, text in (format_of or {}).items():
        sheet[place].number_format = text
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def with_part(data: bytes, name: str, change) -> bytes:
    """The workbook with one of its parts changed, or without it where `change` returns None."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.namelist():
            content = change(old.read(part)) if part == name else old.read(part)
            if content is not None:
                new.writestr(part, content)
    return buffer.getvalue()


def csv_of(*lines: str) -> bytes:
    return ("\n".join([",".join(HEAD), *lines, ",".join(GOOD)]) + "\n").encode()


def json_of(*rows) -> bytes:
    return json.dumps([*rows, dict(zip(HEAD, GOOD, strict=True))]).encode()


def row(**change):
    return {"Filename": "bad.pdf", "company": "B", "total": "1"} | change


def nested(depth: int, opening="[", closing="]") -> str:
    return opening * depth + closing * depth


def sized_wrongly(data: bytes, size: int) -> bytes:
    """The workbook whose directory claims another size for its sheet."""
    changed = bytearray(data)
    at = changed.find(b"PK\x01\x02")
    while at >= 0:
        (length,) = struct.unpack_from("<H", changed, at + 28)
        if changed[at + 46 : at + 46 + length] == SHEET.encode():
            struct.pack_into("<I", changed, at + 24, size)
        at = changed.find(b"PK\x01\x02", at + 4)
    return bytes(changed)


def row_faults() -> dict[str, tuple[str, bytes, str]]:
    """`{case: (file name, content, sentence)}`: one bad row, which is its document's problem, beside a good one."""
    return {
        "csv with a surplus cell": ("t.csv", csv_of("bad.pdf,B,,,1,oops"), "1 cell more than the header"),
        "csv with surplus cells": ("t.csv", csv_of("bad.pdf,B,,,1,x,y"), "2 cells more than the header"),
        "csv with #REF!": ("t.csv", csv_of("bad.pdf,#REF!,,,1"), "'#REF!' is an error of the spreadsheet"),
        "csv with #N/A": ("t.csv", csv_of("bad.pdf,#N/A,,,1"), "'#N/A' is an error of the spreadsheet"),
        "tsv with #VALUE!": ("t.tsv", csv_of("bad.pdf,B,,,#VALUE!").replace(b",", b"\t"), "'#VALUE!' is an error"),
        "excel with #REF!": ("t.xlsx", workbook(["bad.pdf", "#REF!", None, None, 1]), "'#REF!' is an error"),
        "excel with #DIV/0!": ("t.xlsx", workbook(["bad.pdf", "B", None, None, "#DIV/0!"]), "'#DIV/0!' is an error"),
        "excel formula never calculated": (
            "t.xlsx",
            workbook(["bad.pdf", "=A1&B1", None, None, 1]),
            "'=A1&B1' is a formula without a saved value",
        ),
        "excel array formula": (
            "t.xlsx",
            with_part(
                workbook(["bad.pdf", "=SUM(1)", None, None, 1]),
                SHEET,
                lambda xml: xml.replace(b"<f>", b'<f t="array" ref="B2">'),
            ),
            "is a formula without a saved value",
        ),
        "json with 1e400": ("t.json", json_of(row()).replace(b'"B"', b"1e400"), "the number is too large"),
        "json with -1e999": ("t.json", json_of(row()).replace(b'"B"', b"-1e999"), "the number is too large"),
        "jsonl with 1e400": (
            "t.jsonl",
            b'{"Filename":"bad.pdf","company":1e400}\n' + json.dumps(dict(zip(HEAD, GOOD, strict=True))).encode(),
            "the number is too large",
        ),
        "json list for a value": ("t.json", json_of(row(company=["B"])), "a single value is needed, this is a list"),
        "json object for a value": ("t.json", json_of(row(company={"x": 1})), "a single value is needed"),
        "json half a character": ("t.json", json_of(row(company="\ud800")), "half of a surrogate pair"),
        "rows that disagree": ("t.json", json_of(row(), row(company="C")), "the rows disagree"),
        "excel date out of range": (
            "t.xlsx",
            with_part(
                workbook(["bad.pdf", "B", 5, None, 1], format_of={"C2": "yyyy-mm-dd"}),
                SHEET,
                lambda xml: xml.replace(b"<v>5</v>", b"<v>1e300</v>"),
            ),
            "'#VALUE!' is an error",
        ),
    }


def file_faults() -> dict[str, tuple[str, bytes, str]]:
    """`{case: (file name, content, sentence)}`: nothing of the file can be trusted; one sentence, exit code 2."""
    good = workbook()
    bomb = with_part(good, SHEET, lambda xml: xml.replace(b"<sheetData>", b"<sheetData>" + b" " * 2**28))
    many = "".join(f'<row r="{n}"><c r="A{n}"><v>1</v></c></row>' for n in range(9, 300))
    entity = (
        b'<!DOCTYPE x [<!ENTITY a "'
        + b"b" * 999
        + b'">'
        + b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%s;" % (str(n - 1).encode() if n else b"") * 20) for n in range(9))
        + b"]>"
    )
    return {
        "csv column twice": ("t.csv", csv_of().replace(b"date", b"company"), "'company' stands twice"),
        "excel column twice": ("t.xlsx", workbook(header=["Filename", "a", "a", "b", "c"]), "'a' stands twice"),
        "csv open quote": ("t.csv", csv_of('bad.pdf,"B'), "not CSV"),
        "csv text after quote": ("t.csv", csv_of('bad.pdf,"B"x,,,'), "not CSV"),
        "csv huge cell": ("t.csv", csv_of(f"bad.pdf,{'x' * 200_000},,,"), "field larger than field limit"),
        "csv of another code page": (
            "t.csv",
            csv_of("bad.pdf,Müller,,,").decode().encode("latin-1"),
            "not valid utf-8",
        ),
        "csv empty": ("t.csv", b"", "no rows"),
        "csv header only": ("t.csv", (",".join(HEAD) + "\n").encode(), "no rows"),
        "csv without a file name": ("t.csv", b"company,total\nA,1\n", "no file name"),
        "json truncated": ("t.json", json_of(row())[:-9], "not JSON"),
        "json empty": ("t.json", b"  \n", "the file is empty"),
        "json a number": ("t.json", b"7", "a list of rows is needed"),
        "json rows of numbers": ("t.json", b"[1, 2]", "a row must be an object"),
        "json key twice": ("t.json", b'[{"Filename":"good.pdf","company":"A","company":"B"}]', "stands twice"),
        "json NaN": ("t.json", b'[{"Filename":"good.pdf","company":NaN}]', "NaN is not JSON"),
        "json nested 200": ("t.json", f'[{{"Filename":"good.pdf","company":{nested(200)}}}]'.encode(), "nested deeper"),
        "json nested 100,000": ("t.json", nested(100_000).encode(), "nested deeper"),
        "json a number of 9,000 digits": (
            "t.json",
            b'[{"Filename":"good.pdf","company":' + b"9" * 9000 + b"}]",
            "digits",
        ),
        "json two lists": ("t.json", b'{"a":[{}],"b":[{}]}', "has 2 lists"),
        "jsonl broken line": ("t.jsonl", b'{"Filename":"good.pdf"}\n{"Filename":\n', "t.jsonl:2: not JSON"),
        "jsonl nested": ("t.jsonl", nested(5000, '{"a":', "}").replace("{}", "{1}").encode(), "not JSON"),
        "json file name a list": ("t.json", json_of(row(Filename=["x"])), "a file name is needed"),
        "utf-16 cut in half": ("t.json", json_of().decode().encode("utf-16")[:-1], "not valid utf-16"),
        "excel not a zip": ("t.xlsx", b"PK\x03\x04 and then nothing", NO_EXCEL),
        "excel empty": ("t.xlsx", b"", NO_EXCEL),
        "excel a zip of something else": ("t.xlsx", zip_of({"a.txt": b"x"}), NO_EXCEL),
        "excel malformed sheet": (
            "t.xlsx",
            with_part(good, SHEET, lambda xml: xml[: len(xml) // 2]),
            NO_EXCEL,
        ),
        "excel no sheet part": ("t.xlsx", with_part(good, SHEET, lambda xml: None), NO_EXCEL),
        "excel malformed workbook": (
            "t.xlsx",
            with_part(good, "xl/workbook.xml", lambda xml: b"<a>"),
            NO_EXCEL,
        ),
        "excel no workbook part": ("t.xlsx", with_part(good, "xl/workbook.xml", lambda xml: None), NO_EXCEL),
        "excel malformed styles": (
            "t.xlsx",
            with_part(good, "xl/styles.xml", lambda xml: b"\xff\xfe"),
            NO_EXCEL,
        ),
        "excel cell without a column": (
            "t.xlsx",
            with_part(good, SHEET, lambda x: x.replace(b'"B2"', b'"22"')),
            "damaged",
        ),
        "excel number that is none": (
            "t.xlsx",
            with_part(good, SHEET, lambda xml: xml.replace(b"</row>", b'<c r="F1"><v>abc</v></c></row>', 1)),
            NO_EXCEL,
        ),
        "excel shared text missing": (
            "t.xlsx",
            with_part(good, SHEET, lambda xml: xml.replace(b"</row>", b'<c r="F1" t="s"><v>99999</v></c></row>', 1)),
            NO_EXCEL,
        ),
        "excel entity bomb": (
            "t.xlsx",
            with_part(good, SHEET, lambda xml: entity + b"<worksheet>&a8;</worksheet>"),
            NO_EXCEL,
        ),
        "excel unpacks to 256 MiB": ("t.xlsx", bomb, "unpacks to more than 256 MiB"),
        "excel wrong size in the directory": ("t.xlsx", sized_wrongly(good, 50), NO_EXCEL),
        "excel rows without a header": (
            "t.xlsx",
            with_part(good, SHEET, lambda xml: xml[: xml.find(b"<row")] + many.encode() + b"</sheetData></worksheet>"),
            "",
        ),
        "excel 97": ("t.xls", b"\xd0\xcf\x11\xe0", "save the table as .xlsx or .csv"),
    }


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()
