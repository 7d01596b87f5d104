"""``python -m syncagent`` is the command itself."""

from syncagent.cli.main import main

if __name__ == "__main__":
    main()
