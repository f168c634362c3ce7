"""What processes print is read to the last byte, and nothing is read of a pipe that is closed."""

from __future__ import annotations

import os
import selectors

from unisono.observe.logs import LineLog
from unisono.runtime.supervisor.outputs import OUTPUT, Outputs
from waiting import limit


def test_lines_are_handed_on_and_the_rest_at_the_end() -> None:
    shown: list[str] = []
    with selectors.DefaultSelector() as selector:
        outputs = Outputs(selector)
        reader, writer = os.pipe()
        outputs.listen(reader, LineLog(None, "[worker 0] ", shown.append))
        os.write(writer, b"one\ntw")
        assert [key.data for key, _ in selector.select(limit())] == [OUTPUT]
        outputs.read(reader)
        assert shown == ["[worker 0] one"]
        os.write(writer, b"o")
        os.close(writer)
        outputs.close(reader)
        assert shown == ["[worker 0] one", "[worker 0] two"]
        outputs.read(reader)  # a late event of the same look
        assert not selector.get_map()
        os.close(reader)
