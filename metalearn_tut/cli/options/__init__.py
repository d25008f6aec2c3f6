"""What each command can be told: a dataclass a command, from which the parser spells it."""

from metalearn_tut.cli.options.keeping import Export, Prune
from metalearn_tut.cli.options.learning import Data, Evaluate, Federate, Train
from metalearn_tut.cli.options.studies import Reproduce
from metalearn_tut.cli.options.using import Demo, Learn

COMMANDS = (Demo, Learn, Data, Train, Federate, Evaluate, Prune, Export, Reproduce)

__all__ = [
    "COMMANDS",
    "Data",
    "Demo",
    "Evaluate",
    "Export",
    "Federate",
    "Learn",
    "Prune",
    "Reproduce",
    "Train",
]
