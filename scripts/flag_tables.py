"""Write the tables of flags in the documentation, from the descriptions of the options.

Usage: python -P scripts/flag_tables.py [--check] [FILE ...]

A table stands between <!-- flags: KEY ... --> and <!-- end of flags -->, with a row for each key of
an option (all: of each). After <!-- reference: SECTION --> it has the reference's flags of a
section, after <!-- variables: all --> those of the environment, after <!-- keys: all --> keys of
files that are not their flags' names. --check changes nothing, and exits
with 1 if a table differs from its options.
"""

import argparse
import re
import sys
from pathlib import Path

from headrace.launcher.command.flag_help import flag_table, key_table
from headrace.launcher.command.flags import FLAGS
from headrace.launcher.command.options import option_fields
from headrace.launcher.command.reference_tables import reference_table, variable_table

ROOT = Path(__file__).parents[1]
FILES = (
    ROOT / "README.md",
    ROOT / "docs" / "autoscaling.md",
    ROOT / "docs" / "compatibility.md",
    ROOT / "docs" / "deploying.md",
    ROOT / "docs" / "options.md",
)
_TABLE = re.compile(
    r"(<!-- (flags|keys|reference|variables):([\w\s]+)-->\n).*?(<!-- end of flags -->)", re.DOTALL
)


def with_tables(text: str) -> str:
    """Return a document with its tables made anew. Raises ValueError if it has none."""
    text, count = _TABLE.subn(_table, text)
    if count == 0:
        raise ValueError("no <!-- flags: ... --> in it")
    return text


def _table(found: re.Match[str]) -> str:
    fields, words = option_fields(), found[3].split()
    match found[2]:
        case "flags":
            keys = [key for word in words for key in (_all_keys() if word == "all" else [word])]
            table = flag_table(keys, fields)
        case "keys":
            table = key_table()
        case "reference":
            table = "\n".join(reference_table(word, fields) for word in words)
        case _:
            table = variable_table(fields)
    return f"{found[1]}{table}\n{found[4]}"


def _all_keys() -> list[str]:
    return [flag.key for flags in FLAGS.values() for flag in flags if not flag.is_hidden]


def main() -> int:
    """Write or check the tables; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the tables of flags.")
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("files", nargs="*", type=Path, default=FILES)
    args = parser.parse_args()
    stale = False
    for file in args.files:
        text = file.read_text()
        if (current := with_tables(text)) == text:
            continue
        stale = True
        if args.check:
            print(f"{file}: its flags are stale: run python -P scripts/flag_tables.py")
        else:
            file.write_text(current)
    return 1 if stale and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
