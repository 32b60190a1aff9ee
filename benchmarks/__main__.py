"""`python -m edgepress.benchmarks` is the command `benchmarks`."""

from edgepress.benchmarks.cli import main

if __name__ == "__main__":
    main()
