"""Everything that talks to Kafka, and the two brokers that can be started from here."""
