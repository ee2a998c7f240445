"""What tells who somebody is, made unreadable: phone numbers, identity and bank cards, addresses of mail.

The ends stay, so that a person who knows the number can still recognise it. Every pattern reads a text in
linear time. A number of 13 to 19 digits counts as a bank card where an issuer's prefix and the check digit
say so; of order numbers that begin like a card one in ten does.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_ASCII = {
    ord(wide): plain for wide, plain in zip("０１２３４５６７８９－＠．＋　", "0123456789-@.+ ", strict=True)
}
_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24}(?![\w-])", re.I | re.A)
_ID = re.compile(
    r"(?<![0-9A-Za-z])[1-8]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[0-9Xx](?![0-9A-Za-z])"
)
_OLD_ID = re.compile(
    r"(?<![0-9A-Za-z])(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5])\d{4}"
    r"[3-9]\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}(?![0-9A-Za-z])"
)
_CARD = re.compile(r"(?<![0-9A-Za-z])(?:\d[ -]?){12,18}\d(?![0-9A-Za-z])")
_ISSUER = re.compile(r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|35|6[0245]")
_MOBILE = re.compile(r"(?<![0-9A-Za-z+])(?:(?:\+|00)?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![0-9A-Za-z])")
_LANDLINE = re.compile(r"(?<![0-9A-Za-z])(?:\(0\d{2,3}\) ?|0\d{2,3}[ -])[2-9]\d{6,7}(?![0-9A-Za-z])")
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def mask(text: str) -> str:
    """The text with stars in the middle of what tells who somebody is; all else is as it was."""
    plain = text.translate(_ASCII)
    hidden = list[tuple[int, int]]()
    for pattern, is_one, first, last in _KINDS:
        for found in pattern.finditer(plain):
            start, end = found.span()
            if is_one(found[0]) and all(end <= begin or stop <= start for begin, stop in hidden):
                hidden.append((start, end))
                text = _starred(text, plain, start, end, first, last)
    return text


def _starred(text: str, plain: str, start: int, end: int, first: int, last: int) -> str:
    """`first` and `last`: characters of a finding that stay; of mail, also all from the @ on."""
    at = plain.find("@", start, end)
    begin, stop = start + first, (at if at >= 0 else end - last)
    stars = "".join("*" if char.isalnum() else char for char in text[begin:stop])
    return text[:begin] + stars + text[stop:]


def _any(text: str) -> bool:
    return True


def _is_id(text: str) -> bool:
    """By its check digit (GB 11643)."""
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, text, strict=False))
    return "10X98765432"[total % 11] == text[-1].upper()


def _is_card(text: str) -> bool:
    """By an issuer's prefix and Luhn's check digit (ISO/IEC 7812)."""
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (
        _ISSUER.match("".join(map(str, digits))) is not None
        and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
    )


_KINDS: tuple[tuple[re.Pattern[str], Callable[[str], bool], int, int], ...] = (
    (_MAIL, _any, 1, 0),
    (_ID, _is_id, 3, 2),
    (_CARD, _is_card, 4, 4),
    (_OLD_ID, _any, 3, 2),
    (_MOBILE, _any, 3, 4),
    (_LANDLINE, _any, 4, 2),
)
"""What a pattern finds, whether it is one, and how many characters of it stay at its ends."""
