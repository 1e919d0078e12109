import sys

from moe.train.command import main

if __name__ == "__main__":
    sys.exit(main())
