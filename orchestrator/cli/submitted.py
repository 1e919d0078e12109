"""`python -m orchestrator.cli.submitted`: the driver of a Ray job, in its working directory."""

import json
import sys
from pathlib import Path

from orchestrator.cli import main
from orchestrator.cluster.submit import ARGUMENTS_FILE

if __name__ == "__main__":
    sys.argv = ["moe-study", *json.loads(Path(ARGUMENTS_FILE).read_text())]
    main()
