"""The tables that the page and the terminal show."""

from mixalign.reporting.judge.comparison import compare
from mixalign.reporting.show.tables import methods_table
from mixalign.reporting.show.text import comparison_text
from tests.reporting.made_up import COSTS, find


def test_the_tables_show_the_cost(write_run, tmp_path):
    for seed in (0, 1):
        write_run("uniform", seed, costs=COSTS["plain"][0], settings={"steps": 100})
        write_run("ama_s", seed, costs=COSTS["excess"][0], settings={"steps": 100})
        write_run("odm", seed, settings={"steps": 100})
    comparison = compare(find(tmp_path))
    rows = {row[0]: row[-3:] for row in methods_table(comparison).rows}
    assert rows["ama_s"] == ["+600 (specialists)", "4.00\u00d7 (80 s by the clock, 40 CPU s)", "50 (+0 \u00b1 0)"]
    assert rows["uniform"] == ["0", "1.00\u00d7 (20 s by the clock, 10 CPU s)", "50 (+0 \u00b1 0)"]
    assert rows["odm"] == ["-", "-", "-"]
    line = next(line.split() for line in comparison_text(comparison, 100).splitlines() if "specialists" in line)
    assert line == ["ama_s", "+600", "specialists", "80.0", "40.0", "4.00", "50.0"]


def test_without_plain_training_there_are_times_and_no_multiples(write_run, tmp_path):
    write_run("ama_s", 0, costs=COSTS["excess"][0], settings={"steps": 100})
    write_run("odm", 0, scores={"worst": {}, "mean": {}}, settings={"steps": 100})
    table = methods_table(compare(find(tmp_path)))
    (row,) = (row for row in table.rows if row[0] == "ama_s")
    assert row[-3:] == ["+600 (specialists)", "80 s by the clock, 40 CPU s", "50"]
    assert "multiple of plain training" not in table.caption
    assert all(any(cells[n] != "-" for cells in table.rows) for n in range(len(table.titles)))


def test_without_costs_there_are_no_columns_for_them(write_run, tmp_path):
    write_run("uniform", 0)
    comparison = compare(find(tmp_path))
    assert "extra steps" not in methods_table(comparison).titles
    assert "plain training" not in comparison_text(comparison, 100)
