#!/bin/sh
# Redis with two users, whose passwords come from the environment and are kept in memory alone.
# Celery needs scripts, transactions and INFO; nothing needs FLUSHALL, CONFIG, KEYS or DEBUG.
set -eu
umask 077
cat >/run/redis/users.acl <<ACL
user default off
user tunix-rt on >${REDIS_PASSWORD} ~tunix-rt:* &* +@all -@admin -@dangerous +info
user monitor on >${REDIS_MONITOR_PASSWORD} -@all +ping +info +client|setname +config|get +latency|latest +slowlog|len +slowlog|get
ACL
exec redis-server /etc/tunix-rt/redis.conf --aclfile /run/redis/users.acl "$@"
