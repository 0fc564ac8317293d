"""``python -m desc_ext``: the command line."""

from desc_ext.cli import main

if __name__ == "__main__":
    main()
