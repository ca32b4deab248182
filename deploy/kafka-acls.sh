#!/bin/sh
# Prints the kafka-acls lines of one role; changes nothing. Look at them, then pipe them to sh:
#
#   deploy/kafka-acls.sh replica User:placer | KAFKA_ACLS="kafka-acls.sh --bootstrap-server b1:9092 --command-config admin.properties" sh
#
# usage: kafka-acls.sh [--prefix PREFIX] [--pool POOL] frontend|agent|replica|operator|forgetter PRINCIPAL
#
# role       writes                          reads
# frontend   requests, claims                requests, decisions, replicas, control, hosts
# agent      hosts                           hosts, claims, control
# replica    claims, decisions, replicas     all of the pool, control; commits as members of the pool's group
# operator   control, commands               all topics of the prefix; creates them
# forgetter  hosts                           (with operator: `commonplace host forget` fences hosts and deletes their keys)
# everybody  quarantine                      settings and ends of all topics of the prefix: each verifies them at start
#
# ACLs stop at the topic: a frontend may write any claim, an agent any host's record. SECURITY.md says what follows.
set -eu

usage() { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }

prefix=commonplace pool=default
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) [ $# -ge 2 ] || usage; prefix=$2; shift 2 ;;
    --pool) [ $# -ge 2 ] || usage; pool=$2; shift 2 ;;
    -*) usage ;;
    *) break ;;
  esac
done
[ $# -eq 2 ] || usage
role=$1 principal=$2
# What is printed is meant for a shell: no character may have a meaning there.
for word in "$prefix" "$pool"; do
  case $word in ''|*[!A-Za-z0-9._-]*) echo "not a topic's name: $word" >&2; exit 2 ;; esac
done
case $principal in
  *\'*) echo "a principal with a quote can't be printed safely: $principal" >&2; exit 2 ;;
  *:*) ;;
  *) echo "a principal is TYPE:NAME, for instance User:$principal" >&2; exit 2 ;;
esac

allow() { printf '%s\n' "\${KAFKA_ACLS:-kafka-acls.sh --bootstrap-server localhost:9092} --add --allow-principal '$principal' $*"; }

# topics WORD...: --topic arguments; control belongs to the prefix, the others to the pool.
topics() {
  for topic in "$@"; do
    case $topic in
      control) printf ' --topic %s.control' "$prefix" ;;
      *) printf ' --topic %s.%s.%s' "$prefix" "$pool" "$topic" ;;
    esac
  done
}
writes() { allow "--operation Write$(topics "$@")"; }
reads() { allow "--operation Read$(topics "$@")"; }

case $role in
  frontend)
    writes requests claims quarantine
    # requests: what an id stands for, also in the pool that served its flavor before; replicas: the fleet is read as they read it
    reads requests decisions replicas control hosts
    ;;
  agent)
    writes hosts quarantine
    reads hosts claims control
    ;;
  replica)
    writes claims decisions replicas quarantine
    reads hosts claims requests decisions commands replicas quarantine control
    allow "--operation Read --resource-pattern-type prefixed --group $prefix.$pool."
    ;;
  operator)
    writes control commands quarantine
    allow "--operation Read --operation Create --resource-pattern-type prefixed --topic $prefix."
    # doctor asks who owns which partition
    allow "--operation Describe --group $prefix.$pool.replicas"
    ;;
  forgetter)
    writes hosts
    ;;
  *) usage ;;
esac
allow "--operation Describe --operation DescribeConfigs --resource-pattern-type prefixed --topic $prefix."
# librdkafka looks up a coordinator even for a consumer that joins no group; to be allowed to look is enough.
allow "--operation Describe --group $prefix.$pool.no-group"
