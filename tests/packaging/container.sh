# Runs the image: a daemon and a receiver that share a network without any other member. Prints what they say.
#
#   unshare --mount sh container.sh DIRECTORY IMAGE
#
# DIRECTORY has the storage of podman, config.yaml and the repository `projects`.
set -eu
directory=$1 image=$2
# crun takes a machine with both kinds of control groups only without the newer kind. Podman uses none here.
umount /sys/fs/cgroup/unified 2>/dev/null || true
pod() {
    podman --root "$directory/storage" --runroot "$directory/run" --storage-driver vfs \
        --cgroup-manager cgroupfs --events-backend file --runtime crun "$@"
}
start() {
    name=$1
    shift
    # Without systemd there is nobody to run the health check in turns.
    pod run --detach --name "$name" --cgroups disabled --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 \
        --no-healthcheck --log-driver k8s-file --read-only --cap-drop all "$@" >/dev/null
}
end() {
    pod rm --force --volumes daemon receiver >/dev/null 2>&1 || true
}
trap end EXIT
within_a_minute() {
    deadline=$(($(date +%s) + 60))
    until "$@"; do
        if [ "$(date +%s)" -gt "$deadline" ]; then
            echo "in vain: $*" >&2
            pod logs daemon >&2
            exit 1
        fi
        sleep 0.2
    done
}
is_healthy() {
    # The command of the image's health check.
    pod exec daemon /usr/bin/project-webhooks --config /etc/project-webhooks/config.yaml status --exit-code \
        >/dev/null 2>&1
}
has_arrived() {
    pod logs receiver 2>/dev/null | grep -q "Project Import - Any"
}

export ADMIN_TOKEN=0123456789abcdef0123456789abcdef
start daemon --network none --env ADMIN_TOKEN --volume "$directory/projects:/srv/projects:ro" \
    --volume "$directory/config.yaml:/etc/project-webhooks/config.yaml:ro" \
    --volume state:/var/lib/project-webhooks "$image"
start receiver --network container:daemon "$image" listen --port 9000
within_a_minute is_healthy
mkdir -p "$directory/projects/sales/orders"
printf '<schema name="Orders"/>\n' >"$directory/projects/sales/orders/project.xml"
within_a_minute has_arrived
# The page, at the published port.
within() {
    nsenter --net --target "$(pod inspect --format '{{.State.Pid}}' daemon)" "$@"
}
within curl --silent --fail --header "Authorization: Bearer $ADMIN_TOKEN" http://127.0.0.1:9417/deliveries |
    grep --only-matching --max-count 1 'sales/orders'
pod exec daemon /usr/bin/project-webhooks --version
pod stop --time 20 daemon >/dev/null
echo "exit status $(pod inspect --format '{{.State.ExitCode}}' daemon)"
