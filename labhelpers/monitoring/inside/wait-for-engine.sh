# an engine that is shutting down may still respond: the new one has a newer PID file
tries=0
until [ /var/run/docker.pid -nt /before ] && docker version >/dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 600 ] || exit 1
    sleep 0.1
done
