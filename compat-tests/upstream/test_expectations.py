"""The rules between passing.txt and excluded.toml."""
import pytest

from expectations import Expectations

EXCLUDED = """
[[exclude]]
reason = "needs a Python class on the server"
tests = [
  "Storage.pack*",
  "Storage.undo",
]

[[exclude]]
reason = "needs another storage (demo, fan-out)"
tests = [
  "Secure.*",
]
"""
COLLECTED = ["Secure.load", "Storage.load", "Storage.pack", "Storage.packAgain", "Storage.undo"]


@pytest.fixture
def files(tmp_path):
    passing, excluded = tmp_path / "passing.txt", tmp_path / "excluded.toml"
    passing.write_text("Storage.load\n")
    excluded.write_text(EXCLUDED)
    return passing, excluded


def test_each_excluded_test_has_the_reason_of_its_pattern(files):
    expectations = Expectations(COLLECTED, *files)
    assert expectations.problems == []
    assert expectations.reasons["Storage.packAgain"] == "needs a Python class on the server"
    assert expectations.reasons["Secure.load"] == "needs another storage (demo, fan-out)"


def test_a_test_in_neither_file_is_a_problem(files):
    (problem,) = Expectations([*COLLECTED, "Storage.new"], *files).problems
    assert "Storage.new" in problem


def test_a_listed_test_that_is_gone_is_a_problem(files):
    problems = Expectations(COLLECTED[1:], *files).problems
    assert problems == ["excluded.toml: 'Secure.*' (needs another storage (demo, fan-out)) excludes no test"]
    files[0].write_text("Storage.gone\nStorage.load\n")
    assert "passing.txt: no such test: Storage.gone" in Expectations(COLLECTED, *files).problems


def test_a_test_named_in_both_files_is_a_problem(files):
    files[0].write_text("Storage.load\nStorage.undo\n")
    (problem,) = Expectations(COLLECTED, *files).problems
    assert "Storage.undo" in problem


def test_the_passing_list_is_sorted(files):
    files[0].write_text("Storage.pack\nStorage.load\n")
    (problem,) = Expectations(COLLECTED, *files).problems
    assert "sorted" in problem


def test_no_other_reason_is_accepted(files):
    files[1].write_text(EXCLUDED.replace("needs another storage (demo, fan-out)", "hard"))
    (problem,) = Expectations(COLLECTED, *files).problems
    assert "'hard'" in problem


def test_new_passes_use_up_their_exclusions(files):
    expectations = Expectations(COLLECTED, *files)
    expectations.add_passes({"Secure.load", "Storage.pack", "Storage.undo"})
    again = Expectations(COLLECTED, *files)
    assert again.problems == []
    assert again.passing == ["Secure.load", "Storage.load", "Storage.pack", "Storage.undo"]
    assert again.reasons == {"Storage.packAgain": "needs a Python class on the server"}
