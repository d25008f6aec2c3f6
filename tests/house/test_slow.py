"""What ``make test`` leaves out, and that it says so."""

import notebook_times
import pytest
import slow


class Case:
    """A test as pytest collects it."""

    def __init__(self, nodeid, mark=None):
        self.nodeid, self.mark = nodeid, mark

    def get_closest_marker(self, name):
        assert name == "slow"
        return self.mark and self.mark.mark


@pytest.mark.parametrize(
    ("mark", "left"),
    [
        (None, []),
        (pytest.mark.slow, ["a.py::f[x]", "a.py::f[y]", "a.py::f[xz]"]),
        (pytest.mark.slow(quick=1), ["a.py::f[y]", "a.py::f[xz]"]),
        (pytest.mark.slow(quick="x"), ["a.py::f[y]"]),
    ],
)
def test_so_many_cases_of_each_test_stay(mark, left):
    cases = [Case(f"{file}::f[{case}]", mark) for file in ("a.py",) for case in ("x", "y", "xz")]
    cases += [Case("a.py::g"), Case("b.py::f[x]", pytest.mark.slow(quick=1))]
    assert [case.nodeid for case in slow.left_out(cases)] == left


def test_the_run_says_what_it_left_out(tmp_path, capsys):
    junit, book = tmp_path / "junit.xml", tmp_path / "book"
    book.mkdir()
    skipped = '<skipped message="{}"/>'.format
    reasons = ["slow: make test-all, or METALEARN_TUT_SLOW=1"] * 2 + ["not on this machine"]
    cases = "".join(f"<testcase>{skipped(reason)}</testcase>" for reason in reasons)
    junit.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert notebook_times.main(junit, book) == 0
    assert capsys.readouterr().out == "2 slow tests were left out; make test-all runs them, too\n"
    junit.write_text("<testsuites><testsuite><testcase/></testsuite></testsuites>")
    assert notebook_times.main(junit, book) == 0 and capsys.readouterr().out == ""
