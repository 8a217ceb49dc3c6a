"""Progress of long work: lines, or a bar where somebody watches."""

from __future__ import annotations

import pytest

from alembic_zero.execute import progress
from alembic_zero.execute.progress import Progress


@pytest.mark.parametrize("bars", [False, True])
def test_progress__lines_or_a_bar__and_the_connection_kept_alive(bars, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0)
    lines, alive = [], []
    with Progress(lines.append, lambda: alive.append(1), bars=bars).follow("backfill of t", 200, 100) as course:
        course.reach(150)
        course.reach(999)
    assert len(alive) == 2
    shown = capsys.readouterr().err
    if bars:
        assert lines == []
        assert "alembic_zero: backfill of t" in shown
        assert "100/200" in shown
    else:
        assert lines == ["backfill of t: block 150 of 200", "backfill of t: block 200 of 200"]
        assert shown == ""
