"""metrics.csv, line by line, over the runs that write it."""

import torch

from mixalign.training.metrics_file import MetricsFile


def lines(folder) -> list[str]:
    return (folder / "metrics.csv").read_text().split()


def test_a_line_is_there_at_once_and_a_new_column_is_added(tmp_path):
    logger = MetricsFile(str(tmp_path / "run"))
    logger.log_metrics({"loss": torch.tensor(0.5)}, 1)
    assert lines(tmp_path / "run") == ["step,loss", "1,0.5"]
    logger.log_metrics({"accuracy": 1.0}, 2)
    assert lines(tmp_path / "run") == ["step,accuracy,loss", "1,,0.5", "2,1.0,"]
    assert logger.save_dir == logger.log_dir == str(tmp_path / "run")


def test_a_run_that_goes_on_keeps_the_lines_until_its_checkpoint(tmp_path):
    first = MetricsFile(str(tmp_path))
    for step in (1, 2, 3):
        first.log_metrics({"loss": step / 4}, step)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.9")  # torn
    second = MetricsFile(str(tmp_path))
    second.forget_after(2)
    second.log_metrics({"loss": 0.0}, 3)
    assert lines(tmp_path) == ["step,loss", "1,0.25", "2,0.5", "3,0.0"]


def test_a_file_that_was_removed_begins_anew(tmp_path):
    logger = MetricsFile(str(tmp_path))
    logger.log_metrics({"loss": 0.5}, 1)
    (tmp_path / "metrics.csv").unlink()
    logger.forget_after(0)
    logger.log_metrics({"loss": 0.25}, 2)
    assert lines(tmp_path) == ["step,loss", "2,0.25"]
