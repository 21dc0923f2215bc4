"""Print the diagram of docs/explanation/closing.md: the closing handshake's table, drawn.

With ``--write`` the page is brought up to date; a test fails while it is not.
"""

import re
import sys
from pathlib import Path

from triows._engine import TRANSITIONS, Phase

PAGE = Path(__file__).parent / "explanation" / "closing.md"
BLOCK = re.compile(r"^```mermaid\n.*?^```$", re.DOTALL | re.MULTILINE)


def render() -> str:
    """Return the diagram as a fenced Mermaid block; what changes nothing is not drawn."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {Phase.OPEN.value}"]
    for phase, inputs in TRANSITIONS.items():
        arrows: dict[str, list[str]] = {}
        for cause, (following, sends_close) in inputs.items():
            if following is not phase:
                label = cause.value + (" / send Close" if sends_close else "")
                arrows.setdefault(following.value, []).append(label)
        lines += [
            f"    {phase.value} --> {following}: {' <br> '.join(labels)}"
            for following, labels in arrows.items()
        ]
    return "\n".join([*lines, f"    {Phase.GONE.value} --> [*]", "```"])


def main() -> None:
    """Print the diagram, or write it into the page."""
    if "--write" in sys.argv:
        page = PAGE.read_text()
        PAGE.write_text(BLOCK.sub(lambda _: render(), page, count=1))
    else:
        print(render())


if __name__ == "__main__":
    main()
