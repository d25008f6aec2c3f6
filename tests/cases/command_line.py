"""The command line as a user meets it (no tests here)."""

from metalearn_tut.cli import program


def command(capsys, *arguments):
    """Exit code, standard output, and what it said on standard error beside progress bars."""
    code = program.run([str(a) for a in arguments])
    captured = capsys.readouterr()
    said = [line for line in captured.err.split("\n") if line and "\r" not in line]
    return code, captured.out, said
