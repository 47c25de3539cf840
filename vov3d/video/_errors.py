"""The one error of everything that turns a source into frames."""


class VideoError(RuntimeError):
    """A source that gives no frames; the message names it, the cause and, where there is one, the cure."""
