"""engine/progress.py: where there is no terminal, a line now and then."""

from engine import progress


def test_without_a_terminal_a_line_comes_every_half_minute_and_not_at_the_end(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))  # 20 s a look at the clock
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Progress("update", 4, "piece") as bar:
        for _ in range(4):
            bar.step()
    assert capsys.readouterr().out.splitlines() == ["update: 2 of 4 pieces"]


def test_without_a_label_nothing_is_said(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", -1.0)
    with progress.Progress("", 4) as bar:
        bar.step()
    assert capsys.readouterr() == ("", "")
