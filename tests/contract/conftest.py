import sys
from pathlib import Path

# The fake pool and its application are those of the frontend's own tests.
sys.path.insert(0, str(Path(__file__).parent.parent / "frontend"))
