"""`python -m edgepress.deploy` is the command `deploy`."""

from edgepress.deploy.cli import main

if __name__ == "__main__":
    main()
