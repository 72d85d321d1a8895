"""The callback through which long work shows lines of progress to the user."""

from collections.abc import Callable

# Shows one line. The caller decides where: a terminal, a log, or nowhere.
Say = Callable[[str], None]
