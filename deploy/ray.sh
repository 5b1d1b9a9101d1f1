#!/bin/sh
# ray.sh head|node: a part of the Ray cluster at RAY_ADDRESS (host:port). The head computes nothing; a node offers
# RAY_CPUS processor cores, by default all that its container may use.
set -eu
host=${RAY_ADDRESS%:*}
port=${RAY_ADDRESS##*:}
# Less than a container engine waits before it kills.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=10

# The address of this container on the network of the head: it may be on others too.
own_address() {
  python -c 'if True:
    import socket, sys
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((sys.argv[1], int(sys.argv[2])))
        print(probe.getsockname()[0])' "$host" "$port"
}

# The object store is in /dev/shm; Ray moves it to disk when that is smaller.
store_bytes() {
  df -kP /dev/shm | awk 'NR == 2 { print int($2 * 0.9) * 1024 }'
}

start() {
  address=$(own_address)
  exec ray start --block --disable-usage-stats --node-ip-address "$address" --node-manager-port 6380 \
    --object-manager-port 6381 --object-store-memory "$(store_bytes)" "$@" >/dev/null
}

case "$1" in
  head)
    if [ "${SHOAL_CLUSTERER_WORKER:-ray}" != ray ]; then
      echo "The clusterer's worker has no Ray. Set SHOAL_CLUSTERER_WORKER=ray in .env, then run the command again." >&2
      exit 1
    fi
    export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
    start --head --port "$port" --num-cpus 0 --include-dashboard false
    ;;
  node) start --address "$RAY_ADDRESS" ${RAY_CPUS:+--num-cpus "$RAY_CPUS"} ;;
  *)
    echo "ray.sh: '$1' is neither head nor node" >&2
    exit 1
    ;;
esac
