"""The command line, one module a command: `add_arguments(parser)`, `run(arguments) -> exit code`.

A module is imported only when its command is asked for, so that `camserve --help` waits for none.
"""
