"""`python -m mixalign`."""

from mixalign.cli import main

if __name__ == "__main__":
    main()
