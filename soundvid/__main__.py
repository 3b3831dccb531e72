"""`python -m soundvid` is the command line."""

from soundvid.cli import main

if __name__ == "__main__":
    main()
