"""Tables for the documentation: what becomes of the reference's flags and variables."""

from collections.abc import Iterator, Mapping

from headrace.launcher.command.flag_help import Fields, description, escape
from headrace.launcher.command.flags import FLAGS, Flag, flag_of
from headrace.launcher.command.given import opposite_of
from headrace.launcher.command.reference import (
    Effect,
    ReferenceFlag,
    effects,
    reference_flags,
    synonyms,
)
from headrace.launcher.command.variables import Variable, variables

_TREATMENTS = {
    "accepted": "accepted; changes nothing",
    "refused": "refused",
    "usual": "as everywhere",
}


def reference_table(section: str, fields: Fields) -> str:
    """Return a Markdown table of the reference's flags of a section, with what becomes of them."""
    rows = ["| flag | counterpart | effect |", "|---|---|---|"]
    for flag in reference_flags().values():
        if flag.section == section:
            rows += _flag_rows(flag, fields)
    return "\n".join(rows)


def variable_table(fields: Fields) -> str:
    """Return a Markdown table of variables of the environment, with what becomes of them."""
    rows = ["| variable | counterpart | effect |", "|---|---|---|"]
    for name, variable in variables().items():
        here, effect = _of_variable(variable, fields)
        rows.append(_row(name, here, effect))
    return "\n".join(rows)


def _flag_rows(flag: ReferenceFlag, fields: Fields) -> Iterator[str]:
    names = "`, `".join((flag.name, *flag.also))
    own = _own_flags()
    other = opposite_of(flag.name)
    if flag.name in own or (other in own and flag.name not in effects()):
        counterpart = own[flag.name if flag.name in own else str(other)]
        name = flag_of(counterpart.key)
        here = "the same" if name == flag.name else f"`{name}`"
        if flag.name not in own:
            here = f"`--no-{name[2:]}`"
        yield _row(names, here, description(counterpart, fields))
    elif flag.name in synonyms():
        yield _row(names, f"`{synonyms()[flag.name]}`", "sets that")
    else:
        yield _effect_row(names, effects()[flag.name], flag)
        for key, effect in effects().items():
            if key.startswith(f"{flag.name}."):
                yield _effect_row(key, effect, None)
        for key, meant in synonyms().items():
            if key.startswith(f"{flag.name}."):
                yield _row(key, f"`{meant}`", "sets that")


def _effect_row(names: str, effect: Effect, flag: ReferenceFlag | None) -> str:
    harmless = list(effect.harmless)
    default = None if flag is None else flag.default
    if effect.treatment == "refused" and default not in (None, "", False):
        harmless.insert(0, str(default))
    tail = f" (accepted: {', '.join(f'`{value}`' for value in harmless)})" if harmless else ""
    return _row(names, _TREATMENTS[effect.treatment] + tail, effect.says)


def _of_variable(variable: Variable, fields: Fields) -> tuple[str, str]:
    if variable.treatment != "done":
        return _TREATMENTS[variable.treatment], variable.says
    name = flag_of(variable.option)
    unit = f" ({variable.unit})" if variable.unit.startswith("GiB") else ""
    return f"`{name}`{unit}", description(_own_flags()[name], fields)


def _own_flags() -> Mapping[str, Flag]:
    return {name: flag for flags in FLAGS.values() for flag in flags for name in flag.names}


def _row(names: str, here: str, effect: str) -> str:
    return f"| `{names}` | {here} | {escape(effect)} |" if effect else f"| `{names}` | {here} | |"
