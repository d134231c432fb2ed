"""Generate load for any server with OpenAI's HTTP API.

    python bench/serve.py --url http://127.0.0.1:8000 --concurrency 1,16,64
    python bench/serve.py --compare http://127.0.0.1:8001 --rate 4 --duration 60 --mix sharegpt

Run with --help for everything else. Exits with status 1 if any request failed.
"""

import sys
from pathlib import Path

# bench is not installed, so the repository is not yet on the path
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load.cli import main

if __name__ == "__main__":
    sys.exit(main())
