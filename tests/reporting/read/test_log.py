"""Warnings of a run's log."""

from mixalign.reporting.read.log import read_warnings


def test_warnings_are_read_once_each(tmp_path):
    lines = ["INFO a.b: fine", "WARNING a.b: too <few> rows", "WARNING c: too <few> rows", "ERROR d: worse"]
    stamped = [f"2026-01-02 03:04:05,678 {line}" for line in lines]
    (tmp_path / "train.log").write_text("\n".join([*stamped, "more of the same"]) + "\n")
    assert read_warnings(tmp_path / "train.log") == ("too <few> rows", "worse")
    assert read_warnings(tmp_path / "nothing.log") == ()
