"""`headrace api-key new`: make a key for --api-key-file."""

import argparse
import json
import secrets
import sys
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from headrace.protocol.api_keys import KeyName, digest_of

PREFIX = "headrace-"  # by which searches for leaked secrets know it
_RANDOM_BYTES = 32


def main(argv: Sequence[str]) -> int:
    """Print a new key, its hash, and its entry for the file; return the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    secret = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    digest = digest_of(secret)
    name = args.name or f"key-{digest[:8]}"
    try:
        TypeAdapter(KeyName).validate_python(name)
    except ValidationError:
        parser.error("--name: must be 1 to 64 letters, digits or _ . @ -")
    print(f"key:  {secret}\nhash: sha256:{digest}\n\nThe entry for --api-key-file:\n")
    print(_entry(name, digest, args.admin))
    print("The key is not stored anywhere: give it to its client now.", file=sys.stderr)
    return 0


def _entry(name: str, digest: str, is_admin: bool) -> str:
    lines = ["[[keys]]", f"name = {json.dumps(name)}", f'hash = "sha256:{digest}"']
    return "\n".join([*lines, "admin = true"] if is_admin else lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace api-key", description="Make API keys.")
    commands = parser.add_subparsers(required=True, metavar="new")
    new = commands.add_parser("new", help="print a new key, its hash and its entry for the file")
    new.add_argument("--name", help="of the key, in metrics and as its tenant")
    new.add_argument("--admin", action="store_true", help="let it open the operators' routes")
    return parser
