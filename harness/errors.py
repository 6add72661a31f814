"""The one error that bad input causes: its message names the file, the key and the mend."""


class UserError(Exception):
    """Bad input or a missing means. The CLI prints the message and exits with `code`."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code
