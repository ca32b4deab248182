"""`commonplace topics`: create, verify, list."""

import typer

from commonplace.cli import common
from commonplace.cli.output import Column, emit, say
from commonplace.errors import ExitCode

app = typer.Typer(
    help="Create the topics, check their settings, list them.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n  commonplace topics create\n  commonplace topics verify",
)


@app.command(epilog="\b\nExample:\n  commonplace topics create -b kafka-1:9092 --pool ssd")
def create() -> None:
    """Create the missing topics, and starter flavors m1.tiny … m1.xlarge where there are none."""
    from commonplace.kafka import client, control, topic_creation, topics

    settings = common.settings()
    broker = client.require_broker(settings)
    settings = client.settings_for(settings, broker)
    if broker.embedded:
        say("embedded broker, not Kafka: its owner has made the topics")
        created: list[str] = []
    else:
        created = topic_creation.create(client.admin(settings), settings, broker)
    _, facts, findings = topics.require_topics(settings)
    for finding in findings:
        say(f"{finding.level}: {finding}")
    flavors = control.put_starter_flavors(settings)
    emit([{"name": name, "partitions": f.partitions, "created": name in created} for name, f in facts.items()])
    say(f"flavors written: {', '.join(flavors)}" if flavors else "flavors left as they are")


@app.command(epilog="\b\nExample:\n  commonplace topics verify -o json\nExit code 6 when a rule is broken.")
def verify() -> int:
    """Compare every topic's settings with the rules that the protocol rests on, and say why each is one."""
    from commonplace.kafka import client, topics

    settings = common.settings()
    broker = client.require_broker(settings)
    findings = topics.verify(client.admin(settings), settings, broker)
    columns = ["level", "topic", "setting", "found", "wanted", "why"]
    if findings or common.output() != "table":
        emit(findings, columns=columns, name="topic")
    errors = sum(f.level == "error" for f in findings)
    checked = len(topics.specs(settings))
    say(f"topics: {checked}, errors: {errors}, warnings: {len(findings) - errors}")
    return ExitCode.NOT_READY if errors else ExitCode.OK


@app.command("list", epilog="\b\nExample:\n  commonplace topics list -o name")
def list_topics() -> None:
    """List the topics of the prefix and pool that exist."""
    from commonplace.kafka import client, topics

    settings = common.settings()
    broker = client.require_broker(settings)
    facts = topics.facts(client.admin(settings), settings, broker)
    emit(list(facts.values()), columns=["name", "partitions", Column("topic_id", wide=True)])
