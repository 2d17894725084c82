"""`python -m tapeline.cli`."""

from tapeline.cli import main

if __name__ == "__main__":
    main()
