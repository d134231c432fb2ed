"""Run the command line as `python -m headrace`."""

from headrace.launcher.command.cli import main

if __name__ == "__main__":
    main()
