"""What the command line said of a failure, taken apart again."""

import re


def last_told(output: str, subject: str) -> dict[str, str]:
    """The failure as it is printed at the end: its parts by label."""
    _, found, rest = output.rpartition(f"\n{subject} failed: ")
    assert found, f"{subject} is not told of:\n{output}"
    parts, label = {"message": ""}, "message"
    for line in rest.split("\n\n")[0].splitlines():
        head = re.match(r"  (expected|seen|command|exit code|evidence|did|next) +", line)
        label = head[1] if head else label
        told = line[head.end() :] if head else line
        parts[label] = f"{parts.get(label, '')} {told.strip()}".strip()
    return parts
