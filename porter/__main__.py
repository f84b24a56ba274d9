"""`python -m porter`: the command line."""

from porter.cli import main

if __name__ == "__main__":
    main()
