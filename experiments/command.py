"""How a script of this folder ends: with the code of its `main`, or with one sentence about what was wrong."""

import sys
from collections.abc import Callable


def run_script(main: Callable[[], int]) -> None:
    """Run `main` and exit with its code; 2, and its sentence, where it raises a ValueError or an OSError."""
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
    except KeyboardInterrupt:
        sys.exit(130)
