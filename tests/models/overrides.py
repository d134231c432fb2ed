"""What single architectures need beside the rules for all."""

from typing import Any

from tests.models.shape import Shape
from tests.models.shrink import Change, Values

# Options without which a configuration's class has no valid default.
DEFAULTS: dict[str, dict[str, Any]] = {
}
OVERRIDES: dict[str, Change] = {}
OVERRIDES_OF_OTHERS: dict[str, Change] = {}
