"""A text is one number, read whole, or it is refused: sign, digits of any script, grouping, currency or unit."""

from decimal import Decimal

import pytest
from hypothesis import example, given, strategies

from toolkit.schema.number_text import CONVENTIONS, number_of, read_number, same_number
from toolkit.schema.units import CURRENCIES, canonical_unit, same_unit
from toolkit.schema.values import as_id, as_text


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("-12.50", "-12.50", ""),
        ("\u22125", "-5", ""),  # minus sign
        ("\u20135", "-5", ""),  # en dash
        ("\u2013$5", "-5", "$"),
        ("$-5", "-5", "$"),
        ("1.234,50-", "-1234.50", ""),  # SAP
        ("(12.5)", "-12.5", ""),
        ("$(5)", "-5", "$"),
        ("(5) USD", "-5", "USD"),
        ("+7", "7", ""),
        ("Rs. 500", "500", "Rs"),
        ("Rs.500", "500", "Rs"),
        ("500/-", "500", ""),
        ("$.50", "0.50", "$"),
        ("12,-", "12.00", ""),
        ("CHF 12.\u2013", "12.00", "CHF"),
        ("1.000,-- €", "1000.00", "EUR"),
        ("12.5 m³", "12.5", "m3"),
        ("12.5cbm", "12.5", "m3"),
        ("1.5 cu. m", "1.5", "m3"),
        ("KGS 5", "5", "kg"),
        ("5 pcs.", "5", "pcs"),
        ("19 %", "19", "%"),
        ("$5 USD", "5", "USD"),
        ("S$5.20", "5.20", "SGD"),
        ("R$ 1.234,50", "1234.50", "BRL"),
        ("12,34,567.89", "1234567.89", ""),  # India
        ("1 234 567,89", "1234567.89", ""),
        ("1\u202f234,5", "1234.5", ""),
        ("1\u00a0234", "1234", ""),
        ("1'234.50", "1234.50", ""),
        ("1\u2019234'567", "1234567", ""),
        ("１２３．５", "123.5", ""),
        ("١٢٣٫٤٥", "123.45", ""),
        ("५००", "500", ""),
        ("0,125", "0.125", ""),  # no group begins with 0
        ("1234,567", "1234.567", ""),
        ("1.000.000", "1000000", ""),
        ("1'234,567", "1234.567", ""),  # one kind of group sign in a number
        ("007", "7", ""),
    ],
)
def test_a_number_is_read_with_its_sign_convention_and_unit(text, value, unit):
    number = read_number(text)
    assert (number.value(), number.unit) == (Decimal(value), unit)
    assert not number.ambiguous


@pytest.mark.parametrize(
    ("text", "point", "comma"), [("1,000", "1000", "1"), ("26.460", "26.46", "26460"), ("-1,000 kg", "-1000", "-1")]
)
def test_three_digits_behind_one_separator_are_two_numbers(text, point, comma):
    number = read_number(text)
    assert number.ambiguous and number.value() is None
    assert (number.value("point"), number.value("comma")) == (Decimal(point), Decimal(comma))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "12.50.",
            "12.",
            "1.2.3",
            "1,2,3",
            "1.23,4",
            "12,345.678,9",
            "1.234 567",
            "0,125,000",
            "0 500",
            "2 40",
            "1  234",
        ),
        *(
            "2 x 40",
            "2x40",
            "5/8",
            "5:30",
            "1e5",
            "1_000",
            "0x10",
            "a7",
            "7 days",
            "5 CR",
            "5 M",
            "~5",
            "<5",
            "5+",
            "#5",
        ),
        *(
            "5²",
            "½",
            "5½",
            "①",
            "5-10",
            "3\u20135 kg",
            "(-5)",
            "-5-",
            "--5",
            "+-5",
            "(5",
            "5)",
            "\u2013 5",
            "5 -",
            "5\u2013",
        ),
        *("EUR 5 kg", "$5 EUR", "5 kg 3", "1\n234", "1\t234", "", " ", "-", "EUR", "twelve", "12,-5", "9" * 101),
    ],
)
def test_what_is_not_one_number_is_refused_with_a_sentence(text):
    with pytest.raises(ValueError, match="is no number: "):
        read_number(text)
    if text:
        with pytest.raises(ValueError, match="is no number"):
            number_of([text])


@pytest.mark.parametrize("value", [7, 7.0, -0.125, 26.460, 10**20])
def test_a_json_number_is_never_ambiguous(value):
    assert number_of(value).value() == Decimal(str(value))


SEPARATORS = {
    "point": (".", (",", " ", "'", "\u202f", "\u00a0", "\u2019", "")),
    "comma": (",", (".", " ", "'", "\u202f", "")),
}
SIGNS = (("-{}", -1), ("\u2212{}", -1), ("{}-", -1), ("({})", -1), ("+{}", 1), ("{}", 1))
MONEY = ("{}", "{} EUR", "EUR {}", "€{}", "{} kg", "Rs. {}")
DIGITS = ("0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９")
decimals = strategies.decimals(min_value=0, max_value=10**12, places=3, allow_nan=False) | strategies.integers(
    0, 10**9
).map(Decimal)


def written(value, decimal, group, digits):
    """`value` in a convention, as `format` writes it with its separators exchanged."""
    sign = SEPARATORS[decimal][0]
    text = f"{value:,f}".replace(",", "G").replace(".", sign).replace("G", group)
    return text.translate(str.maketrans("0123456789", digits))


@given(decimals, strategies.sampled_from(CONVENTIONS), strategies.data())
def test_a_number_written_in_a_convention_reads_as_itself_in_it(value, decimal, data):
    group = data.draw(strategies.sampled_from(SEPARATORS[decimal][1]))
    pattern, factor = data.draw(strategies.sampled_from(SIGNS))
    text = written(value, decimal, group, data.draw(strategies.sampled_from(DIGITS)))
    text = data.draw(strategies.sampled_from(MONEY)).format(pattern.format(text))
    number = read_number(text)
    assert number.under(decimal) == number.value(decimal) == factor * value
    if not number.ambiguous:
        assert number.value() == factor * value


@given(strategies.text(alphabet="0123456789.,'- ()+$€kgx\u2212\u2013²/", max_size=12))
@example("-0")
def test_a_text_is_refused_or_every_digit_of_it_is_in_the_number(text):
    try:
        number = read_number(text)
    except ValueError as error:
        assert str(error).startswith(repr(text))
        return
    printed = "".join(c for c in text if c in "0123456789").lstrip("0")
    for value in (number.point, number.comma):
        if value is not None:
            said = f"{abs(value):f}".replace(".", "").lstrip("0")
            assert said in (printed, printed + "00")  # 00: of 12,-
            assert value >= 0 or any(sign in text for sign in "-(\u2212\u2013")


@given(
    strategies.text(alphabet="0123456789.,'- ()$€kgEURUSD", max_size=9), strategies.sampled_from([None, *CONVENTIONS])
)
def test_every_number_equals_itself(text, decimal):
    try:
        number = read_number(text)
    except ValueError:
        return
    assert same_number(number, number, decimal)


def test_a_shared_currency_sign_is_each_of_its_currencies_and_their_codes_differ():
    assert same_unit("$", "USD") and same_unit("CAD", "$") and same_unit("¥", "JPY") and same_unit("$", "$")
    assert not same_unit("USD", "CAD") and not same_unit("$", "EUR") and not same_unit("$", "¥")
    assert not same_unit("kg", "t") and not same_unit("kg", "USD")
    assert same_unit("", "kg") and same_unit("USD", "")


@pytest.mark.parametrize(
    "spellings",
    ["kg KGS Kgs. kilograms", "m³ m3 cbm CBM cu.m", "$ ＄", "€ EUR eur euro", "Rs. Rs ₨ rupees", "pcs PCS pce pieces"],
)
def test_spellings_of_a_unit_have_one_canonical_form(spellings):
    assert len({canonical_unit(spelling) for spelling in spellings.split()}) == 1
    assert canonical_unit(spellings.split()[0]) is not None


def test_every_iso_code_is_itself_and_words_are_none():
    assert all(canonical_unit(code) == code for code in CURRENCIES if code.isupper())
    assert [canonical_unit(word) for word in ("top", "all", "try", "x", "days", "M", "K")] == [None] * 7


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("-12.50", "12.50", False),
        ("(12.50)", "12.50", False),
        ("12.50-", "12.50", False),
        ("\u221212.50", "-12.50", True),
        (".5 mm", "5 mm", False),
        ("-5 to -2 °C", "5 to -2 °C", False),
        ("A-", "A", False),
        ("5'", '5"', False),
        ('"5"', "5", True),
        ("12.50.", "12.50", True),
        ("- ACME Ltd.", "acme ltd", True),
        ("(ACME)", "ACME", True),
    ],
)
def test_edge_punctuation_of_a_text_is_stripped_only_where_it_says_nothing(one, other, equal):
    assert (as_text(one) == as_text(other)) is equal


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("京B12345", "粤B12345", False),
        ("京B-12345", "京 b12345", True),
        ("МК-7", "AK-7", False),
        ("CAFÉ 1", "CAFE 1", False),
        ("CAFE\u0301 1", "café1", True),
        ("ＡＢ１２", "ab-12", True),
        ("กข 1", "กค 1", False),
        ("कि1", "का1", False),
        ("MSKU 123456-7", "msku1234567", True),
    ],
)
def test_ids_keep_the_letters_and_digits_of_every_script(one, other, equal):
    assert (as_id(one) == as_id(other)) is equal
