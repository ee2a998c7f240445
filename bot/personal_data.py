"""Personal data in free text, made unreadable: telephone, identity card and bank card numbers, e-mail.

A number is masked only where its form says what it is: an identity card by its check digit, a bank card by
its issuer and Luhn's sum. Order numbers, dates and identifiers stay as they are.
"""

from __future__ import annotations

import re
from datetime import date

_MAYBE = re.compile(r"@|\d{2}")
_HALF_WIDTH = {full: full - 0xFEE0 for full in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
_GAP = r"[ \-.\u00a0\u2010-\u2015]"
_COUNTRY = rf"(?:(?:\+|00)?86{_GAP}?)?"
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])([A-Za-z0-9][A-Za-z0-9._%+-]{0,63})(@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8})"
)
_DAY = r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_IDENTITY = re.compile(
    rf"(?<!\d)(?:[1-8]\d{{5}}{_GAP}?(?:18|19|20)\d{{2}}{_DAY}{_GAP}?\d{{3}}[\dXx]|[1-8]\d{{5}}\d{{2}}{_DAY}\d{{3}})"
    r"(?![\dA-Za-z])"
)
_MOBILE = re.compile(
    rf"(?<!\d){_COUNTRY}(1[3-9]\d(?:{_GAP}?\d{{4}}{_GAP}?\d{{4}}|{_GAP}\d{{3}}{_GAP}\d{{5}}))(?![\dA-Za-z])"
)
_AREA = r"(?:10|2\d|[3-9]\d{2})"
_LANDLINE = re.compile(
    rf"(?<!\d)(?:{_COUNTRY}\(?0{_AREA}\)?|\+86{_GAP}?{_AREA}){_GAP}?([2-9]\d{{2,3}}{_GAP}?\d{{4}})(?![\dA-Za-z])"
)
_CARD = re.compile(
    rf"(?<!\d)(?:\d{{13,19}}|\d{{4}}(?:{_GAP}\d{{4}}){{2,3}}(?:{_GAP}\d{{1,4}})?|\d{{4}}{_GAP}\d{{6}}{_GAP}\d{{4,5}})"
    r"(?![\dA-Za-z])"
)
_ISSUER = re.compile(
    r"4(?:.{12}|.{15}|.{18})"  # Visa
    r"|(?:5[1-5]..|222[1-9]|22[3-9].|2[3-6]..|27[01].|2720).{12}"  # Mastercard
    r"|3[47].{13}|3(?:0[0-5]|[68].).{11}|35.{14}"  # American Express, Diners, JCB
    r"|(?:6011|65..).{12}"  # Discover
    r"|62.{14,17}|(?:60|68|69|9558|955\d).{12,17}"  # UnionPay, and debit cards from before it
)
_PROVINCE = re.compile("1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3]")
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS = "10X98765432"


def mask(text: str) -> str:
    """The text with the middle of each such number as asterisks: 138****5678; its length stays."""
    if not _MAYBE.search(text):
        return text
    plain = text.translate(_HALF_WIDTH)
    masked = _masked(plain)
    if plain == text:
        return masked
    pairs = zip(text, plain, masked, strict=True)
    return "".join(old if half == new else new for old, half, new in pairs)


def _masked(text: str) -> str:
    text = _EMAIL.sub(lambda found: found[1][: len(found[1]) > 1].ljust(len(found[1]), "*") + found[2], text)
    text = _IDENTITY.sub(lambda found: _starred(found[0], 6, 4) if _is_identity(found[0]) else found[0], text)
    text = _MOBILE.sub(lambda found: _number(found, 3), text)
    text = _LANDLINE.sub(lambda found: _number(found, 0), text)
    return _CARD.sub(lambda found: _starred(found[0], 4, 4) if _is_card(found[0]) else found[0], text)


def _number(found: re.Match[str], first: int) -> str:
    """A telephone number: country and area stay, and of the number itself the first and the last four."""
    return found.string[found.start() : found.start(1)] + _starred(found[1], first, 4)


def _starred(text: str, first: int, last: int) -> str:
    """All but so many of the first and last letters and digits as asterisks; separators stay."""
    places = [place for place, char in enumerate(text) if char.isalnum()]
    hidden = set(places[first : len(places) - last])
    return "".join("*" if place in hidden else char for place, char in enumerate(text))


def _bare(text: str) -> str:
    """Its digits (and the X of an identity card) as ASCII."""
    return "".join(str(int(char)) if char.isdigit() else "X" for char in text if char.isalnum())


def _is_identity(text: str) -> bool:
    """Whether province and birthday exist and, in the form of 18, the check digit is right."""
    number = _bare(text)
    birthday = number[6:14] if len(number) == 18 else f"19{number[6:12]}"
    try:
        date(int(birthday[:4]), int(birthday[4:6]), int(birthday[6:]))
    except ValueError:
        return False
    if not _PROVINCE.match(number):
        return False
    if len(number) == 15:
        return True
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, number[:17], strict=True))
    return _CHECKS[total % 11] == number[17]


def _is_card(text: str) -> bool:
    """Whether an issuer has numbers of this beginning and length, and Luhn's sum is right."""
    number = _bare(text)
    if not _ISSUER.fullmatch(number):
        return False
    doubled = [2 * int(digit) for digit in number[-2::-2]]
    return (sum(map(int, number[::-2])) + sum(twice - 9 * (twice > 9) for twice in doubled)) % 10 == 0
