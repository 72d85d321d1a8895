"""How many rows of a body have been read."""


class RowCount:
    """The rows of one body that cost time so far, faulty ones too."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows = 0
