"""`python -m edgepress.compress` is the command `compress`."""

from edgepress.compress.cli import main

if __name__ == "__main__":
    main()
