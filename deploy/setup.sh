#!/bin/sh
# Creates the secrets of an installation; existing secrets are kept. Runs before all other services.
set -eu
umask 022
cd /run/shoal

secret() {
  [ -s "$1" ] && return
  head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n' >"$1.new"
  mv "$1.new" "$1"
}

secret queue/password
secret metrics/token
secret grafana/password
secret ray/token
# The form of Standard Webhooks.
[ -s callbacks/secret ] || {
  printf 'whsec_%s' "$(head -c 32 /dev/urandom | base64)" >callbacks/secret.new
  mv callbacks/secret.new callbacks/secret
}

# The server reads its password from a file, so that it is in no process list and in no `docker inspect`.
cat >queue/redis.conf.new <<CONF
dir /data
port 6379
bind * -::*
protected-mode yes
requirepass $(cat queue/password)
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
CONF
mv queue/redis.conf.new queue/redis.conf
