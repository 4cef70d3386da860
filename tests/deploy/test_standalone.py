"""What `make run` leaves for a second shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

from deploy.launcher import Feed, FeedOptions
from deploy.standalone import _destination, _directions
from models.settings import Settings


def test_a_second_shell_gets_the_settings_of_the_feed_also_those_with_quotes(tmp_path: Path) -> None:
    archive = _destination("127.0.0.1:104:IT'S")
    feed = Feed(FeedOptions(tmp_path / "a feed", destinations=[archive]))
    told = _directions(feed, Settings(), [archive])
    file = tmp_path / "a feed" / "feed.env"
    assert f". '{file}'" in told
    assert file.stat().st_mode & 0o777 == 0o600
    for name in ("RADSTREAM_DATA_DIR", "RADSTREAM_WORKER_DESTINATIONS"):
        said = subprocess.run(
            ["sh", "-c", f'. "$0"; printf %s "${name}"', str(file)], capture_output=True, text=True, check=True
        )
        assert said.stdout == feed.environment[name]
