"""A result names the code that made it."""

import subprocess

from metalearn_tut.files import provenance


def test_a_change_anywhere_in_the_package_is_told(tmp_path, monkeypatch):
    package = tmp_path / "metalearn_tut"
    for part in ("files/provenance.py", "tasks/source.py"):
        (package / part).parent.mkdir(parents=True)
        (package / part).write_text("one = 1\n")
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "files/provenance.py"))
    assert len(provenance.commit()) == 40
    (package / "tasks/source.py").write_text("one = 2\n")
    assert provenance.commit().endswith("+changes")
