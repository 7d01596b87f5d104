"""Entry point of ``python -m syncagent``, the same as the command ``syncagent``."""

from syncagent.cli.main import main

if __name__ == "__main__":
    main()
