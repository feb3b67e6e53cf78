"""The day that a chat template prints is one for all runs of a cache."""

from datetime import date

from mixalign.jobs.day import FILE, template_day


class Dated:
    chat_template = "{{ strftime_now('%d %B %Y') }}"


class Later(date):
    @classmethod
    def today(cls):
        return date(2026, 2, 1)


def test_a_day_whose_writing_was_cut_off_is_written_once(tmp_path, monkeypatch):
    """Else each day of training would have tokens of its own."""
    (tmp_path / FILE).touch()
    first = template_day(Dated(), None, tmp_path)
    assert first == date.today().isoformat()
    monkeypatch.setattr("mixalign.jobs.day.date", Later)
    assert template_day(Dated(), None, tmp_path) == first
