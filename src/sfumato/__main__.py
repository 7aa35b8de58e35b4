"""`python -m sfumato`: the same as the command `sfumato`, for torchrun and for machines without the script."""

import sys

from sfumato.cli import main

if __name__ == "__main__":
    sys.exit(main())
