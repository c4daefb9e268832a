#!/usr/bin/env bash
# A Slurm of N nodes inside the namespaces that testbed.py made; it ends when its standard input closes.
#
#   testbed.sh STATE_DIR N          the login host: network, munged, slurmctld, N nodes
#   testbed.sh STATE_DIR node NAME ADDRESS   one node: its own hostname, network, /dev/shm and slurmd
#
# Each role is process 1 of its own PID namespace, so the kernel ends every daemon and job with it, and removes mounts,
# bridge and links with the last process. Process 1 stays bash, because it must reap its children.
set -euo pipefail
state=$1
export SLURM_CONF="$state/slurm.conf"

if [[ $2 == node ]]; then
    name=$3 address=$4
    hostname "$name"
    until ip link show eth0 &>/dev/null; do sleep 0.02; done  # the login host moves it in
    ip link set lo up
    ip addr add "$address/24" dev eth0
    ip link set eth0 up
    mount -t tmpfs tmpfs /dev/shm
    slurmd -D -f "$SLURM_CONF" -N "$name" &>"$state/log/$name.err" </dev/null
    exit
fi

hostname login
mount --bind "$state/hosts" /etc/hosts
ip link set lo up
ip link add bridge0 type bridge
ip addr add 10.88.0.1/24 dev bridge0
ip link set bridge0 up

munged --foreground --force --num-threads=1 --key-file="$state/munge.key" --socket="$state/munge.socket" \
    --pid-file="$state/run/munged.pid" --log-file="$state/log/munged.log" \
    --seed-file="$state/run/munged.seed" &>"$state/log/munged.err" </dev/null &
until [[ -S "$state/munge.socket" ]]; do sleep 0.02; done
slurmctld -D -f "$SLURM_CONF" &>"$state/log/slurmctld.err" </dev/null &

own_network=$(readlink /proc/self/ns/net)
for ((number = 1; number <= $2; number++)); do
    unshare --net --uts --pid --ipc --mount --fork --mount-proc --kill-child \
        bash "$0" "$state" node "cn$number" "10.88.0.$((10 + number))" </dev/null &
    until [[ $(readlink "/proc/$!/ns/net") != "$own_network" ]]; do sleep 0.01; done
    ip link add "node$number" type veth peer name eth0 netns $!
    ip link set "node$number" master bridge0 up
done
read -r || true  # until the caller closes the pipe or ends
