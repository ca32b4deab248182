"""Every record on every topic, as msgspec Structs; the wire is JSON (docs/protocol.md).

State records (hosts, control, replicas, decisions) ignore fields they do not know, so that versions can roll; what people and replicas
send (requests, claims) refuses them. Strings, lists and integers are bounded; nothing unbounded enters the process.
"""
