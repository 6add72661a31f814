"""What can go wrong in a check besides the property not holding."""


class ServiceDoesNotStart(Exception):
    """The service under test ended or never answered: its own doing, so a failure."""


class GraderError(Exception):
    """The grader could not do its work: whatever it meant to check is not graded."""
