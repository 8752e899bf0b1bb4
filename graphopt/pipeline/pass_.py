"""What a pass is: a frozen dataclass whose fields are its options, and a generator of sites."""

from __future__ import annotations

import abc
import dataclasses
import enum
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import onnx_ir as ir

from ..errors import GraphoptError
from ..events import Sites

if TYPE_CHECKING:
    from .context import Context


class Fidelity(enum.IntEnum):
    """What a pass promises about the outputs; ordered from strict to loose.

    The manager holds a pass to it by running both models in ONNX Runtime with its optimisations off.
    """

    EXACT = 0
    """Bit for bit the same."""
    NUMERIC = 1
    """The same up to rounding: a few units in the last place, growing with the depth of the graph."""
    LOSSY = 2
    """Different within a budget that the recipe states (``Pass.budget_db``)."""


@dataclass(frozen=True)
class Pass(abc.ABC):
    """A transformation of a model.

    Subclasses are frozen dataclasses; their fields, all with defaults, are the options, and are the only
    declaration of them: Python, recipe text, TOML, ``graphopt passes NAME`` and the docs read them from here.

    Class attributes:
        name: kebab-case; the module's file name with dashes.
        fidelity: the promise.
        needs_shapes: ``graphopt.ir.dims`` and ``known_ints`` will be up to date when ``apply`` starts.
        keeps_shapes: every value the pass leaves keeps its meaning and has its shape where it was known, so
            shapes need not be inferred again for the next pass. ``graphopt.ir.replace`` sees to that.
        changes_interface: the pass may remove inputs or outputs of the model, or change their element types, because it
            was asked to.
        once: run in the first round only; for edits that would be made again and again.
    """

    name: ClassVar[str]
    fidelity: ClassVar[Fidelity]
    needs_shapes: ClassVar[bool] = False
    keeps_shapes: ClassVar[bool] = False
    changes_interface: ClassVar[bool] = False
    once: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """A pass says its name and its promise: recipes and reports cannot do without."""
        super().__init_subclass__(**options)
        if cls.__name__.startswith("_"):
            return
        for attribute in ("name", "fidelity"):
            if not hasattr(cls, attribute):
                hint = f"add {attribute}: ClassVar[...] = ... to the class"
                raise GraphoptError(f"the pass {cls.__name__} has no {attribute}", cls.__module__, hint, usage=True)

    @abc.abstractmethod
    def apply(self, model: ir.Model, context: Context) -> Sites:
        """Yield a ``Site`` for each place considered.

        Never edit the model outside a site's ``edit``. After each yield the generator receives True when the
        edit has been made, False when it was left out; the model may then be looked at in its new state.
        """

    def budget_db(self) -> float:
        """Of a LOSSY pass: by how many decibels the error of each output must stay below the output (20: a tenth)."""
        return 20.0

    @classmethod
    def options(cls) -> tuple[dataclasses.Field[Any], ...]:
        """The options, as dataclass fields."""
        return dataclasses.fields(cls)

    @classmethod
    def summary(cls) -> str:
        """The first sentence of the documentation."""
        text = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
        return " ".join(text.split())

    @classmethod
    def family(cls) -> str:
        """The folder the pass lives in (``clean``, ``fuse``), or the package that brought it."""
        parts = cls.__module__.split(".")
        return parts[2] if parts[:2] == ["graphopt", "passes"] and len(parts) > 3 else parts[0]

    def __str__(self) -> str:
        """The recipe text of this pass: its name, and the options that are not the default."""
        changed = {
            item.name: getattr(self, item.name) for item in self.options() if getattr(self, item.name) != item.default
        }
        if not changed:
            return self.name
        return f"{self.name}{{{', '.join(f'{key}={as_toml(value)}' for key, value in changed.items())}}}"


def as_toml(value: Any) -> str:
    """A TOML value: what recipes write options in."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case tuple() | list():
            return f"[{', '.join(as_toml(item) for item in value)}]"
        case _:
            raise TypeError(f"an option of type {type(value).__name__} cannot be written in a recipe")
