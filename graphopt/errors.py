"""The one exception of graphopt: what went wrong, where, and what to do about it."""

from __future__ import annotations


class GraphoptError(Exception):
    """An error that a user can act on.

    It prints as up to three lines, one per field, without a traceback::

        error: the model's opset 99 is unknown
        where: model.onnx, opset_import of the default domain
        hint:  graphopt knows opsets 7 to 26; re-export the model with one of these

    Args:
        what: what is wrong, as one lower-case sentence without a full stop.
        where: the file, node, tensor, option or stage it is about.
        hint: what the user can do.
        usage: true when the call itself was wrong (an unknown option, pass or target): the command
            then ends with exit code 2 instead of 1.
    """

    def __init__(self, what: str, where: str = "", hint: str = "", *, usage: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.usage = usage

    @property
    def exit_code(self) -> int:
        """2 for a call that was wrong, 1 for work that failed."""
        return 2 if self.usage else 1

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"where: {self.where}")
        if self.hint:
            lines.append(f"hint:  {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Errors cross process borders (child-process isolation), so all four fields must survive."""
        return (_rebuild, (self.what, self.where, self.hint, self.usage))


def _rebuild(what: str, where: str, hint: str, usage: bool) -> GraphoptError:
    return GraphoptError(what, where, hint, usage=usage)
