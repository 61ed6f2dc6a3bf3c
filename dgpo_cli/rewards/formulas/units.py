"""Compares the units of two answers: `cm` equals `centimeters`, not `m`; no unit equals any."""

from __future__ import annotations

from dgpo_cli.rewards.vocabulary import words


def _synonyms(text: str) -> dict[str, str]:
    return {name: names.split()[0] for names in text.split(";") for name in names.split()}


_MEASURES = _synonyms(
    "mm millimeter millimetre; cm centimeter centimetre; m meter metre; km kilometer kilometre; "
    "in inch inche; ft foot feet; yd yard; mi mile; mg milligram; g gram; kg kilogram; "
    "lb pound; oz ounce; ton tonne; s sec second; min minute; h hr hour; day; week; month; "
    "year yr; ml milliliter millilitre; l liter litre; gal gallon; $ dollar usd; £; € euro; "
    "cent ¢; degree deg; radian rad; N newton; J joule; W watt; V volt; A ampere amp"
)
_QUOTIENTS = {
    "mph": ("mile", "per", "hour"),
    "kmh": ("km", "per", "hour"),
    "kph": ("km", "per", "hour"),
}
_SILENT = words(
    "unit units st nd rd th the a an of in is as at by to we it so be my answer only exactly each "
    "total all different possible"
)


def units_agree(gold: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    """Whether the units of two answers agree; missing units agree with any."""
    one, other = _names(gold), _names(answer)
    if not one or not other or one == other:
        return True
    if one & _KNOWN or other & _KNOWN:
        return one & _KNOWN == other & _KNOWN and (one <= other or other <= one)
    return bool(one & other)


def _names(units: tuple[str, ...]) -> frozenset[str]:
    spelled = [part for unit in units for part in _QUOTIENTS.get(unit, (unit,))]
    return frozenset(_name(unit) for unit in spelled if unit.partition("^")[0] not in _SILENT)


def _name(unit: str) -> str:
    word, mark, power = unit.partition("^")
    known = _MEASURES.get(word) or _MEASURES.get(word.removesuffix("s"))
    if known is None:
        known = _MEASURES.get(word.lower().removesuffix("s"), word.lower().removesuffix("s"))
    return f"{known}{mark}{power}"


_KNOWN = frozenset(
    f"{name}{power}" for name in _MEASURES.values() for power in ("", "^2", "^3", "^-1", "^-2")
)
