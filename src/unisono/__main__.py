"""`python -m unisono`: an interrupt is answered from the first import on."""

import sys

try:
    from unisono.cli import main

    main()
except KeyboardInterrupt:
    sys.exit(130)
