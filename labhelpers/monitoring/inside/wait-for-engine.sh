# an engine that shuts down may answer still: the new one has a newer pid file
tries=0
until [ /var/run/docker.pid -nt /before ] && docker version >/dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 600 ] || exit 1
    sleep 0.1
done
