"""`python -m mmccd.cli` is the command `mmccd`."""

from mmccd.cli import main

raise SystemExit(main())
