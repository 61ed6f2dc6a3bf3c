"""A preset's template around problems that it was not written for."""

from __future__ import annotations

from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.config.tree import flatten
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.prompts.templates import PLACEHOLDER, names_a_form

_PRESET = "preset "
_PLACES = {"sums": "prompts.kind", "file": "prompts.path", "hub": "prompts.dataset"}


def template_owner(resolved: Resolved) -> str:
    """Return the preset whose template is around other problems than its own; "" if none is."""
    source = resolved.sources.get("prompts.template", "")
    place = _PLACES.get(resolved.settings.prompts.kind)
    if not source.startswith(_PRESET) or place is None:
        return ""
    name = source.removeprefix(_PRESET)
    if resolved.sources.get(place) == source:
        return ""
    try:
        own = flatten(resolve(preset=name).settings)
    except ConfigError:  # a preset of another version
        return name
    now = flatten(resolved.settings)
    same = all(own.get(key) == now[key] for key in ("prompts.kind", place))
    return "" if same else name


def template_note(resolved: Resolved) -> str | None:
    """Return a note if a preset's template asks something of its own of other problems."""
    owner, template = template_owner(resolved), resolved.settings.prompts.template
    if not owner or template == PLACEHOLDER or names_a_form(template):
        return None
    return (
        f"prompts.template is that of preset {owner}, for its own problems: {template!r}; for "
        f"others: --set 'prompts.template={PLACEHOLDER}', or one that asks for their form of answer"
    )


def bare_note(resolved: Resolved) -> str | None:
    """Return a note if a preset's template leaves it to its own problems to ask for a form.

    To be told where the problems in hand ask for none.
    """
    owner, template = template_owner(resolved), resolved.settings.prompts.template
    if not owner or template != PLACEHOLDER:
        return None
    return (
        f"prompts.template={PLACEHOLDER}, of preset {owner}, asks for no form of answer, and these "
        f"problems ask for none: --set 'prompts.template={PLACEHOLDER} Put the answer into "
        "\\boxed{}.'"
    )
