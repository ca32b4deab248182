"""The one record header that we read and write: the trace context of a request."""

from confluent_kafka import Message

from commonplace.core import traceparent

Headers = list[tuple[str, str | bytes | None]]


def of_trace(trace: str) -> Headers | None:
    """The headers of a record that is part of this trace; None where there is none."""
    return [(traceparent.HEADER, trace.encode())] if trace else None


def trace_of(message: Message) -> str:
    """The trace context that a record bears, "" for none: the first header of the name that is well-formed."""
    try:
        headers = message.headers()
    except SystemError:  # the client's answer to a header whose name is no UTF-8; anybody may write one
        return ""
    if not headers:
        return ""
    pairs = headers.items() if isinstance(headers, dict) else headers
    found = (traceparent.from_header(value) for name, value in pairs if name.lower() == traceparent.HEADER)
    return next((trace for trace in found if trace), "")
