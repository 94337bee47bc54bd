"""``python -m ucl``."""

from ucl.cli import main

if __name__ == "__main__":
    main()
