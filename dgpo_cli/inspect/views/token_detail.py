"""One token: its bytes, its factors, and the alternatives."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.cells import cell_len

from dgpo_cli.core.numbers import probability, short, signed, small, worth
from dgpo_cli.core.text import pad, split_cells, split_cells_end
from dgpo_cli.core.token_texts import REPLACEMENT
from dgpo_cli.core.types import (
    Alternative,
    InspectedCompletion,
    InspectedToken,
    Inspection,
    TokenDetail,
)
from dgpo_cli.inspect.values.moves import Along
from dgpo_cli.inspect.views.header import rule_name, sign_note
from dgpo_cli.inspect.views.measure import gate, pieces
from dgpo_cli.inspect.views.ranking import ranked
from dgpo_cli.inspect.views.value_curve import values_field
from dgpo_cli.ui.page import Page, View
from dgpo_cli.ui.ramp import Depth
from dgpo_cli.ui.scale import Scale

_WIDE = 72  # cells from which formulas have numbers and alternatives have bars
_BAR = 10  # cells of a probability of 1
_HOLDS = 1e-3  # relative; float32 sums of a whole completion


def render(inspection: Inspection, *, width: int, color: Depth) -> View:
    """Return the view of the token of `inspection.detail`. width, color: as in heatmap.render."""
    (completion,) = inspection.completions
    assert inspection.detail is not None
    detail = inspection.detail
    return View(lambda page: _Detail(page, inspection, completion, detail).draw(), color, width)


@dataclass(frozen=True, slots=True)
class _Detail:
    page: Page
    inspection: Inspection
    completion: InspectedCompletion
    detail: TokenDetail

    @property
    def token(self) -> InspectedToken:
        return self.completion.tokens[self.detail.position]

    def draw(self) -> None:
        page = self.page
        self._about()
        page.blank()
        self._factors()
        page.blank()
        _Alternatives(self.detail, self.token, page).draw()

    def _about(self) -> None:
        page, shown, token, at = self.page, self.completion, self.token, self.detail.position
        page.title(f"token {at} of {page.shown(shown.prompt_id)}, completion {shown.index}")
        page.field("token", self._whole_name())
        page.field("id", str(token.id))
        page.field("bytes", _bytes(token.hex))
        page.field("model", self.inspection.model)
        page.field("reference", self.inspection.reference)
        page.field("credit rule", rule_name(self.inspection, tau=shown.tau, glyphs=page.glyphs))
        values_field(page, self.inspection)
        rank = ranked(shown.tokens, top=len(shown.tokens)).index(at) + 1
        page.field("rank", f"{rank:,} of {len(shown.own):,} by weight")
        page.blank()
        self._context()

    def _whole_name(self) -> str:
        """Return the token, or which part of a character it is."""
        at = self.detail.position
        piece = next(p for p in pieces(self.completion.tokens) if p.start <= at < p.stop)
        name, parts = _name(self.page, piece.text or ""), piece.stop - piece.start
        return name if parts == 1 else f"part {at - piece.start + 1} of {parts} of {name}"

    def _context(self) -> None:
        """Write the token in brackets between its neighbours, on one line."""
        page, parts, at = self.page, pieces(self.completion.tokens), self.detail.position
        index = next(i for i, piece in enumerate(parts) if piece.start <= at < piece.stop)
        name = page.fit(_name(page, parts[index].text or ""), max(1, page.width // 2))
        room = page.width - cell_len(name) - 2
        before, after = "", ""
        for piece in reversed(parts[:index]):
            if cell_len(before) > room:
                break
            before = page.shown(piece.text or "") + before
        for piece in parts[index + 1 :]:
            if cell_len(after) > room:
                break
            after += page.shown(piece.text or "")
        before = split_cells_end(before, max(room // 2, room - cell_len(after)))[1]
        after = split_cells(after, room - cell_len(before))[0]
        page.add((before, "dim"), (f"[{name}]", "bold"), (after, "dim"))

    def _factors(self) -> None:
        """Write the steps from the two distributions to the token's advantage."""
        page, token, times = self.page, self.token, self.page.glyphs.times
        number = Scale.of([token.weight], steps=1).number  # with the digits that this one needs
        page.heading("From the distributions to the advantage")
        page.fact("log-probability", small(token.logprob))
        page.fact("d, squared Hellinger", small(token.hellinger_sq))
        page.fact("H, entropy in nats", small(token.entropy))
        h = gate(token.entropy, vocab_size=self.inspection.vocab_size)
        page.fact("h = H / log V", small(h))
        score, weight = self._formulas(h, times)
        self._fact(score[0], small(token.score), score[1])
        self._fact(weight[0], number(token.weight), weight[1])
        if self.completion.stored is not None:
            trained = self.completion.stored.weights[self.detail.position]
            page.fact("w that trained", Scale.of([trained], steps=1).number(trained))
        self._value()
        advantage = self.completion.advantage
        if math.isnan(advantage):
            page.fact(f"A {times} w", "unknown: no reward")
            return
        product = f"{signed(advantage)} {times} {number(token.weight)}"
        self._fact(f"A {times} w", signed(advantage * token.weight), product)

    def _value(self) -> None:
        """Write the value before and after the token, and its move."""
        if self.completion.values is None:
            return
        along, at = Along.of(self.completion.values), self.detail.position
        for name, place in (("V before it", at), ("V after it", at + 1)):
            low, high = worth(along.low[place]), worth(along.high[place])
            self.page.fact(name, f"{worth(along.value[place])}  95%: {low} to {high}", wraps=True)
        self.page.fact("move of V", signed(along.move(at), worth))

    def _fact(self, label: str, value: str, formula: str) -> None:
        """Write a fact, with its formula if there is room."""
        line = self.page.fact(label, value)
        if formula and self.page.width >= _WIDE:
            gap = "  " + " " * max(0, 9 - len(value))
            line.append(f"{gap}= {formula}", style=self.page.style("dim"))

    def _formulas(self, h: float, times: str) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return the formulas of s and w; numbers only if they give what is shown."""
        token, tokens = self.token, self.completion.own
        rule, tau, kappa = self.inspection.rule, self.completion.tau, self.inspection.kappa
        if rule == "uniform":
            return ("s, score", ""), ("w, weight", "1 for every token")
        if sign_note(self.completion, inspection=self.inspection) is not None:
            sign = self.inspection.parameters["sign"]
            return ("s, score", ""), ("w, weight", f"1 for every token: credit.sign={sign}")
        if rule == "entropy":
            mean = math.fsum(each.entropy for each in tokens) / len(tokens)
            made = token.entropy / mean if mean > 0 else 1.0
            numbers = f"{small(token.entropy)} / {small(mean)}, the mean H"
            return ("s = H", ""), ("w = H / mean H", _if_right(numbers, made, token.weight))
        if rule == "top-entropy":
            share = self.inspection.parameters["share"]
            return (f"s, H in top {share:g}", ""), self._over_mean()
        if rule == "surprisal":
            return ("s = -log p", ""), ("w, weight", self._mixed())
        if rule == "value":
            return ("s, move of V", ""), self._over_mean()
        if kappa is None:
            return ("s, score", ""), ("w, weight", "")
        score = f"{small(token.hellinger_sq)} {times} {small(h)}^{kappa:g}"
        power = token.hellinger_sq * h**kappa
        if tau is None and rule == "proportional":
            made_of = (f"s = d {times} h^kappa", _if_right(score, power, token.score))
            return made_of, self._over_mean()
        if tau is None:
            return ("s, score", ""), ("w, weight", "")
        level = _log_mean_exp([each.score / tau for each in tokens])
        exponent = f"e^({small(token.score)} / {short(tau)} - {small(level)})"
        made = math.exp(min(700.0, token.score / tau - level))
        return (
            (f"s = d {times} h^kappa", _if_right(score, power, token.score)),
            ("w = e^(s/tau) / mean", _if_right(exponent, made, token.weight)),
        )

    def _over_mean(self) -> tuple[str, str]:
        """Return the formula of a weight in proportion to its score."""
        own = self.completion.own
        mean = math.fsum(each.score for each in own) / len(own)
        made = self.token.score / mean if mean else 1.0
        numbers = f"{small(self.token.score)} / {small(mean)}, the mean s"
        return "w = s / mean s", _if_right(numbers, made, self.token.weight)

    def _mixed(self) -> str:
        """Return the formula of a weight by surprisal, with what the cap of others adds to it."""
        own, times, score = self.completion.own, self.page.glyphs.times, self.token.score
        mix, cap = (self.inspection.parameters[name] for name in ("mix", "cap"))
        if math.isclose(self.token.weight, cap, rel_tol=_HOLDS):
            return f"{cap:g}, the cap"
        mean = math.fsum(each.score for each in own) / len(own)
        if mean <= 0:
            return "1 for every token: all are certain"
        made = mix + (1.0 - mix) * score / mean
        formula = f"{mix:g} + {short(1.0 - mix)} {times} {small(score)} / {small(mean)}"
        if math.isclose(self.token.weight, made, rel_tol=_HOLDS):
            return f"{formula}, the mean s"
        factor = self.token.weight / made if made > 0 else math.nan
        return f"{short(factor)} ({formula}); the cap of others" if factor > 1 else ""


def _if_right(formula: str, value: float, shown: float) -> str:
    """Return a formula if it gives the number next to it, else nothing."""
    return formula if math.isclose(value, shown, rel_tol=_HOLDS, abs_tol=1e-12) else ""


def _log_mean_exp(values: list[float]) -> float:
    peak = max(values)
    return peak + math.log(math.fsum(math.exp(value - peak) for value in values) / len(values))


def _name(page: Page, text: str) -> str:
    return page.shown(text, spaces=True) if text else page.glyphs.empty


def _bytes(digits: str) -> str:
    """Return bytes in hex and as a literal."""
    if not digits:
        return "unknown"
    data = bytes.fromhex(digits)
    return f"{data.hex(' ')}  {repr(data)[2:-1]}"


@dataclass(frozen=True, slots=True)
class _Alternatives:
    """The table of alternatives."""

    detail: TokenDetail
    token: InspectedToken
    page: Page

    def draw(self) -> None:
        page, detail = self.page, self.detail
        page.heading("Alternatives")
        if not detail.alternatives:
            page.paragraph(
                "The numbers above are training's. The weights that sampled the token are gone; "
                "this computes the alternatives:"
            )
            self._command(page.shown(detail.hint))
            return
        page.field("policy", detail.weights)
        page.field("temperature", f"{detail.temperature:g}")
        ranks = f"{detail.policy_rank:,} policy, {detail.reference_rank:,} reference"
        page.field("its rank", ranks)
        page.add((self._head(), "dim"))
        for each in detail.alternatives:
            self._row(each)
        page.add(self._rest())
        page.paragraph(
            "> is the sampled token; d: the token's part of the squared Hellinger distance", "dim"
        )

    def _command(self, text: str) -> None:
        """Write lines for a shell, joined by backslashes; the comment comes first."""
        command, hash_, comment = text.partition("  # ")
        if hash_:
            self.page.paragraph(f"# {comment}", "dim")
        while cell_len(command) > self.page.width:
            line, _ = split_cells(command, self.page.width - 1)
            cut = line.rfind(" ") + 1 or len(line)
            self.page.add(command[:cut] + "\\")
            command = command[cut:]
        self.page.add(command)

    @property
    def _wide(self) -> bool:
        return self.page.width >= _WIDE

    def _head(self) -> str:
        bar = " " * _BAR if self._wide else ""
        head = f"  {'policy':>6} {bar}{'refer.':>6} {bar}{'d':>8}  "
        return head + (f"{'id':>7}  text" if self._wide else "text")

    def _row(self, each: Alternative) -> None:
        came = each.id == self.token.id
        part = (math.sqrt(each.policy) - math.sqrt(each.reference)) ** 2 / 2
        text = f"{'>' if came else ' '} {self._cells(each.policy, each.reference)}"
        text += f"{small(part):>8}  " + (f"{each.id:>7}  " if self._wide else "")
        name = _name(self.page, each.text)
        if each.hex and (not each.text or REPLACEMENT in each.text):  # a part of a character
            name = _bytes(each.hex).partition("  ")[2]
        style = "bold" if came else ""
        self.page.add((text, style), (self.page.fit(name, self.page.width - len(text)), style))

    def _cells(self, *shares: float) -> str:
        return "".join(
            f"{_share(share):>6} {self._bar(share) if self._wide else ''}" for share in shares
        )

    def _bar(self, share: float) -> str:
        full = self.page.glyphs.above[-1] * round(_BAR * share)
        return pad(full, _BAR)

    def _rest(self) -> str:
        """Return the probability of all tokens that are not listed."""
        shares = (
            1.0 - math.fsum(each.policy for each in self.detail.alternatives),
            1.0 - math.fsum(each.reference for each in self.detail.alternatives),
        )
        cells = self._cells(*(max(0.0, share) for share in shares))
        return f"  {cells}{'':>8}  " + (f"{'':>7}  " if self._wide else "") + "all others"


def _share(share: float) -> str:
    """Return a probability in 6 cells; one below the last digit is a power of ten."""
    return "0" if share <= 0.0 else probability(math.log(share))
