"""`python -m benchmarks` is the command `benchmarks`."""

from benchmarks.cli import main

if __name__ == "__main__":
    main()
