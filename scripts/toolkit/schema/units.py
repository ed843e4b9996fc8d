"""Currencies and units of measurement as they stand beside numbers: their spellings, and which of them agree.

A currency's canonical form is its ISO 4217 code. A sign that several currencies share ($, ¥, £, kr, Rs) stays that
sign: it agrees with each of its currencies, while two codes never agree. A unit of measurement has one canonical
spelling (kg, t, m3). Amounts are never converted: 5 kg and 5000 g differ.
"""

from __future__ import annotations

import functools
import unicodedata

ISO_CODES = frozenset(
    """AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF
    CLP CNH CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HRK
    HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA
    MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB
    RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU
    UZS VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG""".split()
)
# KGS on a bill of lading is kilograms. Codes that are also words (ALL, TOP, CUP) count in capitals only.
NOT_A_CURRENCY = frozenset({"KGS"})
LOWER_CASE_CODES = frozenset(
    """AED AUD BRL CAD CHF CNY CZK DKK EUR GBP HKD HUF IDR INR JPY KRW MXN MYR NOK NZD PHP PLN RON SAR SEK SGD THB TWD
    USD VND ZAR""".split()
)
SHARED_SIGNS = {
    "$": frozenset(
        """ARS AUD BBD BMD BND BSD BZD CAD CLP COP CUP CVE DOP FJD GYD HKD JMD KYD LRD MOP MXN NAD NIO NZD SBD SGD SRD
        TTD TWD USD UYU XCD""".split()
    ),
    "¥": frozenset({"JPY", "CNY", "CNH"}),
    "£": frozenset({"GBP", "EGP", "FKP", "GIP", "LBP", "SDG", "SHP", "SSP", "SYP"}),
    "kr": frozenset({"SEK", "NOK", "DKK", "ISK"}),
    "Rs": frozenset({"INR", "PKR", "LKR", "NPR", "MUR", "SCR"}),
}
_CURRENCY_SPELLINGS = {
    "$": "$ dollar dollars",
    "¥": "¥ yen yuan 元 円",
    "£": "£",
    "kr": "kr",
    "Rs": "rs rupee rupees",
    "AED": "dh dhs",
    "AUD": "a$ au$",
    "AZN": "₼",
    "BDT": "৳",
    "BGN": "лв",
    "BRL": "r$",
    "CAD": "c$ ca$ can$",
    "CHF": "fr sfr",
    "CNY": "rmb cn¥ 人民币",
    "CRC": "₡",
    "CZK": "kč",
    "EUR": "€ euro euros",
    "GEL": "₾",
    "GHS": "₵ gh₵",
    "HKD": "hk$",
    "IDR": "rp",
    "ILS": "₪",
    "INR": "₹",
    "JPY": "jp¥",
    "KHR": "៛",
    "KRW": "₩ 원",
    "KZT": "₸",
    "LAK": "₭",
    "MNT": "₮",
    "MXN": "mex$ mx$",
    "MYR": "rm",
    "NGN": "₦",
    "NZD": "nz$",
    "PHP": "₱",
    "PLN": "zł",
    "PYG": "₲",
    "RUB": "₽ руб",
    "SGD": "s$ sg$",
    "THB": "฿",
    "TRY": "₺ tl",
    "TWD": "nt$",
    "UAH": "₴ грн",
    "USD": "us$ u$s usd$ $us",
    "VND": "₫",
}
_MEASURE_SPELLINGS = {
    "kg": "kg kgs kgm kilo kilos kilogram kilograms kilogramme kilogrammes кг",
    "g": "gr gm gms gram grams gramme grammes",
    "mg": "mg",
    "t": "mt mts tonne tonnes metricton metrictons tne",
    "ton": "ton tons",
    "lb": "lb lbs pound pounds",
    "oz": "oz ounce ounces",
    "m3": "m3 cbm cum m^3 cubicmetre cubicmetres cubicmeter cubicmeters mtq",
    "m2": "m2 sqm m^2 squaremetre squaremetres squaremeter squaremeters",
    "ft3": "ft3 cft cuft ft^3 cubicfoot cubicfeet",
    "ft2": "ft2 sqft ft^2 squarefoot squarefeet",
    "m": "mtr mtrs metre metres meter meters",
    "cm": "cm",
    "mm": "mm",
    "km": "km kms",
    "ft": "ft feet foot",
    "in": "in inch inches",
    "l": "ltr ltrs litre litres liter liters",
    "ml": "ml",
    "cm3": "cm3 ccm cm^3",
    "kWh": "kwh",
    "MWh": "mwh",
    "°C": "°c degc",
    "°F": "°f degf",
    "%": "% ٪ pct percent",
    "‰": "‰",
    "pcs": "pc pcs pce pces piece pieces stk stck stück",
    "units": "unit units ea each",
    "sets": "set sets",
    "pairs": "pr prs pair pairs",
    "pkgs": "pkg pkgs package packages",
    "ctns": "ctn ctns carton cartons",
    "boxes": "box boxes bx bxs",
    "bags": "bag bags",
    "cases": "case cases",
    "drums": "drum drums",
    "rolls": "roll rolls",
    "plts": "plt plts pallet pallets",
    "teu": "teu teus",
}
# One letter is a unit in these spellings only: 5 M and 5 K are millions and thousands.
_SINGLE_LETTERS = {"g": "g", "t": "t", "T": "t", "m": "m", "l": "l", "L": "l", "R": "ZAR"}
_SPELLINGS = {
    spelling: canonical
    for canonical, spellings in {**_CURRENCY_SPELLINGS, **_MEASURE_SPELLINGS}.items()
    for spelling in spellings.split()
}
_DIMENSIONS = {
    "weight": "kg g mg t ton lb oz",
    "volume": "m3 cm3 ft3 l ml",
    "area": "m2 ft2",
    "length": "m cm mm km ft in",
    "energy": "kWh MWh",
    "temperature": "°C °F",
    "share": "% ‰",
}
_DIMENSION_OF = {unit: name for name, units in _DIMENSIONS.items() for unit in units.split()}
CURRENCIES = ISO_CODES - NOT_A_CURRENCY | set(SHARED_SIGNS)


@functools.lru_cache(maxsize=4096)
def canonical_unit(text: str) -> str | None:
    """The canonical form of a currency or unit as printed ("Rs.", "cu. m", "KGS", "€"); None where it is not known."""
    plain = unicodedata.normalize("NFKC", text).replace(" ", "").replace(".", "")
    if plain in _SINGLE_LETTERS:
        return _SINGLE_LETTERS[plain]
    code = plain.upper()
    if code in CURRENCIES and (plain == code or code in LOWER_CASE_CODES):
        return code
    return _SPELLINGS.get(plain.casefold())


def same_unit(one: str, other: str) -> bool:
    """Whether two canonical units agree. No unit ("") agrees with every one: it may stand in another field."""
    if one == other or not one or not other:
        return True
    if one in SHARED_SIGNS or other in SHARED_SIGNS:
        return other in SHARED_SIGNS.get(one, ()) or one in SHARED_SIGNS.get(other, ())
    return False


def dimension(unit: str) -> str | None:
    """What a unit measures: 5 kg and 5 t are two weights. None for currencies and counts (pcs, boxes)."""
    return _DIMENSION_OF.get(unit)
