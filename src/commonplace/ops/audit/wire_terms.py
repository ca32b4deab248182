"""The terms that the records on the page are made of: numbers, texts and names, each with its bounds."""

from typing import Annotated, Literal

from msgspec import Meta

VERSION = 1
INTEGER_MAX = 2**53 - 1
CPU_MAX = 4095

Text128 = Annotated[str, Meta(max_length=128)]
HostName = Annotated[str, Meta(max_length=128, pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:-]*\Z")]
Id = Annotated[str, Meta(max_length=128, pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:@+-]*\Z")]
Label = Annotated[str, Meta(max_length=128, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z")]
Upper64 = Annotated[str, Meta(max_length=64, pattern=r"\A[A-Z][A-Z0-9_]*\Z")]
Upper128 = Annotated[str, Meta(max_length=128, pattern=r"\A[A-Z][A-Z0-9_]*\Z")]
Hash = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]
Integer = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Watermark = Annotated[int, Meta(ge=-1, le=INTEGER_MAX)]
Millis = Annotated[int, Meta(ge=0, le=604_800_000)]
Limit = Annotated[int, Meta(ge=0, le=1000)]
Traits = Annotated[tuple[Upper128, ...], Meta(max_length=256)]
Amounts = Annotated[dict[Text128, Integer], Meta(max_length=32)]
Cells = Annotated[dict[Text128, Amounts], Meta(max_length=16)]
Names = Annotated[list[Text128], Meta(max_length=1000)]
Labels = Annotated[dict[Label, Label], Meta(max_length=64)]
Text1024 = Annotated[str, Meta(max_length=1024, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z")]
Texts = Annotated[dict[Label, Text1024], Meta(max_length=64)]
Hints = Annotated[
    dict[Label, Annotated[tuple[Annotated[str, Meta(max_length=4096)], ...], Meta(max_length=64)]], Meta(max_length=16)
]
CellName = Annotated[str, Meta(max_length=32, pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
CpuList = Annotated[str, Meta(max_length=4096, pattern=r"\A([0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?\Z")]
DeviceWord = Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z0-9._:@+-]*\Z")]
Shares = Annotated[int, Meta(ge=1, le=1_000_000)]
Status = Literal["enabled", "disabled", "draining"]


def numbers(text: str) -> frozenset[int]:
    """The cpus of a list; ValueError when one is too large or a range runs backwards."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        ends = [int(end) for end in part.split("-")]
        if ends != sorted(ends) or ends[-1] > CPU_MAX:
            raise ValueError(f"cpus {part[:20]}")
        found |= set(range(ends[0], ends[-1] + 1))
    return frozenset(found)
