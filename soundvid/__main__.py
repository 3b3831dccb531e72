"""`python -m soundvid` is the command line."""

from soundvid.cli.app import main

if __name__ == "__main__":
    main()
